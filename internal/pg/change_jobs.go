package pg

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/backfillhq/go/internal/pg/query"
)

// JobAct is what is done to jobs.
type JobAct string

// What is done to jobs.
const (
	RetryJobs      JobAct = "retry"
	CancelJobs     JobAct = "cancel"
	DeleteJobs     JobAct = "delete"
	RescheduleJobs JobAct = "reschedule"
	EditJob        JobAct = "edit" // of one
)

// JobChange says how jobs are changed, and which ones are still as they were seen.
type JobChange struct {
	Act                   JobAct
	RunAt                 *time.Time // for a reschedule, as the next two; nil: as it is
	Priority, MaxAttempts *int16
	Edit                  EditPayload // for an edit
	By, Reason            string      // of a cancel
	SeenAt                time.Time   // one that somebody has changed later is left out; zero: none is
	If                    *JobVersion // of the one job; nil: whatever it is
}

// EditPayload returns the new payload of something whose stored one is this, and what becomes of a text
// about it, such as its last error.
type EditPayload func(of Item, stored []byte) (payload []byte, text func(string) string, err error)

// JobVersion is what was seen of a job. Nil was not.
type JobVersion struct {
	Revision, Attempts *int
	UpdatedAt          time.Time // zero: it was not seen
}

// Jobs changes jobs that nobody runs; a cancel asks for the end of those that run, too. Those that
// match, after they are locked, are changed; nil: all do. Items are in the order of the ids; what
// the principal may not see has none.
func (c *Changing) Jobs(
	ctx context.Context, ids []int64, change *JobChange, may May, matching func(context.Context, []int64) ([]int64, error),
) (items []Item, err error) {
	rows := make(map[int64]*query.LockJobsToChangeRow, len(ids))
	var others []query.JobsThereRow
	left, err := lockRows(ctx, ids, func(ids []int64) (locked []int64, err error) {
		found, err := c.queries().LockJobsToChange(ctx, query.LockJobsToChangeParams{Ids: ids, Payloads: change.Act == EditJob})
		for i := range found {
			rows[found[i].ID], locked = &found[i], append(locked, found[i].ID)
		}
		return locked, err
	}, func(ids []int64) (there []int64, err error) {
		others, err = c.queries().JobsThere(ctx, ids)
		for _, row := range others {
			there = append(there, row.ID)
		}
		return there, err
	})
	if err != nil {
		return nil, fmt.Errorf("lock the jobs: %w", err)
	}
	outcomes := make(map[int64]Item, len(ids))
	for _, row := range others {
		if slices.Contains(left, row.ID) {
			outcomes[row.ID] = Item{Task: row.Task, Queue: row.Queue, Skip: SkipLocked, Detail: "another transaction has the job's row locked"}
		}
	}
	matched := ids
	if matching != nil {
		if matched, err = matching(ctx, ids); err != nil {
			return nil, fmt.Errorf("look whether the jobs still match: %w", err)
		}
	}
	var acted []int64
	for id, row := range rows {
		item := change.judge(row)
		if !slices.Contains(matched, id) {
			item = Item{Skip: SkipChanged, Detail: "it does not match any more"}
		}
		item.Task, item.Queue = row.Task, row.Queue
		outcomes[id] = item
		if item.Skip == "" {
			acted = append(acted, id)
		}
	}
	seen := func(id int64) Verdict {
		outcome, there := outcomes[id]
		if !there {
			return MaySee
		}
		return may(id, outcome.Task, outcome.Queue)
	}
	verdicts := make(map[int64]Verdict, len(ids))
	for _, id := range ids {
		verdicts[id] = seen(id)
	}
	acted = slices.DeleteFunc(acted, func(id int64) bool { return verdicts[id] != MayAct })
	slices.Sort(acted)
	if err := c.act(ctx, acted, rows, change, outcomes); err != nil {
		return nil, err
	}
	for _, id := range ids {
		item, there := outcomes[id]
		if !there {
			item = Item{Skip: SkipGone, Detail: "there is no such job any more: it has succeeded, was removed or cancelled, or has become a dead letter"}
		}
		switch verdicts[id] {
		case MayNothing:
			continue
		case MaySee:
			if there {
				item = Item{Task: item.Task, Queue: item.Queue, Skip: SkipForbidden}
			}
		case MayAct:
		}
		item.ID = id
		items = append(items, item)
	}
	return items, c.describeWorkers(ctx, items)
}

