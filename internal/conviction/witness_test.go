package conviction_test

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/backfillhq/go/internal/conviction"
)

// TestWitnesses replaces one part of the rule at a time. Each time a scenario breaks that holds
// with the rule: so the scenarios can fail, and each part is there for a reason.
func TestWitnesses(t *testing.T) {
	t.Parallel()
	for _, w := range []struct {
		without  string
		rule     func(*rule)
		scenario string
		breaks   string // what is said of at least one seed
	}{
		{"halves: all suspects at once", func(r *rule) { r.draw = all }, "A", "not done"},
		{"halves: all suspects at once", func(r *rule) { r.draw = all }, "B", "not done"},
		{"a single job held: the newest counts", func(r *rule) { r.judge = newest }, "I", "innocents"},
		{"a single job held: the newest counts", func(r *rule) { r.judge = newest }, "C", "innocents"},
		{"a single job held: all count", func(r *rule) { r.judge = everybody }, "B", "innocents"},
		{"a second presence: one makes a suspect", func(r *rule) { r.judge = firstPresence }, "H", "delayed"},
		{"proven cohorts first: the oldest", func(r *rule) { r.draw = oldest }, "J with the pause", "crashes"},
		{"a turn of the oldest: proven cohorts only", func(r *rule) { r.draw = proven }, "stream", "oldest"},
		{"notes of when a renewed lease began", func(r *rule) { r.noteAge = false }, "renewed", "not done"},
		{"the second greatest age: the greatest", func(r *rule) { r.age = greatest }, "hours: the same", "waited"},
		{"the rest as a whole: always halves", func(r *rule) { r.draw = halves }, "deploys: three", "late"},
		{"a look at other deaths", func(r *rule) { r.undisturbed = true }, "noise", "innocents"},
		{"records that follow the key", func(r *rule) { r.inherit = false }, "keys: a poison replaced", "crashes"},
		{"quick jobs while it empties", func(r *rule) { r.next = unhurried }, "single", "waited"},
		{"claims between trials", func(r *rule) { r.next = restless }, "lone", "waited"},
		{"a limit to trials at once", func(r *rule) { r.next = unlimited }, "pair", "waited"},
	} {
		t.Run(w.without+"/"+w.scenario, func(t *testing.T) {
			t.Parallel()
			r := decided()
			w.rule(&r)
			broken := find(t, w.scenario)
			for seed := range uint64(25) {
				for _, problem := range broken.wrong(broken.run(seed, r)) {
					if strings.Contains(problem, w.breaks) {
						t.Logf("%s, seed %d: %s", broken.name, seed, problem)
						return
					}
				}
			}
			t.Errorf("%s holds without it, or another thing breaks: want %q", broken.name, w.breaks)
		})
	}
}

func find(t *testing.T, prefix string) scenario {
	t.Helper()
	for _, s := range slices.Concat(page(), others()) {
		if strings.HasPrefix(s.name, prefix) {
			return s
		}
	}
	t.Fatalf("no scenario %q", prefix)
	return scenario{}
}

func all(suspects []conviction.Suspect, slots int, random *rand.Rand) conviction.Trial {
	whole := slices.Clone(suspects)
	for i := range whole {
		whole[i].Cleared = true
	}
	return conviction.NewTrial(whole, slots, random)
}

func halves(suspects []conviction.Suspect, slots int, random *rand.Rand) conviction.Trial {
	plain := slices.Clone(suspects)
	for i := range plain {
		plain[i].Cleared, plain[i].Passed = false, false
	}
	return conviction.NewTrial(plain, slots, random)
}

func oldest(suspects []conviction.Suspect, slots int, random *rand.Rand) conviction.Trial {
	same := slices.Clone(suspects)
	for i := range same {
		same[i].Proven = false
	}
	return conviction.NewTrial(same, slots, random)
}

func proven(suspects []conviction.Suspect, slots int, random *rand.Rand) conviction.Trial {
	only := slices.DeleteFunc(slices.Clone(suspects), func(s conviction.Suspect) bool { return !s.Proven })
	if len(only) == 0 {
		only = suspects
	}
	latest := slices.MaxFunc(only, func(a, b conviction.Suspect) int { return cmp.Compare(a.Cohort, b.Cohort) })
	only = slices.DeleteFunc(slices.Clone(only), func(s conviction.Suspect) bool { return s.Cohort != latest.Cohort })
	return conviction.NewTrial(only, slots, random)
}

// newest counts the death against the job that was started last, if it was tried.
func newest(d conviction.Death, held []*job) []conviction.Ruling {
	last := slices.MaxFunc(held, func(a, b *job) int { return cmp.Compare(a.started, b.started) })
	return counting(d, held, func(j *job) bool { return j == last })
}

func everybody(d conviction.Death, held []*job) []conviction.Ruling {
	return counting(d, held, func(*job) bool { return true })
}

// counting judges as if the jobs that count had been held alone.
func counting(d conviction.Death, held []*job, counts func(*job) bool) []conviction.Ruling {
	var rulings []conviction.Ruling
	for _, j := range held {
		d.Held = 2
		if counts(j) && j.state == running {
			d.Held = 1
		}
		rulings = append(rulings, d.Judge(j.evidence()))
	}
	return rulings
}

func firstPresence(d conviction.Death, held []*job) []conviction.Ruling {
	var rulings []conviction.Ruling
	for _, j := range held {
		h := j.evidence()
		h.Record.Ages = append(h.Record.Ages, 0)
		rulings = append(rulings, d.Judge(h))
	}
	return rulings
}

func greatest(r conviction.Record) time.Duration {
	return slices.Max(append(r.Ages, 0))
}

// unhurried empties itself for as long as it takes.
func unhurried(w conviction.Worker) conviction.Step {
	w.Emptied, w.Long = 0, 0
	return w.Next()
}

func unlimited(w conviction.Worker) conviction.Step {
	w.Busy, w.Living, w.OtherEmptying, w.Stopped, w.Long = 0, 2, false, 0, 0
	return w.Next()
}

func restless(w conviction.Worker) conviction.Step {
	w.Stopped = 0
	return w.Next()
}
