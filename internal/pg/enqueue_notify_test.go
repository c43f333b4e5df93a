package pg_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/schema"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/testutil/pgtest"
)

// insertAndNotify inserts one job, and waits for the notification behind it.
func insertAndNotify(t *testing.T, pool *pgxpool.Pool, spec wire.Spec) (job *wire.Job, notified bool, err error) {
	t.Helper()
	return insertNotified(t.Context(), pg.NewInserter(pool, schemaName, schema.WritesTables), spec)
}

func insertNotified(ctx context.Context, inserter *pg.Inserter, spec wire.Spec) (job *wire.Job, notified bool, err error) {
	var sent []chan struct{}
	jobs, notified, err := inserter.InsertAll(ctx, []wire.Spec{spec}, func() func() {
		done := make(chan struct{})
		sent = append(sent, done)
		return func() { close(done) }
	})
	for _, done := range sent {
		<-done
	}
	if err != nil {
		return nil, notified, err
	}
	return jobs[0], notified, nil
}

// R17: the notification goes right behind the insert, in a transaction of its own; the row is
// add_job's.
func TestInsertAndNotify(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	l := dbtest.Listen(t, db.URL)
	theirs := pgtest.New(t).Pool()
	dbtest.Run(t, theirs, `select graphile_worker.add_job('a', '{"x":  1}', priority := -7, max_attempts := 3, flags := array['y', 'x'])`)
	spec := wire.Spec{Task: "a", Payload: []byte(`{"x":  1}`), Priority: -7, MaxAttempts: 3, Flags: []string{"y", "x"}}

	if _, notified, err := insertAndNotify(t, db.Pool(), spec); notified || err != nil {
		t.Fatalf("before the task has an id: notified %v, %v", notified, err)
	}
	if got := storedRows(t, db.Pool()); len(got) != 1 {
		t.Fatalf("rows: %v, want one", got)
	}
	dbtest.Run(t, db.Pool(), "delete from graphile_worker._private_jobs")
	l.Take(t) // it came before the job

	job, ok, err := insertAndNotify(t, db.Pool(), spec)
	if !ok || err != nil {
		t.Fatalf("ok %v, %v", ok, err)
	}
	if diff := cmp.Diff(storedRows(t, theirs), storedRows(t, db.Pool())); diff != "" {
		t.Errorf("rows (-add_job +ours):\n%s", diff)
	}
	wantReturned(t, db.Pool(), job, false, `{"x":  1}`)
	if got := l.Take(t); len(got) != 1 {
		t.Errorf("notifications %q, want one", got)
	}
	delayed := spec
	delayed.Delay = time.Hour
	if job, ok, err = insertAndNotify(t, db.Pool(), delayed); !ok || err != nil || job.RunAt.Sub(job.CreatedAt) != time.Hour {
		t.Errorf("delayed: %v, ok %v, %v", job, ok, err)
	}
}

// An insert that the server refuses says so, leaves nothing, and leaves the connection usable.
func TestInsertAndNotifyRefused(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, pgtest.WithPoolSize(1))
	dbtest.Run(t, db.Pool(), "insert into graphile_worker._private_tasks (identifier) values ('a')")
	_, _, err := insertAndNotify(t, db.Pool(), wire.Spec{Task: "a", Payload: []byte("{"), MaxAttempts: 25})
	if _, rejected := errors.AsType[*wire.RejectedError](err); !rejected {
		t.Errorf("not rejected: %v", err)
	}
	if _, ok, err := insertAndNotify(t, db.Pool(), wire.Spec{Task: "a", Payload: []byte("{}"), MaxAttempts: 25}); !ok || err != nil {
		t.Errorf("the next one: ok %v, %v", ok, err)
	}
	if got := storedRows(t, db.Pool()); len(got) != 1 {
		t.Errorf("rows: %v", got)
	}
}

// The caller's context ends while the insert waits: the error is that of the context, and the
// connection is given up.
func TestInsertAndNotifyCanceled(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	dbtest.Run(t, db.Pool(), "insert into graphile_worker._private_tasks (identifier) values ('a')")
	config, err := pgxpool.ParseConfig(db.URL)
	if err != nil {
		t.Fatal(err)
	}
	config.MaxConns = 1
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	spec := wire.Spec{Task: "a", Payload: []byte("{}"), MaxAttempts: 25}
	if _, ok, err := insertAndNotify(t, pool, spec); !ok || err != nil { // prepares the statements
		t.Fatalf("ok %v, %v", ok, err)
	}
	tx, err := db.Pool().Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dbtest.Run(t, tx, "lock table graphile_worker._private_jobs")
	ctx, cancel := context.WithCancel(t.Context())
	inserted := make(chan error)
	go func() {
		_, _, err := insertNotified(ctx, pg.NewInserter(pool, schemaName, schema.WritesTables), spec)
		inserted <- err
	}()
	dbtest.Until(t, func() bool { return dbtest.SomeoneWaits(t, db.Pool(), "relation") })
	cancel()
	err = <-inserted
	if _, unknown := errors.AsType[*wire.UnknownError](err); !unknown || !errors.Is(err, context.Canceled) {
		t.Errorf("insert: %v", err)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := insertAndNotify(t, pool, spec); !ok || err != nil {
		t.Errorf("the next one: ok %v, %v", ok, err)
	}
}

// Pools that must not prepare statements, or whose statements somebody traces, are left alone; and
// so is what one statement with text parameters does not do.
func TestInsertAndNotifyDeclines(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	dbtest.Run(t, db.Pool(), "insert into graphile_worker._private_tasks (identifier) values ('a')")
	spec := wire.Spec{Task: "a", Payload: []byte("{}"), MaxAttempts: 25}
	queued, keyed, dated := spec, spec, spec
	queued.Queue, keyed.Key, dated.RunAt = "q", "k", time.Now()
	for _, s := range []wire.Spec{queued, keyed, dated} {
		if _, ok, err := insertAndNotify(t, db.Pool(), s); ok || err != nil {
			t.Errorf("%+v: ok %v, %v", s, ok, err)
		}
	}
	for name, change := range map[string]func(*pgx.ConnConfig){
		"tracer":          func(c *pgx.ConnConfig) { c.Tracer = &claimTrace{} },
		"simple protocol": func(c *pgx.ConnConfig) { c.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol },
	} {
		config, err := pgxpool.ParseConfig(db.URL)
		if err != nil {
			t.Fatal(err)
		}
		change(config.ConnConfig)
		pool, err := pgxpool.NewWithConfig(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pool.Close)
		if _, ok, err := insertAndNotify(t, pool, spec); ok || err != nil {
			t.Errorf("%s: ok %v, %v", name, ok, err)
		}
	}
}
