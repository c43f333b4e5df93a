package engine

import "time"

// Event is something that happened in a worker. Which fields are set depends on the kind.
type Event struct {
	Kind     EventKind
	WorkerID string
	Count    int           // of jobs, for kinds that concern several
	Full     bool          // EventClaimed: there may be more
	Job      *Job          // for kinds that concern one
	Err      error         // why
	Delay    time.Duration // EventFailed: until the retry
	Duration time.Duration // EventFinished and EventFailed: how long the handler ran
}

// EventKind tells events apart.
type EventKind int

// The kinds of event.
const (
	EventStarted    EventKind = iota + 1 // the worker is registered and looks for jobs
	EventListening                       // the listener is connected
	EventDisrupted                       // the listener lost its connection, and will reconnect
	EventPolled                          // the poll timer ran out: a claim follows that nothing else asked for
	EventWoken                           // a notification arrived
	EventClaimed                         // a claim returned Count jobs
	EventClaimError                      // a claim failed
	EventStart                           // a handler starts
	EventFinished                        // a handler succeeded
	EventFailed                          // a handler failed
	EventSnoozed                         // a handler asked for a later time
	EventCompleted                       // Count successes were recorded
	EventRecorded                        // Count failures were recorded
	EventReturned                        // Count jobs were given back
	EventFlushError                      // recording outcomes failed, and will be tried again
	EventBusy                            // Count outcomes wait for a row that somebody else has locked
	EventLeaseLost                       // a job's lease was ended by somebody else
	EventFenced                          // the worker's row is dead; it goes on under a new id
	EventSwept                           // stale locks were looked for: those of Count jobs were released; or it failed with Err
	EventScheduled                       // Count cron jobs were enqueued
	EventDraining                        // the worker stops
	EventStopped                         // the worker has stopped
)
