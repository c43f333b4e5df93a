package schema_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/schema"
)

// indexState reads the state of our index: "missing", "invalid" or "valid". It reads the columns
// from the catalog: pg_get_indexdef ignores the statement's snapshot, and fails while a build drops
// the index.
func indexState(t *testing.T, conn *pgx.Conn) string {
	t.Helper()
	return dbtest.Get[string](t, conn, `
		select coalesce((
			select case when indisvalid then 'valid' else 'invalid' end from pg_index
			where indexrelid = to_regclass('graphile_worker.backfill_jobs_queue_idx') and indnkeyatts = 4
				and array['job_queue_id', 'priority', 'run_at', 'id', 'task_id'] = (
					select array_agg(attname::text order by attnum) from pg_attribute where attrelid = indexrelid
				)
		), 'missing')`)
}

// builtHow tells from the statements sent whether the index was built, and where.
func builtHow(sent []string) string {
	begin := slices.IndexFunc(sent, func(s string) bool { return strings.HasPrefix(s, "begin") })
	commit := slices.Index(sent, "commit")
	for i, sql := range sent {
		switch {
		case strings.Contains(sql, "create index concurrently"):
			if i > begin && i < commit {
				return "concurrently in the transaction"
			}
			return "concurrently"
		case strings.Contains(sql, "create index if not exists backfill_jobs_queue_idx"):
			if i > begin && i < commit {
				return "in the transaction"
			}
			return "blocking"
		}
	}
	return "not"
}

func TestQueueIndex(t *testing.T) {
	t.Parallel()
	const invalid = `
		insert into graphile_worker._private_jobs (task_id) values (1), (1);
		commit;
		create unique index concurrently backfill_jobs_queue_idx on graphile_worker._private_jobs (task_id)`
	for _, test := range []struct{ name, sql, want string }{
		{"fresh", "", "in the transaction"},
		{"Node, empty", "node", "in the transaction"},
		{"Node, populated", "node; select graphile_worker.add_job('a', queue_name => 'q')", "concurrently"},
		{"dropped", "own; drop index graphile_worker.backfill_jobs_queue_idx", "concurrently"},
		{"invalid", "own; drop index graphile_worker.backfill_jobs_queue_idx;" + invalid, "concurrently"},
		{"Node, populated, invalid", "node;" + invalid, "concurrently"},
		{"there", "own", "not"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			conn, trace := dbtest.ConnectTraced(t, dbtest.EmptyURL(t))
			base, sql, _ := strings.Cut(test.sql, ";")
			switch base {
			case "node":
				installWire(t, conn, 20)
			case "own":
				migrate(t, conn, schema.Options{})
			}
			for statement := range strings.SplitSeq(sql, ";") {
				// The unique index fails, which is how it becomes invalid.
				if _, err := conn.Exec(t.Context(), statement); err != nil && !strings.Contains(statement, "unique") {
					t.Fatal(err)
				}
			}
			if strings.Contains(sql, "unique") && dbtest.Get[int](t, conn, "select count(*) from pg_index where not indisvalid") != 1 {
				t.Fatal("the test made no invalid index")
			}
			trace.Take()
			migrate(t, conn, schema.Options{})
			if got := builtHow(trace.Take()); got != test.want {
				t.Errorf("index was built %s, want %s", got, test.want)
			}
			if got := indexState(t, conn); got != "valid" {
				t.Errorf("index is %s", got)
			}
			migrate(t, conn, schema.Options{})
			if sent := trace.Take(); len(sent) != 3 { // Ours to look at the index, and two.
				t.Errorf("second migration sent %q, want two queries", sent[1:])
			}
			if got := dbtest.Get[string](t, conn, "select string_agg(name, ' ' order by id) from graphile_worker.backfill_migrations"); got != "workers queue_index enqueue comments enqueue_conflicts sweeps leases pauses crashes dead_letters queue_pauses cancels operations history traces crontabs" {
				t.Errorf("our ledger = %s", got)
			}
		})
	}
}

// TestQueueIndexVerify leaves the index alone: workers run without it.
func TestQueueIndexVerify(t *testing.T) {
	t.Parallel()
	conn := dbtest.Installed(t)
	dbtest.Run(t, conn, "drop index graphile_worker.backfill_jobs_queue_idx")
	log := &logger{}
	migrate(t, conn, schema.Options{Mode: schema.MigrateVerify, Logger: slog.New(log)})
	if warnings := log.take(); len(warnings) != 1 || !strings.Contains(warnings[0], "run: backfill migrate") {
		t.Errorf("warnings = %q, want what to run", warnings)
	}
	if got := indexState(t, conn); got != "missing" {
		t.Errorf("index is %s, want it missing", got)
	}
}

