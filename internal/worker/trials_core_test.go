package worker

import (
	"context"
	"testing"
	"time"

	"github.com/backfillhq/go/internal/conviction"
	"github.com/backfillhq/go/internal/wire"
)

// tryingCore is a core that runs a long job, has claimed another one, and has seen a suspect.
func tryingCore(t *testing.T, now time.Time) *core {
	t.Helper()
	c := newCore(Config{Concurrency: 1})
	c.state, c.registered = StateRunning, true
	c.trials.freeAt = now.Add(-time.Hour)
	c.buffer.add([]*lease{c.lease(&wire.Job{Lease: wire.Lease{ID: 1}, Task: "long"}, c.id, now)})
	if l, _ := c.start(context.Background(), func(error) {}, now); l == nil {
		t.Fatal("nothing was started")
	}
	c.buffer.add([]*lease{c.lease(&wire.Job{Lease: wire.Lease{ID: 2}, Task: "long"}, c.id, now)})
	c.seen(oneSuspect(), fleet{living: 2}, now)
	return &c
}

func oneSuspect() Suspects {
	return Suspects{Jobs: []conviction.Suspect{{Job: 9, Cohort: 1}}, Cohorts: map[int64]string{1: "c"}}
}

// finish ends what the core runs, and records it.
func (c *core) finish(now time.Time) {
	for _, l := range c.leases.all(leaseRunning) {
		c.ended(l, Outcome{Kind: OutcomeCompleted}, now)
	}
	for {
		s, part, _ := c.outbox.next(now)
		if len(part) == 0 {
			return
		}
		fates := make([]Fate, len(part))
		for i := range fates {
			fates[i].Kind = FateRecorded
		}
		c.settled(s, part, fates, now)
	}
}

// A worker that begins to empty itself gives back what has not started, says so in its row without
// waiting for the next heartbeat, and tries once it holds nothing. A trial that survives begins the
// count of vain attempts anew, and ends in its time although nothing else happens.
func TestCoreEmptiesAndTries(t *testing.T) {
	t.Parallel()
	now := time.Unix(1e9, 0)
	c := tryingCore(t, now)
	c.trials.vain = 3
	next, do := c.next(now)
	if next.claim || next.try != nil || !next.empties || !do.beat || c.buffer.len() != 0 {
		t.Errorf("next is %+v, do %+v, and %d jobs are in the buffer", next, do, c.buffer.len())
	}
	c.lastBeat = Moment{At: now, Wall: now}
	if beat, _ := c.beat(newLeaseTimes(1), false, Moment{At: now, Wall: now}); !beat.Write || !beat.Emptying {
		t.Errorf("the heartbeat is %+v", beat)
	}
	c.finish(now)
	next, _ = c.next(now)
	if next.try == nil || next.try.Cohort != "c" {
		t.Fatalf("then next is %+v", next)
	}
	c.tried(*next.try, Claimed{Alive: true, Jobs: []*wire.Job{{Lease: wire.Lease{ID: 9}, Task: "long"}}}, false, now)
	if l, _ := c.start(context.Background(), func(error) {}, now); l == nil {
		t.Fatal("the trial was not started")
	}
	next, _ = c.next(now)
	if next.claim || next.wait > 10*time.Second {
		t.Errorf("during the trial next is %+v", next)
	}
	now = now.Add(10 * time.Second)
	next, _ = c.next(now)
	if next.acquit == nil {
		t.Fatalf("after the trial next is %+v", next)
	}
	c.acquitted(next.acquit, now)
	if c.trials.vain != 0 || c.trials.emptying || c.unfinished() != 0 {
		t.Errorf("after the trial: %+v", c.trials)
	}
}

// Of two workers that empty themselves one gives up, and that was not in vain.
func TestCoreYields(t *testing.T) {
	t.Parallel()
	now := time.Unix(1e9, 0)
	c := tryingCore(t, now)
	c.next(now)
	c.seen(oneSuspect(), fleet{living: 2, busy: 1, emptying: true, yields: true}, now)
	if c.next(now); c.trials.emptying || c.trials.vain != 0 {
		t.Errorf("the worker is %+v", c.trials)
	}
}

// A worker that follows one which died in a trial claims for as long as that one had stopped.
func TestCoreRestsAfterAnothersTrial(t *testing.T) {
	t.Parallel()
	now := time.Unix(1e9, 0)
	c := newCore(Config{Concurrency: 1})
	c.state, c.registered = StateRunning, true
	c.afterTrial(LastTrial{Found: true, Stopped: 10 * time.Minute, Free: time.Minute}, now)
	for minutes, want := range map[int]bool{0: false, 8: false, 10: true} {
		c := c
		then := now.Add(time.Duration(minutes) * time.Minute)
		c.seen(oneSuspect(), fleet{living: 1}, then)
		if next, _ := c.next(then); (next.try != nil) != want {
			t.Errorf("after %d minutes next is %+v", minutes, next)
		}
	}
}

// The rows of the others say whose turn it is.
func TestFleetOfTheOthers(t *testing.T) {
	t.Parallel()
	o := newObserver(newLeaseTimes(1))
	now := time.Unix(1e9, 0)
	peers := []Peer{
		{ID: "b", Trying: true, Emptying: true},
		{ID: "c"},
		{ID: "d", Emptying: true},
		{ID: "e", Beats: -1},
		{ID: "f", Dead: true, Emptying: true},
	}
	o.read(1, peers, Moment{At: now, Wall: now})
	for own, want := range map[string]fleet{
		"a": {living: 4, busy: 2, emptying: true}, "z": {living: 4, busy: 2, emptying: true, yields: true},
	} {
		if got := o.fleet(own); got != want {
			t.Errorf("to %s the fleet is %+v, want %+v", own, got, want)
		}
	}
}
