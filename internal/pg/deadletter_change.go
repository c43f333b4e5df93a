package pg

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/backfillhq/go/internal/pg/query"
	"github.com/backfillhq/go/internal/sqlstate"
	"github.com/backfillhq/go/internal/wire"
)

// DeadLetterSkip says why a dead letter was left as it was; "": it was not.
type DeadLetterSkip string

// Why a dead letter is left as it was.
const (
	DeadLetterGone     DeadLetterSkip = "gone"     // it was deleted meanwhile, or its job has succeeded
	DeadLetterChanged  DeadLetterSkip = "changed"  // it has failed again since it was found
	DeadLetterRequeued DeadLetterSkip = "requeued" // somebody has requeued it
	DeadLetterKeyHeld  DeadLetterSkip = "key_held" // a live job has its key
	DeadLetterLocked   DeadLetterSkip = "locked"   // another transaction has locked what it needs
	DeadLetterRefused  DeadLetterSkip = "refused"  // the server does not take the job
	DeadLetterUnknown  DeadLetterSkip = "unknown"  // the answer to the commit was lost, and nobody knows
)

// DeadLetterOutcome is what became of a dead letter.
type DeadLetterOutcome struct {
	ID     int64
	Skip   DeadLetterSkip
	JobID  int64  // the new job; with requeued, that of somebody else; with key_held, the one that has it
	Detail string // what the server said
}

// letterLockWait is how long a change of dead letters waits for a lock.
const letterLockWait = time.Second

// letterAct is what is done to dead letters, one statement for each.
type letterAct struct {
	requeue   bool
	statement string
	args      func(DeadLetterPlace) []any
}

// RequeueDeadLetters enqueues the jobs of dead letters anew, as they are stored, if they are as
// they were found. Notes replace those of each, unless they are empty. The outcomes are those of
// the places, in their order. With an error there are fewer: nothing is known of the others, or was
// done.
func (a *Admin) RequeueDeadLetters(ctx context.Context, places []DeadLetterPlace, notes string) ([]DeadLetterOutcome, error) {
	return a.act(ctx, places, letterAct{true, query.RequeueDeadLetter, func(p DeadLetterPlace) []any {
		return []any{nullText(notes), p.ID, p.FailedAt}
	}})
}

// DeleteDeadLetters deletes dead letters, if they are as they were found.
func (a *Admin) DeleteDeadLetters(ctx context.Context, places []DeadLetterPlace) ([]DeadLetterOutcome, error) {
	return a.act(ctx, places, letterAct{false, query.DeleteDeadLetter, func(p DeadLetterPlace) []any {
		return []any{p.ID, p.FailedAt}
	}})
}

// act changes all in one transaction. If that fails, and for those that it left out, it goes on one
// by one, so that none is in the way of the others.
func (a *Admin) act(ctx context.Context, places []DeadLetterPlace, act letterAct) ([]DeadLetterOutcome, error) {
	var outcomes []DeadLetterOutcome
	done, err := a.try(ctx, places, act)
	for i, place := range places {
		jobID, answered := done[place.ID]
		if err == nil && answered {
			outcomes = append(outcomes, DeadLetterOutcome{ID: place.ID, JobID: jobID})
			continue
		}
		if err != nil && (ctx.Err() != nil || fatal(err)) {
			if len(done) > 0 {
				outcomes = append(outcomes, a.settle(ctx, places[i:], act, done)...)
			}
			return outcomes, a.settings.explainWork(err)
		}
		outcome, single := a.actOnOne(ctx, place, act, done)
		if outcome != nil {
			outcomes = append(outcomes, *outcome)
		}
		if single != nil {
			return outcomes, a.settings.explainWork(single)
		}
	}
	return outcomes, nil
}

// try changes dead letters in one transaction, and returns the jobs of those that the server says
// it has changed. With an error that is a transaction that may or may not have been committed.
func (a *Admin) try(ctx context.Context, places []DeadLetterPlace, act letterAct) (done map[int64]int64, err error) {
	done = make(map[int64]int64, len(places))
	ids := make([]int64, len(places))
	for i, place := range places {
		ids[i] = place.ID
	}
	err = a.inTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		batch := new(pgx.Batch)
		batch.Queue(a.lockTimeout())
		if act.requeue {
			batch.Queue(a.texts.render(query.AddDeadTasks), ids)
			batch.Queue(a.texts.render(query.AddDeadQueues), ids)
		}
		for _, place := range places {
			batch.Queue(a.texts.render(act.statement), act.args(place)...).Query(func(rows pgx.Rows) error {
				var id, jobID int64
				_, err := pgx.ForEachRow(rows, []any{&id, &jobID}, func() error {
					done[id] = jobID
					return nil
				})
				return err
			})
		}
		return tx.SendBatch(ctx, batch).Close()
	})
	if definite(err) {
		clear(done)
	}
	return done, err
}

