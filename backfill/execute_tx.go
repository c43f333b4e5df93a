package backfill

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

const (
	// txRuns is how often a transactional job runs at most before its attempt has failed, if each
	// time the server refuses the transaction because of others.
	txRuns = 4
	// txPause is the longest pause before the second run; it doubles with each that follows.
	txPause = 20 * time.Millisecond
	// txAgain is how long a job waits, at least, whose transaction had no connection.
	txAgain = time.Second
)

// transact runs a transactional job. Where the server refuses the transaction because of others
// that run beside it (40001, 40P01), it is run again at once, without charging an attempt.
func (x *executor) transact(ctx context.Context, route route, claimed *wire.Job, outcome *worker.Outcome) {
	if x.transactions == nil {
		*outcome = failure(errNeedsDatabase, 0)
		outcome.Kind = worker.OutcomeExhausted
		return
	}
	for run := 1; ; run++ {
		conflict := x.runInTx(ctx, route, claimed, outcome)
		if conflict == nil {
			return
		}
		x.logger.LogAttrs(ctx, slog.LevelDebug, "transaction was refused because of others", slog.String("task", claimed.Task),
			slog.Int64("job_id", claimed.ID), slog.Int("run", run), slog.Any("error", tidy(conflict)))
		if run == txRuns {
			conflict = fmt.Errorf("refused because of other transactions in %d runs of this attempt: %w", run, conflict)
			*outcome = x.outcome(ctx, route.handler, claimed, conflict)
			return
		}
		select {
		case <-ctx.Done():
			*outcome = x.outcome(ctx, route.handler, claimed, fmt.Errorf("%w: %w", context.Cause(ctx), conflict))
			return
		case <-time.After(rand.N(txPause << (run - 1))):
		}
		switch err := x.transactions.Standing(ctx, claimed.Lease); {
		case errors.Is(err, worker.ErrLeaseLost):
			*outcome = worker.Outcome{Kind: worker.OutcomeReturned} // which finds that it is
			return
		case errors.Is(err, worker.ErrCanceled):
			*outcome = worker.Outcome{Kind: worker.OutcomeCanceled}
			return
		}
	}
}

// runInTx runs a transactional job once. It sets the outcome, or returns the error of the server's
// for which the job is to be run again.
func (x *executor) runInTx(ctx context.Context, route route, claimed *wire.Job, outcome *worker.Outcome) (conflict error) {
	h := route.handler
	job := pg.TxJob{Lease: claimed.Lease, Isolation: string(h.isolation), Limit: h.timeout}
	if h.onSQL {
		job.DB = x.client.sqlDB
	}
	tx, err := x.transactions.Begin(ctx, job)
	if err != nil {
		*outcome = x.putOff(ctx, h, claimed, err, false)
		return nil
	}
	x.unbegun.Success(x.logger)
	defer tx.Abort() // also when the handler ends its goroutine
	var enqueued atomic.Int64
	note := func(jobs int) { enqueued.Add(int64(jobs)) }
	bound := x.client.bindTx(tx.Pgx, note)
	if h.onSQL {
		bound = x.client.bindSQLTx(tx.SQL, note)
	}
	carried := newJobContext(ctx, claimed, bound)
	carried.tx, carried.logger, carried.report = &txRun{tx: tx}, x.logger, x.report
	outer, _ := ctx.Value(jobContextKey{}).(*jobContext)
	if outer != nil {
		carried.worker, carried.kept, carried.job.Trace = outer.worker, outer.kept, outer.job.Trace
		carried.kept.again()
	}
	err = route.run(carried, carried.job)
	if outer != nil {
		outer.job.Trace = carried.job.Trace // the next run, also one at once, links to this one
	}
	x.warnOfHidden(carried, claimed, carried.said.Load(), err)
	err = carried.kept.check(err)
	if verdictOf(carried, err, carried.left).Kind != VerdictCompleted {
		return x.failedInTx(carried, h, claimed, err, outcome)
	}
	if _, hidden := errors.AsType[*handlerError](tx.Failed()); hidden { // by middleware, which decides about the job alone
		*outcome = worker.Outcome{Kind: worker.OutcomeCompleted}
		return nil
	}
	if carried.tx.calls.Load() > 0 {
		tx.Fail(errors.New("middleware returned nil while the handler ran: it must wait for it"))
	}
	fate, err := tx.Commit(carried.kept.record(claimed))
	switch {
	case err == nil:
		*outcome = worker.Outcome{Kind: worker.OutcomeCompleted, Committed: &fate}
		if n := int(enqueued.Load()); n > 0 {
			x.client.nudger.Nudge(n)
		}
	case errors.Is(err, worker.ErrLeaseLost):
		*outcome = worker.Outcome{Kind: worker.OutcomeReturned}
	case errors.Is(err, worker.ErrCanceled):
		*outcome = worker.Outcome{Kind: worker.OutcomeCanceled}
	case pg.IsConflict(err) && ctx.Err() == nil:
		return err
	case pg.IsConnectionLost(err):
		*outcome = x.putOff(carried, h, claimed, err, true)
	default:
		*outcome = x.outcome(carried, h, claimed, because(ctx, err))
		outcome.Unsure = errors.Is(err, pg.ErrCommitUnknown)
	}
	return nil
}

// putOff is for a job that is not to blame: its transaction could not be begun, or was rolled back
// with its connection after the handler had returned nil. It runs again in a moment, and no attempt
// is charged. One with a single attempt, which has started, must not (R9).
func (x *executor) putOff(ctx context.Context, h *handler, claimed *wire.Job, err error, started bool) worker.Outcome {
	switch {
	case ctx.Err() != nil:
		return x.outcome(ctx, h, claimed, because(ctx, err))
	case started && attemptsLeft(claimed.Attempt, claimed.MaxAttempts).only:
		return worker.Outcome{Kind: worker.OutcomeReturned}
	}
	x.unbegun.Failure(x.logger, tidy(err), slog.String("task", claimed.Task), slog.Int64("job_id", claimed.ID))
	return worker.Outcome{Kind: worker.OutcomeSnoozed, Delay: txAgain + rand.N(txAgain)}
}

// failedInTx is runInTx after a run that has failed.
func (x *executor) failedInTx(
	carried *jobContext, h *handler, claimed *wire.Job, err error, outcome *worker.Outcome,
) (conflict error) {
	tx := carried.tx.tx
	caught := tx.Caught()
	if carried.Err() == nil && decisionIn(err) == nil {
		switch {
		case pg.IsConflict(err):
			return err
		case pg.IsConflict(caught):
			return fmt.Errorf("%w: %w", err, caught)
		}
	}
	switch ended := errors.Join(tx.Failed(), caught); {
	case pg.IsEcho(err) && caught != nil: // an echo: the first error says what is wrong
		err = fmt.Errorf("%w: %w", err, caught)
	case errors.Is(ended, pg.ErrTxEnded) && !errors.Is(err, pg.ErrTxEnded):
		err = fmt.Errorf("%w: %w", err, pg.ErrTxEnded)
	}
	*outcome = x.outcome(carried, h, claimed, err)
	return nil
}

// because names what has ended the context of a job in an error that came of it.
func because(ctx context.Context, err error) error {
	cause := context.Cause(ctx)
	if ctx.Err() == nil || errors.Is(err, cause) && err != cause { //nolint:errorlint // the cause alone
		return err
	}
	if err == cause { //nolint:errorlint // likewise
		return fmt.Errorf("the transaction was rolled back: %w", err)
	}
	return fmt.Errorf("%w: %w", cause, err)
}
