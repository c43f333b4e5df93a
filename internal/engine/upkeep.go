package engine

import (
	"context"
	"log/slog"
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

func (w *Worker) heldLeases() []Lease {
	w.mu.Lock()
	defer w.mu.Unlock()
	held := make([]Lease, 0, len(w.running))
	for run := range w.running {
		held = append(held, run.job.Lease)
	}
	return held
}

// cancelLost cancels jobs whose lease somebody else ended. Their outcome will not be recorded: its statement finds no lease.
func (w *Worker) cancelLost(ids []int64) {
	if len(ids) == 0 {
		return
	}
	lost := make(map[int64]bool, len(ids))
	for _, id := range ids {
		lost[id] = true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for run := range w.running {
		if lost[run.job.ID] {
			run.cancel(ErrLeaseLost)
		}
	}
}
