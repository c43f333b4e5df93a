//go:build unix

package main

import (
	"cmp"
	"fmt"
	"iter"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/backfillhq/go/backfill"
)

// tally is what became of the requests of one fault's time.
type tally struct {
	offered, acked, executed int
	executedNode             int // by Node, of these
	replaced                 int // acknowledged, and replaced by a later one of its key before it ran
	lost                     int // acknowledged, not run to the end, and not in the table
	left                     int // the same, but still in the table when nothing moved any more
	doubled                  int // run to the end more than once
	doubledNode              int // the same, where one of the runs was Node's
	effects                  int // acknowledged ones with a row
	effectsDoubled           int // with a second row, and follow-ups that are two jobs
	effectsLost              int // ended without a row, and follow-ups that are gone
	letters                  int // requests with a dead letter at the end
	lettersDoubled           int // with two, or with one and a job, or done as well
	lettersLost              int // failed for good, not done, and without a dead letter
	cancels                  int // jobs that were cancelled: a call said so
	cancelsRan               int // of these, those that ran afterwards, committed, or left a dead letter
	cancelsLost              int // not cancelled, not done, and gone
	overlaps                 int // of runs of one queue
	frozen                   int // of these, where the process of one had stood still (R13)
}

// verdict is what the auditor has to say.
type verdict struct {
	trial   *trial
	tallies []tally // of each window
	broken  []string
	ticks   int
	again   int    // runs that were not the first of their request, without those that fail on purpose
	unknown [2]int // requests without a clear answer, and those of them that ran
	ordeals []ordeal
	follows int // follow-ups of effects
	doomed  int // requests that fail for good on purpose
	mended  int // of these, those that were done after a requeue

	answers     map[backfill.CancelState]int // of calls to cancel; "": none
	startedLate int                          // runs of cancelled jobs that a worker was about to start
}

// maxFindings is how many findings of one kind are told one by one.
const maxFindings = 10

type findings struct {
	all   []string
	count map[string]int
}

func (f *findings) add(promise, format string, a ...any) {
	f.count[promise]++
	if f.count[promise] <= maxFindings {
		f.all = append(f.all, promise+": "+fmt.Sprintf(format, a...))
	}
}

// audit checks the promises.
func audit(t *trial) *verdict {
	v := &verdict{trial: t, tallies: make([]tally, len(t.windows)), answers: map[backfill.CancelState]int{}}
	f := &findings{count: map[string]int{}}
	for _, text := range t.broken {
		f.add("harness", "%s", text)
	}
	for _, w := range t.windows {
		for _, name := range w.stuck {
			f.add("recovery", "%s did not work again after %s", name, w.fault)
		}
		if w.locked > 0 {
			f.add("rescue", "%d jobs of a killed worker stayed locked after %s", w.locked, w.fault)
		}
	}
	for _, r := range t.fenced {
		if w := t.windows[t.windowAt(r.At)]; !explains(w.fault, func(it fault) bool { return it.doubles == expired }) {
			f.add("false death", "%s was declared dead and lived, after %s", t.lives[r.Proc].name, w.fault)
		}
	}
	v.requests(f)
	v.keys(f)
	v.queues(f)
	v.leases(f)
	v.cron(f)
	v.deadLetters(f)
	v.effects(f)
	v.letters(f)
	v.cancels(f)
	v.poisons(f)
	v.broken = f.all
	for _, promise := range slices.Sorted(maps.Keys(f.count)) {
		if n := f.count[promise]; n > maxFindings {
			v.broken = append(v.broken, fmt.Sprintf("%s: %d findings in all", promise, n))
		}
	}
	return v
}

// explains reports whether a fault is of a kind.
func explains(name string, is func(fault) bool) bool {
	return slices.ContainsFunc(faults, func(it fault) bool { return it.name == name && is(it) })
}

// sorted are the requests in the order of their numbers.
func (t *trial) sorted() []*request {
	return slices.SortedFunc(maps.Values(t.requests), func(a, b *request) int { return cmp.Compare(a.n, b.n) })
}

