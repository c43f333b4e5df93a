package pg_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/schema"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/testutil/pgtest"
)

// countedHandler is an application's, which counts.
type countedHandler struct {
	ctxwatch.Handler

	canceled, reset *atomic.Int64
}

func (h countedHandler) HandleCancel(ctx context.Context) {
	h.canceled.Add(1)
	h.Handler.HandleCancel(ctx)
}

func (h countedHandler) HandleUnwatchAfterCancel() {
	h.reset.Add(1)
	h.Handler.HandleUnwatchAfterCancel()
}

// What ends a statement when its context ends is the application's to configure. Such a handler may
// leave the connection usable, and it may be broken: then the statement ends all the same.
func TestStatementsEndAsConfigured(t *testing.T) {
	t.Parallel()
	for _, way := range []string{"insert", "transaction"} {
		for _, broken := range []bool{false, true} {
			t.Run(way+map[bool]string{true: " broken"}[broken], func(t *testing.T) {
				t.Parallel()
				db := pgtest.New(t)
				dbtest.Run(t, db.Pool(), "create function wait() returns trigger language plpgsql as 'begin perform pg_sleep(30); return new; end'")
				dbtest.Run(t, db.Pool(), "create trigger wait before insert on graphile_worker._private_jobs for each row execute procedure wait()")
				var canceled, reset atomic.Int64
				var breaks atomic.Bool
				pool := poolWith(t, db.URL, func(c *pgxpool.Config) {
					c.MaxConns = 1
					c.ConnConfig.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
						if breaks.Load() {
							panic("broken")
						}
						handler := &pgconn.CancelRequestContextWatcherHandler{Conn: conn, DeadlineDelay: 20 * time.Second}
						return countedHandler{handler, &canceled, &reset}
					}
				})
				if err := pool.Ping(t.Context()); err != nil { // each connection has one built for it
					t.Fatal(err)
				}
				breaks.Store(broken)
				inserter := pg.NewInserter(pool, schemaName, schema.WritesTables)
				ctx, cancel := context.WithCancelCause(t.Context())
				why := errors.New("why")
				go func() {
					dbtest.Until(t, func() bool {
						return dbtest.Get[bool](t, db.Pool(), "select exists (select from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep')")
					})
					cancel(why)
				}()
				specs := []wire.Spec{{Task: "a", Payload: []byte("{}"), MaxAttempts: 1}}
				var err error
				if way == "insert" {
					_, _, err = inserter.InsertAll(ctx, specs, nil)
				} else {
					tx, beginErr := pool.Begin(t.Context())
					if beginErr != nil {
						t.Fatal(beginErr)
					}
					_, err = inserter.InsertTx(ctx, tx, specs)
					_ = tx.Rollback(t.Context())
				}
				if !errors.Is(err, why) {
					t.Errorf("got %v, want %v", err, why)
				}
				dbtest.Run(t, db.Pool(), "drop trigger wait on graphile_worker._private_jobs")
				breaks.Store(false)
				if !broken && (canceled.Load() != 1 || reset.Load() != 1) {
					t.Errorf("the handler was called %d times and reset %d times, want once", canceled.Load(), reset.Load())
				}
				if _, _, err := inserter.InsertAll(t.Context(), specs, nil); err != nil {
					t.Errorf("afterwards: %v", err)
				}
				if made := pool.Stat().NewConnsCount(); !broken && made != 1 {
					t.Errorf("%d connections, want the one that the handler left usable", made)
				}
			})
		}
	}
}
