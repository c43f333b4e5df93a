//go:build unix

package main

import (
	"fmt"
	"slices"

	"github.com/backfillhq/go/backfill"
)

// requeues is what the process says that requeues dead letters.
type requeues struct {
	calls []*requeueCall
	open  map[int]*requeueCall // of each process, the latest
	acted map[int64]int        // how often each dead letter was requeued
	jobs  map[int64]bool
}

// requeueCall is a call that may have requeued dead letters.
type requeueCall struct {
	at      int64
	unknown bool // it may have done so without saying it: it returned an error, or not at all, or found something else later
}

func newRequeues() requeues {
	return requeues{open: map[int]*requeueCall{}, acted: map[int64]int{}, jobs: map[int64]bool{}}
}

func (q *requeues) add(r record) error {
	call := q.open[r.Proc]
	if r.Op != opRequeuing && call == nil {
		return fmt.Errorf("process %d has an answer to a requeue and did not call it", r.Proc)
	}
	switch r.Op { //nolint:exhaustive // the others are no requeue's
	case opRequeuing:
		q.open[r.Proc] = &requeueCall{at: r.At, unknown: true}
		q.calls = append(q.calls, q.open[r.Proc])
	case opReturned:
		call.unknown = false
	case opRequeued:
		switch backfill.DeadLetterSkip(r.Text) { //nolint:exhaustive // the others changed nothing
		case "":
			q.acted[r.N]++
			q.jobs[r.Job] = true
		case backfill.SkipUnknown:
			q.calls = append(q.calls, &requeueCall{at: call.at, unknown: true})
		}
	}
	return nil
}

// unknownIn reports whether a call whose outcome is not known began in a time.
func (q *requeues) unknownIn(from, to int64) bool {
	return slices.ContainsFunc(q.calls, func(c *requeueCall) bool { return c.unknown && from < c.at && c.at < to })
}

// letters checks what is left of each job that fails for good on purpose: one dead letter, or
// nothing if it was requeued and done.
func (v *verdict) letters(f *findings) {
	for _, r := range v.trial.sorted() {
		if r.kind.doomed() {
			v.letter(f, r)
		}
	}
}

func (v *verdict) letter(f *findings, r *request) {
	y := &v.tallies[v.trial.windowAt(r.at)]
	var letters, jobs []*record
	for _, row := range r.rows {
		if row.Letter != nil {
			letters = append(letters, row)
		} else {
			jobs = append(jobs, row)
		}
	}
	done := slices.ContainsFunc(r.runs, func(it *run) bool { return it.finished(r.n) })
	if r.answer == opAcked || len(r.runs) > 0 {
		v.doomed++
	}
	if done {
		v.mended++
	}
	if len(letters) > 0 {
		y.letters++
	}
	v.requeuedOnce(f, r)
	switch {
	case len(letters) > 1:
		y.lettersDoubled++
		f.add("dead letter", "%s has %d dead letters", r.name(), len(letters))
	case len(letters) == 1:
		v.oneLetter(f, r, letters[0], jobs, done)
	case len(jobs) > 0:
		f.add("not run", "%s is in the table still, at attempt %d, locked by %q", r.name(), jobs[0].Attempt, jobs[0].Name)
	case !done && (r.answer == opAcked || len(r.runs) > 0):
		y.lettersLost++
		f.add("dead letter", "%s is gone without a dead letter; it started %d times, and was not done", r.name(), len(r.runs))
	}
}

// oneLetter checks what a dead letter says, and that nothing else is left of its job. One that is
// requeued, and whose job is done, is left until the next sweep.
func (v *verdict) oneLetter(f *findings, r *request, row *record, jobs []*record, done bool) {
	y := &v.tallies[v.trial.windowAt(r.at)]
	l := row.Letter
	failures := l.Requeues + 1
	if l.RequeuedAs != 0 {
		failures--
	}
	attempts := l.Failures // at least
	if r.kind == kindExhausted {
		attempts *= exhaustedAfter
	}
	failed := 0
	for _, it := range r.runs {
		if it.outcome == opFailed {
			failed++
		}
	}
	acted := v.trial.requeues.acted[l.ID]
	live := slices.ContainsFunc(jobs, func(job *record) bool { return job.Job == l.RequeuedAs })
	switch {
	case done && l.RequeuedAs == 0:
		y.lettersDoubled++
		f.add("dead letter", "%s was done, and is the dead letter %d as well", r.name(), l.ID)
	case len(jobs) > 1 || len(jobs) == 1 && !live:
		y.lettersDoubled++
		f.add("dead letter", "%s is the dead letter %d and %d jobs, one of which is job %d", r.name(), l.ID, len(jobs), jobs[0].Job)
	case live:
		f.add("not run", "%s is in the table still, requeued, at attempt %d, locked by %q", r.name(), jobs[0].Attempt, jobs[0].Name)
	case l.RequeuedAs != 0 && !done:
		y.lettersLost++
		f.add("dead letter", "%s was requeued from the dead letter %d as job %d, which is gone and was not done", r.name(), l.ID, l.RequeuedAs)
	case l.Reason != string(r.kind):
		f.add("dead letter", "%s has the reason %q", r.name(), l.Reason)
	case row.Key != r.key:
		f.add("dead letter", "%s has the key %q, and was enqueued with %q", r.name(), row.Key, r.key)
	case l.Failures != failures:
		f.add("dead letter", "%s has failed for good %d times, was requeued %d times, and is requeued as job %d", r.name(), l.Failures, l.Requeues, l.RequeuedAs)
	case failed < attempts:
		f.add("dead letter", "%s has failed for good %d times, of %d runs that failed", r.name(), l.Failures, failed)
	case l.Requeues < acted:
		f.add("dead letter", "%s was requeued %d times, says the dead letter %d, and %d times, say the answers", r.name(), l.Requeues, l.ID, acted)
	case l.Requeues != len(r.firsts())-1:
		f.add("dead letter", "%s was requeued %d times, says the dead letter %d, and ran as %d jobs", r.name(), l.Requeues, l.ID, len(r.firsts()))
	}
}

// requeuedOnce checks that each job of a request but the first is that of a requeue.
func (v *verdict) requeuedOnce(f *findings, r *request) {
	firsts := r.firsts()
	for i, it := range firsts {
		if i > 0 && !v.trial.requeues.jobs[it.job] && !v.trial.requeues.unknownIn(firsts[i-1].start, it.start) {
			f.add("dead letter", "%s ran as job %d, and then as job %d, which nobody has requeued", r.name(), firsts[i-1].job, it.job)
		}
	}
}

// firsts are the first runs of each job that a request was.
func (r *request) firsts() (firsts []*run) {
	for _, it := range r.runs {
		if !slices.ContainsFunc(firsts, func(first *run) bool { return first.job == it.job }) {
			firsts = append(firsts, it)
		}
	}
	return firsts
}
