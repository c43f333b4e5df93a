package worker_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

func TestDrainWaitsForRunningJobs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		db.add(2, wire.Job{})
		var causes causes
		r := newRig(t, db, causes.obey(5*time.Second))
		r.passUntil(time.Second)
		r.cancel()
		synctest.Wait()
		if h := r.worker.Health(); h.State != worker.StateDraining || h.Running != 2 {
			t.Errorf("while it drains: %+v", h)
		}
		claims := len(r.store.calls(opClaim))
		db.insert(3, wire.Job{})
		if err := r.wait(); err != nil {
			t.Errorf("Run: %v", err)
		}
		if took := time.Since(r.start); took != 5*time.Second {
			t.Errorf("Run returned after %v, want 5s", took)
		}
		if more := len(r.store.calls(opClaim)) - claims; more > 0 {
			t.Errorf("%d claims after the stop", more)
		}
		if causes.len() > 0 {
			t.Errorf("%d jobs were cancelled", causes.len())
		}
		if jobs, locked := db.left(); jobs != 3 || locked != 0 {
			t.Errorf("%d jobs are left, and %d rows locked", jobs, locked)
		}
		r.stats(worker.Stats{Completed: 2})
		if h := r.worker.Health(); h.State != worker.StateStopped || db.alive(h.WorkerID) {
			t.Errorf("after it: %+v, row alive: %v", h, db.alive(h.WorkerID))
		}
		var kinds []worker.EventKind
		for _, e := range r.events {
			if e.Kind == worker.EventDraining || e.Kind == worker.EventStopped {
				kinds = append(kinds, e.Kind)
			}
		}
		if diff := cmp.Diff([]worker.EventKind{worker.EventDraining, worker.EventStopped}, kinds); diff != "" {
			t.Errorf("events (-want +got):\n%s", diff)
		}
	})
}

func TestDrainCancelsWhatRunsTooLong(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		id := db.add(1, wire.Job{})[0]
		var causes causes
		r := newRig(t, db, causes.obey(time.Hour))
		r.passUntil(time.Second)
		if err := r.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
		if took := time.Since(r.start); took != 11*time.Second {
			t.Errorf("Run returned after %v, want 11s", took)
		}
		if !errors.Is(causes.of(id), worker.ErrShutdown) {
			t.Errorf("cancelled with %v", causes.of(id))
		}
		if job := db.job(id); job.LockedBy != "" || job.Attempt != 0 {
			t.Errorf("the job is left as %+v", job)
		}
	})
}

// A handler that ignores its context is given back while it runs; what it says afterwards does not
// count.
func TestDrainGivesBackWhatIgnoresItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		stubborn := db.add(1, wire.Job{Queue: "a"})[0]
		db.add(1, wire.Job{})
		r := newRig(t, db, func(_ context.Context, job *wire.Job) worker.Outcome {
			if job.ID == stubborn {
				<-time.After(time.Minute)
			}
			return completed
		})
		r.passUntil(time.Second)
		if err := r.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
		if took := time.Since(r.start); took != 12*time.Second {
			t.Errorf("Run returned after %v, want 12s", took)
		}
		if job := db.job(stubborn); job.LockedBy != "" || job.Attempt != 0 {
			t.Errorf("the job is left as %+v", job)
		}
		events := len(r.events)
		r.passUntil(2 * time.Minute)
		if db.job(stubborn) == nil {
			t.Error("the late outcome was recorded")
		}
		r.stats(worker.Stats{Completed: 1, Returned: 1})
		if more := r.events[events:]; len(more) > 0 {
			t.Errorf("observed after Run returned: %v", more)
		}
	})
}

// The time that an observer or a log takes to hear of the stop is part of the drain timeout.
func TestDrainTimeoutCountsFromTheStop(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		db.add(1, wire.Job{})
		var causes causes
		r := newRig(t, db, causes.obey(time.Hour), func(s *setup) {
			observe := s.Observe
			s.Observe = func(e worker.Event) {
				observe(e)
				if e.Kind == worker.EventDraining {
					<-time.After(9 * time.Second)
				}
			}
		})
		r.passUntil(time.Second)
		if err := r.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
		if took := time.Since(r.start); took != 11*time.Second {
			t.Errorf("Run returned after %v, want 11s", took)
		}
	})
}

func TestDrainGivesBackWhatHasNotStarted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		db.add(500, wire.Job{})
		r := newRig(t, db, takes(time.Millisecond), concurrency(1))
		for r.worker.Health().Buffered < 20 {
			r.pass(100 * time.Microsecond)
		}
		stopped := len(r.started())
		if err := r.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
		if n := len(r.started()); n > stopped {
			t.Errorf("%d jobs started after the stop", n-stopped)
		}
		if jobs, locked := db.left(); jobs != 500-stopped || locked != 0 {
			t.Errorf("%d jobs are left, and %d rows locked", jobs, locked)
		}
		for _, job := range db.jobs {
			if job.Attempt != 0 || !job.RunAt.Equal(r.start) {
				t.Fatalf("a job is left as %+v", job)
			}
		}
	})
}

func TestDrainAwaitsTheClaimInFlight(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		db.add(10, wire.Job{})
		r := newRig(t, db, takes(0), latency(opClaim, time.Second))
		r.passUntil(700 * time.Millisecond)
		if err := r.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
		if jobs, locked := db.left(); jobs != 10 || locked != 0 {
			t.Errorf("%d jobs are left, and %d rows locked", jobs, locked)
		}
		if n := len(r.started()); n > 0 {
			t.Errorf("%d jobs started after the stop", n)
		}
		r.stats(worker.Stats{Returned: 2})
	})
}

func TestStopDoesNotWaitOutABackOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, newDB(t), takes(0), func(s *setup) {
			s.before = func(op string) error {
				if op == opClaim || op == opListen {
					return errors.New("connection refused")
				}
				return nil
			}
		})
		r.pass(time.Minute)
		stop := time.Now()
		if err := r.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
		if took := time.Since(stop); took > 0 {
			t.Errorf("Run returned %v after the stop", took)
		}
	})
}

func TestOutcomesAreRecordedBeforeRunReturns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		db.add(2, wire.Job{})
		r := newRig(t, db, takes(2*time.Second), failing(opComplete, 3, false), latency(opComplete, 500*time.Millisecond))
		r.passUntil(time.Second)
		if err := r.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
		r.nothingLeft()
	})
}

// When time is up, everything is tried once more.
func TestTheLastTryIsAtTheVeryEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		db.add(1, wire.Job{})
		start := time.Now()
		r := newRig(t, db, takes(0), func(s *setup) {
			s.before = func(op string) error {
				if op == opComplete && time.Since(start) < time.Minute+2499*time.Millisecond {
					return errors.New("connection refused")
				}
				return nil
			}
		})
		r.passUntil(time.Minute)
		if err := r.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
		r.nothingLeft()
	})
}

// The end of a handler is observed before its outcome is recorded, and so before Run returns.
func TestEventsComeInOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		id := db.add(1, wire.Job{})[0]
		r := newRig(t, db, takes(2*time.Second), func(s *setup) {
			observe := s.Observe
			s.Observe = func(e worker.Event) {
				if e.Kind == worker.EventFinished {
					<-time.After(time.Second)
				}
				observe(e)
			}
		})
		r.passUntil(time.Second)
		if err := r.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
		var got []worker.EventKind
		for _, e := range r.events {
			if e.Job != nil && e.Job.ID == id || e.Kind == worker.EventCompleted || e.Kind == worker.EventStopped {
				got = append(got, e.Kind)
			}
		}
		want := []worker.EventKind{worker.EventStart, worker.EventFinished, worker.EventCompleted, worker.EventStopped}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("events (-want +got):\n%s", diff)
		}
	})
}

func TestUnrecordableOutcomesAreNamed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		busy := db.add(1, wire.Job{})[0]
		failed := db.add(1, wire.Job{})[0]
		db.add(1, wire.Job{})
		refused := errors.New("connection refused")
		r := newRig(t, db, func(_ context.Context, job *wire.Job) worker.Outcome {
			if job.ID == failed {
				return worker.Outcome{Kind: worker.OutcomeFailed, Delay: time.Hour}
			}
			db.update(busy, func(row *fakeJob) { row.Busy = true })
			return completed
		}, func(s *setup) {
			s.before = func(op string) error {
				if op == opFail {
					return refused
				}
				return nil
			}
		})
		r.passUntil(time.Minute)
		err := r.stop()
		if err == nil || !strings.Contains(err.Error(), "2 jobs") || !strings.Contains(err.Error(), fmt.Sprint(busy)) ||
			!strings.Contains(err.Error(), fmt.Sprint(failed)) {
			t.Errorf("Run: %v, want the ids %d and %d", err, busy, failed)
		}
		if took := time.Since(r.start) - time.Minute; took > 15*time.Second {
			t.Errorf("Run returned %v after the stop", took)
		}
		if h := r.worker.Health(); h.Unrecorded != 2 {
			t.Errorf("%d jobs are unrecorded", h.Unrecorded)
		}
	})
}

func TestRunTwiceIsAnError(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, newDB(t), takes(0))
		r.pass(0)
		if err := r.worker.Run(t.Context()); err == nil {
			t.Error("a second Run while the first goes on")
		}
		if err := r.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
		if err := r.worker.Run(t.Context()); err == nil {
			t.Error("a second Run")
		}
	})
}

func TestRegisterErrorEndsRun(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		refused := errors.New("connection refused")
		r := newRig(t, newDB(t), takes(0), func(s *setup) { s.before = func(string) error { return refused } })
		if err := r.wait(); !errors.Is(err, refused) {
			t.Errorf("Run: %v", err)
		}
		if h := r.worker.Health(); h.State != worker.StateStopped {
			t.Errorf("state %q", h.State)
		}
	})
}

func TestJobContextsCarryRunsValuesAndOutliveIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		type key struct{}
		db := newDB(t)
		db.add(2, wire.Job{})
		var value any
		var early error
		ended := make(chan error, 2)
		r := newRig(t, db, func(ctx context.Context, job *wire.Job) worker.Outcome {
			context.AfterFunc(ctx, func() { ended <- ctx.Err() })
			if job.ID == 1 { // ends before the stop
				return completed
			}
			value = ctx.Value(key{})
			<-time.After(2 * time.Second)
			early = ctx.Err()
			return completed
		}, func(s *setup) { s.Context = context.WithValue(t.Context(), key{}, "value") })
		r.passUntil(time.Second)
		select {
		case err := <-ended:
			if !errors.Is(err, context.Canceled) {
				t.Errorf("the context of a job that has ended: %v", err)
			}
		default:
			t.Error("the job's context outlives the job")
		}
		if err := r.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
		if value != "value" || early != nil {
			t.Errorf("the job's context had the value %v and, after Run's had ended, the error %v", value, early)
		}
	})
}
