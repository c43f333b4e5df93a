package testutil

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/internal/seam"
	"github.com/backfillhq/go/migrations"
)

// clockSchema has functions with the names of PostgreSQL's that say what time it is: of a database
// whose time has been moved. Its name is in statements, in the place of pg_catalog.
const clockSchema = "backfill_clock"

// makeClock stops the time. Everybody may read it: applications choose the roles of their sessions.
const makeClock = `
create schema backfill_clock;
create table backfill_clock.backfill_time (at timestamp with time zone not null);
insert into backfill_clock.backfill_time select pg_catalog.clock_timestamp();
create function backfill_clock.now() returns timestamp with time zone language sql stable parallel safe
  as 'select at from backfill_clock.backfill_time';
create function backfill_clock.transaction_timestamp() returns timestamp with time zone language sql stable parallel safe
  as 'select at from backfill_clock.backfill_time';
create function backfill_clock.statement_timestamp() returns timestamp with time zone language sql stable parallel safe
  as 'select at from backfill_clock.backfill_time';
create function backfill_clock.clock_timestamp() returns timestamp with time zone language sql volatile parallel safe
  as 'select at from backfill_clock.backfill_time';
grant usage on schema backfill_clock to public;
grant select on backfill_clock.backfill_time to public;
grant execute on all functions in schema backfill_clock to public`

// boundDefaults are statements that set the defaults of columns again which say what time it is. A
// default is bound to its functions when it is set: what is read here with pg_catalog in front is
// sent with the clock in front.
const boundDefaults = `
select format('alter table %s alter column %I set default %s', d.adrelid::regclass, a.attname,
              case when e.text = 'CURRENT_TIMESTAMP' then 'now()' else e.text end)
  from pg_attrdef as d
  join pg_attribute as a on a.attrelid = d.adrelid and a.attnum = d.adnum and a.attgenerated = ''
  join pg_class as c on c.oid = d.adrelid and c.relkind in ('r', 'p') and c.relpersistence <> 't'
  cross join lateral pg_get_expr(d.adbin, d.adrelid) as e (text)
 where pg_has_role(c.relowner, 'usage')
   and (e.text ~ '\m(now|clock_timestamp|statement_timestamp|transaction_timestamp)\(\)' or e.text = 'CURRENT_TIMESTAMP')
 order by 1`

// boundFunctions are statements that put the clock into the search_path of a schema's functions:
// they have one of their own, or are called with ours.
const boundFunctions = `
select format('alter function %s set search_path = backfill_clock, pg_catalog, pg_temp', p.oid::regprocedure)
  from pg_proc as p
 where p.pronamespace = $1::text::regnamespace and p.prokind = 'f' and p.prosrc ~ '\m(now|clock_timestamp)\(\)'
   and pg_has_role(p.proowner, 'usage')
 order by 1`

const (
	catalogPath = `select pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true)`
	clockPath   = `select pg_catalog.set_config('search_path', 'backfill_clock, pg_catalog, pg_temp', true)`
)

// clock is the time of a database, which stands still until somebody moves it.
type clock struct{ pool *pgxpool.Pool }

// stopClock stops the time of a client's database, unless somebody has, and makes the client read
// it. Sessions of the client's pool and of its *sql.DB are made anew with the clock in front of
// their search_path, and so are all later ones of the same role: what their SQL calls now() is this
// time.
func stopClock(ctx context.Context, db seam.Database) (*clock, error) {
	if db.Clock != "" {
		return &clock{db.Pool}, nil
	}
	var path string
	err := pgx.BeginFunc(ctx, db.Pool, func(tx pgx.Tx) error {
		var database, role string
		var there bool
		err := tx.QueryRow(ctx, `select current_database(), session_user, current_setting('search_path'), to_regnamespace($1) is not null
			from pg_advisory_xact_lock(hashtextextended('backfill clock', 0))`, clockSchema).Scan(&database, &role, &path, &there)
		switch {
		case err != nil:
			return err
		case !strings.HasPrefix(database, seam.TestDatabases):
			return fmt.Errorf("the time of database %q is not to be moved: it moves for everybody who uses the database, so take one of "+
				"pgtest.New, which the test has for itself", database)
		case !there:
			if err := bindDatabase(ctx, tx, database, role, path); err != nil {
				return err
			}
		}
		return bind(ctx, tx, boundFunctions, migrations.QuoteIdentifier(db.Schema))
	})
	if err != nil {
		return nil, fmt.Errorf("stop the clock: %w", err)
	}
	if err := renewSessions(ctx, db, strings.TrimPrefix(path, clockFirst("")+", ")); err != nil {
		return nil, err
	}
	db.ReadTimeFrom(clockSchema)
	return &clock{db.Pool}, nil
}

