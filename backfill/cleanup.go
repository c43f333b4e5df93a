package backfill

import (
	"context"
	"errors"
	"fmt"
)

// CleanupOptions says what [Client.Cleanup] deletes. Default: nothing, which is an error.
type CleanupOptions struct {
	_ [0]func() // fields may be added

	// FailedJobs deletes the jobs that have failed for good (attempts = max_attempts), are not
	// running, and are no dead letters. Graphile Worker calls this DELETE_PERMAFAILED_JOBS.
	FailedJobs bool
	// TaskNames deletes the names of tasks without jobs, except for KeepTasks
	// (GC_TASK_IDENTIFIERS). A running Go worker notices within seconds. A running Node worker does
	// not, and skips the jobs of such a task until it is restarted, so keep the names that Node
	// workers serve.
	TaskNames bool
	KeepTasks []string
	// QueueNames deletes the names of queues without jobs (GC_JOB_QUEUES).
	QueueNames bool
}

// CleanupReport says how much [Client.Cleanup] has deleted.
type CleanupReport struct {
	_ [0]func() // fields may be added

	FailedJobs, TaskNames, QueueNames int
}

// Cleanup deletes failed jobs and unused names, in the order of the fields of [CleanupOptions]. The
// report is never nil. Only the owner of the tables may delete names.
//
// It is safe while workers run and jobs are enqueued, with one exception: a transaction at
// REPEATABLE READ or SERIALIZABLE that began before a name was deleted, and enqueues with that name
// afterwards, leaves a job that never runs.
//
// To delete names it locks tables. This blocks all enqueues and claims for as long as it takes to
// scan the jobs, at most 2 seconds. It waits at most 50 ms for the lock, tries again every second,
// and gives up after a minute.
func (c *Client) Cleanup(ctx context.Context, opts CleanupOptions) (*CleanupReport, error) {
	report := &CleanupReport{}
	if err := c.usable(ctx); err != nil {
		return report, fmt.Errorf("clean up: %w", err)
	}
	if !opts.FailedJobs && !opts.TaskNames && !opts.QueueNames {
		return report, errors.New("clean up: nothing to delete: set FailedJobs, TaskNames or QueueNames")
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
