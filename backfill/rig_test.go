package backfill_test

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/testutil/pgtest"
)

// hang is how long a test waits for something that must happen. It only ends a test that has failed
// already.
const hang = time.Minute

// pooled says that the clients of newClient are to connect through a transaction pooler, and so do
// their workers, which listen around it. CI runs the tests in both ways.
var pooled = os.Getenv("BACKFILL_TEST_POOLER") != ""

// around is where workers of a client behind a pooler listen: *backfill.Client -> URL.
var around sync.Map

// newClient returns a client on the pool of a database.
func newClient(t *testing.T, db *pgtest.Database, opts ...backfill.ClientOption) *backfill.Client {
	t.Helper()
	pool := db.Pool()
	if pooled {
		pool = poolOf(t, dbtest.Pooler(t, db.URL, "transaction", 10), throughPooler)
	}
	client, err := backfill.NewClient(t.Context(), pool, append([]backfill.ClientOption{backfill.WithLogger(quiet)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	if pooled {
		around.Store(client, db.URL)
		t.Cleanup(func() { around.Delete(client) })
	}
	return client
}

// throughPooler is what a pool needs that leads through a transaction pooler.
func throughPooler(c *pgxpool.Config) { c.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec }

// poolOf returns a pool with settings of its own.
func poolOf(t *testing.T, url string, change func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	change(config)
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// connect returns a connection that is nobody else's.
func connect(t *testing.T, db *pgtest.Database) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), db.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

type querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// get returns a single value.
func get[T any](t *testing.T, db querier, sql string, args ...any) T {
	t.Helper()
	var value T
	if err := db.QueryRow(t.Context(), sql, args...).Scan(&value); err != nil {
		t.Fatalf("%v: %s", err, sql)
	}
	return value
}

// exec runs a statement, also one that returns rows.
func exec(t *testing.T, db querier, sql string, args ...any) {
	t.Helper()
	var ignored any
	if err := db.QueryRow(t.Context(), "with x as ("+sql+" returning 1) select count(*) from x", args...).Scan(&ignored); err != nil {
		t.Fatalf("%v: %s", err, sql)
	}
}

// jobRow is a job's row, with names instead of ids.
type jobRow struct {
	Task, Queue, Payload, Key, LastError, Flags string
	Priority, Attempts, MaxAttempts, Revision   int
	Locked                                      bool
}

// jobRows returns the rows of all jobs, by id.
func jobRows(t *testing.T, db *pgtest.Database) []jobRow {
	t.Helper()
	rows, err := db.Pool().Query(t.Context(), `select t.identifier, coalesce(q.queue_name, ''), j.payload::text, coalesce(j.key, ''),
		coalesce(j.last_error, ''), coalesce(j.flags::text, ''), j.priority, j.attempts, j.max_attempts, j.revision, j.locked_by is not null
		from graphile_worker._private_jobs j join graphile_worker._private_tasks t on t.id = j.task_id
		left join graphile_worker._private_job_queues q on q.id = j.job_queue_id order by j.id`)
	if err != nil {
		t.Fatal(err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[jobRow])
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// onlyRow returns the row of the only job.
func onlyRow(t *testing.T, db *pgtest.Database) jobRow {
	t.Helper()
	rows := jobRows(t, db)
	if len(rows) != 1 {
		t.Fatalf("%d jobs, want 1: %+v", len(rows), rows)
	}
	return rows[0]
}

func wantJobs(t *testing.T, db *pgtest.Database, want int) {
	t.Helper()
	if rows := jobRows(t, db); len(rows) != want {
		t.Errorf("%d jobs, want %d: %+v", len(rows), want, rows)
	}
}

// taskOf describes a task and binds it to a handler.
func taskOf[T any](name string, handler func(context.Context, T) error) (*backfill.Task[T], *backfill.Registry) {
	task := &backfill.Task[T]{Name: name}
	return task, backfill.NewRegistry(backfill.Handle(task, handler))
}

func enqueue[T any](t *testing.T, e backfill.Enqueuer, task *backfill.Task[T], args T, opts ...backfill.EnqueueOption) *backfill.Job {
	t.Helper()
	job, err := backfill.Enqueue(t.Context(), e, task, args, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return job
}

func runOnce(t *testing.T, client *backfill.Client, r *backfill.Registry, opts ...backfill.WorkerOption) *backfill.Report {
	t.Helper()
	worker := newWorker(t, client, r, opts...)
	ctx, cancel := context.WithTimeout(t.Context(), hang)
	defer cancel()
	report, err := worker.RunOnce(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// pollOnly keeps a worker of a client from listening, also around a pooler.
func pollOnly(client *backfill.Client) backfill.WorkerOption {
	around.Delete(client)
	return backfill.WithoutListen()
}

func newWorker(t *testing.T, client *backfill.Client, r *backfill.Registry, opts ...backfill.WorkerOption) *backfill.Worker {
	t.Helper()
	if url, ok := around.Load(client); ok {
		opts = append(opts, backfill.WithListenURL(url.(string))) //nolint:forcetypeassert // only URLs are stored
	}
	worker, err := client.NewWorker(r, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return worker
}

// running is a worker that runs, with the events that it had so far.
type running struct {
	*backfill.Worker

	t      *testing.T
	cancel context.CancelFunc
	ended  chan struct{}
	err    error // after ended

	mu      sync.Mutex
	events  []backfill.Event
	changed chan struct{} // closed at the next event
}

// start runs a worker until the end of the test, and waits until it listens.
func start(t *testing.T, client *backfill.Client, r *backfill.Registry, opts ...backfill.WorkerOption) *running {
	t.Helper()
	w := launch(t, client, r, opts...)
	w.await("listening", 1, is(backfill.EventListening))
	return w
}

// launch runs a worker until the end of the test.
func launch(t *testing.T, client *backfill.Client, r *backfill.Registry, opts ...backfill.WorkerOption) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithValue(context.Background(), runKey{}, "of Run"))
	w := &running{t: t, cancel: cancel, ended: make(chan struct{}), changed: make(chan struct{})}
	w.Worker = newWorker(t, client, r, append([]backfill.WorkerOption{backfill.WithObserver(w.observe)}, opts...)...)
	go func() {
		defer close(w.ended)
		w.err = w.Run(ctx)
	}()
	t.Cleanup(func() {
		if err := w.stop(); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	return w
}

// runKey marks a value in the ctx of Run.
type runKey struct{}

// stop ends Run's ctx and returns its error, once.
func (w *running) stop() error {
	w.t.Helper()
	w.cancel()
	err := w.wait()
	w.err = nil
	return err
}

// wait waits until Run returns.
func (w *running) wait() error {
	w.t.Helper()
	receive(w.t, "the end of Run", w.ended)
	return w.err
}

func (w *running) observe(e backfill.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, e)
	close(w.changed)
	w.changed = make(chan struct{})
}

// seen returns the events so far.
func (w *running) seen() (events []backfill.Event, changed <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clip(w.events), w.changed
}

// await waits for the nth event that matches, and returns it.
func (w *running) await(what string, n int, match func(backfill.Event) bool) backfill.Event {
	w.t.Helper()
	timeout := time.After(hang)
	for {
		events, changed := w.seen()
		found := 0
		for _, e := range events {
			if match(e) {
				if found++; found == n {
					return e
				}
			}
		}
		select {
		case <-changed:
		case <-timeout:
			w.t.Fatalf("%d of %d times %s; events: %s", found, n, what, kinds(events))
		}
	}
}

// awaitRecorded waits until n successes are in the database.
func (w *running) awaitRecorded(n int) {
	w.t.Helper()
	timeout := time.After(hang)
	for {
		events, changed := w.seen()
		total := 0
		for _, e := range events {
			if e.Kind == backfill.EventCompleted {
				total += e.Count
			}
		}
		if total >= n {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			w.t.Fatalf("%d of %d jobs were completed; events: %s", total, n, kinds(events))
		}
	}
}

func is(kind backfill.EventKind) func(backfill.Event) bool {
	return func(e backfill.Event) bool { return e.Kind == kind }
}

// of matches an event of one job.
func of(kind backfill.EventKind, id int64) func(backfill.Event) bool {
	return func(e backfill.Event) bool { return e.Kind == kind && e.Job != nil && e.Job.ID == id }
}

func count(events []backfill.Event, kind backfill.EventKind) int {
	n := 0
	for _, e := range events {
		if e.Kind == kind {
			n++
		}
	}
	return n
}

func kinds(events []backfill.Event) string {
	var names []string
	for _, e := range events {
		names = append(names, string(e.Kind))
	}
	return strings.Join(names, " ")
}

// receive takes a value that must come.
func receive[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case value := <-c:
		return value
	case <-time.After(hang):
		t.Fatalf("waited in vain for %s", what)
		panic("not reached")
	}
}

// until asks the database again and again.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(hang); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// logBook keeps what is logged, from debug upwards.
type logBook struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logBook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logBook) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func (l *logBook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *logBook) want(t *testing.T, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(l.String(), part) {
			t.Errorf("the log lacks %q:\n%s", part, l)
		}
	}
}

// wantSecret checks that a secret is in none of these texts.
func wantSecret(t *testing.T, secret string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if strings.Contains(text, secret) {
			t.Errorf("the secret %q is in %s", secret, text)
		}
	}
}

// logOfEvents keeps events.
type logOfEvents struct {
	mu   sync.Mutex
	list []backfill.Event
}

func (l *logOfEvents) observe(e backfill.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, e)
}

func (l *logOfEvents) count(kind backfill.EventKind) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return count(l.list, kind)
}
