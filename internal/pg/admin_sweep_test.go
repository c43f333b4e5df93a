package pg_test

import (
	"testing"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/pg"
)

// Contract section 5.6, by the database's clock: older than 4 hours, and no younger; more than one batch; a job that is not due yet
// keeps its time; and R16.
func TestSweep(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const stale, fresh = "now() - interval '4 hours 1 second'", "now() - interval '3 hours 59 minutes'"
	dbtest.Run(t, r.pool, `select graphile_worker.add_job('a', queue_name := 'stale' || i, run_at := now() - interval '5 hours') from generate_series(1, 2100) as i`)
	dbtest.Run(t, r.pool, "update graphile_worker._private_jobs set attempts = 1, locked_by = 'pool-node', locked_at = "+stale)
	dbtest.Run(t, r.pool, "update graphile_worker._private_job_queues set locked_by = 'pool-node', locked_at = "+stale)
	held := dbtest.Get[int64](t, r.pool, "select max(id) from graphile_worker._private_jobs")
	heldQueue := dbtest.Get[int32](t, r.pool, "select min(id) from graphile_worker._private_job_queues")
	tomorrow := r.add("'a', run_at := now() + interval '1 day'")
	dbtest.Run(t, r.pool, "update graphile_worker._private_jobs set attempts = 1, locked_by = 'pool-node', locked_at = "+stale+" where id = $1", tomorrow)
	young := r.add("'a', queue_name := 'young'")
	dbtest.Run(t, r.pool, "update graphile_worker._private_jobs set attempts = 1, locked_by = 'pool-x', locked_at = "+fresh+" where id = $1", young)
	dbtest.Run(t, r.pool, "update graphile_worker._private_job_queues set locked_by = 'pool-x', locked_at = "+fresh+" where queue_name = 'young'")

	tx, err := r.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dbtest.Run(t, tx, "select from graphile_worker._private_jobs where id = $1 for update", held)
	dbtest.Run(t, tx, "select from graphile_worker._private_job_queues where id = $1 for update", heldQueue)
	jobs, queues, err := r.store.Sweep(r.quick())
	if err != nil || jobs != 2100 || queues != 2099 {
		t.Errorf("swept %d jobs and %d queues (%v), want all but the job and the queue that are held", jobs, queues, err)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	jobs, queues, err = pg.NewAdmin(r.pool, schemaName).Sweep(r.quick())
	if err != nil || jobs != 1 || queues != 1 {
		t.Errorf("then swept %d jobs and %d queues (%v), want one of each", jobs, queues, err)
	}
	if n := r.lockedQueues(); n != 1 {
		t.Errorf("%d queues are locked, want the young one", n)
	}
	const due = "select run_at > now() + interval '23 hours' from graphile_worker._private_jobs where id = $1"
	if !dbtest.Get[bool](t, r.pool, due, tomorrow) {
		t.Error("a job of tomorrow is due today")
	}
	r.wantRow(young, &row{Attempts: 1, MaxAttempts: 25, Locked: true})
	r.wantRow(held, &row{Attempts: 1, MaxAttempts: 25})
}
