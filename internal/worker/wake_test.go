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

// times returns when handlers started.
func (r *rig) times() []time.Duration {
	var times []time.Duration
	for _, s := range r.started() {
		times = append(times, s.At)
	}
	return times
}

func TestNotificationClaimsAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		r := newRig(t, db, takes(0))
		r.passUntil(700 * time.Millisecond)
		db.insert(1, wire.Job{})
		r.pass(0)
		if diff := cmp.Diff([]time.Duration{700 * time.Millisecond}, r.times()); diff != "" {
			t.Errorf("starts (-want +got):\n%s", diff)
		}
		r.noPoll()
	})
}

func TestNotificationsDuringAClaimFoldIntoOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		r := newRig(t, db, takes(0), concurrency(10), latency(opClaim, 100*time.Millisecond))
		r.passUntil(700 * time.Millisecond)
		before := len(r.store.calls(opClaim))
		for range 5 {
			db.insert(1, wire.Job{})
			r.pass(10 * time.Millisecond)
		}
		r.passUntil(1500 * time.Millisecond)
		if claims := len(r.store.calls(opClaim)) - before; claims != 2 {
			t.Errorf("%d claims, want the one that was in flight and one more", claims)
		}
		r.nothingLeft()
		r.noPoll()
	})
}

func TestSerialQueueRunsWithoutPolling(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		db.add(10, wire.Job{Queue: "a"})
		handle := func(_ context.Context, job *wire.Job) worker.Outcome {
			<-time.After(300 * time.Millisecond)
			switch job.ID % 4 { // however the job before it ended
			case 0:
				return worker.Outcome{Kind: worker.OutcomeFailed, Delay: time.Hour}
			case 1:
				return worker.Outcome{Kind: worker.OutcomeSnoozed, Delay: time.Hour}
			case 2:
				db.unlock(job.ID)
				db.update(job.ID, func(row *fakeJob) { row.Attempt = row.MaxAttempts })
			}
			return completed
		}
		r := newRig(t, db, handle)
		r.passUntil(4 * time.Second)
		var want []time.Duration
		for i := range time.Duration(10) {
			want = append(want, i*300*time.Millisecond)
		}
		if diff := cmp.Diff(want, r.times()); diff != "" {
			t.Errorf("starts (-want +got):\n%s", diff)
		}
		r.noPoll()
	})
}

func TestPollIsTheSafetyNet(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		r := newRig(t, db, takes(0))
		r.passUntil(500 * time.Millisecond)
		db.add(1, wire.Job{}) // its notification is lost
		r.passUntil(3 * time.Second)
		if diff := cmp.Diff([]time.Duration{2 * time.Second}, r.times()); diff != "" {
			t.Errorf("starts (-want +got):\n%s", diff)
		}
		if polls := r.seen(worker.EventPolled); len(polls) != 1 {
			t.Errorf("%d polls", len(polls))
		}
	})
}

func TestDueJobStartsOnTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		db.add(1, wire.Job{RunAt: time.Now().Add(1500 * time.Millisecond)})
		db.add(1, wire.Job{RunAt: time.Now().Add(5 * time.Second)})
		r := newRig(t, db, takes(0))
		r.passUntil(6 * time.Second)
		if diff := cmp.Diff([]time.Duration{1500 * time.Millisecond, 5 * time.Second}, r.times()); diff != "" {
			t.Errorf("starts (-want +got):\n%s", diff)
		}
	})
}

func TestRetryStartsOnTime(t *testing.T) {
	t.Parallel()
	for name, outcome := range map[string]worker.Outcome{
		"failed":  {Kind: worker.OutcomeFailed, Delay: 700 * time.Millisecond},
		"snoozed": {Kind: worker.OutcomeSnoozed, Delay: 700 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				db := newDB(t)
				first := db.add(1, wire.Job{})[0]
				var tries atomic.Int64
				handle := func(_ context.Context, job *wire.Job) worker.Outcome {
					if tries.Add(1) == 1 && job.ID == first {
						return outcome
					}
					return completed
				}
				r := newRig(t, db, handle, func(s *setup) {
					s.answer = func(_ worker.ClaimRequest, claimed *worker.Claimed) {
						claimed.NextDue = time.Minute // a claim that did not look far enough to meet the retry
					}
				})
				r.passUntil(100 * time.Millisecond)
				db.insert(1, wire.Job{})
				r.passUntil(800 * time.Millisecond)
				if diff := cmp.Diff([]time.Duration{0, 100 * time.Millisecond, 700 * time.Millisecond}, r.times()); diff != "" {
					t.Errorf("starts (-want +got):\n%s", diff)
				}
				r.nothingLeft()
				r.noPoll()
			})
		})
	}
}

