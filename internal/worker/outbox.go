package worker

import (
	"slices"
	"strings"
	"time"
)

const (
	busyMin, busyMax = time.Millisecond, 500 * time.Millisecond
	refusedMax       = time.Minute      // between tries of an outcome that is refused in every form
	flushMax         = time.Second      // between tries while the server takes nothing
	busyLong         = 15 * time.Second // an outcome that waits for a row for as long is worth a line in the log
	dueNow           = time.Millisecond // a job that is due again within this is claimed at once
	maxRefused       = len(mended) - 1  // tries after which nothing is left to mend
)

// statement is one of those that record outcomes.
type statement int

const (
	statementComplete statement = iota
	statementRecord             // completes jobs of which the history keeps something
	statementFail
	statementRelease
	statementPark
	statements
)

// statementOf returns the statement that records how a lease ended.
func statementOf(l *lease) statement {
	switch l.outcome.Kind {
	case OutcomeCompleted:
		if l.kept {
			return statementRecord
		}
		return statementComplete
	case OutcomeFailed, OutcomeExhausted:
		return statementFail
	case OutcomeReturned:
		if l.suspect {
			return statementPark
		}
	case OutcomeSnoozed, OutcomeCanceled:
	}
	return statementRelease
}

// event returns the kind of event that reports what a statement has recorded.
func (s statement) event() EventKind {
	return [statements]EventKind{EventCompleted, EventCompleted, EventRecorded, EventReturned, EventReturned}[s]
}

// outbox holds the leases whose outcome waits to be recorded.
type outbox struct {
	ready   [statements][]*lease // in the order in which they ended
	waiting []*lease             // until their retry.after: a row that is locked, an outcome that is refused
	last    statement            // that was made
	// A statement that fails for a reason that is not the outcomes' is not made again before after.
	after    [statements]time.Time
	failures [statements]int // in a row
}

func (o *outbox) add(l *lease) {
	s := statementOf(l)
	o.ready[s] = append(o.ready[s], l)
}

// putBack makes leases the next ones to be recorded.
func (o *outbox) putBack(s statement, part []*lease) {
	o.ready[s] = slices.Concat(part, o.ready[s])
}

// next takes the leases of the next statement, in turn. If there are none, it returns
// how long there will be none.
func (o *outbox) next(now time.Time) (s statement, part []*lease, wait time.Duration) {
	wait = time.Hour
	o.waiting = slices.DeleteFunc(o.waiting, func(l *lease) bool {
		if now.Before(l.retry.after) {
			wait = min(wait, l.retry.after.Sub(now))
			return false
		}
		o.add(l)
		return true
	})
	for range statements {
		o.last = (o.last + 1) % statements
		s, list := o.last, o.ready[o.last]
		if len(list) == 0 {
			continue
		}
		if now.Before(o.after[s]) {
			wait = min(wait, o.after[s].Sub(now))
			continue
		}
		n := partOf(list)
		part = slices.Clone(list[:n])
		o.ready[s] = slices.Delete(list, 0, n)
		return s, part, 0
	}
	return 0, nil, wait
}

// hurry makes everything due that waits for a retry.
func (o *outbox) hurry() {
	o.after = [statements]time.Time{}
	for _, l := range o.waiting {
		l.retry.after = time.Time{}
	}
}

// partOf returns how many of these leases may be in one statement.
func partOf(list []*lease) int {
	most := maxBatch
	for i, l := range list {
		if l.retry.together > 0 {
			most = min(most, l.retry.together)
		}
		if i+1 >= most {
			return most
		}
	}
	return min(len(list), most)
}

// failed puts back a part whose statement failed for a reason that is not the outcomes'. All
// outcomes wait for one retry.
func (o *outbox) failed(s statement, part []*lease, now time.Time) (wait time.Duration) {
	for _, l := range part {
		l.retry.unsure = true
	}
	o.putBack(s, part)
	o.failures[s]++
	wait = backoff(o.failures[s], errorMin, flushMax)
	o.after[s] = now.Add(wait)
	return wait
}