// runningClock returns the clock of a database whose time somebody has stopped; nil: it goes on.
func runningClock(ctx context.Context, db seam.Database) (*clock, error) {
	var there bool
	if err := db.Pool.QueryRow(ctx, "select pg_catalog.to_regnamespace($1) is not null", clockSchema).Scan(&there); err != nil {
		return nil, fmt.Errorf("look for a clock: %w", err)
	}
	if !there {
		return nil, nil //nolint:nilnil // as the comment says
	}
	return stopClock(ctx, db)
}

// bindDatabase makes the clock, and what reads it without the client: the defaults of columns, and
// the sessions of a role.
func bindDatabase(ctx context.Context, tx pgx.Tx, database, role, path string) error {
	if _, err := tx.Exec(ctx, makeClock); err != nil {
		return err
	}
	if err := bind(ctx, tx, boundDefaults); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, "alter role "+migrations.QuoteIdentifier(role)+" in database "+migrations.QuoteIdentifier(database)+
		" set search_path to "+clockFirst(path))
	return err
}

// clockFirst returns a search_path with the clock in front of pg_catalog, which is in front of all
// that it is not after.
func clockFirst(path string) string {
	return strings.Join(slices.DeleteFunc([]string{clockSchema, "pg_catalog", path}, func(part string) bool { return part == "" }), ", ")
}

// bind runs the statements that a query returns. What it takes from others is soon over, or the
// test has left a transaction open.
func bind(ctx context.Context, tx pgx.Tx, query string, args ...any) error {
	if _, err := tx.Exec(ctx, catalogPath+", pg_catalog.set_config('lock_timeout', '10s', true)"); err != nil {
		return err
	}
	rows, err := tx.Query(ctx, query, args...)
	if err != nil {
		return err
	}
	statements, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, clockPath); err != nil {
		return err
	}
	for _, statement := range statements {
		if _, err := tx.Exec(ctx, statement); err != nil {
			return fmt.Errorf("%s: %w", statement, err)
		}
	}
	return nil
}

// renewSessions makes the application's sessions read the clock.
func renewSessions(ctx context.Context, db seam.Database, path string) error {
	db.Pool.Reset()
	if db.SQLDB != nil {
		if err := setPaths(ctx, db.SQLDB, path); err != nil {
			return fmt.Errorf("set the search_path of the *sql.DB's connections: %w", err)
		}
	}
	var reads bool
	if err := db.Pool.QueryRow(ctx, "select now() = (select at from backfill_clock.backfill_time)").Scan(&reads); err != nil {
		return fmt.Errorf("ask a session of the client's pool for the time: %w", err)
	}
	if !reads {
		return fmt.Errorf("sessions of the client's pool set a search_path themselves, so what their SQL calls now() does not move: "+
			"take it out of the URL and of AfterConnect, and say \"alter role … set search_path\" in the test, before the first DrainUntil; "+
			"or set it to %s", clockFirst("…"))
	}
	return nil
}

// setPaths sets the search_path of the connections of a *sql.DB that are idle. Those that it makes
// later have it from the role.
func setPaths(ctx context.Context, db *sql.DB, path string) error {
	var conns []*sql.Conn
	defer func() {
		for _, conn := range conns {
			conn.Close() //nolint:gosec // goes back to the pool
		}
	}()
	for range db.Stats().Idle {
		conn, err := db.Conn(ctx)
		if err != nil {
			return err
		}
		conns = append(conns, conn)
		if _, err := conn.ExecContext(ctx, "set search_path to "+clockFirst(path)); err != nil {
			return err
		}
	}
	return nil
}

func (c *clock) now(ctx context.Context) (now time.Time, err error) {
	err = c.pool.QueryRow(ctx, "select at from backfill_clock.backfill_time").Scan(&now)
	return now, err
}

// move moves the time, for all statements that begin from now on.
func (c *clock) move(ctx context.Context, to time.Time) error {
	_, err := c.pool.Exec(ctx, "update backfill_clock.backfill_time set at = $1", to)
	return err
}
