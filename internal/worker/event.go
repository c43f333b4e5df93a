package worker

import (
	"time"

	"github.com/backfillhq/go/internal/wire"
)

// Event is something that happened in a worker. Which fields are set depends on the kind.
type Event struct {
	Kind     EventKind
	WorkerID string
	Count    int           // of jobs, for kinds that concern several
	Full     bool          // EventClaimed: there may be more
	Job      *wire.Job     // for kinds that concern one
	Task     string        // for kinds that concern all its jobs
	Err      error         // why
	Final    bool          // EventFailed: there is no retry
	Reason   Reason        // EventDead
	Delay    time.Duration // EventFailed: until the retry; 0: at once, or never
	Duration time.Duration // EventFinished and EventFailed: how long the handler ran; EventClaimed: how long the claim took
}

// EventKind tells events apart. It is the name of its constant.
type EventKind string

// The kinds of event.
const (
	EventStarted    EventKind = "started"     // the worker is registered and looks for jobs
	EventListening  EventKind = "listening"   // the listener is connected
	EventDisrupted  EventKind = "disrupted"   // the listener lost its connection, and will reconnect
	EventPolled     EventKind = "polled"      // the poll timer ran out: a claim follows that nothing else asked for
	EventWoken      EventKind = "woken"       // a notification arrived
	EventClaimed    EventKind = "claimed"     // a claim returned Count jobs
	EventClaimError EventKind = "claim_error" // a claim failed
	EventStart      EventKind = "start"       // a handler starts
	EventFinished   EventKind = "finished"    // a handler succeeded
	EventFailed     EventKind = "failed"      // a handler failed
	EventDead       EventKind = "dead"        // a job has become a dead letter
	EventCanceled   EventKind = "canceled"    // a job was deleted, because its end was requested
	EventSnoozed    EventKind = "snoozed"     // a handler asked for a later time
	EventCompleted  EventKind = "completed"   // Count successes were recorded
	EventRecorded   EventKind = "recorded"    // Count failures were recorded
	EventReturned   EventKind = "returned"    // Count jobs were given back
	EventFlushError EventKind = "flush_error" // recording outcomes failed, and will be tried again
	EventBusy       EventKind = "busy"        // Count outcomes wait for a row that somebody else has locked
	EventLeaseLost  EventKind = "lease_lost"  // a job's lease was ended by somebody else
	EventReclaimed  EventKind = "reclaimed"   // Count jobs were released that a claim had locked whose answer was lost
	EventSilent     EventKind = "silent"      // no heartbeat was acknowledged for long: Count jobs of queues are cancelled
	EventFenced     EventKind = "fenced"      // the worker's row is dead; it goes on under a new id
	EventDeath      EventKind = "death"       // another worker was declared dead: WorkerID is its id
	EventRescued    EventKind = "rescued"     // a job of a dead worker was released
	EventSuspected  EventKind = "suspected"   // a job of a dead worker waits for a trial, because it was held at an earlier crash
	EventTrial      EventKind = "trial"       // the worker tries Count suspects, and runs nothing else
	EventAcquitted  EventKind = "acquitted"   // the trial of Count suspects is over, and the worker lives
	EventPaused     EventKind = "paused"      // Task is paused, because three of its jobs were convicted within an hour
	EventSwept      EventKind = "swept"       // stale locks were looked for: those of Count jobs were released; or it failed with Err
	EventExpired    EventKind = "expired"     // Count dead letters were deleted, because they are too old
	EventScheduled  EventKind = "scheduled"   // Count cron jobs were enqueued
	EventDraining   EventKind = "draining"    // the worker stops
	EventStopped    EventKind = "stopped"     // the worker has stopped
)