// judge says why a job that is locked is to be left as it is.
func (ch *JobChange) judge(row *query.LockJobsToChangeRow) Item {
	suspect := isSuspect(row.LockedBy)
	switch {
	case !ch.SeenAt.IsZero() && row.UpdatedAt.Time.After(ch.SeenAt), !ch.If.is(row):
		return Item{Skip: SkipChanged, Detail: "it was changed since it was seen"}
	case row.Locked && row.Ours && ch.Act == CancelJobs:
		return Item{Worker: ownerOf(row.LockedBy, true), Detail: "it runs, and was asked to end"}
	case row.Locked && row.Ours:
		return Item{Skip: SkipRunning, Worker: ownerOf(row.LockedBy, true)}
	case row.Locked && !suspect && row.Stale:
		return Item{Skip: SkipForeign, Worker: row.LockedBy, Detail: "it has been locked for over 4 hours: backfill unlock --stale releases it"}
	case row.Locked && !suspect:
		return Item{Skip: SkipForeign, Worker: row.LockedBy, Detail: "nobody can tell whether that worker lives, as of those of Node"}
	}
	switch ch.Act {
	case CancelJobs:
		if row.Failed && !row.Locked {
			return Item{Skip: SkipFailed, Detail: "it has failed for good: nothing runs it"}
		}
	case RetryJobs, RescheduleJobs, EditJob:
		switch {
		case suspect:
			return Item{Skip: SkipSuspect, Detail: "it waits for a trial, because workers have died that had it"}
		case ch.Act == RetryJobs && row.Failed && row.EndedUnseen:
			return Item{Skip: SkipSuperseded, Detail: "it has no error and no key: a newer job has taken its place, or it was removed, while it ran"}
		case ch.Act == RetryJobs && !row.Failed && row.Attempts == 0:
			return Item{Skip: SkipWaiting, Detail: "it waits for its first attempt"}
		case ch.Act == RescheduleJobs && row.Failed:
			return Item{Skip: SkipFailed, Detail: "it has failed for good: retry it"}
		case ch.MaxAttempts != nil && *ch.MaxAttempts <= row.Attempts:
			return Item{Skip: SkipRefused, Detail: fmt.Sprintf("it has had %d attempts: with so few in all it would have failed for good", row.Attempts)}
		}
	case DeleteJobs:
	}
	return Item{}
}

// is reports whether a job is as it was seen.
func (v *JobVersion) is(row *query.LockJobsToChangeRow) bool {
	return v == nil || (v.Revision == nil || *v.Revision == int(row.Revision)) && (v.Attempts == nil || *v.Attempts == int(row.Attempts)) &&
		(v.UpdatedAt.IsZero() || v.UpdatedAt.Equal(row.UpdatedAt.Time))
}

// act changes jobs that are locked and judged.
func (c *Changing) act(
	ctx context.Context, ids []int64, rows map[int64]*query.LockJobsToChangeRow, change *JobChange, outcomes map[int64]Item,
) error {
	refused, done := refusedItems{}, make(map[int64]bool, len(ids))
	run := func(ids []int64, statement func(*query.Queries, []int64) ([]int64, error)) error {
		return c.inParts(ctx, ids, refused, func(tx pgx.Tx, ids []int64) error {
			changed, err := statement(query.New(renderer{tx, c.admin.texts}), ids)
			if err == nil {
				for _, id := range changed {
					done[id] = true
				}
			}
			return err
		})
	}
	deleted := func(outcome string) func(*query.Queries, []int64) ([]int64, error) {
		return func(q *query.Queries, ids []int64) ([]int64, error) {
			return q.DeleteLockedJobs(ctx, query.DeleteLockedJobsParams{Ids: ids, Outcome: outcome, Reason: change.Reason})
		}
	}
	var err error
	switch change.Act {
	case RetryJobs:
		err = run(ids, func(q *query.Queries, ids []int64) ([]int64, error) { return q.RetryLockedJobs(ctx, ids) })
		c.due += len(done)
	case RescheduleJobs:
		params := query.RescheduleLockedJobsParams{
			Priority:    optional(change.Priority, small),
			MaxAttempts: optional(change.MaxAttempts, small),
		}
		if change.RunAt != nil {
			params.RunAt = pgtype.Timestamptz{Time: *change.RunAt, Valid: true}
		}
		err = run(ids, func(q *query.Queries, ids []int64) ([]int64, error) {
			params.Ids = ids
			return q.RescheduleLockedJobs(ctx, params)
		})
		c.due += len(done)
	case DeleteJobs:
		err = run(ids, deleted("removed"))
	case CancelJobs:
		running := func(id int64) bool { return rows[id].Locked && !isSuspect(rows[id].LockedBy) }
		free := slices.DeleteFunc(slices.Clone(ids), running)
		ids := slices.DeleteFunc(slices.Clone(ids), func(id int64) bool { return !running(id) })
		if err = run(free, deleted("canceled")); err == nil {
			err = run(ids, func(q *query.Queries, ids []int64) ([]int64, error) {
				return q.RequestEnds(ctx, query.RequestEndsParams{Ids: ids, RequestedBy: change.By, Reason: change.Reason})
			})
		}
		c.ends = c.ends || len(ids) > 0
	case EditJob:
		for _, id := range ids {
			var payload []byte
			var text func(string) string
			if payload, text, err = change.Edit(Item{ID: id, Task: rows[id].Task, Queue: rows[id].Queue}, []byte(rows[id].Payload)); err != nil {
				return err
			}
			err = run([]int64{id}, func(q *query.Queries, _ []int64) ([]int64, error) {
				return q.EditLockedJob(ctx, query.EditLockedJobParams{ID: id, Payload: string(payload), LastError: text(rows[id].LastError)})
			})
		}
	}
	if err != nil {
		return fmt.Errorf("%s jobs: %w", change.Act, err)
	}
	for _, id := range ids {
		if done[id] {
			continue
		}
		item, there := refused[id]
		switch {
		case there:
		case isSuspect(rows[id].LockedBy):
			item = Item{Skip: SkipLocked, Detail: "another transaction has its queue's row locked"}
		default:
			item = unchanged
		}
		item.Task, item.Queue = rows[id].Task, rows[id].Queue
		outcomes[id] = item
	}
	return nil
}
