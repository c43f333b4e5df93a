package pg

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/backfillhq/go/internal/pg/query"
)

// LetterChange says how dead letters are changed.
type LetterChange struct {
	Requeue bool   // else they are deleted
	Notes   string // of those that are requeued; "": they stay
}

// Letters requeues or deletes dead letters that are as they were found. A place without a time is
// that of a dead letter, whenever it has failed. Items are in the order of the places; what the
// principal may not see has none.
func (c *Changing) Letters(ctx context.Context, places []DeadLetterPlace, change LetterChange, may May) (items []Item, err error) {
	ids, places := make([]int64, len(places)), slices.Clone(places)
	for i, place := range places {
		ids[i] = place.ID
	}
	rows, others, err := c.lockLetters(ctx, ids, false)
	if err != nil {
		return nil, err
	}
	outcomes := make(map[int64]Item, len(ids))
	var acted []DeadLetterPlace
	for i, place := range places {
		row, there := rows[place.ID]
		if !there {
			if other, there := others[place.ID]; there {
				outcomes[place.ID] = Item{Task: other.Task, Queue: other.Queue, Skip: SkipLocked, Detail: "another transaction has its row locked"}
			}
			continue
		}
		failed, err := readStamp(row.FailedAt)
		if err != nil {
			return nil, err
		}
		item := Item{Task: row.Task, Queue: row.Queue}
		switch {
		case row.RequeuedJobID != 0:
			item.Skip, item.JobID = SkipRequeued, row.RequeuedJobID
		case place.FailedAt.Valid && failed != place.FailedAt:
			item.Skip, item.Detail = SkipChanged, "it has failed again since it was seen"
		}
		outcomes[place.ID] = item
		if places[i].FailedAt = failed; item.Skip == "" && may(place.ID, row.Task, row.Queue) == MayAct {
			acted = append(acted, places[i])
		}
	}
	if err := c.actOnLetters(ctx, acted, change, outcomes); err != nil {
		return nil, err
	}
	for _, id := range ids {
		item, there := outcomes[id]
		if there {
			switch may(id, item.Task, item.Queue) {
			case MayNothing:
				continue
			case MaySee:
				item = Item{Task: item.Task, Queue: item.Queue, Skip: SkipForbidden}
			case MayAct:
			}
		} else {
			item = Item{Skip: SkipGone, Detail: "there is none: it was deleted, or its job has succeeded"}
		}
		item.ID = id
		items = append(items, item)
	}
	return items, nil
}

