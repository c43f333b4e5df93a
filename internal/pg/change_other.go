package pg

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/backfillhq/go/internal/pg/query"
	"github.com/backfillhq/go/internal/schema"
	"github.com/backfillhq/go/internal/wire"
)

// Enqueue enqueues a job.
func (c *Changing) Enqueue(ctx context.Context, spec wire.Spec) (*wire.Job, error) {
	inserter := NewInserter(c.admin.pool, c.admin.settings.Schema, schema.WritesTables)
	jobs, err := inserter.InsertTx(ctx, c.tx, []wire.Spec{spec})
	if err != nil {
		return nil, err
	}
	c.due++
	return jobs[0], nil
}

// Pause keeps the jobs of a task or a queue from starting. It reports false if there is no such
// task.
func (c *Changing) Pause(ctx context.Context, pause Pause) (known bool, err error) {
	until := pgtype.Timestamptz{Time: pause.Until, Valid: !pause.Until.IsZero()}
	if pause.Queue != "" {
		return true, c.queries().PauseQueue(ctx, query.PauseQueueParams{
			QueueName: pause.Queue, PausedBy: pause.By, Reason: pause.Reason, EndsAt: until,
		})
	}
	rows, err := c.queries().PauseTask(ctx, query.PauseTaskParams{Task: pause.Task, PausedBy: pause.By, Reason: pause.Reason, EndsAt: until})
	return rows > 0, err
}

// Resume ends the pause of a task or a queue. It reports false if that is not paused.
func (c *Changing) Resume(ctx context.Context, task, queue string) (paused bool, err error) {
	var rows int64
	if queue != "" {
		rows, err = c.queries().ResumeQueue(ctx, queue)
	} else {
		rows, err = c.queries().ResumeTask(ctx, task)
	}
	return rows > 0, err
}

// FreeQueue frees a queue that a dead worker has locked, or that has been locked for over 4 hours;
// with force, also if nobody can tell whether its worker lives. It is never freed while a job of it
// is locked, or its worker lives. Nil: there is no such queue.
func (c *Changing) FreeQueue(ctx context.Context, name string, force bool) (*Item, error) {
	rows, err := c.queries().LockQueueToFree(ctx, name)
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	queue := rows[0]
	item := &Item{Queue: name, Worker: ownerOf(queue.LockedBy, queue.Ours)}
	if !queue.Locked {
		item.Skip, item.Detail = SkipUnlocked, "nobody has locked it"
		return item, nil
	}
	if item.JobID, err = c.queries().LockedJobOfQueue(ctx, queue.ID); err != nil {
		return nil, fmt.Errorf("look for jobs of the queue: %w", err)
	}
	switch {
	case item.JobID != 0 && isSuspect(queue.LockedBy):
		item.Skip = SkipSuspect
		item.Detail = "its job waits for a trial, because workers have died that had it: delete the job, or backfill unlock releases it"
	case item.JobID != 0:
		item.Skip, item.Detail = SkipRunning, "a job of the queue is locked: if its worker is dead, unlock the worker"
	case queue.Ours && !queue.Stale:
		workers, err := c.queries().WorkersNamed(ctx, []string{item.Worker})
		if err != nil {
			return nil, fmt.Errorf("look at the worker: %w", err)
		}
		if len(workers) > 0 && lives(workers[0].Beating, workers[0].SilentSeconds) {
			item.Skip, item.Detail = SkipRunning, describeWorker(workers[0])
		}
	case !queue.Stale && !force:
		item.Skip, item.Detail = SkipForeign, "nobody can tell whether that worker lives, as of those of Node"
	}
	if item.Skip == "" {
		_, err = c.queries().FreeQueue(ctx, queue.ID)
		c.due++
	}
	return item, err
}

// lives reports whether a worker is not known to be dead.
func lives(beating bool, silent float64) bool {
	return beating && time.Duration(silent*float64(time.Second)) <= deadAfter
}

// Retire declares a worker of ours dead, after which it can claim nothing. It reports how it is if
// it lives, and does nothing then, unless it is forced.
func (c *Changing) Retire(ctx context.Context, id string, force bool) (alive string, err error) {
	rows, err := c.queries().LockWorkerToRetire(ctx, id)
	if err != nil || len(rows) == 0 {
		return "", err
	}
	if w := rows[0]; !force && lives(w.Beating, w.SilentSeconds) {
		return describeWorker(query.WorkersNamedRow{ID: id, Host: w.Host, Pid: w.Pid, Beating: w.Beating, SilentSeconds: w.SilentSeconds}), nil
	}
	return "", c.queries().RetireWorker(ctx, query.RetireWorkerParams{ID: id})
}

// DeadHolders returns the workers of ours that are dead and have locked something.
func (a *Admin) DeadHolders(ctx context.Context) ([]string, error) {
	ids, err := ask(ctx, a.in, func(q *query.Queries, ctx context.Context, _ struct{}) ([]string, error) { return q.DeadHolders(ctx) }, struct{}{})
	return ids, a.explainChange(err)
}

// Wake tells workers that there may be jobs for them.
func (a *Admin) Wake(ctx context.Context) {
	c := &Changing{admin: a, due: 1}
	c.tell(ctx)
}
