package backfill

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/backfillhq/go/internal/wire"
)

// CompleteJobs deletes jobs as if they had succeeded, and returns those that it deleted. Like the other methods that take ids, it
// passes over jobs that do not exist and jobs that run, that is whose locks are younger than 4 hours; it waits for rows that a
// transaction has locked.
func (c *Client) CompleteJobs(ctx context.Context, ids ...int64) ([]*Job, error) {
	if err := c.usable(ctx); err != nil {
		return nil, fmt.Errorf("complete jobs: %w", err)
	}
	jobs, err := c.admin.Complete(ctx, notNil(ids))
	return adminJobs("complete jobs", jobs, err)
}

// FailJobs makes jobs fail for good: they are not tried again unless they are rescheduled, and stay with the reason as their
// last_error. A reason has at most 10,000 characters; if it is empty, it is "Manually marked as failed". The jobs that were
// changed are returned; see [Client.CompleteJobs] for those that are not.
func (c *Client) FailJobs(ctx context.Context, reason string, ids ...int64) ([]*Job, error) {
	if err := c.usable(ctx); err != nil {
		return nil, fmt.Errorf("fail jobs: %w", err)
	}
	if err := checkText("reason", reason, maxErrorText); err != nil {
		return nil, fmt.Errorf("fail jobs: %w", err)
	}
	jobs, err := c.admin.Fail(ctx, notNil(ids), reason)
	return adminJobs("fail jobs", jobs, err)
}

// RescheduleChange is what [Client.RescheduleJobs] changes. A nil field stays as it is: RescheduleChange{Attempts: new(0)} starts attempts
// anew and changes nothing else.
type RescheduleChange struct {
	RunAt       *time.Time // when the jobs are due; time.Now() or earlier: at once
	Priority    *Priority
	Attempts    *int // how many were made: 0 to 32767
	MaxAttempts *int // 1 to 32767; a job whose attempts reach it is not tried again
}

// RescheduleJobs changes when and how often jobs run, for example jobs that have failed for good, and wakes the workers. It does
// not touch last_error. The jobs that were changed are returned; see [Client.CompleteJobs] for those that are not.
func (c *Client) RescheduleJobs(ctx context.Context, change RescheduleChange, ids ...int64) ([]*Job, error) {
	if err := c.usable(ctx); err != nil {
		return nil, fmt.Errorf("reschedule jobs: %w", err)
	}
	if err := change.check(); err != nil {
		return nil, fmt.Errorf("reschedule jobs: %w", err)
	}
	jobs, err := c.admin.Reschedule(ctx, notNil(ids), change.RunAt, (*int16)(change.Priority), change.Attempts, change.MaxAttempts)
	if len(jobs) > 0 {
		c.nudger.Nudge(len(jobs))
	}
	return adminJobs("reschedule jobs", jobs, err)
}

func (r RescheduleChange) check() error {
	if r == (RescheduleChange{}) {
		return errors.New("nothing is to be changed: set RunAt, Priority, Attempts or MaxAttempts")
	}
	var problems []error
	if r.RunAt != nil {
		problems = append(problems, checkRunAt(*r.RunAt))
	}
	if r.Attempts != nil && (*r.Attempts < 0 || *r.Attempts > math.MaxInt16) {
		problems = append(problems, fmt.Errorf("attempts is %d: want 0 to %d", *r.Attempts, math.MaxInt16))
	}
	if r.MaxAttempts != nil && (*r.MaxAttempts < 1 || *r.MaxAttempts > math.MaxInt16) {
		problems = append(problems, fmt.Errorf("max_attempts is %d: want 1 to %d", *r.MaxAttempts, math.MaxInt16))
	}
	return errors.Join(problems...)
}

