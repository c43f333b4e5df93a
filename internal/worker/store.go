package worker

import (
	"context"
	"errors"
	"time"

	"github.com/backfillhq/go/internal/crontab"
	"github.com/backfillhq/go/internal/wire"
)

// Store is what the worker needs from a database. Every call carries a deadline in its context. A
// Store serves one worker and is used by several goroutines at a time, but it never has two calls
// of Claim in flight, and none of Reclaim beside one of Claim.
//
// Package storetest has the contract: the same cases run on the Store of package pg and on the one
// in memory that the tests of this package use.
type Store interface {
	// Register inserts the worker's row, makes sure that every task has an id, and forgets what the
	// Store remembers of earlier claims. A worker id is registered once: a worker that was declared
	// dead comes back under a fresh one.
	Register(ctx context.Context, registration Registration) error
	// Sessions says what the connections are good for. It is known once Register has returned.
	Sessions() Sessions
	// Retire marks the worker's row as dead: from then on no claim of its can commit. clean says
	// that it has nothing locked, so nobody has to look.
	Retire(ctx context.Context, workerID string, clean bool) error

	// Beat writes a heartbeat into the worker's row, and reads the rows of all others, over a
	// session of its own. One that is not answered in 2 seconds is sent once more over a new
	// session, without waiting for the old one to fail.
	Beat(ctx context.Context, beat Beat) (Beaten, error)
	// Unlocked returns the ids of those of these workers whose session locks are free at this
	// moment.
	Unlocked(ctx context.Context, peers []Peer) ([]string, error)
	// Declare marks a worker's row as dead if it has this number of beats. It reports false if not:
	// then it has beaten since, its row is gone, or a claim of it is under way. It never waits.
	Declare(ctx context.Context, workerID string, beats int64) (bool, error)
	// Rescue releases what is locked under the ids of workers that are dead or have no row; others
	// it leaves alone. Attempts are refunded as in Release (R3), run_at stays, and with it the
	// place. Package conviction judges each job by the crashes that it was held at: it is released,
	// or stays locked as a suspect with its queue, or is exhausted, with the verdict in front of
	// its last error (R9, R30). What is exhausted becomes a dead letter if the dead worker made
	// those, or if it has no row and any other does. One worker of the fleet does it at a time: for
	// the others nothing is settled. It never waits for a row lock, and may be interrupted
	// anywhere. After an error, what it returns was done.
	Rescue(ctx context.Context, request RescueRequest) (Rescued, error)

	// Suspects returns the suspects that this worker may try: it serves their tasks, neither these
	// nor their queues are paused, and they have none of these flags. It keeps the locks of all
	// suspects young, and deletes those that were superseded, whose evidence goes to the jobs that
	// have their keys.
	Suspects(ctx context.Context, forbidden []string) (Suspects, error)
	// LastTrial returns the last trial in which a worker has died.
	LastTrial(ctx context.Context) (LastTrial, error)
	// Try claims suspects for a trial, as Claim does: those that nobody else has, and that were
	// neither superseded nor paused. After an error they may be locked all the same: Reclaim makes
	// suspects of them again. It must not run beside a Claim.
	Try(ctx context.Context, request TryRequest) (Claimed, error)
	// Acquit ends the worker's trial, with these jobs: there is no evidence against them any more.
	// It changes nothing if the worker's row is gone or marked dead.
	Acquit(ctx context.Context, workerID string, jobs []int64) (alive bool, err error)

	// Unowned returns the ids of workers by whom something is locked and who have no row. It reads
	// all jobs.
	Unowned(ctx context.Context) ([]string, error)

	// Claim locks due jobs for this worker and returns them in the order (priority, run_at, id). It
	// takes none of a queue that is paused, nor of a task that was when the claim began, or 2
	// seconds before. After an error they may be locked all the same: see Reclaim.
	Claim(ctx context.Context, request ClaimRequest) (Claimed, error)
	// Reclaim releases what is locked under the worker's id and is not among held: jobs of claims
	// whose answer was lost (R6). Attempts are refunded as in Release. Those of a trial become
	// suspects again.
	Reclaim(ctx context.Context, workerID string, held []wire.Lease) (Reclaimed, error)

	// Complete deletes jobs that succeeded, and dead letters with their tasks and keys: what these
	// asked for has been done. Fail records those that failed or are exhausted; with a Reason, the
	// latter become dead letters. Release
	// gives back those that were returned, whose run_at and with it their place stays, or snoozed,
	// with the attempt refunded. Park makes suspects of jobs of a trial, with their queues, and
	// refunds the attempt. All four act only on leases that are still held, free the queue of each
	// job, and never wait for a row lock (R1, R16). The fates that they return are parallel to the
	// leases. A wire.RejectedError says that the server refused what an outcome holds, and that
	// nothing was recorded; after another error anything may have been.
	Complete(ctx context.Context, leases []wire.Lease) ([]Fate, error)
	// CompleteRecorded is Complete for jobs of which some go into the history. Fail and Release do that,
	// too, and so does whoever else ends a job of a task with history, each in its own statement.
	CompleteRecorded(ctx context.Context, done []Ended) ([]Fate, error)
	Fail(ctx context.Context, failed []Ended) ([]Fate, error)
	Release(ctx context.Context, released []Ended) ([]Fate, error)
	Park(ctx context.Context, leases []wire.Lease) ([]Fate, error)
	// Renew moves the lock times of jobs and their queues (R7). Of the fates, FateRecorded means
	// renewed.
	Renew(ctx context.Context, leases []wire.Lease) ([]Fate, error)

	// Sweep releases jobs and queues that have been locked for 4 hours, whoever did it (contract
	// section 5.6), and looks at which locks others than this worker hold. It never waits for a row
	// lock, and pauses between pages of rows. One worker of the fleet does it: it is this worker's
	// turn unless another one has begun to sweep within 15 minutes and not retired. If it is not,
	// nothing is done, except that a worker that is starting sweeps the first 10,000 jobs and
	// queues all the same.
	//
	// Whose turn it is also makes dead letters of jobs that were left without attempts, an hour
	// after they have failed, and of tasks that workers serve that make dead letters, or have
	// within a day (R27). And it deletes dead letters whose requeued job is gone.
	Sweep(ctx context.Context, workerID string, starting bool) (Swept, error)
	// Expire deletes dead letters of this age, in small steps, of which each is kept. It never
	// waits for a row lock. One that the end of ctx interrupts goes on with the next call.
	Expire(ctx context.Context, age time.Duration) (Expired, error)
	// Survey looks at which tasks wait that this worker does not serve, and whether anybody
	// enqueues or claims, for the log.
	Survey(ctx context.Context) (Surveyed, error)

	// Count writes down how many jobs have ended, in rows of the worker's own: each has the sums of its
	// minute so far. Rows that were written before are replaced.
	Count(ctx context.Context, workerID string, rows []Count) error
	// Progress writes down how far jobs are, as far as their leases are held, and deletes what it knows
	// of those that are over.
	Progress(ctx context.Context, rows []Progress, over []wire.Lease) error

	// Requested returns of which of these jobs somebody has requested the end. It also deletes jobs
	// that are to end and that nobody runs: after an error, what it has found of the others counts.
	Requested(ctx context.Context, jobs []int64) (Requests, error)

	// Listen connects, calls ready, and then on for each notification, until ctx ends or the
	// connection breaks.
	Listen(ctx context.Context, ready func(), on func(Notification)) error
	// Ping sends a notification of kind NotifyPing with this payload to every listener of the
	// database, ourselves included.
	Ping(ctx context.Context, payload string) error
	// Answer sends a text to whoever listens on a channel.
	Answer(ctx context.Context, channel, text string) error
	// CheckSchema reports a schema that this build must not work on, after another process has
	// migrated it. That it could not look is not an error: claims will tell.
	CheckSchema(ctx context.Context) error
}

