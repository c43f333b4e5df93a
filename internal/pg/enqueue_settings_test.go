package pg_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	_ "github.com/lib/pq" // the driver "postgres"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/schema"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/testutil/pgtest"
)

// sessionSettings are settings of a session of an application's that change how statements are
// resolved, how values are read and written, or what a statement may do. Those that have nothing to
// do with each other are tried together.
var sessionSettings = map[string][]string{
	"strangers first": {"search_path = evil, pg_catalog"},
	"empty path, and all that is harmless": {
		"search_path = ''",
		"array_nulls = off",
		"datestyle = 'German'",
		"intervalstyle = 'sql_standard'",
		"timezone = 'Africa/Monrovia'", // its offset had seconds
		"bytea_output = 'escape'",
		"backslash_quote = off",
		"transform_null_equals = on",
		"xmloption = document",
		"row_security = off",
		"default_transaction_deferrable = on",
		"session_replication_role = replica",
		"lock_timeout = '5s'",
		"statement_timeout = '60s'",
		"client_min_messages = debug1",
	},
	"serializable":           {"default_transaction_isolation = serializable", "datestyle = 'Postgres, MDY'"},
	"standard strings (off)": {"standard_conforming_strings = off"},
	"LATIN1":                 {"client_encoding = 'LATIN1'"},
}

// isRefused reports whether nothing was sent, because it would be misread: drivers that write
// parameters into the statement cannot quote them without standard_conforming_strings, and texts
// are UTF-8. lib/pq sets client_encoding itself.
func isRefused(settings []string, way string, err error) bool {
	says := func(text string) bool { return err != nil && strings.Contains(err.Error(), text) }
	switch settings[0] {
	case "standard_conforming_strings = off":
		return says("simple protocol queries must be run with standard_conforming_strings=on")
	case "client_encoding = 'LATIN1'":
		return says("client_encoding is LATIN1") || strings.Contains(way, "simple_protocol") && says("client_encoding=UTF8")
	default:
		return false
	}
}

