package conviction_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/backfillhq/go/internal/conviction"
)

// scenario is a fleet, its jobs, and what must come of it, whatever the seed.
type scenario struct {
	name     string
	kinds    []kind
	prefetch bool // jobs are short, so a claim takes up to 500
	pause    bool // tasks are paused
	fill     func(*fleet)

	hours     int // in which all is done
	crashes   int // at most
	poisons   int // convicted; -1: any number
	innocents int // convicted, at most
	late      time.Duration
	check     func(result) string
}

// kind is one process of a fleet that its supervisor restarts.
type kind struct {
	slots   int
	tasks   []string      // none: all
	restart time.Duration // after its end
	life    time.Duration // until it is killed without notice, on average; 0: never
}

func (k *kind) name() string { return strings.Join(k.tasks, " ") }

func times(n int, k kind) []kind { return slices.Repeat([]kind{k}, n) }

// result is what one run came to.
type result struct {
	crashes, kills     int // by poisons; by the scenario, without notice
	poisons, innocents int // convicted
	dead               int // dead letters without conviction: max_attempts = 1
	paused             int // tasks
	trials             int
	swept              int // parked jobs, by Node

	finished bool
	done     time.Duration
	ended    time.Duration // when the last job of the task "task" was gone
	late     time.Duration // the longest that a job of the task steady waited for its claim
	halted   time.Duration // the longest for which a worker claimed nothing

	twice, disorder, unserved, again int // what must not happen: see wrong
}

func (s scenario) run(seed uint64, r rule) result {
	f := &fleet{
		scenario: s, rule: r, random: rand.New(rand.NewPCG(seed, 1)),
		busy: map[string]*job{}, queues: map[string][]*job{}, keys: map[string]*job{},
		hit: map[int64]bool{}, proven: map[int64]bool{}, asked: map[string][]conviction.Suspect{},
		paused: map[string]bool{}, guilty: map[string][]time.Duration{},
	}
	s.fill(f)
	for i := range s.kinds {
		f.after(f.between(0, time.Second), func() { f.start(&s.kinds[i]) })
	}
	end := time.Duration(s.hours) * time.Hour
	for len(f.events) > 0 && f.now < end && !f.settled() {
		f.next()
	}
	f.result.done, f.result.finished = f.now, f.settled()
	f.result.paused = len(f.paused)
	return f.result
}

// settled reports whether nothing is left to do: what remains belongs to paused tasks.
func (f *fleet) settled() bool {
	if f.coming > 0 || f.open > 0 && len(f.paused) == 0 {
		return false
	}
	if f.open == 0 {
		return true
	}
	waits := slices.ContainsFunc(f.line, func(j *job) bool { return !f.paused[j.task] })
	holds := slices.ContainsFunc(f.workers, func(w *worker) bool { return len(w.held) > 0 })
	suspects := slices.ContainsFunc(f.parked, func(j *job) bool { return j.state == parked && !f.paused[j.task] })
	return !waits && !holds && !suspects
}

// wrong says what must not have come of a run.
func (s scenario) wrong(r result) []string {
	var wrong []string
	say := func(is bool, format string, args ...any) {
		if is {
			wrong = append(wrong, fmt.Sprintf(format, args...))
		}
	}
	say(!r.finished, "not done after %d h", s.hours)
	say(r.crashes > s.crashes, "%d crashes, want at most %d", r.crashes, s.crashes)
	say(r.innocents > s.innocents, "%d innocents were convicted, want at most %d", r.innocents, s.innocents)
	say(s.poisons >= 0 && r.poisons != s.poisons && r.paused == 0, "%d poisons were convicted, want %d", r.poisons, s.poisons)
	say(s.late > 0 && r.late > s.late, "a job waited for %v, want at most %v", r.late, s.late)
	say(r.twice > 0, "%d starts of jobs that may start once", r.twice)
	say(r.disorder > 0, "%d starts out of the order of a queue", r.disorder)
	say(r.unserved > 0, "%d starts by workers that do not serve the task", r.unserved)
	say(r.again > 0, "%d starts of jobs that were removed while they were parked", r.again)
	if s.check != nil {
		if problem := s.check(r); problem != "" {
			wrong = append(wrong, problem)
		}
	}
	return wrong
}

// row is a line of the table: medians, and the least and the most.
func (s scenario) row(results []result) string {
	spread := func(of func(result) int) string {
		var all []int
		for _, r := range results {
			all = append(all, of(r))
		}
		slices.Sort(all)
		return fmt.Sprintf("%d [%d-%d]", all[len(all)/2], all[0], all[len(all)-1])
	}
	return fmt.Sprintf("%-84s %15s %15s %8s %22s %17s %12s", s.name,
		spread(func(r result) int { return r.crashes }),
		spread(func(r result) int { return r.poisons }),
		spread(func(r result) int { return r.innocents }),
		spread(func(r result) int { return int(r.done.Seconds()) }),
		spread(func(r result) int { return int(r.halted.Seconds()) }),
		spread(func(r result) int { return int(r.late.Seconds()) }),
	)
}

// TestScenarios prints what the rule comes to; see it with -v.
func TestScenarios(t *testing.T) {
	t.Parallel()
	all := slices.Concat(page(), others())
	rows := make([]string, len(all))
	t.Cleanup(func() {
		t.Logf("medians of %d seeds [least-most]\n%-84s %15s %15s %8s %22s %17s %12s\n%s", seeds, "",
			"crashes", "poisons", "innocents", "done after s", "halted s", "late s", strings.Join(rows, "\n"))
	})
	for i, s := range all {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			var results []result
			for seed := range uint64(seeds) {
				results = append(results, s.run(seed, decided()))
				for _, problem := range s.wrong(results[seed]) {
					t.Errorf("seed %d: %s", seed, problem)
				}
			}
			rows[i] = s.row(results)
		})
	}
}

// TestRandomFleets has no number to keep but none: whatever the fleet and its jobs, and however
// many kill, all poisons are convicted and nobody else, queues keep their order, and all is done.
func TestRandomFleets(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20 * seeds) {
		random := rand.New(rand.NewPCG(seed, 2))
		between := func(low, high time.Duration) time.Duration {
			return low + time.Duration(random.Int64N(int64(high-low)))
		}
		takes := []time.Duration{20 * time.Millisecond, time.Second, 10 * time.Minute}[random.IntN(3)]
		s := scenario{name: fmt.Sprint("random ", seed), hours: 24 * 7, poisons: random.IntN(4), prefetch: random.IntN(2) == 0}
		s.kinds = times(1+random.IntN(5), kind{slots: 1 + random.IntN(50), restart: between(time.Second, time.Minute)})
		s.crashes = s.poisons * bound(500)
		s.fill = func(f *fleet) {
			for i := range s.poisons + random.IntN(150) {
				j := &job{takes: takes/2 + f.between(0, takes), fails: f.random.IntN(8) / 7}
				if f.random.IntN(3) == 0 {
					j.queue = fmt.Sprint(f.random.IntN(10))
					j.fails = 0 // a queue lets others pass a job that failed
				}
				if i < s.poisons {
					j.kills = f.between(time.Millisecond, takes/2)
				}
				f.arrive(f.between(0, 2*takes), j)
			}
		}
		for _, problem := range s.wrong(s.run(seed, decided())) {
			t.Errorf("%s: %d poisons, %d workers of %d slots, jobs of about %v: %s",
				s.name, s.poisons, len(s.kinds), s.kinds[0].slots, takes, problem)
		}
	}
}
