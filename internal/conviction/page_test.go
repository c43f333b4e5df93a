package conviction_test

import (
	"math/bits"
	"slices"
	"time"
)

// bound is the most crashes that one poison costs among n jobs that were held together: two that
// make a suspect of it, the halves, and three alone.
func bound(n int) int { return 2 + bits.Len(uint(n-1)) + 3 }

// mix adds innocents and poisons, the poisons at random places.
func mix(f *fleet, innocents int, takes time.Duration, poisons int, kills time.Duration) {
	places := f.random.Perm(innocents + poisons)[:poisons]
	for i := range innocents + poisons {
		j := &job{takes: takes}
		if slices.Contains(places, i) {
			j.takes, j.kills = max(takes, kills), kills
		}
		f.add(j)
	}
}

// page has the scenarios with which the rule was found.
func page() []scenario {
	return []scenario{
		short("A 500 × 5 ms, one kills after 5 ms; 2 workers", times(2, kind{slots: 20, restart: 10 * time.Second})),
		long("B 200 × 10 min side by side, one kills after 5 s; 2 workers", 5*time.Second, 2),
		long("C same, kills after 5 min", 5*time.Minute, 4),
		{
			name: "D 2,000 × 1 s, 20 kill after 6 s; 10 workers", hours: 1, poisons: 20, crashes: 100,
			kinds: times(10, kind{slots: 20, restart: 10 * time.Second}),
			fill:  func(f *fleet) { mix(f, 1980, time.Second, 20, 6*time.Second) },
		},
		{
			name: "E no poison, 200 × 10 min; 4 workers, each killed every 20 min", hours: 24,
			kinds: times(4, kind{slots: 50, restart: 10 * time.Second, life: 20 * time.Minute}),
			fill:  func(f *fleet) { mix(f, 200, 10*time.Minute, 0, 0) },
		},
		{
			name: "F 5,000 × 50 ms, 3 kill at once; 10 workers", hours: 1, poisons: 3, crashes: 3 * bound(500),
			prefetch: true, kinds: times(10, kind{slots: 20, restart: 10 * time.Second}),
			fill: func(f *fleet) { mix(f, 4997, 50*time.Millisecond, 3, 5*time.Millisecond) },
		},
		short("G as A; 1 worker, 60 s between its restarts", times(1, kind{slots: 20, restart: time.Minute})),
		{
			name: "H no poison, 200 × 10 min, one kill -9; 2 workers", hours: 1,
			kinds: times(2, kind{slots: 200, restart: 10 * time.Second}),
			fill: func(f *fleet) {
				mix(f, 200, 10*time.Minute, 0, 0)
				f.at(time.Minute, func() {
					f.kill(slices.MaxFunc(f.workers, func(a, b *worker) int { return len(a.held) - len(b.held) }))
				})
			},
			check: func(r result) string { // the jobs' time, the kill, and the rescue
				if r.done > 11*time.Minute+20*time.Second || r.trials > 0 {
					return "jobs were delayed beyond the rescue"
				}
				return ""
			},
		},
		long("I as B, kills after 30 s", 30*time.Second, 2),
		deploy("J 60 of 3,000 kill at once, 40 innocents of 2 min; 10 workers", 450, false),
		deploy("J with the pause", 120, true),
	}
}

func short(name string, kinds []kind) scenario {
	return scenario{
		name: name, kinds: kinds, prefetch: true, hours: 1, poisons: 1, crashes: bound(500),
		fill: func(f *fleet) { mix(f, 499, 5*time.Millisecond, 1, 5*time.Millisecond) },
	}
}

func long(name string, kills time.Duration, hours int) scenario {
	return scenario{
		name: name, hours: hours, poisons: 1, crashes: bound(200),
		kinds: times(2, kind{slots: 200, restart: 10 * time.Second}),
		fill:  func(f *fleet) { mix(f, 199, 10*time.Minute, 1, kills) },
	}
}

func deploy(name string, crashes int, pause bool) scenario {
	return scenario{
		name: name, hours: 1, poisons: 60, crashes: crashes, prefetch: true, pause: pause,
		kinds: times(10, kind{slots: 20, restart: 10 * time.Second}),
		fill: func(f *fleet) {
			for range 40 {
				f.add(&job{task: "other", takes: 2 * time.Minute})
			}
			mix(f, 2940, 50*time.Millisecond, 60, 5*time.Millisecond)
		},
	}
}
