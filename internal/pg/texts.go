// Package pg implements worker.Store and enqueue.Inserter on PostgreSQL: every SQL statement of the
// runtime, its sessions, and the listener. The statements are in query/*.sql and are compiled by
// sqlc; they name the schema graphile_worker, which is replaced by the configured one.
package pg

import (
	"context"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/backfillhq/go/internal/pg/query"
	"github.com/backfillhq/go/migrations"
)

// texts renders statements for one schema, each once.
type texts struct {
	schema   string
	rendered sync.Map // string -> string
}

func newTexts(schema string) *texts { return &texts{schema: schema} }

func (t *texts) render(sql string) string {
	if text, ok := t.rendered.Load(sql); ok {
		return text.(string) //nolint:forcetypeassert // only strings are stored
	}
	text := migrations.Render(sql, t.schema)
	t.rendered.Store(sql, text)
	return text
}

// markParams marks the places of two parameters by what no schema's name has in it: one can have $1.
var markParams = strings.NewReplacer("$1", "\x001", "$2", "\x002")

// inline renders a statement with two literals in the places of its parameters, which a message of
// several statements cannot have.
func (t *texts) inline(sql, first, second string) string {
	return strings.NewReplacer("\x001", first, "\x002", second).Replace(t.render(markParams.Replace(sql)))
}

// renderer is a DBTX that renders each statement on its way to the database.
type renderer struct {
	db    query.DBTX
	texts *texts
}

func (r renderer) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	return r.db.Exec(ctx, r.texts.render(sql), args...)
}

func (r renderer) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	return r.db.Query(ctx, r.texts.render(sql), args...)
}

func (r renderer) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	return r.db.QueryRow(ctx, r.texts.render(sql), args...)
}