// definite reports whether the server ended a transaction with an error, so that nothing was
// changed.
func definite(err error) bool {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pgErr.SeverityUnlocalized == "ERROR"
}

func (a *Admin) lockTimeout() string {
	return fmt.Sprintf("select pg_catalog.set_config('lock_timeout', '%dms', true)", a.lockWait.Milliseconds())
}

// actOnOne changes one dead letter in a transaction of its own. If the connection is lost, it looks
// what has become of that, once: done has the jobs of transactions that may have been committed.
func (a *Admin) actOnOne(ctx context.Context, place DeadLetterPlace, act letterAct, done map[int64]int64) (*DeadLetterOutcome, error) {
	const tries = 2
	for try := 1; ; try++ {
		answer, err := a.try(ctx, []DeadLetterPlace{place}, act)
		if jobID, answered := answer[place.ID]; err == nil && answered {
			return &DeadLetterOutcome{ID: place.ID, JobID: jobID}, nil
		}
		var skipped *DeadLetterOutcome
		if err == nil {
			skipped, err = a.whySkipped(ctx, place, act, done, false)
		}
		switch {
		case err == nil && skipped.Skip == DeadLetterRefused && try < tries: // a key that was given up, or a name that was added, meanwhile
			continue
		case err == nil:
			return skipped, nil
		}
		maps.Copy(done, answer)
		code := sqlstate.Of(err)
		locked := code == sqlstate.LockNotAvailable || code == sqlstate.DeadlockDetected
		item := locked || rowRefused(err) // it is about this dead letter alone
		final := item || ctx.Err() != nil || try == tries || fatal(err)
		if _, attempted := done[place.ID]; attempted && final { // an earlier transaction may have been committed
			if settled := a.settle(ctx, []DeadLetterPlace{place}, act, done); len(settled) > 0 {
				if item {
					err = nil
				}
				return &settled[0], err
			}
		}
		switch {
		case locked:
			return &DeadLetterOutcome{ID: place.ID, Skip: DeadLetterLocked, Detail: serverText(err)}, nil
		case item:
			return &DeadLetterOutcome{ID: place.ID, Skip: DeadLetterRefused, Detail: serverText(err)}, nil
		case final:
			return nil, err
		}
	}
}

// whySkipped says why a dead letter could not be changed, or that it was, by a transaction whose
// answer was lost. With wait it first waits until nobody changes the row.
func (a *Admin) whySkipped(
	ctx context.Context, place DeadLetterPlace, act letterAct, done map[int64]int64, wait bool,
) (outcome *DeadLetterOutcome, err error) {
	var states []query.DeadLetterStatesRow
	ids := []int64{place.ID}
	err = a.in(ctx, func(ctx context.Context, db query.DBTX) error {
		if wait {
			if _, err := db.Exec(ctx, a.lockTimeout()); err != nil {
				return err
			}
			if err := query.New(db).LockDeadLetters(ctx, ids); err != nil {
				return err
			}
		}
		states, err = query.New(db).DeadLetterStates(ctx, ids)
		return err
	})
	if err != nil {
		return nil, err
	}
	ours, attempted := done[place.ID]
	outcome = &DeadLetterOutcome{ID: place.ID}
	if len(states) == 0 {
		switch {
		case !attempted:
			outcome.Skip = DeadLetterGone
		case act.requeue: // its job has succeeded, or it was not requeued, and somebody has deleted it
			outcome.Skip, outcome.JobID, outcome.Detail = DeadLetterUnknown, ours, "it is gone by now"
		}
		return outcome, nil
	}
	state := states[0]
	failed, err := readStamp(state.FailedAt)
	switch {
	case err != nil:
		return nil, err
	case state.RequeuedJobID != 0:
		outcome.JobID = state.RequeuedJobID
		if !attempted || ours != state.RequeuedJobID {
			outcome.Skip = DeadLetterRequeued
		}
	case attempted && act.requeue && ours == state.OriginalJobID: // that job has failed for good by now
		outcome.JobID = ours
	case failed != place.FailedAt:
		outcome.Skip = DeadLetterChanged
	case act.requeue && state.HolderID != 0:
		outcome.Skip, outcome.JobID = DeadLetterKeyHeld, state.HolderID
	default:
		outcome.Skip, outcome.Detail = DeadLetterRefused, "the server changed nothing: a trigger may suppress the row"
	}
	return outcome, nil
}

// settleTimeout bounds the look after the caller's context has ended.
const settleTimeout = 5 * time.Second

