//go:build unix

package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/backfillhq/go/backfill"
)

// cancels is what the process says that cancels jobs.
type cancels struct {
	calls map[int64][]*cancelCall // by request
	open  map[[2]int64]*cancelCall
	left  []int64 // jobs whose requests were left
}

// cancelCall is a call that may have cancelled a job.
type cancelCall struct {
	at, answered int64                // answered: 0: it returned an error, or not at all
	state        backfill.CancelState // "": the same
	worker       string
}

func newCancels() cancels {
	return cancels{calls: map[int64][]*cancelCall{}, open: map[[2]int64]*cancelCall{}}
}

func (c *cancels) add(r record) error {
	id := [2]int64{int64(r.Proc), r.N}
	if r.Op == opCancel {
		c.open[id] = &cancelCall{at: r.At}
		c.calls[r.N] = append(c.calls[r.N], c.open[id])
		return nil
	}
	call := c.open[id]
	if call == nil {
		return fmt.Errorf("process %d has an answer to a cancel of request %d and did not call it", r.Proc, r.N)
	}
	call.answered, call.state, call.worker = r.At, backfill.CancelState(r.Text), r.Name
	return nil
}

// cancelled reports whether a call said that the job never runs again.
func (c *cancelCall) cancelled() bool {
	return c.state == backfill.CancelDone || c.state == backfill.CancelRequested
}

// gone reports whether a call said that the job is not there any more.
func (c *cancelCall) gone() bool {
	return c.state == backfill.CancelDone || c.state == backfill.CancelTooLate || c.state == backfill.CancelUnknown
}

// mayCancel reports whether the call may have cancelled the job.
func (c *cancelCall) mayCancel() bool {
	return c.cancelled() || c.state == backfill.CancelUnknown || c.state == ""
}

// cancelled is the first call after which the job was not to run again; nil: there is none.
func (c *cancels) cancelled(n int64) *cancelCall {
	return first(c.calls[n], (*cancelCall).cancelled)
}

// mayHave reports whether a call may have cancelled the job.
func (c *cancels) mayHave(n int64) bool { return first(c.calls[n], (*cancelCall).mayCancel) != nil }

func first(calls []*cancelCall, is func(*cancelCall) bool) *cancelCall {
	if i := slices.IndexFunc(calls, is); i >= 0 {
		return calls[i]
	}
	return nil
}

// cancels checks that a job which was cancelled does not run afterwards, that one which was not is
// done, and that what each call said was so.
func (v *verdict) cancels(f *findings) {
	for _, r := range v.trial.sorted() {
		if !r.kind.unwanted() {
			continue
		}
		for _, call := range v.trial.cancels.calls[r.n] {
			v.answers[call.state]++
			v.answer(f, r, call)
		}
		v.unwanted(f, r)
	}
	for _, job := range v.trial.cancels.left {
		f.add("cancel", "the request to cancel job %d is left", job)
	}
}

// unwanted checks what became of a job.
func (v *verdict) unwanted(f *findings, r *request) {
	y := &v.tallies[v.trial.windowAt(r.at)]
	done := v.done(r)
	if r.once() && !r.hasOneStart() {
		f.add("cancel", "%s has one attempt, and started %d times", r.name(), len(r.runs))
	}
	switch call := v.trial.cancels.cancelled(r.n); {
	case call != nil:
		y.cancels++
		ran := v.ranAfter(f, r, call)
		for _, row := range r.rows {
			ran = ran || row.Letter != nil
			f.add("cancel", "%s was cancelled, and is left: at attempt %d, locked by %q, with the error %q", r.name(), row.Attempt, row.Name, row.Text)
		}
		if it := v.trial.committed(r); it != nil && !call.mayHaveCommitted(it) {
			ran = true
			f.add("cancel", "%s was %s, and has committed a row, by the run that ended %.3f s after the answer", r.name(), call.state, seconds(call.answered, it.end))
		}
		if ran {
			y.cancelsRan++
		}
	case r.left != nil && r.left.Count == 0:
		f.add("not run", "%s is in the table still, at attempt %d, locked by %q", r.name(), r.left.Attempt, r.left.Name)
	case r.left == nil && !done && r.answer == opAcked && !v.trial.cancels.mayHave(r.n):
		y.cancelsLost++
		f.add("lost", "%s was not cancelled, did not run to the end, and is gone; it started %d times", r.name(), len(r.runs))
	}
}

// mayHaveCommitted reports whether a transaction may be committed although its job was cancelled:
// its handler had ended, and the answer names no worker, because the row was locked for seconds.
func (c *cancelCall) mayHaveCommitted(it *run) bool {
	return c.state == backfill.CancelRequested && c.worker == "" && it.end <= c.answered
}

