package pg_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/sqlstate"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
	"github.com/backfillhq/go/testutil/pgtest"
)

// sharedSessions are the sessions that a pooler shares, by their process ids, with everything in
// them that outlives a transaction: parameters, channels, prepared statements and locks. It asks in
// several transactions at a time, so that each gets another session.
func sharedSessions(t *testing.T, through string, sessions int) map[int][]string {
	t.Helper()
	pool := newPool(t, withParameter(t, through, "default_query_exec_mode", "exec"), nil)
	found := make(map[int][]string, sessions)
	for range sessions {
		tx, err := pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = tx.Rollback(context.Background()) }()
		found[dbtest.Get[int](t, tx, "select pg_backend_pid()")] = dbtest.Get[[]string](t, tx, `
			select coalesce(array_agg(what order by what), '{}') from (
			select name || ' = ' || setting from pg_settings where name !~ '^plpgsql' -- the first function adds those
			union all select 'channel ' || c from pg_listening_channels() as c
			union all select 'statement ' || name from pg_prepared_statements
			union all select 'lock ' || objid from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()
			union all select 'table ' || relname from pg_class where relpersistence = 't'
			) as of_session (what)`)
	}
	return found
}

// wantUnchanged compares the sessions that a pooler shares with what they were.
func wantUnchanged(t *testing.T, through string, before map[int][]string) {
	t.Helper()
	if diff := cmp.Diff(before, sharedSessions(t, through, len(before))); diff != "" {
		t.Errorf("sessions of others were changed, or replaced (-before +after):\n%s", diff)
	}
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

// Behind a transaction pooler everything that a worker does changes no session, and ends none, also
// when a statement fails. The modes in which the pool sends statements are the application's.
func TestSharedSessionsAreLeftAlone(t *testing.T) {
	t.Parallel()
	for _, exec := range []string{"cache_statement", "cache_describe", "describe_exec", "exec", "simple_protocol"} {
		t.Run(exec, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			through := dbtest.Pooler(t, db.URL, "transaction", 4, "server_round_robin = 1")
			before := sharedSessions(t, through, 4)
			settings := pg.SettingsOf(newPool(t, withParameter(t, through, "default_query_exec_mode", exec), nil), schemaName)
			r := rigWith(t, db.Pool(), settings)
			if got := r.store.Sessions(); !got.Pooled || got.Listens {
				t.Fatalf("the sessions are taken for %+v", got)
			}
			everything(t, r)
			wantUnchanged(t, through, before)
		})
	}
}

// everything does all that a worker does, and more often than there are sessions.
func everything(t *testing.T, r *rig) {
	t.Helper()
	ctx := t.Context()
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	for i := range 5 {
		for name, end := range endings {
			dbtest.Run(t, r.pool, "delete from graphile_worker._private_jobs") // not all are done
			r.add("'a', queue_name := $1", name)
			end(r, r.claimOne())
		}
		_, err := r.store.Beat(ctx, worker.Beat{WorkerID: r.id, Write: true, Number: int64(i + 1)})
		must("beat", err)
		_, err = r.store.Sweep(ctx, r.id, true)
		must("sweep", err)
		_, err = r.store.Survey(ctx)
		must("survey", err)
		_, err = r.store.Reclaim(ctx, r.id, nil)
		must("reclaim", err)
		_, err = r.store.Rescue(ctx, worker.RescueRequest{IDs: []string{wire.NewWorkerID()}})
		must("rescue", err)
		must("ping", r.store.Ping(ctx, "x"))
		must("look at the schema", r.store.CheckSchema(ctx))
		identifier := fmt.Sprintf("hourly %d", i)
		_, err = r.store.KnownCrontabs(ctx, []string{identifier}, time.Now().Add(-time.Hour))
		must("read crontabs", err)
		_, err = r.store.Tick(ctx, time.Now(), []string{identifier}, []wire.Spec{{Task: "a", Payload: []byte("{}"), MaxAttempts: 25, RunAt: time.Now()}})
		must("tick", err)
	}
	dbtest.Run(t, r.pool, "delete from graphile_worker._private_jobs")
	r.add("'a'")
	dbtest.Run(t, r.pool, `create function refuse() returns trigger language plpgsql as $$
		begin raise exception 'refused' using errcode = 'check_violation'; end $$;
		create constraint trigger refuse after delete on graphile_worker._private_jobs
		deferrable initially deferred for each row execute function refuse()`)
	job := r.claimOne()
	for range 5 {
		_, err := r.store.Complete(ctx, []wire.Lease{job.Lease})
		rejected, ok := errors.AsType[*wire.RejectedError](err)
		if !ok || !rejected.Row {
			t.Fatalf("a statement whose COMMIT is refused returns %v", err)
		}
		if _, err := r.store.Setting(ctx, "no.such"); sqlstate.Of(err) != "42704" {
			t.Fatalf("a statement that fails returns %v", err)
		}
	}
	dbtest.Run(t, r.pool, "drop trigger refuse on graphile_worker._private_jobs")
	endings["complete"](r, job)
	must("retire", r.store.Retire(ctx, r.id, true))
}

