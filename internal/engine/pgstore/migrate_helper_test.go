package pgstore_test

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/backfillhq/go/internal/engine/pgstore"
	"github.com/backfillhq/go/internal/needs"
	"github.com/backfillhq/go/migrations"
	"github.com/backfillhq/go/testutil/pgtest"
)

// emptyDatabase returns the URL of a database of the test's own.
func emptyDatabase(t *testing.T) string {
	t.Helper()
	return pgtest.Empty(t).URL
}

// installed returns a connection to a database of the test's own, which is migrated.
func installed(t *testing.T) *pgx.Conn {
	t.Helper()
	return connect(t, pgtest.New(t).URL)
}

// needSuperuser skips a test that changes more than its own database.
func needSuperuser(t *testing.T, conn *pgx.Conn) {
	t.Helper()
	needs.That(t, get[string](t, conn, "select current_setting('is_superuser')") == "on", "superuser on the test's server")
}

// statements records what a connection sends.
type statements struct {
	mu  sync.Mutex
	all []string
}

func (s *statements) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, data.SQL)
	return ctx
}

func (s *statements) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// take returns what was sent since the last call.
func (s *statements) take() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.all
	s.all = nil
	return all
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, _ := connectTraced(t, url)
	return conn
}

func connectTraced(t *testing.T, url string) (*pgx.Conn, *statements) {
	t.Helper()
	config, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	trace := &statements{}
	config.Tracer = trace
	conn, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn, trace
}

// execer is a connection or a transaction.
type execer interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// run executes SQL written for the schema graphile_worker.
func run(t *testing.T, db execer, sql string, args ...any) {
	t.Helper()
	if _, err := db.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// get returns the only value of the only row.
func get[T any](t *testing.T, db execer, sql string, args ...any) T {
	t.Helper()
	rows, err := db.Query(t.Context(), sql, args...)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	value, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[T])
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return value
}

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
	l.warnings = append(l.warnings, record.Message)
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
func quiet() pgstore.MigrateOptions {
	return pgstore.MigrateOptions{Logger: slog.New(&logger{})}
}

func migrate(t *testing.T, conn *pgx.Conn, opts pgstore.MigrateOptions) {
	t.Helper()
	if opts.Logger == nil {
		opts.Logger = slog.New(&logger{})
	}
	if err := pgstore.Migrate(t.Context(), conn, opts); err != nil {
		t.Fatal(err)
	}
}

// installWire makes the schema as Graphile Worker leaves it at a revision: without anything of
// ours, and long ago.
func installWire(t *testing.T, conn *pgx.Conn, revision int) {
	t.Helper()
	for _, file := range migrations.Wire() {
		if file.ID <= revision {
			run(t, conn, file.SQL)
		}
	}
	run(t, conn, "update graphile_worker.migrations set ts = now() - interval '1 day'")
}

// listener hears notifications.
type listener struct {
	conn *pgx.Conn
}

func listen(t *testing.T, url string) *listener {
	t.Helper()
	l := &listener{conn: connect(t, url)}
	run(t, l.conn, `listen "jobs:insert"; listen "worker:migrate"; listen "test:end"`)
	return l
}

// take returns what was notified by transactions that have committed, as "channel payload".
func (l *listener) take(t *testing.T) []string {
	t.Helper()
	run(t, l.conn, `notify "test:end"`)
	var all []string
	for {
		n, err := l.conn.WaitForNotification(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if n.Channel == "test:end" {
			return all
		}
		all = append(all, n.Channel+" "+n.Payload)
	}
}

// waitBlocked returns when a session waits for another one.
func waitBlocked(t *testing.T, observer *pgx.Conn, pid uint32) {
	t.Helper()
	until(t, func() bool {
		return get[bool](t, observer, "select cardinality(pg_blocking_pids($1::int)) > 0", int(pid))
	})
}

// until looks again and again until the condition holds.
func until(t *testing.T, condition func() bool) {
	t.Helper()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(30 * time.Second)
	for !condition() {
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatal("did not happen within 30 s")
		}
	}
}

// someoneWaits reports whether a statement in the test's own database waits for a lock of these kinds. pg_locks cannot tell: it has
// the locks of all databases, those of the tests beside this one among them.
func someoneWaits(t *testing.T, db execer, kinds ...string) bool {
	t.Helper()
	return get[bool](t, db, `select exists (select from pg_stat_activity
		where datname = current_database() and wait_event_type = 'Lock' and wait_event = any($1))`, kinds)
}

// mentions fails the test unless the error says all of this.
func mentions(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error; want one that says %q", parts)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error does not say %q: %v", part, err)
		}
	}
}

// newRole makes a role without rights and returns its name, quoted: it has to be.
func newRole(t *testing.T, admin *pgx.Conn) string {
	t.Helper()
	needSuperuser(t, admin)
	name := migrations.QuoteIdentifier(get[string](t, admin, "select 'rôle \"x\" ' || current_database() || ' ' || left(md5(random()::text), 8)"))
	run(t, admin, "create role "+name)
	t.Cleanup(func() {
		ctx := context.Background()
		for _, sql := range []string{"reset role", "drop owned by " + name + " cascade", "drop role " + name} {
			if _, err := admin.Exec(ctx, sql); err != nil {
				t.Error(err)
			}
		}
	})
	return name
}
