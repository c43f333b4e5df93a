package admin_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/backfill/admin"
	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/schema"
	"github.com/backfillhq/go/testutil/pgtest"
)

var quiet = slog.New(slog.DiscardHandler)

// rig is a database, a client, and who answers.
type rig struct {
	*testing.T

	db     *pgtest.Database
	client *backfill.Client
	admin  *admin.Admin
}

func newRig(t *testing.T) *rig {
	t.Helper()
	db := pgtest.New(t)
	client, err := backfill.NewClient(t.Context(), db.Pool(), backfill.WithLogger(quiet))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return &rig{t, db, client, openAdmin(t, db.URL)}
}

func openAdmin(t *testing.T, url string, options ...admin.Option) *admin.Admin {
	t.Helper()
	a, err := admin.Open(url, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	return a
}

func (r *rig) run(sql string, args ...any) {
	r.Helper()
	dbtest.Run(r.T, r.db.Pool(), sql, args...)
}

// add enqueues a job as Node does.
func (r *rig) add(arguments string) int64 {
	r.Helper()
	return dbtest.Get[int64](r.T, r.db.Pool(), "select id from graphile_worker.add_job("+arguments+")")
}

// work starts a worker of these tasks, whose handlers run until the test ends or their args say
// {"quick": true}. It waits until the worker is registered.
func (r *rig) work(slots int, tasks ...string) (stop func()) {
	r.Helper()
	return r.workAs(tasks, backfill.WithConcurrency(slots))
}

func (r *rig) workAs(tasks []string, options ...backfill.WorkerOption) (stop func()) {
	r.Helper()
	release := make(chan struct{})
	var bindings []backfill.Binding
	for _, name := range tasks {
		bindings = append(bindings, backfill.Handle(&backfill.Task[args]{Name: name, Backoff: backfill.FixedBackoff(time.Hour)},
			func(ctx context.Context, a args) error { return hang(ctx, a, release) }))
	}
	w, err := r.client.NewWorker(backfill.NewRegistry(bindings...), append(options, backfill.WithLogger(quiet))...)
	if err != nil {
		r.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		close(release)
		cancel()
		if err := <-ended; err != nil {
			r.Error(err)
		}
	}
	r.Cleanup(stop)
	dbtest.Until(r.T, func() bool {
		return dbtest.Get[bool](r.T, r.db.Pool(), "select exists (select from graphile_worker.backfill_workers where tasks = $1 and dead_at is null)", tasks)
	})
	return stop
}

type args struct {
	Quick bool `json:"quick"`
	Fail  bool `json:"fail"`
	Brief bool `json:"brief"` // 20 ms
}

func hang(ctx context.Context, a args, release <-chan struct{}) error {
	switch {
	case a.Fail:
		return fmt.Errorf("card declined")
	case a.Quick:
		return nil
	case a.Brief:
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
		}
		return nil
	}
	select {
	case <-release:
	case <-ctx.Done():
	}
	return nil
}

// running waits until a worker's heartbeat names a job.
func (r *rig) running(ids ...int64) {
	r.Helper()
	dbtest.Until(r.T, func() bool {
		return dbtest.Get[bool](r.T, r.db.Pool(), "select exists (select from graphile_worker.backfill_workers where running @> $1::bigint[])", ids)
	})
}

// why asks, and checks the code and what the answer says and must not say: a part that begins with
// "!".
func (r *rig) why(id int64, want admin.Code, parts ...string) *admin.Explanation {
	r.Helper()
	return checkWhy(r.T, r.admin, id, want, parts...)
}

