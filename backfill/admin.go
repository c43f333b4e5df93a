package backfill

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/backfillhq/go/internal/wire"
)

// CompleteJobs deletes jobs as if they had succeeded, and returns the deleted jobs. Like the other
// methods that take ids, it skips jobs that do not exist and jobs that are running, which are those
// with a lock younger than 4 hours. It waits for rows that a transaction has locked.
func (c *Client) CompleteJobs(ctx context.Context, ids ...int64) ([]*Job, error) {
	return c.adminJobs(ctx, "complete jobs", nil, func() ([]*wire.Job, error) { return c.admin.Complete(ctx, notNil(ids)) })
}

// FailJobs makes jobs fail for good. They stay in the table with reason as their last_error, and
// are not retried unless they are rescheduled. A reason has at most 10,000 characters; an empty one
// becomes "Manually marked as failed". It returns the changed jobs; [Client.CompleteJobs] says
// which jobs are skipped.
func (c *Client) FailJobs(ctx context.Context, reason string, ids ...int64) ([]*Job, error) {
	problem := checkText("reason", reason, maxErrorText)
	return c.adminJobs(ctx, "fail jobs", problem, func() ([]*wire.Job, error) { return c.admin.Fail(ctx, notNil(ids), reason) })
}

// RescheduleChange says what [Client.RescheduleJobs] changes. A nil field changes nothing:
// RescheduleChange{Attempts: new(0)} resets the attempts only.
type RescheduleChange struct {
	RunAt       *time.Time // when the jobs are due
	Priority    *Priority
	Attempts    *int // attempts so far, 0 to 32767
	MaxAttempts *int // 1 to 32767; a job with that many attempts is not retried
}

// RescheduleJobs changes when and how often jobs run, and notifies the workers. Use it to retry
// jobs that have failed for good. It keeps last_error. It returns the changed jobs;
// [Client.CompleteJobs] says which jobs are skipped.
func (c *Client) RescheduleJobs(ctx context.Context, change RescheduleChange, ids ...int64) ([]*Job, error) {
	return c.adminJobs(ctx, "reschedule jobs", change.check(), func() ([]*wire.Job, error) {
		jobs, err := c.admin.Reschedule(ctx, notNil(ids), change.RunAt, (*int16)(change.Priority), change.Attempts, change.MaxAttempts)
		if len(jobs) > 0 {
			c.nudger.Nudge(len(jobs))
		}
		return jobs, err
	})
}

func (r RescheduleChange) check() error {
	if r == (RescheduleChange{}) {
		return errors.New("nothing to change: set RunAt, Priority, Attempts or MaxAttempts")
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

// RemoveJob deletes the job with this key, 1 to 512 characters, and returns it. If there is none,
// it returns nil and no error. It does not stop a running job: that job loses its key, is not
// retried, and is returned with an empty Key.
func (c *Client) RemoveJob(ctx context.Context, key string) (*Job, error) {
	problem := checkText("key", key, maxKeyLength)
	if key == "" {
		problem = fmt.Errorf("key is empty: want 1 to %d characters", maxKeyLength)
	}
	jobs, err := c.adminJobs(ctx, "remove job", problem, func() ([]*wire.Job, error) { return c.admin.Remove(ctx, key) })
	if len(jobs) == 0 {
		return nil, err
	}
	return jobs[0], err
}

// ForceUnlock releases the jobs and queues whose locked_by is exactly one of these values, and
// returns the jobs. Their attempts stay charged. If the worker is alive, its jobs run twice.
//
// Use it for Node workers, whose jobs and queues all carry one pool id. Each job of a Go worker has
// a value of its own: use [Client.UnlockWorker]. If no job and no queue has such a value, the error
// is [ErrNotLocked]; a queue alone returns no jobs and no error.
func (c *Client) ForceUnlock(ctx context.Context, lockedBy ...string) ([]*Job, error) {
	if len(lockedBy) == 0 && c.usable(ctx) == nil {
		return nil, nil
	}
	var problem error
	for _, value := range lockedBy {
		problem = cmp.Or(problem, checkText("locked_by", value, math.MaxInt))
	}
	return c.adminJobs(ctx, "force unlock", problem, func() ([]*wire.Job, error) {
		jobs, err := c.admin.ForceUnlock(ctx, lockedBy)
		if err == nil {
			c.nudger.Nudge(max(1, len(jobs))) // perhaps only a queue was locked
		}
		return jobs, err
	})
}

// notNil keeps the driver from sending NULL for an empty list.
func notNil[T any](list []T) []T { return append([]T{}, list...) }

// adminJobs runs an operation, unless there is a problem with its arguments, and converts its jobs.
func (c *Client) adminJobs(ctx context.Context, operation string, problem error, run func() ([]*wire.Job, error)) ([]*Job, error) {
	err := cmp.Or(c.usable(ctx), problem)
	var jobs []*wire.Job
	if err == nil {
		jobs, err = run()
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", operation, err)
	}
	converted := make([]*Job, len(jobs))
	for i, job := range jobs {
		converted[i] = newJob(job)
	}
	return converted, nil
}

// UnlockWorker declares a worker dead, releases every job and queue that it has locked, and returns
// how many jobs it released. Pass any value of locked_by as the tables show it, of a job
// (pool-….1.1) or of a queue (pool-….1), or the worker's id ([Health]). The attempts of a Go
// worker's jobs are refunded, except for jobs that were replaced or removed meanwhile. For a Node
// worker pass its whole pool id; its attempts stay charged.
//
// If nothing is locked by the worker and it is not known, the error is [ErrNotLocked]. UnlockWorker
// skips rows that another transaction has locked at this moment, and the queues of such jobs: call
// it again. A Go worker that is still alive loses its leases and goes on under a new id.
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

// ReleaseStaleLocks releases every job and queue that has been locked for 4 hours or longer, and
// returns how many jobs it released. Their attempts stay charged. One of the workers does this
// every 7 to 10 minutes, and each renews the locks of its running jobs. Rows that another
// transaction has locked at this moment are skipped.
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
