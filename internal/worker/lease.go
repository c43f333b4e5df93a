package worker

import (
	"context"
	"slices"
	"time"

	"github.com/backfillhq/go/internal/wire"
)

// lease is one claim of one job, from the answer to the claim until the database has answered how
// the job ended. Its identity is the pair (job id, token): a worker can hold two leases of one job,
// of which one is lost.
type lease struct {
	*wire.Job

	workerID string // under which it was claimed
	state    leaseState
	since    time.Time     // when it entered the state
	place    int           // in leases.in[state]
	began    time.Time     // when its handler was called; zero: it was not
	took     time.Duration // until the handler had ended, or was given up
	kept     bool          // in the history

	ctx      context.Context         //nolint:containedctx // of its handler, without the task's timeout
	cancel   context.CancelCauseFunc // of its handler; nil: none has started
	handling bool                    // its handler has not returned
	suspect  bool                    // it is on trial: if it is given back, it waits for another one
	lost     bool                    // its handler was cancelled, because somebody else has ended it
	canceled *Request                // its handler was cancelled, or not started, because this requested it; nil: none
	saidLate bool                    // the log has said that its handler takes longer than expected

	ending    ending
	slotGiven bool // its handler is stuck, and its slot was given to others
	saidStuck bool // the log has said that it is stuck

	outcome Outcome // of a lease that is ending or abandoned
	retry   retry
}

// only reports whether the job has one attempt in all: it must not run twice (R9).
func (l *lease) only() bool { return l.MaxAttempts == 1 }

// interrupted is the outcome of a handler that was cancelled, or given up, without being at fault.
func (l *lease) interrupted() Outcome {
	if l.canceled != nil {
		return Outcome{Kind: OutcomeCanceled, Err: l.canceled.cause()}
	}
	if l.only() {
		return Outcome{Kind: OutcomeExhausted, Err: ErrInterrupted, Text: ErrInterrupted.Error(), Reason: ReasonInterrupted}
	}
	return Outcome{Kind: OutcomeReturned}
}

// retry is what earlier tries to record an outcome have shown.
type retry struct {
	after    time.Time // not to be tried before
	busy     int       // tries that found the row locked by somebody else
	refused  int       // tries, alone in the statement, that the server refused
	unsure   bool      // a try failed, and may have been applied all the same
	together int       // at most this many in one statement, to find the one that is refused; 0: any number
}

// leaseState is where a lease is in its life.
type leaseState int

// The states of a lease. A lease that is recorded or lost is no longer in the table.
const (
	leaseClaimed   leaseState = iota // waits in the buffer for a slot
	leaseRunning                     // its handler runs
	leaseEnding                      // its outcome is on its way to the database
	leaseAbandoned                   // given back while its handler runs; that is on its way to the database
	leaseRecorded                    // the database has its outcome
	leaseLost                        // somebody else has ended it
)

// leases are the leases that a worker holds, by state. It is the only place where a state changes.
type leases struct {
	in [leaseRecorded][]*lease
}

// add takes a lease that was just claimed.
func (t *leases) add(l *lease, now time.Time) {
	l.state, l.since, l.place = leaseClaimed, now, len(t.in[leaseClaimed])
	t.in[leaseClaimed] = append(t.in[leaseClaimed], l)
}

// move changes the state of a lease.
func (t *leases) move(l *lease, to leaseState, now time.Time) {
	from := t.in[l.state]
	last := len(from) - 1
	from[l.place] = from[last]
	from[l.place].place = l.place
	from[last] = nil
	t.in[l.state] = from[:last]
	l.state, l.since = to, now
	if to < leaseRecorded {
		l.place = len(t.in[to])
		t.in[to] = append(t.in[to], l)
	}
}

// held returns how many leases there are.
func (t *leases) held() int {
	n := 0
	for _, in := range t.in {
		n += len(in)
	}
	return n
}

// all returns the leases in one of these states.
func (t *leases) all(states ...leaseState) []*lease {
	var all []*lease
	for _, state := range states {
		all = slices.Concat(all, t.in[state])
	}
	return all
}

// tokens returns what the statements about leases are given.
func tokens(list []*lease) []wire.Lease {
	out := make([]wire.Lease, len(list))
	for i, l := range list {
		out[i] = l.Lease
	}
	return out
}
