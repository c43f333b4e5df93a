package worker

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"slices"

	"github.com/backfillhq/go/internal/wire"
)

// renew moves the lock times of what runs long, so that no peer's sweep takes it for stale (R7), until ctx ends. It goes by the
// leases in memory, never by what the database says is ours (R6).
func (w *Worker) renew(ctx context.Context) {
	for sleep(ctx, renewInterval) {
		held := w.heldLeases()
		if len(held) == 0 {
			continue
		}
		statement, cancel := context.WithTimeout(ctx, statementTimeout)
		lost, err := w.store.Renew(statement, held)
		cancel()
		if err != nil {
			w.config.Logger.ErrorContext(ctx, "renewing leases failed", slog.Int("jobs", len(held)), slog.Any("error", err))
			continue
		}
		w.cancelLost(lost)
	}
}

// sweep releases what has been locked for 4 hours, as every worker of the database does (contract section 5.6), until ctx ends.
func (w *Worker) sweep(ctx context.Context) {
	for wait := rand.N(sweepFirst); sleep(ctx, wait); wait = sweepMin + rand.N(sweepMax-sweepMin) {
		statements, cancel := context.WithTimeout(ctx, sweepTimeout)
		jobs, queues, err := w.store.Sweep(statements)
		cancel()
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			w.config.Logger.ErrorContext(ctx, "releasing stale locks failed", slog.Any("error", err))
		}
		if jobs+queues > 0 { // also when it failed half-way
			w.config.Logger.WarnContext(ctx, "released locks that were 4 hours old", slog.Int("jobs", jobs), slog.Int("queues", queues))
			w.announce(jobs + queues)
		}
		w.observe(Event{Kind: EventSwept, Count: jobs, Err: err})
	}
}

func (w *Worker) heldLeases() []wire.Lease {
	w.mu.Lock()
	defer w.mu.Unlock()
	held := make([]wire.Lease, 0, len(w.running))
	for run := range w.running {
		held = append(held, run.job.Lease)
	}
	return held
}

// cancelLost cancels jobs whose lease somebody else ended. Their outcome will not be recorded: its statement finds no lease.
func (w *Worker) cancelLost(ids []int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for run := range w.running {
		if slices.Contains(ids, run.job.ID) {
			run.cancel(ErrLeaseLost)
		}
	}
}
