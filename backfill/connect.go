package backfill

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/schema"
)

// explainConnect says why a pool gives no connection.
func explainConnect(ctx context.Context, pool *pgxpool.Pool, err error) error {
	var busy int32
	if stat := pool.Stat(); stat.AcquiredConns() >= stat.MaxConns() {
		busy = stat.MaxConns()
	}
	return pg.ExplainConnect(ctx, pool.Config().ConnConfig, busy, err)
}

// explainSchema makes an error about the schema one that callers can branch on, and says what to do
// about a pooler that is in the way.
func explainSchema(err error) error {
	if _, breaking := errors.AsType[*schema.BreakingError](err); breaking {
		return fmt.Errorf("%w: %w", ErrBreakingMigration, err)
	}
	return pg.ExplainPooler(err)
}
