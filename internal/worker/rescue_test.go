package worker_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// forever is a handler that runs until its context ends, and then says so.
func forever(ctx context.Context, _ *wire.Job) worker.Outcome {
	<-ctx.Done()
	return worker.Outcome{Kind: worker.OutcomeReturned, Err: context.Cause(ctx)}
}

// lockedByOther reports whether a job has been claimed by another worker than one that died.
func lockedByOther(db *fakeDB, id int64, dead string) bool {
	job := db.job(id)
	return job != nil && job.LockedBy != "" && !strings.HasPrefix(job.LockedBy, dead)
}

// kill ends a worker as kill -9 does: nothing of it reaches the database any more.
func (r *rig) kill() (id string) {
	id = r.worker.Health().WorkerID
	r.store.die()
	r.t.Cleanup(func() { _ = r.stop() }) // what it returns is nobody's concern
	return id
}

// The jobs of a worker that was killed run elsewhere within 20 seconds if its session lock is free,
// and within 40 if a connection that is half open holds it, or one of the workers has no lock and
// looks at none, because it is behind a transaction pooler; not charged, and in the order of their
// queue.
func TestJobsOfAKilledWorkerRunElsewhere(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		halfOpen, victim, observer bool // the latter: pooled
		least, most                time.Duration
	}{
		"unlocked":               {false, false, false, 10 * time.Second, 20 * time.Second},
		"half open":              {true, false, false, 25 * time.Second, 40 * time.Second},
		"behind a pooler":        {false, true, true, 25 * time.Second, 40 * time.Second},
		"seen through a pooler":  {false, false, true, 25 * time.Second, 40 * time.Second},
		"seen around the pooler": {false, true, false, 25 * time.Second, 40 * time.Second},
	} {
		pooled := func(is bool) func(*setup) { return func(s *setup) { s.pooled = is } }
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				db := newDB(t)
				first := db.add(1, wire.Job{Queue: "q"})[0]
				plain := db.add(9, wire.Job{})
				victim := newRig(t, db, forever, concurrency(10), pooled(test.victim))
				victim.pass(time.Second)
				db.add(50, wire.Job{Queue: "q"})
				other := newRig(t, db, takes(time.Millisecond), concurrency(20), pooled(test.observer))
				other.passUntil(20 * time.Second)
				dead := victim.kill()
				if test.halfOpen {
					db.mu.Lock()
					db.workers[dead].held, db.workers[dead].store = true, nil
					db.mu.Unlock()
				}
				killed := time.Now()
				for len(db.completedIDs()) < 60 && time.Since(killed) < time.Minute {
					other.pass(100 * time.Millisecond)
				}
				if took := time.Since(killed); took < test.least || took > test.most {
					t.Errorf("all jobs had run after %v", took)
				}
				var order []int64
				for _, run := range other.started() {
					if run.Job == first || run.Job > plain[len(plain)-1] {
						order = append(order, run.Job)
					}
				}
				for i := 1; i < len(order); i++ {
					if order[i] < order[i-1] {
						t.Fatalf("the queue's jobs ran in the order %v", order)
					}
				}
				rescued := other.seen(worker.EventRescued)
				for _, e := range rescued {
					if e.Job.Attempt != 1 {
						t.Errorf("rescued %+v", e.Job)
					}
				}
				if deaths := other.seen(worker.EventDeath); len(rescued) != 10 || len(deaths) != 1 || deaths[0].WorkerID != dead {
					t.Errorf("observed %d rescued jobs and the deaths %v", len(rescued), deaths)
				}
			})
		})
	}
}

