package pg

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/backfillhq/go/internal/pg/query"
	"github.com/backfillhq/go/internal/sqlstate"
	"github.com/backfillhq/go/internal/wire"
)

// CancelState says what a request to cancel a job came to.
type CancelState string

// What it comes to.
const (
	CancelDone      CancelState = "canceled"  // the job did not run, and is deleted
	CancelRequested CancelState = "requested" // a worker of ours has it: it ends there
	CancelTooLate   CancelState = "too_late"  // there is no such job any more, or it has failed for good
	CancelForeign   CancelState = "foreign"   // a worker has it that cannot be told
	CancelLocked    CancelState = "locked"    // another transaction has its row locked
	CancelRefused   CancelState = "refused"   // the server does not delete it
	CancelUnmatched CancelState = "unmatched" // it is not as it was found any more
	CancelUnknown   CancelState = "unknown"   // it is gone, and the database does not say how
)

// CancelOutcome is what became of one job.
type CancelOutcome struct {
	ID     int64
	State  CancelState
	Worker string // that has it; "": none
	Detail string // what else is known; "": nothing
}

// FoundJob is a job that a filter matched, and what a Cancel of it would have come to.
type FoundJob struct {
	CancelOutcome

	Revision int32 // an enqueue under the job's key changes it
}

const (
	// cancelPause is the time between two looks at jobs whose rows others have locked.
	cancelPause, cancelPauseMost = 10 * time.Millisecond, 200 * time.Millisecond
	// cancelPatience is for how long they are looked at.
	cancelPatience = 3 * time.Second
)

// Cancel deletes jobs that wait, and stores requests for those that workers of ours have. It waits
// for no row: one that somebody has locked is tried again for a while. The outcomes are those of
// the ids, in their order. With an error there are fewer.
func (a *Admin) Cancel(ctx context.Context, ids []int64, by, reason string) ([]CancelOutcome, error) {
	return a.cancel(ctx, ids, cancellation{by: by, reason: reason})
}

// CancelFound is Cancel for jobs that are still as they were found; if waiting, for those that
// still wait.
func (a *Admin) CancelFound(ctx context.Context, jobs []FoundJob, waiting bool, by, reason string) ([]CancelOutcome, error) {
	ids, revisions := make([]int64, len(jobs)), make(map[int64]int32, len(jobs))
	for i, job := range jobs {
		ids[i], revisions[job.ID] = job.ID, job.Revision
	}
	return a.cancel(ctx, ids, cancellation{by: by, reason: reason, revisions: revisions, waiting: waiting})
}

func (a *Admin) cancel(ctx context.Context, ids []int64, c cancellation) (outcomes []CancelOutcome, err error) {
	c.admin, c.outcomes = a, make(map[int64]CancelOutcome, len(ids))
	c.requested, c.stored, c.own, c.unsure = map[int64]bool{}, map[int64]time.Time{}, map[int64]bool{}, map[int64]bool{}
	err = c.run(ctx, ids)
	for _, id := range ids {
		if outcome, known := c.outcomes[id]; known {
			outcomes = append(outcomes, outcome)
		}
	}
	return outcomes, a.settings.explainWork(err)
}

// cancellation is a Cancel that is under way.
type cancellation struct {
	admin      *Admin
	by, reason string
	revisions  map[int64]int32 // of the jobs as they are meant; nil: whatever they are
	waiting    bool            // only jobs that wait are meant
	outcomes   map[int64]CancelOutcome
	requested  map[int64]bool      // jobs whose requests are stored
	stored     map[int64]time.Time // when; none if somebody else has, at the same time
	own        map[int64]bool      // of them, those whose requests this one has stored, and nobody else
	unsure     map[int64]bool      // jobs that a transaction may have deleted, or requested, whose answer was lost
}

func (c *cancellation) run(ctx context.Context, ids []int64) error {
	pending, notify := slices.Clone(ids), false
	defer func() {
		if notify { // after the look: a worker that ends the job at once would make it look too late
			_ = c.admin.in(ctx, func(ctx context.Context, db query.DBTX) error {
				return query.New(db).NotifyCancels(ctx, channelCancel) // else workers find it within 2 seconds
			})
		}
	}()
	until := time.Now().Add(cancelPatience)
	for pause, lost := cancelPause, 0; ; pause = min(2*pause, cancelPauseMost) {
		err := inHalves(pending, func(ids []int64) error { return c.request(ctx, ids) })
		if err == nil || refusesRow(err) || sqlstate.Of(err) == sqlstate.LockNotAvailable {
			err = c.look(ctx, c.open(pending), !time.Now().Before(until))
		}
		switch {
		case err != nil && (ctx.Err() != nil || definite(err) || lost > 0):
			return err
		case err != nil: // the connection was lost: what has happened, the next round shows
			lost++
		}
		for _, outcome := range c.outcomes {
			notify = notify || outcome.State == CancelRequested
		}
		if pending = c.open(pending); len(pending) == 0 {
			return nil
		}
		if !wait(ctx, pause) {
			return ctx.Err()
		}
	}
}

