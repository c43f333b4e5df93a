package schema

import (
	"context"
	"crypto/sha256"
	_ "embed" // statements
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/internal/sqlstate"
	"github.com/backfillhq/go/migrations"
)

// RoleKind is the purpose of a role that does not own the tables.
type RoleKind int

const (
	// EnqueueRole enqueues and nothing else: it calls backfill_enqueue and cannot read the jobs.
	EnqueueRole RoleKind = iota
	// WorkerRole works, and enqueues from its handlers. It owns nothing.
	WorkerRole
	// ReaderRole sees everything, for dashboards and people, and changes nothing.
	ReaderRole
	// OperatorRole sees everything, and changes jobs, dead letters and pauses. What it changes it records,
	// and cannot take the records back.
	OperatorRole
)

func (k RoleKind) flag() string {
	return map[RoleKind]string{
		EnqueueRole: "--enqueue-role", WorkerRole: "--worker-role", ReaderRole: "--reader-role", OperatorRole: "--operator-role",
	}[k]
}

// right is one right of a role. It is not SQL text because two things are made from it: the
// statement that gives it, and the query whether it is missing.
type right struct {
	kind       string // schema, table, function or policy
	name       string
	privileges string // of a policy: what it is for
}

// rights lists the rights that a kind of role needs, and no more. Row level security hides all rows
// of a table from roles without a policy.
func (k RoleKind) rights() []right {
	list := []right{
		{"schema", "", "usage"},
		{"table", ledgerTable, "select"},
		{"table", ownLedgerTable, "select"},
	}
	if k == EnqueueRole {
		return append(list, right{"function", enqueueFunction, "execute"})
	}
	switch k {
	case ReaderRole:
		return append(list, readerRights(nil)...)
	case OperatorRole:
		tables := append(workerTables(),
			right{"table", auditTable, "select, insert"},
			right{"table", operationsTable, "select, insert, update, delete"},
			right{"table", itemsTable, "select, insert, delete"})
		return append(append(list, withPolicies(tables)...), readerRights(tables)...)
	default:
		return append(append(list, withPolicies(workerTables())...), right{"function", historyFunction, "execute"})
	}
}

// readerRights are those to read everything, apart from tables that a role has other rights for.
func readerRights(apart []right) (list []right) {
	for _, table := range slices.Concat(wireRelations, ownRelations) {
		if table == specType || slices.ContainsFunc(apart, func(r right) bool { return r.name == table }) {
			continue
		}
		list = append(list, right{"table", table, "select"})
		if table != jobsView { // which has no row level security of its own
			list = append(list, right{"policy", table, "select"})
		}
	}
	return list
}

// workerTables are the tables that workers change.
func workerTables() []right {
	return []right{
		{"table", jobsTable, "select, insert, update, delete"},
		{"table", "_private_job_queues", "select, insert, update"},
		{"table", "_private_tasks", "select, insert"},
		{"table", "_private_known_crontabs", "select, insert, update"},
		{"table", workersTable, "select, insert, update, delete"},
		{"table", pausesTable, "select, insert, update, delete"},
		{"table", crashesTable, "select, insert, update, delete"},
		{"table", lettersTable, "select, insert, update, delete"},
		{"table", queuePausesTable, "select, insert, update, delete"},
		{"table", cancelsTable, "select, insert, update, delete"},
		{"table", tracesTable, "select, insert, update, delete"},
		{"table", countersTable, "select, insert, update, delete"},
		{"table", progressTable, "select, insert, update, delete"},
		{"table", historyTable, "select, insert, update, delete"},
		{"table", historyTasks, "select, insert, update, delete"},
	}
}

// withPolicies adds the policies for changes to rights on tables.
func withPolicies(tables []right) []right {
	list := slices.Clone(tables)
	for _, table := range tables {
		list = append(list, right{"policy", table.name, "all"})
	}
	return list
}

// statement gives the right to a role.
func (r right) statement(schema, role string) string {
	to := " to " + migrations.QuoteIdentifier(role)
	schema = migrations.QuoteIdentifier(schema)
	object := schema + "." + r.name
	if r.kind == "policy" {
		policy := migrations.QuoteIdentifier(policyName(role)) + " on " + object
		check := " with check (true)"
		if r.privileges == "select" {
			check = ""
		}
		return "drop policy if exists " + policy + "; create policy " + policy + " for " + r.privileges + to + " using (true)" + check + ";"
	}
	on := map[string]string{"schema": "schema " + schema, "function": "function " + object, "table": object}[r.kind]
	return "grant " + r.privileges + " on " + on + to + ";"
}

// policyName returns the name of a role's policies, with a hash if the role's name is too long.
func policyName(role string) string {
	name := "backfill_" + role
	if len(name) > maxNameBytes {
		sum := sha256.Sum256([]byte(role))
		name = "backfill_" + hex.EncodeToString(sum[:8])
	}
	return name
}

