package backfill

import (
	"time"

	"github.com/backfillhq/go/internal/worker"
)

// Observer is called for every [Event] of a worker, for metrics and tests. The worker calls it from
// many goroutines and waits for it, so it must be safe for concurrent use and return quickly.
//
// If it panics or calls runtime.Goexit, the worker goes on and logs an error, at most once a
// minute. If a call has not returned after 10 seconds, the worker goes on, and drops events until
// that call returns.
type Observer func(Event)

// Event is something that happened in a worker. The kind says which fields are set:
//
//	started, listening, polled, woken, stopped   none beyond Kind and WorkerID
//	disrupted, claim_error                       Err
//	claimed                                      Count, Full, Duration: of the statement
//	start, lease_lost, rescued, suspected        Job
//	finished                                     Job, Duration
//	failed                                       Job, Duration, Err, Final, Delay
//	dead                                         Job, Reason, Err
//	canceled                                     Job, Err
//	snoozed                                      Job, Duration, Delay
//	completed, recorded, returned, busy          Count
//	reclaimed                                    Count
//	flush_error, swept                           Count, Err
//	scheduled, draining, silent, expired         Count
//	trial, acquitted                             Count
//	paused                                       Task
//	fenced, death                                WorkerID is the id that was declared dead
//
// Events say how handlers end, before the database knows. After lease_lost, what was said of the
// end of that run does not count, Final included: the job was somebody else's already. And a job
// whose key was removed or given to another job while it ran is not tried again, although Final is
// false.
//
// A dead event says that a job is a dead letter now, once for each time, from the worker that has
// made it one: it ran the job, released what a dead worker had, or found the job without attempts
// left. Of the latter two, Job says only what the worker knows: it has no payload. A job that
// [Client.UnlockWorker] ends has no event, because no worker ends it, but a line in the client's
// log.
//
// The text of Err is what the log and the database get: passwords in URLs and connection strings,
// tokens and the like are ***, and it has at most 10,000 bytes. errors.As finds the error that the
// handler returned.
//
// Fields may be added: write an Event with field names, and do not compare two with ==.
type Event struct {
	_ [0]func()

	Kind     EventKind
	WorkerID string
	Count    int           // how many jobs
	Full     bool          // more jobs may be waiting
	Job      *Job          // must not be changed
	Task     string        // the name of a task
	Err      error         // why
	Reason   string        // why the job is a dead letter: exhausted, permanent, crashed, interrupted or swept
	Final    bool          // the job will not be tried again: its last attempt failed, or Permanent
	Delay    time.Duration // until the job runs again; 0 if Final
	Duration time.Duration // how long the handler ran, or the claim took
}

// EventKind says what happened.
type EventKind string

// The kinds of event.
const (
	EventStarted    EventKind = "started"     // the worker is registered and looks for jobs
	EventListening  EventKind = "listening"   // the listener is connected
	EventDisrupted  EventKind = "disrupted"   // the listener lost its connection, and will reconnect
	EventPolled     EventKind = "polled"      // the poll interval is over: the worker looks for jobs
	EventWoken      EventKind = "woken"       // a notification arrived
	EventClaimed    EventKind = "claimed"     // a claim returned Count jobs
	EventClaimError EventKind = "claim_error" // a claim failed, and will be repeated
	EventStart      EventKind = "start"       // a handler starts
	EventFinished   EventKind = "finished"    // a handler succeeded
	EventFailed     EventKind = "failed"      // a handler failed
	EventDead       EventKind = "dead"        // a job has failed for good, and is a dead letter now
	EventCanceled   EventKind = "canceled"    // a job was deleted, because [Client.Cancel] asked for it
	EventSnoozed    EventKind = "snoozed"     // a job was put off: it runs again later
	EventCompleted  EventKind = "completed"   // Count successes were recorded
	EventRecorded   EventKind = "recorded"    // Count failures were recorded
	EventReturned   EventKind = "returned"    // Count jobs were given back or snoozed
	EventFlushError EventKind = "flush_error" // recording outcomes failed, and will be repeated
	EventBusy       EventKind = "busy"        // Count outcomes wait for rows that other transactions have locked
	EventLeaseLost  EventKind = "lease_lost"  // the job was released or taken by another worker
	EventReclaimed  EventKind = "reclaimed"   // Count jobs of a claim whose answer was lost were released
	EventSilent     EventKind = "silent"      // no heartbeat was acknowledged for long: Count jobs of queues are cancelled
	EventFenced     EventKind = "fenced"      // the worker was declared dead; it goes on under a new id
	EventDeath      EventKind = "death"       // another worker was declared dead: its jobs are released
	EventRescued    EventKind = "rescued"     // a job of a dead worker was released: it runs again, not charged
	EventSuspected  EventKind = "suspected"   // a job waits for a trial: its workers died twice while they had it
	EventTrial      EventKind = "trial"       // this worker runs Count suspects, and nothing else
	EventAcquitted  EventKind = "acquitted"   // the trial of Count suspects is over, and the worker lives
	EventPaused     EventKind = "paused"      // Task is paused: three of its jobs have killed their workers within an hour
	EventSwept      EventKind = "swept"       // this worker looked for stale locks: Count jobs were released; or Err
	EventExpired    EventKind = "expired"     // Count dead letters were deleted: see [WithDeadLetterRetention]
	EventScheduled  EventKind = "scheduled"   // Count cron jobs were enqueued
	EventDraining   EventKind = "draining"    // the worker stops; Count jobs are running
	EventStopped    EventKind = "stopped"     // the worker has stopped
)

// newEvent converts an event of a worker.
func newEvent(e worker.Event) Event {
	return Event{
		Kind: EventKind(e.Kind), WorkerID: e.WorkerID, Count: e.Count, Full: e.Full, Job: newJob(e.Job), Task: e.Task, Err: tidy(e.Err),
		Reason: string(e.Reason), Final: e.Final, Delay: e.Delay, Duration: e.Duration,
	}
}
