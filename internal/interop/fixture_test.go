package interop_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/testutil/pgtest"
)

// A letter is the payload of the tests.
type letter struct {
	Text   string    `json:"text"`
	Number int64     `json:"number"`
	Lines  []string  `json:"lines"`
	Sender *struct{} `json:"sender"`
}

var (
	task = &backfill.Task[letter]{Name: "send_letter"}

	full = letter{
		Text:   "Grüße, 世界 🎉 \u2028 <b> & \"quoted\" \\ \t\n",
		Number: 1<<53 - 1, // the largest that JavaScript takes
		Lines:  []string{"", "é", "e\u0301"},
	}
	due = time.Date(2024, 2, 29, 23, 59, 59, 987_000_000, time.UTC) // JavaScript's clock has milliseconds
)

// inSchemas runs a test in the default schema, and in one whose name must be quoted. Each time the database is new, and its schema
// is what our client installed.
func inSchemas(t *testing.T, test func(*fixture)) {
	t.Helper()
	for _, schema := range []string{"graphile_worker", "Custom-Worker"} {
		t.Run(schema, func(t *testing.T) {
			t.Parallel()
			db := pgtest.Empty(t)
			logger := slog.New(slog.NewTextHandler(t.Output(), nil))
			client, err := backfill.Open(t.Context(), db.URL, backfill.WithSchema(schema), backfill.WithLogger(logger))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(client.Close)
			test(&fixture{T: t, db: db, schema: schema, client: client})
		})
	}
}

// A fixture is a test with its database and a client in Go.
type fixture struct {
	*testing.T

	db     *pgtest.Database
	schema string
	client *backfill.Client
	// without says that workers in Go make no dead letters: jobs that fail for good stay, as with Node.
	without bool
}

// inBothWays runs a test with dead letters, and without.
func inBothWays(t *testing.T, test func(*fixture)) {
	t.Helper()
	for name, without := range map[string]bool{"dead letters on": false, "dead letters off": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.without = without
			test(f)
		})
	}
}

// letters has a line for each dead letter: its task, queue, key, payload, attempts, reason and error.
func (f *fixture) letters() []string {
	f.Helper()
	return f.lines(`select concat_ws(' ', task_identifier, queue_name, job_key, payload::text, attempts || '/' || max_attempts, failure_reason, last_error)
		from graphile_worker.backfill_dlq order by id`)
}

func (f *fixture) wantLetters(want ...string) {
	f.Helper()
	if diff := cmp.Diff(want, f.letters(), cmpopts.EquateEmpty()); diff != "" {
		f.Errorf("dead letters (-want +got):\n%s", diff)
	}
}

func (f *fixture) enqueue(args letter, opts ...backfill.EnqueueOption) *backfill.Job {
	f.Helper()
	job, err := backfill.Enqueue(f.Context(), f.client, task, args, opts...)
	if err != nil {
		f.Fatal(err)
	}
	return job
}

// work runs a worker until the end of the test, and returns what it observes.
func (f *fixture) work() *record[backfill.Event] {
	f.Helper()
	events, stop := f.startWorker()
	f.Cleanup(func() {
		stop()
		if err := events.awaitEnd(f.T); err != nil {
			f.Errorf("run: %v", err)
		}
	})
	return events
}

// startWorker runs a worker until it is told to stop.
func (f *fixture) startWorker() (events *record[backfill.Event], stop func()) {
	f.Helper()
	events = newRecord[backfill.Event]()
	registry := backfill.NewRegistry(backfill.Handle(task, func(context.Context, letter) error { return nil }))
	worker, err := f.client.NewWorker(registry, backfill.WithObserver(events.add))
	if err != nil {
		f.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	f.Cleanup(cancel)
	go func() { events.end(worker.Run(ctx)) }()
	return events, cancel
}

// table names a table of the schema.
func (f *fixture) table(name string) string { return pgx.Identifier{f.schema, name}.Sanitize() }

// lines returns the rows of a query that has one column.
func (f *fixture) lines(sql string) []string {
	f.Helper()
	rows, err := f.db.Pool().Query(f.Context(), sql)
	if err != nil {
		f.Fatal(err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		f.Fatal(err)
	}
	return list
}

// awaitListener waits for a connection whose last statement was a LISTEN.
func (f *fixture) awaitListener() {
	f.Helper()
	ctx, cancel := context.WithTimeout(f.Context(), hang)
	defer cancel()
	for look := time.Tick(10 * time.Millisecond); ; {
		if len(f.lines("select query from pg_stat_activity where datname = current_database() and state = 'idle' and query like 'LISTEN%'")) > 0 {
			return
		}
		select {
		case <-look:
		case <-ctx.Done():
			f.Fatal("nobody listens")
		}
	}
}

// wantNothingLeft checks that no job and no lock is in the database.
func (f *fixture) wantNothingLeft() {
	f.Helper()
	left := f.lines(`select 'job ' || to_json(j) from ` + f.table("_private_jobs") + ` j
		union all select 'queue ' || to_json(q) from ` + f.table("_private_job_queues") + ` q where locked_at is not null or locked_by is not null`)
	if len(left) > 0 {
		f.Errorf("left: %s", left)
	}
}

// schemaState has a line for each row of the ledgers and for each object of the database that is not PostgreSQL's, with the
// transaction that wrote it last: whoever migrates changes it.
func (f *fixture) schemaState() []string {
	f.Helper()
	const objects = `
		with mine as (select oid, xmin from pg_namespace where nspname !~ '^pg_' and nspname <> 'information_schema'),
		objects (class, id, sub, xmin) as (
			select 'pg_namespace'::regclass, oid, 0, xmin from mine
			union all select 'pg_class'::regclass, c.oid, 0, c.xmin from pg_class c where relnamespace in (select oid from mine)
			union all select 'pg_class'::regclass, attrelid, attnum, a.xmin from pg_attribute a join pg_class c on c.oid = attrelid
				where relnamespace in (select oid from mine) and attnum > 0
			union all select 'pg_proc'::regclass, oid, 0, p.xmin from pg_proc p where pronamespace in (select oid from mine)
			union all select 'pg_type'::regclass, oid, 0, t.xmin from pg_type t where typnamespace in (select oid from mine)
			union all select 'pg_constraint'::regclass, oid, 0, n.xmin from pg_constraint n where connamespace in (select oid from mine)
		)
		select pg_describe_object(class, id, sub) || ' ' || xmin from objects order by 1`
	state := f.lines(objects)
	for _, ledger := range []string{"migrations", "backfill_migrations"} {
		state = append(state, f.lines("select l.xmin || ' ' || to_json(l) from "+f.table(ledger)+" l order by id")...)
	}
	return state
}

// ofKind matches an event of a worker in Go.
func ofKind(kind backfill.EventKind) func(backfill.Event) bool {
	return func(e backfill.Event) bool { return e.Kind == kind }
}