// requests checks what is said of each request alone.
func (v *verdict) requests(f *findings) {
	for _, r := range v.trial.sorted() {
		v.charged(f, r)
		if len(r.runs) > 0 && (r.kind == kindRolledBack || r.answer == opRefused) {
			f.add("phantom", "%s was not enqueued, and ran", r.name())
		}
		if r.kind == kindPoison || r.kind.doomed() || r.kind.unwanted() {
			continue // it is no job to get done
		}
		y := &v.tallies[v.trial.windowAt(r.at)]
		y.offered++
		done := v.finished(f, r)
		if r.answer == opUnknown || r.answer == "" {
			v.unknown[0]++
			if len(r.runs) > 0 {
				v.unknown[1]++
			}
		}
		if r.due > 0 && len(r.runs) > 0 && r.runs[0].start < r.due {
			f.add("early", "%s ran %.3f s before it was due", r.name(), seconds(r.runs[0].start, r.due))
		}
		if r.answer != opAcked {
			continue
		}
		y.acked++
		switch {
		case done != nil:
			y.executed++
			if done.node {
				y.executedNode++
			}
		case r.kind == kindKeyed:
			y.replaced++ // unless it is the last one of its key
		case r.left != nil && r.left.Count == 0:
			y.left++
			f.add("not run", "%s is in the table still, locked by %q", r.name(), r.left.Name)
		case r.left != nil:
			y.lost++ // it is a dead letter
		default:
			y.lost++
			f.add("lost", "%s was acknowledged, did not run to the end, and is gone; it started %d times", r.name(), len(r.runs))
		}
	}
}

// finished is the first run of a request that ended with success; nil: none did. A request that was
// finished twice counts once, when its second run starts. Of an effect it is the run that
// committed: one that came to its end and was rolled back has done nothing.
func (v *verdict) finished(f *findings, r *request) (first *run) {
	var second *run
	for i, it := range r.runs {
		if i > 0 && (r.runs[i-1].outcome == "" || r.runs[i-1].outcome == opCancelled || r.runs[i-1].finished(r.n)) {
			v.again++
		}
		switch {
		case !it.finished(r.n):
		case first == nil:
			first = it
		case second == nil:
			second = it
		}
	}
	if r.kind == kindEffect {
		return v.trial.committed(r)
	}
	if second == nil {
		return first
	}
	i := v.trial.windowAt(second.start)
	y := &v.tallies[i]
	if first.node || second.node {
		y.doubledNode++
		return first
	}
	y.doubled++
	if !explains(v.trial.windows[i].fault, func(it fault) bool { return it.doubles != "" }) && v.trial.lives[first.proc].code != poisoned {
		f.add("doubled", "%s was finished twice, %.3f s apart, which %s does not explain", r.name(), seconds(first.end, second.start), v.trial.windows[i].fault)
	}
	return first
}

// charged checks that no attempt was charged but for a failure of the handler. What Node holds at
// its end is charged, and a transaction that did not begin, or was not committed.
func (v *verdict) charged(f *findings, r *request) {
	if r.kind == kindEffect || r.kind == kindUnwantedEffect {
		return
	}
	failures := 0
	for _, it := range r.runs {
		if it.node || v.trial.nodeHeld[it.job] {
			return
		}
		if it.attempt > failures+1 {
			f.add("charged", "%s is at attempt %d after %d failures", r.name(), it.attempt, failures)
			return
		}
		if it.outcome == opFailed || it.outcome == opEnded && !it.finished(r.n) {
			failures++
		}
	}
}

func (r *request) name() string { return fmt.Sprintf("request %d (%s)", r.n, r.kind) }

// keys checks that the last acknowledged request of each key, or one that replaced it, ran.
func (v *verdict) keys(f *findings) {
	last, done, left := map[string]*request{}, map[string]int64{}, map[string]int64{}
	for _, r := range v.trial.sorted() {
		if r.kind != kindKeyed {
			continue
		}
		if r.answer == opAcked {
			last[r.key] = r
		}
		if slices.ContainsFunc(r.runs, func(it *run) bool { return it.finished(r.n) }) {
			done[r.key] = r.n
		}
		if r.left != nil && r.left.Count == 0 {
			left[r.key] = r.n
		}
	}
	for _, key := range slices.Sorted(maps.Keys(last)) {
		r := last[key]
		y := &v.tallies[v.trial.windowAt(r.at)]
		switch {
		case done[key] >= r.n:
		case left[key] >= r.n:
			y.replaced--
			y.left++
			f.add("not run", "%s, the last one of key %s, is in the table still", r.name(), key)
		default:
			y.replaced--
			y.lost++
			f.add("lost", "%s, the last one of key %s, did not run to the end; it started %d times", r.name(), key, len(r.runs))
		}
	}
}

// nodeClock is how much Node's clock may differ from ours.
const nodeClock = 2000

// queues checks that the runs of a queue do not overlap, and that requests start in the order in
// which they were acknowledged.
func (v *verdict) queues(f *findings) {
	queues := map[string][]*run{}
	for _, it := range v.trial.order {
		if it.queue != "" {
			queues[it.queue] = append(queues[it.queue], it)
		}
	}
	for _, queue := range slices.Sorted(maps.Keys(queues)) {
		v.overlaps(f, queue, queues[queue])
		v.inOrder(f, queue, queues[queue])
	}
}

