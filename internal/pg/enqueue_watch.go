package pg

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/internal/enqueue"
)

// watch has what is sent on a connection interrupted when ctx ends; release ends that. It
// returns why ctx has ended, if it has.
func (a *attempt) watch(ctx *enqueue.Context, conn *pgxpool.Conn) error {
	a.inUse = interruption{conn: conn.Conn()}
	return ctx.Watch(&a.inUse)
}

// release gives the connection of a try back.
func (a *attempt) release(ctx *enqueue.Context, conn *pgxpool.Conn, err error) {
	ctx.Unwatch()
	a.Release(ctx, conn, err)
}

// interruption interrupts the statement under way on a connection, in the way that the
// application's configuration has for contexts that end.
type interruption struct {
	conn    *pgx.Conn
	handler ctxwatch.Handler // nil as long as nothing was interrupted
}

// HandleCancel implements enqueue.Handler.
func (i *interruption) HandleCancel(ctx context.Context) {
	defer func() {
		if recover() != nil { // the application's handler panicked
			i.handler = &pgconn.DeadlineContextWatcherHandler{Conn: i.conn.PgConn().Conn()}
			i.handler.HandleCancel(ctx)
		}
	}()
	i.handler = i.conn.Config().BuildContextWatcherHandler(i.conn.PgConn())
	i.handler.HandleCancel(ctx)
}

// HandleUnwatchAfterCancel implements enqueue.Handler.
func (i *interruption) HandleUnwatchAfterCancel() { i.handler.HandleUnwatchAfterCancel() }
