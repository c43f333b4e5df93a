package pg_test

import (
	"strings"
	"testing"
	"time"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/pg"
)

// Contract section 5.6, by the database's clock: older than 4 hours, and no younger; more than one
// batch; a job that is not due yet keeps its time; and R16.
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

// A sweep goes on behind its first page of rows, of jobs and of queues.
func TestSweepOfManyRows(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.addMany(10_500, "a", time.Hour, 0, "q", 10_500)
	for _, table := range []string{"_private_jobs", "_private_job_queues"} {
		dbtest.Run(t, r.pool, "update graphile_worker."+table+` set locked_by = 'pool-node', locked_at = now() - interval '5 hours'
			where id in (select min(id) from graphile_worker.`+table+` union all select max(id) from graphile_worker.`+table+")")
	}
	if jobs, queues, err := r.store.Sweep(t.Context()); err != nil || jobs != 2 || queues != 2 {
		t.Errorf("swept %d jobs and %d queues (%v), want 2 of each", jobs, queues, err)
	}
}

// While one worker sweeps, the others of its schema leave it alone. An operator's sweep does not
// wait.
func TestOneWorkerSweeps(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.addMany(1, "a", time.Hour, 0, "q", 1)
	dbtest.Run(t, r.pool, "update graphile_worker._private_jobs set locked_by = 'pool-node', locked_at = now() - interval '5 hours'")
	r.store.RewriteSweeps(func(text string) string {
		return strings.Replace(text, "select (select got from turn)::bool as got", "select (select got from turn)::bool and pg_advisory_xact_lock_shared(3)::text = '' as got", 1)
	})
	gate, err := r.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dbtest.Run(t, gate, "select pg_advisory_xact_lock(3)")
	swept := make(chan struct{})
	go func() {
		defer close(swept)
		if _, _, err := r.store.Sweep(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	dbtest.Until(t, func() bool { return dbtest.SomeoneWaits(t, r.pool, "advisory") })
	other := rigOn(t, r.pool, "graphile_worker")
	if jobs, queues, err := other.store.Sweep(r.quick()); err != nil || jobs+queues != 0 || other.store.SweptTo() != 0 {
		t.Errorf("another worker swept %d jobs and %d queues up to %d (%v)", jobs, queues, other.store.SweptTo(), err)
	}
	if jobs, _, err := pg.NewAdmin(r.pool, schemaName).Sweep(r.quick()); err != nil || jobs != 1 {
		t.Errorf("an operator swept %d jobs (%v), want 1", jobs, err)
	}
	if err := gate.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-swept
}

// A sweep that ends for its deadline is continued by the next one.
func TestSweepGoesOn(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.addMany(10_001, "a", time.Hour, 0, "", 0)
	dbtest.Run(t, r.pool, `update graphile_worker._private_jobs set locked_by = 'pool-node', locked_at = now() - interval '5 hours'
		where id in (1, 10001)`)
	r.store.RewriteSweeps(func(text string) string { // the second page ends the first sweep
		return strings.Replace(text, "select (select got from turn)::bool as got",
			"select 1 / case when $3::bigint > 0 and (select last_value from graphile_worker.jobs_id_seq1) < 20000 then 0 else 1 end = 1 "+
				"and (select got from turn) as got", 1)
	})
	jobs, _, err := r.store.Sweep(t.Context())
	if err == nil || jobs != 1 {
		t.Fatalf("swept %d jobs (%v), want 1 and an error", jobs, err)
	}
	dbtest.Run(t, r.pool, "select setval('graphile_worker.jobs_id_seq1', 20001)")
	dbtest.Run(t, r.pool, "update graphile_worker._private_jobs set locked_by = 'pool-node', locked_at = now() - interval '5 hours' where id = 2")
	if jobs, _, err := r.store.Sweep(t.Context()); err != nil || jobs != 1 {
		t.Errorf("then swept %d jobs (%v), want the one of the second page", jobs, err)
	}
	if jobs, _, err := r.store.Sweep(t.Context()); err != nil || jobs != 1 {
		t.Errorf("then swept %d jobs (%v), want the one of the first page", jobs, err)
	}
}
