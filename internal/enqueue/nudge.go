package enqueue

import (
	"context"
	"sync"
	"time"
)

// transactionNudges is when the workers are nudged after an enqueue in a transaction whose commit
// we do not see (R17).
var transactionNudges = [...]time.Duration{2 * time.Millisecond, 20 * time.Millisecond, 200 * time.Millisecond}

const (
	// nudgeInterval is the least time between two nudges.
	nudgeInterval = time.Millisecond
	// piggybackTime is how long an insert that takes its notification along keeps back the others.
	piggybackTime = 20 * time.Millisecond
	// lastNudge is how long Close waits for the nudges that are left.
	lastNudge = 2 * time.Second
)

// Nudger tells the workers that jobs were inserted: one notification at a time for all that came
// meanwhile, after the commit and outside of any transaction of the application (R17). A lost nudge
// costs a poll, never a job.
type Nudger struct {
	send func(jobs int)
	stop context.CancelFunc // ends the nudge under way

	mu        sync.Mutex
	pending   int
	sending   bool      // one is under way, or about to be
	piggyback uint64    // number of the insert that sends it, see Piggyback; 0: none
	numbers   uint64    // given to such inserts
	sent      time.Time // when the last one was
	closed    bool
	idle      sync.Cond
	later     [len(transactionNudges)]struct {
		armed   bool
		jobs    int
		request time.Time // of the last enqueue that this timer is for
	}
}

// NewNudger returns a nudger. send limits its own time, and fail is told why a notification could
// not be sent.
func NewNudger(send func(ctx context.Context, jobs int) error, fail func(error)) *Nudger {
	open, stop := context.WithCancel(context.Background())
	n := &Nudger{stop: stop, send: func(jobs int) {
		if err := send(open, jobs); err != nil {
			fail(err)
		}
	}}
	n.idle.L = &n.mu
	return n
}

// Nudge notifies the workers of jobs whose commit is acknowledged.
func (n *Nudger) Nudge(jobs int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.closed {
		n.nudgeLocked(jobs)
	}
}

func (n *Nudger) nudgeLocked(jobs int) {
	n.pending += jobs
	if !n.sending && n.pending > 0 {
		n.sending = true
		go n.run()
	}
}

// NudgeAfterCommit notifies the workers of jobs that a transaction will commit, we don't know when:
// about 2, 20 and 200 ms from now.
func (n *Nudger) NudgeAfterCommit(jobs int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i := range n.later {
		n.later[i].jobs += jobs
		n.later[i].request = time.Now()
		if !n.later[i].armed {
			n.later[i].armed = true
			time.AfterFunc(transactionNudges[i], func() { n.fire(i) })
		}
	}
}

// fire nudges, and arms the timer again if there was an enqueue since it was armed.
func (n *Nudger) fire(i int) {
	n.mu.Lock()
	later := &n.later[i]
	jobs := later.jobs
	wait := time.Until(later.request.Add(transactionNudges[i]))
	later.armed = wait > 0 && !n.closed
	if later.armed {
		jobs = 0
		time.AfterFunc(wait, func() { n.fire(i) })
	} else {
		later.jobs = 0
	}
	n.mu.Unlock()
	n.Nudge(jobs)
}

func (n *Nudger) run() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for n.pending > 0 {
		wait := time.Until(n.sent.Add(nudgeInterval))
		if wait > 0 && !n.closed {
			n.mu.Unlock()
			<-time.After(wait)
			n.mu.Lock()
		}
		jobs := n.pending
		n.pending = 0
		n.mu.Unlock()
		n.send(jobs)
		n.mu.Lock()
		n.sent = time.Now()
	}
	n.sending = false
	n.idle.Broadcast()
}

// Piggyback implements the type of this name: it agrees while no nudge is under way. That saves
// the workers a round trip, and nudges are one at a time all the same (R17). An insert that is
// still not done after piggybackTime, because the server is slow or away, does not keep back
// others any longer.
func (n *Nudger) Piggyback() (done func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.sending || n.closed || time.Since(n.sent) < nudgeInterval {
		return nil
	}
	n.sending = true
	n.numbers++
	number := n.numbers
	n.piggyback = number
	late := time.AfterFunc(piggybackTime, func() { n.endPiggyback(number, time.Time{}) })
	return func() {
		late.Stop()
		n.endPiggyback(number, time.Now())
	}
}

// endPiggyback sends what came meanwhile.
func (n *Nudger) endPiggyback(number uint64, sent time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.piggyback != number {
		return // it was late
	}
	n.piggyback = 0
	if !sent.IsZero() {
		n.sent = sent
	}
	if n.pending > 0 {
		go n.run()
		return
	}
	n.sending = false
	n.idle.Broadcast()
}

// Close sends what is left to send, for transactions that have not been nudged for three times as
// well, and then no more. It gives up after lastNudge.
func (n *Nudger) Close() {
	defer n.stop()
	defer time.AfterFunc(lastNudge, n.stop).Stop()
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.closed {
		n.nudgeLocked(n.later[len(n.later)-1].jobs)
	}
	n.closed = true
	for n.sending {
		n.idle.Wait()
	}
}
