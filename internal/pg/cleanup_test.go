package pg_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/pg/query"
	"github.com/backfillhq/go/internal/schema"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/testutil/pgtest"
)

// lookups are the ways in which a transaction looks up the names of a job's task and queue, "task"
// and "queue".
func lookups(pool *pgxpool.Pool) map[string]func(context.Context, pgx.Tx) error {
	sql := func(arguments string) func(context.Context, pgx.Tx) error {
		return func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "select graphile_worker.add_job('task', queue_name := 'queue'"+arguments+")")
			return err
		}
	}
	ours := func(specs ...wire.Spec) func(context.Context, pgx.Tx) error {
		for i := range specs {
			specs[i].Task, specs[i].Payload, specs[i].MaxAttempts = "task", []byte("{}"), 25
		}
		return func(ctx context.Context, tx pgx.Tx) error {
			_, err := pg.NewInserter(pool, schemaName, schema.WritesTables).InsertTx(ctx, tx, specs)
			return err
		}
	}
	return map[string]func(context.Context, pgx.Tx) error{
		"add_job":                         sql(""),
		"add_job, replace":                sql(", job_key := 'k'"),
		"add_job, replace a waiting job":  sql(", job_key := 'waiting'"),
		"add_job, preserve_run_at":        sql(", job_key := 'k', job_key_mode := 'preserve_run_at'"),
		"add_job, unsafe_dedupe":          sql(", job_key := 'k', job_key_mode := 'unsafe_dedupe'"),
		"one, as outside of transactions": insertOne,
		"one":                             ours(wire.Spec{}),
		"one in a queue":                  ours(wire.Spec{Queue: "queue"}),
		"many":                            ours(wire.Spec{}, wire.Spec{Queue: "queue"}, wire.Spec{}),
		"keyed":                           ours(wire.Spec{Key: "k", Queue: "queue"}),
		"keyed, a waiting job":            ours(wire.Spec{Key: "waiting", Queue: "queue"}),
		"keyed, preserve_run_at":          ours(wire.Spec{Key: "k", Queue: "queue", KeyMode: wire.KeyPreserveRunAt}),
		"keyed, unsafe_dedupe":            ours(wire.Spec{Key: "k", Queue: "queue", KeyMode: wire.KeyUnsafeDedupe}),
		"mixed":                           ours(wire.Spec{Key: "k"}, wire.Spec{Queue: "queue"}),
	}
}

// insertOne runs the statement of a single insert, which adds missing names by another one (see
// Inserter.Insert).
func insertOne(ctx context.Context, tx pgx.Tx) error {
	for range 2 {
		var ignored any
		err := tx.QueryRow(ctx, query.InsertJob, "task", "{}", nil, 0, 25, 0, "").Scan(&ignored, &ignored, &ignored)
		if err == nil || !strings.Contains(err.Error(), "no rows") {
			return err
		}
		if _, err := tx.Exec(ctx, query.AddTasks, []string{"task"}); err != nil {
			return err
		}
	}
	return nil
}

// namesToDelete is a database with names that no job has, and a waiting job with a key and other
// names.
func namesToDelete(t *testing.T) *pgxpool.Pool {
	t.Helper()
	pool := pgtest.New(t).Pool()
	dbtest.Run(t, pool, "insert into graphile_worker._private_tasks (identifier) values ('task'), ('kept'), ('unused')")
	dbtest.Run(t, pool, "insert into graphile_worker._private_job_queues (queue_name) values ('queue'), ('unused')")
	dbtest.Run(t, pool, "select graphile_worker.add_job('other', job_key := 'waiting')")
	return pool
}

