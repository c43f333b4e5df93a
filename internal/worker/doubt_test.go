package worker_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

var errCut = errors.New("connection cut")

// losing makes the answers to the first n claims get lost, after they were committed.
func losing(n int) func(*setup) {
	return func(s *setup) {
		s.after = func(op string) error {
			if op != opClaim || n == 0 {
				return nil
			}
			n--
			return errCut
		}
	}
}

// R6: what a claim has locked whose answer was lost is released before the worker claims again.
func TestLostClaimsAreReclaimedBeforeTheNext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		db.add(10, wire.Job{})
		db.add(10, wire.Job{Queue: "a"})
		r := newRig(t, db, takes(time.Millisecond), concurrency(5), losing(3))
		r.pass(5 * time.Second)
		r.nothingLeft()
		claims, looks := r.store.calls(opClaim), r.store.calls(opReclaim)
		for i := range 3 {
			if looks[i].At < claims[i].At || looks[i].At > claims[i+1].At {
				t.Errorf("look %d came at %v, not between the claims at %v and %v", i, looks[i].At, claims[i].At, claims[i+1].At)
			}
		}
		if r.sum(worker.EventReclaimed) == 0 {
			t.Error("nobody was told of what was reclaimed")
		}
		for i := range 3 { // and a claim that failed asks for less
			if first, then := claims[i].Request.Batch, claims[i+1].Request.Batch; then > max(1, first/2) {
				t.Errorf("after a claim of %d failed, the next asked for %d", first, then)
			}
		}
	})
}

// A look that fails again and again, because the table is too large to be scanned in time, takes a
// tenth of the time, and jobs run in the rest.
func TestLooksThatFailTakeATenthOfTheTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		db.add(1500, wire.Job{})
		const took = 10 * time.Second
		var over atomic.Bool
		r := newRig(t, db, takes(time.Second), losing(1), latency(opReclaim, 2*took), func(s *setup) {
			s.before = func(op string) error { // after half of the latency
				if op == opReclaim && !over.Load() {
					return errors.New("canceling statement due to statement timeout")
				}
				return nil
			}
		})
		r.pass(2 * time.Minute)
		looks, runs := len(r.store.calls(opReclaim)), len(r.started())
		r.pass(10 * time.Minute)
		if n := len(r.store.calls(opReclaim)) - looks; n < 5 || n > 7 {
			t.Errorf("%d looks of %v in 10 minutes, want 6", n, took)
		}
		if n := len(r.started()) - runs; n < 900 {
			t.Errorf("%d jobs ran, want most of 1,200", n)
		}
		over.Store(true)
		r.pass(5 * time.Minute)
		r.nothingLeft()
	})
}

// A claim that the server refused has locked nothing: nobody looks for it.
func TestRefusedClaimsAreNotLookedFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		db.add(1, wire.Job{})
		refused := 3
		r := newRig(t, db, takes(0), func(s *setup) {
			s.before = func(op string) error {
				if op != opClaim || refused == 0 {
					return nil
				}
				refused--
				return &wire.RejectedError{Err: errors.New("out of memory")}
			}
		})
		r.pass(5 * time.Minute)
		r.nothingLeft()
		if n := len(r.store.calls(opReclaim)); n != 0 {
			t.Errorf("looked %d times", n)
		}
	})
}

// While nothing answers, there are no claims that would lock ever more; when something does, the
// first thing is to release what the last one may have locked.
func TestNoClaimsWhileNothingAnswers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		db.add(100, wire.Job{Queue: "a"})
		var hangs atomic.Bool
		r := newRig(t, db, takes(20*time.Millisecond), func(s *setup) {
			s.after = func(op string) error {
				if hangs.Load() && op != opListen && op != opSchema {
					return errCut
				}
				return nil
			}
		})
		r.pass(time.Second)
		before := len(r.store.calls(opClaim))
		hangs.Store(true)
		r.pass(50 * time.Second)
		if n := len(r.store.calls(opClaim)) - before; n > 1 {
			t.Errorf("%d claims while nothing answered", n)
		}
		hangs.Store(false)
		r.pass(5 * time.Second)
		r.nothingLeft()
	})
}

