package pg

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/internal/pg/query"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// settledTimeout bounds the question whether a claim is under way, which takes no time: a
// connection that does not answer it is given up before the scan that follows.
const settledTimeout = 2 * time.Second

// Reclaim implements worker.Store. It asks first whether a claim of the worker may still commit:
// what is committed by then, the statements that follow see.
func (s *Store) Reclaim(ctx context.Context, workerID string, held []wire.Lease) (answer worker.Reclaimed, err error) {
	asking, cancel := context.WithTimeout(ctx, settledTimeout)
	defer cancel()
	if answer.Settled, err = s.queries.WorkerSettled(asking, workerID); err != nil {
		s.suspectConnections(asking)
		return answer, fmt.Errorf("look for a claim under way: %w", err)
	}
	jobs, queues := make([]string, len(held)), make([]string, len(held))
	for i, lease := range held {
		jobs[i], queues[i] = fmt.Sprint(lease.ID, " ", lease.Token), fmt.Sprint(lease.QueueID, " ", lease.Claim())
	}
	release := func(apartFrom []int64) (int64, error) {
		rows := query.ReclaimJobsParams{WorkerID: workerID, Held: jobs, ApartFrom: apartFrom}
		released, err := releasing(ctx, s.scanning, (*query.Queries).ReclaimJobs, rows)
		answer.Canceled = append(answer.Canceled, released.canceled...)
		return int64(released.jobs), err
	}
	if answer.Canceled, err = s.parkTried(ctx, workerID, jobs); err != nil {
		s.suspectConnections(ctx)
		return answer, fmt.Errorf("give back suspects: %w", err)
	}
	answer.Jobs, err = inBatches(func() (int64, error) { return release([]int64{}) })
	if refusesRow(err) {
		var more int
		more, err = s.reclaimBeside(ctx, workerID, jobs, release)
		answer.Jobs += more
	}
	if err == nil {
		answer.Queues, err = inBatches(func() (int64, error) {
			return ask(ctx, s.scanning, (*query.Queries).ReclaimQueues, query.ReclaimQueuesParams{WorkerID: workerID, Claims: queues})
		})
	}
	left := false
	if err == nil {
		rows := query.ReclaimLeftParams{WorkerID: workerID, Held: jobs, Claims: queues}
		left, err = ask(ctx, s.scanning, (*query.Queries).ReclaimLeft, rows)
	}
	if err != nil {
		s.suspectConnections(ctx)
		return answer, fmt.Errorf("release jobs of claims whose answers were lost: %w", err)
	}
	answer.Settled = answer.Settled && !left
	return answer, nil
}

// reclaimBeside releases jobs beside some that the server refuses to release for what their rows
// hold: in halves of those that are left, so that a row keeps no other locked. The error is that of
// the first row.
func (s *Store) reclaimBeside(
	ctx context.Context, workerID string, held []string, release func(apartFrom []int64) (int64, error),
) (jobs int, err error) {
	ids, err := ask(ctx, s.scanning, (*query.Queries).ReclaimIDs, query.ReclaimIDsParams{WorkerID: workerID, Held: held})
	if err != nil {
		return 0, err
	}
	var try func(first, end int) error
	try = func(first, end int) error {
		n, err := release(append(append([]int64{}, ids[:first]...), ids[end:]...))
		jobs += int(n)
		if half := (first + end) / 2; refusesRow(err) && half > first {
			return cmp.Or(try(first, half), try(half, end))
		}
		return err
	}
	err = try(0, len(ids))
	return jobs, err
}

// scanning runs a statement that no index answers. A worker's sessions do without sequential scans,
// so that claims have the right plan in any case; this one needs it, and on a large table more time
// than they allow: all that the look has.
func (s *Store) scanning(ctx context.Context, run func(context.Context, query.DBTX) error) error {
	return s.conns.within(ctx, func(ctx context.Context, tx pgx.Tx) error {
		const allow = "select set_config('enable_seqscan', 'on', true), set_config('statement_timeout', '30s', true)"
		if _, err := tx.Exec(ctx, allow); err != nil {
			return err
		}
		return run(ctx, renderer{tx, s.claims.texts})
	})
}

// Survey implements worker.Store.
func (s *Store) Survey(ctx context.Context) (worker.Surveyed, error) {
	served := []int32{}
	for id := range *s.served.Load() {
		served = append(served, id)
	}
	rows, err := s.queries.Survey(ctx, query.SurveyParams{Served: served, SchemaName: s.settings.Schema})
	if err != nil {
		return worker.Surveyed{}, fmt.Errorf("look for jobs that this worker does not serve: %w", err)
	}
	found := worker.Surveyed{Changes: -1}
	for _, row := range rows {
		found.Changes = row.Changes
		if row.Jobs > 0 {
			found.Unserved = append(found.Unserved, worker.UnservedTask{
				Task: row.Identifier, Jobs: int(row.Jobs), Oldest: seconds(row.OldestSeconds),
			})
		}
	}
	return found, nil
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
