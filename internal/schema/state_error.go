package schema

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/backfillhq/go/migrations"
)

// StateError says that a schema cannot be used, or not be migrated, as it is found.
type StateError struct {
	Schema string
	// Found is what is wrong with it.
	Found string
	// Remedy is what to do about it.
	Remedy string
	// Err is the server's error, if there was one.
	Err error

	unfinished bool // an installer in progress passes through this state
}

// Error gives what was found, and what to do, in one line.
func (e *StateError) Error() string {
	text := fmt.Sprintf("schema %q: %s: %s", e.Schema, e.Found, e.Remedy)
	if e.Err != nil {
		text += " (" + e.Err.Error() + ")"
	}
	return text
}

// Unwrap returns the server's error, if there was one.
func (e *StateError) Unwrap() error { return e.Err }

// BreakingError says that a newer Graphile Worker or backfill changed the schema in a way
// that makes it unsafe to go on with this version.
type BreakingError struct {
	Schema string
	// Revision and Breaking are the schema's newest revision and its newest breaking one.
	Revision, Breaking int
	// Supported is the newest revision that this version knows.
	Supported int
}

// Error names the revisions and what to do.
func (e *BreakingError) Error() string {
	return fmt.Sprintf("schema %q: found revision %d, with breaking revision %d; this version of backfill knows "+
		"revisions up to %d and cannot use it safely: upgrade backfill", e.Schema, e.Revision, e.Breaking, e.Supported)
}

func wrapSchema(schema, operation string, err error) error {
	return fmt.Errorf("schema %q: %s: %w", schema, operation, err)
}

// How to let Graphile Worker install a schema.
const (
	runPeer  = "run Graphile Worker 0.18's \"graphile-worker --schema-only\" on it"
	notPeers = "; if it is not Graphile Worker's, choose another schema"
)

// command is the command line that migrates a schema, for a POSIX shell.
func command(schema string, flags ...string) string {
	words := []string{"backfill", "migrate"}
	if schema != migrations.DefaultSchema {
		words = append(words, "--schema", schema)
	}
	words = append(words, flags...)
	for i, word := range words {
		if !plainWord.MatchString(word) {
			words[i] = "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
		}
	}
	return strings.Join(words, " ")
}

var plainWord = regexp.MustCompile(`^[A-Za-z0-9_.-]+$`)

// orDrop is the last remedy, for a schema that holds nothing but our objects and Graphile Worker's.
func (s *schemaState) orDrop(schema string) string {
	if s.strangers || schema == "public" {
		return ""
	}
	return "; if it holds nothing worth keeping, run: DROP SCHEMA " + migrations.QuoteIdentifier(schema) + " CASCADE; and start again"
}

// wrong says what is wrong with the schema, and what to do.
func (m *migrator) wrong(found, remedy string) *StateError {
	return &StateError{Schema: m.Schema, Found: found, Remedy: remedy}
}

// unfinished is wrong for a state that an installer in progress passes through.
func (m *migrator) unfinished(found, remedy string) *StateError {
	return &StateError{Schema: m.Schema, Found: found, Remedy: remedy, unfinished: true}
}

// from adds the server's error.
func (e *StateError) from(err error) *StateError {
	e.Err = err
	return e
}

func (m *migrator) errServerVersion(version int) *StateError {
	return m.wrong(fmt.Sprintf("the server is PostgreSQL %s (server_version_num %d)", readableVersion(version), version),
		"use PostgreSQL "+strconv.Itoa(minServerVersion/10000)+" or newer")
}

// readableVersion undoes server_version_num: 110022 is 11.22, 90624 is 9.6.24.
func readableVersion(version int) string {
	if version >= 100000 {
		return fmt.Sprintf("%d.%d", version/10000, version%10000)
	}
	return fmt.Sprintf("%d.%d.%d", version/10000, version/100%100, version%100)
}

func (m *migrator) errOlder(ledger Ledger) *StateError {
	return m.unfinished(fmt.Sprintf("found revision %d of Graphile Worker's tables; backfill can go on from revision %d", ledger.Highest, migrations.Squashed),
		"stop the workers and "+runPeer+notPeers)
}

func (m *migrator) errCrossesBreaking(ledger Ledger) *StateError {
	return m.unfinished(fmt.Sprintf("found revision %d of Graphile Worker's tables; the way to revision %d leads over the breaking revision 19, "+
		"which shuts out Graphile Worker 0.16", ledger.Highest, migrations.Newest),
		"stop those workers, then "+"start once with WithMigrations(MigrateBreaking), or run: "+command(m.Schema, "--breaking"))
}

func (m *migrator) errNoObjects(state *schemaState) *StateError {
	return m.wrong(fmt.Sprintf("partial: its ledger says revision %d, but %s missing", state.ledger.Highest, are(state.missing())),
		"restore what is missing from a backup"+state.orDrop(m.Schema))
}

// errTaken is a schema with objects in it that cannot be Graphile Worker's.
func (m *migrator) errTaken(found []string) *StateError {
	return m.wrong("taken by something else: "+are(found)+" there, and not Graphile Worker's",
		"choose another schema")
}