// settle says what became of dead letters that the last transaction may have changed. Those that
// are as they were have no outcome.
func (a *Admin) settle(ctx context.Context, places []DeadLetterPlace, act letterAct, done map[int64]int64) (outcomes []DeadLetterOutcome) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	for _, place := range places {
		if _, attempted := done[place.ID]; !attempted {
			continue
		}
		outcome, err := a.whySkipped(ctx, place, act, done, true)
		if sqlstate.Of(err) == sqlstate.LockNotAvailable { // who has it locked hides nothing that was committed
			if seen, again := a.whySkipped(ctx, place, act, done, false); again == nil && seen.Skip == "" {
				outcome, err = seen, nil
			}
		}
		switch {
		case err != nil:
			outcomes = append(outcomes, DeadLetterOutcome{ID: place.ID, Skip: DeadLetterUnknown, Detail: err.Error()})
		case outcome.Skip == DeadLetterRefused || outcome.Skip == DeadLetterKeyHeld: // as it was: nothing was committed
		default:
			outcomes = append(outcomes, *outcome)
		}
	}
	return outcomes
}

// fatal reports whether an error of the server's is about neither a row nor a lock: there is no
// point in trying the others.
func fatal(err error) bool {
	switch sqlstate.Of(err) {
	case sqlstate.LockNotAvailable, sqlstate.DeadlockDetected, sqlstate.SerializationFailure:
		return false
	default:
		return definite(err) && !rowRefused(err)
	}
}

// rowRefused reports whether the server refuses what a row holds.
func rowRefused(err error) bool {
	rejected, ok := errors.AsType[*wire.RejectedError](refused(err))
	return ok && rejected.Row
}

// serverText is what the server said, without the names of statements.
func serverText(err error) string {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		return fmt.Sprintf("%s (SQLSTATE %s)", pgErr.Message, pgErr.Code)
	}
	return err.Error()
}

// CheckDeadLetters says what a requeue, or a deletion, of dead letters would come to, and changes
// nothing.
func (a *Admin) CheckDeadLetters(ctx context.Context, places []DeadLetterPlace, requeue bool) (outcomes []DeadLetterOutcome, err error) {
	ids := make([]int64, len(places))
	for i, place := range places {
		ids[i] = place.ID
	}
	states, err := ask(ctx, a.in, (*query.Queries).DeadLetterStates, ids)
	if err != nil {
		return nil, a.settings.explainWork(err)
	}
	byID := make(map[int64]query.DeadLetterStatesRow, len(states))
	for _, state := range states {
		byID[state.ID] = state
	}
	for _, place := range places {
		outcome := DeadLetterOutcome{ID: place.ID}
		switch state, there := byID[place.ID]; {
		case !there:
			outcome.Skip = DeadLetterGone
		case state.RequeuedJobID != 0:
			outcome.Skip, outcome.JobID = DeadLetterRequeued, state.RequeuedJobID
		case requeue && state.HolderID != 0:
			outcome.Skip, outcome.JobID = DeadLetterKeyHeld, state.HolderID
		}
		outcomes = append(outcomes, outcome)
	}
	return outcomes, nil
}

// DeadLetterEdit says what to change. Nil changes nothing; an empty text removes it.
type DeadLetterEdit struct {
	Payload               []byte
	Priority, MaxAttempts *int16
	Queue, Key, Notes     *string
	lastError, firstError string // "": as they are
}

// EditDeadLetter changes a dead letter that is as it was seen, and returns it. Otherwise the error
// is ErrDeadLetterNotFound or a DeadLetterConflictError.
func (a *Admin) EditDeadLetter(ctx context.Context, id int64, seen time.Time, edit DeadLetterEdit) (*DeadLetter, error) {
	changed, err := ask(ctx, a.in, (*query.Queries).EditDeadLetter, edit.params(id, pgtype.Timestamptz{Time: seen, Valid: true}))
	if err != nil {
		return nil, a.settings.explainWork(err)
	}
	letter, err := a.DeadLetter(ctx, id)
	if err == nil && changed == 0 {
		return nil, &DeadLetterConflictError{ID: id, FailedAt: letter.FailedAt, RequeuedJobID: letter.RequeuedJobID}
	}
	return letter, err
}

func (e *DeadLetterEdit) params(id int64, seen pgtype.Timestamptz) query.EditDeadLetterParams {
	return query.EditDeadLetterParams{
		ID: id, Seen: seen, Payload: nullText(string(e.Payload)), Priority: optional(e.Priority, small), MaxAttempts: optional(e.MaxAttempts, small),
		Queue: optional(e.Queue, text), Key: optional(e.Key, text), Notes: optional(e.Notes, text),
		LastError: nullText(e.lastError), FirstError: nullText(e.firstError),
	}
}

func small(n int16) pgtype.Int2 { return pgtype.Int2{Int16: n, Valid: true} }

func text(s string) pgtype.Text { return pgtype.Text{String: s, Valid: true} }

func optional[T, P any](value *T, param func(T) P) (none P) {
	if value == nil {
		return none
	}
	return param(*value)
}
