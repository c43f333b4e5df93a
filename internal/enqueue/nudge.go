package enqueue

import (
	"context"
	"sync"
	"time"
)

// transactionNudges is when the workers are nudged after an enqueue in a transaction whose commit we do not see (R17).
var transactionNudges = [...]time.Duration{2 * time.Millisecond, 20 * time.Millisecond, 200 * time.Millisecond}

// nudgeInterval is the least time between two nudges.
const nudgeInterval = time.Millisecond

// Nudger tells the workers that jobs were inserted: one notification at a time for all that came meanwhile, after the commit
// and outside of any transaction of the application (R17). A lost nudge costs a poll, never a job.
type Nudger struct {
	send func(ctx context.Context, jobs int) error
	fail func(error)

	mu      sync.Mutex
	pending int
	sending bool      // one is under way, or about to be
	sent    time.Time // when the last one was
	closed  bool
	idle    sync.Cond
	later   [len(transactionNudges)]struct {
		armed   bool
		jobs    int
		request time.Time // of the last enqueue that this timer is for
	}
}

// NewNudger returns a nudger. fail is told why a notification could not be sent.
func NewNudger(send func(ctx context.Context, jobs int) error, fail func(error)) *Nudger {
	n := &Nudger{send: send, fail: fail}
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

// NudgeAfterCommit notifies the workers of jobs that a transaction will commit, we don't know when: about 2, 20 and 200 ms
// from now.
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
		n.sendOnce(jobs)
		n.mu.Lock()
		n.sent = time.Now()
	}
	n.sending = false
	n.idle.Broadcast()
}

// ride asks whether an insert may take its notification along, right behind its commit on its own connection. It may while no
// other is under way: that saves the workers a round trip, and one at a time for the process is the rule all the same (R17). The
// caller ends with rode or stayed.
func (n *Nudger) ride() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.sending || n.closed || time.Since(n.sent) < nudgeInterval {
		return false
	}
	n.sending = true
	return true
}

// rode ends a ride whose notification is sent.
func (n *Nudger) rode() { n.endRide(time.Now()) }

// stayed ends a ride that did not take place.
func (n *Nudger) stayed() { n.endRide(time.Time{}) }

// endRide sends what came meanwhile.
func (n *Nudger) endRide(sent time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
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

func (n *Nudger) sendOnce(jobs int) {
	ctx, cancel := context.WithTimeout(context.Background(), statementTimeout)
	defer cancel()
	if err := n.send(ctx, jobs); err != nil {
		n.fail(err)
	}
}

// Close sends what is left to send, for transactions that have not been nudged for three times as well, and then no more.
func (n *Nudger) Close() {
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
