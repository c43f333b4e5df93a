package testutil

import (
	"cmp"
	"context"
	"encoding/json"
	"time"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/seam"
)

// WithJob returns a context for a handler that is tested by calling it: [backfill.JobInfo] returns
// a copy of job, and [backfill.VerdictOf] knows its attempts.
//
//	ctx := testutil.WithJob(t.Context(), backfill.Job{Attempt: 2})
//	err := mailer.SendWelcome(ctx, args)
//
// What a worker always sets and job leaves zero is filled in: ID 1, Attempt 1, MaxAttempts 25 (or
// Attempt, if that is more), Args {}, CreatedAt and RunAt now.
func WithJob(ctx context.Context, job backfill.Job) context.Context {
	job.ID, job.Attempt = cmp.Or(job.ID, 1), cmp.Or(job.Attempt, 1)
	job.MaxAttempts = cmp.Or(job.MaxAttempts, max(defaultMaxAttempts, job.Attempt))
	if len(job.Args) == 0 {
		job.Args = json.RawMessage("{}")
	}
	now := stored(time.Now())
	if job.CreatedAt.IsZero() {
		job.CreatedAt = now
	}
	if job.RunAt.IsZero() {
		job.RunAt = now
	}
	return context.WithValue(ctx, seam.JobKey{}, &job)
}