// Behind a transaction pooler, too, a statement whose COMMIT was sent and not answered may have
// been applied. One that the server has refused is not.
func TestUnansweredCommitThroughAPooler(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	through := dbtest.Pooler(t, db.URL, "transaction", 2)
	r := rigWith(t, db.Pool(), pg.SettingsOf(newPool(t, through, nil), schemaName))
	r.add("'a'")
	job := r.claimOne()
	dbtest.Run(t, db.Pool(), `create function slow() returns trigger language plpgsql as $$ begin perform pg_sleep(20); return null; end $$;
		create constraint trigger slow after delete on graphile_worker._private_jobs
		deferrable initially deferred for each row execute function slow()`)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := r.store.Complete(ctx, []wire.Lease{job.Lease})
	if _, rejected := errors.AsType[*wire.RejectedError](err); err == nil || rejected {
		t.Errorf("a commit without an answer is a refusal: %v", err)
	}
	dbtest.Run(t, db.Pool(), "create or replace function slow() returns trigger language plpgsql as $$ begin raise check_violation; end $$")
	dbtest.Until(t, func() bool { // the server may not have ended the first one yet
		_, err = r.store.Complete(r.quick(), []wire.Lease{job.Lease})
		return err != nil
	})
	if _, rejected := errors.AsType[*wire.RejectedError](err); !rejected {
		t.Errorf("a commit that was refused is none: %v", err)
	}
}

// A pooler that gives each statement another session has no transactions, so a worker refuses it.
func TestStatementPoolingIsRefused(t *testing.T) {
	t.Parallel()
	for _, exec := range []string{"cache_statement", "exec", "simple_protocol"} {
		through := dbtest.Pooler(t, pgtest.New(t).URL, "statement", 2)
		pool := newPool(t, withParameter(t, through, "default_query_exec_mode", exec), nil)
		store, err := pg.Open(t.Context(), pg.SettingsOf(pool, schemaName))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(store.Close)
		dbtest.Mentions(t, store.Register(t.Context(), worker.Registration{ID: wire.NewWorkerID(), Tasks: []string{"a"}}),
			"a pooler that allows no transactions", "pool_mode = transaction")
	}
}

// A pooler that hands out its sessions in turn is recognised as well, also if two connections that
// ask in turn get each its own.
func TestSharedSessionsInTurn(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	for _, sessions := range []int{1, 2, 3, 4, 5} {
		through := dbtest.Pooler(t, db.URL, "transaction", sessions, "server_round_robin = 1")
		before := sharedSessions(t, through, sessions) // and now the pooler has all its sessions
		r := rigWith(t, db.Pool(), pg.SettingsOf(newPool(t, through, nil), schemaName))
		if !r.store.Sessions().Pooled {
			t.Errorf("%d sessions in turn are taken for the worker's own", sessions)
		}
		wantUnchanged(t, through, before)
	}
}

// Where sessions are shared a worker listens around the pooler, or not at all.
func TestListeningAroundAPooler(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	through := dbtest.Pooler(t, db.URL, "transaction", 2)
	before := sharedSessions(t, through, 2)
	settings := pg.SettingsOf(newPool(t, through, nil), schemaName)
	deaf := rigWith(t, db.Pool(), settings)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	dbtest.Mentions(t, deaf.store.Listen(ctx, func() { t.Error("it listens"); cancel() }, nil),
		"connect listener: ", "shares each session", "pool_mode = session")
	if err := settings.ListenAt(db.URL); err != nil {
		t.Fatal(err)
	}
	r := rigWith(t, db.Pool(), settings)
	if got := r.store.Sessions(); !got.Pooled || !got.Listens {
		t.Errorf("the sessions are taken for %+v", got)
	}
	heard := listen(t, r.store)
	if err := r.store.Ping(t.Context(), "around"); err != nil {
		t.Fatal(err)
	}
	if n := <-heard; n != (worker.Notification{Kind: worker.NotifyPing, Payload: "around"}) {
		t.Errorf("heard %+v", n)
	}
	wantUnchanged(t, through, before)
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
			var before map[int][]string
			if mode == "transaction" {
				before = sharedSessions(t, through, sessions)
			}
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
			wantUnchanged(t, through, before)
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
