package pg_test

import (
	"context"
	"net/url"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
	"github.com/backfillhq/go/testutil/pgtest"
)

// changed lists what is not as the server has it in the sessions that a pooler shares: parameters,
// channels, prepared statements and locks. It asks in several transactions at a time, so that each
// gets another session.
func changed(t *testing.T, through string, sessions int) (found []string) {
	t.Helper()
	pool := newPool(t, through, nil)
	for range sessions {
		tx, err := pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = tx.Rollback(context.Background()) }()
		found = append(found, dbtest.Get[[]string](t, tx, `select coalesce(array_agg(what), '{}') from (
			select name || ' = ' || setting from pg_settings
			 where source = 'session' and name not in ('application_name', 'client_encoding', 'DateStyle', 'TimeZone')
			union all select 'channel ' || c from pg_listening_channels() as c
			union all select 'statement ' || name from pg_prepared_statements
			union all select 'lock ' || objid from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()
			) as changes (what)`)...)
	}
	return found
}

// newPool returns a pool, as a client has it, whose configuration is changed first.
func newPool(t *testing.T, databaseURL string, change func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	config, err := pg.ParseURL(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(config)
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

func withParameter(t *testing.T, databaseURL, name, value string) string {
	t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	query := u.Query()
	query.Set(name, value)
	u.RawQuery = query.Encode()
	return u.String()
}

// A pooler that shares its sessions is recognised before anything is changed in one of them, also
// if nobody else uses it: then it gives each connection the session that was used last.
func TestSharedSessionsAreRefused(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"transaction", "statement"} {
		for _, exec := range []string{"cache_statement", "exec", "simple_protocol"} {
			t.Run(mode+"/"+exec, func(t *testing.T) {
				t.Parallel()
				const sessions = 2
				through := dbtest.Pooler(t, pgtest.New(t).URL, mode, sessions)
				pool := newPool(t, withParameter(t, through, "default_query_exec_mode", exec), nil)
				store, err := pg.Open(t.Context(), pg.SettingsOf(pool, schemaName))
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(store.Close)
				want := []string{"a pooler that shares each session", "pool_mode = session"}
				dbtest.Mentions(t, store.Register(t.Context(), worker.Registration{ID: wire.NewWorkerID(), Tasks: []string{"a"}}), want...)
				dbtest.Mentions(t, store.Listen(t.Context(), func() { t.Error("it listens") }, nil), want...)
				if mode == "statement" {
					return // it has no transactions, to look at all sessions
				}
				quiet := withParameter(t, through, "default_query_exec_mode", "exec")
				if found := changed(t, quiet, sessions); len(found) > 0 {
					t.Errorf("changed in sessions of others: %q", found)
				}
			})
		}
	}
}

// A pooler that hands out its sessions in turn is recognised as well, also if two connections that
// ask in turn get each its own.
func TestSharedSessionsInTurn(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	for _, sessions := range []int{1, 2, 3, 4, 5} {
		through := dbtest.Pooler(t, db.URL, "transaction", sessions, "server_round_robin = 1")
		store, err := pg.Open(t.Context(), pg.SettingsOf(newPool(t, through, nil), schemaName))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(store.Close)
		if found := changed(t, withParameter(t, through, "default_query_exec_mode", "exec"), sessions); len(found) > 0 {
			t.Fatalf("before anything: %q", found)
		} // and now the pooler has all its sessions
		dbtest.Mentions(t, store.Register(t.Context(), worker.Registration{ID: wire.NewWorkerID(), Tasks: []string{"a"}}), "a pooler that shares each session")
	}
}

// A pooler that gives each connection its session is as good as none.
func TestSessionPooler(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	pool := newPool(t, dbtest.Pooler(t, db.URL, "session", 20), nil)
	r := rigOn(t, pool, schemaName)
	r.add("'a'")
	endings["complete"](r, r.claimOne())
	heard := listen(t, r.store)
	if err := r.store.Ping(t.Context(), "through"); err != nil {
		t.Fatal(err)
	}
	if n := <-heard; n != (worker.Notification{Kind: worker.NotifyPing, Payload: "through"}) {
		t.Errorf("heard %+v", n)
	}
}

// Notifications work through sessions of others, in each mode of a pool, and leave nothing there.
func TestNudgesThroughAPooler(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"session", "transaction", "statement"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			const sessions = 2
			through := dbtest.Pooler(t, db.URL, mode, sessions)
			l := dbtest.Listen(t, db.URL)
			for _, exec := range []string{"cache_statement", "cache_describe", "describe_exec", "exec", "simple_protocol"} {
				pool := newPool(t, withParameter(t, through, "default_query_exec_mode", exec), nil)
				nudges := pg.NewNudges(pg.SettingsOf(pool, schemaName))
				for range 3 {
					if err := nudges.Send(t.Context(), 1); err != nil {
						t.Errorf("%s: %v", exec, err)
					}
				}
				nudges.Close(t.Context())
			}
			if got := l.Take(t); len(got) != 15 {
				t.Errorf("heard %d notifications, want 15", len(got))
			}
			if mode != "transaction" {
				return // a session that ends takes everything along; single statements have no transactions to look in
			}
			if found := changed(t, withParameter(t, through, "default_query_exec_mode", "exec"), sessions); len(found) > 0 {
				t.Errorf("changed in sessions of others: %q", found)
			}
		})
	}
}

// listen listens until the test ends, and returns what is heard.
func listen(t *testing.T, store *pg.Store) <-chan worker.Notification {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ready, heard, ended := make(chan struct{}), make(chan worker.Notification, 100), make(chan error, 1)
	go func() {
		ended <- store.Listen(ctx, func() { close(ready) }, func(n worker.Notification) { heard <- n })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err == nil {
			t.Error("Listen ended without an error")
		}
	})
	select {
	case <-ready:
	case err := <-ended:
		ended <- err
		t.Fatal(err)
	}
	return heard
}
