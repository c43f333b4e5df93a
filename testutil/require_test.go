package testutil_test

import (
	"context"
	"database/sql"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
	_ "github.com/lib/pq"              // the driver "postgres"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/testutil"
	"github.com/backfillhq/go/testutil/pgtest"
)

// crooked has what JSON does not bring back.
type crooked struct {
	At     time.Time
	Names  []string
	Number float64
	hidden int
}

var taskCrooked = &backfill.Task[crooked]{Name: "crooked"}

// places are where jobs can be enqueued, and looked for.
func places(t *testing.T) map[string]backfill.Enqueuer {
	t.Helper()
	return map[string]backfill.Enqueuer{
		"client": openClient(t), "recorder": testutil.NewRecorder(), "worker": testutil.Start(t, openClient(t), steps()),
		"pgx.Tx": inTx(t, "pgx.Tx"), "*sql.Tx of pgx": inTx(t, "pgx"), "*sql.Tx of pq": inTx(t, "postgres"),
	}
}

// inTx returns what enqueues in a transaction that is rolled back, on a database of its own.
func inTx(t *testing.T, kind string) backfill.Enqueuer {
	t.Helper()
	db := pgtest.New(t)
	client, err := backfill.NewClient(t.Context(), db.Pool())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	if kind == "pgx.Tx" {
		return client.WithTx(beginTx(t, db))
	}
	return client.WithSQLTx(beginSQL(t, db, kind))
}

func beginTx(t *testing.T, db *pgtest.Database) pgx.Tx {
	t.Helper()
	tx, err := db.Pool().Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
	return tx
}

// beginSQL begins a transaction over a driver.
func beginSQL(t *testing.T, db *pgtest.Database, driver string) *sql.Tx {
	t.Helper()
	sqlDB, err := sql.Open(driver, db.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sqlDB.Close() })
	tx, err := sqlDB.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tx.Rollback() })
	return tx
}

// What is enqueued is found by its args and options, wherever it was enqueued, and nothing else is.
func TestRequireEnqueued(t *testing.T) {
	t.Parallel()
	at := time.Now().Add(3 * time.Hour)
	for name, e := range places(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mustEnqueue(t, e, backfill.Request{Task: "other"}, TaskSendEmail.Request(SendEmailArgs{1, "a"}, backfill.Delay(time.Hour)))
			jobs := mustEnqueue(t, e,
				TaskSendEmail.Request(SendEmailArgs{2, "b"}, backfill.RunAt(at), backfill.Key("k"), backfill.Priority(3), backfill.MaxAttempts(4),
					backfill.Flags("y", "x")))
			mustEnqueue(t, e, TaskSendEmail.Request(SendEmailArgs{1, "a"}, backfill.Queue("")))
			keyed := TaskSendEmail.Request(SendEmailArgs{3, "c"}, backfill.Key("again"), backfill.Delay(time.Hour))
			mustEnqueue(t, e, keyed)
			mustEnqueue(t, e, TaskSendEmail.Request(SendEmailArgs{4, "c"}, backfill.Key("again"), backfill.Delay(2*time.Hour)))

			got := testutil.RequireEnqueued(t, e, TaskSendEmail, SendEmailArgs{2, "b"}, backfill.RunAt(at), backfill.Key("k"),
				backfill.Priority(3), backfill.MaxAttempts(4), backfill.Flags("x", "y", "x"), backfill.Queue("user:2"))
			if got.ID != jobs[0].ID || got.Args != (SendEmailArgs{2, "b"}) || got.Queue != "user:2" || string(got.Job.Args) != string(jobs[0].Args) {
				t.Errorf("got %+v, want %+v", got, jobs[0])
			}
			testutil.RequireEnqueued(t, e, TaskSendEmail, SendEmailArgs{1, "a"}, backfill.Delay(time.Hour))
			testutil.RequireEnqueued(t, e, TaskSendEmail, SendEmailArgs{1, "a"}, backfill.Queue(""))
			testutil.RequireEnqueued(t, e, TaskSendEmail, SendEmailArgs{4, "c"}, backfill.Delay(2*time.Hour))
			got = testutil.RequireEnqueuedFunc(t, e, TaskSendEmail, func(args SendEmailArgs) bool { return args.UserID == 2 }, backfill.Key("k"))
			if got.ID != jobs[0].ID {
				t.Errorf("the function has found job %d, want %d", got.ID, jobs[0].ID)
			}

			for _, opts := range [][]backfill.EnqueueOption{
				{backfill.Key("l")},
				{backfill.Key("")},
				{backfill.Priority(0)},
				{backfill.MaxAttempts(25)},
				{backfill.Flags()},
				{backfill.Queue("")},
				{backfill.RunAt(at.Add(time.Millisecond))},
				{backfill.Delay(0)},
				{backfill.RunAt(time.Time{})},
			} {
				tb := try(t, func(tb *trial) { testutil.RequireEnqueued(tb, e, TaskSendEmail, SendEmailArgs{2, "b"}, opts...) })
				mustContain(t, tb.failed(), `testutil: no such job of task "send_email" is enqueued. The closest is job `)
			}
			tb := try(t, func(tb *trial) {
				testutil.RequireEnqueued(tb, e, TaskSendEmail, SendEmailArgs{3, "c"}, backfill.Key("again"))
			})
			mustContain(t, tb.failed(), fmt.Sprintf("The closest is job %d", got.ID+2), `-`, `UserID:   3`, `+`, `UserID:   4`)
		})
	}
}

