package backfill

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/seam"
)

func init() { seam.NewInline, seam.Jobs, seam.RunInside = newInline, listJobs, runInside }

// newInline is for testutil, which runs jobs without a worker: it makes one that never starts, and
// hands out its parts.
func newInline(registry, enqueuer, opts any, logger *slog.Logger) (*seam.Inline, error) {
	w, err := assemble("work", registry.(*Registry), enqueuer.(Enqueuer), guardLogger(logger), opts.([]WorkerOption))
	if err != nil {
		return nil, err
	}
	return &seam.Inline{
		Tasks: w.registry.claimed(), Execute: w.executor.execute, Forbidden: w.forbidden(), Observe: w.observe(),
		Logger: w.config.logger, Scheduled: w.config.scheduled, DeadLetters: w.config.deadLetters, History: w.executor.histories,
	}, nil
}

// listJobs is for testutil: it returns the rows of the table of jobs as []*JobStatus, as the client
// sees them, or the transaction that its WithTx or WithSQLTx got. ok is false for any other
// Enqueuer.
func listJobs(ctx context.Context, enqueuer any) (jobs any, ok bool, err error) {
	var client *Client
	var tx pg.AppTx
	switch e := enqueuer.(type) {
	case *Client:
		client = e
	case *txEnqueuer:
		client, tx = e.client, e.tx
	default:
		return nil, false, nil
	}
	if err := client.usable(ctx); err != nil {
		return nil, true, fmt.Errorf("list jobs: %w", err)
	}
	listed, err := client.admin.List(ctx, tx)
	if err != nil {
		return nil, true, fmt.Errorf("list jobs: %w", err)
	}
	found := make([]*JobStatus, len(listed))
	for i, row := range listed {
		found[i] = newJobStatus(row.Job, row.Inspection)
	}
	return found, true, nil
}