// open returns which of these jobs have no outcome.
func (c *cancellation) open(ids []int64) (open []int64) {
	for _, id := range ids {
		if _, known := c.outcomes[id]; !known {
			open = append(open, id)
		}
	}
	return open
}

// request deletes and requests in one transaction.
func (c *cancellation) request(ctx context.Context, ids []int64) error {
	params := query.CancelJobsParams{Ids: ids, Waiting: c.waiting, RequestedBy: c.by, Reason: c.reason}
	for _, id := range ids {
		if c.requested[id] {
			params.Stored = append(params.Stored, id)
		}
		if c.revisions != nil {
			params.Revisions = append(params.Revisions, c.revisions[id])
		}
	}
	var rows []query.CancelJobsRow
	err := c.admin.in(ctx, func(ctx context.Context, db query.DBTX) (err error) {
		if _, err := db.Exec(ctx, c.admin.lockTimeout()); err != nil {
			return err
		}
		rows, err = query.New(db).CancelJobs(ctx, params)
		return err
	})
	switch {
	case err == nil:
		for _, row := range rows {
			switch {
			case row.Ended:
				c.outcomes[row.ID] = CancelOutcome{ID: row.ID, State: CancelDone}
			case c.requested[row.ID]:
			case row.Replaced:
				c.outcomes[row.ID] = CancelOutcome{ID: row.ID, State: CancelUnmatched, Detail: "it was enqueued again by its key since it was found"}
			case row.Started:
				c.outcomes[row.ID] = CancelOutcome{ID: row.ID, State: CancelUnmatched, Detail: "it has begun to run since it was found"}
			}
			if !c.requested[row.ID] && row.RequestedAt.Valid {
				c.stored[row.ID] = row.RequestedAt.Time
			}
			c.requested[row.ID] = c.requested[row.ID] || row.Requested
			c.own[row.ID] = c.own[row.ID] || row.Stored
		}
	case refusesRow(err) && len(ids) == 1:
		c.outcomes[ids[0]] = CancelOutcome{ID: ids[0], State: CancelRefused, Detail: serverText(err)}
	case !definite(err):
		for _, row := range rows {
			c.unsure[row.ID] = c.unsure[row.ID] || row.Ended || row.Requested
		}
	}
	return err
}

// look says how jobs stand whose requests are stored. last: it is not looked again.
func (c *cancellation) look(ctx context.Context, ids []int64, last bool) error {
	if len(ids) == 0 {
		return nil
	}
	var rows []query.LookAtLeasesRow
	err := c.admin.in(ctx, func(ctx context.Context, db query.DBTX) (err error) {
		if _, err := db.Exec(ctx, c.admin.lockTimeout()); err != nil {
			return err
		}
		rows, err = query.New(db).LookAtLeases(ctx, ids)
		return err
	})
	switch {
	case sqlstate.Of(err) == sqlstate.LockNotAvailable && !last:
		return nil
	case sqlstate.Of(err) == sqlstate.LockNotAvailable: // somebody has locked the table
		for _, id := range ids {
			c.outcomes[id] = CancelOutcome{ID: id, State: CancelLocked, Detail: serverText(err)}
		}
		return nil
	case err != nil:
		return fmt.Errorf("look at the jobs: %w", err)
	}
	var late query.WithdrawRequestsParams
	for _, row := range rows {
		owner, _, _ := strings.Cut(row.LockedBy, ".")
		outcome := CancelOutcome{ID: row.ID}
		switch {
		case !row.There:
			outcome = c.gone(row)
			late.Ids = append(late.Ids, row.ID)
			if c.own[row.ID] {
				late.Own = append(late.Own, row.ID)
			}
		case !row.Free && !last, row.Free && row.Ours && !row.RequestedAt.Valid: // it was claimed just now
			continue
		case !row.Free && row.RequestedAt.Valid: // whoever has the row: the request stands
			outcome.State, outcome.Detail = CancelRequested, "a transaction has the job's row locked; if it is that which ends the job, the job may still succeed"
		case !row.Free:
			outcome.State, outcome.Detail = CancelLocked, "another transaction has the job's row locked"
		case row.Ours:
			outcome.State, outcome.Worker = CancelRequested, owner
		case row.Failed && row.RequestedAt.Valid && !last: // the next round deletes it, or a worker has
			continue
		case row.Failed:
			outcome.State, outcome.Detail = CancelTooLate, "the job has failed for good"
		case row.LockedBy != "" && !isSuspect(row.LockedBy):
			outcome.State, outcome.Worker = CancelForeign, row.LockedBy
			outcome.Detail = "a worker that cannot be told has the job, as those of Node cannot: cancel it when that has ended"
		case last: // it waits, and is deleted by nobody
			outcome.State, outcome.Detail = CancelLocked, "another transaction has its row or its queue's locked again and again"
		default:
			continue
		}
		c.outcomes[row.ID] = outcome
	}
	if len(late.Ids) == 0 {
		return nil
	}
	err = c.admin.in(ctx, func(ctx context.Context, db query.DBTX) error { return query.New(db).WithdrawRequests(ctx, late) })
	if err != nil {
		return fmt.Errorf("withdraw requests that came too late: %w", err)
	}
	return nil
}

