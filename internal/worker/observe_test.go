package worker_test

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// Only time in which the own heartbeats were answered counts (R10). A worker that has not read the
// rows for a while, because the database or itself stood still, declares nobody dead by what it had
// read before.
func TestWhatNobodySawIsNoDeath(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		db.add(1, wire.Job{})
		late := newRig(t, db, takes(time.Minute), concurrency(1))
		other := newRig(t, db, takes(time.Millisecond))
		late.pass(10 * time.Second)
		for beats := len(late.store.calls(opBeat)); len(late.store.calls(opBeat)) < beats+2; { // one of two is written
			late.pass(100 * time.Millisecond)
		}
		id := late.worker.Health().WorkerID
		late.store.freeze(36 * time.Second)
		other.pass(25 * time.Second)
		other.store.mu.Lock()
		other.store.latency[opUnlocked] = 7 * time.Second // the look at the session lock of who is late
		other.store.mu.Unlock()
		other.pass(time.Second + 100*time.Millisecond)
		other.store.silence(true)
		other.pass(5 * time.Second)
		other.store.silence(false)
		other.pass(3 * time.Second) // the look has been answered, and no heartbeat since it began
		if declared := other.store.calls(opDeclare); len(declared) > 0 {
			t.Errorf("the worker was to be declared dead %v after the start", declared[0].At)
		}
		other.pass(2 * time.Minute)
		if now := late.worker.Health().WorkerID; now != id || len(other.seen(worker.EventDeath)) > 0 {
			t.Errorf("the worker's id changed from %s to %s", id, now)
		}
		other.nothingLeft()
	})
}

// A heartbeat waits for no function of the application's, whatever that does: none that says which
// flags are forbidden, no log handler and no observer.
func TestHeartbeatsWaitForNoFunction(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		id := db.add(1, wire.Job{Queue: "q"})[0]
		var stuck atomic.Bool
		block := func() {
			if stuck.Load() {
				<-time.After(10 * time.Minute)
			}
		}
		log := stuckLog{block}
		var causes causes
		r := newRig(t, db, causes.obey(8*time.Minute), func(s *setup) {
			failed := false
			s.before = func(op string) error { // one heartbeat fails, which is logged
				if op == opBeat && stuck.Load() && !failed {
					failed = true
					return errors.New("connection lost")
				}
				return nil
			}
			s.Logger = slog.New(log)
			observe := s.Observe
			s.Observe = func(e worker.Event) {
				observe(e)
				block()
			}
			s.Forbidden = func() []string {
				block()
				return []string{"flag"}
			}
		})
		r.pass(time.Second)
		stuck.Store(true)
		r.pass(5 * time.Minute)
		if causes.len() > 0 {
			t.Errorf("the queue's job %d was cancelled with %v", id, causes.of(id))
		}
		beats := 0
		for _, c := range r.store.calls(opBeat) {
			if c.Beat.Write && c.At > 5*time.Second {
				beats++
			}
		}
		stuck.Store(false)
		r.pass(10 * time.Minute)
		db.mu.Lock()
		defer db.mu.Unlock()
		if forbidden := db.workers[r.worker.Health().WorkerID].Forbidden; beats < 100 || len(forbidden) != 1 {
			t.Errorf("%d heartbeats in 5 minutes, which say the flags %q", beats, forbidden)
		}
	})
}

// stuckLog is a log handler that may not return.
type stuckLog struct{ block func() }

func (l stuckLog) Enabled(context.Context, slog.Level) bool      { return true }
func (l stuckLog) WithAttrs([]slog.Attr) slog.Handler            { return l }
func (l stuckLog) WithGroup(string) slog.Handler                 { return l }
func (l stuckLog) Handle(context.Context, slog.Record) (_ error) { l.block(); return nil }

// What a heartbeat has written counts though its answer was lost: the others know that there is a
// session lock, so the fence comes as early as they may act.
func TestFenceKnowsWhatMayHaveBeenWritten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		queued := db.add(1, wire.Job{Queue: "q"})[0]
		var causes causes
		r := newRig(t, db, causes.obey(time.Minute), func(s *setup) {
			written := false
			s.after = func(op string) error {
				beats := s.calls(opBeat)
				if op == opBeat && !written && beats[len(beats)-1].Beat.Write {
					written = true
					s.silence(true) // the first heartbeat is written, and nothing comes back any more
					return errors.New("connection lost")
				}
				return nil
			}
		})
		r.pass(12500 * time.Millisecond) // others wait for 15 s, if its lock is free
		if !errors.Is(causes.of(queued), worker.ErrLeaseLost) {
			t.Errorf("the queue's job ended with %v", causes.of(queued))
		}
		r.store.silence(false)
		r.pass(time.Minute)
	})
}

