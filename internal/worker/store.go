package worker

import (
	"context"
	"time"

	"github.com/backfillhq/go/internal/wire"
)

// Store is what the worker needs from a database. Every call carries a deadline in its context. A Store serves one worker and
// is used by several goroutines at a time, but never has two calls of Claim in flight.
type Store interface {
	// Register inserts the worker's row, makes sure that every task has an id, and resets what the Store remembers of earlier
	// claims. A worker id is registered once; after a fence the worker comes with a fresh one.
	Register(ctx context.Context, workerID string, tasks []string) error
	// Retire marks the worker's row as dead: it claims no more. It is called after everything was given back.
	Retire(ctx context.Context, workerID string) error

	// Claim locks due jobs for this worker and returns them in the order (priority, run_at, id).
	Claim(ctx context.Context, request ClaimRequest) (Claimed, error)

	// Complete deletes jobs that succeeded. Fail records those that failed or are exhausted. Release gives back those that were
	// returned, whose run_at and with it their place stays, or snoozed, with the attempt refunded. All three act only on leases
	// that are still held, free the queue of each job, and never wait for a row lock (R1, R16).
	Complete(ctx context.Context, leases []wire.Lease) (Settled, error)
	Fail(ctx context.Context, failed []Ended) (Settled, error)
	Release(ctx context.Context, released []Ended) (Settled, error)
	// Renew moves the lock time of long-running jobs and their queues, and returns the ids of the leases that are lost (R7).
	Renew(ctx context.Context, leases []wire.Lease) (lost []int64, err error)

	// Sweep releases jobs and queues that have been locked for 4 hours, whoever did it (contract section 5.6). It never waits for
	// a row lock.
	Sweep(ctx context.Context) (jobs, queues int, err error)

	// Listen connects, calls ready, and then on for each notification until ctx ends or the connection breaks.
	Listen(ctx context.Context, ready func(), on func(Notification)) error
	// Ping sends a notification of kind NotifyPing with this payload to every listener of the database, ourselves included.
	Ping(ctx context.Context, payload string) error
	// CheckSchema reports a schema that this build must not work on, after another process has migrated it. That it could not
	// look is not an error: claims will tell.
	CheckSchema(ctx context.Context) error
}

// ClaimRequest says what a worker can take.
type ClaimRequest struct {
	WorkerID  string
	Number    uint64   // of this claim; used once, also when the claim failed or its outcome is unknown (R2)
	Batch     int      // at most this many jobs
	Serial    int      // at most this many of them from queues (R23)
	Forbidden []string // no job that has one of these flags
}

// Claimed is the answer to a claim.
type Claimed struct {
	Jobs []*wire.Job
	// Alive is false when the worker's row is gone or marked dead: nothing was claimed, and nothing will be (R5).
	Alive bool
	// More says that jobs may be waiting that this claim did not look at: ask again at once.
	More bool
	// MoreSerial says that queues wait which ClaimRequest.Serial kept out: ask again when there is room for jobs of queues.
	MoreSerial bool
	// Contended says that queued jobs wait whose queues somebody else holds for the length of a statement: ask again within
	// milliseconds.
	Contended bool
	// NextDue is the time until the nearest job that is not due yet, as far as the claim met one; 0 if it did not.
	NextDue time.Duration
}

// Ended is a job and how it ended.
type Ended struct {
	wire.Lease
	Outcome
}

// Settled says what became of the leases that a statement was given.
type Settled struct {
	// Exhausted are the ids that were recorded and will not be retried.
	Exhausted []int64
	// Lost are the ids whose lease somebody else ended: the row is gone or carries another token.
	Lost []int64
	// Busy are the ids whose row somebody else has locked; they are still ours, and go into the next flush.
	Busy []int64
	// NextOwn and NextForeign count the queues that have a job due, now that one of theirs is recorded: first in line is one of a
	// task that this worker serves, or of another.
	NextOwn, NextForeign int
	// NextDue is the time until the first of the recorded jobs is due again, more than 0 if it is due at once; 0 if none will be.
	NextDue time.Duration
}

// Notification is something that a listener heard.
type Notification struct {
	Kind    NotificationKind
	Payload string // of a NotifyPing
}

// NotificationKind tells notifications apart.
type NotificationKind int

// The kinds of notification.
const (
	NotifyJobs    NotificationKind = iota + 1 // jobs were inserted
	NotifyMigrate                             // a migration with breaking changes was installed
	NotifyPing                                // a listener proves itself
)
