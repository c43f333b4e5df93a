package conviction_test

import (
	"fmt"
	"time"
)

// others has what the page does not.
func others() []scenario {
	ten := 10 * time.Second
	return []scenario{
		{
			name: "alone: a poison and nothing else; 2 workers", hours: 1, poisons: 1, crashes: bound(1),
			kinds: times(2, kind{slots: 20, restart: ten}),
			fill:  func(f *fleet) { mix(f, 0, 0, 1, 5*time.Millisecond) },
			check: func(r result) string {
				return unless(r.crashes == bound(1), "%d crashes, want exactly %d", r.crashes, bound(1))
			},
		},
		{
			name: "queues: 100 of 5 jobs × 200 ms, one kills at its queue's head", hours: 1, poisons: 1,
			crashes: bound(80), kinds: times(4, kind{slots: 20, restart: ten}),
			fill: func(f *fleet) { queued(f, 100, 5, 1) },
		},
		{
			name: "queues: one of 50 jobs, 3 of them kill, beside 50 others", hours: 2, poisons: 3,
			crashes: 3 * bound(60), kinds: times(4, kind{slots: 20, restart: ten}),
			fill: func(f *fleet) {
				queued(f, 1, 50, 3)
				queued(f, 50, 5, 0)
			},
		},
		{
			name: "keys: all of 40 × 10 min are replaced while parked, one kills after 5 s", hours: 6, poisons: 1,
			crashes: 2 * bound(40), kinds: times(2, kind{slots: 50, restart: ten}),
			fill: func(f *fleet) {
				keyed(f, 40, 10*time.Minute, 5*time.Second)
				f.whenParked(20, func(j *job) {
					f.add(&job{key: j.key, takes: j.takes, kills: j.kills})
				})
			},
		},
		{
			name: "keys: all of 40 × 10 min are removed while parked, one kills after 5 s", hours: 1, poisons: -1,
			crashes: bound(40), kinds: times(2, kind{slots: 50, restart: ten}),
			fill: func(f *fleet) {
				keyed(f, 40, 10*time.Minute, 5*time.Second)
				f.whenParked(0, func(j *job) { f.remove(j) })
			},
		},
		{
			name: "keys: a poison replaced every 60 s for 2 h, beside 40 × 1 min", hours: 24, poisons: 1,
			crashes: 3 * bound(40), kinds: times(2, kind{slots: 50, restart: ten}),
			fill: func(f *fleet) {
				keyed(f, 40, time.Minute, 5*time.Second)
				f.replaceUntilConvicted(time.Minute, 2*time.Hour)
			},
		},
		{
			name: "ends: 200 jobs of 1 to 60 s, a third fails twice, one kills after 10 s", hours: 2, poisons: 1,
			crashes: bound(200), kinds: times(2, kind{slots: 200, restart: ten}),
			fill: func(f *fleet) {
				for i := range 199 {
					f.add(&job{takes: f.between(time.Second, time.Minute), fails: (i % 3) / 2 * 2})
				}
				f.add(&job{takes: time.Minute, kills: ten})
			},
		},
		{
			name: "single: B with one worker, and a job of 100 ms every 2 s for 4 h", hours: 12, poisons: 1,
			crashes: bound(200), late: time.Minute, kinds: times(1, kind{slots: 200, restart: ten}),
			fill: func(f *fleet) {
				mix(f, 199, 10*time.Minute, 1, 5*time.Second)
				f.steady(2*time.Second, 4*time.Hour)
			},
		},
		{
			name: "lone: C with one worker, and a job of 100 ms every 5 s for 4 h", hours: 12, poisons: 1,
			crashes: bound(200), late: 15 * time.Minute, kinds: times(1, kind{slots: 200, restart: ten}),
			fill: func(f *fleet) {
				mix(f, 199, 10*time.Minute, 1, 5*time.Minute)
				f.steady(5*time.Second, 4*time.Hour)
			},
		},
		{
			name: "pair: B with two workers, and a job of 100 ms every 2 s for 4 h", hours: 12, poisons: 1,
			crashes: bound(200), late: time.Minute, kinds: times(2, kind{slots: 200, restart: ten}),
			fill: func(f *fleet) {
				mix(f, 199, 10*time.Minute, 1, 5*time.Second)
				f.steady(2*time.Second, 4*time.Hour)
			},
		},
		{
			name: "hours: a job of 5 h every 30 min for 2 days, one kills after 5 s; 3 workers", hours: 96, poisons: 1,
			crashes: bound(60), late: time.Minute, kinds: times(3, kind{slots: 20, restart: ten}),
			fill: func(f *fleet) { overlapping(f) },
		},
		{
			name: "hours: the same with one worker", hours: 240, poisons: 1,
			crashes: bound(20), late: time.Hour, kinds: times(1, kind{slots: 60, restart: ten}),
			fill: func(f *fleet) { overlapping(f) },
		},
		{
			name: "renewed: 50 × 2 h, one kills after 59 min; 2 workers", hours: 72, poisons: 1,
			crashes: bound(50), kinds: times(2, kind{slots: 50, restart: ten}),
			fill: func(f *fleet) { mix(f, 49, 2*time.Hour, 1, 59*time.Minute) },
		},
		{
			name: "served: one worker of 5 serves the poison's task, and others beside", hours: 6, poisons: 1,
			crashes: bound(60), late: 2 * time.Minute,
			kinds: append(times(4, kind{slots: 20, restart: ten, tasks: []string{"task", "steady"}}),
				kind{slots: 60, restart: ten, tasks: []string{"task", "steady", "rare"}}),
			fill: func(f *fleet) {
				mix(f, 150, time.Minute, 0, 0)
				for range 20 {
					f.add(&job{task: "rare", takes: time.Minute})
				}
				f.add(&job{task: "rare", takes: time.Minute, kills: 5 * time.Second})
				f.steady(2*time.Second, time.Hour)
			},
		},
		{
			name: "two: two poisons in tasks of their own workers, 100 × 1 min each", hours: 6, poisons: 2,
			crashes: 2 * bound(100),
			kinds: append(times(2, kind{slots: 100, restart: ten, tasks: []string{"left"}}),
				times(2, kind{slots: 100, restart: ten, tasks: []string{"right"}})...),
			fill: func(f *fleet) {
				for i := range 100 {
					for _, task := range []string{"left", "right"} {
						j := &job{task: task, takes: time.Minute}
						if i == 50 {
							j.kills = 5 * time.Second
						}
						f.add(j)
					}
				}
			},
		},
		{
			name: "small: parked by workers of 200 slots, tried by one of 5", hours: 24, poisons: 1,
			crashes: bound(200),
			kinds: append(times(1, kind{slots: 200, restart: 48 * time.Hour}),
				times(2, kind{slots: 5, restart: ten})...),
			fill: func(f *fleet) { // the large worker dies of something else, too
				mix(f, 199, time.Minute, 1, 20*time.Second)
			},
		},
		{
			name: "once: max_attempts = 1, 100 × 10 s, one kills after 5 s", hours: 1, crashes: 1,
			kinds: times(2, kind{slots: 50, restart: ten}), prefetch: true,
			fill: func(f *fleet) {
				for i := range 101 {
					j := &job{takes: ten, maxAttempts: 1}
					if i == 50 {
						j.kills = 5 * time.Second
					}
					f.add(j)
				}
			},
			check: func(r result) string {
				return unless(r.dead >= 1 && r.dead <= 50, "%d dead letters, want at most one worker's slots", r.dead)
			},
		},
		{
			name: "once: the same, drained twice and killed after a drain once", hours: 1, crashes: 1,
			kinds: times(2, kind{slots: 50, restart: ten}),
			fill: func(f *fleet) {
				for range 400 {
					f.add(&job{takes: ten, maxAttempts: 1})
				}
				for i, killed := range []bool{false, true, false} {
					f.at(time.Duration(13+15*i)*time.Second, func() { f.stop(5*time.Second, killed) })
				}
			},
			check: func(r result) string { return unless(r.dead > 0, "nobody was interrupted") },
		},
		{
			name: "Node: B, and all Go workers are away for 5 h while Node sweeps", hours: 24, poisons: 1,
			crashes: bound(200) + 2, kinds: times(2, kind{slots: 200, restart: ten}),
			fill: func(f *fleet) {
				mix(f, 199, 10*time.Minute, 1, 5*time.Second)
				f.after(10*time.Minute, f.sweep)
				f.at(150*time.Second, func() { f.away(5 * time.Hour) })
			},
			check: func(r result) string { return unless(r.swept > 0, "Node swept nothing") },
		},
		{
			name: "Node: C, and Node sweeps while Go workers live", hours: 24, poisons: 1,
			crashes: bound(200), kinds: times(2, kind{slots: 200, restart: ten}),
			fill: func(f *fleet) {
				mix(f, 199, 10*time.Minute, 1, 5*time.Minute)
				f.after(10*time.Minute, f.sweep)
			},
			check: func(r result) string { return unless(r.swept == 0, "Node swept %d parked jobs", r.swept) },
		},
		{
			name: "Node: somebody deletes a parked job of a queue every 20 s", hours: 1, poisons: 1,
			crashes: bound(80), kinds: times(4, kind{slots: 20, restart: ten}),
			fill: func(f *fleet) {
				queued(f, 100, 5, 1)
				f.every(20*time.Second, time.Hour, func() {
					for _, j := range f.parked {
						if j.state == parked && j.kills == 0 {
							f.end(j)
							return
						}
					}
				})
			},
		},
		{
			name: "deploys: three SIGKILLs of all, 5 min apart, 200 × 10 min, no poison", hours: 6,
			kinds: times(4, kind{slots: 50, restart: ten}),
			fill: func(f *fleet) {
				mix(f, 200, 10*time.Minute, 0, 0)
				for i := range 3 {
					f.at(time.Duration(5*(i+1))*time.Minute, f.killAll)
				}
			},
			check: func(r result) string { return unless(r.done < 2*time.Hour, "all was done late, after %v", r.done) },
		},
		{
			name: "deploys: with notice every 2 min for 1 h, 200 × 1 min, one kills after 5 s", hours: 6, poisons: 1,
			crashes: bound(200), kinds: times(2, kind{slots: 200, restart: ten}),
			fill: func(f *fleet) {
				mix(f, 199, time.Minute, 1, 5*time.Second)
				f.every(2*time.Minute, time.Hour, func() { f.stop(20*time.Second, f.random.IntN(2) == 0) })
			},
		},
		{
			name: "noise: 200 × 10 min, one kills after 5 s; each of 4 workers killed every 20 min", hours: 72,
			poisons: 1, crashes: bound(200) + 3,
			kinds: times(4, kind{slots: 100, restart: ten, life: 20 * time.Minute}),
			fill:  func(f *fleet) { mix(f, 199, 10*time.Minute, 1, 5*time.Second) },
		},
		{
			name: "leak: no poison, 100 × 10 min for a day; each of 4 workers dies every 5 min", hours: 24,
			innocents: 12, pause: true,
			kinds: times(4, kind{slots: 50, restart: ten, life: 5 * time.Minute}),
			fill:  func(f *fleet) { mix(f, 100, 10*time.Minute, 0, 0) },
		},
		{
			name: "false: a worker that was declared dead twice gives notice after all", hours: 6,
			kinds: times(2, kind{slots: 200, restart: ten}),
			fill: func(f *fleet) {
				mix(f, 100, 10*time.Minute, 0, 0)
				for i := range 4 {
					f.at(time.Duration(i+1)*2*time.Minute, func() { f.declaredDead() })
				}
			},
			check: func(r result) string { return unless(r.trials == 0, "%d trials without a death", r.trials) },
		},
		{
			name: "erratic: 200 × 10 min, one kills after 1 min on average", hours: 48, poisons: 1,
			crashes: 4 * bound(200), kinds: times(2, kind{slots: 200, restart: ten}),
			fill: func(f *fleet) {
				mix(f, 199, 10*time.Minute, 0, 0)
				f.add(&job{takes: 24 * time.Hour, kills: time.Minute, erratic: true})
			},
		},
		{
			name: "stream: a new task with a poison every 45 s for 30 min, 40 × 30 s killed twice", hours: 2,
			poisons: 40, crashes: 40 * bound(20), kinds: times(4, kind{slots: 20, restart: ten}),
			fill: func(f *fleet) {
				for i := range 40 {
					f.arrive(time.Duration(45*i)*time.Second,
						&job{task: fmt.Sprint("new", i), takes: time.Second, kills: 5 * time.Millisecond})
					f.arrive(10*time.Minute, &job{takes: 30 * time.Second})
				}
				f.at(615*time.Second, f.killAll)
				f.at(645*time.Second, f.killAll)
			},
			check: func(r result) string {
				return unless(r.ended < 25*time.Minute, "the oldest suspects waited until %v", r.ended)
			},
		},
		{
			name: "together: 40 × 1 min, of which 3 in one process kill it after 1 s; 2 workers", hours: 6,
			crashes: 60, kinds: times(2, kind{slots: 20, restart: ten}),
			fill: func(f *fleet) {
				for range 40 {
					f.add(&job{takes: time.Minute, company: 3})
				}
			},
		},
	}
}