// lockLetters locks dead letters; others are those that somebody else has locked.
func (c *Changing) lockLetters(ctx context.Context, ids []int64, payloads bool) (
	rows map[int64]*query.LockLettersToChangeRow, others map[int64]query.LettersThereRow, err error,
) {
	rows, others = map[int64]*query.LockLettersToChangeRow{}, map[int64]query.LettersThereRow{}
	left, err := lockRows(ctx, ids, func(ids []int64) (locked []int64, err error) {
		found, err := c.queries().LockLettersToChange(ctx, query.LockLettersToChangeParams{Ids: ids, Payloads: payloads})
		for i := range found {
			rows[found[i].ID], locked = &found[i], append(locked, found[i].ID)
		}
		return locked, err
	}, func(ids []int64) (there []int64, err error) {
		found, err := c.queries().LettersThere(ctx, ids)
		for _, row := range found {
			others[row.ID], there = row, append(there, row.ID)
		}
		return there, err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("lock the dead letters: %w", err)
	}
	for id := range others {
		if !slices.Contains(left, id) {
			delete(others, id)
		}
	}
	return rows, others, nil
}

// actOnLetters changes dead letters that are locked, one statement for each, all in one round trip.
func (c *Changing) actOnLetters(ctx context.Context, places []DeadLetterPlace, change LetterChange, outcomes map[int64]Item) error {
	at := make(map[int64]pgtype.Timestamptz, len(places))
	ids := make([]int64, len(places)) // the order of failures stays
	for i, place := range places {
		ids[i], at[place.ID] = place.ID, place.FailedAt
	}
	refused, done := refusedItems{}, make(map[int64]int64, len(ids))
	err := c.inParts(ctx, ids, refused, func(tx pgx.Tx, ids []int64) error {
		batch := new(pgx.Batch)
		statement, args := query.DeleteDeadLetter, func(id int64) []any { return []any{id, at[id]} }
		if change.Requeue {
			batch.Queue(c.admin.texts.render(query.AddDeadTasks), ids)
			batch.Queue(c.admin.texts.render(query.AddDeadQueues), ids)
			statement, args = query.RequeueDeadLetter, func(id int64) []any { return []any{nullText(change.Notes), id, at[id]} }
		}
		answers := make(map[int64]int64, len(ids))
		for _, id := range ids {
			batch.Queue(c.admin.texts.render(statement), args(id)...).Query(func(rows pgx.Rows) error {
				var id, jobID int64
				_, err := pgx.ForEachRow(rows, []any{&id, &jobID}, func() error {
					answers[id] = jobID
					return nil
				})
				return err
			})
		}
		err := tx.SendBatch(ctx, batch).Close()
		if err == nil {
			maps.Copy(done, answers)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("change dead letters: %w", err)
	}
	var left []int64
	for _, id := range ids {
		item := outcomes[id]
		jobID, acted := done[id]
		why, there := refused[id]
		switch {
		case acted && change.Requeue:
			c.due++
			item.JobID = jobID
		case acted:
		case there:
			item.Skip, item.Detail = why.Skip, why.Detail
		default:
			left = append(left, id)
			item.Skip, item.Detail = unchanged.Skip, unchanged.Detail
		}
		outcomes[id] = item
	}
	if !change.Requeue || len(left) == 0 {
		return nil
	}
	states, err := c.queries().DeadLetterStates(ctx, left)
	if err != nil {
		return fmt.Errorf("look at the dead letters: %w", err)
	}
	for _, state := range states {
		if state.HolderID != 0 {
			item := outcomes[state.ID]
			item.Skip, item.JobID, item.Detail = SkipKeyHeld, state.HolderID, "a job that waits or runs has its key"
			outcomes[state.ID] = item
		}
	}
	return nil
}

// EditLetter changes a dead letter; change makes the payload from the one that is stored. Nil as an
// item says that the principal may not see it.
func (c *Changing) EditLetter(
	ctx context.Context, place DeadLetterPlace, edit DeadLetterEdit, change EditPayload, may May,
) (*Item, error) {
	rows, others, err := c.lockLetters(ctx, []int64{place.ID}, change != nil)
	if err != nil {
		return nil, err
	}
	item := &Item{ID: place.ID}
	row, locked := rows[place.ID]
	switch other, there := others[place.ID]; {
	case locked:
		item.Task, item.Queue = row.Task, row.Queue
	case there:
		item.Task, item.Queue, item.Skip, item.Detail = other.Task, other.Queue, SkipLocked, "another transaction has its row locked"
	default:
		item.Skip, item.Detail = SkipGone, "there is none: it was deleted, or its job has succeeded"
		return item, nil
	}
	switch may(item.ID, item.Task, item.Queue) {
	case MayNothing:
		return nil, nil //nolint:nilnil // as it says
	case MaySee:
		item.Skip, item.Detail = SkipForbidden, ""
	case MayAct:
	}
	if item.Skip != "" {
		return item, nil
	}
	failed, err := readStamp(row.FailedAt)
	switch {
	case err != nil:
		return nil, err
	case row.RequeuedJobID != 0:
		item.Skip, item.JobID = SkipRequeued, row.RequeuedJobID
		return item, nil
	case place.FailedAt.Valid && !failed.Time.Equal(place.FailedAt.Time):
		item.Skip, item.Detail = SkipChanged, "it has failed again since it was seen"
		return item, nil
	}
	if change != nil {
		payload, text, err := change(*item, []byte(row.Payload))
		if err != nil {
			return nil, err
		}
		edit.Payload, edit.lastError, edit.firstError = payload, text(row.LastError), text(row.FirstError)
		if edit.Notes == nil && row.Notes != "" {
			edit.Notes = new(text(row.Notes))
		}
	}
	refused, rowsChanged := refusedItems{}, int64(0)
	err = c.inParts(ctx, []int64{place.ID}, refused, func(tx pgx.Tx, _ []int64) error {
		rowsChanged, err = query.New(renderer{tx, c.admin.texts}).EditDeadLetter(ctx, edit.params(place.ID, failed))
		return err
	})
	if why, there := refused[place.ID]; there {
		item.Skip, item.Detail = why.Skip, why.Detail
	} else if rowsChanged == 0 {
		item.Skip, item.Detail = unchanged.Skip, unchanged.Detail
	}
	return item, err
}
