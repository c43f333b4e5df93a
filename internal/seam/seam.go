// Package seam is how package testutil reaches into package backfill: to put a job into a context,
// to run jobs as a worker does, but without a database or in a test's own transaction, and to list
// jobs.
package seam

import (
	"context"
	"log/slog"
	"time"

	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// JobKey is the key under which a context carries the *backfill.Job of backfill.JobInfo.
type JobKey struct{}

// Inline runs jobs on the caller's goroutine.
type Inline struct {
	Tasks     []string // all names, aliases included
	Execute   func(ctx context.Context, claimed *wire.Job, outcome *worker.Outcome)
	Forbidden func() []string    // as worker.Config.Forbidden; nil: no flag is
	Observe   func(worker.Event) // nil: nobody does
	Logger    *slog.Logger
	Scheduled bool // WithScheduled was given
	// DeadLetters says that jobs that fail for good become dead letters.
	DeadLetters bool
	// History is how long the attempts of tasks are kept, by their names; without one nothing is.
	History map[string]time.Duration
}

// NewInline reports all mistakes in a registry and the options, as Client.NewWorker does. Package
// backfill sets it. The registry is a *backfill.Registry, the enqueuer of the jobs' contexts a
// backfill.Enqueuer, and the options are a []backfill.WorkerOption; the logger is for those
// without one.
var NewInline func(registry, enqueuer, opts any, logger *slog.Logger) (*Inline, error)

// Jobs returns the rows of the table of jobs as a []*backfill.JobStatus, as they are seen by a
// *backfill.Client, or in the transaction that its WithTx or WithSQLTx got. ok is false for any other
// Enqueuer. Package backfill sets it.
var Jobs func(ctx context.Context, enqueuer any) (jobs any, ok bool, err error)

// Ran is how a job has ended that RunInside has run.
type Ran struct {
	Job     any // a *backfill.Job
	Outcome worker.Outcome
	Dead    bool // it has failed for good
}

// RunInside enqueues a backfill.Request with what WithTx or WithSQLTx of a *backfill.Client
// returned, claims the job in that transaction, runs it, and records its end there. The other
// parameters are those of NewInline. An error says that it could not be run. Package backfill sets
// it.
var RunInside func(ctx context.Context, registry, enqueuer, opts, request any, logger *slog.Logger) (*Ran, error)
