package backfill

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/wire"
)

// JobState says what a job does at the moment.
type JobState string

// The states of a job. A job that has succeeded is deleted, so it has none.
const (
	JobWaiting JobState = "waiting" // its run_at is in the future: it was delayed, snoozed, or will be retried
	JobDue     JobState = "due"     // a worker can take it; if it has a queue, once the queue is free
	JobRunning JobState = "running" // a worker has it: it has been locked for less than 4 hours
	JobSuspect JobState = "suspect" // it waits for a trial: two workers have died that had it
	JobFailed  JobState = "failed"  // for good: all its attempts have failed, or the last was permanent
)

// JobStatus is a job with its state, as [Client.Job] returns it. Fields may be added: write it with
// field names, and do not compare two with ==.
type JobStatus struct {
	_ [0]func() // as the comment says

	Job

	State     JobState
	LastError string    // of the last attempt that failed; "": none has
	LockedBy  string    // the token of the worker that has it, or backfill-suspect.…; "": none
	LockedAt  time.Time // since when; zero: no worker has it
	UpdatedAt time.Time // when its row was last changed, apart from renewed locks

	// DeadLetterID is that of the [DeadLetter] which the job has become; 0: it is still a job. Then
	// Attempt is that of the last run, and UpdatedAt when it failed for good.
	DeadLetterID int64
}

// Job returns the job with this id, the ID of the Job that an enqueue returned. A job that has
// become a [DeadLetter] is [JobFailed], with the letter's DeadLetterID, until it is requeued: that
// makes a new job, with an id of its own. If there is none, the error is [ErrJobNotFound]: jobs
// that succeeded are deleted. Without a deadline in ctx it takes 30 seconds at most.
func (c *Client) Job(ctx context.Context, id int64) (*JobStatus, error) {
	if err := c.usable(ctx); err != nil {
		return nil, fmt.Errorf("get job: %w", err)
	}
	job, row, err := c.admin.Inspect(ctx, id)
	if errors.Is(err, ErrJobNotFound) {
		letter, deadErr := c.admin.DeadLetterOfJob(ctx, id)
		if deadErr == nil {
			return statusOf(letter), nil
		}
		if !errors.Is(deadErr, ErrDeadLetterNotFound) {
			err = deadErr
		}
	}
	if err != nil {
		return nil, fmt.Errorf("get job %d: %w", id, err)
	}
	return newJobStatus(job, row), nil
}

func newJobStatus(job *wire.Job, row pg.Inspection) *JobStatus {
	return &JobStatus{
		Job: *newJob(job), State: JobState(row.State), LastError: row.LastError,
		LockedBy: row.LockedBy, LockedAt: row.LockedAt, UpdatedAt: row.UpdatedAt,
	}
}

// statusOf returns what a job was when it failed for good.
func statusOf(d *pg.DeadLetter) *JobStatus {
	job := &wire.Job{
		Lease: wire.Lease{ID: d.JobID}, Task: d.Task, Payload: d.Payload, Queue: d.Queue, Key: d.Key, Priority: d.Priority,
		Attempt: int(d.Attempts), MaxAttempts: int(d.MaxAttempts), RunAt: d.RunAt, CreatedAt: d.CreatedAt, Flags: d.Flags,
	}
	return &JobStatus{Job: *newJob(job), State: JobFailed, LastError: d.LastError, UpdatedAt: d.FailedAt, DeadLetterID: d.ID}
}

// Stats says how many jobs there are, as [Client.Stats] returns it. Fields may be added.
type Stats struct {
	_ [0]func()

	// Tasks are the tasks that anybody has enqueued to, ordered by name. Tasks without jobs are
	// among them, so that a gauge goes back to 0.
	Tasks []TaskStats
	// Estimated says that the table was too large to count: the numbers come from a sample of it.
	Estimated bool
}

// TaskStats says how many jobs of a task are in each [JobState]. Fields may be added.
type TaskStats struct {
	_ [0]func()

	Task                                   string
	Waiting, Due, Running, Suspect, Failed int64
}

// Stats counts the jobs of each task, for metrics. It reads 64 MiB of the table at most, which is
// some hundred thousand jobs with small args. If the table is larger, it reads that much at random
// and estimates: the numbers are right to a few percent for tasks with many jobs, and may be 0, or
// hundreds, for a task with a few.
//
// It neither waits for the locks of others nor makes others wait. Call it every 10 seconds or more,
// in one process.
// Without a deadline in ctx it takes 30 seconds at most.
func (c *Client) Stats(ctx context.Context) (*Stats, error) {
	if err := c.usable(ctx); err != nil {
		return nil, fmt.Errorf("count jobs: %w", err)
	}
	counts, exact, err := c.admin.Count(ctx)
	if err != nil {
		return nil, fmt.Errorf("count jobs: %w", err)
	}
	stats := &Stats{Tasks: make([]TaskStats, len(counts)), Estimated: !exact}
	for i, n := range counts {
		stats.Tasks[i] = TaskStats{Task: n.Task, Waiting: n.Waiting, Due: n.Due, Running: n.Running, Suspect: n.Suspect, Failed: n.Failed}
	}
	return stats, nil
}