// A worker that was frozen while its jobs were rescued and finished elsewhere changes nothing when
// it wakes. It goes on under a new id.
func TestFrozenWorkerChangesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		ids := db.add(3, wire.Job{})
		queued := db.add(1, wire.Job{Queue: "q"})[0]
		frozen := newRig(t, db, takes(70*time.Second), concurrency(4))
		frozen.pass(time.Second)
		asleep := frozen.worker.Health().WorkerID
		frozen.store.freeze(60 * time.Second)
		other := newRig(t, db, takes(time.Second), concurrency(4))
		other.pass(50 * time.Second)
		for _, id := range append(ids, queued) {
			if db.job(id) != nil {
				t.Errorf("job %d did not run elsewhere", id)
			}
		}
		other.pass(time.Minute)
		if id := frozen.worker.Health().WorkerID; id == asleep {
			t.Error("the worker has kept its id")
		}
		if stats := frozen.worker.Health().Stats; stats.Completed != 0 {
			t.Errorf("the frozen worker has recorded %+v", stats)
		}
		if stats := other.worker.Health().Stats; stats.Completed != 4 {
			t.Errorf("the other worker has recorded %+v", stats)
		}
		db.insert(4, wire.Job{})
		other.pass(75 * time.Second)
		other.nothingLeft()
	})
}

// Without an acknowledged heartbeat, jobs of queues are cancelled before anybody can take them, and
// given back; other jobs go on, and so does the worker, under its id.
func TestSilence(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		queued := db.add(1, wire.Job{Queue: "q"})[0]
		plain := db.add(1, wire.Job{})[0]
		var causes causes
		var log logged
		r := newRig(t, db, causes.obey(40*time.Second), logTo(&log))
		r.passUntil(7 * time.Second)
		id := r.worker.Health().WorkerID
		r.store.silence(true)
		r.pass(9 * time.Second)
		if causes.len() > 0 {
			t.Errorf("%d jobs were cancelled before the time", causes.len())
		}
		r.pass(4 * time.Second)
		if !errors.Is(causes.of(queued), worker.ErrLeaseLost) || causes.of(plain) != nil {
			t.Errorf("the queue's job ended with %v, the other with %v", causes.of(queued), causes.of(plain))
		}
		claims := len(r.store.calls(opClaim))
		db.insert(1, wire.Job{})
		r.pass(3 * time.Second)
		if n := len(r.store.calls(opClaim)) - claims; n > 0 {
			t.Errorf("%d claims during the silence", n)
		}
		r.store.silence(false)
		r.pass(90 * time.Second)
		r.nothingLeft()
		if now := r.worker.Health().WorkerID; now != id {
			t.Errorf("the worker's id changed from %s to %s", id, now)
		}
		r.stats(worker.Stats{Completed: 3, Returned: 1})
		if events := r.seen(worker.EventSilent); len(events) != 1 || events[0].Count != 1 {
			t.Errorf("events %v", events)
		}
		for _, text := range []string{"heartbeats are not acknowledged", "heartbeats are acknowledged again"} {
			if lines := log.with(text); len(lines) != 1 {
				t.Errorf("%d lines with %q", len(lines), text)
			}
		}
	})
}

// While the database answers nobody, nobody is declared dead, and afterwards all go on.
func TestOutageIsNoDeath(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		db.add(16, wire.Job{})
		var rigs []*rig
		for range 4 {
			rigs = append(rigs, newRig(t, db, takes(100*time.Second), concurrency(4)))
		}
		rigs[0].pass(10 * time.Second)
		for _, r := range rigs {
			r.store.silence(true)
		}
		rigs[0].pass(45 * time.Second)
		for i, r := range rigs { // one comes back late
			if i > 0 {
				r.store.silence(false)
			}
		}
		rigs[0].pass(22 * time.Second)
		rigs[0].store.silence(false)
		rigs[0].pass(2 * time.Minute)
		for _, r := range rigs {
			if deaths, fenced := r.seen(worker.EventDeath), r.seen(worker.EventFenced); len(deaths)+len(fenced) > 0 {
				t.Errorf("deaths %v, fenced %v", deaths, fenced)
			}
		}
		rigs[0].nothingLeft()
	})
}