// gone says what became of a job that is not there any more. Whoever ends a job because of a
// request deletes that with it, so one that is still there came too late. Its time tells it from
// one that somebody else has stored since. Whoever has stored one that came too late withdraws it,
// so that others cannot tell which of the two has happened.
func (c *cancellation) gone(row query.LookAtLeasesRow) CancelOutcome {
	outcome := CancelOutcome{ID: row.ID, State: CancelTooLate, Detail: "it has succeeded, was removed or cancelled, or has never been there"}
	stored, known := c.stored[row.ID]
	met := c.requested[row.ID] && !(known && row.RequestedAt.Valid && row.RequestedAt.Time.Equal(stored))
	switch {
	case row.DeadLetter > 0:
		outcome.Detail = fmt.Sprintf("it has failed for good, and is dead letter %d", row.DeadLetter)
	case met && c.own[row.ID]:
		outcome.State, outcome.Detail = CancelDone, "its worker has ended it"
	case met:
		outcome.State, outcome.Detail = CancelUnknown, "somebody else cancels the job, too, and is told what became of it: it was cancelled, or has succeeded"
	case c.unsure[row.ID]: // if there is a request, it may be the second: the first was met
		outcome.State, outcome.Detail = CancelUnknown, "the connection broke, and the job is gone: it was cancelled, or has succeeded"
	}
	return outcome
}

func isSuspect(lockedBy string) bool {
	_, ok := wire.CohortOf(lockedBy)
	return ok
}

// CancelFilter says which jobs are meant: those that all of it is true of. Nil is not asked for.
type CancelFilter struct {
	IDs                 []int64
	Tasks, Queues, Keys []string
	Waiting             bool  // none that runs
	UpTo                int64 // no job with a greater id
}

// LastJob returns the greatest id that a job has; -1: there is none.
func (a *Admin) LastJob(ctx context.Context) (int64, error) {
	var id int64
	err := a.in(ctx, func(ctx context.Context, db query.DBTX) (err error) {
		id, err = query.New(db).LastJob(ctx)
		return err
	})
	return id, a.settings.explainWork(err)
}

// FindJobs returns what a Cancel of the next jobs that match would come to.
func (a *Admin) FindJobs(ctx context.Context, filter CancelFilter, after int64, size int) (found []FoundJob, err error) {
	rows, err := ask(ctx, a.in, (*query.Queries).FindJobs, query.FindJobsParams{
		After: after, UpTo: filter.UpTo, Waiting: filter.Waiting, Ids: filter.IDs, Tasks: filter.Tasks, Queues: filter.Queues, Keys: filter.Keys,
		Size: int32(size), //nolint:gosec // a page
	})
	for _, row := range rows {
		job := FoundJob{CancelOutcome{ID: row.ID, State: CancelForeign, Worker: row.LockedBy}, row.Revision}
		switch owner, _, _ := strings.Cut(row.LockedBy, "."); {
		case row.Waits || isSuspect(row.LockedBy):
			job.State, job.Worker = CancelDone, ""
		case row.Ours:
			job.State, job.Worker = CancelRequested, owner
		}
		found = append(found, job)
	}
	return found, a.settings.explainWork(err)
}

// CountUnaffected returns how many jobs match and have failed for good.
func (a *Admin) CountUnaffected(ctx context.Context, filter CancelFilter) (int, error) {
	n, err := ask(ctx, a.in, (*query.Queries).CountUnaffected, query.CountUnaffectedParams{
		UpTo: filter.UpTo, Ids: filter.IDs, Tasks: filter.Tasks, Queues: filter.Queues, Keys: filter.Keys,
	})
	return int(n), a.settings.explainWork(err)
}
