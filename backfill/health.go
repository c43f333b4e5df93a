package backfill

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/backfillhq/go/internal/mask"
	"github.com/backfillhq/go/internal/worker"
)

// Health is the state of a worker at one moment, as [Worker.Health] returns it. Fields may be
// added: write it with field names, and do not compare two with ==.
type Health struct {
	_ [0]func()

	WorkerID   string   // "" before it has started; a new one after it was declared dead
	State      State    // new, running, draining or stopped
	Tasks      []string // that it takes jobs of, aliases too; it must not be changed
	Slots      int      // handlers that can run at a time: see [WithConcurrency]
	Running    int      // running handlers: more than Slots where StuckJobs have given theirs
	Buffered   int      // claimed jobs that have not started
	Unrecorded int      // claimed jobs without a recorded outcome: Running, Buffered and ended
	// Emptying says that the worker claims only short jobs, until it holds none and can run
	// suspects, or runs some, and claims nothing. See docs/production.md, "A job that kills its
	// worker".
	Emptying  bool
	Suspects  int  // that it runs
	Listening bool // notifications arrive; false: jobs are found by polling only
	// PollOnly says that Listening stays false, because of [WithoutListen] or because the connections
	// lead through a transaction pooler without [WithListenURL].
	PollOnly bool
	// LastClaim is when the database last answered a claim; zero: never. A worker that has no room
	// for more jobs claims none, so its age says nothing: see Ready.
	LastClaim time.Time
	// OldestDue is the earliest run_at of the jobs that the last claim has found: how long before
	// LastClaim that was says how far behind the worker was then. While it has no room for more
	// jobs, it learns nothing new. Zero: it has found none.
	OldestDue time.Time
	// Recorded counts the outcomes that were recorded since the start.
	Recorded Report
	// Overlong are the running jobs that take longer than expected, the longest first: their handlers
	// may hang. Expected is the task's Timeout and 5 seconds, because a handler is to return then. For
	// a task without one it is 10 times what 99 % of its jobs have taken in this worker, and at least
	// a minute; until 100 of them have ended, 15 minutes. [Worker.Stack] says where they are. Those of
	// StuckJobs are not among them.
	Overlong []OverlongJob
	// StuckJobs are the running jobs whose handlers have ignored for 30 seconds that their context has
	// ended, the longest first. Such a job stays locked, with its queue and its key, until its handler
	// returns, so that no other run of it begins beside it. Its slot is given to other jobs, if
	// SlotGiven says so: at most as many are given as the worker has.
	StuckJobs []StuckJob
	// OldestTransaction is the transactional job that has been running for longest. As long as its
	// transaction is open, vacuum removes no row that was deleted since, in the whole database: export
	// its age, and alert on one of minutes. The zero value: none runs.
	OldestTransaction RunningTransaction
	// ClaimFailures counts the claims that have failed since the last one that was answered.
	ClaimFailures int
	// LastHeartbeat is when the last heartbeat was sent that the database has acknowledged. They come
	// every 5 seconds.
	LastHeartbeat time.Time
	// Silent says that it was too long ago: the worker claims nothing, and has cancelled its jobs of
	// queues, because other workers may soon run them.
	Silent bool
	// Turns is when each loop of the worker last turned, which it does at least once a minute.
	Turns Turns
	// QuietSince is when anybody was last seen to enqueue or claim a job in this schema, if that is at
	// least 24 hours ago: perhaps the worker polls a database that was left for another one. Zero: it
	// is not so long ago.
	QuietSince time.Time
	// Stuck says which part of the worker has not gone on for 10 minutes, which only a restart can
	// mend; "": none. The database is never the reason.
	Stuck string
}

// RunningTransaction is the transaction of a job that runs, as [Health] names it. Fields may be
// added: write it with field names, and do not compare two with ==.
type RunningTransaction struct {
	_ [0]func()

	JobID int64
	Task  string
	Since time.Time // when its handler was called
}

// OverlongJob is a running job that takes longer than expected, as [Health] names it. Fields may be
// added: write it with field names, and do not compare two with ==.
type OverlongJob struct {
	_ [0]func()

	ID       int64
	Task     string
	Since    time.Time     // when its handler was called
	Expected time.Duration // how long it was to take at most
}

// StuckJob is a running job whose handler ignores that its context has ended, as [Health] names it.
// Fields may be added: write it with field names, and do not compare two with ==.
type StuckJob struct {
	_ [0]func()

	ID        int64
	Task      string
	Since     time.Time // when its handler was called
	Ended     time.Time // when its context was seen to have ended, at most 5 seconds later
	Cause     error     // why it has: for errors.Is, such as [ErrTimeout] or [ErrLeaseLost]
	SlotGiven bool      // another job may run in its place
}

// Turns is when each loop of a worker last turned; zero: it has not started. Fields may be added:
// write it with field names, and do not compare two with ==.
type Turns struct {
	_ [0]func()

	Claims, Outcomes, Heartbeats time.Time
}