// RemoveJob deletes the job with this key, 1 to 512 characters, and returns it; nil if there is none, which is no error. A job
// that runs is not stopped: it loses its key and is not tried again, and is returned like that, with an empty Key.
func (c *Client) RemoveJob(ctx context.Context, key string) (*Job, error) {
	if err := c.usable(ctx); err != nil {
		return nil, fmt.Errorf("remove job: %w", err)
	}
	err := checkText("key", key, maxKeyLength)
	if key == "" {
		err = fmt.Errorf("key is empty: want 1 to %d characters", maxKeyLength)
	}
	if err != nil {
		return nil, fmt.Errorf("remove job: %w", err)
	}
	removed, err := c.admin.Remove(ctx, key)
	jobs, err := adminJobs("remove job", removed, err)
	if len(jobs) == 0 {
		return nil, err
	}
	return jobs[0], err
}

// ForceUnlock releases the jobs and queues whose locked_by is one of these exact values, and returns the jobs; their attempts stay
// charged. A Node worker's jobs have its pool id there; each claim of a Go worker has a value of its own, so use
// [Client.UnlockWorker] for those. If the worker is alive, its jobs will run twice.
func (c *Client) ForceUnlock(ctx context.Context, lockedBy ...string) ([]*Job, error) {
	if err := c.usable(ctx); err != nil {
		return nil, fmt.Errorf("force unlock: %w", err)
	}
	for _, value := range lockedBy {
		if err := checkText("locked_by", value, math.MaxInt); err != nil {
			return nil, fmt.Errorf("force unlock: %w", err)
		}
	}
	if len(lockedBy) == 0 {
		return nil, nil
	}
	jobs, err := c.admin.ForceUnlock(ctx, lockedBy)
	if err == nil {
		c.nudger.Nudge(max(1, len(jobs))) // perhaps only a queue was locked
	}
	return adminJobs("force unlock", jobs, err)
}

// notNil keeps the driver from sending NULL for an empty list.
func notNil[T any](list []T) []T { return append([]T{}, list...) }

func adminJobs(operation string, jobs []*wire.Job, err error) ([]*Job, error) {
	if err != nil {
		return nil, fmt.Errorf("%s: %w", operation, err)
	}
	converted := make([]*Job, len(jobs))
	for i, job := range jobs {
		converted[i] = newJob(job)
	}
	return converted, nil
}

// UnlockWorker declares a worker dead and releases every job and queue that it has locked; attempts of jobs are refunded. It
// returns how many jobs that were. The id is that of the worker ([Health]), the part of locked_by before the first dot; Node
// workers' pool ids work too. Left out are rows that a transaction of somebody else has locked at this moment, and the queues of such
// jobs: call it again. A worker that is alive all the same loses its leases, and goes on under a new id.
func (c *Client) UnlockWorker(ctx context.Context, lockedBy string) (jobs int, err error) {
	if err := c.usable(ctx); err != nil {
		return 0, fmt.Errorf("unlock worker: %w", err)
	}
	if lockedBy == "" {
		return 0, errors.New("unlock worker: the id is empty: pass a value of locked_by")
	}
	if err := checkText("id", lockedBy, math.MaxInt); err != nil {
		return 0, fmt.Errorf("unlock worker: %w", err)
	}
	jobs, queues, err := c.admin.Unlock(ctx, lockedBy)
	if jobs+queues > 0 {
		c.nudger.Nudge(jobs + queues)
	}
	if err != nil {
		return jobs, fmt.Errorf("unlock worker %s: %w", shortQuote(lockedBy), err)
	}
	return jobs, nil
}

// ReleaseStaleLocks releases every job and queue that has been locked for 4 hours or longer, and returns how many jobs that were;
// their attempts stay charged. Running workers do this every 8 to 10 minutes, and keep the locks of their own jobs younger.
// Rows that somebody else has locked at this moment are left out.
func (c *Client) ReleaseStaleLocks(ctx context.Context) (jobs int, err error) {
	if err := c.usable(ctx); err != nil {
		return 0, fmt.Errorf("release stale locks: %w", err)
	}
	jobs, queues, err := c.admin.Sweep(ctx)
	if jobs+queues > 0 {
		c.nudger.Nudge(jobs + queues)
	}
	return jobs, err
}
