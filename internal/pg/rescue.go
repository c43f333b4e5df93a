package pg

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/backfillhq/go/internal/pg/query"
	"github.com/backfillhq/go/internal/worker"
)

// rescueBatch is how many jobs one statement releases.
const rescueBatch = 1000

var errRescued = errors.New("another worker does it")

// Rescue implements worker.Store.
func (s *Store) Rescue(ctx context.Context, request worker.RescueRequest) (rescued worker.Rescued, err error) {
	holders, refused, err := s.rescueJobs(ctx, request, &rescued)
	if err == nil {
		var queues []string
		if queues, err = s.rescueQueues(ctx, request.IDs, &rescued); err == nil {
			rescued.Settled, err = s.settleWorkers(ctx, request.IDs, append(holders, queues...))
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

// rescueJobs ends the leases that can be had. It returns the workers of those that are left:
// because somebody else has their rows locked, because it is too early to judge them, or because
// the server refuses the change of a row for what it holds; that error is the second result.
func (s *Store) rescueJobs(
	ctx context.Context, request worker.RescueRequest, rescued *worker.Rescued,
) (holders []string, refused, err error) {
	found, err := ask(ctx, s.rescuing, (*query.Queries).RescueFind, request.IDs)
	if err != nil {
		return nil, nil, err
	}
	owners, jobs := make(map[int64]string, len(found)), make([]int64, len(found))
	for i, row := range found {
		owners[row.ID], jobs[i] = row.WorkerID, row.ID
	}
	judge := func(jobs []int64) error {
		var done []int64
		var part worker.Rescued
		try := func(letters bool) error {
			return s.rescuing(ctx, func(ctx context.Context, db query.DBTX) (err error) {
				part, done, err = s.judge(ctx, db, request, jobs, letters)
				return err
			})
		}
		err := try(true)
		if refusesRow(err) && len(jobs) == 1 {
			err = try(false) // perhaps it is the dead letter that is refused: the sweep tries later (R19)
		}
		if err != nil {
			return fmt.Errorf("job %d and %d later ones: %w", jobs[0], len(jobs)-1, err)
		}
		for _, id := range done {
			delete(owners, id)
		}
		rescued.Add(part)
		return nil
	}
	for batch := range slices.Chunk(jobs, rescueBatch) {
		err := inHalves(batch, judge)
		if err != nil && !refusesRow(err) {
			return nil, refused, err
		}
		refused = cmp.Or(refused, err)
	}
	for _, owner := range owners {
		holders = append(holders, owner)
	}
	return holders, refused, nil
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
