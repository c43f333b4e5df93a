package backfill

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/backfillhq/go/internal/seam"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// Job is a copy of a job's row, as it was when it was enqueued or claimed. Its slices are shared
// and must not be changed.
//
// Fields may be added: write a Job with field names, and do not compare two with ==.
type Job struct {
	_ [0]func() // as the comment says

	ID   int64
	Task string          // the name it was enqueued under, perhaps an alias
	Args json.RawMessage // as they are stored

	Queue, Key string // "": none
	Priority   Priority

	Attempt     int // 1 when a handler runs for the first time; 0 for a job that was only enqueued
	MaxAttempts int
	Revision    int // how often the job was enqueued again by its key; 0: it is new

	RunAt     time.Time // when it was due; zero for infinity and -infinity, which other clients can write
	CreatedAt time.Time // when it was enqueued for the first time
	Flags     []string

	// Cron is the tick that enqueued the job; nil for other jobs.
	Cron *CronTick

	// Trace is the job's trace context, in a worker that was given [WithTraces].
	Trace TraceContext
}

// CronTick is the minute for which a cron job was enqueued. Fields may be added: write it with
// field names, and do not compare two with ==.
type CronTick struct {
	_ [0]func()

	TS         time.Time `json:"ts"`         // the whole minute that the schedule matched, in UTC
	Backfilled bool      `json:"backfilled"` // it was missed while no worker ran, and enqueued later
}

// jobContext is the context of a handler: it carries the job and an Enqueuer. One value for both,
// as there is one for every job.
type jobContext struct {
	context.Context //nolint:containedctx // it is a context

	worker   context.Context //nolint:containedctx // what the worker has given for the job, without its timeout
	job      *Job            // which middleware may change
	left     attempts
	enqueuer Enqueuer
	said     atomic.Pointer[error] // what the handler returned, if there is middleware; nil: no error
	tx       *txRun                // of a transactional job; else nil
	kept     *kept                 // for the history; nil: nothing is kept
	logger   *slog.Logger          // of the worker; nil: there is none
	lease    wire.Lease
	report   func(worker.Progress) // nil: nobody listens
}

type jobContextKey struct{}

func newJobContext(ctx context.Context, claimed *wire.Job, e Enqueuer) *jobContext {
	job := newJob(claimed)
	return &jobContext{Context: ctx, job: job, left: attemptsLeft(job.Attempt, job.MaxAttempts), enqueuer: e, lease: claimed.Lease}
}

func (c *jobContext) Value(key any) any {
	switch key.(type) {
	case jobContextKey:
		return c
	case seam.JobKey:
		return c.job
	case enqueuerKey:
		return c.enqueuer
	default:
		return c.Context.Value(key)
	}
}

// JobInfo returns the job whose handler was given ctx. Outside a handler it returns the zero Job.
// Tests of a handler put one into ctx with testutil.WithJob.
func JobInfo(ctx context.Context) Job {
	if ctx == nil {
		return Job{}
	}
	if job, ok := ctx.Value(seam.JobKey{}).(*Job); ok {
		return *job
	}
	return Job{}
}

// newJob converts a job of the wire. It is the one place where a job crosses that boundary.
func newJob(job *wire.Job) *Job {
	if job == nil {
		return nil
	}
	return &Job{
		ID:          job.ID,
		Task:        job.Task,
		Args:        job.Payload,
		Queue:       job.Queue,
		Key:         job.Key,
		Priority:    Priority(job.Priority),
		Attempt:     job.Attempt,
		MaxAttempts: job.MaxAttempts,
		Revision:    job.Revision,
		RunAt:       job.RunAt,
		CreatedAt:   job.CreatedAt,
		Flags:       job.Flags,
		Cron:        cronTick(job.Payload),
		Trace:       newTraceContext(job.Trace),
	}
}
