package worker

import (
	"context"
	"log/slog"
	"time"

	"github.com/backfillhq/go/internal/trouble"
	"github.com/backfillhq/go/internal/wire"
)

// seek looks for suspects while there are crashes that somebody has to judge.
func (w *Worker) seek(ctx context.Context) error {
	w.mu.Lock()
	crashes, asked, forbidden, id := w.crashes, w.askedID, w.core.forbidden, w.core.id
	w.mu.Unlock()
	if w.config.Once {
		return nil
	}
	var found Suspects
	var refused error
	if asked != id {
		if err := w.askLastTrial(ctx, id, crashes); err != nil {
			return err
		}
	}
	if crashes {
		if found, refused = w.store.Suspects(ctx, forbidden); refused != nil && !refusesRow(refused) {
			return refused
		}
		if found.Queues > 0 {
			w.announce(found.Queues)
		}
	}
	others := w.observer.fleet(id)
	w.on(func(c *core, now time.Time) actions { return c.seen(found, others, now) })
	return refused
}

// askLastTrial asks a worker's first question: whether the one before it has died in a trial.
func (w *Worker) askLastTrial(ctx context.Context, id string, crashes bool) error {
	var last LastTrial
	if crashes {
		var err error
		if last, err = w.store.LastTrial(ctx); err != nil {
			return err
		}
	}
	w.on(func(c *core, now time.Time) actions {
		if w.askedID = id; last.Found {
			c.afterTrial(last, now)
		}
		return actions{}
	})
	return nil
}

// try claims the jobs of a trial. If ctx ends meanwhile, it waits for the answer for stopGrace.
func (w *Worker) try(ctx context.Context, request TryRequest) {
	statement, cancel := withStopGrace(ctx, claimTimeout)
	claimed, err := w.store.Try(statement, request)
	cancel()
	switch {
	case err != nil:
		var wait time.Duration
		w.on(func(c *core, now time.Time) actions {
			wait = c.notTried(request, !wasRefused(err), now)
			return actions{}
		})
		w.troubles.claims.Failure(w.config.Logger, err, slog.String("worker_id", request.WorkerID), slog.Duration("retry_in", wait))
		w.observe(Event{Kind: EventClaimError, WorkerID: request.WorkerID, Err: err})
	case !claimed.Alive:
		w.declaredDead(request.WorkerID)
	default:
		w.troubles.claims.Success(w.config.Logger)
		w.on(func(c *core, now time.Time) actions { return c.tried(request, claimed, ctx.Err() != nil, now) })
		if len(claimed.Jobs) > 0 {
			w.config.Logger.LogAttrs(ctx, slog.LevelWarn, "trial of jobs whose workers have died: nothing else runs here until it is over",
				slog.String("worker_id", request.WorkerID), slog.Int("jobs", len(claimed.Jobs)), slog.String("tried", trouble.Names(jobNames(claimed.Jobs))))
			w.observe(Event{Kind: EventTrial, WorkerID: request.WorkerID, Count: len(claimed.Jobs)})
		}
	}
}

// acquit ends a trial that is over. The jobs that have survived it are acquitted.
func (w *Worker) acquit(ctx context.Context, over *trial, survived []int64) {
	statement, cancel := context.WithTimeout(context.WithoutCancel(ctx), statementTimeout)
	id := w.workerID()
	alive, err := w.store.Acquit(statement, id, survived)
	cancel()
	if err != nil {
		var wait time.Duration
		w.on(func(c *core, now time.Time) actions {
			wait = c.demand.failed(now)
			return actions{}
		})
		w.troubles.claims.Failure(w.config.Logger, err, slog.String("worker_id", id), slog.Duration("retry_in", wait))
		return
	}
	w.troubles.claims.Success(w.config.Logger)
	if !alive {
		w.declaredDead(id)
		return
	}
	w.on(func(c *core, now time.Time) actions { return c.acquitted(over, now) })
	if len(survived) > 0 {
		w.config.Logger.LogAttrs(ctx, slog.LevelInfo, "trial is over: its jobs are acquitted",
			slog.String("worker_id", id), slog.Int("jobs", len(survived)))
		w.observe(Event{Kind: EventAcquitted, WorkerID: id, Count: len(survived)})
	}
}

func jobNames(jobs []*wire.Job) []string {
	names := make([]string, len(jobs))
	for i, job := range jobs {
		names[i] = jobName(job)
	}
	return names
}
