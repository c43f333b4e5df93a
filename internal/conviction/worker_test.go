package conviction_test

import (
	"slices"
	"time"

	"github.com/backfillhq/go/internal/conviction"
)

// worker is one life of a process: whoever starts again is another worker.
type worker struct {
	f      *fleet
	kind   *kind
	serial int64

	alive   bool
	told    bool // it was told to stop: claims nothing, and its death counts nothing
	since   time.Duration
	died    time.Duration
	beatAge time.Duration // of the last heartbeat at its death
	held    []*job
	average map[string]time.Duration // of a task's jobs
	running int

	trial  *conviction.Trial
	cohort int64         // that it tries
	began  time.Duration // of the trial
	idle   bool
	freeAt time.Duration // when it last began to claim freely
	halted time.Duration // when it began to claim nothing
	stop   time.Duration // for how long it last claimed nothing

	emptying bool
	vain     int
}

func (w *worker) serves(j *job) bool {
	return len(w.kind.tasks) == 0 || slices.Contains(w.kind.tasks, j.task)
}

func (f *fleet) start(k *kind) {
	f.serial++
	w := &worker{f: f, kind: k, serial: f.serial, alive: true, since: f.now, freeAt: f.now, average: map[string]time.Duration{}}
	if dead := f.lastTrial; dead != nil {
		w.stop = max(0, dead.died-dead.beatAge-dead.halted)
		w.freeAt = dead.died - dead.beatAge
	}
	f.workers = append(f.workers, w)
	if k.life > 0 {
		life := time.Duration(f.random.ExpFloat64() * float64(k.life))
		f.after(life, func() {
			if !w.told {
				f.kill(w)
			}
		})
	}
	w.beat()
	w.step()
}

// beat looks for suspects, as the runtime does at each heartbeat.
func (w *worker) beat() {
	w.f.after(w.f.between(4*time.Second, 5*time.Second), func() {
		if w.alive {
			w.f.renewParked()
			w.step()
			w.beat()
		}
	})
}

// step asks what to do next, until there is nothing to do.
func (w *worker) step() {
	if !w.alive || w.told {
		return
	}
	for {
		suspects := w.f.suspects(w)
		switch w.f.rule.next(w.situation(suspects)) {
		case conviction.Claim:
			w.resume()
			w.claim(w.serves)
			if w.idle && len(w.held) == 0 && len(suspects) > 0 &&
				w.f.rule.next(w.situation(suspects)) == conviction.Try {
				continue
			}
			return
		case conviction.ClaimQuick:
			w.empty()
			w.claim(w.quick)
			return
		case conviction.Wait:
			w.empty()
			return
		case conviction.Try:
			w.try(suspects)
			return
		}
	}
}

func (w *worker) situation(suspects []conviction.Suspect) conviction.Worker {
	s := conviction.Worker{
		Holds: len(w.held), Long: w.long(), Suspects: len(suspects), Trying: w.trial != nil,
		Idle: w.idle, Free: w.f.now - w.freeAt, Stopped: w.stop,
		Emptying: w.emptying, Emptied: w.f.now - w.halted, Vain: w.vain,
		Living: len(w.f.workers),
	}
	for _, other := range w.f.workers {
		if other != w && (other.trial != nil || other.emptying) {
			s.Busy++
			s.OtherEmptying = s.OtherEmptying || other.trial == nil
		}
	}
	return s
}

func (w *worker) quick(j *job) bool {
	average, known := w.average[j.task]
	return w.serves(j) && known && conviction.Quick(average)
}

func (w *worker) empty() {
	if w.trial == nil && !w.emptying {
		w.emptying, w.halted = true, w.f.now
	}
}

// resume ends a stop, if there was one.
func (w *worker) resume() {
	if w.emptying {
		w.emptying = false
		w.vain++
		w.rest()
	}
}

func (w *worker) rest() {
	w.stop, w.freeAt, w.idle = w.f.now-w.halted, w.f.now, false
	w.f.result.halted = max(w.f.result.halted, w.stop)
}

