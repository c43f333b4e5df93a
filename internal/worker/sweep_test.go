package worker_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// A sweep at the start, one a minute later, and then, as contract section 5.6 has it, one every 480
// to 600 seconds, whether or not one fails.
func TestSweepCadence(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, newDB(t), takes(0), failing(opSweep, 2, false))
		r.passUntil(24 * time.Hour)
		sweeps := r.store.calls(opSweep)
		if first, second := sweeps[0].At, sweeps[1].At; first != 0 || second != time.Minute {
			t.Errorf("the first sweeps came at %v and %v", first, second)
		}
		for i := 2; i < len(sweeps); i++ {
			if wait := sweeps[i].At - sweeps[i-1].At; wait < 480*time.Second || wait > 600*time.Second {
				t.Errorf("sweep %d came %v after the one before", i, wait)
			}
		}
		if n := len(sweeps); n < 24*6 || n > 24*60/8+2 {
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

// One worker sweeps for the fleet and says which locks others hold. When it is gone, another one
// does, and so does one whose turn was over because it was frozen for long.
func TestOneWorkerSweepsForTheFleet(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		job := db.add(1, wire.Job{})[0]
		db.update(job, func(job *fakeJob) { job.LockedBy, job.LockedAt = "somebody", time.Now().Add(-time.Hour) })
		var frozen atomic.Bool
		var log, others logged
		first := newRig(t, db, takes(0), logTo(&log), func(s *setup) {
			s.before = func(op string) error {
				for op == opSweep && frozen.Load() {
					<-time.After(time.Minute)
				}
				return nil
			}
		})
		first.pass(time.Second)
		var fleet []*rig
		for range 20 {
			fleet = append(fleet, newRig(t, db, takes(0), logTo(&others)))
		}
		first.pass(2 * time.Hour)
		if n := len(first.seen(worker.EventSwept)); n < 12 {
			t.Errorf("the first worker swept %d times in 2 hours", n)
		}
		swept := func() (workers, sweeps int) {
			for _, r := range fleet {
				if n := len(r.seen(worker.EventSwept)); n > 0 {
					workers, sweeps = workers+1, sweeps+n
				}
			}
			return workers, sweeps
		}
		if _, n := swept(); n > 0 {
			t.Errorf("other workers swept %d times beside it", n)
		}
		if said, again := log.with("holds locks"), others.with("holds locks"); len(said) != 1 || len(again) != 0 {
			t.Errorf("the first worker said %q, and others %q", said, again)
		}
		frozen.Store(true)
		first.pass(time.Hour)
		if workers, n := swept(); workers != 1 || n < 2 {
			t.Errorf("beside a frozen worker, %d workers swept %d times in an hour", workers, n)
		}
		frozen.Store(false)
		for i, r := range fleet {
			if len(r.seen(worker.EventSwept)) > 0 {
				fleet = append(fleet[:i:i], fleet[i+1:]...)
				if err := r.stop(); err != nil {
					t.Error(err)
				}
				break
			}
		}
		before := len(first.seen(worker.EventSwept))
		first.pass(11 * time.Minute)
		_, n := swept()
		if n += len(first.seen(worker.EventSwept)) - before; n == 0 {
			t.Error("nobody sweeps after the one that did has stopped")
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
