package pg_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/worker"
	"github.com/backfillhq/go/testutil/pgtest"
)

// setAll changes the defaults of a database's later sessions. What the server does not know yet is
// left out.
func setAll(t *testing.T, pool *pgxpool.Pool, settings map[string]string) {
	t.Helper()
	for name, value := range settings {
		if dbtest.Get[bool](t, pool, "select current_setting($1, true) is not null", name) {
			dbtest.Run(t, pool, fmt.Sprintf("alter database %s set %s = %s",
				dbtest.Get[string](t, pool, "select quote_ident(current_database())"), name, value))
		}
	}
}

// R26: whatever a database says, a worker's sessions have the settings that its statements are made
// for. The session for notifications has none of its own: behind a pooler it is somebody else's.
func TestSessionsWhateverTheDatabaseSays(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	want := map[string]string{
		"client_encoding": "UTF8", "DateStyle": "ISO, DMY", "bytea_output": "hex", "standard_conforming_strings": "on", "array_nulls": "on",
		"transform_null_equals": "off", "row_security": "on", "search_path": "pg_catalog, pg_temp",
		"default_transaction_isolation": "read committed", "default_transaction_deferrable": "off",
		"statement_timeout": "10s", "lock_timeout": "0", "idle_in_transaction_session_timeout": "10s", "idle_session_timeout": "0", "transaction_timeout": "0",
		"jit": "off", "plan_cache_mode": "force_generic_plan", "enable_seqscan": "off", "enable_bitmapscan": "off", "enable_indexscan": "on",
		"enable_indexonlyscan": "on", "enable_nestloop": "on", "from_collapse_limit": "8", "join_collapse_limit": "8",
	}
	odd := map[string]string{
		"client_encoding": "LATIN1", "DateStyle": "German", "bytea_output": "escape", "standard_conforming_strings": "off", "array_nulls": "off",
		"transform_null_equals": "on", "row_security": "off", "search_path": "evil, pg_catalog", "synchronous_commit": "on",
		"default_transaction_isolation": "serializable", "default_transaction_deferrable": "on",
		"statement_timeout": "7000", "lock_timeout": "1000", "idle_in_transaction_session_timeout": "7000", "idle_session_timeout": "60000", "transaction_timeout": "60000",
		"jit": "on", "plan_cache_mode": "force_custom_plan", "enable_seqscan": "on", "enable_bitmapscan": "on", "enable_indexscan": "off",
		"enable_indexonlyscan": "off", "enable_nestloop": "off", "from_collapse_limit": "1", "join_collapse_limit": "1",
	}
	dbtest.Run(t, db.Pool(), `create schema evil;
		create function evil.now() returns timestamptz language sql as $$ select '1970-01-01'::timestamptz $$;
		create function evil.pg_backend_pid() returns int language sql as $$ select 0 $$;
		create function evil.set_config(text, text, boolean) returns text language sql as $$ select (1 / 0)::text $$;
		create function evil.pg_notify(text, text) returns void language sql as $$ select 1 / 0 $$;
		create function evil.unnest(anyarray) returns setof anyelement language sql as $$ select $1[1] limit 0 $$`)
	setAll(t, db.Pool(), odd)
	check := func(session string, want map[string]string, setting func(context.Context, string) (string, error)) {
		t.Helper()
		for name, want := range want {
			got, err := setting(t.Context(), name)
			if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok && pgErr.Code == "42704" {
				continue // an older server
			}
			if got != want || err != nil {
				t.Errorf("%s: %s is %q, want %q (%v)", session, name, got, want, err)
			}
		}
	}
	r := rigOn(t, db.Pool(), schemaName)
	check("the worker's sessions", want, r.store.Setting)
	r.add("'a'")
	endings["complete"](r, r.claimOne())
	through := dbtest.Pooler(t, db.URL, "transaction", 2)
	pooled := rigWith(t, db.Pool(), pg.SettingsOf(newPool(t, through, nil), schemaName))
	check("transactions behind a pooler", want, pooled.store.Setting)
	pooled.add("'a'")
	endings["complete"](pooled, pooled.claimOne())
	heard := listen(t, r.store)
	nudges := pg.NewNudges(pg.SettingsOf(db.Pool(), schemaName))
	t.Cleanup(func() { nudges.Close(context.Background()) })
	if err := nudges.Send(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if n := <-heard; n.Kind != worker.NotifyJobs {
		t.Errorf("heard %+v", n)
	}
	check("the session for notifications", map[string]string{
		"search_path": "evil, pg_catalog", "statement_timeout": "7s", "synchronous_commit": "on", "enable_indexscan": "off", "lock_timeout": "1s",
	}, nudges.Setting)
}

// A server that takes no writes is refused, and used again as soon as it takes them.
func TestReadOnlyServer(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	setAll(t, db.Pool(), map[string]string{"default_transaction_read_only": "on"})
	store, err := pg.Open(t.Context(), pg.SettingsOf(db.Pool(), schemaName))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	dbtest.Mentions(t, store.Register(t.Context(), worker.Registration{ID: "pool-1", Tasks: []string{"a"}}), "takes no writes", "connect to the primary")
	dbtest.Mentions(t, store.Listen(t.Context(), func() { t.Error("it listens") }, nil),
		"connect listener: ", "takes no writes", "default_transaction_read_only")
	application := newPool(t, db.URL, func(c *pgxpool.Config) {
		c.ConnConfig.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsPrimary // as target_session_attrs=primary
	})
	primary, err := pg.Open(t.Context(), pg.SettingsOf(application, schemaName))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(primary.Close)
	dbtest.Mentions(t, primary.Register(t.Context(), worker.Registration{ID: "pool-1", Tasks: []string{"a"}}), "takes no writes")
	setAll(t, db.Pool(), map[string]string{"default_transaction_read_only": "off"})
	if err := store.Register(t.Context(), worker.Registration{ID: "pool-1", Tasks: []string{"a"}}); err != nil {
		t.Error(err)
	}
	listen(t, store)
}

// ownConnections returns a store on connections that the test can reach: it changes them while they
// are idle, as a server does that becomes a standby.
func ownConnections(t *testing.T, pool *pgxpool.Pool) (r *rig, each func(sql string)) {
	t.Helper()
	var mu sync.Mutex
	var conns []*pgx.Conn
	config := pool.Config()
	config.AfterConnect = func(_ context.Context, conn *pgx.Conn) error {
		mu.Lock()
		defer mu.Unlock()
		conns = append(conns, conn)
		return nil
	}
	application, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(application.Close)
	return rigWith(t, pool, pg.SettingsOf(application, schemaName)), func(sql string) {
		mu.Lock()
		defer mu.Unlock()
		for _, conn := range conns {
			if _, err := conn.PgConn().Exec(t.Context(), sql).ReadAll(); err != nil {
				t.Fatal(err)
			}
		}
		conns = nil
	}
}

// A connection that is alive and of no use fails one statement, and is replaced.
func TestUselessConnectionsAreReplaced(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ sql, state string }{
		"read-only":                       {"set default_transaction_read_only = on", "25006"},
		"without its prepared statements": {"deallocate all", "26000"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, each := ownConnections(t, pgtest.New(t).Pool())
			claim := func() error {
				r.claims++
				_, err := r.store.Claim(t.Context(), worker.ClaimRequest{WorkerID: r.id, Number: r.claims, Batch: 1})
				return err
			}
			for range 2 { // the first claim looks for queues; those after it have another text
				if err := claim(); err != nil {
					t.Fatal(err)
				}
			}
			each(test.sql)
			err := claim()
			if pgErr, ok := errors.AsType[*pgconn.PgError](err); !ok || pgErr.Code != test.state {
				t.Fatalf("got error %v, want SQLSTATE %s", err, test.state)
			}
			if err := claim(); err != nil {
				t.Errorf("on the next connection: %v", err)
			}
		})
	}
}