func checkWhy(t *testing.T, a *admin.Admin, id int64, want admin.Code, parts ...string) *admin.Explanation {
	t.Helper()
	x, err := a.Why(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	text := x.Blocker.Text
	for _, remedy := range x.Blocker.Remedies {
		text += "\n" + remedy.Text + "\n" + remedy.Command
	}
	text += "\n" + strings.Join(x.Notes, "\n")
	if x.Blocker.Code != want {
		t.Fatalf("code %s, want %s: %s", x.Blocker.Code, want, text)
	}
	for _, part := range parts {
		unwanted, not := strings.CutPrefix(part, "!")
		switch {
		case not && strings.Contains(text, unwanted):
			t.Errorf("the answer has %q:\n%s", unwanted, text)
		case !not && !strings.Contains(text, part):
			t.Errorf("the answer does not have %q:\n%s", part, text)
		}
	}
	return x
}

func TestWhyNobodyRuns(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	id := r.add("'sync'")
	r.why(id, admin.NoWorker, fmt.Sprintf("Job %d (sync)", id), "none is connected", "Start a worker", "!not due")
}

func TestWhyNobodyServesTheTask(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.add("'sync', '{\"quick\": true}'")
	stop := r.work(2, "sync")
	dbtest.Until(t, func() bool {
		return dbtest.Get[int](t, r.db.Pool(), "select count(*)::int from graphile_worker._private_jobs") == 0
	})
	stop()
	r.work(2, "other")
	id := r.add("'sync'")
	former := dbtest.Get[string](t, r.db.Pool(), "select id from graphile_worker.backfill_workers where tasks = '{sync}'")
	other := dbtest.Get[string](t, r.db.Pool(), "select id from graphile_worker.backfill_workers where tasks = '{other}'")
	r.why(id, admin.NotServed, `"sync"`, "The last that did was worker "+former, "Alive is worker "+other, `"other"`)
}

func TestWhyRunsAndSlotsAreBusy(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	first, second := r.add("'sync'"), r.add("'sync'")
	r.work(2, "sync")
	r.running(first, second)
	id := r.add("'sync'")
	worker := dbtest.Get[string](t, r.db.Pool(), "select id from graphile_worker.backfill_workers")
	r.why(id, admin.SlotsBusy, worker, "runs 2 of 2", "!no worker", "backfill why ")
	x := r.why(first, admin.Running, worker, "pid", "since ", "lives (heartbeat", "Its handler has run for", "and is in github.com/backfillhq/go/backfill/admin_test.hang (why_test.go:",
		"a second later it was there still")
	if !strings.Contains(x.Blocker.Stack, "admin_test.hang") || len(x.Missing) > 0 {
		t.Errorf("stack %q, missing %+v", x.Blocker.Stack, x.Missing)
	}
	if x.Blocker.Worker == nil || x.Blocker.Worker.ID != worker || x.Blocker.Worker.PID == 0 || x.Blocker.Worker.Host == "" {
		t.Errorf("worker %+v", x.Blocker.Worker)
	}
}

func TestWhyBehindOthers(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.run(`select graphile_worker.add_jobs(array(select ('sync', '{"quick": true}', null, null, null, null, -1, null)::graphile_worker.job_spec
		from generate_series(1, 300)))`)
	id := r.add("'sync', priority := 10")
	first := r.add("'sync', '{}', priority := -2")
	r.work(1, "sync")
	r.running(first)
	x := r.why(id, admin.Behind, "300 due jobs are before it", "of 1 slots in use", "cannot be told")
	if x.Blocker.Ahead == nil || *x.Blocker.Ahead != 300 {
		t.Errorf("ahead: %v", x.Blocker.Ahead)
	}
}

// While jobs end, the answer says how many do, and when the job's turn comes.
func TestWhyBehindOthersThatEnd(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.run(`select graphile_worker.add_jobs(array(select ('sync', '{"brief": true}', null, null, null, null, -1, null)::graphile_worker.job_spec
		from generate_series(1, 3000)))`)
	id := r.add("'sync', priority := 10")
	r.work(2, "sync")
	x := r.why(id, admin.Behind, "jobs end in a second now, so its turn comes in about", "!cannot be told")
	if x.Blocker.Rate <= 0 || x.Blocker.Until.IsZero() {
		t.Errorf("%+v", x.Blocker)
	}
}

func TestWhyItsFlagIsForbidden(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	id := r.add("'sync', flags := array['slow', 'big']")
	r.workAs([]string{"sync"}, backfill.WithForbiddenFlags("big"))
	dbtest.Until(t, func() bool {
		return dbtest.Get[bool](t, r.db.Pool(), "select exists (select from graphile_worker.backfill_workers where forbidden = '{big}')")
	})
	x := r.why(id, admin.FlagForbidden, `"big", "slow"`, "1 worker that serves its task")
	if len(x.Blocker.Workers) != 1 {
		t.Errorf("workers %+v", x.Blocker.Workers)
	}
}

func TestWhyLater(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	id := r.add("'sync', run_at := now() + interval '3 hours'")
	x := r.why(id, admin.NotDue, "in 2 h 59 min", "reschedule_jobs(array[")
	r.run(strings.TrimSuffix(x.Blocker.Remedies[0].Command, ";"))
	r.why(id, admin.NoWorker)
	id = r.add("'sync', run_at := 'infinity'")
	r.why(id, admin.NotDue, "never due")
	keyed := int64(0)
	for range 12 {
		keyed = r.add("'sync', job_key := 'k', run_at := now() + interval '1 hour'")
	}
	r.why(keyed, admin.NotDue, "enqueued again 11 times", `"k"`, "run_at was set anew")
}

func TestWhyItHasFailed(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	id := r.add("'sync', max_attempts := 9")
	r.run("update graphile_worker._private_jobs set attempts = 9, last_error = 'card declined', run_at = now() + interval '1 day' where id = $1", id)
	x := r.why(id, admin.AttemptsUsed, "9 of 9", "card declined", "attempts := 0", "!until")
	if len(x.Then) > 0 {
		t.Errorf("then: %+v", x.Then)
	}
	r.run("update graphile_worker._private_jobs set last_error = null where id = $1", id)
	r.why(id, admin.AttemptsUsed, "superseded", "or its process ended in its last attempt", "If it is not one that was superseded")
	r.run("update graphile_worker._private_jobs set key = 'k' where id = $1", id) // who supersedes takes the key
	r.why(id, admin.AttemptsUsed, "To try it again:", "!superseded")
}

func TestWhyItIsADeadLetter(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	id := r.add("'sync', '{\"fail\": true}', max_attempts := 1")
	r.work(1, "sync")
	dbtest.Until(t, func() bool {
		return dbtest.Get[int](t, r.db.Pool(), "select count(*)::int from graphile_worker.backfill_dlq") == 1
	})
	x := r.why(id, admin.DeadLetter, "1 of 1", "card declined", "backfill dlq requeue")
	if x.Job != nil || x.Blocker.DeadLetter == 0 {
		t.Errorf("%+v", x)
	}
}

func TestWhySupersededWhileItRuns(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	id := r.add("'sync', job_key := 'k'")
	r.work(1, "sync")
	r.running(id)
	r.add("'sync', job_key := 'k'")
	r.why(id, admin.Superseded, "runs since", "Its key was taken", "not tried again", "!attempts := 0")
}

func TestWhyItsQueueIsHeld(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	head := r.add("'sync', queue_name := 'user:7'")
	r.work(2, "sync")
	r.running(head)
	id := int64(0)
	for range 17 {
		id = r.add("'sync', queue_name := 'user:7'")
	}
	x := r.why(id, admin.QueueHeld, `queue "user:7"`, fmt.Sprintf("job %d of the queue runs since", head), "pid", "lives", "16 more jobs of the queue are before this one",
		fmt.Sprintf("backfill why %d", head))
	if x.Blocker.HolderJob != head || x.Blocker.Before == nil || *x.Blocker.Before != 16 || x.Blocker.Worker == nil {
		t.Errorf("%+v", x.Blocker)
	}
}

func TestWhyALockIsInTheWay(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.work(2, "sync")
	open := func(application string) (*pgx.Conn, pgx.Tx) {
		conn := dbtest.Connect(t, r.db.URL)
		dbtest.Run(t, conn, "select set_config('application_name', $1, false)", application)
		tx, err := conn.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return conn, tx
	}
	id := r.add("'sync', run_at := now() + interval '1 hour', queue_name := 'q'")
	conn, tx := open("billing")
	dbtest.Run(t, tx, "select graphile_worker.reschedule_jobs(array[$1::bigint], run_at := now() - interval '1 minute')", id)
	// The row as others see it is not due, and locked.
	x := r.why(id, admin.NotDue)
	if len(x.Then) != 1 || x.Then[0].Code != admin.RowLocked || x.Then[0].Sessions[0].PID != int(conn.PgConn().PID()) || x.Then[0].Sessions[0].Application != "billing" {
		t.Errorf("then %+v", x.Then)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Several share the lock.
	_, shares := open("reports")
	_, another := open("audit")
	r.run("update graphile_worker._private_jobs set run_at = now() + interval '2 hours' where id = $1", id)
	for _, tx := range []pgx.Tx{shares, another} {
		dbtest.Run(t, tx, "select from graphile_worker._private_jobs where id = $1 for share", id)
	}
	x = r.why(id, admin.NotDue)
	if len(x.Then) != 1 || len(x.Then[0].Sessions) != 2 {
		t.Errorf("then %+v", x.Then)
	}
	_ = shares.Rollback(t.Context())
	_ = another.Rollback(t.Context())
	// The table.
	_, locks := open("maintenance")
	dbtest.Run(t, locks, "lock table graphile_worker._private_jobs in exclusive mode")
	x = r.why(id, admin.NotDue)
	if len(x.Then) != 1 || x.Then[0].Code != admin.TableLocked || !strings.Contains(x.Then[0].Text, "maintenance") {
		t.Errorf("then %+v", x.Then)
	}
	_ = locks.Rollback(t.Context())
}

// A claim locks rows, too: for a moment, which is no answer.
func TestWhyItsRowIsLocked(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	id := r.add("'sync'")
	tx, err := dbtest.Connect(t, r.db.URL).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dbtest.Run(t, tx, "select graphile_worker.reschedule_jobs(array[$1::bigint], priority := 3)", id)
	r.work(1, "sync")
	r.why(id, admin.RowLocked, "the job's row", "pg_terminate_backend(", "!no worker")
	_ = tx.Rollback(t.Context())
}

func TestWhyThereIsNoRow(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	done := r.add("'sync', '{\"quick\": true}'")
	r.work(1, "sync")
	dbtest.Until(t, func() bool {
		return dbtest.Get[int](t, r.db.Pool(), "select count(*)::int from graphile_worker._private_jobs") == 0
	})
	x := r.why(done, admin.Gone, "done, was removed", "cannot be told", "!never")
	if x.Job != nil {
		t.Errorf("job %+v", x.Job)
	}
	r.why(done+1000, admin.NotGivenOut, "never was", fmt.Sprint("is ", done))
	conn := dbtest.Connect(t, r.db.URL)
	dbtest.Run(t, conn, "set application_name = 'checkout'")
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	id := dbtest.Get[int64](t, tx, "select id from graphile_worker.add_job('sync')")
	dbtest.Until(t, func() bool { // older than the transaction of a single statement
		return dbtest.Get[bool](t, r.db.Pool(), "select clock_timestamp() - xact_start > interval '0.5 s' from pg_stat_activity where pid = $1", conn.PgConn().PID())
	})
	r.why(id, admin.NotCommitted, fmt.Sprint("session ", conn.PgConn().PID()), `"checkout"`, "!is done.")
	_ = tx.Rollback(t.Context())
}

func TestWhyRowsOfNamesAreGone(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	id := r.add("'sync', queue_name := 'q'")
	task := dbtest.Get[int](t, r.db.Pool(), "select task_id from graphile_worker._private_jobs where id = $1", id)
	r.run("delete from graphile_worker._private_tasks")
	x := r.why(id, admin.TaskRowMissing, fmt.Sprint("task id ", task), "no worker will ever take it")
	execute(t, r.db, strings.ReplaceAll(x.Blocker.Remedies[0].Command, "NAME", "sync"))
	r.run("delete from graphile_worker._private_job_queues")
	x = r.why(id, admin.QueueRowMissing, "queue id", "no worker will ever take it")
	execute(t, r.db, strings.ReplaceAll(x.Blocker.Remedies[0].Command, "NAME", "q"))
	r.why(id, admin.NoWorker)
}

func TestWhyItIsPaused(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	id := r.add("'sync', queue_name := 'q'")
	r.work(1, "other")
	if err := r.client.PauseQueue(t.Context(), "q", backfill.PauseOptions{By: "ops", Reason: "bank is down"}); err != nil {
		t.Fatal(err)
	}
	x := r.why(id, admin.Paused, `queue "q"`, "by ops", "bank is down", "backfill resume --queue q", "Node workers")
	if len(x.Then) != 1 || x.Then[0].Code != admin.NotServed {
		t.Errorf("then %+v", x.Then)
	}
}

func TestWhyInAnotherSchema(t *testing.T) {
	t.Parallel()
	other := pgtest.New(t, pgtest.WithSchema("Other jobs"))
	id := dbtest.Get[int64](t, other.Pool(), `select id from "Other jobs".add_job('sync')`)
	checkWhy(t, openAdmin(t, other.URL), id, admin.OtherSchema, "Other jobs", "backfill why --schema 'Other jobs'")
	checkWhy(t, openAdmin(t, other.URL, admin.WithSchema("Other jobs")), id, admin.NoWorker, "Start a worker")
}

// A role that may read the view alone is told what that says, and what it takes to see more.
func TestWhyAsARoleWithoutRights(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	id := r.add("'sync', run_at := now() + interval '3 hours'")
	role := dbtest.NewRole(t, dbtest.Connect(t, r.db.URL))
	as := openAdmin(t, asRole(t, r.db.URL, role))
	x := checkWhy(t, as, id, admin.Unseen, "needs the right to select", "!no job "+fmt.Sprint(id)+".")
	if x.Job != nil {
		t.Errorf("job %+v", x.Job)
	}
	r.run("grant usage on schema graphile_worker to " + role)
	r.run("grant select on graphile_worker.jobs to " + role)
	x = checkWhy(t, as, id, admin.NotDue, "in 2 h 59 min")
	if len(x.Missing) == 0 || !strings.Contains(x.Missing[0].Why, "the right to select") {
		t.Errorf("missing %+v", x.Missing)
	}
	checkWhy(t, as, id+1000, admin.Gone, "has never been there", "!was given out", "Or a transaction that cannot be seen here")
	r.run("grant select on all tables in schema graphile_worker to " + role)
	r.run("revoke select on graphile_worker.jobs from " + role)
	checkWhy(t, as, id, admin.Unseen, "row level security")
}

// asRole is a URL whose sessions have a role from the start.
func asRole(t *testing.T, databaseURL, role string) string {
	t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	query := u.Query()
	query.Set("role", strings.ReplaceAll(strings.Trim(role, `"`), `""`, `"`))
	u.RawQuery = strings.ReplaceAll(query.Encode(), "+", "%20")
	return u.String()
}

// What a role may not see is not taken for absent: neither workers, nor sessions.
func TestWhyAsAReader(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	conn := dbtest.Connect(t, r.db.URL)
	role := dbtest.NewRole(t, conn)
	as := openAdmin(t, asRole(t, r.db.URL, role))
	if _, err := schema.GrantRole(t.Context(), conn, strings.ReplaceAll(strings.Trim(role, `"`), `""`, `"`), schema.ReaderRole, schema.Options{}); err != nil {
		t.Fatal(err)
	}
	id := r.add("'sync'")
	x := checkWhy(t, as, id, admin.PeersUnknown, "No Go worker lives", "this role may not see")
	if len(x.Missing) != 1 || !strings.Contains(x.Missing[0].Why, "pg_read_all_stats") {
		t.Errorf("missing %+v", x.Missing)
	}
	r.run("grant pg_read_all_stats to " + role)
	checkWhy(t, as, id, admin.NoWorker)
	r.work(1, "sync")
	r.running(id)
	checkWhy(t, as, id, admin.Running, "Its handler has run for")
	waiting := r.add("'sync'")
	checkWhy(t, as, waiting, admin.SlotsBusy)
	r.run("drop policy " + policyOf(t, r.db, "backfill_workers") + " on graphile_worker.backfill_workers")
	x = checkWhy(t, as, waiting, admin.Unseen, "may not see the Go workers")
	if len(x.Missing) != 1 || !strings.Contains(x.Missing[0].Why, "row level security") {
		t.Errorf("missing %+v", x.Missing)
	}
}

func policyOf(t *testing.T, db *pgtest.Database, table string) string {
	t.Helper()
	return dbtest.Get[string](t, db.Pool(), "select quote_ident(polname) from pg_policy where polrelid = ('graphile_worker.' || $1)::regclass", table)
}
