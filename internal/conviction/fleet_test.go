package conviction_test

import (
	"container/heap"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/backfillhq/go/internal/conviction"
)

// A fleet is a discrete-event model of workers, a database and its jobs. It decides with the
// package under test, and plays what is around it: claims with prefetch, queues, deaths, heartbeats
// up to 5 s old, rescues 12 to 18 s after a death by a worker that has been alive for as long,
// restarts.
type fleet struct {
	scenario
	random *rand.Rand
	rule   rule

	now    time.Duration
	events eventHeap
	order  int

	open   int // jobs that are neither done nor dead letters
	coming int // jobs that arrive later
	line   jobHeap
	busy   map[string]*job // the locked job of a queue
	queues map[string][]*job
	keys   map[string]*job

	parked  []*job
	changed bool // what follows is out of date
	asked   map[string][]conviction.Suspect

	workers   []*worker     // living, and dead ones that are not declared dead
	awayUntil time.Duration // nobody starts before
	serial    int64
	deaths    []*worker
	lastTrial *worker        // the last one that died in a trial
	proven    map[int64]bool // cohorts that such a death made
	hit       map[int64]bool // cohorts of which a trial ended in such a death

	paused map[string]bool
	guilty map[string][]time.Duration // when jobs of a task were convicted
	result result
}

// rule is what a witness replaces.
type rule struct {
	judge func(conviction.Death, []*job) []conviction.Ruling
	draw  func([]conviction.Suspect, int, *rand.Rand) conviction.Trial
	next  func(conviction.Worker) conviction.Step
	age   func(conviction.Record) time.Duration
	// corrections that the witnesses leave out
	inherit, noteAge bool
	undisturbed      bool
}

func decided() rule {
	return rule{
		judge:   judge,
		draw:    conviction.NewTrial,
		next:    conviction.Worker.Next,
		age:     conviction.Record.Age,
		inherit: true,
		noteAge: true,
	}
}

func judge(d conviction.Death, held []*job) []conviction.Ruling {
	rulings := make([]conviction.Ruling, len(held))
	for i, j := range held {
		rulings[i] = d.Judge(j.evidence())
	}
	return rulings
}

type state int

const (
	waiting state = iota
	buffered
	running
	ended // and its outcome not recorded yet
	parked
	gone
)

type job struct {
	id          int64
	task        string
	queue       string
	key         string // "" once superseded
	keyed       bool   // when it was claimed
	takes       time.Duration
	kills       time.Duration // after its start; 0 is an innocent
	erratic     bool          // kills after a random time, kills on average
	company     int           // so many such jobs in one process kill it
	starts      int
	removed     bool // while it was parked
	fails       int
	maxAttempts int

	state    state
	due      time.Duration // of a retry
	ready    time.Duration // since when it can be claimed
	attempt  int           // of the token
	attempts int           // of the row
	lease    int           // counts leases, so that events of old ones are passed over
	holder   *worker
	claimed  time.Duration // when it was claimed
	lockedAt time.Duration // the row's, which renewals change
	started  time.Duration
	tried    bool
	cohort   int64
	passed   bool
	age      time.Duration // of its record when it was parked
	record   record
	place    int // in the heap
}

// record is what the table has of a job. Deaths whose workers gave notice later count no more.
type record struct {
	deaths []death
	key    string
	began  time.Duration // of the present lease: locked_at, or what its first renewal noted
}

type death struct {
	of    *worker
	age   time.Duration
	alone bool
}

func (r record) counts() conviction.Record {
	var counts conviction.Record
	for _, d := range r.deaths {
		if d.of.told {
			continue
		}
		counts.Ages = append(counts.Ages, d.age)
		if d.alone {
			counts.Alone++
		}
	}
	return counts
}

// add keeps one death of a worker, whoever records it and however often.
func (r *record) add(d death) {
	if !r.of(d.of) {
		r.deaths = append(r.deaths, d)
	}
}

func (r *record) of(w *worker) bool {
	return slices.ContainsFunc(r.deaths, func(d death) bool { return d.of == w })
}

func (j *job) evidence() conviction.Held {
	return conviction.Held{Lease: j.rows(), Tried: j.tried, Record: j.record.counts()}
}

func (j *job) rows() conviction.Lease {
	return conviction.Lease{
		Attempt: j.attempt, Keyed: j.keyed,
		Attempts: j.attempts, MaxAttempts: j.maxAttempts, HasKey: j.key != "",
	}
}