// Registration is what a worker's row says from its start.
type Registration struct {
	ID     string
	Former string // the id before, which was declared dead: its row notes that the worker lives; "": none
	Tasks  []string
	// Transactional are those of the tasks whose jobs are claimed only as far as
	// ClaimRequest.Transactional allows.
	Transactional []string
	Slots         int
	// DeadLetters says that the worker makes dead letters of jobs that fail for good. Others go by
	// it.
	DeadLetters bool
	Crontab     []crontab.Description // what it schedules
	// History is for how long the attempts of tasks are kept. Of other tasks, none is.
	History map[string]time.Duration
}

// Sessions says what a Store's connections are good for.
type Sessions struct {
	// Pooled says that they lead through a transaction pooler, where sessions are shared with
	// others: heartbeats hold no lock there, and tell nothing of the locks of others.
	Pooled  bool
	Listens bool // there is a way to listen
	// Full is since when all connections are in use and none has come back; zero: not so.
	// Statements end sooner, whatever the database does.
	Full time.Time

	// Where they lead: a host and a port, or several where they choose one, a database, and a
	// schema.
	Server, Database, Schema string
}

// ClaimRequest says what a worker can take.
type ClaimRequest struct {
	WorkerID string
	Number   uint64 // of this claim; used once, also when it failed or its outcome is unknown (R2)
	Batch    int    // at most this many jobs
	// Serial bounds what is claimed only if it starts at once: at most this many jobs of queues
	// (R23), and jobs with one attempt in all only among the first so many of the batch (R9).
	Serial int
	// Transactional bounds the jobs of transactional tasks: at most this many (R22). A job of
	// theirs that is first in its queue and not taken keeps the queue waiting.
	Transactional int
	Forbidden     []string // no job that has one of these flags
	Only          []string // jobs of these tasks alone; nil: of all that the worker serves
	Queues        []int32  // that a finish has freed: their heads are looked at first
	// Bytes bounds the payloads of the batch together; the first job is taken whatever its size. 0:
	// no limit.
	Bytes int64
	// MaxPayload bounds each payload. A head that is larger keeps its queue. A payload that is
	// stored packed, in more than 64 KiB, counts with the most that it can unpack to, so ask for
	// small jobs beside large ones with it, and for the large ones without. 0: no limit.
	MaxPayload int64
}