// The listener does not prove itself on a server that takes no writes.
func TestPingOfAReadOnlyServer(t *testing.T) {
	t.Parallel()
	r, each := ownConnections(t, pgtest.New(t).Pool())
	if err := r.store.Ping(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
	each("set default_transaction_read_only = on")
	dbtest.Mentions(t, r.store.Ping(t.Context(), "x"), "takes no writes")
}

// Sessions of our own are made as the application's pool makes its own, and leave its handlers,
// tracer and other hooks alone.
func TestSessionsOfAnApplicationsPool(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	role := dbtest.NewRole(t, dbtest.Connect(t, db.URL))
	dbtest.Run(t, db.Pool(), fmt.Sprintf("grant usage on schema graphile_worker to %[1]s; grant all on all tables in schema graphile_worker to %[1]s", role))
	var before, after atomic.Int64
	stray := func(what string) { t.Errorf("%s of the application's pool was called", what) }
	trace := &dbtest.Statements{}
	pool := newPool(t, db.URL, func(c *pgxpool.Config) {
		c.ConnConfig.OnNotification = func(*pgconn.PgConn, *pgconn.Notification) { stray("OnNotification") }
		c.ConnConfig.OnNotice = func(*pgconn.PgConn, *pgconn.Notice) { stray("OnNotice") }
		c.ConnConfig.OnPgError = func(*pgconn.PgConn, *pgconn.PgError) bool { stray("OnPgError"); return true }
		c.ConnConfig.Tracer = trace
		c.BeforeConnect = func(_ context.Context, c *pgx.ConnConfig) error {
			before.Add(1)
			c.Tracer = trace
			return nil
		}
		c.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
			after.Add(1)
			_, err := conn.Exec(ctx, "set role "+role)
			return err
		}
		c.PrepareConn = func(context.Context, *pgx.Conn) (bool, error) { stray("PrepareConn"); return true, nil }
		//nolint:staticcheck // deprecated, and in use
		c.BeforeAcquire = func(context.Context, *pgx.Conn) bool { stray("BeforeAcquire"); return true }
		c.AfterRelease = func(*pgx.Conn) bool { stray("AfterRelease"); return true }
		c.BeforeClose = func(*pgx.Conn) { stray("BeforeClose") }
		c.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { stray("ShouldPing"); return false }
		c.MaxConns = 50
	})
	store, err := pg.Open(t.Context(), pg.SettingsOf(pool, schemaName))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	if got, err := store.Setting(t.Context(), "role"); (pgx.Identifier{got}).Sanitize() != role || err != nil {
		t.Errorf("the worker's role is %q (%v), want %s", got, err, role)
	}
	heard := listen(t, store)
	if err := store.Ping(t.Context(), "heard"); err != nil {
		t.Fatal(err)
	}
	if n := <-heard; n.Payload != "heard" {
		t.Errorf("heard %+v", n)
	}
	nudges := pg.NewNudges(pg.SettingsOf(pool, schemaName))
	t.Cleanup(func() { nudges.Close(context.Background()) })
	if err := nudges.Send(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if n := before.Load(); n != 3 || n != after.Load() { // worker, listener, notifications
		t.Errorf("BeforeConnect was called %d times, AfterConnect %d times, want 3", n, after.Load())
	}
	if _, err := store.Setting(t.Context(), "no.such"); err == nil { // which OnPgError would see
		t.Error("there is a setting no.such")
	}
	if seen := trace.Take(); len(seen) > 0 {
		t.Errorf("the application's tracer saw %q", seen)
	}
}

// What the application's connections listen to is kept by none of our own: nobody would read it.
func TestSessionsKeepNoNotifications(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	var mu sync.Mutex
	var conns []*pgx.Conn
	pool := newPool(t, db.URL, func(c *pgxpool.Config) {
		c.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
			mu.Lock()
			defer mu.Unlock()
			conns = append(conns, conn)
			_, err := conn.Exec(ctx, "listen application")
			return err
		}
	})
	r := rigOn(t, pool, schemaName)
	nudges := pg.NewNudges(pg.SettingsOf(pool, schemaName))
	t.Cleanup(func() { nudges.Close(context.Background()) })
	for range 2 { // the second time, what came is read
		if err := nudges.Send(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		if _, err := r.store.Setting(t.Context(), "role"); err != nil {
			t.Fatal(err)
		}
		dbtest.Run(t, db.Pool(), "notify application")
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	mu.Lock()
	defer mu.Unlock()
	if len(conns) != 2 {
		t.Fatalf("%d connections, want the worker's and the one for notifications", len(conns))
	}
	for i, conn := range conns {
		if n, err := conn.WaitForNotification(ended); err == nil {
			t.Errorf("connection %d has kept %+v", i, n)
		}
	}
}

// A password that a pool has read from a file is not read again: a refusal says so.
func TestHintForFilesReadOnce(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	pool := newPool(t, db.URL, func(c *pgxpool.Config) {
		c.BeforeConnect = func(_ context.Context, c *pgx.ConnConfig) error { c.Password = "expired"; return nil }
	})
	if pool.Ping(t.Context()) == nil {
		t.Skip("the test server takes any password")
	}
	nudges := pg.NewNudges(pg.SettingsOf(pool, schemaName))
	dbtest.Mentions(t, nudges.Send(t.Context(), 1), "28P01", "check user and password", "restart the process if they have changed")
}

// A listener at the end of its life is replaced by one that listens before it stops.
func TestListenerLivesAsLongAsThePoolSays(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	var listeners atomic.Int64
	pool := newPool(t, db.URL, func(c *pgxpool.Config) {
		c.MaxConnLifetime = 50 * time.Millisecond
		c.AfterConnect = func(context.Context, *pgx.Conn) error { listeners.Add(1); return nil }
	})
	store, err := pg.Open(t.Context(), pg.SettingsOf(pool, schemaName))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	heard := listen(t, store)
	for i := 0; listeners.Load() < 5; i++ {
		payload := fmt.Sprint(i)
		dbtest.Run(t, db.Pool(), "select pg_notify('backfill:ping', $1)", payload)
		for n := range heard { // some twice, none never
			if n.Payload == payload {
				break
			}
		}
	}
}

// What the environment says is not of a pool that has its configuration.
func TestSessionsIgnoreTheEnvironment(t *testing.T) {
	db := pgtest.New(t)
	pool := newPool(t, db.URL, nil)
	t.Setenv("PGSERVICE", "nosuch")
	t.Setenv("PGSSLMODE", "nosuch")
	t.Setenv("PGPORT", "1")
	rigOn(t, pool, schemaName)
}

// A difference of clocks is logged once, again when it has changed, and when it is gone; one that
// a slow answer may explain is not.
func TestClock(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	clock := pg.NewClock(slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.LevelKey || a.Key == "server_ahead_by" {
				return a
			}
			return slog.Attr{}
		},
	})))
	sent := time.Now()
	for _, step := range []struct{ took, ahead time.Duration }{
		{2 * time.Millisecond, 0},
		{0, 4900 * time.Millisecond},
		{4 * time.Second, 6 * time.Second},
		{time.Second, -90 * time.Second},
		{time.Second, -91 * time.Second},
		{0, -80 * time.Second},
		{0, time.Second},
		{0, time.Second},
		{0, 10 * time.Minute},
	} {
		server := sent.Add(step.took/2 + step.ahead)
		if got := clock.Measure(sent, sent.Add(step.took), server); got != step.ahead {
			t.Errorf("measured %v, want %v", got, step.ahead)
		}
	}
	want := `level=WARN server_ahead_by=-1m30s
level=WARN server_ahead_by=-1m20s
level=INFO server_ahead_by=1s
level=WARN server_ahead_by=10m0s
`
	if diff := cmp.Diff(want, log.String()); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
}