func (f *fleet) add(j *job) {
	j.id = int64(f.order + 1)
	f.order++
	if j.maxAttempts == 0 {
		j.maxAttempts = 25
	}
	if j.task == "" {
		j.task = "task"
	}
	if j.key != "" {
		f.replace(f.keys[j.key])
		f.keys[j.key] = j
	}
	f.open++
	if j.queue != "" {
		f.queues[j.queue] = append(f.queues[j.queue], j)
	}
	f.free(j)
}

// arrive adds a job later.
func (f *fleet) arrive(at time.Duration, j *job) {
	f.coming++
	f.at(at, func() {
		f.coming--
		f.add(j)
		f.wake()
	})
}

// retry lets a failed job wait.
func (f *fleet) retry(j *job) {
	f.unlock(j)
	j.state, j.due = waiting, f.now+10*time.Second
	f.after(10*time.Second, func() {
		if j.state == waiting {
			f.free(j)
			f.wake()
		}
	})
}

func (f *fleet) wake() {
	for _, w := range slices.Clone(f.workers) {
		w.step()
	}
}

// replace does what add_job does to the row that has the key: a waiting one goes, a locked one is
// superseded.
func (f *fleet) replace(old *job) {
	switch {
	case old == nil || old.state == gone:
	case old.state == waiting:
		if old.place >= 0 {
			heap.Remove(&f.line, old.place)
		}
		f.end(old)
	default:
		f.remove(old)
	}
}

// remove does what remove_job does to a locked row.
func (f *fleet) remove(j *job) {
	j.removed = j.state == parked
	j.key = ""
	j.attempts = j.maxAttempts
	f.changed = true
}

func (f *fleet) free(j *job) {
	f.unlock(j)
	j.state, j.ready = waiting, f.now
	heap.Push(&f.line, j)
}

func (f *fleet) unlock(j *job) {
	f.changed = f.changed || j.state == parked
	j.holder, j.tried = nil, false
	j.lease++
	if j.queue != "" && f.busy[j.queue] == j {
		delete(f.busy, j.queue)
	}
}

// end takes a job out of the table.
func (f *fleet) end(j *job) {
	if j.state == gone {
		return
	}
	f.unlock(j)
	if j.key != "" && f.keys[j.key] == j {
		delete(f.keys, j.key)
	}
	j.state = gone
	f.open--
	if j.task == "task" {
		f.result.ended = f.now
	}
}

// claim takes up to n jobs of the line, in its order; those of queues, and those that may start
// once, for free slots only.
func (f *fleet) claim(w *worker, serves func(*job) bool, n, slots int) []*job {
	var got, passed []*job
	for len(got) < n && len(f.line) > 0 {
		j := heap.Pop(&f.line).(*job)
		forSlot := j.queue != "" || j.maxAttempts == 1
		if !serves(j) || f.paused[j.task] || forSlot && slots == 0 || j.queue != "" && f.busy[j.queue] != nil {
			passed = append(passed, j)
			continue
		}
		got = append(got, j)
		slots = max(0, slots-1)
		f.lock(j, w)
	}
	for _, j := range passed {
		heap.Push(&f.line, j)
	}
	return got
}

func (f *fleet) lock(j *job, w *worker) {
	j.state, j.holder = buffered, w
	j.attempts++
	j.attempt, j.keyed = j.attempts, j.key != ""
	j.lease++
	j.claimed, j.lockedAt, j.record.began = f.now, f.now, f.now
	if j.queue != "" {
		f.inOrder(j)
		f.busy[j.queue] = j
	}
	w.held = append(w.held, j)
	f.renew(j, j.lease)
}

// inOrder counts what a queue must not do: run two jobs at once, or a job before an earlier one.
func (f *fleet) inOrder(j *job) {
	if other := f.busy[j.queue]; other != nil && other != j {
		f.result.disorder++
	}
	for _, other := range f.queues[j.queue] {
		if other.id < j.id && other.state != gone && other.due <= f.now {
			f.result.disorder++
		}
	}
}

// renew changes locked_at every half hour, and notes for how long the job has run.
func (f *fleet) renew(j *job, lease int) {
	if j.takes < 30*time.Minute && j.kills < 30*time.Minute {
		return
	}
	f.after(30*time.Minute, func() {
		if j.lease != lease || !j.holder.alive || j.state == gone {
			return
		}
		j.lockedAt = f.now
		if !f.rule.noteAge {
			j.record.began = f.now
		}
		f.renew(j, lease)
	})
}

