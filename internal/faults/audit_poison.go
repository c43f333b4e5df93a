//go:build unix

package main

import (
	"fmt"
	"io"
	"math/bits"
	"slices"
	"strings"
)

// verdictCrashed is how the last error begins of a job that was found out to kill workers.
const verdictCrashed = "crashed: "

// ordeal is what a poison did until it was found out.
type ordeal struct {
	way    way
	deaths int // of workers that it killed
	held   int // the most jobs that one of these had locked
	others int // deaths of other workers meanwhile, each of which may make one of its own uncertain
	found  bool
}

// bound is how many workers a poison may kill: two before it is a suspect, one for each time that
// what was held with it is halved, and three with it alone.
func (o ordeal) bound() int { return 2 + bits.Len(uint(max(o.held, 1)-1)) + 3 + o.others } //nolint:gosec // not negative

// poisons checks that each poison was found out, and soon.
func (v *verdict) poisons(f *findings) {
	for _, r := range v.trial.sorted() {
		if r.kind != kindPoison || r.answer != opAcked {
			continue
		}
		o := v.trial.ordeal(r)
		v.ordeals = append(v.ordeals, o)
		switch {
		case r.left == nil:
			f.add("poison", "%s has no row: a dead letter was to be left", r.name())
		case !o.found:
			f.add("poison", "%s was not found out: it killed %d workers, and its row is at attempt %d, locked by %q, with the error %q",
				r.name(), o.deaths, r.left.Attempt, r.left.Name, r.left.Text)
		case o.deaths > o.bound():
			f.add("poison", "%s killed %d workers, which are more than the %d for %d jobs held and %d other deaths", r.name(), o.deaths, o.bound(), o.held, o.others)
		}
	}
}

// ordeal works out what a poison did.
func (t *trial) ordeal(r *request) ordeal {
	o := ordeal{way: r.way}
	if len(r.runs) > 0 {
		from, to := r.runs[0].start, r.runs[len(r.runs)-1].end
		for proc, l := range t.lives {
			if l.duty != dutyWorker || l.code == success || l.code == notStarted {
				continue
			}
			switch killer := t.killers[proc]; {
			case slices.Contains(killer, r.n):
				o.deaths++
				o.held = max(o.held, l.held)
				o.others += len(killer) - 1
			case from <= l.died && l.died <= to:
				o.others++
			}
		}
		for _, fenced := range t.fenced {
			if from <= fenced.At && fenced.At <= to {
				o.others++
			}
		}
	}
	o.found = r.left != nil && r.left.Count == 1 && r.left.Name == "" && strings.HasPrefix(r.left.Text, verdictCrashed)
	return o
}

// printOrdeals writes what each poison did, if there was one.
func (v *verdict) printOrdeals(out io.Writer) {
	if len(v.ordeals) == 0 {
		return
	}
	fmt.Fprint(out, "\nPoison jobs, each of which ends its worker's process whenever it runs, until it is found out and is a dead letter. At most: "+
		"2 + ⌈log₂ of the jobs held⌉ + 3, and one more for each other worker that ended meanwhile.\n\n"+
		"| how | workers killed | at most | jobs held | others ended | found out |\n|---|---|---|---|---|---|\n")
	for _, o := range v.ordeals {
		found := "no"
		if o.found {
			found = "yes"
		}
		fmt.Fprintf(out, "| %s | %d | %d | %d | %d | %s |\n", o.way, o.deaths, o.bound(), o.held, o.others, found)
	}
}
