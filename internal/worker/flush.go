package worker

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

// record writes outcomes to the database until ctx ends: a statement starts when the one before it
// is done, with whatever has gathered, and never waits for a timer. What could not be recorded
// waits apart, for a row that somebody else has locked (R16) or after an error. At the end
// everything is tried once more. Statements end with the context of that name.
func (w *Worker) record(ctx, statements context.Context) {
	retry := time.NewTimer(time.Hour)
	defer retry.Stop()
	for ctx.Err() == nil {
		w.turns.note(loopOutcomes)
		if wait := w.flushNext(statements); wait > 0 {
			retry.Reset(min(wait, stuckAfter/10)) // it turns also while there is nothing to do
			select {
			case <-ctx.Done():
			case <-w.flush:
			case <-retry.C:
			}
		}
	}
	w.on(func(c *core, _ time.Time) actions {
		c.outbox.hurry()
		return actions{}
	})
	for statements.Err() == nil && w.flushNext(statements) == 0 {
	}
}

// flushNext records one part. If there is none, it returns how long there will be none.
func (w *Worker) flushNext(statements context.Context) time.Duration {
	var which statement
	var part []*lease
	var wait time.Duration
	w.on(func(c *core, now time.Time) actions {
		which, part, wait = c.outbox.next(now)
		return actions{}
	})
	if len(part) > 0 {
		w.flushPart(statements, which, part)
	}
	return wait
}

// flushPart records outcomes by one statement.
func (w *Worker) flushPart(base context.Context, which statement, part []*lease) {
	ctx, cancel := context.WithTimeout(base, statementTimeout)
	defer cancel()
	var fates []Fate
	var err error
	switch which {
	case statementComplete:
		fates, err = w.store.Complete(ctx, tokens(part))
	case statementRecord:
		fates, err = w.store.CompleteRecorded(ctx, ended(part, false, time.Now()))
	case statementFail:
		fates, err = w.store.Fail(ctx, ended(part, w.config.DeadLetters, time.Now()))
	case statementPark:
		fates, err = w.store.Park(ctx, tokens(part))
	default:
		fates, err = w.store.Release(ctx, ended(part, false, time.Now()))
	}
	if err != nil {
		w.flushFailed(which, part, err)
		return
	}
	w.troubles.flushes.Success(w.config.Logger)
	recorded, waiting := 0, 0
	var stuck *lease
	w.on(func(c *core, now time.Time) (do actions) {
		recorded, do = c.settled(which, part, fates, now)
		stuck, waiting = c.longBusy(now)
		return do
	})
	w.reportStuck(stuck, waiting)
	w.observe(Event{Kind: which.event(), Count: recorded})
	busy := 0
	for _, fate := range fates {
		if fate.Kind == FateBusy {
			busy++
		}
	}
	if busy > 0 {
		w.observe(Event{Kind: EventBusy, Count: busy})
	}
}

var errBusy = errors.New("another transaction has locked these jobs or their queues, or a trigger keeps them as they are")

// reportStuck says that outcomes have waited for rows for long, and when none does any more.
func (w *Worker) reportStuck(first *lease, n int) {
	if first == nil {
		w.troubles.busy.Success(w.config.Logger)
		return
	}
	w.troubles.busy.Failure(w.config.Logger, errBusy, slog.Int("jobs", n), slog.String("task", first.Task),
		slog.Int64("job_id", first.ID), slog.Duration("waits", time.Since(first.since).Round(time.Second)))
}

// flushFailed tells an error that an outcome is to blame for from one of the server: the first has
// its statement halved, and the second one retry for all.
func (w *Worker) flushFailed(which statement, part []*lease, err error) {
	refused := refusesRow(err)
	var wait time.Duration
	var stuck []*lease
	w.on(func(c *core, now time.Time) actions {
		if refused {
			stuck = c.outbox.refused(which, part, now)
		} else {
			wait = c.outbox.failed(which, part, now)
		}
		return actions{}
	})
	w.observe(Event{Kind: EventFlushError, Count: len(part), Err: err})
	switch {
	case len(stuck) > 0:
		l := stuck[0]
		w.troubles.refusals.Failure(w.config.Logger, err, slog.String("task", l.Task), slog.Int64("job_id", l.ID),
			slog.Duration("retry_in", time.Until(l.retry.after)))
	case !refused:
		w.troubles.flushes.Failure(w.config.Logger, err, slog.Int("jobs", len(part)), slog.Duration("retry_in", wait))
	}
}
