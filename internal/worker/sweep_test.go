package worker_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// Contract section 5.6: a first sweep within a minute, then one every 480 to 600 seconds, whether
// or not one fails.
func TestSweepCadence(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, newDB(t), takes(0), failing(opSweep, 2, false))
		r.passUntil(time.Minute)
		if n := len(r.store.calls(opSweep)); n != 1 {
			t.Fatalf("%d sweeps in the first minute, want 1", n)
		}
		r.passUntil(24 * time.Hour)
		sweeps := r.store.calls(opSweep)
		for i := 1; i < len(sweeps); i++ {
			if wait := sweeps[i].At - sweeps[i-1].At; wait < 480*time.Second || wait > 600*time.Second {
				t.Errorf("sweep %d came %v after the one before", i, wait)
			}
		}
		if n := len(sweeps); n < 24*6 || n > 24*60/8 {
			t.Errorf("%d sweeps in a day", n)
		}
		events := r.seen(worker.EventSwept)
		if len(events) != len(sweeps) || events[0].Err == nil || events[1].Err == nil || events[2].Err != nil {
			t.Errorf("%d events of %d sweeps, of which two failed: %+v", len(events), len(sweeps), events[:3])
		}
		if nudges := r.nudged(); len(nudges) != 0 {
			t.Errorf("workers were notified of nothing: %v", nudges)
		}
	})
}

// What a sweep frees is claimed at once, and other workers hear of it; what we renew is never
// stale.
func TestSweepFreesWhatOthersLeft(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		stale := db.add(2, wire.Job{Queue: "q"})
		db.update(stale[0], func(job *fakeJob) { job.LockedBy, job.LockedAt = "pool-dead", time.Now().Add(-5*time.Hour) })
		db.queues["q"].LockedBy, db.queues["q"].LockedAt = "pool-dead", time.Now().Add(-5*time.Hour)
		own := db.add(1, wire.Job{})[0]
		r := newRig(t, db, func(ctx context.Context, job *wire.Job) worker.Outcome {
			if job.ID == own {
				return takes(13*time.Hour)(ctx, job)
			}
			return completed
		})
		swept := func() (swept []event) {
			for _, e := range r.seen(worker.EventSwept) {
				if e.Count > 0 {
					swept = append(swept, e)
				}
			}
			return swept
		}
		r.passUntil(12 * time.Hour)
		if got := swept(); len(got) != 1 || got[0].Count != 1 || got[0].At > time.Minute {
			t.Fatalf("swept %+v, want one job in the first minute", got)
		}
		if diff := cmp.Diff([]int{2}, r.nudged()); diff != "" {
			t.Errorf("notifications (-want +got):\n%s", diff)
		}
		for _, run := range r.started()[1:] {
			if at := swept()[0].At; run.At != at {
				t.Errorf("job %d of the queue started at %v, want %v, right after the sweep", run.Job, run.At, at)
			}
		}
		r.passUntil(14 * time.Hour)
		r.nothingLeft()
	})
}

func TestNoSweepInAWorkerThatRunsOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		db.add(1, wire.Job{})
		r := newRig(t, db, takes(time.Hour), once)
		if err := r.wait(); err != nil {
			t.Error(err)
		}
		if n := len(r.store.calls(opSweep)); n != 0 {
			t.Errorf("%d sweeps", n)
		}
	})
}