// settingsSpecs are calls of every kind.
func settingsSpecs() [][]wire.Spec {
	at := time.Date(2040, 1, 2, 3, 4, 5, 678901000, time.UTC)
	spec := func(change func(*wire.Spec)) wire.Spec {
		s := wire.Spec{Task: "a", Payload: []byte(`{"text":"é \\ ' \" {,} NULL"}`), MaxAttempts: 25}
		change(&s)
		return s
	}
	plain := spec(func(*wire.Spec) {})
	queued := spec(func(s *wire.Spec) { s.Queue, s.RunAt, s.Flags = `q"'\{},NULL`, at, []string{`f"`, "NULL", `\`} })
	replace := spec(func(s *wire.Spec) { s.Key, s.Payload = "NULL", []byte(`[1]`) })
	preserve := spec(func(s *wire.Spec) { s.Key, s.KeyMode, s.RunAt = `k"'\`, wire.KeyPreserveRunAt, at })
	dedupe := spec(func(s *wire.Spec) { s.Key, s.KeyMode, s.Delay = "d", wire.KeyUnsafeDedupe, time.Hour+time.Microsecond })
	early := spec(func(s *wire.Spec) { s.RunAt, s.Priority = time.Date(-4000, 1, 2, 3, 4, 5, 0, time.UTC), -3 })
	late := spec(func(s *wire.Spec) {
		s.RunAt, s.MaxAttempts = time.Date(294276, 12, 31, 23, 59, 59, 999999000, time.UTC), 7
	})
	delayed := spec(func(s *wire.Spec) { s.Delay = time.Minute })
	return [][]wire.Spec{
		{plain},
		{early},
		{late},
		{delayed},
		{plain, early, late, delayed},
		{queued},
		{plain, queued},
		{replace},
		{replace},
		{preserve},
		{preserve},
		{dedupe},
		{dedupe},
		{replace, dedupe, plain, preserve, late},
	}
}

var execModes = []pgx.QueryExecMode{
	pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec,
	pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol,
}

// settingsWays are the ways to send a call, in every mode of the drivers.
func settingsWays(t *testing.T, db *pgtest.Database) map[string]func(context.Context, []wire.Spec) ([]*wire.Job, error) {
	t.Helper()
	ways := map[string]func(context.Context, []wire.Spec) ([]*wire.Job, error){}
	for accessName, access := range map[string]schema.Access{"tables": schema.WritesTables, "function": schema.CallsFunction} {
		for _, mode := range execModes {
			pool := poolWith(t, db.URL, func(c *pgxpool.Config) { c.ConnConfig.DefaultQueryExecMode, c.MaxConns = mode, 2 })
			inserter := pg.NewInserter(pool, schemaName, access)
			name := accessName + " " + mode.String() + " "
			ways[name+"pool"] = func(ctx context.Context, specs []wire.Spec) ([]*wire.Job, error) {
				jobs, _, err := inserter.InsertAll(ctx, specs, nil)
				return jobs, err
			}
			ways[name+"notify"] = func(ctx context.Context, specs []wire.Spec) ([]*wire.Job, error) {
				done := make(chan struct{}, 1)
				sent := false
				jobs, notified, err := inserter.InsertAll(ctx, specs, func() func() { sent = true; return func() { close(done) } })
				if sent {
					<-done
				}
				if err == nil && sent && !notified {
					err = errors.New("the notification was not sent")
				}
				return jobs, err
			}
			ways[name+"pieces"] = func(ctx context.Context, specs []wire.Spec) ([]*wire.Job, error) {
				jobs, _, err := pg.NewInserter(pool, schemaName, access).WithPieces(1).InsertAll(ctx, specs, nil)
				return jobs, err
			}
			ways[name+"tx"] = func(ctx context.Context, specs []wire.Spec) (jobs []*wire.Job, err error) {
				err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
					jobs, err = inserter.InsertTx(ctx, tx, specs)
					return err
				})
				return jobs, err
			}
		}
		for _, driver := range [][2]string{
			{"pgx", ""},
			{"pgx", "default_query_exec_mode=simple_protocol"},
			{"pgx", "default_query_exec_mode=exec"},
			{"postgres", ""},
			{"postgres", "binary_parameters=yes"},
		} {
			conns, err := sql.Open(driver[0], db.URL+"&"+driver[1])
			if err != nil {
				t.Fatal(err)
			}
			conns.SetMaxOpenConns(1)
			t.Cleanup(func() { _ = conns.Close() })
			inserter := pg.NewInserter(db.Pool(), schemaName, access)
			ways[accessName+" sql "+driver[0]+" "+driver[1]] = func(ctx context.Context, specs []wire.Spec) ([]*wire.Job, error) {
				tx, err := conns.BeginTx(ctx, nil)
				if err != nil {
					return nil, err
				}
				jobs, err := inserter.InsertSQLTx(ctx, tx, specs)
				if err != nil {
					return nil, errors.Join(err, tx.Rollback())
				}
				return jobs, tx.Commit()
			}
		}
	}
	return ways
}

// storedJob is a row, with names instead of ids. RunAt is the number of microseconds since 2000, or
// 0 near the present, where Ahead is its distance from the creation of a job inserted once.
type storedJob struct {
	Task, Queue, Payload, Key, LastError, Flags string
	Priority, Attempts, MaxAttempts, Revision   int
	RunAt, Ahead                                int64
	Created                                     bool
}

const storedJobs = `
	select t.identifier, coalesce(q.queue_name, ''), j.payload::text, coalesce(j.key, ''), coalesce(j.last_error, ''),
	       coalesce(j.flags::text, ''), j.priority, j.attempts, j.max_attempts, j.revision,
	       case when abs(extract(epoch from j.run_at) - extract(epoch from now())) < 7200 then 0
	            else ((extract(epoch from j.run_at) - 946684800) * 1000000)::bigint end,
	       case when j.revision = 0 and abs(extract(epoch from j.run_at) - extract(epoch from now())) < 7200
	            then (extract(epoch from j.run_at - j.created_at) * 1000000)::bigint else 0 end,
	       j.created_at between now() - interval '10 minutes' and now() and j.updated_at >= j.created_at
	  from graphile_worker._private_jobs as j
	  join graphile_worker._private_tasks as t on t.id = j.task_id
	  left join graphile_worker._private_job_queues as q on q.id = j.job_queue_id
	 order by j.id`

// enqueueAll sends all calls by one way, and returns the rows and the results. It leaves nothing.
func enqueueAll(
	t *testing.T, conn *pgx.Conn, way func(context.Context, []wire.Spec) ([]*wire.Job, error),
) (rows []storedJob, results [][]wire.Job, err error) {
	t.Helper()
	defer dbtest.Run(t, conn, "truncate graphile_worker._private_jobs")
	for i, specs := range settingsSpecs() {
		jobs, err := way(t.Context(), specs)
		if err != nil {
			return nil, nil, fmt.Errorf("call %d: %w", i, err)
		}
		var result []wire.Job
		for _, job := range jobs {
			var runs, created bool
			row := conn.QueryRow(t.Context(), `select j.run_at = $2, j.created_at = $3 from graphile_worker._private_jobs as j where id = $1`,
				job.ID, job.RunAt, job.CreatedAt)
			if err := row.Scan(&runs, &created); err != nil {
				return nil, nil, err
			}
			if !runs || !created {
				return nil, nil, fmt.Errorf("call %d: job %+v has other times than its row", i, job)
			}
			result = append(result, *job)
		}
		results = append(results, result)
	}
	list, err := conn.Query(t.Context(), storedJobs)
	if err != nil {
		return nil, nil, err
	}
	rows, err = pgx.CollectRows(list, pgx.RowToStructByPos[storedJob])
	// Keys that one transaction inserts get their ids in different orders.
	slices.SortStableFunc(rows, func(a, b storedJob) int { return strings.Compare(a.Key, b.Key) })
	return rows, results, err
}

// alterDatabase gives the sessions that begin later these settings.
func alterDatabase(t *testing.T, conn *pgx.Conn, settings []string) {
	t.Helper()
	name := dbtest.Get[string](t, conn, "select quote_ident(current_database())")
	for _, setting := range settings {
		dbtest.Run(t, conn, "alter database "+name+" set "+setting)
	}
}

// Whatever the settings of an application's session are, every way to enqueue stores and returns
// what it does in a plain session.
func TestEnqueueUnderSettings(t *testing.T) {
	t.Parallel()
	for name, settings := range sessionSettings {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			conn := dbtest.Connect(t, db.URL) // a plain session
			dbtest.NeedSuperuser(t, conn)
			plain := pg.NewInserter(db.Pool(), schemaName, schema.WritesTables)
			wantRows, wantResults, err := enqueueAll(t, conn, func(ctx context.Context, specs []wire.Spec) ([]*wire.Job, error) {
				jobs, _, err := plain.InsertAll(ctx, specs, nil)
				return jobs, err
			})
			if err != nil {
				t.Fatal(err)
			}
			if name == "strangers first" {
				dbtest.Run(t, conn, dbtest.Strangers)
			}
			alterDatabase(t, conn, settings)
			ways := settingsWays(t, db)
			for _, way := range slices.Sorted(maps.Keys(ways)) {
				rows, results, err := enqueueAll(t, conn, ways[way])
				if isRefused(settings, way, err) {
					continue
				}
				if err != nil {
					t.Errorf("%s: %v", way, err)
					continue
				}
				if diff := cmp.Diff(wantRows, rows); diff != "" {
					t.Errorf("%s: rows (-plain session +with the settings):\n%s", way, diff)
				}
				times := cmpopts.IgnoreFields(wire.Job{}, "ID", "RunAt", "CreatedAt", "Payload")
				if diff := cmp.Diff(wantResults, results, times, cmpopts.EquateEmpty()); diff != "" {
					t.Errorf("%s: results (-plain session +with the settings):\n%s", way, diff)
				}
			}
		})
	}
}
