package pg

import (
	"context"
	"fmt"
	"time"

	"github.com/backfillhq/go/internal/pg/query"
	"github.com/backfillhq/go/internal/sqlstate"
)

// A name may go when no job refers to it, and no transaction has looked its id up for a job that it
// has not committed: the job would dangle, and never run. Whoever looks a name up holds the lock of
// an insert on the tables of names or of jobs from before that until its transaction ends: add_job
// inserts missing names first, also if none is; our inserts without a key look names up in the
// statement that inserts the jobs. So names are deleted under a lock that excludes inserts
// (LockTasks, LockQueues): behind it, every lookup is committed, or has yet to begin and will not
// find the name. That a transaction at REPEATABLE READ or above sees names that were deleted since
// it began, nothing of ours can prevent.
//
// While we wait for the lock, all enqueues and claims wait behind us. So we wait for 50 ms, and try
// again after lockPause.
const (
	limitLock = "select pg_catalog.set_config('lock_timeout', '50ms', true), pg_catalog.set_config('statement_timeout', '2s', true)"
	lockPause = time.Second
	maxTries  = 60
)

// DeleteFailed deletes the jobs that have failed for good and that nobody has locked, and returns
// how many.
func (a *Admin) DeleteFailed(ctx context.Context) (jobs int, err error) {
	var last int64
	for {
		deleted, err := ask(ctx, a.in, (*query.Queries).DeleteFailedJobs, last)
		if err != nil {
			return jobs, a.settings.explainWork(fmt.Errorf("delete failed jobs: %w", err))
		}
		if deleted.Jobs == 0 {
			return jobs, nil
		}
		jobs, last = jobs+int(deleted.Jobs), deleted.Last
	}
}

// DeleteTasks deletes the names of tasks that no job has, except those to keep, and returns how
// many.
func (a *Admin) DeleteTasks(ctx context.Context, keep []string) (tasks int, err error) {
	unused := func(q *query.Queries, ctx context.Context) ([]int32, error) { return q.UnusedTasks(ctx, keep) }
	return a.deleteNames(ctx, "task names", unused, (*query.Queries).LockTasks, (*query.Queries).DeleteTasks)
}

// DeleteQueues deletes the names of queues that no job has and nobody has locked, and returns how
// many.
func (a *Admin) DeleteQueues(ctx context.Context) (queues int, err error) {
	return a.deleteNames(ctx, "queue names",
		(*query.Queries).UnusedQueues, (*query.Queries).LockQueues, (*query.Queries).DeleteQueues)
}

// deleteNames looks for names without the lock, and deletes under it those that are unused still.
func (a *Admin) deleteNames(
	ctx context.Context, what string, unused func(*query.Queries, context.Context) ([]int32, error),
	lock func(*query.Queries, context.Context) error, remove func(*query.Queries, context.Context, []int32) (int64, error),
) (names int, err error) {
	defer func() {
		err = a.settings.explain(err, "delete "+what, "only the owner of its tables may: do it on a connection of that role")
	}()
	for tries := 0; ; {
		var ids []int32
		err := a.in(ctx, func(ctx context.Context, db query.DBTX) (err error) {
			ids, err = unused(query.New(db), ctx)
			return err
		})
		if err != nil {
			return names, fmt.Errorf("look for unused %s: %w", what, err)
		}
		if len(ids) == 0 {
			return names, nil
		}
		var n int64
		err = a.in(ctx, func(ctx context.Context, db query.DBTX) error {
			if _, err := db.Exec(ctx, limitLock); err != nil {
				return err
			}
			if err := lock(query.New(db), ctx); err != nil {
				return err
			}
			n, err = remove(query.New(db), ctx, ids)
			return err
		})
		switch {
		case err == nil && n > 0:
			names += int(n)
			continue
		case err == nil:
			return names, nil
		case sqlstate.Of(err) == sqlstate.QueryCanceled:
			err = fmt.Errorf("it would block the workers for longer than 2 seconds, because it scans all jobs: %w", err)
		case sqlstate.Of(err) == sqlstate.LockNotAvailable:
			if tries++; tries < a.lockTries && wait(ctx, lockPause) {
				continue
			}
			err = fmt.Errorf("each of %d tries met an open transaction that had enqueued, or a vacuum: try again later: %w", tries, err)
		}
		return names, fmt.Errorf("delete unused %s: %w", what, err)
	}
}