func (v *verdict) overlaps(f *findings, queue string, runs []*run) {
	for earlier, later := range overlapping(runs) {
		y := &v.tallies[v.trial.windowAt(later.start)]
		y.overlaps++
		if v.trial.frozenDuring(later) || v.trial.frozenDuring(earlier) {
			y.frozen++
		} else {
			f.add("serial", "queue %s: job %d started %.3f s before job %d had ended", queue, later.job, seconds(later.start, earlier.end), earlier.job)
		}
	}
}

// overlapping are the runs that start before an earlier one has ended, each with the one that ends
// last of these.
func overlapping(runs []*run) iter.Seq2[*run, *run] {
	return func(yield func(earlier, later *run) bool) {
		var latest *run
		for _, it := range runs {
			if latest != nil {
				tolerance := int64(0)
				if it.node != latest.node {
					tolerance = nodeClock
				}
				if it.start < latest.end-tolerance && !yield(latest, it) {
					return
				}
			}
			if latest == nil || it.end > latest.end {
				latest = it
			}
		}
	}
}

// leases checks that a job is not run by two at once, unless one was away for longer than its
// lease. For a job of a queue, overlaps is stricter.
func (v *verdict) leases(f *findings) {
	jobs := map[int64][]*run{}
	for _, it := range v.trial.order {
		if it.queue == "" {
			jobs[it.job] = append(jobs[it.job], it)
		}
	}
	for _, job := range slices.Sorted(maps.Keys(jobs)) {
		for earlier, later := range overlapping(jobs[job]) {
			if !v.mayOverlap(earlier.start, later.start) {
				f.add("lease", "job %d was started again %.3f s before its run had ended", job, seconds(later.start, earlier.end))
			}
		}
	}
}

// mayOverlap reports whether a worker was away for longer than its lease between two times.
func (v *verdict) mayOverlap(from, to int64) bool {
	between := v.trial.windows[v.trial.windowAt(from) : v.trial.windowAt(to)+1]
	return slices.ContainsFunc(between, func(w *window) bool { return explains(w.fault, func(it fault) bool { return it.doubles == expired }) })
}

// inOrder looks at the first start of each request. One whose call had no clear answer may have
// been committed late.
func (v *verdict) inOrder(f *findings, queue string, runs []*run) {
	var latest int64
	seen := map[int64]bool{}
	for _, it := range runs {
		n := it.ns[0]
		r := v.trial.requests[n]
		if seen[n] || r == nil || r.answer != opAcked {
			continue
		}
		seen[n] = true
		if n < latest {
			f.add("order", "queue %s: %s started after request %d", queue, r.name(), latest)
		}
		latest = max(latest, n)
	}
}

// deadLetters checks that no job has failed for good but a poison and those that do it on purpose,
// and that none is a row and a dead letter, or two of these. A keyed job that was locked when a
// later one replaced it has no attempts left, and no error.
func (v *verdict) deadLetters(f *findings) {
	rows := map[int64]int{}
	for _, row := range v.trial.left {
		if rows[row.Job]++; rows[row.Job] == 2 {
			f.add("dead letter", "job %d, with the requests %v, is left twice", row.Job, row.Ns)
		}
		excused := slices.ContainsFunc(row.Ns, func(n int64) bool {
			r := v.trial.requests[n]
			return r != nil && (r.kind == kindPoison || r.kind.doomed() || r.kind.unwanted() && r.once() || r.kind == kindKeyed && row.Text == "")
		})
		if row.Count == 1 && !excused {
			f.add("dead letter", "job %d, with the requests %v, has failed for good: %s", row.Job, row.Ns, row.Text)
		}
	}
}

// cron checks that each minute had one job.
func (v *verdict) cron(f *findings) {
	for _, minute := range slices.Sorted(maps.Keys(v.trial.ticks)) {
		v.ticks++
		jobs := v.trial.ticks[minute]
		if len(jobs) > 1 {
			f.add("cron", "the tick %d was enqueued %d times", minute, len(jobs))
		}
		for job, times := range jobs {
			if times == 0 {
				f.add("cron", "job %d of the tick %d did not run to the end", job, minute)
			}
		}
	}
	first := int64(math.MaxInt64)
	for _, l := range v.trial.lives {
		first = min(first, l.started)
	}
	for at := time.UnixMicro(first).Add(firstTick).Truncate(time.Minute).Add(time.Minute); at.UnixMicro() <= v.trial.drain; at = at.Add(time.Minute) {
		if v.trial.ticks[at.Unix()] == nil {
			f.add("cron", "the tick %v was not enqueued", at.UTC())
		}
	}
}

// firstTick is how long after the start of the fleet its first tick may be.
const firstTick = 5 * time.Second
