// Package scratch makes schemas that a command uses for a while and drops again, in databases that
// may have other things in them.
package scratch

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// mark begins the comment of each schema of ours. What has no such comment is never dropped.
const mark = "scratch schema of backfill "

// Schema is a scratch schema that is there.
type Schema struct {
	Name string
	Age  time.Duration // by the database's clock
}

// Create makes a schema for a command, such as bench.
func Create(ctx context.Context, conn *pgx.Conn, command, name string) error {
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "create schema "+quote(name)); err != nil {
			return err
		}
		var comment string
		const text = "select quote_literal($1 || ', made ' || to_char(now() at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') || ': it may be dropped')"
		if err := tx.QueryRow(ctx, text, mark+command).Scan(&comment); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "comment on schema "+quote(name)+" is "+comment)
		return err
	})
	if denied, ok := errors.AsType[*pgconn.PgError](err); ok && denied.Code == "42501" {
		return fmt.Errorf("create the scratch schema %s: the role needs the right to: grant create on database %s to %s; (%w)",
			name, quote(conn.Config().Database), quote(conn.Config().User), err)
	}
	if err != nil {
		return fmt.Errorf("create the scratch schema %s: %w", name, err)
	}
	return nil
}

// Drop drops a schema that Create has made, and refuses any other.
func Drop(ctx context.Context, conn *pgx.Conn, command, name string) error {
	schemas, err := List(ctx, conn, command)
	if err != nil {
		return err
	}
	for _, s := range schemas {
		if s.Name != name {
			continue
		}
		if _, err := conn.Exec(ctx, "drop schema "+quote(name)+" cascade"); err != nil {
			return fmt.Errorf("drop the scratch schema %s: %w", name, err)
		}
		return nil
	}
	return fmt.Errorf("drop the schema %s: it is gone, or its comment does not say that backfill %s has made it", name, command)
}

// List returns the schemas that Create has made for a command, the oldest first.
func List(ctx context.Context, conn *pgx.Conn, command string) ([]Schema, error) {
	const made = `select n.nspname, extract(epoch from clock_timestamp() - split_part(split_part(d.description, ', made ', 2), 'Z', 1)::timestamp at time zone 'UTC')::float8
		from pg_catalog.pg_namespace as n
		cross join lateral (select pg_catalog.obj_description(n.oid, 'pg_namespace') as description) as d
		where d.description ~ ('^' || $1 || ', made [0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z: it may be dropped$')
		order by 2 desc`
	rows, err := conn.Query(ctx, made, mark+command)
	if err != nil {
		return nil, fmt.Errorf("look for scratch schemas: %w", err)
	}
	schemas, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (s Schema, err error) {
		var seconds float64
		err = row.Scan(&s.Name, &seconds)
		s.Age = time.Duration(seconds * float64(time.Second))
		return s, err
	})
	if err != nil {
		return nil, fmt.Errorf("look for scratch schemas: %w", err)
	}
	return schemas, nil
}

// Exists reports whether there is a schema of this name, whoever has made it.
func Exists(ctx context.Context, conn *pgx.Conn, name string) (there bool, err error) {
	err = conn.QueryRow(ctx, "select exists (select from pg_catalog.pg_namespace where nspname = $1)", name).Scan(&there)
	if err != nil {
		return false, fmt.Errorf("look for the schema %s: %w", name, err)
	}
	return there, nil
}

// Queues returns the schemas that hold a queue, ours or Graphile Worker's, but for the scratch
// schemas of a command.
func Queues(ctx context.Context, conn *pgx.Conn, command string) ([]string, error) {
	const queues = `select n.nspname from pg_catalog.pg_class as c join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
		where c.relname in ('_private_jobs', 'jobs') and c.relkind in ('r', 'p')
		  and exists (select from pg_catalog.pg_class as q where q.relnamespace = n.oid and q.relname in ('_private_job_queues', 'job_queues'))
		  and coalesce(pg_catalog.obj_description(n.oid, 'pg_namespace') not like $1, true)
		order by 1`
	rows, err := conn.Query(ctx, queues, mark+command+"%")
	if err != nil {
		return nil, fmt.Errorf("look for other queues: %w", err)
	}
	schemas, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("look for other queues: %w", err)
	}
	return schemas, nil
}

// Alive returns how many Go workers of a schema have a heartbeat that is younger than 30 seconds,
// the age at which others declare them dead.
func Alive(ctx context.Context, conn *pgx.Conn, schema string) (workers int, err error) {
	workersTable := quote(schema) + ".backfill_workers"
	var readable bool
	const may = "select coalesce(has_table_privilege(to_regclass($1), 'select'), false)"
	if err := conn.QueryRow(ctx, may, workersTable).Scan(&readable); err != nil || !readable {
		return 0, err
	}
	err = conn.QueryRow(ctx, "select count(*) from "+workersTable+
		" where dead_at is null and heartbeat_at > clock_timestamp() - interval '30 seconds'").Scan(&workers)
	if err != nil {
		return 0, fmt.Errorf("look for workers of the schema %s: %w", schema, err)
	}
	return workers, nil
}

// Sessions are those that listen as workers do, Node's among them.
type Sessions struct {
	Here, Elsewhere int  // in this database, and in others of the server
	All             bool // this role is told of those of other roles
}

// Listeners looks for sessions of workers.
func Listeners(ctx context.Context, conn *pgx.Conn) (s Sessions, err error) {
	const listeners = `select count(*) filter (where datname = current_database()), count(*) filter (where datname <> current_database()),
		pg_has_role('pg_read_all_stats', 'usage') from pg_catalog.pg_stat_activity where query ~* '^[[:space:]]*listen "jobs:insert"'`
	if err := conn.QueryRow(ctx, listeners).Scan(&s.Here, &s.Elsewhere, &s.All); err != nil {
		return s, fmt.Errorf("look for sessions of workers: %w", err)
	}
	return s, nil
}

func quote(name string) string { return pgx.Identifier{name}.Sanitize() }
