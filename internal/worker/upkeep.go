package worker

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"
)

// renew moves the lock times of what runs long, or cannot be recorded, so that no peer's sweep
// takes it for stale (R7), until ctx ends. It goes by the leases in memory, never by what the
// database says is ours (R6).
func (w *Worker) renew(ctx context.Context) {
	for sleep(ctx, renewInterval) {
		w.mu.Lock()
		held := w.core.leases.all(leaseRunning, leaseEnding, leaseAbandoned)
		w.mu.Unlock()
		if len(held) == 0 {
			continue
		}
		statement, cancel := context.WithTimeout(ctx, statementTimeout)
		fates, err := w.store.Renew(statement, tokens(held))
		cancel()
		if err != nil {
			w.troubles.renewals.Failure(w.config.Logger, err, slog.Int("jobs", len(held)))
			continue
		}
		w.troubles.renewals.Success(w.config.Logger)
		w.on(func(c *core, now time.Time) actions { return c.renewed(held, fates, now) })
	}
}

// sweep releases what has been locked for 4 hours, as the workers of the database do (contract
// section 5.6), and says what waits and who holds locks, until ctx ends.
func (w *Worker) sweep(ctx context.Context) {
	var said surveyor
	said.survey(ctx, w)
	for wait := rand.N(sweepFirst); sleep(ctx, wait); wait = sweepMin + rand.N(sweepMax-sweepMin) {
		statements, cancel := context.WithTimeout(ctx, sweepTimeout)
		jobs, queues, err := w.store.Sweep(statements)
		cancel()
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			w.troubles.sweeps.Failure(w.config.Logger, err)
		} else {
			w.troubles.sweeps.Success(w.config.Logger)
		}
		if jobs+queues > 0 { // also when it failed half-way
			w.config.Logger.WarnContext(ctx, "released locks that were 4 hours old",
				slog.Int("jobs", jobs), slog.Int("queues", queues))
			w.announce(jobs + queues)
		}
		w.observe(Event{Kind: EventSwept, Count: jobs, Err: err})
		said.survey(ctx, w)
	}
}
