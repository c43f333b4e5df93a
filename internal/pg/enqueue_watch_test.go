package pg_test

import (
	"context"
	"errors"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
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

// brokenHandler is an application's of which one function is broken.
type brokenHandler struct {
	ctxwatch.Handler

	cancel, reset func()
}

func (h brokenHandler) HandleCancel(canceled context.Context) {
	h.cancel()
	h.Handler.HandleCancel(canceled)
}

func (h brokenHandler) HandleUnwatchAfterCancel() {
	h.reset()
	h.Handler.HandleUnwatchAfterCancel()
}

// A handler of the application's that panics, or ends its goroutine, ends neither the process nor
// the promise that an insert returns with its context; and it takes no connection with it.
func TestHandlersThatBreak(t *testing.T) {
	t.Parallel()
	fine, panics := func() {}, func() { panic("broken") }
	for name, functions := range map[string][2]func(){
		"cancel panics": {panics, fine}, "cancel exits": {runtime.Goexit, fine},
		"reset panics": {fine, panics}, "reset exits": {fine, runtime.Goexit},
	} {
		for _, way := range []string{"alone", "notified", "transaction"} {
			t.Run(name+" "+way, func(t *testing.T) {
				t.Parallel()
				db := pgtest.New(t)
				proxy := dbtest.NewProxy(t, db.URL)
				pool := poolWith(t, proxy.URL, func(c *pgxpool.Config) {
					c.MaxConns = 1
					c.ConnConfig.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
						return brokenHandler{&pgconn.DeadlineContextWatcherHandler{Conn: conn.Conn()}, functions[0], functions[1]}
					}
				})
				inserter := pg.NewInserter(pool, schemaName, schema.WritesTables)
				specs := troubleKinds("")["plain"]
				insert := func(ctx context.Context) error {
					switch way {
					case "alone":
						_, _, err := inserter.InsertAll(ctx, specs, nil)
						return err
					case "notified":
						return insertPiggyback(ctx, inserter, specs)
					}
					tx, err := pool.Begin(t.Context())
					if err != nil {
						return err
					}
					defer func() { _ = tx.Rollback(t.Context()) }()
					proxy.Arm(1, dbtest.Freeze)
					_, err = inserter.InsertTx(ctx, tx, specs)
					return err
				}
				if way != "transaction" {
					if err := insert(t.Context()); err != nil { // adds the task
						t.Fatal(err)
					}
					proxy.Arm(1, dbtest.Freeze)
				}
				ctx, cancel := context.WithCancelCause(t.Context())
				why := errors.New("why")
				go func() {
					dbtest.Until(t, func() bool { return proxy.Met() != 0 })
					cancel(why)
				}()
				if err := insert(ctx); !errors.Is(err, why) {
					t.Errorf("got %v, want %v", err, why)
				}
				proxy.Disarm()
				ctx, end := context.WithTimeout(t.Context(), 5*time.Second)
				defer end()
				if _, _, err := inserter.InsertAll(ctx, specs, nil); err != nil {
					t.Errorf("afterwards: %v", err)
				}
			})
		}
	}
}

// waitingTracer ends the context of the next statement's caller, and waits for the statement's.
type waitingTracer struct {
	end atomic.Pointer[context.CancelFunc]
}

func (w *waitingTracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	if end := w.end.Swap(nil); end != nil {
		(*end)()
		<-ctx.Done()
	}
	return ctx
}

func (*waitingTracer) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func (w *waitingTracer) TraceBatchStart(ctx context.Context, conn *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	return w.TraceQueryStart(ctx, conn, pgx.TraceQueryStartData{})
}

func (*waitingTracer) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}
func (*waitingTracer) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData)     {}

// The contexts that tracers get end: a tracer may wait for that.
func TestContextsOfTracersEnd(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"plain", "keyed", "large", "transaction"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			var tracer waitingTracer
			pool := poolWith(t, db.URL, func(c *pgxpool.Config) { c.MaxConns, c.ConnConfig.Tracer = 1, &tracer })
			inserter := pg.NewInserter(pool, schemaName, schema.WritesTables).WithPieces(2)
			ctx, cancel := context.WithCancel(t.Context())
			var err error
			if kind == "transaction" {
				tx, beginErr := pool.Begin(t.Context())
				if beginErr != nil {
					t.Fatal(beginErr)
				}
				tracer.end.Store(&cancel)
				_, err = inserter.InsertTx(ctx, tx, troubleKinds("")["plain"])
				_ = tx.Rollback(t.Context())
			} else {
				tracer.end.Store(&cancel)
				_, _, err = inserter.InsertAll(ctx, troubleKinds("")[kind], nil)
			}
			if !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
		})
	}
}
