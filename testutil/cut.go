package testutil

import (
	"context"
	"errors"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/backfill"
)

// FaultTracer lets [Faults] cut a handler between its statements. Give it to the pool that handlers
// use, and to the one of the client: pgtest.New(tb, pgtest.WithTracer(testutil.FaultTracer{})) does
// both, and so does config.ConnConfig.Tracer of a pgxpool.Config. For database/sql pass it to pgx's
// stdlib. It does nothing outside of Faults. With a tracer of your own, combine the two by pgx's
// package multitracer.
type FaultTracer struct{}

var (
	_ pgx.QueryTracer    = FaultTracer{}
	_ pgx.BatchTracer    = FaultTracer{}
	_ pgx.CopyFromTracer = FaultTracer{}
)

// TraceQueryStart implements [pgx.QueryTracer].
func (FaultTracer) TraceQueryStart(ctx context.Context, conn *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	return shotIn(ctx).statement(ctx, conn, data.SQL)
}

// TraceQueryEnd implements [pgx.QueryTracer].
func (FaultTracer) TraceQueryEnd(ctx context.Context, conn *pgx.Conn, _ pgx.TraceQueryEndData) {
	shotIn(ctx).sent(conn)
}

// TraceBatchStart implements [pgx.BatchTracer]: a batch is one statement, as it is one message.
func (FaultTracer) TraceBatchStart(ctx context.Context, conn *pgx.Conn, data pgx.TraceBatchStartData) context.Context {
	var texts []string
	for _, queued := range data.Batch.QueuedQueries {
		texts = append(texts, queued.SQL)
	}
	return shotIn(ctx).statement(ctx, conn, strings.Join(texts, "; "))
}

// TraceBatchQuery implements [pgx.BatchTracer].
func (FaultTracer) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}

// TraceBatchEnd implements [pgx.BatchTracer].
func (FaultTracer) TraceBatchEnd(ctx context.Context, conn *pgx.Conn, _ pgx.TraceBatchEndData) {
	shotIn(ctx).sent(conn)
}

// TraceCopyFromStart implements [pgx.CopyFromTracer].
func (FaultTracer) TraceCopyFromStart(ctx context.Context, conn *pgx.Conn, data pgx.TraceCopyFromStartData) context.Context {
	return shotIn(ctx).statement(ctx, conn, "copy "+data.TableName.Sanitize())
}

// TraceCopyFromEnd implements [pgx.CopyFromTracer].
func (FaultTracer) TraceCopyFromEnd(ctx context.Context, conn *pgx.Conn, _ pgx.TraceCopyFromEndData) {
	shotIn(ctx).sent(conn)
}

// errCut is what a handler gets whose process counts as killed.
var errCut = errors.New("testutil: the process of this handler has been killed")

// shot is a run of a handler that [Faults] looks at, and a fault that it meets at one point.
// Without a point it counts statements.
type shot struct {
	fault fault
	point int // the number of the statement before which it is met, from 1; 0: at the start, or at its end

	ctx      context.Context //nolint:containedctx // of the job
	reached  chan struct{}   // closed when the handler is at the point
	release  chan struct{}   // closed when it may go on
	returned chan struct{}   // closed when it has returned

	mu    sync.Mutex
	texts []string           // of its statements
	open  map[*pgx.Conn]bool // connections of its transactions
	dead  bool               // it counts as killed
}

func newShot(fault fault, point int) *shot {
	return &shot{
		fault: fault, point: point, reached: make(chan struct{}), release: make(chan struct{}), returned: make(chan struct{}),
		open: map[*pgx.Conn]bool{},
	}
}

type shotKey struct{}

// shotIn returns the shot of a handler whose context ctx derives from; nil: there is none.
func shotIn(ctx context.Context) *shot {
	s, _ := ctx.Value(shotKey{}).(*shot)
	return s
}

// run calls the handler.
func (s *shot) run(ctx context.Context, job *backfill.Job, next backfill.HandlerFunc) error {
	defer close(s.returned)
	s.ctx = ctx
	ctx = context.WithValue(ctx, shotKey{}, s)
	if s.point == 0 && (s.fault == duplicated || s.fault == canceled) {
		s.meet()
	}
	err := next(ctx, job)
	if s.fault == killed && s.point == 0 {
		s.die()
		s.meet()
	}
	if s.isDead() {
		return errCut // which nobody records: the lease is gone
	}
	return err
}

func (s *shot) die() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dead = true
}

func (s *shot) isDead() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dead
}

// statement is called before each statement of the handler's, and returns the context for it.
func (s *shot) statement(ctx context.Context, conn *pgx.Conn, text string) context.Context {
	if s == nil {
		return ctx
	}
	s.mu.Lock()
	s.texts = append(s.texts, text)
	here := s.point > 0 && len(s.texts) == s.point
	s.dead = s.dead || here && s.fault == killed
	dead := s.dead
	s.mu.Unlock()
	if here {
		if dead {
			s.hangUp(conn)
		}
		s.meet()
	}
	if dead { // nothing of this run arrives any more
		<-s.release
		cut, cancel := context.WithCancelCause(ctx)
		cancel(errCut)
		return cut
	}
	return ctx
}

// meet waits at the point.
func (s *shot) meet() {
	close(s.reached)
	if s.fault == canceled {
		<-s.ctx.Done()
		return
	}
	<-s.release
}

// sent notes whether a connection is in a transaction.
func (s *shot) sent(conn *pgx.Conn) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, conn)
	if !conn.IsClosed() && conn.PgConn().TxStatus() != 'I' {
		s.open[conn] = true
	}
}

// hangUp ends the transactions of a handler that counts as killed, as the end of its process would.
func (s *shot) hangUp(conn *pgx.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if conn.PgConn().TxStatus() != 'I' {
		s.open[conn] = true
	}
	for open := range s.open {
		_ = open.PgConn().Conn().Close()
	}
}