// At a stop too, what a lost claim has locked is released; and if that cannot be, the error says
// how it can.
func TestLostClaimsAreReleasedAtTheStop(t *testing.T) {
	t.Parallel()
	for name, away := range map[string]bool{"the database answers again": false, "it does not": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				db := newDB(t)
				db.add(5, wire.Job{Queue: "a"})
				var trouble atomic.Bool
				trouble.Store(true)
				r := newRig(t, db, takes(0), func(s *setup) {
					s.after = func(op string) error {
						if trouble.Load() && op == opClaim {
							return errCut
						}
						return nil
					}
					s.before = func(op string) error {
						if trouble.Load() && (op == opReclaim || op == opRetire) {
							return errCut
						}
						return nil
					}
				})
				r.pass(10 * time.Second)
				if !away {
					trouble.Store(false)
				}
				began := time.Now()
				err := r.stop()
				if took := time.Since(began); took > worker.CloseTimeout {
					t.Errorf("the stop took %v", took)
				}
				_, locked := db.left()
				switch {
				case !away && (err != nil || locked != 0):
					t.Errorf("%d rows stay locked: %v", locked, err)
				case away && (err == nil || !strings.Contains(err.Error(), "UnlockWorker(\"pool-")):
					t.Errorf("the stop left %d rows locked and said %v", locked, err)
				}
			})
		})
	}
}

// A claim that is under way when the worker is told to stop, and does not come back, holds up
// nothing; what it locks is released.
func TestStopDoesNotWaitForAClaim(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		r := newRig(t, db, takes(0))
		r.pass(time.Second)
		r.store.mu.Lock()
		r.store.latency[opClaim] = 2 * time.Hour
		r.store.mu.Unlock()
		db.insert(3, wire.Job{Queue: "a"})
		synctest.Wait()
		began := time.Now()
		if err := r.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("the stop took %v", took)
		}
		if _, locked := db.left(); locked != 0 {
			t.Errorf("%d rows stay locked", locked)
		}
	})
}

// Two leases of one job: the older is lost, and the handler of the newer is not cancelled for it.
func TestRenewalTellsLeasesOfOneJobApart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		id := db.add(1, wire.Job{})[0]
		var runs atomic.Int64
		ends := make(chan error, 2)
		r := newRig(t, db, func(ctx context.Context, _ *wire.Job) worker.Outcome {
			n := runs.Add(1)
			select {
			case <-ctx.Done():
			case <-time.After(2 * time.Hour):
			}
			ends <- context.Cause(ctx)
			if n == 1 && !errors.Is(context.Cause(ctx), worker.ErrLeaseLost) {
				t.Error("the first run was not cancelled")
			}
			return completed
		})
		r.pass(time.Minute)
		db.unlock(id)
		r.pass(3 * time.Hour)
		if first, second := <-ends, <-ends; !errors.Is(first, worker.ErrLeaseLost) || second != nil {
			t.Errorf("the runs ended with %v and %v", first, second)
		}
		r.nothingLeft()
		r.stats(worker.Stats{Completed: 1, Lost: 1})
	})
}

// A fail-over can undo what was acknowledged: then rows are locked for jobs whose outcomes were
// recorded. They are looked for when a connection has broken.
func TestOutcomesThatAFailOverUndid(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		r := newRig(t, db, takes(0))
		r.pass(time.Second)
		id := db.add(1, wire.Job{})[0]
		db.update(id, func(job *fakeJob) { job.LockedBy, job.LockedAt = r.worker.Health().WorkerID+".1.1", time.Now() })
		db.breakListeners(errors.New("connection reset"))
		r.pass(3 * time.Minute)
		r.nothingLeft()
	})
}

// A worker that only polls, behind a pooler, has no connection that breaks. Its heartbeats tell it
// that another server answers. What that has not got is looked for, and what the others' heartbeats
// were on the old one does not count.
func TestFailOverBehindAPooler(t *testing.T) {
	t.Parallel()
	for _, failedOver := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			db := newDB(t)
			pooled := func(s *setup) { s.pooled = true }
			var log logged
			dead, r := newRig(t, db, takes(0), pooled), newRig(t, db, takes(0), pooled, logTo(&log))
			r.pass(20 * time.Second)
			dead.kill()
			r.pass(20 * time.Second)
			id := db.add(1, wire.Job{})[0]
			db.update(id, func(job *fakeJob) { job.LockedBy, job.LockedAt = r.worker.Health().WorkerID+".1.1", time.Now() })
			at := time.Since(r.start)
			if failedOver {
				db.mu.Lock()
				db.server++
				db.mu.Unlock()
			}
			r.pass(3 * time.Minute)
			if _, left := db.left(); (left == 0) != failedOver {
				t.Errorf("failed over %v: %d rows are locked", failedOver, left)
			}
			deaths := r.seen(worker.EventDeath)
			if len(deaths) != 1 || (deaths[0].At-at >= 30*time.Second) != failedOver {
				t.Errorf("failed over %v, %v after the start: deaths %v", failedOver, at, deaths)
			}
			if lines := log.with("the database server was restarted"); (len(lines) == 1) != failedOver {
				t.Errorf("failed over %v: it says %q", failedOver, lines)
			}
		})
	}
}
