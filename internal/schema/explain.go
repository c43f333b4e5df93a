package schema

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/internal/sqlstate"
	"github.com/backfillhq/go/migrations"
)

// explain adds to an error of the server how to resolve it.
func (m *migrator) explain(ctx context.Context, operation string, err error) error {
	switch sqlstate.Of(err) {
	case sqlstate.InsufficientRights:
		return m.explainRights(ctx, operation, err)
	case sqlstate.UndefinedColumn, sqlstate.UndefinedFunction, sqlstate.DatatypeMismatch, sqlstate.OutOfRange:
		if operation == opInspect {
			return m.errLedgerShape(err)
		}
	case sqlstate.LockNotAvailable:
		return m.wrong(lockText(err)+"; "+m.holders(ctx),
			"let that session finish, or end it with pg_terminate_backend(pid), and start again").from(err)
	}
	if schemaErr, ok := errors.AsType[*StateError](err); ok {
		return schemaErr
	}
	if breaking, ok := errors.AsType[*BreakingError](err); ok {
		return breaking
	}
	return wrapSchema(m.Schema, operation, err)
}

// explainStandstill returns the plan's error, or, if another installation may have stopped
// half-way, one that says so and who holds which locks.
func (m *migrator) explainStandstill(ctx context.Context, watch ledgerWatch, err, contended error) error {
	if state, ok := errors.AsType[*StateError](err); ok && state.unfinished && (!watch.waited || watch.highest >= migrations.Squashed) {
		return err
	}
	holders, remedy := m.holders(ctx), runPeer+notPeers
	if holders != nobody {
		remedy = "let that session finish, or end it; then " + remedy
	}
	return m.wrong(fmt.Sprintf("partial: its ledger has been at revision %d for %v; %s", watch.highest, m.standstill(), holders),
		remedy).from(contended)
}

// holdersSQL lists the sessions that hold our lock, or any lock on the schema's relations.
const holdersSQL = `
  select coalesce(string_agg(line, '; ' order by line), '')
  from (
    select format(
      'pid %s (user %s, application "%s", %s) holds %s',
      a.pid, coalesce(a.usename, '?'), coalesce(a.application_name, ''), coalesce(a.state, 'state not visible'),
      string_agg(distinct coalesce(l.mode || ' on ' || c.relname, 'the lock of another backfill'), ', ')
    ) as line
    from pg_catalog.pg_locks as l
    join pg_catalog.pg_stat_activity as a on a.pid = l.pid
    join pg_catalog.pg_database as d on d.oid = l.database and d.datname = current_database()
    left join pg_catalog.pg_class as c
      on c.oid = l.relation
      and c.relkind in ('r', 'v')
      and c.relnamespace = (select n.oid from pg_catalog.pg_namespace as n where n.nspname = $1)
    where l.granted
      and l.pid <> pg_backend_pid()
      and (
        c.oid is not null
        or l.locktype = 'advisory' and l.objsubid = 1
          and (l.classid::bigint << 32) | l.objid::bigint = $2
      )
    group by a.pid, a.usename, a.application_name, a.state
  ) as holders`

const nobody = "nobody holds a lock on it"

// holders says which sessions hold which locks at this moment.
func (m *migrator) holders(ctx context.Context) string {
	var text string
	err := reading(ctx, m.conn, func() error {
		return m.conn.QueryRow(ctx, holdersSQL, pgx.QueryExecModeExec, m.Schema, m.lockKey("migrate")).Scan(&text)
	})
	switch {
	case err != nil:
		return "who holds it is not known: " + err.Error()
	case text == "":
		return nobody
	default:
		return text
	}
}

