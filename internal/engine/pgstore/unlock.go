package pgstore

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"
)

// Unlock declares a worker dead and releases everything that it has locked. It returns how many jobs that were. Rows that
// somebody else has locked at this moment are left out.
func Unlock(ctx context.Context, pool *pgxpool.Pool, schema, workerID string) (jobs int, err error) {
	queries := newTexts(schema).queries(pool)
	// First the tombstone: a claim that is in flight commits before it or finds it, and is seen by what follows (R4).
	if err := queries.RetireWorker(ctx, workerID); err != nil {
		return 0, fmt.Errorf("declare worker %s dead: %w", workerID, err)
	}
	for {
		released, err := queries.UnlockJobs(ctx, workerID)
		if err != nil {
			return jobs, fmt.Errorf("release jobs of worker %s: %w", workerID, err)
		}
		jobs += len(released)
		if len(released) == 0 {
			break
		}
	}
	for {
		released, err := queries.UnlockQueues(ctx, workerID)
		if err != nil {
			return jobs, fmt.Errorf("release queues of worker %s: %w", workerID, err)
		}
		if len(released) == 0 {
			return jobs, nil
		}
	}
}
