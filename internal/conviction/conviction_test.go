package conviction_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/internal/conviction"
)

func TestJudge(t *testing.T) {
	t.Parallel()
	lease := conviction.Lease{Attempt: 2, Attempts: 2, MaxAttempts: 25}
	once := conviction.Lease{Attempt: 1, Attempts: 1, MaxAttempts: 1}
	last := conviction.Lease{Attempt: 25, Attempts: 25, MaxAttempts: 25}
	gone := conviction.Lease{Attempt: 2, Attempts: 25, MaxAttempts: 25, Keyed: true}
	failed := conviction.Lease{Attempt: 2, Attempts: 25, MaxAttempts: 25}
	again := conviction.Lease{Attempt: 1, Attempts: 0, MaxAttempts: 1}
	lastGone := conviction.Lease{Attempt: 25, Attempts: 25, MaxAttempts: 25, Keyed: true}
	before := func(deaths, alone int) conviction.Record {
		return conviction.Record{Ages: make([]time.Duration, deaths), Alone: alone}
	}
	for name, c := range map[string]struct {
		death conviction.Death
		held  conviction.Held
		want  conviction.Ruling
	}{
		"first death": {
			conviction.Death{Held: 200},
			conviction.Held{Lease: lease},
			conviction.Ruling{Verdict: conviction.Release, Present: true},
		},
		"second death": {
			conviction.Death{Held: 200},
			conviction.Held{Lease: lease, Record: before(1, 0)},
			conviction.Ruling{Verdict: conviction.Park, Present: true},
		},
		"second death, with notice": {
			conviction.Death{Held: 200, Notice: true},
			conviction.Held{Lease: lease, Record: before(1, 0)},
			conviction.Ruling{Verdict: conviction.Release},
		},
		"the only job, not tried": {
			conviction.Death{Held: 1},
			conviction.Held{Lease: lease, Record: before(9, 2)},
			conviction.Ruling{Verdict: conviction.Park, Present: true},
		},
		"tried with others": {
			conviction.Death{Held: 2},
			conviction.Held{Lease: lease, Tried: true, Record: before(9, 2)},
			conviction.Ruling{Verdict: conviction.Park, Present: true},
		},
		"tried alone": {
			conviction.Death{Held: 1},
			conviction.Held{Lease: lease, Tried: true, Record: before(4, 1)},
			conviction.Ruling{Verdict: conviction.Park, Present: true, Alone: true},
		},
		"tried alone, the third time": {
			conviction.Death{Held: 1},
			conviction.Held{Lease: lease, Tried: true, Record: before(5, 2)},
			conviction.Ruling{Verdict: conviction.Convict, Present: true, Alone: true},
		},
		"tried alone, the third time, with notice": {
			conviction.Death{Held: 1, Notice: true},
			conviction.Held{Lease: lease, Tried: true, Record: before(5, 2)},
			conviction.Ruling{Verdict: conviction.Park},
		},
		"tried alone, the third time, disturbed": {
			conviction.Death{Held: 1, Disturbed: true},
			conviction.Held{Lease: lease, Tried: true, Record: before(5, 2)},
			conviction.Ruling{Verdict: conviction.Park, Present: true},
		},
		"on its last attempt": {
			conviction.Death{Held: 5},
			conviction.Held{Lease: last},
			conviction.Ruling{Verdict: conviction.Release, Present: true},
		},
		"superseded": {
			conviction.Death{Held: 1},
			conviction.Held{Lease: gone, Tried: true, Record: before(5, 2)},
			conviction.Ruling{Verdict: conviction.Drop, Present: true, Alone: true},
		},
		"superseded on its last attempt": {
			conviction.Death{Held: 5},
			conviction.Held{Lease: lastGone},
			conviction.Ruling{Verdict: conviction.Drop, Present: true},
		},
		"may start once": {
			conviction.Death{Held: 5},
			conviction.Held{Lease: once},
			conviction.Ruling{Verdict: conviction.Crash, Present: true},
		},
		"may start once, with notice": {
			conviction.Death{Held: 5, Notice: true},
			conviction.Held{Lease: once},
			conviction.Ruling{Verdict: conviction.Interrupt},
		},
		"failed for good by somebody else": {
			conviction.Death{Held: 5},
			conviction.Held{Lease: failed, Record: before(2, 0)},
			conviction.Ruling{Verdict: conviction.Release, Present: true},
		},
		"may start once, and somebody has given it another attempt": {
			conviction.Death{Held: 5},
			conviction.Held{Lease: again},
			conviction.Ruling{Verdict: conviction.Release, Present: true},
		},
	} {
		if diff := cmp.Diff(c.want, c.death.Judge(c.held)); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", name, diff)
		}
	}
}