const maxNameBytes = 63

// CheckRoleName refuses names that no role can have, and those that mean everybody.
func CheckRoleName(role string) error {
	switch {
	case role == "" || len(role) > maxNameBytes || strings.ContainsRune(role, 0) || !utf8.ValidString(role):
		return fmt.Errorf("role name %.70q: want 1 to %d bytes of UTF-8", role, maxNameBytes)
	case role == "public" || role == "none":
		return fmt.Errorf("role name %q: PostgreSQL reserves it", role)
	default:
		return nil
	}
}

// CheckRole returns an error if there is no such role.
func CheckRole(ctx context.Context, conn *pgx.Conn, role string) error {
	var there bool
	const sql = "select exists (select from pg_catalog.pg_roles where rolname = $1)"
	err := reading(ctx, conn, func() error { return conn.QueryRow(ctx, sql, pgx.QueryExecModeExec, role).Scan(&there) })
	if err != nil {
		return fmt.Errorf("look for role %q: %w", role, err)
	}
	if !there {
		return fmt.Errorf("there is no role %q: create it, as in: CREATE ROLE %s LOGIN PASSWORD '…';", role, migrations.QuoteIdentifier(role))
	}
	return nil
}

// RoleScript returns the SQL that gives a role its rights. It can be run again. A policy locks its
// table for a moment, one table at a time: workers and enqueuers lock the same tables in their own
// order, and could wait for one while they hold another. Grants lock no table.
func RoleScript(schema, role string, kind RoleKind) string {
	var b strings.Builder
	for _, r := range kind.rights() {
		statement := r.statement(schema, role)
		if r.kind == "policy" {
			statement = retrying(schema, statement)
		}
		b.WriteString(statement + "\n")
	}
	return b.String()
}

// GrantRole gives a role the rights that it lacks, and returns the statements that it ran. With
// MigrateVerify it only returns them. Of the options, Schema, Mode and Patience count.
func GrantRole(ctx context.Context, conn *pgx.Conn, role string, kind RoleKind, opts Options) ([]string, error) {
	m := newMigrator(conn, opts)
	lacks, err := roleLacks(ctx, conn, m.Schema, role, kind)
	if err != nil || len(lacks) == 0 || opts.Mode == MigrateVerify {
		return lacks, err
	}
	for _, statement := range lacks { // one transaction each, see RoleScript
		if err = patience(m.Patience).retry(ctx, func() error { return limited(ctx, conn, statement) }); err != nil {
			break
		}
	}
	if err == nil { // A role that has a right, but may not pass it on, gets a warning only.
		var left []string
		if left, err = roleLacks(ctx, conn, m.Schema, role, kind); len(left) > 0 {
			err = errNotGranted
		}
	}
	if errors.Is(err, errNotGranted) || sqlstate.Of(err) == sqlstate.InsufficientRights {
		return nil, m.wrong(fmt.Sprintf("the role of this connection may not give rights to role %q", role),
			"run this as the owner of the schema and its tables; what is missing is: "+strings.Join(lacks, " ")).from(err)
	}
	if err != nil {
		return nil, m.explain(ctx, fmt.Sprintf("give rights to role %q", role), err)
	}
	return lacks, nil
}

var errNotGranted = errors.New("no privileges were granted")

// GrantCommand returns the command by which the owner of the tables gives a role its rights.
func GrantCommand(schema, role string, kind RoleKind) string {
	return command(schema, kind.flag(), role)
}

// lacksSQL returns the numbers of the rights in a list that a role lacks.
//
//go:embed query/lacks.sql
var lacksSQL string

// roleLacks returns the statements that give a role the rights that it lacks.
func roleLacks(ctx context.Context, conn *pgx.Conn, schema, role string, kind RoleKind) ([]string, error) {
	rights := kind.rights()
	var kinds, names, privileges []string
	for _, r := range rights {
		kinds, names, privileges = append(kinds, r.kind), append(names, r.name), append(privileges, r.privileges)
	}
	var lacking []int
	err := reading(ctx, conn, func() (err error) {
		rows, _ := conn.Query(ctx, lacksSQL, pgx.QueryExecModeExec, schema, role, kinds, names, privileges, policyName(role)) // CollectRows returns its error.
		lacking, err = pgx.CollectRows(rows, pgx.RowTo[int])
		return err
	})
	if err != nil {
		return nil, wrapSchema(schema, "look at the rights of a role", err)
	}
	statements := make([]string, len(lacking))
	for i, ordinal := range lacking {
		statements[i] = rights[ordinal-1].statement(schema, role)
	}
	return statements, nil
}
