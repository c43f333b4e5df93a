package worker

import (
	"time"

	"github.com/backfillhq/go/internal/wire"
)

// Health is a worker's state at one moment.
type Health struct {
	WorkerID   string
	State      State
	Tasks      []string
	Slots      int // for handlers
	Running    int
	Overlong   []OverlongJob // that run for longer than expected and are not stuck, the longest first
	StuckJobs  []StuckJob    // whose handlers are stuck, the longest first
	OldestTx   OldestTx      // of the transactional jobs that run
	Buffered   int           // claimed and not started
	Unrecorded int           // running, buffered, or waiting to be recorded
	Emptying   bool          // it claims no long jobs, to try suspects, or tries some
	Suspects   int           // that it tries
	Listening  bool
	PollOnly   bool      // there is no listener
	LastClaim  time.Time // when the last claim was answered
	OldestDue  time.Time // the earliest run_at among the jobs that it found; zero: it found none
	Failures   int       // claims that failed since then
	LastBeat   time.Time // when the last heartbeat was sent that was acknowledged
	Silent     bool      // that is too long ago
	Turns      Turns
	Stuck      string    // a loop that does not turn any more; "": none
	QuietSince time.Time // when somebody last enqueued or claimed jobs, if that is long ago; else zero
	Stats      Stats
}

// Health reports the worker's state.
func (w *Worker) Health() Health {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := &w.core
	now := time.Now()
	return Health{
		WorkerID: c.id, State: c.state, Tasks: w.config.Tasks, Slots: c.concurrency, Running: c.handling, Overlong: c.overlong(now), StuckJobs: c.stuckJobs(now),
		OldestTx: c.oldestTx(),
		Buffered: c.buffer.len(), Unrecorded: c.leases.held(), Emptying: c.trials.emptying, Suspects: c.unfinished(),
		Listening: w.listening, PollOnly: w.pollOnly,
		LastClaim: c.lastSeen, OldestDue: c.oldestDue, Failures: c.demand.failures, LastBeat: c.lastBeat.At, Silent: c.silent,
		Turns: w.turns.last(), Stuck: w.stuck(), QuietSince: w.quietSince(), Stats: c.stats,
	}
}

// quietSince returns since when nobody has enqueued or claimed; w.mu is held. What the worker
// itself has claimed since the last survey, it knows without one: the next may be late, or fail.
func (w *Worker) quietSince() time.Time {
	if w.core.lastFound.After(w.quiet) {
		return time.Time{}
	}
	return w.quiet
}

// oldestDue returns the earliest run_at; zero if there is no job. One that other clients have put at
// -infinity, which is the zero time here, says nothing: it did not become due at any time.
func oldestDue(jobs []*wire.Job) (oldest time.Time) {
	for _, job := range jobs {
		if !job.RunAt.IsZero() && (oldest.IsZero() || job.RunAt.Before(oldest)) {
			oldest = job.RunAt
		}
	}
	return oldest
}