// Heartbeats go on for as long as a handler runs after the worker was told to stop.
func TestDrainIsNoDeath(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		id := db.add(1, wire.Job{})[0]
		draining := newRig(t, db, takes(90*time.Second), func(s *setup) { s.DrainTimeout = 2 * time.Minute })
		draining.pass(time.Second)
		other := newRig(t, db, takes(time.Millisecond))
		other.pass(time.Second)
		draining.cancel()
		other.pass(100 * time.Millisecond)
		db.mu.Lock()
		if !db.workers[draining.worker.Health().WorkerID].Stopping {
			t.Error("the row does not say that the worker stops")
		}
		db.mu.Unlock()
		if err := draining.wait(); err != nil {
			t.Error(err)
		}
		if took := time.Since(draining.start); took < 90*time.Second || took > 91*time.Second {
			t.Errorf("the drain took %v", took)
		}
		if deaths := other.seen(worker.EventDeath); len(deaths) > 0 || db.job(id) != nil {
			t.Errorf("deaths %v, job %+v", deaths, db.job(id))
		}
		other.pass(time.Minute)
		if calls := other.store.calls(opRescue); len(calls) > 0 {
			t.Errorf("a worker that stopped with nothing left was rescued %d times", len(calls))
		}
		other.nothingLeft()
	})
}

// The rescue is a condition: whoever fails half-way is followed by whoever looks next.
func TestRescueGoesOn(t *testing.T) {
	t.Parallel()
	for _, op := range []string{opDeclare, opRescue, opUnlocked} {
		for _, applied := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				db := newDB(t)
				id := db.add(1, wire.Job{})[0]
				victim := newRig(t, db, forever)
				victim.pass(time.Second)
				other := newRig(t, db, takes(time.Millisecond), failing(op, 3, applied))
				other.pass(10 * time.Second)
				victim.kill()
				other.pass(30 * time.Second)
				if db.job(id) != nil {
					t.Errorf("%s fails, applied %v: the job has not run", op, applied)
				}
			})
		}
	}
}

// A worker whose row was deleted by hand leaves nothing behind that others do not find.
func TestRowDeletedByHand(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		id := db.add(1, wire.Job{Queue: "q"})[0]
		victim := newRig(t, db, forever)
		victim.pass(time.Second)
		other := newRig(t, db, takes(time.Millisecond))
		other.pass(10 * time.Second)
		dead := victim.kill()
		contractDB{db}.Forget(dead)
		other.pass(29 * time.Second)
		if lockedByOther(db, id, dead) || db.job(id) == nil {
			t.Error("the job was released before the row was gone for 30 seconds")
		}
		other.pass(10 * time.Second)
		if db.job(id) != nil {
			t.Error("the job has not run")
		}
	})
}

// The same if nobody who lives has ever seen the row: the locks say whose they are (X05).
func TestRowDeletedBeforeAnybodyLooked(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		id := db.add(1, wire.Job{Queue: "q"})[0]
		victim := newRig(t, db, forever)
		victim.pass(10 * time.Second)
		contractDB{db}.Forget(victim.kill())
		next := newRig(t, db, takes(time.Millisecond))
		next.pass(29 * time.Second)
		if db.job(id) == nil {
			t.Error("the job was released before the row was known to be gone for 30 seconds")
		}
		next.pass(10 * time.Second)
		next.nothingLeft()
	})
}

// What an earlier process of this machine has left runs at once when the next one starts, if it can
// be seen that it is gone.
func TestRestartOnTheSameMachine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		id := db.add(1, wire.Job{})[0]
		victim := newRig(t, db, forever, gone(t))
		victim.pass(10 * time.Second)
		victim.kill()
		next := newRig(t, db, takes(time.Millisecond))
		next.pass(500 * time.Millisecond)
		if db.job(id) != nil {
			t.Error("the job has not run")
		}
	})
}

// A session lock that is held, by a connection that is half open or by a clone of the machine,
// keeps a process from being declared dead only because it is not here.
func TestGoneIsNotEnough(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		db.add(1, wire.Job{})
		elsewhere := newRig(t, db, takes(20*time.Second), gone(t))
		elsewhere.pass(10 * time.Second)
		next := newRig(t, db, takes(time.Millisecond))
		next.pass(30 * time.Second)
		if deaths := next.seen(worker.EventDeath); len(deaths) > 0 {
			t.Errorf("deaths %v", deaths)
		}
		next.nothingLeft()
	})
}