// refused puts back a part of which the server refuses an outcome: in halves, so that it is soon
// alone, and then with its text mended (R19). It returns it when nothing is left to mend.
func (o *outbox) refused(s statement, part []*lease, now time.Time) (stuck []*lease) {
	if len(part) > 1 {
		for _, l := range part {
			l.retry.together = (len(part) + 1) / 2
		}
		o.putBack(s, part)
		return nil
	}
	l := part[0]
	l.retry.together = 1
	l.retry.refused++
	if l.retry.refused <= maxRefused {
		o.putBack(s, part)
		return nil
	}
	l.retry.after = now.Add(backoff(l.retry.refused-maxRefused, errorMin, refusedMax))
	o.waiting = append(o.waiting, l)
	return part
}

// busy puts back leases whose rows somebody else has locked: together, so that they meet again in
// one statement.
func (o *outbox) busy(part []*lease, now time.Time) {
	if len(part) == 0 {
		return
	}
	after := now.Add(backoff(part[0].retry.busy, busyMin, busyMax))
	for _, l := range part {
		l.retry.after = after
	}
	o.waiting = append(o.waiting, part...)
}

// mended are the forms of an outcome that are tried in turn when the server refuses one: as it is,
// with its texts in ASCII, without texts and payload, and then both once more without a dead letter.
// The sweep tries to make that one later.
var mended = [...]func(Outcome) Outcome{
	func(o Outcome) Outcome { return o },
	func(o Outcome) Outcome { o.Text, o.Log = ascii(o.Text), ascii(o.Log); return o },
	func(o Outcome) Outcome { o.Text, o.Log, o.Payload = "", "", nil; return o },
	func(o Outcome) Outcome { o.Text, o.Log, o.Reason = ascii(o.Text), "", ""; return o },
	func(o Outcome) Outcome { o.Text, o.Log, o.Payload, o.Reason = "", "", nil, ""; return o },
}

// ended returns what the statements about outcomes are given.
func ended(part []*lease, letters bool, now time.Time) []Ended {
	out := make([]Ended, len(part))
	for i, l := range part {
		out[i] = Ended{Lease: l.Lease, Outcome: l.form(letters), Again: l.retry.unsure}
		if l.kept && !l.began.IsZero() {
			out[i].Record = &Record{
				Task: l.Task, Queue: l.Queue, Key: l.Key, Took: l.took, Ago: now.Sub(l.began) - l.took,
				Output: out[i].Output, Log: out[i].Log,
			}
		}
	}
	return out
}

// form is the form of a lease's outcome that is to be recorded.
func (l *lease) form(letters bool) Outcome {
	outcome := l.outcome
	outcome.Reason = ""
	if letters && statementOf(l) == statementFail {
		outcome.Reason = l.outcome.reason()
	}
	return mended[min(l.retry.refused, maxRefused)](outcome)
}

// ascii replaces what an encoding of the server may not have.
func ascii(text string) string {
	return strings.Map(func(r rune) rune {
		if r > '~' || r < ' ' && r != '\n' && r != '\t' {
			return '?'
		}
		return r
	}, text)
}

// settled takes the fates of a part. It returns how many outcomes were recorded, apart from those
// of cancelled jobs, of which each is told by itself.
func (c *core) settled(s statement, part []*lease, fates []Fate, now time.Time) (recorded int, do actions) {
	c.outbox.failures[s] = 0
	return c.settle(part, fates, now)
}