// The server's time is the one that was measured best, and goes on with Go's clock. What no error
// of measurement explains counts at once: the server's clock was set, or this machine has slept.
func TestClockShowsTheServersTime(t *testing.T) {
	t.Parallel()
	clock := pg.NewClock(nil)
	if off := time.Until(clock.Now()).Abs(); off > time.Minute {
		t.Errorf("before the first measurement it is off by %v", off)
	}
	sent := time.Now()
	for _, step := range []struct{ took, ahead, want time.Duration }{
		{2 * time.Second, time.Hour, time.Hour},
		{time.Second, time.Hour + 700*time.Millisecond, time.Hour + 700*time.Millisecond}, // is more exact
		{2 * time.Second, time.Hour, time.Hour + 700*time.Millisecond},                    // is not
		{2 * time.Second, time.Minute, time.Minute},                                       // contradicts
		{time.Second, 62 * time.Second, 62 * time.Second},
		{time.Second, -time.Hour, -time.Hour},
	} {
		clock.Measure(sent, sent.Add(step.took), sent.Add(step.took/2+step.ahead))
		if got := clock.Now().Sub(sent) - time.Since(sent); (got - step.want).Abs() > 100*time.Millisecond {
			t.Errorf("after %+v it is ahead by %v", step, got)
		}
	}
	if now := clock.Now(); now.Location() != time.UTC || strings.Contains(now.String(), "m=") {
		t.Errorf("it shows %v, want UTC without Go's clock", now)
	}
}