// Ready returns nil if the worker takes jobs, and else an error that says why it does not: it has
// not started, it is draining, it has stopped, the database did not answer its last claim, though
// it has a slot left, or its heartbeats, or all its slots have jobs that take longer than expected
// or are stuck. A worker that is full is ready, and so is one that has only started.
func (h Health) Ready() error {
	hanging, free := h.hanging(), h.Slots-h.Running
	for _, job := range h.StuckJobs {
		if job.SlotGiven {
			free++
		}
	}
	switch {
	case h.State == StateNew || h.State == "":
		return errors.New("the worker has not started")
	case h.State == StateDraining:
		return errors.New("the worker is draining")
	case h.State == StateStopped:
		return errors.New("the worker has stopped")
	case h.Silent:
		return fmt.Errorf("no heartbeat was acknowledged since %s", h.LastHeartbeat.Format(time.RFC3339))
	case h.ClaimFailures > 0 && free > 0: // a full worker tries no claim
		return fmt.Errorf("the last %d claims have failed", h.ClaimFailures)
	case h.Slots > 0 && len(hanging) >= h.Slots:
		longest := hanging[0]
		return fmt.Errorf("all %d slots have jobs that take longer than expected: job %d of task %s since %s",
			h.Slots, longest.ID, longest.Task, longest.Since.Format(time.RFC3339))
	}
	return nil
}

// hanging returns the jobs that have a slot and may never end, the longest first.
func (h Health) hanging() []OverlongJob {
	list := slices.Clone(h.Overlong)
	for _, job := range h.StuckJobs {
		if !job.SlotGiven {
			list = append(list, OverlongJob{ID: job.ID, Task: job.Task, Since: job.Since})
		}
	}
	slices.SortStableFunc(list, func(a, b OverlongJob) int { return a.Since.Compare(b.Since) })
	return list
}

// State is a stage in the life of a worker.
type State string

// The states of a worker, in their order.
const (
	StateNew      = State(worker.StateNew)
	StateRunning  = State(worker.StateRunning)
	StateDraining = State(worker.StateDraining)
	StateStopped  = State(worker.StateStopped)
)

// Health returns the worker's state, for metrics and probes: see [Health.Ready] and [Probes]. It
// sends no query.
func (w *Worker) Health() Health {
	if w == nil {
		return Health{State: StateNew}
	}
	w.mu.Lock()
	running := w.engine
	w.mu.Unlock()
	if running == nil {
		return Health{State: StateNew}
	}
	return newHealth(running.Health())
}

// Stack returns where the handler of a job is that this worker runs, in text for people: for a job
// of [Health.Overlong] or [Health.StuckJobs], say. Goroutines that carry the labels of the job, and
// do not run its handler, are apart: the handler, or what it has started, has started them, perhaps
// for others. It returns "" if this worker does not run the job, and shows no args. It looks at all
// goroutines of the process, which costs milliseconds where there are thousands, and stops them for
// a moment.
//
// In profiles, goroutines of handlers have the labels backfill_job and backfill_worker, with the
// ids, and backfill_task.
func (w *Worker) Stack(jobID int64) string {
	if w == nil {
		return ""
	}
	w.mu.Lock()
	running := w.engine
	w.mu.Unlock()
	if running == nil {
		return ""
	}
	return mask.Secrets(running.Stack(jobID))
}

func newHealth(h worker.Health) Health {
	health := Health{
		WorkerID: h.WorkerID, State: State(h.State), Tasks: h.Tasks, Slots: h.Slots, Running: h.Running, Buffered: h.Buffered,
		Unrecorded: h.Unrecorded, Emptying: h.Emptying, Suspects: h.Suspects, Listening: h.Listening, PollOnly: h.PollOnly,
		LastClaim: h.LastClaim, OldestDue: h.OldestDue,
		Recorded: newReport(h.Stats), ClaimFailures: h.Failures, LastHeartbeat: h.LastBeat, Silent: h.Silent, Stuck: h.Stuck,
		QuietSince: h.QuietSince, OldestTransaction: RunningTransaction{JobID: h.OldestTx.ID, Task: h.OldestTx.Task, Since: h.OldestTx.Since},
		Turns: Turns{Claims: h.Turns.Claims, Outcomes: h.Turns.Outcomes, Heartbeats: h.Turns.Heartbeats},
	}
	for _, job := range h.Overlong {
		health.Overlong = append(health.Overlong, OverlongJob{ID: job.ID, Task: job.Task, Since: job.Since, Expected: job.Expected})
	}
	for _, job := range h.StuckJobs {
		health.StuckJobs = append(health.StuckJobs, StuckJob{
			ID: job.ID, Task: job.Task, Since: job.Since, Ended: job.Ended, Cause: job.Cause, SlotGiven: job.SlotGiven,
		})
	}
	return health
}

// Report counts the outcomes that a run has recorded. Fields may be added: write it with field
// names, and do not compare two with ==.
type Report struct {
	_ [0]func()

	Completed int64 // succeeded
	Failed    int64 // attempts that failed
	Exhausted int64 // of these, jobs that will not be retried
	Snoozed   int64 // put off: they run again later
	Returned  int64 // given back unfinished
	Canceled  int64 // deleted, because [Client.Cancel] asked for it
	Lost      int64 // not recorded: the job had been released or taken by another worker
}

func newReport(s worker.Stats) Report {
	return Report{
		Completed: s.Completed, Failed: s.Failed, Exhausted: s.Exhausted, Snoozed: s.Snoozed, Returned: s.Returned, Canceled: s.Canceled, Lost: s.Lost,
	}
}
