package pg

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/internal/enqueue"
)

// watch has what is sent on a connection interrupted when ctx ends; release ends that. It
// returns why ctx has ended, if it has. A tracer may wait for the end of the context that pgx gets:
// then pgx watches ctx itself.
func (a *attempt) watch(ctx *enqueue.Context, conn *pgxpool.Conn) error {
	if a.traced {
		return ctx.Cause()
	}
	a.inUse = interruption{conn: conn.Conn()}
	return ctx.Watch(&a.inUse)
}

// release gives the connection of a try back.
func (a *attempt) release(ctx *enqueue.Context, conn *pgxpool.Conn, err error) {
	ctx.Unwatch()
	a.Release(ctx, conn, err)
}

// interruption interrupts the statement under way on a connection, in the way that the
// application's configuration has for contexts that end. If its handler panics or does not return,
// the statement ends at once, and the connection is closed: who knows what the handler does to it.
type interruption struct {
	conn    *pgx.Conn
	handler ctxwatch.Handler // nil: it is of no use
}

// HandleCancel implements enqueue.Handler.
func (i *interruption) HandleCancel(canceled context.Context) {
	var err error
	i.handler, err = callHook(context.WithoutCancel(canceled), "BuildContextWatcherHandler",
		func(context.Context) (ctxwatch.Handler, error) {
			handler := i.conn.Config().BuildContextWatcherHandler(i.conn.PgConn())
			handler.HandleCancel(canceled)
			return handler, nil
		})
	if err != nil {
		_ = i.conn.PgConn().Conn().SetDeadline(time.Now())
	}
}

// HandleUnwatchAfterCancel implements enqueue.Handler.
func (i *interruption) HandleUnwatchAfterCancel() {
	err := errHookNothing
	if i.handler != nil {
		err = tryHook(context.Background(), "BuildContextWatcherHandler", func(context.Context) error {
			i.handler.HandleUnwatchAfterCancel()
			return nil
		})
	}
	if err != nil {
		closeConn(context.Background(), i.conn)
	}
}
