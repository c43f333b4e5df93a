package pg

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// Connect makes a connection to build the index on. The build sets what it needs.
func (s Settings) Connect(ctx context.Context) (*pgx.Conn, error) { return s.connect(ctx, "") }
