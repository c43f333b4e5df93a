package backfill

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"time"

	"github.com/backfillhq/go/internal/wire"
)

// CompleteJobs deletes jobs as if they had succeeded, and returns the deleted jobs. Like the other
// methods that take ids, it skips jobs that do not exist or are running, that is, have been locked
// for less than 4 hours. If another transaction has locked a row, it waits. Without a deadline in
// ctx, each statement of these methods takes 30 seconds at most.
func (c *Client) CompleteJobs(ctx context.Context, ids ...int64) ([]*Job, error) {
	return c.adminJobs(ctx, "complete jobs", nil, func() ([]*wire.Job, error) { return c.admin.Complete(ctx, notNil(ids)) })
}

// FailJobs makes jobs fail for good, and returns the changed jobs. They stay in the table with
// reason as their last_error, and are not retried unless they are rescheduled; an hour later the
// sweep makes dead letters of them. A reason has at most 10,000 characters; an empty one becomes
// "Manually marked as failed". [Client.CompleteJobs] says which jobs are skipped.
func (c *Client) FailJobs(ctx context.Context, reason string, ids ...int64) ([]*Job, error) {
	problem := checkText("reason", reason, maxErrorText)
	return c.adminJobs(ctx, "fail jobs", problem, func() ([]*wire.Job, error) { return c.admin.Fail(ctx, notNil(ids), reason) })
}

// RescheduleChange says what [Client.RescheduleJobs] changes. A nil field changes nothing:
// RescheduleChange{Attempts: new(0)} resets the attempts only.
type RescheduleChange struct {
	_ [0]func() // fields may be added

	RunAt       *time.Time // when the jobs are due
	Priority    *Priority
	Attempts    *int // attempts so far, 0 to 32767
	MaxAttempts *int // 1 to 32767; a job with that many attempts is not retried
}

// RescheduleJobs changes when and how often jobs run, notifies the workers, and returns the changed
// jobs. Use it to retry jobs that have failed for good. It keeps last_error. [Client.CompleteJobs]
// says which jobs are skipped.
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
	if r.RunAt == nil && r.Priority == nil && r.Attempts == nil && r.MaxAttempts == nil {
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

// RemoveJob deletes the job with this key, 1 to 512 characters, and returns it, or nil if there is
// none. A running job is not stopped. It only loses its key and will not be retried; RemoveJob
// returns it with an empty Key.
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
// returns the jobs. Their attempts stay charged. Make sure first that the worker's process is dead:
// otherwise its jobs start again while they still run.
//
// It is for Node workers, which lock all their jobs and queues with one pool id. A Go worker locks
// each job with a value of its own: use [Client.UnlockWorker]. If nothing is locked with these
// values, the error is [ErrNotLocked]. If only queues are, ForceUnlock returns no jobs and no
// error.
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

// UnlockWorker releases every job and queue that a worker has locked, and returns how many jobs it
// released. Make sure first that the worker's process is dead: otherwise its jobs start again while
// they still run. A Go worker that is alive cancels them with [ErrLeaseLost] once it notices, and
// goes on under a new id.
//
// Pass any value of locked_by as the tables show it, of a job (pool-….1.1) or of a queue
// (pool-….1), or the worker's id ([Health]). For a Node worker pass its whole pool id. The attempts
// of a Go worker's jobs are refunded, except for jobs that were replaced or removed while they ran,
// and jobs with one attempt in all: they may have started, and have failed for good. If the worker
// made dead letters, they are some now, and the client's log says so. Those of a Node worker's jobs
// stay charged.
//
// A suspect (backfill-suspect.…, which waits for a trial because workers died that ran it) is
// released with all that the same worker has left: they run among other jobs then, and wait again
// after the next crash.
//
// If the worker has locked nothing, the error is [ErrNotLocked], or nil if it is a Go worker that
// is still in the table backfill_workers. Rows that another transaction has locked at this moment,
// and the queues of such jobs, are skipped: call UnlockWorker again.
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
	jobs, queues, dead, err := c.admin.Unlock(ctx, lockedBy)
	for _, job := range dead {
		c.logger.LogAttrs(ctx, slog.LevelWarn, "job is a dead letter", slog.String("dead_letter", string(job.Reason)),
			slog.String("task", job.Task), slog.Int64("job_id", job.ID), slog.Int("attempt", job.Attempt), slog.Any("error", job.Err))
	}
	if jobs+queues > 0 {
		c.nudger.Nudge(jobs + queues)
	}
	if err != nil {
		return jobs, fmt.Errorf("unlock worker %s: %w", shortQuote(lockedBy), err)
	}
	return jobs, nil
}

// ReleaseStaleLocks releases every job and queue that has been locked for 4 hours or longer, and
// returns how many jobs it released. Attempts stay charged. Workers do this by themselves: one does
// it for all, every 8 to 10 minutes. Go workers renew the locks of their running jobs long before.
// Rows that another transaction has locked at this moment are skipped.
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