func TestAge(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		ages []time.Duration
		want time.Duration
	}{
		{nil, 0}, {[]time.Duration{5}, 5}, {[]time.Duration{5, 3}, 3}, {[]time.Duration{1, 9, 2, 8, 3}, 8},
	} {
		if got := (conviction.Record{Ages: c.ages}).Age(); got != c.want {
			t.Errorf("the age of %v is %v, want %v", c.ages, got, c.want)
		}
	}
}

func TestPauses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		ago  []time.Duration
		want bool
	}{
		{[]time.Duration{0, time.Minute}, false},
		{[]time.Duration{0, time.Minute, time.Hour}, true},
		{[]time.Duration{0, time.Minute, time.Hour + 1, 2 * time.Hour}, false},
	} {
		if got := conviction.Pauses(c.ago); got != c.want {
			t.Errorf("convictions %v ago pause: %t, want %t", c.ago, got, c.want)
		}
	}
}

func TestNewTrial(t *testing.T) {
	t.Parallel()
	cohort := func(number int64, size int, change func(*conviction.Suspect)) []conviction.Suspect {
		var suspects []conviction.Suspect
		for i := range size {
			s := conviction.Suspect{Job: number*1000 + int64(i), Cohort: number, Age: time.Duration(number) * time.Second}
			change(&s)
			suspects = append(suspects, s)
		}
		return suspects
	}
	plain := func(*conviction.Suspect) {}
	provenOne := func(s *conviction.Suspect) { s.Proven = true }
	for name, c := range map[string]struct {
		suspects []conviction.Suspect
		slots    int
		want     map[int64]int // jobs drawn, by the cohorts that it may be
	}{
		"nobody":                  {nil, 20, map[int64]int{0: 0}},
		"one":                     {cohort(1, 1, plain), 20, map[int64]int{1: 1}},
		"half, rounded up":        {cohort(1, 5, plain), 20, map[int64]int{1: 3}},
		"half, at most the slots": {cohort(1, 100, plain), 20, map[int64]int{1: 20}},
		"the oldest":              {slices.Concat(cohort(2, 8, plain), cohort(1, 6, plain)), 20, map[int64]int{1: 3}},
		"the newest that is proven, or the oldest": {
			slices.Concat(cohort(1, 20, plain), cohort(2, 8, provenOne), cohort(3, 6, provenOne), cohort(4, 9, plain)),
			20,
			map[int64]int{1: 10, 3: 3},
		},
		"the rest, the poison found":      {cohort(1, 8, func(s *conviction.Suspect) { s.Cleared, s.Proven = true, true }), 20, map[int64]int{1: 8}},
		"the rest, nothing proven":        {cohort(1, 8, func(s *conviction.Suspect) { s.Passed = true }), 20, map[int64]int{1: 8}},
		"the rest, the poison in it":      {cohort(1, 8, func(s *conviction.Suspect) { s.Passed, s.Proven = true, true }), 20, map[int64]int{1: 4}},
		"the rest as a whole has a bound": {cohort(1, 8, func(s *conviction.Suspect) { s.Passed = true }), 5, map[int64]int{1: 5}},
	} {
		seen := map[int64]bool{}
		for seed := range uint64(100) {
			trial := conviction.NewTrial(c.suspects, c.slots, rand.New(rand.NewPCG(seed, 0)))
			number := int64(0)
			if len(trial.Jobs) > 0 {
				number = trial.Jobs[0] / 1000
				if want := 10*time.Second + 2*time.Duration(number)*time.Second; trial.Window != want {
					t.Errorf("%s: a window of %v, want %v", name, trial.Window, want)
				}
			}
			seen[number] = true
			if want, may := c.want[number]; !may || len(trial.Jobs) != want {
				t.Fatalf("%s: drew %v, want one of (cohort: number) %v", name, trial.Jobs, c.want)
			}
			if slices.Sort(trial.Jobs); len(slices.Compact(trial.Jobs)) != len(trial.Jobs) {
				t.Fatalf("%s: drew a job twice: %v", name, trial.Jobs)
			}
		}
		if len(seen) != len(c.want) {
			t.Errorf("%s: in 100 draws only the cohorts %v", name, seen)
		}
	}
}

