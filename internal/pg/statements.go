package pg

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// SentStatement is a statement that a session of our own has sent.
type SentStatement struct {
	Name     string
	Duration time.Duration
	Err      error
}

// TraceStatements returns a tracer that calls observe for each statement, by the name that it has
// in query/*.sql. A list that is sent at once counts as its first statement with a name: the time
// is that of all.
func TraceStatements(observe func(SentStatement)) pgx.QueryTracer {
	return &statementTracer{observe: observe}
}

type statementTracer struct {
	observe func(SentStatement)
	names   sync.Map // text -> name; there are as many as statements in query/*.sql
}

var _ pgx.BatchTracer = (*statementTracer)(nil)

type sentKey struct{}

// sent is a statement that is under way.
type sent struct {
	name string
	at   time.Time
}

func (t *statementTracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	return context.WithValue(ctx, sentKey{}, &sent{t.name(data.SQL), time.Now()})
}

func (t *statementTracer) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryEndData) {
	t.end(ctx, data.Err)
}

func (t *statementTracer) TraceBatchStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceBatchStartData) context.Context {
	name := other
	for _, q := range data.Batch.QueuedQueries {
		if name = t.name(q.SQL); name != other {
			break
		}
	}
	return context.WithValue(ctx, sentKey{}, &sent{name, time.Now()})
}

func (t *statementTracer) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}

func (t *statementTracer) TraceBatchEnd(ctx context.Context, _ *pgx.Conn, data pgx.TraceBatchEndData) {
	t.end(ctx, data.Err)
}

func (t *statementTracer) end(ctx context.Context, err error) {
	if s, ok := ctx.Value(sentKey{}).(*sent); ok {
		t.observe(SentStatement{Name: s.name, Duration: time.Since(s.at), Err: err})
	}
}

// other is the name of statements without one, such as BEGIN.
const other = "other"

// name returns the name in the first line of a statement, which sqlc has written: "-- name: X :many".
func (t *statementTracer) name(sql string) string {
	rest, ok := strings.CutPrefix(sql, "-- name: ")
	if !ok {
		return other
	}
	if name, known := t.names.Load(sql); known {
		return name.(string) //nolint:forcetypeassert // only strings are stored
	}
	name, _, _ := strings.Cut(rest, " ")
	t.names.Store(sql, name)
	return name
}