// rightsSQL returns what the current role may do, and who owns the tables.
const rightsSQL = `
  select
    current_database()::text,
    current_user::text,
    n.oid is not null,
    has_database_privilege(current_database(), 'create'),
    coalesce(has_schema_privilege(n.oid, 'usage'), false),
    coalesce(has_schema_privilege(n.oid, 'create'), false),
    array(
      select c.relname::text from pg_catalog.pg_class as c
      where c.relnamespace = n.oid and c.relname in ('migrations', 'backfill_migrations')
        and not has_table_privilege(c.oid, 'select')
      order by 1
    ),
    array(
      select c.relname::text from pg_catalog.pg_class as c
      where c.relnamespace = n.oid and c.relname in ('migrations', 'backfill_migrations')
        and not (has_table_privilege(c.oid, 'select') and has_table_privilege(c.oid, 'insert'))
      order by 1
    ),
    exists (
      select from pg_catalog.pg_class as c
      where c.relnamespace = n.oid and c.relname = 'backfill_migrations'
    ),
    coalesce((
      select pg_catalog.pg_get_userbyid(c.relowner)::text from pg_catalog.pg_class as c
      where c.relnamespace = n.oid and c.relname = '_private_jobs' and not pg_has_role(c.relowner, 'usage')
    ), '')
  from (values (1)) as one
  left join pg_catalog.pg_namespace as n on n.nspname = $1`

// rights is a row of rightsSQL.
type rights struct {
	database, role              string
	exists                      bool // Whether the schema exists.
	creates, uses, createWithin bool
	unreadable, unwritable      []string // Ledgers that the role may not read, or not read and write.
	installed                   bool     // Whether our tables exist.
	owner                       string   // The tables' owner, if the role is not a member of it.
}

// explainRights turns a refusal into the statement that an administrator has to run.
func (m *migrator) explainRights(ctx context.Context, operation string, refusal error) error {
	var r rights
	err := reading(ctx, m.conn, func() error {
		return m.conn.QueryRow(ctx, rightsSQL, pgx.QueryExecModeExec, m.Schema).Scan(&r.database, &r.role, &r.exists,
			&r.creates, &r.uses, &r.createWithin, &r.unreadable, &r.unwritable, &r.installed, &r.owner)
	})
	if err != nil {
		return wrapSchema(m.Schema, operation, refusal) // The refusal says more than this failure.
	}
	// A role that only works needs fewer rights than one that installs.
	writes := operation == opMigrate || !r.installed && m.Mode != MigrateVerify
	var remedy string
	grants := r.grants(m.Schema, writes)
	switch {
	case r.owner != "" && writes: // Only an owner can alter tables, whatever its rights.
		remedy = fmt.Sprintf("migrate once as role %q, which owns the tables; run: %s", r.owner, command(m.Schema))
	case r.owner != "" && r.installed:
		remedy = fmt.Sprintf("as role %q, which owns the tables, run: %s to let it enqueue, or: %s to let it work",
			r.owner, command(m.Schema, EnqueueRole.flag(), r.role), command(m.Schema, WorkerRole.flag(), r.role))
	case len(grants) > 0:
		remedy = "as an administrator, run: " + strings.Join(grants, " ")
	default:
		return wrapSchema(m.Schema, operation, refusal)
	}
	return m.wrong(fmt.Sprintf("role %q lacks the rights to %s it", r.role, operation), remedy).from(refusal)
}

// grants returns the statements that give the role what it lacks.
func (r rights) grants(schema string, writes bool) []string {
	to := " TO " + migrations.QuoteIdentifier(r.role) + ";"
	schema = migrations.QuoteIdentifier(schema)
	if !r.exists {
		if r.creates {
			return nil
		}
		return []string{"GRANT CREATE ON DATABASE " + migrations.QuoteIdentifier(r.database) + to}
	}
	var grants, lacking []string
	if !r.uses {
		lacking = append(lacking, "USAGE")
	}
	if !r.createWithin && writes {
		lacking = append(lacking, "CREATE")
	}
	if len(lacking) > 0 {
		grants = append(grants, "GRANT "+strings.Join(lacking, ", ")+" ON SCHEMA "+schema+to)
	}
	needed, tables := "SELECT", r.unreadable
	if writes {
		needed, tables = "SELECT, INSERT", r.unwritable
	}
	for _, table := range tables {
		grants = append(grants, "GRANT "+needed+" ON "+schema+"."+migrations.QuoteIdentifier(table)+to)
	}
	return grants
}
