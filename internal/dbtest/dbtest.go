// Package dbtest has what tests with a database share.
package dbtest

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/backfillhq/go/internal/needs"
	"github.com/backfillhq/go/migrations"
	"github.com/backfillhq/go/testutil/pgtest"
)

// EmptyURL returns the URL of a database of the test's own.
func EmptyURL(t *testing.T) string {
	t.Helper()
	return pgtest.Empty(t).URL
}

// Installed returns a connection to a database of the test's own, which is migrated.
func Installed(t *testing.T) *pgx.Conn {
	t.Helper()
	return Connect(t, pgtest.New(t).URL)
}

// NeedSuperuser skips a test that changes more than its own database.
func NeedSuperuser(t *testing.T, conn *pgx.Conn) {
	t.Helper()
	needs.That(t, Get[string](t, conn, "select current_setting('is_superuser')") == "on", "superuser on the test's server")
}

// Statements records what a connection sends.
type Statements struct {
	mu  sync.Mutex
	all []string
}

// TraceQueryStart implements pgx.QueryTracer.
func (s *Statements) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, data.SQL)
	return ctx
}

// TraceQueryEnd implements pgx.QueryTracer.
func (s *Statements) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// Take returns what was sent since the last call.
func (s *Statements) Take() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.all
	s.all = nil
	return all
}

// Connect returns a connection that is closed with the test.
func Connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, _ := ConnectTraced(t, url)
	return conn
}

// ConnectTraced does the same, and records what is sent.
func ConnectTraced(t *testing.T, url string) (*pgx.Conn, *Statements) {
	t.Helper()
	config, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	trace := &Statements{}
	config.Tracer = trace
	conn, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn, trace
}

// Execer is a connection or a transaction.
type Execer interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// Run executes SQL written for the schema graphile_worker.
func Run(t *testing.T, db Execer, sql string, args ...any) {
	t.Helper()
	if _, err := db.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// Get returns the only value of the only row.
func Get[T any](t *testing.T, db Execer, sql string, args ...any) T {
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

// Listener hears notifications.
type Listener struct {
	conn *pgx.Conn
}

// Listen returns a listener on the channels of the wire, from this moment on.
func Listen(t *testing.T, url string) *Listener {
	t.Helper()
	l := &Listener{conn: Connect(t, url)}
	Run(t, l.conn, `listen "jobs:insert"; listen "worker:migrate"; listen "test:end"`)
	return l
}

// Take returns what was notified by transactions that have committed, as "channel payload".
func (l *Listener) Take(t *testing.T) []string {
	t.Helper()
	Run(t, l.conn, `notify "test:end"`)
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

// WaitBlocked returns when a session waits for another one.
func WaitBlocked(t *testing.T, observer *pgx.Conn, pid uint32) {
	t.Helper()
	Until(t, func() bool {
		return Get[bool](t, observer, "select cardinality(pg_blocking_pids($1::int)) > 0", int(pid))
	})
}

// Until looks again and again until the condition holds.
func Until(t *testing.T, condition func() bool) {
	t.Helper()
	UntilWithin(t, 30*time.Second, condition)
}

// UntilWithin is Until with another deadline.
func UntilWithin(t *testing.T, limit time.Duration, condition func() bool) {
	t.Helper()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(limit)
	for !condition() {
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatalf("did not happen within %s", limit)
		}
	}
}

// SomeoneWaits reports whether a statement in the test's own database waits for a lock of these
// kinds. pg_locks cannot tell: it has the locks of all databases, those of the tests beside this
// one among them.
func SomeoneWaits(t *testing.T, db Execer, kinds ...string) bool {
	t.Helper()
	return Get[bool](t, db, `select exists (select from pg_stat_activity
		where datname = current_database() and wait_event_type = 'Lock' and wait_event = any($1))`, kinds)
}

// Mentions fails the test unless the error says all of this.
func Mentions(t *testing.T, err error, parts ...string) {
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

// NewRole makes a role without rights and returns its name, quoted: it has to be.
func NewRole(t *testing.T, admin *pgx.Conn) string {
	t.Helper()
	NeedSuperuser(t, admin)
	name := migrations.QuoteIdentifier(Get[string](t, admin, "select 'rôle \"x\" ' || current_database() || ' ' || left(md5(random()::text), 8)"))
	Run(t, admin, "create role "+name)
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