func unless(holds bool, format string, args ...any) string {
	if holds {
		return ""
	}
	return fmt.Sprintf(format, args...)
}

// queued adds queues of jobs of 200 ms, some of which kill.
func queued(f *fleet, queues, jobs, poisons int) {
	places := f.random.Perm(queues * jobs)[:poisons]
	kills := map[int]bool{}
	for _, p := range places {
		kills[p] = true
	}
	first := f.order
	for i := range queues * jobs {
		j := &job{queue: fmt.Sprint(first, "-", i%queues), takes: 200 * time.Millisecond}
		if kills[i] {
			j.kills = 5 * time.Millisecond
		}
		f.add(j)
	}
}

func keyed(f *fleet, jobs int, takes, kills time.Duration) {
	for i := range jobs {
		f.add(&job{key: fmt.Sprint("key", i), takes: takes})
	}
	f.add(&job{key: "poison", takes: takes, kills: kills})
}

// overlapping adds jobs of hours, so that no worker is ever empty by itself, and a poison.
func overlapping(f *fleet) {
	for i := range 96 {
		f.arrive(time.Duration(30*i)*time.Minute, &job{takes: 5 * time.Hour})
	}
	f.arrive(24*time.Hour+f.between(0, time.Hour), &job{takes: time.Minute, kills: 5 * time.Second})
	f.steady(10*time.Second, 48*time.Hour)
}