// The heartbeats of the whole fleet are held up for a minute, as by a lock on the table: afterwards
// all work on without a restart, nothing was taken from anybody, and one line of each says so
// (X18).
func TestFleetThatIsHeldUpGoesOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		db.add(3, wire.Job{})
		var logs [3]logged
		var rigs []*rig
		for i := range logs {
			rigs = append(rigs, newRig(t, db, takes(2*time.Minute), concurrency(1), logTo(&logs[i])))
		}
		rigs[0].pass(10 * time.Second)
		var ids []string
		for _, r := range rigs {
			ids = append(ids, r.worker.Health().WorkerID)
			r.store.silence(true)
		}
		rigs[0].pass(time.Minute)
		for _, r := range rigs {
			r.store.silence(false)
		}
		rigs[0].pass(2 * time.Minute)
		for i, r := range rigs {
			if id := r.worker.Health().WorkerID; id != ids[i] || len(r.seen(worker.EventRescued))+len(r.seen(worker.EventDeath)) > 0 {
				t.Errorf("worker %s is %s now, and has seen the deaths %v", ids[i], id, r.seen(worker.EventDeath))
			}
			for _, text := range []string{"heartbeats are not acknowledged", "heartbeats are acknowledged again", "heartbeats succeed again"} {
				if lines := logs[i].with(text); len(lines) != 1 {
					t.Errorf("%d lines say %q", len(lines), text)
				}
			}
		}
		rigs[0].nothingLeft()
	})
}

// The server stands still for 5 minutes. No loop of any worker stands still for that, which is what
// liveness asks; each knows that it takes no jobs, which is what readiness asks. Afterwards all go
// on under their ids, with what they had: no attempt was charged (X26).
func TestFleetWithoutAServerLives(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		db.add(3, wire.Job{})
		db.add(1, wire.Job{Queue: "a"})
		db.add(1, wire.Job{Queue: "b"})
		db.add(1, wire.Job{Queue: "c"})
		var charged atomic.Int32
		var causes causes
		obey := causes.obey(8 * time.Minute)
		var rigs []*rig
		var ids []string
		for range 3 {
			rigs = append(rigs, newRig(t, db, func(ctx context.Context, job *wire.Job) worker.Outcome {
				if job.Attempt > 1 {
					charged.Add(1)
				}
				return obey(ctx, job)
			}))
		}
		rigs[0].pass(10 * time.Second)
		for _, r := range rigs {
			ids = append(ids, r.worker.Health().WorkerID)
			r.store.silence(true)
		}
		for range 10 {
			rigs[0].pass(30 * time.Second)
			for _, r := range rigs {
				h := r.worker.Health()
				if h.Stuck != "" || h.State != worker.StateRunning || !h.Silent {
					t.Errorf("without a server: %+v", h)
				}
				for _, at := range []time.Time{h.Turns.Claims, h.Turns.Outcomes, h.Turns.Heartbeats} {
					if time.Since(at) > time.Minute {
						t.Errorf("a loop stands still: %+v", h.Turns)
					}
				}
			}
		}
		for _, r := range rigs {
			r.store.silence(false)
		}
		rigs[0].pass(30 * time.Second)
		for i, r := range rigs {
			if h := r.worker.Health(); h.WorkerID != ids[i] || h.Silent || h.Failures > 0 {
				t.Errorf("half a minute after the server's return worker %s is %+v", ids[i], h)
			}
		}
		rigs[0].pass(10 * time.Minute)
		for _, r := range rigs {
			if deaths := append(r.seen(worker.EventDeath), r.seen(worker.EventRescued)...); len(deaths) > 0 {
				t.Errorf("events %v", deaths)
			}
		}
		if n := charged.Load(); n > 0 || causes.len() != 3 {
			t.Errorf("%d attempts were charged, and %d jobs were cancelled; want none, and the 3 of queues", n, causes.len())
		}
		rigs[0].nothingLeft()
	})
}
