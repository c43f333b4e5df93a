package pg

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/backfillhq/go/internal/pg/query"
)

// Errors of pauses.
var (
	ErrUnknownTask = errors.New("no task has this name: no worker has served it, and no job has had it")
	ErrNotPaused   = errors.New("it is not paused")
)

// Pause is a task or a queue whose jobs wait.
type Pause struct {
	Task, Queue string // one of them
	At          time.Time
	By, Reason  string
	Until       time.Time // zero: until somebody ends it
}

// Pause keeps the jobs of a task or a queue from starting.
func (a *Admin) Pause(ctx context.Context, pause Pause) error {
	until := pgtype.Timestamptz{Time: pause.Until, Valid: !pause.Until.IsZero()}
	return a.one(ctx, ErrUnknownTask, func(ctx context.Context, db query.DBTX) (int64, error) {
		if pause.Queue != "" {
			return 1, query.New(db).PauseQueue(ctx, query.PauseQueueParams{
				QueueName: pause.Queue, PausedBy: pause.By, Reason: pause.Reason, EndsAt: until,
			})
		}
		return query.New(db).PauseTask(ctx, query.PauseTaskParams{
			Task: pause.Task, PausedBy: pause.By, Reason: pause.Reason, EndsAt: until,
		})
	})
}

// Resume ends the pause of a task.
func (a *Admin) Resume(ctx context.Context, task string) error {
	return a.one(ctx, ErrNotPaused, func(ctx context.Context, db query.DBTX) (int64, error) {
		return query.New(db).ResumeTask(ctx, task)
	})
}

// ResumeQueue ends the pause of a queue.
func (a *Admin) ResumeQueue(ctx context.Context, queue string) error {
	return a.one(ctx, ErrNotPaused, func(ctx context.Context, db query.DBTX) (int64, error) {
		return query.New(db).ResumeQueue(ctx, queue)
	})
}

// one runs a statement that is to change a row.
func (a *Admin) one(ctx context.Context, none error, run func(context.Context, query.DBTX) (int64, error)) error {
	err := a.in(ctx, func(ctx context.Context, db query.DBTX) error {
		rows, err := run(ctx, db)
		if err == nil && rows == 0 {
			err = none
		}
		return err
	})
	return a.settings.explainWork(err)
}

// Paused returns the pauses that are in force: tasks by name, then queues by name.
func (a *Admin) Paused(ctx context.Context) (pauses []Pause, err error) {
	err = a.in(ctx, func(ctx context.Context, db query.DBTX) error {
		rows, err := query.New(db).Pauses(ctx)
		if err != nil {
			return fmt.Errorf("read pauses: %w", err)
		}
		for _, row := range rows {
			pauses = append(pauses, Pause{
				Task: row.Task, Queue: row.QueueName, At: row.PausedAt.Time, By: row.PausedBy, Reason: row.Reason,
				Until: row.EndsAt.Time,
			})
		}
		return nil
	})
	return pauses, a.settings.explainWork(err)
}