// wantNothingDangling checks that the jobs of one of the lookups have their names.
func wantNothingDangling(t *testing.T, pool *pgxpool.Pool, lookup string) {
	t.Helper()
	if n := dbtest.Get[int](t, pool, `select count(*)::int from graphile_worker._private_jobs as j
		where not exists (select from graphile_worker._private_tasks as t where t.id = j.task_id)
		   or job_queue_id is not null and not exists (select from graphile_worker._private_job_queues as s where s.id = j.job_queue_id)`); n > 0 {
		t.Errorf("%d jobs dangle", n)
	}
	if n := dbtest.Get[int](t, pool, "select count(*)::int from graphile_worker.jobs where task_identifier = 'task'"); n == 0 {
		t.Error("the jobs were not enqueued")
	}
	if strings.HasPrefix(lookup, "one") && lookup != "one in a queue" {
		return
	}
	if n := dbtest.Get[int](t, pool, "select count(*)::int from graphile_worker.jobs where queue_name = 'queue'"); n == 0 {
		t.Error("the jobs have lost their queue")
	}
}

// A name that an open transaction has looked up is not deleted under it.
func TestDeleteNamesBesideOpenTransactions(t *testing.T) {
	t.Parallel()
	for name := range lookups(nil) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := namesToDelete(t)
			admin := pg.NewAdmin(pool, schemaName).WithTries(1)
			tx, err := pool.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := lookups(pool)[name](t.Context(), tx); err != nil {
				t.Fatal(err)
			}
			if n, err := admin.DeleteTasks(t.Context(), []string{"kept"}); n != 0 || err == nil {
				t.Errorf("deleted %d task names beside an open transaction (%v)", n, err)
			}
			if n, err := admin.DeleteQueues(t.Context()); n != 0 || err == nil {
				t.Errorf("deleted %d queue names beside an open transaction (%v)", n, err)
			}
			if err := tx.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, err := admin.DeleteTasks(t.Context(), []string{"kept"}); err != nil {
				t.Error(err)
			}
			if _, err := admin.DeleteQueues(t.Context()); err != nil {
				t.Error(err)
			}
			wantNothingDangling(t, pool, name)
		})
	}
}

// Who comes while names are being deleted waits, and does not find them any more.
func TestEnqueueWhileNamesAreDeleted(t *testing.T) {
	t.Parallel()
	for name := range lookups(nil) {
		for what, texts := range map[string][2]string{
			"tasks":  {query.LockTasks, "delete from graphile_worker._private_tasks where identifier = 'task'"},
			"queues": {query.LockQueues, "delete from graphile_worker._private_job_queues"},
		} {
			t.Run(name+", "+what, func(t *testing.T) {
				t.Parallel()
				pool := namesToDelete(t)
				tx, err := pool.Begin(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				dbtest.Run(t, tx, texts[0])
				dbtest.Run(t, tx, texts[1])
				enqueued := make(chan error, 1)
				conn := dbtest.Connect(t, pool.Config().ConnString())
				go func() {
					enqueued <- pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error { return lookups(pool)[name](t.Context(), tx) })
				}()
				dbtest.WaitBlocked(t, dbtest.Connect(t, pool.Config().ConnString()), conn.PgConn().PID())
				if err := tx.Commit(t.Context()); err != nil {
					t.Fatal(err)
				}
				if err := <-enqueued; err != nil {
					t.Fatal(err)
				}
				wantNothingDangling(t, pool, name)
			})
		}
	}
}

// What is deleted, and what is not.
func TestDeleteNames(t *testing.T) {
	t.Parallel()
	pool := namesToDelete(t)
	admin := pg.NewAdmin(pool, schemaName)
	dbtest.Run(t, pool, "insert into graphile_worker._private_job_queues (queue_name, locked_at, locked_by) values ('locked', now(), 'pool-x')")
	dbtest.Run(t, pool, "select graphile_worker.add_job('failed', queue_name := 'failed')")
	dbtest.Run(t, pool, "update graphile_worker._private_jobs set attempts = 25 where key is null")
	dbtest.Run(t, pool, "insert into graphile_worker._private_job_queues (queue_name) select 'q' || i from generate_series(1, 25000) as i")
	if n, err := admin.DeleteTasks(t.Context(), []string{"kept"}); n != 2 || err != nil {
		t.Errorf("deleted %d task names (%v), want task and unused", n, err)
	}
	if n, err := admin.DeleteQueues(t.Context()); n != 25_002 || err != nil {
		t.Errorf("deleted %d queue names (%v), want all but locked and failed", n, err)
	}
	const names = "select string_agg(%s, ' ' order by id) from graphile_worker._private_%s"
	if got := dbtest.Get[string](t, pool, fmt.Sprintf(names, "identifier", "tasks")); got != "kept other failed" {
		t.Errorf("left the task names %s", got)
	}
	if got := dbtest.Get[string](t, pool, fmt.Sprintf(names, "queue_name", "job_queues")); got != "locked failed" {
		t.Errorf("left the queue names %s", got)
	}
	if n, err := admin.DeleteQueues(t.Context()); n != 0 || err != nil {
		t.Errorf("then deleted %d (%v)", n, err)
	}
}

