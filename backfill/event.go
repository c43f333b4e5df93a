package backfill

import (
	"time"

	"github.com/backfillhq/go/internal/worker"
)

// Observer is told what happens in a worker, for metrics and for tests. It is called from many goroutines, also while the worker
// waits for it, so it must return quickly.
type Observer func(Event)

// Event is something that happened in a worker. Which fields are set depends on the kind.
type Event struct {
	Kind     EventKind
	WorkerID string
	Count    int           // of jobs, for kinds that concern several
	Full     bool          // EventClaimed: there may be more
	Job      *Job          // for kinds that concern one
	Err      error         // why
	Delay    time.Duration // EventFailed and EventSnoozed: until the job runs again
	Duration time.Duration // EventFinished, EventFailed and EventSnoozed: how long the handler ran
}

// EventKind tells events apart. It is the name of its constant: "claim_error" for EventClaimError.
type EventKind string

// The kinds of event.
const (
	EventStarted    EventKind = "started"     // the worker is registered and looks for jobs
	EventListening  EventKind = "listening"   // the listener is connected
	EventDisrupted  EventKind = "disrupted"   // the listener lost its connection, and will reconnect
	EventPolled     EventKind = "polled"      // the poll timer ran out: a claim follows that nothing else asked for
	EventWoken      EventKind = "woken"       // a notification arrived
	EventClaimed    EventKind = "claimed"     // a claim returned Count jobs
	EventClaimError EventKind = "claim_error" // a claim failed, and will be tried again
	EventStart      EventKind = "start"       // a handler starts
	EventFinished   EventKind = "finished"    // a handler succeeded
	EventFailed     EventKind = "failed"      // a handler failed
	EventSnoozed    EventKind = "snoozed"     // a handler asked for a later time
	EventCompleted  EventKind = "completed"   // Count successes were recorded
	EventRecorded   EventKind = "recorded"    // Count failures were recorded
	EventReturned   EventKind = "returned"    // Count jobs were given back or snoozed
	EventFlushError EventKind = "flush_error" // recording outcomes failed, and will be tried again
	EventBusy       EventKind = "busy"        // Count outcomes wait for a row that somebody else has locked
	EventLeaseLost  EventKind = "lease_lost"  // a job's lease was ended by somebody else
	EventReclaimed  EventKind = "reclaimed"   // Count jobs were released that a claim had locked whose answer was lost
	EventFenced     EventKind = "fenced"      // the worker's row is dead; it goes on under a new id
	EventSwept      EventKind = "swept"       // stale locks were looked for: Count jobs were released; or Err says why not
	EventScheduled  EventKind = "scheduled"   // Count cron jobs were enqueued
	EventDraining   EventKind = "draining"    // the worker stops; Count jobs are running
	EventStopped    EventKind = "stopped"     // the worker has stopped
)

// newEvent converts an event of a worker.
func newEvent(e worker.Event) Event {
	return Event{
		Kind: EventKind(e.Kind), WorkerID: e.WorkerID, Count: e.Count, Full: e.Full, Job: newJob(e.Job), Err: e.Err,
		Delay: e.Delay, Duration: e.Duration,
	}
}
