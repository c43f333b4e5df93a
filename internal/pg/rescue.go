package pg

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/backfillhq/go/internal/pg/query"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// rescueBatch is how many jobs one statement releases.
const rescueBatch = 1000

var errRescued = errors.New("another worker does it")

// Rescue implements worker.Store.
func (s *Store) Rescue(ctx context.Context, ids []string) (rescued worker.Rescued, err error) {
	holders, refused, err := s.rescueJobs(ctx, ids, &rescued)
	if err == nil {
		var queues []string
		if queues, err = s.rescueQueues(ctx, ids, &rescued); err == nil {
			rescued.Settled, err = s.settleWorkers(ctx, ids, append(holders, queues...))
		}
	}
	if errors.Is(err, errRescued) {
		return rescued, nil
	}
	if err = cmp.Or(err, refused); err != nil {
		return rescued, fmt.Errorf("release what dead workers have locked: %w", err)
	}
	return rescued, nil
}

// rescueJobs releases the jobs that can be had. It returns the workers of those that are left,
// because somebody else has their rows locked, or because the server refuses the change of a row
// for what it holds; that error is the second result.
func (s *Store) rescueJobs(ctx context.Context, ids []string, rescued *worker.Rescued) (holders []string, refused, err error) {
	found, err := ask(ctx, s.rescuing, (*query.Queries).RescueFind, ids)
	if err != nil {
		return nil, nil, err
	}
	owners, jobs := make(map[int64]string, len(found)), make([]int64, len(found))
	for i, row := range found {
		owners[row.ID], jobs[i] = row.WorkerID, row.ID
	}
	// try releases jobs, in halves if the server refuses a row, so that it keeps no other locked.
	var try func(jobs []int64) error
	try = func(jobs []int64) error {
		rows, err := ask(ctx, s.rescuing, (*query.Queries).RescueJobs, query.RescueJobsParams{
			Ids: ids, Jobs: jobs, Verdict: worker.ErrCrashed.Error(),
		})
		switch half := len(jobs) / 2; {
		case refusesRow(err) && half == 0:
			refused = cmp.Or(refused, fmt.Errorf("job %d: %w", jobs[0], err))
			return nil
		case refusesRow(err):
			return cmp.Or(try(jobs[:half]), try(jobs[half:]))
		case err != nil:
			return err
		}
		for _, row := range rows {
			delete(owners, row.ID)
			addRescued(rescued, row)
		}
		return nil
	}
	for batch := range slices.Chunk(jobs, rescueBatch) {
		if err := try(batch); err != nil {
			return nil, refused, err
		}
	}
	for _, owner := range owners {
		holders = append(holders, owner)
	}
	return holders, refused, nil
}

func addRescued(rescued *worker.Rescued, row query.RescueJobsRow) {
	lease := wire.Lease{ID: row.ID, Token: row.Token}
	job := &wire.Job{
		Lease: lease, Task: row.Task, Queue: row.Queue, Key: row.Key, Priority: row.Priority, RunAt: row.RunAt.Time,
		Attempt: lease.Attempt(), MaxAttempts: int(row.MaxAttempts),
	}
	switch {
	case row.Superseded: // it was deleted
	case row.Over:
		rescued.Crashed = append(rescued.Crashed, job)
	default:
		rescued.Jobs = append(rescued.Jobs, job)
	}
}

func (s *Store) rescueQueues(ctx context.Context, ids []string, rescued *worker.Rescued) (holders []string, err error) {
	for {
		row, err := ask(ctx, s.rescuing, (*query.Queries).RescueQueues, ids)
		if err != nil {
			return nil, err
		}
		rescued.Queues += int(row.Ended)
		switch {
		case row.Found == row.Ended:
			return nil, nil
		case row.Ended == 0:
			return row.Holders, nil
		}
	}
}

// settleWorkers notes of which workers nothing is left.
func (s *Store) settleWorkers(ctx context.Context, ids, holders []string) ([]string, error) {
	free := slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return slices.Contains(holders, id) })
	return ask(ctx, s.rescuing, (*query.Queries).SettleWorkers, free)
}

// rescuing runs a statement of a rescue: one worker at a time, because each reads all jobs.
func (s *Store) rescuing(ctx context.Context, run func(context.Context, query.DBTX) error) error {
	return s.scanning(ctx, func(ctx context.Context, db query.DBTX) error {
		mine, err := query.New(db).LockRescue(ctx, s.settings.Schema)
		switch {
		case err != nil:
			return err
		case !mine:
			return errRescued
		}
		return run(ctx, db)
	})
}

// Unowned implements worker.Store.
func (s *Store) Unowned(ctx context.Context) (ids []string, err error) {
	err = s.scanning(ctx, func(ctx context.Context, db query.DBTX) error {
		ids, err = query.New(db).Unowned(ctx)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look for locks of workers that have no row: %w", err)
	}
	return ids, nil
}