// startsWithin is how long after the answer a worker may start a job that it had claimed before: it
// gives back what it has not started within 250 ms.
const startsWithin = 1_000_000

// ranAfter checks that no run starts after a job was cancelled. A worker that had claimed it may be
// about to start it when the answer comes, once.
func (v *verdict) ranAfter(f *findings, r *request, call *cancelCall) (ran bool) {
	late := 0
	for _, it := range r.runs {
		after := it.start - call.answered
		if it.node {
			after -= nodeClock
		}
		if after <= 0 {
			continue
		}
		if call.state == backfill.CancelRequested && after < startsWithin && v.trial.pools[call.worker] == it.proc && late == 0 {
			late++
			continue
		}
		ran = true
		f.add("cancel", "%s was %s, and started %.3f s after the answer, in %s; the answer names %q",
			r.name(), call.state, seconds(call.answered, it.start), v.trial.lives[it.proc].name, call.worker)
	}
	v.startedLate += late
	return ran
}

// answer checks what a call said.
func (v *verdict) answer(f *findings, r *request, call *cancelCall) {
	switch {
	case call.state == backfill.CancelRefused:
		f.add("cancel", "%s was refused by the server", r.name())
	case call.state == backfill.CancelForeign && !v.trial.isNode(call.worker):
		f.add("cancel", "%s was said to run in Node, by %q, which is none", r.name(), call.worker)
	case call.gone():
		v.answerGone(f, r, call)
	}
}

// answerGone checks that a job was gone: no handler has it, and none gets it again. One that was
// too late to be cancelled had come to its end.
func (v *verdict) answerGone(f *findings, r *request, call *cancelCall) {
	for _, it := range r.runs {
		end := it.end
		if it.node {
			end -= nodeClock
		}
		if it.start < call.answered && call.answered < end && !v.mayOverlap(it.start, call.answered) {
			f.add("cancel", "%s was %s %.3f s before its run had ended", r.name(), call.state, seconds(call.answered, it.end))
			return
		}
	}
	started := slices.ContainsFunc(r.runs, func(it *run) bool { return it.start > call.answered+nodeClock })
	switch {
	case started && v.trial.cancels.cancelled(r.n) == nil: // else it is told of there
		f.add("cancel", "%s was %s, and started after that", r.name(), call.state)
	case call.state == backfill.CancelTooLate && !r.over() && !v.doneBefore(r, call.answered) && !v.trial.cancels.mayHaveBefore(r.n, call.at):
		f.add("cancel", "%s was too late to be cancelled, and nothing says that it had ended", r.name())
	}
}

// mayHaveBefore reports whether a call that began before a time may have cancelled the job.
func (c *cancels) mayHaveBefore(n, at int64) bool {
	return slices.ContainsFunc(c.calls[n], func(call *cancelCall) bool { return call.at < at && call.mayCancel() })
}

// done reports whether the job was done: with its row, if it is transactional.
func (v *verdict) done(r *request) bool {
	if r.kind == kindUnwantedEffect {
		return v.trial.committed(r) != nil
	}
	return slices.ContainsFunc(r.runs, func(it *run) bool { return it.finished(r.n) })
}

// doneBefore reports whether the handler had ended before a time, and the job was done.
func (v *verdict) doneBefore(r *request, at int64) bool {
	return v.done(r) && slices.ContainsFunc(r.runs, func(it *run) bool { return it.finished(r.n) && it.end <= at+nodeClock })
}

func (r *request) once() bool { return string(r.way) == once }

// hasOneStart reports whether a request started once at most.
func (r *request) hasOneStart() bool { return len(r.runs) <= 1 }

// over reports whether the job failed for good, as one with one attempt may: it is a dead letter,
// or, where Node ran it, a row without attempts.
func (r *request) over() bool { return r.once() && r.left != nil && r.left.Count == 1 }

// isNode reports whether a worker's id is that of a pool of Node's.
func (t *trial) isNode(worker string) bool {
	l := t.lives[t.pools[worker]]
	return l != nil && l.duty == dutyNode
}

// printCancels says what the calls said.
func (v *verdict) printCancels(out io.Writer) {
	var said []string
	total := 0
	for _, state := range []backfill.CancelState{
		backfill.CancelDone, backfill.CancelRequested, backfill.CancelTooLate, backfill.CancelForeign, backfill.CancelLocked, backfill.CancelUnknown,
	} {
		said = append(said, fmt.Sprintf("%d %s", v.answers[state], strings.ReplaceAll(string(state), "_", " ")))
		total += v.answers[state]
	}
	if total == 0 {
		return
	}
	fmt.Fprintf(out, "Of %d answers to cancels, %s. %d calls returned an error, or did not return. %d jobs that a worker had claimed before started just after the answer \"requested\".\n",
		total, strings.Join(said, ", "), v.answers[""], v.startedLate)
}