func (w *worker) claim(serves func(*job) bool) {
	free := w.kind.slots - len(w.held)
	n := max(0, free)
	if w.f.prefetch && len(w.held) <= w.kind.slots {
		n = 500 - len(w.held)
	}
	if n == 0 {
		return
	}
	got := w.f.claim(w, serves, n, max(0, free))
	w.idle = len(got) == 0
	for _, j := range got {
		if j.task == "steady" {
			w.f.result.late = max(w.f.result.late, w.f.now-j.ready)
		}
	}
	w.fill()
}

// fill starts jobs of the buffer in the free slots.
func (w *worker) fill() {
	for _, j := range w.held {
		if w.running == w.kind.slots {
			return
		}
		if j.state == buffered {
			w.run(j)
		}
	}
}

func (w *worker) run(j *job) {
	f, lease := w.f, j.lease
	j.state, j.started = running, f.now
	w.running++
	if !w.serves(j) {
		f.result.unserved++
	}
	if j.removed {
		f.result.again++
	}
	if j.maxAttempts == 1 {
		if j.starts++; j.starts > 1 {
			f.result.twice++
		}
	}
	if j.kills > 0 {
		kills := j.kills
		if j.erratic {
			kills = time.Duration(f.random.ExpFloat64() * float64(j.kills))
		}
		f.after(kills, func() {
			if w.alive && j.lease == lease {
				f.result.crashes++
				w.die()
			}
		})
		return
	}
	if j.company > 0 && w.company() >= j.company {
		f.after(time.Second, func() {
			if w.alive && w.company() >= j.company {
				f.result.crashes++
				w.die()
			}
		})
	}
	f.after(j.takes, func() {
		if w.alive && j.lease == lease {
			w.finish(j)
		}
	})
}

func (w *worker) company() int {
	n := 0
	for _, j := range w.held {
		if j.company > 0 && j.state == running {
			n++
		}
	}
	return n
}

// finish ends a run. Its outcome is recorded some milliseconds later, and until then the rows say
// that it is held.
func (w *worker) finish(j *job) {
	f, lease := w.f, j.lease
	j.state = ended
	w.running--
	w.measure(j)
	w.fill()
	f.after(f.between(time.Millisecond, 5*time.Millisecond), func() {
		if !w.alive || j.lease != lease {
			return
		}
		w.let(j)
		if j.fails > 0 && !j.rows().Superseded() {
			j.fails--
			if j.tried {
				j.record = record{}
			}
			f.retry(j)
		} else {
			f.end(j)
		}
		w.tried()
		w.step()
	})
}

// measure keeps how long jobs of a task take.
func (w *worker) measure(j *job) {
	took := w.f.now - j.started
	if average, known := w.average[j.task]; known {
		took = (9*average + took) / 10
	}
	w.average[j.task] = took
}

func (w *worker) long() int {
	if len(w.f.parked) == 0 {
		return 0 // nobody asks
	}
	n := 0
	for _, j := range w.held {
		if !w.quick(j) {
			n++
		}
	}
	return n
}

func (w *worker) let(j *job) {
	w.held = slices.DeleteFunc(w.held, func(other *job) bool { return other == j })
}

// try takes a trial: half of a cohort, and nothing else.
func (w *worker) try(suspects []conviction.Suspect) {
	f := w.f
	trial := f.rule.draw(suspects, w.kind.slots, f.random)
	if !w.emptying {
		w.halted = f.now
	}
	w.emptying, w.trial, w.vain, w.began = false, &trial, 0, f.now
	f.result.trials++
	f.changed = true
	for _, j := range f.parked {
		if slices.Contains(trial.Jobs, j.id) {
			f.lock(j, w)
			j.tried = true
			w.cohort = j.cohort
		}
	}
	for _, j := range f.parked {
		j.passed = j.passed || j.state == parked && j.cohort == w.cohort
	}
	w.fill()
	f.after(trial.Window, func() {
		if w.alive && w.trial == &trial {
			w.tried()
			w.step()
		}
	})
}

// tried ends the trial if it is over, and acquits its jobs.
func (w *worker) tried() {
	if w.trial == nil {
		return
	}
	unfinished, last := 0, w.began
	for _, j := range w.held {
		if j.tried {
			unfinished++
			last = max(last, j.started)
		}
	}
	if !w.trial.Over(unfinished, w.f.now-last) {
		return
	}
	for _, j := range w.held {
		j.tried, j.record = false, record{began: j.record.began}
	}
	w.trial = nil
	w.rest()
}

