//go:build unix

package main

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
)

// The auditor reads all journals of a run and checks each promise. It knows nothing but what the
// processes wrote down before and after they acted, and the rows that were left.

// request is one job to run, or one element of a batch job.
type request struct {
	n       int64
	kind    kind
	way     way // of a poison; or once
	queue   string
	key     string
	due     int64
	at      int64 // when it was offered
	answer  op    // opAcked, opUnknown, opRefused; "": none, its process was killed
	runs    []*run
	left    *record // its row, or its dead letter, if one was left
	rows    []*record
	answerT int64
}

const nodeName = string(dutyNode) + "-1"

// run is one run of a handler.
type run struct {
	proc       int
	node       bool
	kind       kind
	ns         []int64
	job        int64
	attempt    int
	queue      string
	start, end int64 // end: also when its process died
	outcome    op    // opEnded, opFailed, opCancelled; "": none
	done       []int64
}

// finished reports whether the run ended with success for a request.
func (r *run) finished(n int64) bool { return r.outcome == opEnded && slices.Contains(r.done, n) }

// life is the life of one process.
type life struct {
	name          string
	duty          duty
	started, died int64  // died: 0: not before the end
	code          string // how it ended
	frozen        [][2]int64
	held          int // jobs that it had locked when a poison killed it
}

// window is a fault with the time that follows it.
type window struct {
	fault      string
	begin, end int64
	recovered  float64 // seconds until the last process of ours worked again
	nodeAgain  float64 // and Node's
	stuck      []string
	held       int       // jobs that a killed worker had locked
	released   []float64 // seconds until they were free
	locked     int       // those that stayed locked
	nodeHeld   int
}

// trial is all that is known of a run.
type trial struct {
	run        record // what it was
	requests   map[int64]*request
	runs       map[[2]int64]*run // by process and number
	order      []*run            // by start
	lives      map[int]*life
	killers    map[int][]int64 // the poisons that ended a process
	windows    []*window
	ticks      map[int64]map[int64]int // by minute: how often each job that it has was finished
	left       []record                // rows
	fenced     []record                // workers that were declared dead, and lived
	nodeHung   int                     // how often Node lived on and did nothing
	nodeHeld   map[int64]bool          // ids of the jobs that it held when it ended
	poolerEnds int                     // how often PgBouncer ended by itself
	effects    map[int64][]effect      // rows, by request
	requeues   requeues
	cancels    cancels
	pools      map[string]int // the processes of workers' ids
	silent     int            // jobs of queues that workers without an answer cancelled
	broken     []string       // what the harness saw
	drain      int64          // when the enqueuers stopped
	last       int64          // the time of the last record
}

// load reads the journals of a folder.
func load(folder string) (*trial, error) {
	t := &trial{
		requests: map[int64]*request{}, runs: map[[2]int64]*run{}, lives: map[int]*life{}, killers: map[int][]int64{}, ticks: map[int64]map[int64]int{},
		windows: []*window{{fault: "none"}}, nodeHeld: map[int64]bool{},
		effects: map[int64][]effect{}, requeues: newRequeues(), cancels: newCancels(), pools: map[string]int{},
	}
	if _, err := readJournal(filepath.Join(folder, ownJournal), 0, t.own); err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(folder, "*.journal"))
	if err != nil {
		return nil, err
	}
	var problems []error
	for _, read := range []func(record) error{t.offer, t.act} { // requests first, of all
		for _, file := range files {
			if filepath.Base(file) == ownJournal {
				continue
			}
			if _, err := readJournal(file, 0, func(r record) {
				if err := read(r); err != nil {
					problems = append(problems, fmt.Errorf("%s: %w", file, err))
				}
			}); err != nil {
				return nil, err
			}
		}
	}
	if len(problems) > 0 {
		return nil, problems[0]
	}
	t.finish()
	return t, nil
}

// own takes a record of the harness's.
func (t *trial) own(r record) {
	t.last = max(t.last, r.At)
	w := t.windows[len(t.windows)-1]
	l := t.lives[int(r.N)]
	switch r.Op { //nolint:exhaustive // the others are of the fleet's
	case opRun:
		t.run = r
	case opSpawned:
		t.lives[int(r.N)] = &life{name: r.Name, duty: duty(r.Text), started: r.At}
	case opDied:
		if r.N == noProcess {
			t.poolerEnds++
			return
		}
		l.died, l.code = r.At, r.Text
	case opPoisoned:
		l.held = r.Count
	case opFrozen:
		l.frozen = append(l.frozen, [2]int64{r.At, 0})
	case opThawed:
		l.frozen[len(l.frozen)-1][1] = r.At
	case opBegin:
		t.windows = append(t.windows, &window{fault: r.Name, begin: r.At})
	case opEnd:
		w.end = r.At
	case opRecovered:
		if r.Name == nodeName {
			w.nodeAgain = seconds(r.Due, r.At)
		} else {
			w.recovered = max(w.recovered, seconds(r.Due, r.At))
		}
	case opStuck:
		w.stuck = append(w.stuck, r.Name)
	case opLocked:
		w.locked += r.Count
	case opHeld:
		if r.Name == nodeName {
			w.nodeHeld += r.Count
			for _, id := range r.Ns {
				t.nodeHeld[id] = true
			}
		} else {
			w.held += r.Count
		}
	case opReleased:
		if r.Count > 0 {
			w.released = append(w.released, seconds(w.end, r.At))
		}
	case opHung:
		t.nodeHung++
	case opDrain:
		t.drain = r.At
	case opLeft:
		t.left = append(t.left, r)
	case opEffect:
		t.effects[r.N] = append(t.effects[r.N], newEffect(r))
	case opPending:
		t.cancels.left = append(t.cancels.left, r.Job)
	case opBroken:
		t.broken = append(t.broken, r.Text)
	}
}

