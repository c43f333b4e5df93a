package backfill

import "github.com/backfillhq/go/internal/engine"

// Schedule returns the crontab of a worker with this registry.
func Schedule(r *Registry) ([]engine.CronEntry, error) { return (&workerConfig{}).schedule(r) }
