package pg_test

import (
	"reflect"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/worker"
	"github.com/backfillhq/go/testutil/pgtest"
)

// R6: a claim whose commit hangs, as it does without its synchronous standby, is not taken for one
// that has ended. What it has locked is released once it is committed.
func TestReclaimKnowsOfAClaimUnderWay(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	id := r.add("'a', queue_name := 'q'")
	dbtest.Run(t, r.pool, `create function hang() returns trigger language plpgsql as
		$$begin perform pg_advisory_xact_lock(4711); return null; end$$;
		create constraint trigger hang after update on graphile_worker._private_jobs
		deferrable initially deferred for each row execute function hang()`)
	holder, err := r.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dbtest.Run(t, holder, "select pg_advisory_xact_lock(4711)")
	answered := make(chan error, 1)
	go func() {
		_, err := r.store.Claim(t.Context(), worker.ClaimRequest{WorkerID: r.id, Number: 1, Batch: 20, Serial: 20})
		answered <- err
	}()
	dbtest.Until(t, func() bool { return dbtest.SomeoneWaits(t, r.pool, "advisory") })

	reclaim := func(want worker.Reclaimed) {
		t.Helper()
		if got, err := r.store.Reclaim(r.quick(), r.id, nil); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("reclaimed %+v, %v; want %+v", got, err, want)
		}
	}
	reclaim(worker.Reclaimed{})
	if err := holder.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-answered; err != nil {
		t.Fatal(err)
	}
	r.wantRow(id, &row{Attempts: 1, MaxAttempts: 25, Locked: true})
	dbtest.Run(t, r.pool, "drop trigger hang on graphile_worker._private_jobs")
	reclaim(worker.Reclaimed{Jobs: 1, Queues: 1, Settled: true})
	r.wantRow(id, &row{Attempts: 0, MaxAttempts: 25})
	if n := r.lockedQueues(); n != 0 {
		t.Errorf("%d queues stay locked", n)
	}
}

// A survey names the tasks that this worker does not serve.
func TestSurvey(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.add("'a', run_at := '-infinity'")
	r.add("'renamed', run_at := now() - interval '2 hours'")
	r.add("'renamed', run_at := '-infinity'")
	r.add("'foreign', run_at := now() + interval '1 hour'")
	found, err := r.store.Survey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := found.Unserved; len(got) != 1 || got[0].Task != "renamed" || got[0].Jobs != 2 {
		t.Errorf("unserved: %+v, want two jobs of the task renamed", got)
	}
}

// A survey tells whether anybody enqueues or claims, also if no tasks are waiting.
func TestSurveyCountsChanges(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	changes := func() int64 {
		t.Helper()
		found, err := r.store.Survey(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return found.Changes
	}
	settled := func(before int64) (now int64) {
		t.Helper()
		dbtest.Until(t, func() bool {
			dbtest.Run(t, r.pool, "select") // before PostgreSQL 15, a session that is idle tells the counters nothing
			now = changes()
			return now > before
		})
		return now
	}
	start := changes()
	if start < 0 {
		t.Fatal("the server counts nothing")
	}
	r.add("'a'")
	enqueued := settled(start)
	claimed := r.claim(1)
	if len(claimed) != 1 {
		t.Fatalf("claimed %v", claimed)
	}
	settled(enqueued)
}

// Without the server's counters a survey does not know.
func TestSurveyWithoutCounters(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := dbtest.Connect(t, db.URL)
	dbtest.NeedSuperuser(t, conn)
	dbtest.Run(t, conn, "alter database "+dbtest.Get[string](t, conn, "select quote_ident(current_database())")+" set track_counts = off")
	r := rigOn(t, newPool(t, db.URL, nil), schemaName)
	found, err := r.store.Survey(t.Context())
	if err != nil || found.Changes != -1 {
		t.Errorf("surveyed %+v, %v", found, err)
	}
}

// A worker says where it works, also if it may go to one of several servers.
func TestPlaceOfAWorker(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]worker.Sessions{
		"postgres://ada@db.internal/app?sslmode=prefer": {Server: "db.internal:5432"},
		"postgres://ada@[::1]:5433/app":                 {Server: "[::1]:5433"},
		"postgres://ada@a:1,b:2/app?sslmode=prefer":     {Server: "a:1,b:2"},
	} {
		config, err := pg.ParseURL(url)
		if err != nil {
			t.Fatal(err)
		}
		pool, err := pgxpool.NewWithConfig(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pool.Close)
		store, err := pg.Open(t.Context(), pg.SettingsOf(pool, "jobs"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(store.Close)
		want.Database, want.Schema, want.Listens = "app", "jobs", true
		if got := store.Sessions(); got != want {
			t.Errorf("%s: %+v, want %+v", url, got, want)
		}
	}
}