// The clock of the server is measured when a worker connects, and by each heartbeat.
func TestClockSkew(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	settings := pg.SettingsOf(db.Pool(), schemaName)
	var log bytes.Buffer
	settings.Logger = slog.New(slog.NewTextHandler(&log, nil))
	r := rigWith(t, db.Pool(), settings)
	sent := time.Now()
	server := dbtest.Get[time.Time](t, db.Pool(), "select clock_timestamp()")
	allowed := time.Since(sent) + time.Second
	if got := r.store.ClockSkew(); (got - server.Sub(sent)).Abs() > allowed {
		t.Errorf("the server is %v ahead, want about %v", got, server.Sub(sent))
	}
	clock := r.store.Clock()
	if off := clock.Now().Sub(server) - time.Since(sent); off.Abs() > allowed {
		t.Errorf("the server's time is off by %v", off)
	}
	r.beat(1) // over a new connection
	r.store.ForgetClock()
	if answer := r.beat(2); answer.Server != dbtest.Get[time.Time](t, db.Pool(), "select pg_postmaster_start_time()").UnixMicro() {
		t.Errorf("the server that answers the heartbeat is said to be %d", answer.Server)
	}
	if got := r.store.ClockSkew(); (got - server.Sub(sent)).Abs() > allowed {
		t.Errorf("after a heartbeat the server is %v ahead, want about %v", got, server.Sub(sent))
	}
	if server.Sub(sent).Abs() < time.Second && log.Len() > 0 {
		t.Errorf("logged %s", log.String())
	}
}

// An answer that is none to what was asked ends the connection, and not the process.
func TestAnswersOutOfStep(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	for statements, columns := range map[string][]int{
		"select 1": {2}, "select 1, 2": {1}, "select 1; select 2": {1, 1, 1}, "select 1 where false": {1}, "": {1}, "set datestyle = 'ISO'": {1},
	} {
		conn := dbtest.Connect(t, db.URL)
		if rows, err := pg.LastRows(t.Context(), conn, statements, columns...); !errors.Is(err, pg.ErrOutOfStep) || !conn.IsClosed() {
			t.Errorf("%q: %v, %v, closed: %v", statements, rows, err, conn.IsClosed())
		}
	}
	rows, err := pg.LastRows(t.Context(), dbtest.Connect(t, db.URL), "select 0; select 1, 2; select 3", 2, 1)
	if err != nil || len(rows) != 2 || rows[0][1] != "2" || rows[1][0] != "3" {
		t.Errorf("%v, %v", rows, err)
	}
}
