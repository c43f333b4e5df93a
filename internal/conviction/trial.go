package conviction

import (
	"math/rand/v2"
	"slices"
	"time"
)

// Suspect is a parked job that the worker which asks may try: it serves the task, the task is not
// paused, and the job is not superseded.
type Suspect struct {
	Job int64
	// Cohort is the number of the death that parked it. Later ones have greater numbers.
	Cohort int64
	// Age is that of its record.
	Age time.Duration
	// Proven says that its cohort was parked by a death without notice in a trial: the poison is in
	// it.
	Proven bool
	// Cleared says that a trial of others of its cohort ended in such a death: the poison is
	// probably not in what is left.
	Cleared bool
	// Passed says that a trial of its cohort has left it out.
	Passed bool
}

// Trial is the half of a cohort that one worker runs, holding nothing else.
type Trial struct {
	Jobs []int64
	// Window is how long they have to run to be acquitted.
	Window time.Duration
}

// grace is what a trial grants beside twice the age: heartbeats are up to 5 s apart, so a job may
// have been held for that much longer at a crash than anybody knows.
const grace = 10 * time.Second

// NewTrial draws half of a cohort at random, rounded up, and not more than the worker has slots: so
// all start at once, and the trial is over in its window.
//
// Of a cohort with a poison, half of what is left is drawn again when a half has survived. So each
// trial halves what the poison can be in, whether it kills or not. What is left is tried as a whole
// where that costs no crash: when the poison was found in the other half, and when nobody knows
// whether there is one and a half has survived. So a cohort of innocents is free after two trials.
func NewTrial(suspects []Suspect, slots int, random *rand.Rand) Trial {
	if len(suspects) == 0 {
		return Trial{}
	}
	cohort := next(suspects, random)
	random.Shuffle(len(cohort), func(i, j int) { cohort[i], cohort[j] = cohort[j], cohort[i] })
	size := (len(cohort) + 1) / 2
	if cohort[0].Cleared || cohort[0].Passed && !cohort[0].Proven {
		size = len(cohort)
	}
	var trial Trial
	for _, s := range cohort[:min(size, slots)] {
		trial.Jobs = append(trial.Jobs, s.Job)
		trial.Window = max(trial.Window, grace+2*s.Age)
	}
	return trial
}

// next returns the cohort to try. A poison that is known to be in a cohort is isolated first, so
// that a task full of poisons is paused soon. One trial in four takes the oldest cohort, so that no
// stream of poisons keeps it waiting.
func next(suspects []Suspect, random *rand.Rand) []Suspect {
	oldest, newest := suspects[0], suspects[0]
	for _, s := range suspects {
		if s.Cohort < oldest.Cohort {
			oldest = s
		}
		if s.Proven && (!newest.Proven || s.Cohort > newest.Cohort) {
			newest = s
		}
	}
	cohort := newest.Cohort
	if !newest.Proven || random.IntN(4) == 0 {
		cohort = oldest.Cohort
	}
	return slices.DeleteFunc(slices.Clone(suspects), func(s Suspect) bool { return s.Cohort != cohort })
}

// Over reports whether the trial is over, and the jobs of it acquitted: their records are deleted,
// and what still runs goes on as ordinary jobs do. Unfinished is how many have not ended, elapsed
// the time since the last of them started.
func (t Trial) Over(unfinished int, elapsed time.Duration) bool {
	return unfinished == 0 || elapsed >= t.Window
}