// renewParked is done by every worker that lives.
func (f *fleet) renewParked() {
	for _, j := range f.parked {
		if j.state == parked && f.now-j.lockedAt > 30*time.Minute {
			j.lockedAt = f.now
		}
	}
}

// sweep is what Node does every ten minutes.
func (f *fleet) sweep() {
	for _, j := range slices.Clone(f.parked) {
		if j.state == parked && f.now-j.lockedAt > 4*time.Hour {
			f.result.swept++
			f.free(j)
		}
	}
	f.wake()
	f.after(10*time.Minute, f.sweep)
}

func (f *fleet) park(j *job, cohort int64) {
	j.state, j.holder, j.tried = parked, nil, false
	j.lease++
	j.passed = false
	j.cohort, j.age = cohort, f.rule.age(j.record.counts())
	f.changed = true
	j.lockedAt = f.now
	f.parked = append(f.parked, j)
}

// suspects are those that a worker may try. Who looks also ends those that were superseded. The
// answer is kept until something has changed, for workers look all the time.
func (f *fleet) suspects(w *worker) []conviction.Suspect {
	if f.changed {
		f.changed = false
		clear(f.asked)
		f.parked = slices.DeleteFunc(f.parked, func(j *job) bool {
			if j.state == parked && j.rows().Superseded() {
				f.drop(j)
			}
			return j.state != parked
		})
	}
	list, ok := f.asked[w.kind.name()]
	if !ok {
		for _, j := range f.parked {
			if w.serves(j) && !f.paused[j.task] {
				list = append(list, conviction.Suspect{
					Job: j.id, Cohort: j.cohort, Age: j.age,
					Cleared: f.hit[j.cohort], Passed: j.passed, Proven: f.proven[j.cohort],
				})
			}
		}
		f.asked[w.kind.name()] = list
	}
	return list
}

// drop ends a superseded job. Its record goes to the job that has its key now.
func (f *fleet) drop(j *job) {
	if successor := f.keys[j.record.key]; f.rule.inherit && successor != nil && successor.state != gone {
		for _, d := range j.record.deaths {
			successor.record.add(d)
		}
	}
	f.end(j)
}

func (f *fleet) convict(j *job) {
	if j.kills > 0 {
		f.result.poisons++
	} else {
		f.result.innocents++
	}
	f.end(j)
	var ago []time.Duration
	f.guilty[j.task] = append(f.guilty[j.task], f.now)
	for _, at := range f.guilty[j.task] {
		ago = append(ago, f.now-at)
	}
	if f.pause && conviction.Pauses(ago) {
		f.paused[j.task] = true
		f.changed = true
	}
}

// The clock.

type event struct {
	at    time.Duration
	order int
	do    func()
}

type eventHeap []event

func (h eventHeap) Len() int { return len(h) }
func (h eventHeap) Less(i, k int) bool {
	return h[i].at < h[k].at || h[i].at == h[k].at && h[i].order < h[k].order
}
func (h eventHeap) Swap(i, k int) { h[i], h[k] = h[k], h[i] }
func (h *eventHeap) Push(x any)   { *h = append(*h, x.(event)) }
func (h *eventHeap) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

func (f *fleet) next() {
	e := heap.Pop(&f.events).(event)
	f.now = e.at
	e.do()
}

func (f *fleet) after(d time.Duration, do func()) { f.at(f.now+d, do) }

func (f *fleet) at(at time.Duration, do func()) {
	f.order++
	heap.Push(&f.events, event{at, f.order, do})
}

func (f *fleet) between(low, high time.Duration) time.Duration {
	return low + time.Duration(f.random.Int64N(int64(high-low)+1))
}

type jobHeap []*job

func (h jobHeap) Len() int           { return len(h) }
func (h jobHeap) Less(i, k int) bool { return h[i].id < h[k].id }
func (h jobHeap) Swap(i, k int) {
	h[i], h[k] = h[k], h[i]
	h[i].place, h[k].place = i, k
}

func (h *jobHeap) Push(x any) {
	x.(*job).place = len(*h)
	*h = append(*h, x.(*job))
}

func (h *jobHeap) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	last.place = -1
	return last
}
