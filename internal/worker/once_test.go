package worker_test

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

func TestOnceRunsEverythingThatIsReady(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		db.add(20, wire.Job{})
		db.add(5, wire.Job{Queue: "a"})
		db.add(5, wire.Job{Queue: "b"})
		later := db.add(1, wire.Job{RunAt: time.Now().Add(time.Hour)})[0]
		failed := db.add(1, wire.Job{})[0]
		var started atomic.Int64
		r := newRig(t, db, func(ctx context.Context, job *wire.Job) worker.Outcome {
			if job.ID == failed {
				return worker.Outcome{Kind: worker.OutcomeFailed, Delay: time.Second}
			}
			if started.Add(1) <= 2 {
				db.add(1, wire.Job{Queue: job.Queue})
			}
			return takes(50*time.Millisecond)(ctx, job)
		}, once, latency(opComplete, 3*time.Millisecond))
		if err := r.wait(); err != nil {
			t.Errorf("Run: %v", err)
		}
		if took := time.Since(r.start); took >= time.Second { // 32 jobs of 50 ms in 2 slots, and no wait for the retry
			t.Errorf("Run returned after %v", took)
		}
		if jobs, locked := db.left(); jobs != 2 || locked != 0 || db.job(later).Attempt != 0 || db.job(failed).Attempt != 1 {
			t.Errorf("%d jobs are left, and %d rows locked", jobs, locked)
		}
		if n := len(r.store.calls(opListen)) + len(r.seen(worker.EventPolled)); n > 0 {
			t.Errorf("listened or polled %d times", n)
		}
	})
}

func TestOnceOnAnEmptyDatabase(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, newDB(t), takes(0), once)
		if err := r.wait(); err != nil {
			t.Errorf("Run: %v", err)
		}
		if n := len(r.store.calls(opClaim)); n != 1 {
			t.Errorf("%d claims", n)
		}
	})
}

func TestOnceReturnsWithTheLastJob(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		db.add(1, wire.Job{})
		r := newRig(t, db, takes(3*time.Second), once, latency(opComplete, time.Second))
		if err := r.wait(); err != nil {
			t.Errorf("Run: %v", err)
		}
		if took := time.Since(r.start); took != 4*time.Second {
			t.Errorf("Run returned after %v, want 4s", took)
		}
	})
}

// What was claimed too early, and given back, is ready. So is a job that is due again at once.
func TestOnceRunsWhatWasGivenBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		db.add(300, wire.Job{})
		slow := db.add(1, wire.Job{Priority: 1})[0]
		db.add(10, wire.Job{Priority: 2})
		again := db.add(1, wire.Job{Priority: 3})[0]
		r := newRig(t, db, func(ctx context.Context, job *wire.Job) worker.Outcome {
			switch {
			case job.ID == slow:
				return takes(time.Second)(ctx, job)
			case job.ID == again && job.Attempt == 1:
				return worker.Outcome{Kind: worker.OutcomeFailed}
			}
			return takes(time.Millisecond)(ctx, job)
		}, concurrency(1), once)
		if err := r.wait(); err != nil {
			t.Errorf("Run: %v", err)
		}
		if r.sum(worker.EventReturned) == 0 {
			t.Error("nothing was given back: the test did not get where it wanted")
		}
		r.nothingLeft()
	})
}

func TestOnceSurvivesTrouble(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		db.add(5, wire.Job{Queue: "a"})
		busy := db.add(1, wire.Job{})[0]
		var mu sync.Mutex
		trouble := make(map[string]int)
		r := newRig(t, db, func(_ context.Context, job *wire.Job) worker.Outcome {
			if job.ID == busy {
				db.update(busy, func(row *fakeJob) { row.Busy = true })
				time.AfterFunc(3*time.Second, func() { db.update(busy, func(row *fakeJob) { row.Busy = false }) })
			}
			return completed
		}, once, func(s *setup) {
			s.before = func(op string) error {
				mu.Lock()
				defer mu.Unlock()
				trouble[op]++
				if op == opRetire || op != opRegister && trouble[op] <= 2 {
					return errors.New("connection lost")
				}
				return nil
			}
		})
		if err := r.wait(); err == nil { // the last statement is the one that retires the worker
			t.Error("Run hides that it could not retire")
		}
		r.nothingLeft()
	})
}

// A worker that is to advance ends when there is nothing to advance to, and says why it could not
// look.
func TestOnceAdvances(t *testing.T) {
	t.Parallel()
	errDown := errors.New("connection lost")
	for name, test := range map[string]struct {
		err  error
		runs int
	}{"to the end": {nil, 3}, "until it fails": {errDown, 2}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				db := newDB(t)
				db.add(1, wire.Job{})
				later := db.add(2, wire.Job{RunAt: time.Now().Add(time.Hour)})
				r := newRig(t, db, takes(time.Millisecond), once, func(s *setup) {
					s.Advance = func(context.Context) (bool, error) {
						if jobs, _ := db.left(); jobs == 1 && test.err != nil {
							return false, test.err
						}
						if len(later) == 0 {
							return false, nil
						}
						db.update(later[0], func(row *fakeJob) { row.RunAt = time.Now() })
						later = later[1:]
						return true, nil
					}
				})
				if err := r.wait(); !errors.Is(err, test.err) {
					t.Errorf("Run: %v, want %v", err, test.err)
				}
				r.stats(worker.Stats{Completed: int64(test.runs)})
			})
		})
	}
}

// What becomes due between the last claim and the look for what is scheduled is run.
func TestOnceAdvancesPastTheGap(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		db.add(1, wire.Job{})
		looks := 0
		r := newRig(t, db, takes(time.Millisecond), once, func(s *setup) {
			s.Advance = func(context.Context) (bool, error) {
				if looks++; looks <= 2 {
					db.add(1, wire.Job{}) // it was scheduled when the worker claimed, and is not any more
				}
				return false, nil
			}
		})
		if err := r.wait(); err != nil {
			t.Errorf("Run: %v", err)
		}
		r.stats(worker.Stats{Completed: 3})
		if looks != 4 {
			t.Errorf("%d looks", looks)
		}
	})
}

func TestOnceCanBeStopped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		db.add(10, wire.Job{Queue: "a"})
		r := newRig(t, db, takes(5*time.Second), once)
		r.passUntil(8 * time.Second)
		if err := r.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
		r.noPoll()
		if jobs, locked := db.left(); jobs != 8 || locked != 0 {
			t.Errorf("%d jobs are left, and %d rows locked", jobs, locked)
		}
	})
}

// A handler that ends its goroutine, as testing's FailNow does, does not cost a slot.
func TestGoexitKeepsTheSlots(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		exits := db.add(7, wire.Job{MaxAttempts: 1})
		db.add(7, wire.Job{Priority: 1})
		r := newRig(t, db, func(ctx context.Context, job *wire.Job) worker.Outcome {
			<-time.After(time.Second)
			if slices.Contains(exits, job.ID) {
				runtime.Goexit()
			}
			return completed
		}, concurrency(3))
		r.passUntil(4500 * time.Millisecond)
		if h := r.worker.Health(); h.Running != 2 { // 3 a second, 14 in all
			t.Errorf("%d jobs run", h.Running)
		}
		r.passUntil(5 * time.Second)
		r.stats(worker.Stats{Completed: 7, Failed: 7, Exhausted: 7})
		for _, id := range exits {
			r.died(id, worker.ReasonExhausted, "the handler ended its goroutine")
		}
	})
}
