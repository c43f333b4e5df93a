package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/backfillhq/go/internal/wire"
)

// stopGrace is how long a claim that is under way when the worker is told to stop has for its
// answer. Without one, its jobs are released at the end of the stop.
const stopGrace = 2 * time.Second

// dispatch claims whenever there is room and reason, until ctx ends, a listener stops the worker,
// or, in a worker that runs once, nothing is left.
func (w *Worker) dispatch(ctx context.Context, stopped <-chan error) error {
	timer := time.NewTimer(pollInterval)
	defer timer.Stop()
	atEnd := false // nothing has been claimed since nothing was scheduled
	for ctx.Err() == nil {
		w.turns.note(loopClaims)
		select {
		case err := <-stopped:
			return err
		default:
		}
		var next step
		w.on(func(c *core, now time.Time) (do actions) {
			next, do = c.next(now)
			return do
		})
		if next.polled {
			w.observe(Event{Kind: EventPolled})
		}
		if next.empties {
			w.config.Logger.LogAttrs(ctx, slog.LevelInfo, "worker claims no long jobs until those that it has are done: suspects wait for a trial",
				slog.String("worker_id", w.workerID()))
		}
		switch {
		case next.register:
			w.registerAnew(ctx)
			continue
		case next.doubt != nil:
			w.look(ctx, next.doubt, next.held)
			continue
		case next.acquit != nil:
			w.acquit(ctx, next.acquit, next.survived)
			continue
		case next.try != nil:
			w.try(ctx, *next.try)
			continue
		case next.claim:
			if w.claim(ctx, next) > 0 {
				atEnd = false
			}
			continue
		case next.done:
			// What has become due between the claim and the look, neither has found: there is a claim after
			// the look.
			more, err := w.advance(ctx)
			if err != nil || !more && (atEnd || w.config.Advance == nil) {
				return err
			}
			atEnd = !more
			continue
		}
		timer.Reset(next.wait)
		select {
		case <-ctx.Done():
		case err := <-stopped:
			return err
		case <-w.kick:
		case <-timer.C:
		}
	}
	return nil
}

// advance makes jobs due that are scheduled for later, and has the next step claim. It reports
// false if there are none, or are not to run.
func (w *Worker) advance(ctx context.Context) (bool, error) {
	if w.config.Advance == nil {
		return false, nil
	}
	statement, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	more, err := w.config.Advance(statement)
	switch {
	case ctx.Err() != nil:
		return false, nil // it is told to stop
	case err != nil:
		return false, fmt.Errorf("make scheduled jobs due: %w", err)
	}
	w.on(func(c *core, _ time.Time) actions { return c.woke(false) })
	return more, nil
}

// withStopGrace returns the context of a claim: it ends after the timeout, or stopGrace after ctx.
func withStopGrace(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	statement, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	stopping := context.AfterFunc(ctx, func() { time.AfterFunc(stopGrace, cancel) })
	return statement, func() { stopping(); cancel() }
}

// claim makes one claim, and returns how many jobs it got. If ctx ends meanwhile, it waits for the
// answer for stopGrace.
func (w *Worker) claim(ctx context.Context, next step) int {
	if w.config.Forbidden != nil {
		forbidden := w.config.Forbidden()
		next.request.Forbidden = forbidden
		w.on(func(c *core, _ time.Time) (do actions) {
			c.forbidden = forbidden // for the heartbeats, which call no function of the application's
			return do
		})
	}
	statement, cancel := withStopGrace(ctx, next.timeout)
	sent := time.Now()
	claimed, err := w.store.Claim(statement, next.request)
	timedOut := errors.Is(statement.Err(), context.DeadlineExceeded)
	cancel()
	switch {
	case err != nil:
		w.claimFailed(next, err, timedOut)
	case !claimed.Alive:
		w.declaredDead(next.request.WorkerID)
	default:
		w.troubles.claims.Success(w.config.Logger)
		w.observe(Event{
			Kind: EventClaimed, WorkerID: next.request.WorkerID, Count: len(claimed.Jobs), Full: claimed.More, Duration: time.Since(sent),
		})
		w.on(func(c *core, now time.Time) actions { return c.claimed(next, claimed, ctx.Err() != nil, now) })
		return len(claimed.Jobs)
	}
	return 0
}

func (w *Worker) claimFailed(next step, err error, timedOut bool) {
	var wait time.Duration
	w.on(func(c *core, now time.Time) actions {
		wait = c.claimFailed(next, !wasRefused(err), timedOut, now)
		return actions{}
	})
	id := next.request.WorkerID
	w.troubles.claims.Failure(w.config.Logger, err, slog.String("worker_id", id), slog.Duration("retry_in", wait))
	w.observe(Event{Kind: EventClaimError, WorkerID: id, Err: err})
	signal(w.prove)
}

// look releases what is locked under one of our ids and is not in memory (R6).
func (w *Worker) look(ctx context.Context, about *doubt, held []wire.Lease) {
	statements, cancel := context.WithTimeout(ctx, lookTimeout)
	answer, err := w.store.Reclaim(statements, about.id, held)
	cancel()
	if ctx.Err() != nil {
		return // the end of the stop looks again
	}
	w.on(func(c *core, now time.Time) actions {
		c.looked(about, answer, err, now)
		return actions{}
	})
	if err != nil {
		w.troubles.looks.Failure(w.config.Logger, err, slog.String("worker_id", about.id))
		return
	}
	w.troubles.looks.Success(w.config.Logger)
	w.reclaimed(about.id, answer)
}

func (w *Worker) reclaimed(id string, answer Reclaimed) {
	w.reportCanceled(id, answer.Canceled)
	if answer.Jobs+answer.Queues == 0 {
		return
	}
	w.config.Logger.WarnContext(context.Background(), "released jobs of claims whose answers were lost",
		slog.String("worker_id", id), slog.Int("jobs", answer.Jobs), slog.Int("queues", answer.Queues))
	w.observe(Event{Kind: EventReclaimed, WorkerID: id, Count: answer.Jobs})
	w.config.Nudge(answer.Jobs + answer.Queues)
}

// registerAnew makes a row for a fresh id, after the last one was declared dead.
func (w *Worker) registerAnew(ctx context.Context) {
	w.mu.Lock()
	former := w.core.former
	w.mu.Unlock()
	id := wire.NewWorkerID()
	if err := w.register(context.WithoutCancel(ctx), statementTimeout, id, former); err != nil {
		var wait time.Duration
		w.on(func(c *core, now time.Time) actions {
			wait = c.demand.failed(now)
			return actions{}
		})
		err = fmt.Errorf("register worker: %w", err)
		w.troubles.claims.Failure(w.config.Logger, err, slog.String("worker_id", id), slog.Duration("retry_in", wait))
		w.observe(Event{Kind: EventClaimError, WorkerID: id, Err: err})
	}
}