// offer takes what enqueuers say.
func (t *trial) offer(r record) error {
	t.last = max(t.last, r.At)
	count := max(r.Count, 1)
	switch r.Op { //nolint:exhaustive // the others are for act
	case opOffered:
		for n := r.N; n < r.N+int64(count); n++ {
			t.requests[n] = &request{n: n, kind: r.Kind, way: way(r.Text), queue: r.Queue, key: r.Key, due: r.Due, at: r.At}
		}
	case opAcked, opUnknown, opRefused:
		for n := r.N; n < r.N+int64(count); n++ {
			if t.requests[n] == nil {
				return fmt.Errorf("request %d has an answer and was not offered", n)
			}
			t.requests[n].answer, t.requests[n].answerT = r.Op, r.At
		}
	}
	return nil
}

// act takes what handlers say.
func (t *trial) act(r record) error {
	id := [2]int64{int64(r.Proc), r.Run}
	switch r.Op { //nolint:exhaustive // the others are for offer
	case opStarted:
		if t.lives[r.Proc] == nil {
			return fmt.Errorf("process %d was not started", r.Proc)
		}
		ns := r.Ns
		if ns == nil {
			ns = []int64{r.N}
		}
		it := &run{proc: r.Proc, kind: r.Kind, ns: ns, job: r.Job, attempt: r.Attempt, queue: r.Queue, start: r.At}
		t.runs[id] = it
		t.order = append(t.order, it)
		if r.Kind == kindTick {
			return nil
		}
		for _, n := range ns {
			if t.requests[n] == nil {
				return fmt.Errorf("request %d ran and was not offered", n)
			}
			t.requests[n].runs = append(t.requests[n].runs, it)
		}
	case opEnded, opFailed, opCancelled:
		it := t.runs[id]
		if it == nil {
			return fmt.Errorf("run %d of process %d ended and did not start", r.Run, r.Proc)
		}
		it.end, it.outcome = r.At, r.Op
		it.done = it.ns
		if r.Ns != nil {
			it.done = r.Ns
		}
	case opDying:
		t.killers[r.Proc] = append(t.killers[r.Proc], r.N)
	case opFenced:
		t.fenced = append(t.fenced, r)
	case opSilent:
		t.silent += r.Count
	case opRequeuing, opRequeued, opReturned:
		return t.requeues.add(r)
	case opCancel, opOutcome:
		return t.cancels.add(r)
	case opPool:
		t.pools[r.Text] = r.Proc
	}
	return nil
}

// finish works out what follows from all records together.
func (t *trial) finish() {
	slices.SortStableFunc(t.order, func(a, b *run) int { return cmp.Compare(a.start, b.start) })
	for _, it := range t.order {
		l := t.lives[it.proc]
		it.node = l.duty == dutyNode
		if it.outcome == "" {
			it.end = t.last
			if l.died > 0 {
				it.end = l.died
			}
		}
		if it.kind == kindTick {
			if t.ticks[it.ns[0]] == nil {
				t.ticks[it.ns[0]] = map[int64]int{}
			}
			if it.outcome == opEnded {
				t.ticks[it.ns[0]][it.job]++
			} else {
				t.ticks[it.ns[0]][it.job] += 0
			}
		}
	}
	for _, r := range t.requests {
		slices.SortStableFunc(r.runs, func(a, b *run) int { return cmp.Compare(a.start, b.start) })
	}
	for i := range t.left {
		for _, n := range t.left[i].Ns {
			if r := t.requests[n]; r != nil {
				r.left = &t.left[i]
				r.rows = append(r.rows, r.left)
			}
		}
	}
	t.follow()
}

// windowAt is the fault that a time belongs to: the last one that had begun.
func (t *trial) windowAt(at int64) int {
	i, _ := slices.BinarySearchFunc(t.windows, at, func(w *window, at int64) int {
		if w.begin <= at {
			return -1
		}
		return 1
	})
	return max(i-1, 0)
}

// frozenDuring reports whether the run's process stood still at some time of the run.
func (t *trial) frozenDuring(it *run) bool {
	return slices.ContainsFunc(t.lives[it.proc].frozen, func(f [2]int64) bool { return f[0] <= it.end && (f[1] == 0 || f[1] >= it.start) })
}