// die is a death. Whether it was with notice is for the row to say.
func (w *worker) die() {
	f := w.f
	w.alive, w.died = false, f.now
	w.beatAge = f.between(0, 5*time.Second)
	f.deaths = append(f.deaths, w)
	if w.trial != nil && !w.told {
		f.lastTrial = w
		f.hit[w.cohort] = true
		f.changed = true
		f.proven[w.serial] = true
	}
	f.after(f.between(12*time.Second, 18*time.Second), func() { f.rescue(w) })
	f.at(max(f.now+w.kind.restart, f.awayUntil), func() { f.start(w.kind) })
}

func (f *fleet) alive() []*worker {
	return slices.DeleteFunc(slices.Clone(f.workers), func(w *worker) bool { return !w.alive })
}

// rescue is done by a worker that has watched for 12 s, or by the next one, which goes on with what
// is left.
func (f *fleet) rescue(w *worker) {
	if !slices.ContainsFunc(f.workers, func(o *worker) bool { return o.alive && f.now-o.since >= 12*time.Second }) {
		f.after(time.Second, func() { f.rescue(w) })
		return
	}
	f.workers = slices.DeleteFunc(f.workers, func(o *worker) bool { return o == w })
	death := conviction.Death{Notice: w.told, Held: len(w.held), Disturbed: f.disturbed(w)}
	held := w.held
	for len(held) > 0 {
		n := 1 + f.random.IntN(len(held))
		for i, ruling := range f.rule.judge(death, held[:n]) {
			f.apply(w, held[i], ruling)
		}
		held = held[n:]
	}
	f.wake()
}

func (f *fleet) apply(w *worker, j *job, r conviction.Ruling) {
	if j.key != "" {
		j.record.key = j.key
	}
	if r.Present {
		j.record.add(death{of: w, age: max(0, w.died-w.beatAge-j.record.began), alone: r.Alone})
	}
	if !j.rows().Superseded() {
		j.attempts--
		j.attempt = j.attempts
	}
	switch r.Verdict {
	case conviction.Release:
		f.free(j)
	case conviction.Park:
		f.park(j, w.serial)
	case conviction.Convict:
		f.convict(j)
	case conviction.Crash, conviction.Interrupt:
		f.result.dead++
		f.end(j)
	case conviction.Drop:
		f.drop(j)
	}
}

// disturbed looks for deaths that the jobs held for a trial do not explain. They are known by now:
// a rescue comes twelve seconds after a death.
func (f *fleet) disturbed(w *worker) bool {
	if w.trial == nil || len(w.held) != 1 || f.rule.undisturbed {
		return false
	}
	record := w.held[0].record
	from, to := conviction.Around(w.began, w.died)
	return slices.ContainsFunc(f.deaths, func(o *worker) bool {
		return o != w && !o.told && o.trial == nil && o.died >= from && o.died <= to && !record.of(o)
	})
}

// drain is a stop with notice: what has not started goes back, the rest has until the grace is
// over.
func (w *worker) drain(grace time.Duration, killed bool) {
	w.told = true
	w.f.after(w.f.between(0, grace), func() {
		switch {
		case !w.alive:
		case killed:
			w.die()
		default:
			w.leave()
		}
	})
}

// leave gives back what it holds, as a death with notice would have it, and retires its row.
func (w *worker) leave() {
	f := w.f
	w.alive, w.died = false, f.now
	f.workers = slices.DeleteFunc(f.workers, func(o *worker) bool { return o == w })
	for i, ruling := range judge(conviction.Death{Notice: true, Held: len(w.held)}, w.held) {
		if ruling.Verdict == conviction.Interrupt && w.held[i].state == buffered {
			ruling.Verdict = conviction.Release // it has not started
		}
		f.apply(w, w.held[i], ruling)
	}
	f.after(w.kind.restart, func() { f.start(w.kind) })
	f.wake()
}

// kill is a kill -9.
func (f *fleet) kill(w *worker) {
	if w.alive {
		f.result.kills++
		w.die()
	}
}
