package pg

import (
	"context"
	"fmt"

	"github.com/backfillhq/go/internal/pg/query"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// Requested implements worker.Store.
func (s *Store) Requested(ctx context.Context, jobs []int64) (found worker.Requests, err error) {
	row, err := s.queries.Requested(ctx, orNone(jobs))
	if err != nil {
		s.suspectConnections(ctx)
		return found, fmt.Errorf("look for requests to cancel jobs: %w", err)
	}
	found.Jobs = make(map[int64]worker.Request, len(row.Jobs))
	for i, id := range row.Jobs {
		found.Jobs[id] = worker.Request{By: row.RequestedBy[i], Reason: row.Reasons[i]}
	}
	if found.Left = row.Some; !row.Some {
		return found, nil
	}
	found.Ended, err = endCanceled(ctx, s.queries, nil, nil)
	if refusesRow(err) {
		found.Ended, err = s.endOthers(ctx)
	}
	if err != nil {
		return found, refused(fmt.Errorf("delete cancelled jobs: %w", err))
	}
	return found, nil
}

// endOthers deletes the jobs that are to end beside some that the server refuses to delete. The
// error is that of the first of these.
func (s *Store) endOthers(ctx context.Context) (ended []worker.CanceledJob, err error) {
	ids, err := s.queries.EndableJobs(ctx)
	if err != nil {
		return nil, err
	}
	err = inHalves(ids, func(ids []int64) error {
		part, err := endCanceled(ctx, s.queries, ids, nil)
		ended = append(ended, part...)
		return err
	})
	return ended, err
}

// endCanceled deletes jobs of which the end was requested and that nobody runs, and those with
// these tokens: of these jobs alone; nil: of all.
func endCanceled(ctx context.Context, queries *query.Queries, ids []int64, tokens []string) (ended []worker.CanceledJob, err error) {
	rows, err := queries.EndCanceled(ctx, query.EndCanceledParams{Ids: ids, Tokens: orNone(tokens)})
	for _, row := range rows {
		ended = append(ended, worker.CanceledJob{
			Job: &wire.Job{
				Lease: wire.Lease{ID: row.ID, Token: row.Token}, Task: row.Task, Queue: row.Queue, Key: row.Key, Priority: row.Priority,
				RunAt: row.RunAt.Time, Attempt: int(row.Attempts), MaxAttempts: int(row.MaxAttempts),
			},
			Request: worker.Request{By: row.RequestedBy, Reason: row.Reason},
		})
	}
	return ended, err
}

// ending runs a statement that ends leases of these jobs, with EndCanceled behind it, and other
// statements between the two. It returns what EndCanceled has deleted.
func (s *Store) ending(
	ctx context.Context, ids []int64, run func(*query.Queries) error, between ...following,
) (ended []worker.CanceledJob, err error) {
	last := following{
		sql: s.claims.texts.render(query.EndCanceled), args: []any{ids, []string{}},
		read: func(db query.DBTX) (err error) {
			ended, err = endCanceled(ctx, query.New(db), ids, nil)
			return err
		},
	}
	if err := run(query.New(renderer{followed{s.conns, append(between, last)}, s.claims.texts})); err != nil {
		return nil, err
	}
	return ended, nil
}

// failing is ending for a statement that may make dead letters. These are deleted as well.
func (s *Store) failing(ctx context.Context, ids []int64, run func(*query.Queries) error) (ended []worker.CanceledJob, err error) {
	var unburied []query.UnburyCanceledRow
	ended, err = s.ending(ctx, ids, run, following{
		sql: s.claims.texts.render(query.UnburyCanceled), args: []any{ids},
		read: func(db query.DBTX) (err error) {
			unburied, err = query.New(db).UnburyCanceled(ctx, ids)
			return err
		},
	})
	for _, row := range unburied {
		ended = append(ended, worker.CanceledJob{
			Job: &wire.Job{Lease: wire.Lease{ID: row.JobID}}, Request: worker.Request{By: row.RequestedBy, Reason: row.Reason},
		})
	}
	return ended, err
}

// tellCanceled writes into fates which of the jobs EndCanceled has deleted: each once, with the
// lease that has ended, or, if others had released the job, with one that is lost. The others of a
// job stay lost.
func tellCanceled(leases []wire.Lease, fates []worker.Fate, ended []worker.CanceledJob) []worker.Fate {
	for _, job := range ended {
		told := -1
		for i, lease := range leases {
			if lease.ID == job.ID && (told < 0 || fates[i].Kind != worker.FateLost) {
				told = i
			}
		}
		fates[told].Kind, fates[told].Due, fates[told].Request = worker.FateCanceled, 0, job.Request
	}
	return fates
}

// checkCancels reports that the worker's role may not read the requests: better when it starts than
// with each job that ends.
func (s *Store) checkCancels(ctx context.Context) error {
	if _, err := s.queries.Requested(ctx, []int64{}); err != nil {
		return fmt.Errorf("look for requests to cancel jobs: %w", err)
	}
	return nil
}

// sortOut notes which of the claimed jobs are not to run.
func (s *Store) sortOut(ctx context.Context, queries *query.Queries, claimed *worker.Claimed) error {
	ids := make([]int64, len(claimed.Jobs))
	for i, job := range claimed.Jobs {
		ids[i] = job.ID
	}
	row, err := queries.Requested(ctx, ids)
	if err != nil {
		return fmt.Errorf("look for requests to cancel claimed jobs: %w", err)
	}
	claimed.Canceled = row.Jobs
	return nil
}

// released is what a statement has released: so many jobs, and of them those that were cancelled,
// and are gone.
type released struct {
	jobs     int
	canceled []worker.CanceledJob
}

// releasing runs a statement that releases jobs and returns their ids, with EndCanceled behind it.
func releasing[A any](
	ctx context.Context, in transaction, statement func(*query.Queries, context.Context, A) ([]int64, error), arg A,
) (released, error) {
	return ask(ctx, in, func(queries *query.Queries, ctx context.Context, arg A) (done released, err error) {
		ids, err := statement(queries, ctx, arg)
		if err != nil || len(ids) == 0 {
			return done, err
		}
		done.jobs = len(ids)
		done.canceled, err = endCanceled(ctx, queries, ids, nil)
		return done, err
	}, arg)
}
