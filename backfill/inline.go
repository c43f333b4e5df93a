package backfill

import (
	"log/slog"

	"github.com/backfillhq/go/internal/seam"
)

func init() { seam.NewInline = newInline }

// newInline is for testutil, which runs jobs without a worker: it makes one that never starts, and
// hands out its parts.
func newInline(registry, enqueuer, opts any, logger *slog.Logger) (*seam.Inline, error) {
	w, err := assemble("work", registry.(*Registry), enqueuer.(Enqueuer), guardLogger(logger), opts.([]WorkerOption))
	if err != nil {
		return nil, err
	}
	return &seam.Inline{
		Tasks: w.registry.claimed(), Execute: w.executor.execute, Forbidden: w.forbidden(), Observe: w.observe(),
		Logger: w.config.logger, Scheduled: w.config.scheduled, DeadLetters: w.config.deadLetters,
	}, nil
}