func (m *migrator) errNoLedger(state *schemaState) *StateError {
	ledger := migrations.Render("graphile_worker.migrations", m.Schema)
	missing, restore := "there is no table "+ledger, "restore that table"
	if slices.Contains(state.relations, ledgerTable) {
		missing, restore = "no migration is recorded in "+ledger, "restore the rows of that table"
	}
	return m.wrong(fmt.Sprintf("partial: %s there, but %s", are(state.found()), missing),
		restore+" from a backup, or choose another schema"+state.orDrop(m.Schema))
}

func (m *migrator) errOwnObjects(own int, found string) *StateError {
	return m.wrong(fmt.Sprintf("partial: %s says migration %d, but %s", migrations.Render("graphile_worker.backfill_migrations", m.Schema), own, found),
		"restore what is missing from a backup, or drop the tables backfill_* and the function backfill_enqueue, and start again")
}

func (m *migrator) errOwnFunction(own int) *StateError {
	there, remedy := "is there", "drop it and start again"
	if own >= enqueueMigration {
		there, remedy = "is missing", fmt.Sprintf("as the owner of the tables, run: %s and then: %s",
			migrations.Render("DELETE FROM graphile_worker.backfill_migrations WHERE id >= 3;", m.Schema), command(m.Schema))
	}
	return m.wrong(fmt.Sprintf("partial: %s says migration %d, but the function %s %s",
		migrations.Render("graphile_worker.backfill_migrations", m.Schema), own, enqueueFunction, there),
		remedy)
}

// errForeignFunctions is a schema that was renamed, or copied under another name.
func (m *migrator) errForeignFunctions(qualifiers []string) *StateError {
	var names []string
	for _, qualifier := range qualifiers {
		names = append(names, strconv.Quote(unquote(qualifier)))
	}
	remedy := "to make them use this schema's tables, as their owner, run: " + command(m.Schema)
	if len(qualifiers) == 1 {
		remedy += fmt.Sprintf("; if the schema was renamed by mistake, run: ALTER SCHEMA %s RENAME TO %s;",
			migrations.QuoteIdentifier(m.Schema), migrations.QuoteIdentifier(unquote(qualifiers[0])))
	}
	return m.wrong("its functions use the tables of schema "+strings.Join(names, ", ")+", as after it was renamed, or copied under another name",
		remedy)
}

// errForced is FORCE ROW LEVEL SECURITY, by which a table hides its rows from its owner as well.
func (m *migrator) errForced(role string, tables []string) *StateError {
	var lift []string
	for _, table := range tables {
		lift = append(lift, "ALTER TABLE "+migrations.QuoteIdentifier(m.Schema)+"."+migrations.QuoteIdentifier(table)+" NO FORCE ROW LEVEL SECURITY;")
	}
	return m.wrong(fmt.Sprintf("row level security is forced on %s, which hides all rows from role %q, the owner, as well",
		strings.Join(tables, ", "), role),
		fmt.Sprintf("to give that role policies, run as that role: %s; or to take the force away, run: SET lock_timeout = '50ms'; %s",
			command(m.Schema, WorkerRole.flag(), role), strings.Join(lift, " ")))
}

// errSequences is a database to which rows were copied, and sequences were not.
func (m *migrator) errSequences(behind []sequence, err error) *StateError {
	var names, statements []string
	for _, s := range behind {
		names = append(names, fmt.Sprintf("%s is at %d, but %s has id %d", s.Name, s.Next, s.Table, s.Highest))
		statements = append(statements, s.statement())
	}
	return m.wrong("sequences were not carried over, so that inserts would fail: "+strings.Join(names, "; "),
		fmt.Sprintf("as the owner of the tables, run: %s or: %s", strings.Join(statements, " "), command(m.Schema))).from(err)
}

// errInTheWay is an object that the state does not show, such as an index.
func (m *migrator) errInTheWay(err error) *StateError {
	return m.wrong("something that is not Graphile Worker's is in the way",
		"choose another schema, or rename what is in the way").from(err)
}

func (m *migrator) errLedgerShape(err error) *StateError {
	return m.wrong("its table migrations lacks a column, or is not Graphile Worker's",
		"if an old Graphile Worker made it, "+runPeer+
			"; if it is empty, give it the columns (id integer primary key, ts timestamptz not null default now(), "+
			"breaking boolean not null default false)"+notPeers).from(err)
}

func (m *migrator) errVerify(p plan) *StateError {
	found := "not up to date: without " + strings.Join(p.paths(), ", ")
	if p.fresh {
		found = "Graphile Worker's tables are not installed"
	}
	return m.wrong(found, "start with WithMigrations(MigrateAuto), or run: "+command(m.Schema))
}

// are makes a subject and verb of a list of names.
func are(names []string) string {
	if len(names) == 1 {
		return names[0] + " is"
	}
	return strings.Join(names, ", ") + " are"
}
