package worker_test

import (
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
