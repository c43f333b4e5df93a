package backfill

import (
	"time"

	"github.com/backfillhq/go/internal/engine"
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
	EventStarted    = EventKind(engine.EventStarted)    // the worker is registered and looks for jobs
	EventListening  = EventKind(engine.EventListening)  // the listener is connected
	EventDisrupted  = EventKind(engine.EventDisrupted)  // the listener lost its connection, and will reconnect
	EventPolled     = EventKind(engine.EventPolled)     // the poll timer ran out: a claim follows that nothing else asked for
	EventWoken      = EventKind(engine.EventWoken)      // a notification arrived
	EventClaimed    = EventKind(engine.EventClaimed)    // a claim returned Count jobs
	EventClaimError = EventKind(engine.EventClaimError) // a claim failed, and will be tried again
	EventStart      = EventKind(engine.EventStart)      // a handler starts
	EventFinished   = EventKind(engine.EventFinished)   // a handler succeeded
	EventFailed     = EventKind(engine.EventFailed)     // a handler failed
	EventSnoozed    = EventKind(engine.EventSnoozed)    // a handler asked for a later time
	EventCompleted  = EventKind(engine.EventCompleted)  // Count successes were recorded
	EventRecorded   = EventKind(engine.EventRecorded)   // Count failures were recorded
	EventReturned   = EventKind(engine.EventReturned)   // Count jobs were given back or snoozed
	EventFlushError = EventKind(engine.EventFlushError) // recording outcomes failed, and will be tried again
	EventBusy       = EventKind(engine.EventBusy)       // Count outcomes wait for a row that somebody else has locked
	EventLeaseLost  = EventKind(engine.EventLeaseLost)  // a job's lease was ended by somebody else
	EventFenced     = EventKind(engine.EventFenced)     // the worker's row is dead; it goes on under a new id
	EventSwept      = EventKind(engine.EventSwept)      // stale locks were looked for: Count jobs were released; or Err says why not
	EventScheduled  = EventKind(engine.EventScheduled)  // Count cron jobs were enqueued
	EventDraining   = EventKind(engine.EventDraining)   // the worker stops; Count jobs are running
	EventStopped    = EventKind(engine.EventStopped)    // the worker has stopped
)

// newEvent converts an event of the engine.
func newEvent(e engine.Event) Event {
	return Event{
		Kind: EventKind(e.Kind), WorkerID: e.WorkerID, Count: e.Count, Full: e.Full, Job: newJob(e.Job), Err: e.Err,
		Delay: e.Delay, Duration: e.Duration,
	}
}