func (c *core) settle(part []*lease, fates []Fate, now time.Time) (recorded int, do actions) {
	var busy []*lease
	var next [NextForeign + 1]int
	again, due := false, false
	for i, l := range part {
		fate := fates[i]
		due = due || fate.Due > 0
		if fate.Kind == FateBusy {
			l.retry.busy++
			busy = append(busy, l)
			continue
		}
		if fate.Kind == FateLost && !l.retry.unsure {
			c.leases.move(l, leaseLost, now)
			c.stats.Lost++
			c.doubts.leaseLost(l.workerID, now)
			c.trials.trial.withdraw(l.ID)
			do.lost = append(do.lost, l.Job)
		} else { // gone after a try whose outcome is unknown: that one was applied
			c.leases.move(l, leaseRecorded, now)
			if fate.Kind == FateLost && l.outcome.Kind == OutcomeCanceled && !l.outcome.Unsure {
				fate.Kind = FateCanceled
			}
			c.stats.count(l.outcome.Kind, fate.Kind)
			c.counts.ended(l, fate.Kind)
			if fate.Kind != FateCanceled {
				recorded++
			} else {
				request := fate.Request
				if l.canceled != nil {
					request = *l.canceled
				}
				do.canceled = append(do.canceled, canceled{CanceledJob{l.Job, request}, l.workerID})
			}
			if reason := l.form(c.letters).Reason; reason != "" && fate.Kind == FateExhausted {
				told := l.outcome.Kind == OutcomeExhausted || l.Attempt >= l.MaxAttempts
				do.dead = append(do.dead, dead{l.Job, l.workerID, reason, l.outcome.Err, told})
			}
		}
		switch {
		case fate.Due > dueNow:
			c.demand.due(now.Add(fate.Due))
		case fate.Due > 0:
			c.demand.wanted, again = true, true
		}
		if fate.Next != NextNone || fate.Kind == FateLost && l.QueueID != 0 {
			c.demand.freed()
			next[fate.Next]++
			if fate.Next == NextOwn && len(c.freed) < maxBatch {
				c.freed = append(c.freed, l.QueueID)
			}
		}
	}
	c.outbox.busy(busy, now)
	if c.once && recorded+len(do.canceled) > 0 && c.leases.held() == 0 { // handlers may have enqueued, and nobody listens
		c.demand.wanted = true
	}
	do.dispatch = c.demand.wanted || c.demand.queues || due || c.leases.held() == 0
	do.nudge = c.forOthers(again, next[NextOwn], next[NextForeign], now)
	return recorded, do
}

// longBusy returns a lease whose outcome has waited for a row for long, and how many there are; nil
// if there is none.
func (c *core) longBusy(now time.Time) (first *lease, n int) {
	for _, state := range []leaseState{leaseEnding, leaseAbandoned} {
		for _, l := range c.leases.in[state] {
			if l.retry.busy == 0 || now.Sub(l.since) < busyLong {
				continue
			}
			if n++; first == nil || l.since.Before(first.since) {
				first = l
			}
		}
	}
	return first, n
}

// forOthers returns how many of the jobs that became claimable this worker will not claim at once:
// one that was given back, and the first in line of queues that were freed. Others would find them
// only when they poll.
func (c *core) forOthers(again bool, own, foreign int, now time.Time) int {
	given := 0
	if again {
		given = 1
	}
	if given+own > 0 && c.state == StateRunning {
		c.pace.measure(now, c.idleSlots(), c.leases.in[leaseRunning])
		if c.room() > 0 {
			given = 0
		}
		if !c.filtered { // else it may be a job that we pass over
			own = max(0, own-c.serialRoom())
		}
	}
	return given + own + foreign
}

func (s *Stats) count(kind OutcomeKind, fate FateKind) {
	if fate == FateCanceled {
		s.Canceled++
		return
	}
	switch kind {
	case OutcomeCompleted:
		s.Completed++
	case OutcomeFailed, OutcomeExhausted:
		s.Failed++
		if fate == FateExhausted {
			s.Exhausted++
		}
	case OutcomeSnoozed:
		s.Snoozed++
	case OutcomeReturned, OutcomeCanceled: // if its request is gone, it runs again
		s.Returned++
	}
}
