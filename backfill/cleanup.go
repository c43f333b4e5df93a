package backfill

import (
	"context"
	"errors"
	"fmt"
)

// CleanupOptions is what [Client.Cleanup] deletes.
type CleanupOptions struct {
	// FailedJobs are the jobs that have failed for good (attempts = max_attempts) and do not run. Graphile Worker calls this
	// DELETE_PERMAFAILED_JOBS.
	FailedJobs bool
	// TaskNames are the names of tasks that no job has, except for KeepTasks (GC_TASK_IDENTIFIERS). A running Go worker notices
	// within seconds that a task of its own has lost its id. A Node worker does not: until it is started again, it passes over the
	// jobs of such a task. So keep the names that Node workers serve.
	TaskNames bool
	KeepTasks []string
	// QueueNames are the names of queues that no job has (GC_JOB_QUEUES).
	QueueNames bool
}

// CleanupReport says how much [Client.Cleanup] has deleted.
type CleanupReport struct{ FailedJobs, TaskNames, QueueNames int }

// Cleanup deletes what is of no use any more, in the order of [CleanupOptions]'s fields. It is safe while workers run and jobs are
// enqueued, but for one case: a transaction at REPEATABLE READ or SERIALIZABLE that began before names were deleted, and enqueues
// a job with one of them afterwards, leaves a job that never runs.
//
// Names are deleted under a lock that keeps everybody from enqueuing and claiming, for the time that it takes to look at all
// jobs, 2 seconds at most. It is tried for 50 ms once a second, so that nobody waits long, and given up after a minute in which
// there always was an open transaction that had enqueued. Only the owner of the tables may delete them. The report is not nil
// also when there is an error.
func (c *Client) Cleanup(ctx context.Context, opts CleanupOptions) (*CleanupReport, error) {
	report := &CleanupReport{}
	if err := c.usable(ctx); err != nil {
		return report, fmt.Errorf("clean up: %w", err)
	}
	if !opts.FailedJobs && !opts.TaskNames && !opts.QueueNames {
		return report, errors.New("clean up: nothing is to be deleted: set FailedJobs, TaskNames or QueueNames")
	}
	for i, name := range opts.KeepTasks {
		if err := checkName("name", name); err != nil {
			return report, fmt.Errorf("clean up: KeepTasks[%d]: %w", i, err)
		}
	}
	var err error
	if opts.FailedJobs {
		report.FailedJobs, err = c.admin.DeleteFailed(ctx)
	}
	if opts.TaskNames && err == nil {
		report.TaskNames, err = c.admin.DeleteTasks(ctx, notNil(opts.KeepTasks))
	}
	if opts.QueueNames && err == nil {
		report.QueueNames, err = c.admin.DeleteQueues(ctx)
	}
	if err != nil {
		return report, fmt.Errorf("clean up: %w", err)
	}
	return report, nil
}
