package schema_test

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/schema"
	"github.com/backfillhq/go/migrations"
)

// logger keeps what is logged at warning level or above, and gives the rest to the test's log.
type logger struct {
	mu       sync.Mutex
	warnings []string
}

func (l *logger) Enabled(context.Context, slog.Level) bool { return true }
func (l *logger) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l *logger) WithGroup(string) slog.Handler            { return l }

func (l *logger) Handle(_ context.Context, record slog.Record) error {
	if record.Level < slog.LevelWarn {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	text := record.Message
	record.Attrs(func(attr slog.Attr) bool { text += " " + attr.String(); return true })
	l.warnings = append(l.warnings, text)
	return nil
}

func (l *logger) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	warnings := l.warnings
	l.warnings = nil
	return warnings
}

// quiet are options for a migration whose log is of no interest, with a standstill that a loaded
// machine does not take for one.
func quiet() schema.Options {
	return schema.Options{Logger: slog.New(&logger{})}
}

// waiting are options with this patience.
func waiting(d time.Duration) schema.Options {
	opts := quiet()
	opts.Patience = d
	return opts
}

func migrate(t *testing.T, conn *pgx.Conn, opts schema.Options) {
	t.Helper()
	if opts.Logger == nil {
		opts.Logger = slog.New(&logger{})
	}
	if err := schema.Migrate(t.Context(), conn, opts); err != nil {
		t.Fatal(err)
	}
}

// installWire makes the schema as Graphile Worker leaves it at a revision: without anything of
// ours, and long ago.
func installWire(t *testing.T, conn *pgx.Conn, revision int) {
	t.Helper()
	for _, file := range migrations.Wire() {
		if file.ID <= revision {
			dbtest.Run(t, conn, file.SQL)
		}
	}
	dbtest.Run(t, conn, "update graphile_worker.migrations set ts = now() - interval '1 day'")
}

// bootstrap is what a Node process does first.
const bootstrap = `
	create schema if not exists graphile_worker;
	create table if not exists graphile_worker.migrations (id int primary key, ts timestamptz default now() not null);
	alter table graphile_worker.migrations add column if not exists breaking boolean not null default false`

// soon is a standstill that a test can wait for; any other would do as well.
const soon = 400 * time.Millisecond