// A failure says what is enqueued, and how the closest job differs.
func TestRequireEnqueuedFails(t *testing.T) {
	t.Parallel()
	for name, e := range places(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			look := func(args SendEmailArgs, opts ...backfill.EnqueueOption) string {
				return try(t, func(tb *trial) { testutil.RequireEnqueued(tb, e, TaskSendEmail, args, opts...) }).failed()
			}
			mustContain(t, look(SendEmailArgs{}), `no such job of task "send_email" is enqueued: there are no jobs at all`)
			mustEnqueue(t, e, backfill.Request{Task: "other"}, backfill.Request{Task: "other"}, backfill.Request{Task: "another"})
			mustContain(t, look(SendEmailArgs{}), "there are none of this task, but\n  1 of task \"another\"\n  2 of task \"other\"")
			mustEnqueue(t, e, TaskSendEmail.Request(SendEmailArgs{7, "far"}), TaskSendEmail.Request(SendEmailArgs{8, "near"}, backfill.Key("k")),
				backfill.Request{Task: "send_email", Args: raw(`{"user_id":"seven"}`), Delay: time.Hour})
			mustContain(t, look(SendEmailArgs{9, "near"}, backfill.Queue("user:8")),
				"The closest is job 5 (-wanted, +enqueued):", "- \t\tUserID:   9,", "+ \t\tUserID:   8,", "  \t\"queue\": string(\"user:8\"),",
				"\nenqueued are:\n  job 4, due, queue \"user:7\": {\"user_id\":7,\"template\":\"far\"}\n  job 5, due, queue \"user:8\", key \"k\": {",
				"\n  job 6, waiting, due at ")
			mustContain(t, look(SendEmailArgs{9, "near"}, backfill.KeyMode("replace")), "the option replace: a key mode is not stored")
			tb := try(t, func(tb *trial) {
				testutil.RequireEnqueuedFunc(tb, e, TaskSendEmail, func(SendEmailArgs) bool { return false })
			})
			mustContain(t, tb.failed(), "job 4, due, queue \"user:7\": {\"user_id\":7,\"template\":\"far\"}: the function does not accept its args",
				"decode args of task send_email: $.user_id: cannot use string as int64")
		})
	}
}

// Args go over the wire: what JSON does not bring back, or refuses, fails here as it would outside.
func TestRequireEnqueuedDecodesTheStoredBytes(t *testing.T) {
	t.Parallel()
	for name, e := range places(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at := time.Now()
			mustEnqueue(t, e, taskCrooked.Request(crooked{At: at, hidden: 1}))
			fails := func(args crooked) string {
				return try(t, func(tb *trial) { testutil.RequireEnqueued(tb, e, taskCrooked, args) }).failed()
			}
			got := testutil.RequireEnqueued(t, e, taskCrooked, crooked{At: at, Names: []string{}})
			if got.Args.At == at { // the one of the handler has no monotonic reading, as outside
				t.Error("the args have never been JSON")
			}
			mustContain(t, fails(crooked{At: at, hidden: 1}), "hidden: 1", "hidden: 0")
			mustContain(t, fails(crooked{At: at.Add(1)}), "The closest is job 1")
			mustContain(t, fails(crooked{Number: math.NaN()}), "unsupported value: NaN")
		})
	}
}

// The worker of a test also knows the jobs that it has run, which are gone.
func TestRequireEnqueuedKnowsWhatHasRun(t *testing.T) {
	t.Parallel()
	client := openClient(t)
	registry := backfill.NewRegistry(
		backfill.Handle(taskStep, func(ctx context.Context, do string) error {
			_, err := backfill.FromContext(ctx).Enqueue(ctx, TaskSendEmail.Request(SendEmailArgs{1, do}))
			return err
		}),
		backfill.Handle(TaskSendEmail, func(context.Context, SendEmailArgs) error { return nil }),
	)
	w := testutil.Start(t, client, registry)
	testutil.WaitFor(t, w, enqueueStep(t, client, "a"), testutil.Succeeded)
	follow := testutil.RequireEnqueued(t, w, TaskSendEmail, SendEmailArgs{1, "a"}, backfill.Queue("user:1"), backfill.Delay(0))
	testutil.WaitFor(t, w, &follow.Job, testutil.Succeeded)
	again := testutil.RequireEnqueued(t, w, TaskSendEmail, SendEmailArgs{1, "a"})
	if again.ID != follow.ID {
		t.Errorf("job %d, then %d", follow.ID, again.ID)
	}
	tb := try(t, func(tb *trial) { testutil.RequireEnqueued(tb, client, TaskSendEmail, SendEmailArgs{1, "a"}) })
	mustContain(t, tb.failed(), "Those that have succeeded are gone: to see them too, pass the Worker of Start")
	tb = try(t, func(tb *trial) { testutil.RequireEnqueued(tb, w, TaskSendEmail, SendEmailArgs{2, "a"}) })
	mustContain(t, tb.failed(), "run by the worker, queue \"user:1\": {\"user_id\":1,\"template\":\"a\"}")
}