// Claimed is the answer to a claim.
type Claimed struct {
	Jobs []*wire.Job
	// Canceled are those of the jobs that are not to run: their end was requested. They are to be
	// released, which deletes them.
	Canceled []int64
	// Alive is false when the worker's row is gone or marked dead: nothing was claimed, and nothing
	// will be (R5).
	Alive bool
	// More says that jobs may be waiting that this claim did not look at: ask again at once.
	More bool
	// Again is when jobs may be found that this claim did not look for: ask again after that long.
	// It is set if nothing else asks for a claim: until then the look would cost too much of the
	// database's time (R21). 0: this claim has looked for everything.
	Again time.Duration
	// MoreSerial says that jobs wait which ClaimRequest.Serial kept out: ask again when there is
	// room for jobs of queues.
	MoreSerial bool
	// MoreTransactional says that transactional jobs may be waiting which
	// ClaimRequest.Transactional kept out: ask again when there is room for one.
	MoreTransactional bool
	// Contended says that jobs wait that this claim could not have: somebody else holds their
	// queues for the length of a statement, or a trigger keeps the jobs as they are. Ask again
	// within milliseconds, and less often if that goes on.
	Contended bool
	// Reread is set if tasks of ours are paused, or queues: so soon the Store looks again whether
	// they still are, with the next claim. A worker that runs once does not wait for that.
	Reread time.Duration
	// NextDue is the time until the nearest job of ours that is not due yet, as far as the claim
	// met one; 0 if it did not.
	NextDue time.Duration
}

// RescueRequest says whose jobs are to be released.
type RescueRequest struct {
	IDs []string // of workers that are dead, or have no row
	// Settle is how late a heartbeat says that its worker is dead, for the judgment of a job that
	// was on trial alone: before, it is not known whether other workers have died with that one.
	Settle time.Duration
}

// TryRequest says which suspects a worker tries.
type TryRequest struct {
	WorkerID string
	Number   uint64 // as that of a ClaimRequest, in one series with them
	Cohort   string
	Jobs     []int64
	Bytes    int64 // bounds the payloads together, as that of a ClaimRequest
}

// Reclaimed is the answer to a Reclaim.
type Reclaimed struct {
	Jobs, Queues int           // that were released
	Canceled     []CanceledJob // of the jobs: their end was requested, so they are deleted
	// Settled is false while a claim of this worker may still commit, or somebody else has locked a
	// row that is to be released: ask again.
	Settled bool
}

