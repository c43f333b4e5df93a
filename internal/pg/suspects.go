package pg

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/backfillhq/go/internal/conviction"
	"github.com/backfillhq/go/internal/pg/query"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// Suspects implements worker.Store.
func (s *Store) Suspects(ctx context.Context, forbidden []string) (found worker.Suspects, err error) {
	tasks := slices.Sorted(maps.Values(*s.served.Load()))
	rows, err := s.queries.Suspects(ctx, query.SuspectsParams{Tasks: tasks, Forbidden: orNone(forbidden)})
	if err != nil {
		return found, fmt.Errorf("look for suspects: %w", err)
	}
	var superseded []wire.Lease
	var stale []int64
	found.Cohorts = make(map[int64]string)
	for _, row := range rows {
		if row.Superseded {
			superseded = append(superseded, wire.Lease{ID: row.ID, Token: row.Token})
			continue
		}
		if row.Stale {
			stale = append(stale, row.ID)
		}
		if !row.Mine {
			continue
		}
		var record conviction.Record
		for _, age := range row.Ages {
			record.Ages = append(record.Ages, seconds(age))
		}
		found.Cohorts[row.Number] = row.Cohort
		found.Jobs = append(found.Jobs, conviction.Suspect{
			Job: row.ID, Cohort: row.Number, Age: record.Age(), Proven: row.Proven, Cleared: row.Cleared, Passed: row.Passed,
		})
	}
	dropped := inHalves(superseded, func(leases []wire.Lease) error {
		ids, tokens := columns(leases)
		_, queues, err := dropJobs(ctx, s.queries, ids, tokens)
		found.Queues += queues
		return err
	})
	if dropped != nil {
		dropped = fmt.Errorf("delete suspects that were superseded: %w", dropped)
	}
	renewed := inHalves(stale, func(ids []int64) error { return s.queries.RenewSuspects(ctx, ids) })
	if renewed != nil {
		renewed = fmt.Errorf("renew suspects: %w", renewed)
	}
	return found, refused(cmp.Or(dropped, renewed))
}

// inHalves makes a statement about rows. If the server refuses it for what a row holds, it is made
// again for either half, so that this row keeps no other from it. The error is that of the first
// row.
func inHalves[T any](rows []T, statement func([]T) error) error {
	if len(rows) == 0 {
		return nil
	}
	err := statement(rows)
	if half := len(rows) / 2; refusesRow(err) && half > 0 {
		return cmp.Or(inHalves(rows[:half], statement), inHalves(rows[half:], statement))
	}
	return err
}

// LastTrial implements worker.Store.
func (s *Store) LastTrial(ctx context.Context) (last worker.LastTrial, err error) {
	rows, err := s.queries.LastTrial(ctx)
	if err != nil {
		return last, fmt.Errorf("look for the last trial: %w", err)
	}
	for _, row := range rows {
		last = worker.LastTrial{Found: true, Stopped: seconds(row.StoppedSeconds), Free: seconds(row.FreeSeconds)}
	}
	return last, nil
}

// Try implements worker.Store. If the server refuses to change a row for what it holds, a half is
// tried without it: any part of a trial is one.
func (s *Store) Try(ctx context.Context, request worker.TryRequest) (claimed worker.Claimed, err error) {
	rows, err := s.queries.TrySuspects(ctx, query.TrySuspectsParams{
		WorkerID: request.WorkerID, Token: wire.ClaimToken(request.WorkerID, request.Number), Cohort: request.Cohort,
		Jobs: request.Jobs, Bytes: request.Bytes,
	})
	if half := len(request.Jobs) / 2; refusesRow(err) && half > 0 {
		first, second := request, request
		first.Jobs, second.Jobs = request.Jobs[:half], request.Jobs[half:]
		claimed, err = s.Try(ctx, first)
		if err == nil && len(claimed.Jobs) > 0 || err != nil && !refusesRow(err) {
			return claimed, err
		}
		return s.Try(ctx, second)
	}
	if err != nil {
		return claimed, s.endFailed(ctx, fmt.Errorf("try suspects: %w", err))
	}
	for _, row := range rows {
		claimed.Alive = row.Alive
		if row.ID == 0 {
			continue
		}
		claimed.Jobs = append(claimed.Jobs, &wire.Job{
			Lease: wire.Lease{ID: row.ID, QueueID: row.QueueID, Token: row.Token},
			Task:  row.Task, Payload: []byte(row.Payload), Queue: row.Queue, Key: row.Key, Priority: row.Priority,
			Attempt: int(row.Attempts), MaxAttempts: int(row.MaxAttempts), Revision: int(row.Revision),
			RunAt: row.RunAt.Time, CreatedAt: row.CreatedAt.Time, Flags: flagNames(row.Flags),
		})
	}
	return claimed, nil
}

// Acquit implements worker.Store.
func (s *Store) Acquit(ctx context.Context, workerID string, jobs []int64) (alive bool, err error) {
	alive, err = s.queries.Acquit(ctx, query.AcquitParams{WorkerID: workerID, Jobs: orNone(jobs)})
	if err != nil {
		return false, fmt.Errorf("end a trial: %w", err)
	}
	return alive, nil
}

// Park implements worker.Store.
func (s *Store) Park(ctx context.Context, leases []wire.Lease) ([]worker.Fate, error) {
	ids, tokens := columns(leases)
	var parked []query.ParkJobsRow
	canceled, err := s.ending(ctx, ids, func(queries *query.Queries) (err error) {
		parked, err = queries.ParkJobs(ctx, query.ParkJobsParams{Ids: ids, Tokens: tokens})
		return err
	})
	if err != nil {
		return nil, s.endFailed(ctx, fmt.Errorf("give back suspects: %w", err))
	}
	fates := make([]worker.Fate, len(leases))
	for _, row := range parked {
		for i, lease := range leases {
			if lease.ID == row.ID && lease.Token == row.Token {
				fates[i].Kind = worker.FateRecorded
			}
		}
	}
	if fates, err = s.settle(ctx, leases, fates); err != nil {
		return nil, err
	}
	return tellCanceled(leases, fates, canceled), nil
}

// parkTried makes suspects of what a worker holds for a trial whose answer was lost, apart from
// what it knows of. It returns those that it has deleted instead, because their end was requested.
func (s *Store) parkTried(ctx context.Context, workerID string, held []string) (canceled []worker.CanceledJob, err error) {
	tried, err := s.queries.TriedJobs(ctx, query.TriedJobsParams{WorkerID: workerID, Held: held})
	if err != nil || len(tried) == 0 {
		return nil, err
	}
	var jobs query.ParkJobsParams
	for _, job := range tried {
		jobs.Ids, jobs.Tokens = append(jobs.Ids, job.ID), append(jobs.Tokens, job.Token)
	}
	return s.ending(ctx, jobs.Ids, func(queries *query.Queries) error {
		_, err := queries.ParkJobs(ctx, jobs)
		return err
	})
}
