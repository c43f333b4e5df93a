package testutil

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/worker"
)

// Await is what [backfill.Await] asks: the output of a job that Work has run, or the error with
// which a client's would end. A job that has not ended is a [backfill.PendingError] at once,
// because nobody but Work runs it.
func (r *Recorder) Await(ctx context.Context, job *backfill.Job) (json.RawMessage, error) {
	if r == nil || ctx == nil || job == nil || job.ID <= 0 || job.Task == "" {
		return new(backfill.Client).Await(ctx, job)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if end, ok := r.table.ends[job.ID]; ok {
		return end.output, end.err()
	}
	for _, row := range r.table.rows {
		if row.job.ID == job.ID {
			return nil, &backfill.PendingError{JobID: job.ID, State: row.status(time.Now()).State, Err: context.DeadlineExceeded}
		}
	}
	end := backfill.EndUnrecorded
	switch {
	case job.ID > r.table.lastID:
		end = backfill.EndUnknown
	case !r.table.kept[job.Task]:
		end = backfill.EndNoHistory
	}
	return nil, &backfill.EndError{JobID: job.ID, Task: job.Task, End: end}
}

// Await refuses to wait, as a client's does in a transaction.
func (t txRecorder) Await(context.Context, *backfill.Job) (json.RawMessage, error) {
	return nil, fmt.Errorf("await in transaction: %w: a job that is enqueued in a transaction runs when it has been committed: await it afterwards", backfill.ErrInvalidRequest)
}

// ending is how a job has ended.
type ending struct {
	output json.RawMessage
	error  *backfill.EndError // nil: it has an output
}

func (e ending) err() error {
	if e.error == nil {
		return nil
	}
	problem := *e.error
	return &problem
}

// note keeps how a job has ended that has run for the last time. Of tasks without a history nothing
// is left but failures, in dead letters or rows.
func (t *table) note(job *backfill.Job, outcome worker.Outcome, superseded bool, now time.Time) {
	end := &backfill.EndError{JobID: job.ID, Task: job.Task, Attempt: job.Attempt, LastError: outcome.Text, EndedAt: now}
	failed := outcome.Kind == worker.OutcomeFailed || outcome.Kind == worker.OutcomeExhausted
	switch {
	case failed && !superseded:
		end.End = backfill.EndFailed
	case !t.kept[job.Task]:
		return
	case failed:
		end.End = backfill.EndSuperseded
	case outcome.Kind == worker.OutcomeCanceled:
		end.End = backfill.EndCanceled
	case outcome.Output == nil:
		end.End = backfill.EndNoOutput
	default:
		end = nil
	}
	if t.ends == nil {
		t.ends = map[int64]ending{}
	}
	t.ends[job.ID] = ending{outcome.Output, end}
}
