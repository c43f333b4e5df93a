package backfill

import "github.com/backfillhq/go/internal/worker"

// Schedule returns the crontab of a worker with this registry.
func Schedule(r *Registry) ([]worker.CronEntry, error) { return (&workerConfig{}).schedule(r) }
