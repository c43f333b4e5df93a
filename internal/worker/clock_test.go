package worker_test

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// clocks are those of a worker's machine. Go's clock is the bubble's.
type clocks struct {
	mu          sync.Mutex
	stepped     time.Duration // of the wall clock
	slept       time.Duration
	withoutBoot bool // as on other systems than Linux
}

func (c *clocks) read() worker.Moment {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := time.Now()
	m := worker.Moment{At: at, Wall: at.Round(0).Add(c.stepped + c.slept)}
	if !c.withoutBoot {
		m.Boot = at.Sub(time.Time{}.AddDate(1999, 0, 0)) + c.slept
	}
	return m
}

// loseBoot makes the machine one that has no clock which counts a sleep and nothing else.
func (c *clocks) loseBoot() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.withoutBoot = true
}

// step sets the wall clock.
func (c *clocks) step(by time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stepped += by
}

// sleep suspends the machine: of the process, nothing goes on meanwhile, nor does Go's clock.
func (c *clocks) sleep(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.slept += d
}

// A wall clock that somebody sets fences nobody, where a clock tells that from a sleep; elsewhere
// one that is set forward looks like a sleep. A worker whose machine has slept for longer than its
// lease cancels its jobs of queues before it does anything else, whatever its wall clock says.
// Others go on, and so does it under its id, because nobody took it for dead.
func TestClockJumps(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	for name, test := range map[string]struct {
		step, sleep             time.Duration
		fenced, fencedElsewhere bool
	}{
		"an hour forward":           {time.Hour, 0, false, true},
		"a day forward":             {day, 0, false, true},
		"an hour backward":          {-time.Hour, 0, false, false},
		"a day backward":            {-day, 0, false, false},
		"asleep":                    {0, time.Minute, true, true},
		"asleep and a day forward":  {day, time.Minute, true, true},
		"asleep and a day backward": {-day, time.Minute, true, false},
		"asleep for a moment":       {0, 5 * time.Second, false, false},
	} {
		for _, elsewhere := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				db := newDB(t)
				queued, free := db.add(1, wire.Job{Queue: "q"})[0], db.add(1, wire.Job{})[0]
				var causes causes
				r := newRig(t, db, causes.obey(5*time.Minute), concurrency(3))
				if elsewhere {
					r.clocks.loseBoot()
				}
				other := newRig(t, db, takes(0), func(s *setup) { s.Tasks = []string{"other"} })
				r.pass(11 * time.Second)
				id := r.worker.Health().WorkerID
				for beats := len(r.store.calls(opBeat)); len(r.store.calls(opBeat)) == beats; {
					r.pass(10 * time.Millisecond)
				}
				r.clocks.step(test.step)
				r.clocks.sleep(test.sleep)
				r.pass(1100 * time.Millisecond) // before the next heartbeat
				want := test.fenced
				if elsewhere {
					want = test.fencedElsewhere
				}
				if silent := r.seen(worker.EventSilent); (len(silent) > 0) != want {
					t.Errorf("%s, elsewhere %v: fenced %v", name, elsewhere, silent)
				}
				if got := causes.of(queued); errors.Is(got, worker.ErrLeaseLost) != want {
					t.Errorf("%s, elsewhere %v: the queue's job ended with %v", name, elsewhere, got)
				}
				r.pass(10 * time.Minute)
				if now := r.worker.Health(); now.WorkerID != id || now.Silent || causes.of(free) != nil {
					t.Errorf("%s, elsewhere %v: afterwards the worker is %+v, and the other job ended with %v", name, elsewhere, now, causes.of(free))
				}
				if silent := r.seen(worker.EventSilent); len(silent) > 1 {
					t.Errorf("%s, elsewhere %v: fenced %d times", name, elsewhere, len(silent))
				}
				if deaths := append(r.seen(worker.EventDeath), other.seen(worker.EventDeath)...); len(deaths) > 0 {
					t.Errorf("%s, elsewhere %v: deaths %v", name, elsewhere, deaths)
				}
				r.nothingLeft()
			})
		}
	}
}

// An answer that was on its way while the machine slept says that the heartbeat arrived, and not that
// its lease has lasted: the worker is fenced once, until a heartbeat of after the sleep is answered.
func TestAnswerFromBeforeASleep(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		db.add(1, wire.Job{Queue: "q"})
		var causes causes
		const latency = 1500 * time.Millisecond // the fence looks each second
		r := newRig(t, db, causes.obey(30*time.Second), func(s *setup) { s.latency[opBeat] = latency })
		r.pass(11 * time.Second)
		for beats := len(r.store.calls(opBeat)); len(r.store.calls(opBeat)) == beats; {
			r.pass(10 * time.Millisecond)
		}
		r.clocks.sleep(time.Minute)
		r.pass(latency)
		if !r.worker.Health().Silent {
			t.Error("the answer from before the sleep has ended the silence")
		}
		r.pass(10 * time.Second)
		if silent := r.seen(worker.EventSilent); len(silent) != 1 || r.worker.Health().Silent {
			t.Errorf("fenced %v; it is %+v", silent, r.worker.Health())
		}
		r.pass(time.Minute)
		r.nothingLeft()
	})
}

// A worker whose machine has slept starts no job of a queue, not even in the moment before its
// fence falls: another may run it.
func TestNothingOfAQueueStartsAfterASleep(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		var r *rig
		slept := time.Duration(-1)
		r = newRig(t, db, takes(0), func(s *setup) {
			s.answer = func(_ worker.ClaimRequest, claimed *worker.Claimed) {
				if len(claimed.Jobs) > 0 && slept < 0 {
					slept = time.Since(s.start)
					r.clocks.sleep(time.Minute) // while the answer is on its way
				}
			}
		})
		r.pass(time.Second)
		queued := db.insert(1, wire.Job{Queue: "q"})[0]
		r.pass(10 * time.Second)
		silent, runs := r.seen(worker.EventSilent), r.started()
		if len(silent) != 1 || silent[0].At != slept {
			t.Errorf("slept %v after the start, fenced %v", slept, silent)
		}
		if len(runs) != 1 || runs[0].Job != queued || runs[0].At == slept {
			t.Errorf("slept %v after the start, and ran %v", slept, runs)
		}
		r.nothingLeft()
	})
}

// An observer whose machine has slept starts its observations over: it has seen 14 s of silence,
// slept, and seen nothing of what the other did meanwhile.
func TestObserverThatHasSlept(t *testing.T) {
	t.Parallel()
	for _, sleep := range []time.Duration{0, time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			db := newDB(t)
			db.add(1, wire.Job{})
			dead := newRig(t, db, takes(time.Second), concurrency(1))
			observer := newRig(t, db, takes(0))
			dead.pass(20 * time.Second)
			dead.kill()
			observer.pass(14 * time.Second)
			observer.clocks.sleep(sleep)
			slept := time.Since(observer.start)
			observer.pass(time.Minute)
			deaths := observer.seen(worker.EventDeath)
			if len(deaths) != 1 {
				t.Fatalf("deaths %v", deaths)
			}
			if after := deaths[0].At - slept; (after >= 30*time.Second) != (sleep > 0) {
				t.Errorf("asleep for %v, it declared the other dead %v later", sleep, after)
			}
			observer.nothingLeft()
		})
	}
}