// A queue that a worker locks after it was found unused, with a job that was enqueued and is gone
// again, is kept.
func TestDeleteQueuesLooksTwice(t *testing.T) {
	t.Parallel()
	pool := namesToDelete(t)
	config := pool.Config()
	config.ConnConfig.Tracer = beforeLock{func() {
		dbtest.Run(t, pool, "update graphile_worker._private_job_queues set locked_at = now(), locked_by = 'pool-x' where queue_name = 'queue'")
	}}
	between, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(between.Close)
	if n, err := pg.NewAdmin(between, schemaName).DeleteQueues(t.Context()); n != 1 || err != nil {
		t.Errorf("deleted %d queue names (%v), want the unused", n, err)
	}
	if got := dbtest.Get[string](t, pool, "select string_agg(queue_name, ' ') from graphile_worker._private_job_queues"); got != "queue" {
		t.Errorf("left the queue names %s, want the one that was locked meanwhile", got)
	}
}

// beforeLock does something before queues are locked for deletion.
type beforeLock struct{ do func() }

func (b beforeLock) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	if strings.Contains(data.SQL, "-- name: LockQueues") {
		b.do()
	}
	return ctx
}

func (beforeLock) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// Permanently failed is attempts = max_attempts and unlocked (contract section 8). R16: what is
// locked is left out.
func TestDeleteFailed(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	dbtest.Run(t, r.pool, "select graphile_worker.add_job('a') from generate_series(1, 2100)")
	dbtest.Run(t, r.pool, "update graphile_worker._private_jobs set attempts = max_attempts")
	left := map[string]int64{}
	for name, change := range map[string]string{
		"waiting": "attempts = 24", "beyond": "attempts = 26", "running": "attempts = 25, locked_at = now(), locked_by = 'x'", "held": "attempts = 25",
	} {
		left[name] = r.add("'a'")
		dbtest.Run(t, r.pool, "update graphile_worker._private_jobs set "+change+" where id = $1", left[name])
	}
	tx, err := r.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dbtest.Run(t, tx, "select from graphile_worker._private_jobs where id = $1 for update", left["held"])
	n, err := pg.NewAdmin(r.pool, schemaName).DeleteFailed(r.quick())
	if n != 2100 || err != nil {
		t.Errorf("deleted %d (%v), want 2100", n, err)
	}
	if got := dbtest.Get[int](t, r.pool, "select count(*)::int from graphile_worker._private_jobs"); got != len(left) {
		t.Errorf("%d jobs are left, want %d", got, len(left))
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// A worker that runs notices that its task has another id.
func TestClaimAfterTheTaskNameWasDeleted(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.claimNone()
	if n, err := pg.NewAdmin(r.pool, schemaName).DeleteTasks(t.Context(), []string{"b"}); n != 1 || err != nil {
		t.Fatalf("deleted %d (%v)", n, err)
	}
	r.store.ForgetTasks()
	r.claimNone() // the name has no id
	again := r.add("'a'")
	other := r.add("'b'")
	r.store.ForgetTasks()
	jobs := r.claim(3)
	wantIDs(t, "claimed", idsOf(jobs), again, other)
	if jobs[0].Task != "a" || jobs[1].Task != "b" {
		t.Errorf("claimed %+v and %+v", jobs[0], jobs[1])
	}
}
