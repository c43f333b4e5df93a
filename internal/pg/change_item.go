package pg

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/internal/pg/query"
	"github.com/backfillhq/go/internal/sqlstate"
)

// Item is what became of a job or a dead letter that was to be changed.
type Item struct {
	ID          int64
	Task, Queue string
	Skip        Skip   // why it was left as it was; "": it was changed
	Worker      string // who has it
	JobID       int64  // that a dead letter was requeued as, or that has its key
	Detail      string
}

// Skip says why something was left as it was.
type Skip string

// Why items are left as they were.
const (
	SkipRunning    Skip = "running"    // a Go worker has it
	SkipForeign    Skip = "foreign"    // a worker has it of which nobody can tell whether it lives, as those of Node
	SkipWaiting    Skip = "waiting"    // it waits for its first attempt: there is nothing to try again
	SkipFailed     Skip = "failed"     // it has failed for good
	SkipSuperseded Skip = "superseded" // a newer job has taken its key, or it was removed, while it ran
	SkipSuspect    Skip = "suspect"    // it waits for a trial
	SkipChanged    Skip = "changed"    // somebody has changed it since it was seen
	SkipGone       Skip = "gone"       // there is none any more
	SkipLocked     Skip = "locked"     // another transaction has its row locked
	SkipRefused    Skip = "refused"    // the server does not take the change
	SkipForbidden  Skip = "forbidden"  // the principal may not do it
	SkipRequeued   Skip = "requeued"   // the dead letter is requeued
	SkipKeyHeld    Skip = "key_held"   // a live job has the dead letter's key
	SkipUnlocked   Skip = "unlocked"   // nobody has locked it
	SkipUnmatched  Skip = "unmatched"  // its id was asked for, and it does not match
)

// Verdict says what a principal may do with something.
type Verdict int

// The verdicts.
const (
	MayNothing Verdict = iota // not even see it
	MaySee
	MayAct
)

// May decides about an item of a task and a queue.
type May func(id int64, task, queue string) Verdict

// lockedRounds is how often rows are looked for that others have locked: 10 ms after the first time,
// then twice as long each time, 1.3 s in all. A claim has its rows locked for a moment.
const lockedRounds, lockedPause = 8, 10 * time.Millisecond

// lockRows locks the rows of ids, and hands each to add. It waits for none for longer than that.
// Those that are there, and that others have locked, are left.
func lockRows(
	ctx context.Context, ids []int64, lock func([]int64) (locked []int64, err error), there func([]int64) ([]int64, error),
) (left []int64, err error) {
	left = slices.Clone(ids)
	pause := lockedPause
	for round := range lockedRounds {
		locked, err := lock(left)
		if err != nil {
			return nil, err
		}
		left = slices.DeleteFunc(left, func(id int64) bool { return slices.Contains(locked, id) })
		if len(left) == 0 {
			return nil, nil
		}
		if left, err = there(left); err != nil || len(left) == 0 || round == lockedRounds-1 {
			return left, err
		}
		if !wait(ctx, pause) {
			return nil, ctx.Err()
		}
		pause *= 2
	}
	return left, nil
}

// refusedItems is why the server left items as they were, by id.
type refusedItems map[int64]Item

// inParts runs a statement for items in a savepoint. If the server refuses what a row holds, or
// somebody has locked what it needs, it goes on with the halves, so that no item is in the way of
// the others.
func (c *Changing) inParts(ctx context.Context, ids []int64, refused refusedItems, statement func(pgx.Tx, []int64) error) error {
	if len(ids) == 0 {
		return nil
	}
	err := pgx.BeginFunc(ctx, c.tx, func(tx pgx.Tx) error { return statement(tx, ids) })
	code := sqlstate.Of(err)
	locked := code == sqlstate.LockNotAvailable || code == sqlstate.DeadlockDetected
	switch {
	case err == nil || !locked && !refusesRow(err) || c.tx.Conn().IsClosed():
		return err
	case len(ids) > 1:
		half := len(ids) / 2
		if err := c.inParts(ctx, ids[:half], refused, statement); err != nil {
			return err
		}
		return c.inParts(ctx, ids[half:], refused, statement)
	case locked:
		refused[ids[0]] = Item{Skip: SkipLocked, Detail: serverText(err)}
	default:
		refused[ids[0]] = Item{Skip: SkipRefused, Detail: serverText(err)}
	}
	return nil
}

// unchanged is an item that the server has left as it was without an error.
var unchanged = Item{Skip: SkipRefused, Detail: "the server changed nothing: a trigger may suppress the row"}

// describeWorkers says of items that somebody has who that is, and whether it lives.
func (c *Changing) describeWorkers(ctx context.Context, items []Item) error {
	var ids []string
	for _, item := range items {
		if item.Skip == SkipRunning {
			ids = append(ids, item.Worker)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	rows, err := c.queries().WorkersNamed(ctx, ids)
	if err != nil {
		return fmt.Errorf("look at the workers: %w", err)
	}
	for i, item := range items {
		if item.Skip != SkipRunning {
			continue
		}
		k := slices.IndexFunc(rows, func(row query.WorkersNamedRow) bool { return row.ID == item.Worker })
		if k < 0 {
			items[i].Detail = "its worker is not known any more: backfill unlock releases what it has locked"
			continue
		}
		items[i].Detail = describeWorker(rows[k])
	}
	return nil
}

func describeWorker(w query.WorkersNamedRow) string {
	place := fmt.Sprintf("on host %s, pid %d", w.Host, w.Pid)
	silent := time.Duration(w.SilentSeconds * float64(time.Second)).Truncate(time.Second)
	if !lives(w.Beating, w.SilentSeconds) {
		return "its worker is dead (" + place + "): others release what it has locked, or backfill unlock does"
	}
	return fmt.Sprintf("%s, last heartbeat %v ago", place, silent)
}

// ownerOf is the worker's part of a value of locked_by.
func ownerOf(lockedBy string, ours bool) string {
	if ours {
		lockedBy, _, _ = strings.Cut(lockedBy, ".")
	}
	return lockedBy
}
