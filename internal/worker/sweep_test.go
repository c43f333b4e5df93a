package worker_test

import (
	"context"
	"slices"
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

// At its start each worker of a fleet looks who holds locks. Then one of them sweeps for all every
// 7 to 10 minutes, and somebody goes on when workers stop.
func TestOneWorkerSweepsForTheFleet(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		job := db.add(1, wire.Job{})[0]
		db.update(job, func(job *fakeJob) { job.LockedBy, job.LockedAt = "somebody", time.Now().Add(-90*time.Minute) })
		var log logged
		first := newRig(t, db, takes(0), logTo(&log))
		fleet := []*rig{first}
		for range 20 {
			first.pass(time.Second)
			fleet = append(fleet, newRig(t, db, takes(0), logTo(&log)))
		}
		first.pass(2 * time.Second)
		if said := log.with("holds locks"); len(said) != len(fleet) {
			t.Errorf("at their start %d of %d workers said who holds locks", len(said), len(fleet))
		}
		first.passUntil(65 * time.Minute)
		for _, r := range fleet[1:] {
			first.pass(5 * time.Minute)
			if err := r.stop(); err != nil {
				t.Error(err)
			}
		}
		sweeps := []time.Duration{20 * time.Second}
		for _, r := range fleet {
			for _, e := range r.seen(worker.EventSwept) {
				if e.At > time.Minute { // after those of its start
					sweeps = append(sweeps, r.start.Sub(first.start)+e.At)
				}
			}
		}
		slices.Sort(sweeps)
		for i := 1; i < len(sweeps); i++ {
			wait := sweeps[i] - sweeps[i-1]
			if together := sweeps[i] < 65*time.Minute; together && (wait < 8*time.Minute || wait > 11*time.Minute) || wait > 20*time.Minute {
				t.Errorf("at %v a sweep came %v after the one before", sweeps[i], wait)
			}
		}
		if len(sweeps) < 10 {
			t.Errorf("%d sweeps in almost 3 hours", len(sweeps))
		}
	})
}

// A sweep whose time is over goes on at once, and nobody else begins one meanwhile.
func TestSweepThatTakesLong(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		r := newRig(t, db, takes(0), func(s *setup) { s.long = 5 })
		r.pass(time.Second)
		other := newRig(t, db, takes(0))
		r.pass(26 * time.Minute)
		var began, want []time.Duration
		for i, sweep := range r.store.calls(opSweep) {
			if i <= 5 {
				began, want = append(began, sweep.At), append(want, time.Duration(i)*5*time.Minute)
			}
		}
		if diff := cmp.Diff(want, began); diff != "" || len(began) < 6 {
			t.Errorf("sweeps began at (-want +got):\n%s", diff)
		}
		if n := len(other.seen(worker.EventSwept)); n != 2 {
			t.Errorf("another worker swept %d times, want the 2 of its start", n)
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