// Ended is a job and how it ended.
type Ended struct {
	wire.Lease
	Outcome

	// Again says that an earlier try may have recorded it. Then a job that is gone, and is the dead
	// letter that this outcome makes, has FateExhausted and not FateLost.
	Again bool
	// Record is what goes into the history; nil: nothing.
	Record *Record
}

// Record is what the history keeps of an attempt, beside how it ended.
type Record struct {
	Task, Queue, Key string        // as they were when the job was claimed
	Took             time.Duration // by the handler
	Ago              time.Duration // since it has ended
	Output           []byte        // JSON; nil: none
	Log              string
}

// Fate is what became of a lease that a statement was given.
type Fate struct {
	Kind FateKind
	// Due is the time until a recorded job is due again, more than 0; 0 if it will not be.
	Due time.Duration
	// Next is what is first in line now in the queue that the end of this lease has freed.
	Next NextInQueue
	// Request is of a FateCanceled, as far as the statement knows of it.
	Request Request
}

// FateKind tells fates apart.
type FateKind int

// The kinds of fate.
const (
	FateRecorded   FateKind = iota + 1 // the outcome is in the database
	FateExhausted                      // so is this one, and the job will not be tried again
	FateSuperseded                     // the job was removed or superseded while it ran: it is deleted
	FateCanceled                       // the job's end was requested, so it is deleted
	FateLost                           // somebody else ended the lease: the row is gone or has another token
	FateBusy                           // somebody else has locked the row; the lease is still ours
)

// NextInQueue says what is first in line in a queue, among the jobs that are due.
type NextInQueue int

// What can be first in line.
const (
	NextNone    NextInQueue = iota // nothing, or the job had no queue
	NextOwn                        // a job of a task that this worker serves
	NextForeign                    // a job of another task
)

// Swept is what a sweep has done and seen.
type Swept struct {
	Turn         bool // it was this worker's turn
	Jobs, Queues int  // that were released
	// Done says that the sweep has reached the end of what it had to look at. If not, the next one
	// goes on where it stopped.
	Done  bool
	Dead  []DeadJob   // those that the sweep has made dead letters
	Locks []HeldLocks // of others, the oldest first, at most 20; if Done
}

// Expired is what has become of old dead letters.
type Expired struct {
	Letters int  // that were deleted, also after an error
	Done    bool // there are no more
}

// Surveyed is what a survey has seen.
type Surveyed struct {
	Unserved []UnservedTask
	// Changes counts the changes of jobs, whoever makes them: while it stays the same, nobody has
	// enqueued or claimed any. It is some seconds late, and before PostgreSQL 15 until the session
	// that made a change goes on. Less than 0: nobody counts.
	Changes int64
}

// UnservedTask is a task that this worker does not serve and of which jobs are due.
type UnservedTask struct {
	Task   string
	Jobs   int           // among the first that are due
	Oldest time.Duration // since the first of them was due
}

// HeldLocks are the locks of another worker.
type HeldLocks struct {
	Owner        string // the worker id, or what else is in locked_by
	Host         string // "" if the owner is no Go worker
	Pid          int    // 0 likewise
	Dead         bool   // it stopped, or was declared dead
	Jobs, Queues int
	Oldest       time.Duration // since the first of them was taken
}

// Notification is something that a listener heard.
type Notification struct {
	Kind    NotificationKind
	Payload string // of a NotifyPing or NotifyAsk
}

// NotificationKind tells notifications apart.
type NotificationKind int

// The kinds of notification.
const (
	NotifyJobs    NotificationKind = iota + 1 // jobs were inserted
	NotifyMigrate                             // a migration with breaking changes was installed
	NotifyPing                                // a listener proves itself
	NotifyCancel                              // the end of a job was requested
	NotifyAsk                                 // an operator asks where a job is, as Asked in JSON
)

// wasRefused reports whether the server has refused a statement, so that it has changed nothing.
func wasRefused(err error) bool {
	_, refused := errors.AsType[*wire.RejectedError](err)
	return refused
}

// refusesRow reports whether it has done so for what a row holds.
func refusesRow(err error) bool {
	rejected, ok := errors.AsType[*wire.RejectedError](err)
	return ok && rejected.Row
}