// steady adds jobs of 100 ms.
func (f *fleet) steady(period, until time.Duration) {
	for at := time.Duration(0); at < until; at += period {
		f.arrive(at, &job{task: "steady", takes: 100 * time.Millisecond})
	}
}

func (f *fleet) every(period, until time.Duration, do func()) {
	for at := period; at < until; at += period {
		f.at(at, do)
	}
}

// whenParked does something to each job ten seconds after it was first parked; at most so often.
func (f *fleet) whenParked(most int, do func(*job)) {
	seen := map[int64]bool{}
	f.every(time.Second, 24*time.Hour, func() {
		for _, j := range f.parked {
			if j.state == parked && j.key != "" && !seen[j.id] && (most == 0 || len(seen) < most) {
				seen[j.id] = true
				f.after(10*time.Second, func() {
					if j.state == parked && j.key != "" {
						do(j)
					}
				})
			}
		}
	})
}

// replaceUntilConvicted replaces the poison by its like.
func (f *fleet) replaceUntilConvicted(period, until time.Duration) {
	f.every(period, until, func() {
		if f.result.poisons == 0 {
			f.add(&job{key: "poison", takes: time.Minute, kills: 5 * time.Second})
			f.wake()
		}
	})
}

// stop tells one worker to stop.
func (f *fleet) stop(grace time.Duration, killed bool) {
	for _, w := range f.workers {
		if w.alive && !w.told {
			w.drain(grace, killed)
			return
		}
	}
}

func (f *fleet) killAll() {
	for _, w := range f.alive() {
		f.kill(w)
	}
}

// away stops all workers by a kill, and starts them again much later.
func (f *fleet) away(long time.Duration) {
	f.awayUntil = f.now + long
	f.killAll()
}

// declaredDead has the others rescue the jobs of a worker that lives, and learns it a minute later.
func (f *fleet) declaredDead() {
	if living := f.alive(); len(living) > 1 {
		w := living[0]
		w.die()
		f.after(time.Minute, func() { w.told = true })
	}
}
