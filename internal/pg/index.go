package pg

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// Connect makes a connection on which the index is built, with a session that is not shared. The
// build sets what it needs.
func (s Settings) Connect(ctx context.Context) (*pgx.Conn, error) {
	return connectOwn(ctx, s.own(newSessions(s).checkShared))
}
