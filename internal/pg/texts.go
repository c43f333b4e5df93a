// Package pg implements worker.Store and enqueue.Inserter on PostgreSQL: every SQL statement of the
// runtime, its sessions, and the listener. The statements are in query/*.sql and are compiled by
// sqlc; they name the schema graphile_worker, which is replaced by the configured one.
package pg

import (
	"context"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/backfillhq/go/internal/pg/query"
	"github.com/backfillhq/go/migrations"
)

// texts renders statements for one schema, each once.
type texts struct {
	schema string
	to     atomic.Pointer[rendering]
}

// rendering is the texts as they are sent since the clock was chosen.
type rendering struct {
	clock string   // where the functions of the time are; "": they are PostgreSQL's
	texts sync.Map // string -> string
}

func newTexts(schema string) *texts {
	t := &texts{schema: schema}
	t.to.Store(&rendering{})
	return t
}

func (t *texts) render(sql string) string {
	to := t.to.Load()
	if text, ok := to.texts.Load(sql); ok {
		return text.(string) //nolint:forcetypeassert // only strings are stored
	}
	text := migrations.Render(readTime(sql, to.clock), t.schema)
	to.texts.Store(sql, text)
	return text
}

// readFrom makes statements read the time from the functions of a schema, from now on.
func (t *texts) readFrom(clock string) { t.to.Store(&rendering{clock: clock}) }

// timeFunctions are those that say what time it is. transaction_timestamp is not one of them: it is
// now(), and our statements call it for what makes a transaction the one that it is.
var timeFunctions = regexp.MustCompile(`(?:\bpg_catalog\.)?\b(now|clock_timestamp|statement_timestamp)\(\)`)

// readTime makes SQL read the time from a schema's functions instead of PostgreSQL's, unless the
// schema is "". It is the one place where a test's clock gets into what the runtime sends.
func readTime(sql, clock string) string {
	if clock == "" {
		return sql
	}
	return timeFunctions.ReplaceAllString(sql, migrations.QuoteIdentifier(clock)+".$1()")
}

// markParams marks the places of parameters by what no schema's name has in it: one can have $1.
var markParams = strings.NewReplacer(
	"$1", "\x001", "$2", "\x002", "$3", "\x003", "$4", "\x004", "$5", "\x005", "$6", "\x006", "$7", "\x007", "$8", "\x008", "$9", "\x009",
)

// inline renders a statement with literals in the places of its parameters, at most nine, which a
// message of several statements cannot have.
func (t *texts) inline(sql string, literals ...string) string {
	var pairs []string
	for i, literal := range literals {
		pairs = append(pairs, "\x00"+strconv.Itoa(i+1), literal)
	}
	return strings.NewReplacer(pairs...).Replace(t.render(markParams.Replace(sql)))
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
