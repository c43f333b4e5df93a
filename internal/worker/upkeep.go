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

// keepUp sweeps, and says what waits and who holds locks, until ctx ends. The second round is for
// locks that were too young to be said in the first: those of a process that this one has replaced.
func (w *Worker) keepUp(ctx context.Context) {
	var said surveyor
	for wait := waitsLong; ; wait = sweepMin + rand.N(sweepMax-sweepMin) {
		said.survey(ctx, w)
		w.sweep(ctx, &said)
		if !sleep(ctx, wait) {
			return
		}
	}
}

// sweep releases what has been locked for 4 hours, as the workers of the database do (contract
// section 5.6), if it is this worker's turn.
func (w *Worker) sweep(ctx context.Context, said *surveyor) {
	statements, cancel := context.WithTimeout(ctx, sweepTimeout)
	swept, err := w.store.Sweep(statements, w.workerID())
	cancel()
	switch {
	case ctx.Err() != nil:
		return
	case err != nil:
		w.troubles.sweeps.Failure(w.config.Logger, err)
	case swept.Turn:
		w.troubles.sweeps.Success(w.config.Logger)
	}
	if released := swept.Jobs + swept.Queues; released > 0 { // also when it failed half-way
		w.config.Logger.WarnContext(ctx, "released locks that were 4 hours old",
			slog.Int("jobs", swept.Jobs), slog.Int("queues", swept.Queues))
		w.announce(released)
	}
	if swept.Turn || err != nil {
		w.observe(Event{Kind: EventSwept, Count: swept.Jobs, Err: err})
	}
	if swept.Whole {
		said.locks(ctx, w, swept.Locks)
	}
}