// Workers that were woken for nothing wait before the next claim, longer each time, until a claim
// finds something (R18).
func TestEmptyWakesBackOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		r := newRig(t, db, takes(time.Microsecond))
		// wake notifies, and returns how long the claim that follows was put off.
		wake := func(insert int) time.Duration {
			before := len(r.store.calls(opClaim))
			sent := time.Since(r.start)
			if insert > 0 {
				db.add(insert, wire.Job{})
			}
			db.notify(worker.Notification{Kind: worker.NotifyJobs})
			for {
				r.pass(100 * time.Microsecond)
				if claims := r.store.calls(opClaim); len(claims) > before {
					return claims[before].At - sent
				}
			}
		}
		rounds := func() (waits []time.Duration) {
			for range 16 {
				waits = append(waits, wake(0))
			}
			return waits
		}
		check := func(waits []time.Duration) {
			t.Helper()
			bound, longest := time.Duration(0), time.Duration(0)
			for i, waited := range waits {
				if waited > bound {
					t.Errorf("empty wake %d was put off by %v, want at most %v", i, waited, bound)
				}
				bound = min(max(2*bound, 2*time.Millisecond), 50*time.Millisecond)
				longest = max(longest, waited)
			}
			if longest < 5*time.Millisecond { // 12 draws from [0, 50 ms)
				t.Errorf("waits do not grow: %v", waits)
			}
		}
		r.pass(time.Millisecond)
		check(rounds())
		wake(1)
		r.pass(100 * time.Millisecond)
		check(rounds())
		r.pass(3 * time.Second) // a poll is nobody's herd
		check(rounds())
	})
}

func TestHerdBackOffCountsNotificationsDuringClaims(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		r := newRig(t, db, takes(0), latency(opClaim, time.Millisecond), func(s *setup) {
			s.request = func(worker.ClaimRequest, worker.Health) { db.notify(worker.Notification{Kind: worker.NotifyJobs}) }
		})
		r.passUntil(time.Second)
		if claims := len(r.store.calls(opClaim)); claims > 150 { // one each 26 ms on average
			t.Errorf("%d claims in a second of notifications that lead to nothing", claims)
		}
	})
}

// A worker whose queue goes on does not wait with the herd.
func TestHerdBackOffDoesNotDelayASerialQueue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		r := newRig(t, db, takes(5*time.Millisecond))
		var want []time.Duration
		for i := range time.Duration(500) {
			if i <= 100 {
				want = append(want, i*5*time.Millisecond)
			}
			db.insert(1, wire.Job{Queue: "a"})
			r.pass(time.Millisecond)
		}
		if diff := cmp.Diff(want, r.times()); diff != "" {
			t.Errorf("starts (-want +got):\n%s", diff)
		}
	})
}

// Somebody holds the queue for the length of a statement: the claim is repeated within
// milliseconds. Somebody who holds it for long does not cost a hundred claims a second.
func TestContendedClaimIsRepeatedSoon(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		db.add(1, wire.Job{Queue: "a"})
		db.queues["a"].Held = true
		r := newRig(t, db, takes(0))
		r.passUntil(100 * time.Millisecond)
		claims := r.store.calls(opClaim)
		if len(claims) < 10 {
			t.Fatalf("%d claims in 100 ms", len(claims))
		}
		for i, claim := range claims[2:] {
			if gap := claim.At - claims[i+1].At; gap < 2*time.Millisecond || gap >= 10*time.Millisecond {
				t.Errorf("claims %v apart", gap)
			}
		}
		r.pass(10 * time.Second)
		if more := len(r.store.calls(opClaim)) - len(claims); more > 110 {
			t.Errorf("%d claims in 10 s", more)
		}
		free := db.insert(1, wire.Job{})
		r.pass(time.Millisecond)
		if runs := r.started(); len(runs) != 1 || runs[0].Job != free[0] {
			t.Errorf("beside the queue ran %v, want the free job at once", runs)
		}
		db.mu.Lock()
		db.queues["a"].Held = false
		db.mu.Unlock()
		r.pass(320 * time.Millisecond)
		r.nothingLeft()
	})
}

// More queues wait than there is room for, and the heads of those that were tried are locked by an
// application's transaction.
func TestLockedHeadsAreNotClaimedInATightLoop(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		for _, queue := range []string{"a", "b", "c"} {
			for _, id := range db.add(1, wire.Job{Queue: queue}) {
				db.update(id, func(job *fakeJob) { job.Busy = true })
			}
		}
		r := newRig(t, db, takes(0), latency(opClaim, 100*time.Microsecond))
		r.passUntil(time.Second)
		if claims := len(r.store.calls(opClaim)); claims > 60 {
			t.Errorf("%d claims in a second", claims)
		}
		db.mu.Lock()
		for _, job := range db.jobs {
			job.Busy = false
		}
		db.mu.Unlock()
		r.pass(3 * time.Second) // the next poll finds them
		r.nothingLeft()
	})
}
