package pg_test

import (
	"context"
	"errors"
	"net"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/schema"
	"github.com/backfillhq/go/testutil/pgtest"
)

// failingTracer does not return from one of its calls.
type failingTracer struct {
	left atomic.Int32 // calls before that one
	fail func()
}

func (f *failingTracer) traced() {
	if f.left.Add(-1) == 0 {
		f.fail()
	}
}

func (f *failingTracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	f.traced()
	return ctx
}

func (f *failingTracer) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) { f.traced() }

func (f *failingTracer) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	f.traced()
	return ctx
}

func (f *failingTracer) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {
	f.traced()
}

func (f *failingTracer) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData) { f.traced() }

// A tracer of the application's that panics, or ends the goroutine, in any of its calls takes no
// connection of the pool with it.
func TestTracerThatDoesNotReturn(t *testing.T) {
	t.Parallel()
	ways := []string{"complete", "unlock", "force unlock"}
	for kind := range troubleKinds("") {
		ways = append(ways, kind)
	}
	for _, way := range ways {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			var tracer failingTracer
			pool := poolWith(t, db.URL, func(config *pgxpool.Config) {
				config.MaxConns, config.ConnConfig.Tracer = 1, &tracer
			})
			for name, fail := range map[string]func(){"panic": func() { panic("tracer") }, "exit": runtime.Goexit} {
				tracer.fail = fail
				for position := 1; ; position++ {
					tracer.left.Store(int32(position)) //nolint:gosec // small
					returned := returns(func() { call(t, pool, way, name+strconv.Itoa(position)) })
					tracer.left.Store(0)
					dbtest.Until(t, func() bool { return pool.Stat().AcquiredConns() == 0 })
					if !returned {
						continue
					}
					if position < 3 {
						t.Errorf("%s: the tracer was called %d times", name, position-1)
					}
					break
				}
			}
		})
	}
}

// returns reports whether fn returned.
func returns(fn func()) (returned bool) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() { _ = recover() }()
		fn()
		returned = true
	}()
	<-done
	return returned
}

func call(t *testing.T, pool *pgxpool.Pool, way, id string) {
	t.Helper()
	var err error
	switch admin := pg.NewAdmin(pool, schemaName); way {
	case "complete":
		_, err = admin.Complete(t.Context(), []int64{1})
	case "unlock":
		_, _, _, err = admin.Unlock(t.Context(), "pool-1")
	case "force unlock":
		_, err = admin.ForceUnlock(t.Context(), []string{"x"})
	default:
		inserter := pg.NewInserter(pool, schemaName, schema.WritesTables).WithPieces(2)
		_, _, err = inserter.InsertAll(t.Context(), troubleKinds(id)[way], nil)
	}
	if err != nil && !errors.Is(err, pg.ErrNotLocked) {
		t.Errorf("%s: %v", way, err)
	}
}

// failingConn does not return from one of its calls.
type failingConn struct {
	net.Conn
	*failingTracer
}

func (c failingConn) Read(b []byte) (int, error) {
	c.traced()
	return c.Conn.Read(b)
}

func (c failingConn) Write(b []byte) (int, error) {
	c.traced()
	return c.Conn.Write(b)
}

// The same for a connection that the application's DialFunc has wrapped, while a notification is
// sent along.
func TestConnectionThatDoesNotReturn(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	failing := failingTracer{fail: func() { panic("connection") }}
	pool := poolWith(t, db.URL, func(config *pgxpool.Config) {
		config.MaxConns = 1
		dial := config.ConnConfig.DialFunc
		config.ConnConfig.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dial(ctx, network, address)
			return failingConn{conn, &failing}, err
		}
	})
	inserter := pg.NewInserter(pool, schemaName, schema.WritesTables)
	for position := int32(1); position < 20; position++ {
		if err := insertPiggyback(t.Context(), inserter, troubleKinds("0")["plain"]); err != nil { // connects and prepares
			t.Fatal(err)
		}
		failing.left.Store(position)
		_ = returns(func() { _ = insertPiggyback(t.Context(), inserter, troubleKinds("1")["plain"]) })
		failing.left.Store(0)
		dbtest.Until(t, func() bool { return pool.Stat().AcquiredConns() == 0 })
	}
}
