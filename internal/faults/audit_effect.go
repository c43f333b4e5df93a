//go:build unix

package main

import (
	"fmt"
	"io"
)

// effect is a row that a transactional handler has committed.
type effect struct {
	job    int64
	run    [2]int64 // process and number
	follow int64    // 0: none
}

func newEffect(r record) effect {
	e := effect{job: r.Job, run: [2]int64{int64(r.Count), r.Run}}
	if len(r.Ns) > 0 {
		e.follow = r.Ns[0]
	}
	return e
}

// follow gives follow-ups their answer: those that a row names were enqueued, the others were
// rolled back.
func (t *trial) follow() {
	for _, r := range t.requests {
		if r.kind == kindFollow {
			r.answer = opRefused
		}
	}
	for _, rows := range t.effects {
		for _, e := range rows {
			if r := t.requests[e.follow]; r != nil {
				r.answer = opAcked
			}
		}
	}
}

// committed is the run that wrote the row of an effect; nil: there is no row.
func (t *trial) committed(r *request) *run {
	for _, e := range t.effects[r.n] {
		if it := t.runs[e.run]; it != nil {
			return it
		}
	}
	return nil
}

// effects checks that each transactional job and its row came about together. That an acknowledged
// one has not come to its end at all, or its follow-up, is found beside this, as of all others.
func (v *verdict) effects(f *findings) {
	for _, r := range v.trial.sorted() {
		switch r.kind { //nolint:exhaustive // the others are not transactional
		case kindEffect, kindUnwantedEffect:
			v.effect(f, r)
		case kindFollow:
			v.followUp(f, r)
		}
	}
}

func (v *verdict) effect(f *findings, r *request) {
	y := &v.tallies[v.trial.windowAt(r.at)]
	rows := v.trial.effects[r.n]
	for _, e := range rows {
		if it := v.trial.runs[e.run]; it == nil || it.outcome != opEnded || it.job != e.job || it.ns[0] != r.n {
			f.add("effect", "%s has a row of the run %d of process %d, which did not return nil", r.name(), e.run[1], e.run[0])
		}
	}
	switch {
	case len(rows) > 1:
		y.effectsDoubled++
		f.add("effect", "%s has %d rows", r.name(), len(rows))
	case len(rows) == 1 && r.left != nil:
		f.add("effect", "%s has a row, and its job is left: at attempt %d, locked by %q, with the error %q", r.name(), r.left.Attempt, r.left.Name, r.left.Text)
	case len(rows) == 0 && r.left == nil && !v.trial.cancels.mayHave(r.n) && (r.answer == opAcked || len(r.runs) > 0):
		y.effectsLost++
		if r.answer != opAcked { // else it is lost as any other
			f.add("effect", "%s started %d times, and is gone without a row", r.name(), len(r.runs))
		}
	}
	if len(rows) > 0 && r.answer == opAcked {
		y.effects++
	}
}

func (v *verdict) followUp(f *findings, r *request) {
	if r.answer != opAcked {
		return
	}
	v.follows++
	y := &v.tallies[v.trial.windowAt(r.at)]
	done := false
	jobs := map[int64]bool{}
	for _, row := range r.rows {
		jobs[row.Job] = true
	}
	for _, it := range r.runs {
		jobs[it.job] = true
		done = done || it.finished(r.n)
	}
	switch {
	case len(jobs) > 1:
		y.effectsDoubled++
		f.add("effect", "%s was enqueued once, and is %d jobs", r.name(), len(jobs))
	case !done && r.left == nil:
		y.effectsLost++
	}
}

// printOutcomes says what else became of effects and of jobs that fail for good on purpose.
func (v *verdict) printOutcomes(out io.Writer) {
	effects := 0
	for _, rows := range v.trial.effects {
		effects += len(rows)
	}
	if effects > 0 {
		fmt.Fprintf(out, "%d effects had %d follow-ups.\n", effects, v.follows)
	}
	if v.doomed > 0 {
		q := v.trial.requeues
		unknown := 0
		for _, call := range q.calls {
			if call.unknown {
				unknown++
			}
		}
		fmt.Fprintf(out, "Of %d jobs that fail for good on purpose, %d were done in the end. Dead letters were requeued %d times; %d times a call did not say what it had done.\n",
			v.doomed, v.mended, len(q.jobs), unknown)
	}
}