// TestQueueIndexOnlyOnce has one process build, held up by a writer; others start without it.
func TestQueueIndexOnlyOnce(t *testing.T) {
	t.Parallel()
	url := dbtest.EmptyURL(t)
	writer, builder, other, observer := dbtest.Connect(t, url), dbtest.Connect(t, url), dbtest.Connect(t, url), dbtest.Connect(t, url)
	migrate(t, builder, schema.Options{})
	dbtest.Run(t, builder, "drop index graphile_worker.backfill_jobs_queue_idx; select graphile_worker.add_job('a')")
	dbtest.Run(t, writer, "begin; select graphile_worker.add_job('b')")
	done := startMigrate(t, builder, quiet())
	dbtest.WaitBlocked(t, observer, builder.PgConn().PID())
	migrate(t, other, schema.Options{})
	select {
	case err := <-done:
		t.Fatalf("the build did not wait for the writer: %v", err)
	default:
	}
	dbtest.Run(t, writer, "commit")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := indexState(t, observer); got != "valid" {
		t.Errorf("index is %s", got)
	}
}

// TestQueueIndexCanceled gives up the build with the context, and says so.
func TestQueueIndexCanceled(t *testing.T) {
	t.Parallel()
	url := dbtest.EmptyURL(t)
	writer, builder, observer := dbtest.Connect(t, url), dbtest.Connect(t, url), dbtest.Connect(t, url)
	migrate(t, builder, schema.Options{})
	dbtest.Run(t, builder, "drop index graphile_worker.backfill_jobs_queue_idx; select graphile_worker.add_job('a')")
	dbtest.Run(t, writer, "begin; select graphile_worker.add_job('b')")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- schema.Migrate(ctx, builder, quiet()) }()
	dbtest.WaitBlocked(t, observer, builder.PgConn().PID())
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v, want context.Canceled", err)
	}
}

// TestQueueIndexRefused starts all the same: a role that does not own the tables cannot build it.
func TestQueueIndexRefused(t *testing.T) {
	t.Parallel()
	url := dbtest.EmptyURL(t)
	admin, conn := dbtest.Connect(t, url), dbtest.Connect(t, url)
	migrate(t, admin, schema.Options{})
	dbtest.Run(t, admin, "drop index graphile_worker.backfill_jobs_queue_idx; select graphile_worker.add_job('a')")
	role := dbtest.NewRole(t, admin)
	dbtest.Run(t, admin, "grant usage on schema graphile_worker to "+role)
	dbtest.Run(t, admin, "grant select on graphile_worker.migrations, graphile_worker.backfill_migrations to "+role)
	dbtest.Run(t, conn, "set role "+role)
	log := &logger{}
	migrate(t, conn, schema.Options{Logger: slog.New(log)})
	if warnings := log.take(); len(warnings) != 1 || !strings.Contains(warnings[0], "owner of the tables") {
		t.Errorf("warnings = %q, want one that names the owner", warnings)
	}
}

// TestQueueIndexPooled leaves nothing behind in the sessions that a pooler shares: no lock, and no
// limit that was lifted.
func TestQueueIndexPooled(t *testing.T) {
	t.Parallel()
	url := dbtest.EmptyURL(t)
	observer := withoutIndex(t, url)
	dbtest.Run(t, observer, "do $$ begin execute format('alter database %I set lock_timeout = ''7s''', current_database()); end $$")
	through := dbtest.Pooler(t, url, "transaction", 2, "server_round_robin = 1")
	clients := []*pgx.Conn{dbtest.Connect(t, through), dbtest.Connect(t, through)}
	both := func(sql string) {
		for _, client := range clients {
			dbtest.Run(t, client, sql, pgx.QueryExecModeSimpleProtocol)
		}
	}
	both("begin") // the pooler has two sessions now
	both("rollback")
	log := &logger{}
	migrate(t, clients[0], schema.Options{Logger: slog.New(log)})
	if warnings := log.take(); len(warnings) != 1 || !strings.Contains(warnings[0], "through a pooler") {
		t.Errorf("warnings = %q, want one about the pooler", warnings)
	}
	if n := dbtest.Get[int](t, observer, "select count(*)::int from pg_locks where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())"); n != 0 {
		t.Errorf("%d advisory locks are left", n)
	}
	both("begin")
	for _, client := range clients {
		var limit string
		if err := client.QueryRow(t.Context(), "show lock_timeout", pgx.QueryExecModeSimpleProtocol).Scan(&limit); err != nil || limit != "7s" {
			t.Errorf("lock_timeout of a shared session is %q (%v), want 7s", limit, err)
		}
	}
	both("rollback")
}