func TestNewTrialDrawsAnyHalf(t *testing.T) {
	t.Parallel()
	drawn := map[int64]int{}
	for seed := range uint64(1000) {
		var suspects []conviction.Suspect
		for job := range int64(10) {
			suspects = append(suspects, conviction.Suspect{Job: job})
		}
		for _, job := range conviction.NewTrial(suspects, 20, rand.New(rand.NewPCG(seed, 0))).Jobs {
			drawn[job]++
		}
	}
	for job := range int64(10) {
		if n := drawn[job]; n < 400 || n > 600 {
			t.Errorf("job %d was drawn %d times in 1,000, want about 500", job, n)
		}
	}
}

func TestOver(t *testing.T) {
	t.Parallel()
	trial := conviction.Trial{Window: time.Minute}
	for _, c := range []struct {
		unfinished int
		elapsed    time.Duration
		want       bool
	}{{0, 0, true}, {1, time.Minute - 1, false}, {1, time.Minute, true}} {
		if got := trial.Over(c.unfinished, c.elapsed); got != c.want {
			t.Errorf("with %d unfinished after %v it is over: %t", c.unfinished, c.elapsed, got)
		}
	}
}

func TestNext(t *testing.T) {
	t.Parallel()
	some := conviction.Worker{Holds: 3, Long: 1, Suspects: 5, Living: 4, Free: time.Hour}
	but := func(change func(*conviction.Worker)) conviction.Worker {
		w := some
		change(&w)
		return w
	}
	for name, c := range map[string]struct {
		worker conviction.Worker
		want   conviction.Step
	}{
		"no suspects":         {but(func(w *conviction.Worker) { w.Suspects = 0 }), conviction.Claim},
		"begins to empty":     {some, conviction.ClaimQuick},
		"has quick jobs only": {but(func(w *conviction.Worker) { w.Long = 0 }), conviction.Wait},
		"holds nothing":       {but(func(w *conviction.Worker) { w.Holds, w.Long = 0, 0 }), conviction.Try},
		"another empties":     {but(func(w *conviction.Worker) { w.OtherEmptying, w.Busy = true, 1 }), conviction.Claim},
		"holds nothing while another empties": {
			but(func(w *conviction.Worker) { w.Holds, w.Long, w.OtherEmptying, w.Busy = 0, 0, true, 1 }), conviction.Try,
		},
		"half of the fleet tries": {but(func(w *conviction.Worker) { w.Holds, w.Long, w.Busy = 0, 0, 2 }), conviction.Claim},
		"a fleet of one":          {but(func(w *conviction.Worker) { w.Holds, w.Long, w.Living = 0, 0, 1 }), conviction.Try},
		"stopped before":          {but(func(w *conviction.Worker) { w.Stopped, w.Free = time.Minute, time.Second }), conviction.Claim},
		"stopped before, and there is nothing to claim": {
			but(func(w *conviction.Worker) {
				w.Stopped, w.Free, w.Idle, w.Holds, w.Long = time.Minute, time.Second, true, 0, 0
			}),
			conviction.Try,
		},
		"tries":                 {but(func(w *conviction.Worker) { w.Trying = true }), conviction.Wait},
		"empties for a while":   {but(func(w *conviction.Worker) { w.Emptying, w.Emptied = true, 14*time.Minute }), conviction.ClaimQuick},
		"empties in vain":       {but(func(w *conviction.Worker) { w.Emptying, w.Emptied = true, 15*time.Minute }), conviction.Claim},
		"has more patience":     {but(func(w *conviction.Worker) { w.Emptying, w.Emptied, w.Vain = true, 15*time.Minute, 1 }), conviction.ClaimQuick},
		"empties, and is empty": {but(func(w *conviction.Worker) { w.Emptying, w.Emptied, w.Holds = true, time.Hour, 0 }), conviction.Try},
		"the suspects are gone": {but(func(w *conviction.Worker) { w.Emptying, w.Suspects = true, 0 }), conviction.Claim},
		"empties, and has the greatest patience": {
			but(func(w *conviction.Worker) { w.Emptying, w.Emptied, w.Vain = true, 4*time.Hour-1, 99 }),
			conviction.ClaimQuick,
		},
		"has no more than that": {but(func(w *conviction.Worker) { w.Emptying, w.Emptied, w.Vain = true, 4*time.Hour, 99 }), conviction.Claim},
		"stopped before, and there is nothing to claim while it has jobs": {
			but(func(w *conviction.Worker) { w.Stopped, w.Free, w.Idle = time.Minute, time.Second, true }),
			conviction.Claim,
		},
	} {
		if got := c.worker.Next(); got != c.want {
			t.Errorf("%s: step %d, want %d", name, got, c.want)
		}
	}
}
