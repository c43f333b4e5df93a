package pg_test

import (
	"testing"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/worker"
)

// R6: a claim whose commit hangs, as it does without its synchronous standby, is not taken for one
// that has ended. What it has locked is released once it is committed.
func TestReclaimKnowsOfAClaimUnderWay(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	id := r.add("'a', queue_name := 'q'")
	dbtest.Run(t, r.pool, `create function hang() returns trigger language plpgsql as
		$$begin perform pg_advisory_xact_lock(4711); return null; end$$;
		create constraint trigger hang after update on graphile_worker._private_jobs
		deferrable initially deferred for each row execute function hang()`)
	holder, err := r.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dbtest.Run(t, holder, "select pg_advisory_xact_lock(4711)")
	answered := make(chan error, 1)
	go func() {
		_, err := r.store.Claim(t.Context(), worker.ClaimRequest{WorkerID: r.id, Number: 1, Batch: 20, Serial: 20})
		answered <- err
	}()
	dbtest.Until(t, func() bool { return dbtest.SomeoneWaits(t, r.pool, "advisory") })

	reclaim := func(want worker.Reclaimed) {
		t.Helper()
		if got, err := r.store.Reclaim(r.quick(), r.id, nil); err != nil || got != want {
			t.Errorf("reclaimed %+v, %v; want %+v", got, err, want)
		}
	}
	reclaim(worker.Reclaimed{})
	if err := holder.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-answered; err != nil {
		t.Fatal(err)
	}
	r.wantRow(id, &row{Attempts: 1, MaxAttempts: 25, Locked: true})
	dbtest.Run(t, r.pool, "drop trigger hang on graphile_worker._private_jobs")
	reclaim(worker.Reclaimed{Jobs: 1, Queues: 1, Settled: true})
	r.wantRow(id, &row{Attempts: 0, MaxAttempts: 25})
	if n := r.lockedQueues(); n != 0 {
		t.Errorf("%d queues stay locked", n)
	}
}

// A survey names the tasks that this worker does not serve.
func TestSurvey(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.add("'a', run_at := '-infinity'")
	r.add("'renamed', run_at := now() - interval '2 hours'")
	r.add("'renamed', run_at := '-infinity'")
	r.add("'foreign', run_at := now() + interval '1 hour'")
	found, err := r.store.Survey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(found) != 1 || found[0].Task != "renamed" || found[0].Jobs != 2 {
		t.Errorf("unserved: %+v, want two jobs of the task renamed", found)
	}
}
