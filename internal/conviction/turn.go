package conviction

import "time"

// Worker is what one worker knows when it decides whether to claim or to try suspects.
type Worker struct {
	Holds    int  // leases in its hands
	Long     int  // those of tasks that are not quick: see Quick
	Suspects int  // that it may try
	Trying   bool // its trial is not over

	// Idle says that its last claim brought nothing.
	Idle bool
	// Stopped is for how long it last claimed nothing, to empty itself and to try, and Free how
	// long ago that ended. At its start both are those of the last trial in the fleet that ended in
	// a death.
	Stopped, Free time.Duration

	Emptying bool          // it claims nothing, to hold nothing
	Emptied  time.Duration // for how long it has been emptying
	Vain     int           // how often in a row it gave up emptying

	// Of the fleet: workers that are not known to be dead; of the others, those that empty or try,
	// and whether one empties.
	Living        int
	Busy          int
	OtherEmptying bool
}

// Step is what a worker does next.
type Step int

const (
	// Claim asks for ordinary jobs. A worker that was emptying itself gives up.
	Claim Step = iota
	// Wait claims nothing: the worker empties itself, from now on if it did not, or its trial runs.
	Wait
	// ClaimQuick empties too, and asks for jobs of quick tasks alone: they are over before the long
	// ones that it waits for.
	ClaimQuick
	// Try takes a trial.
	Try
)

// Quick reports whether jobs of a task end soon, given how long they took on average.
func Quick(average time.Duration) bool { return average < 10*time.Second }

// patience is how long a worker empties itself before it gives up the first time. Each time doubles
// it, at most to four hours: a handler that never ends must not keep its worker from claiming for
// days.
const (
	patience     = 15 * time.Minute
	mostDoubling = 4
)

// Next says what the worker does next.
//
// Suspects must be tried, and the fleet must go on. So at most half of the fleet empties or tries,
// one worker empties at a time, for a quarter of an hour, and the next time for twice that; and a
// worker that has claimed nothing for some time claims for as long, unless there is nothing to
// claim. Trials that end in a death count for the next worker: a fleet of one would do nothing
// else.
func (w Worker) Next() Step {
	rested := w.Idle && w.Holds == 0 || w.Free >= w.Stopped
	room := w.Busy < max(1, w.Living/2)
	switch {
	case w.Trying:
		return Wait
	case w.Suspects == 0:
		return Claim
	case w.Emptying && w.Emptied >= patience<<min(w.Vain, mostDoubling) && w.Holds > 0:
		return Claim
	case !w.Emptying && (!rested || !room || w.Holds > 0 && w.OtherEmptying):
		return Claim
	case w.Holds == 0:
		return Try
	case w.Long > 0:
		return ClaimQuick
	default:
		return Wait
	}
}
