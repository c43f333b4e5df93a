package admin_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jackc/pgx/v5"
	_ "github.com/jackc/pgx/v5/stdlib" // for transactional tasks on database/sql

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/backfill/admin"
)

// kept is a task with a history.
func kept(name string, change ...func(*backfill.Task[args])) *backfill.Task[args] {
	task := &backfill.Task[args]{Name: name, History: 24 * time.Hour, Timeout: time.Minute, Backoff: backfill.FixedBackoff(time.Hour)}
	for _, c := range change {
		c(task)
	}
	return task
}

// once enqueues a job and runs what is due.
func once[F backfill.HandlerShape[args]](r *rig, task *backfill.Task[args], handler F, options ...backfill.WorkerOption) (id int64) {
	r.Helper()
	job, err := backfill.Enqueue(r.Context(), r.client, task, args{})
	if err != nil {
		r.Fatal(err)
	}
	r.runDue(backfill.NewRegistry(backfill.Handle(task, handler)), options...)
	return job.ID
}

func (r *rig) runDue(registry *backfill.Registry, options ...backfill.WorkerOption) {
	r.Helper()
	if _, err := backfill.RunOnce(r.Context(), registry, toRun(r.client, options)...); err != nil {
		r.Fatal(err)
	}
}

func toRun(client *backfill.Client, options []backfill.WorkerOption) []backfill.RunOption {
	all := []backfill.RunOption{backfill.WithClient(client), backfill.WithLogger(quiet)}
	for _, option := range options {
		all = append(all, option)
	}
	return all
}

// history checks the history of a job, apart from its times and the lines' own.
func (r *rig) history(id int64, want ...admin.Attempt) []admin.Attempt {
	r.Helper()
	got, err := r.admin.History(r.Context(), id)
	if err != nil {
		r.Fatal(err)
	}
	if len(got.Missing) > 0 {
		r.Errorf("missing of the history: %v", got.Missing)
	}
	ignored := cmpopts.IgnoreFields(admin.Attempt{}, "Task", "StartedAt", "EndedAt", "Seconds", "WorkerID", "Log")
	if diff := cmp.Diff(want, got.Attempts, ignored, cmpopts.EquateEmpty()); diff != "" {
		r.Errorf("history of job %d (-want +got):\n%s", id, diff)
	}
	for _, a := range got.Attempts {
		if took := a.EndedAt.Sub(a.StartedAt).Seconds(); !a.StartedAt.IsZero() && (took < a.Seconds-0.001 || a.WorkerID == "") {
			r.Errorf("an attempt that took %v s began at %v and ended at %v, on worker %q", a.Seconds, a.StartedAt, a.EndedAt, a.WorkerID)
		}
	}
	return got.Attempts
}

// What a handler leaves is kept with its attempt, also in the transaction of the job, on both kinds.
func TestHistoryKeepsOutputAndLog(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	db, err := sql.Open("pgx", r.db.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	client, err := backfill.NewClient(t.Context(), r.db.Pool(), backfill.WithLogger(quiet), backfill.WithSQLDB(db))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	r.client = client
	leave := func(ctx context.Context) error {
		backfill.Logger(ctx).WarnContext(ctx, "it's \\done\x00", slog.String("url", "postgres://joe:hunter2@db/app"))
		return backfill.Output(ctx, map[string]any{"a\\'ü😀": 1})
	}
	for name, id := range map[string]int64{
		"plain": once(r, kept("plain"), func(ctx context.Context, _ args) error { return leave(ctx) }),
		"pgx":   once(r, kept("pgx"), func(ctx context.Context, _ pgx.Tx, _ args) error { return leave(ctx) }),
		"sql":   once(r, kept("sql"), func(ctx context.Context, _ *sql.Tx, _ args) error { return leave(ctx) }),
		"pgx, without backslashes in strings": once(r, kept("strings"), func(ctx context.Context, tx pgx.Tx, _ args) error {
			_, err := tx.Exec(ctx, "set local standard_conforming_strings = off")
			return errors.Join(err, leave(ctx))
		}),
		"pgx, serializable": once(r, kept("serializable", func(task *backfill.Task[args]) { task.Isolation = backfill.Serializable }),
			func(ctx context.Context, _ pgx.Tx, _ args) error { return leave(ctx) }),
	} {
		got := r.history(id, admin.Attempt{Attempt: 1, Outcome: admin.AttemptCompleted, Output: []byte(`{"a\\'\u00fc\ud83d\ude00":1}`)})
		if len(got) != 1 || !strings.Contains(got[0].Log, `it's \\done`) || strings.Contains(got[0].Log, "hunter2") || strings.Contains(got[0].Log, "\x00") {
			t.Errorf("%s: the log is %q", name, got[0].Log)
		}
		if len(got) == 1 && got[0].Task == "" {
			t.Errorf("%s: the task is missing", name)
		}
	}
}

// A failed attempt leaves its error and its log, and nothing of its transaction; the next one has its
// own output alone (X141).
func TestHistoryOfFailures(t *testing.T) {
	t.Parallel()
	for name, form := range map[string]func(*rig, func(context.Context) error) int64{
		"plain": func(r *rig, handle func(context.Context) error) int64 {
			return once(r, kept("plain"), func(ctx context.Context, _ args) error { return handle(ctx) }, backfill.WithScheduled())
		},
		"in a transaction": func(r *rig, handle func(context.Context) error) int64 {
			return once(r, kept("tx"), func(ctx context.Context, _ pgx.Tx, _ args) error { return handle(ctx) }, backfill.WithScheduled())
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			id := form(r, func(ctx context.Context) error {
				attempt := backfill.JobInfo(ctx).Attempt
				backfill.Logger(ctx).InfoContext(ctx, "tried", slog.Int("line", attempt))
				if attempt == 1 {
					if err := backfill.Output(ctx, "first"); err != nil {
						return err
					}
					return errors.New("no, with password=hunter2")
				}
				return backfill.Output(ctx, nil)
			})
			got := r.history(id, admin.Attempt{Attempt: 1, Outcome: admin.AttemptFailed, Error: "no, with password=***"},
				admin.Attempt{Attempt: 2, Outcome: admin.AttemptCompleted, Output: []byte("null")})
			for i, a := range got {
				if want := fmt.Sprint("line=", i+1); !strings.Contains(a.Log, want) || strings.Count(a.Log, "\n") != 1 {
					t.Errorf("log of attempt %d: %q", i+1, a.Log)
				}
			}
		})
	}
}

// An output that cannot be kept fails the attempt, whatever its handler returns (X136).
func TestOutputThatCannotBeKept(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		output any
		want   string
	}{
		"too large": {strings.Repeat("x", backfill.MaxOutput), "may have 1048576"},
		"not JSON":  {func() {}, "unsupported type"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			ignore := func(ctx context.Context) { _ = backfill.Output(ctx, test.output) }
			plain := once(r, kept("plain"), func(ctx context.Context, _ args) error { ignore(ctx); return nil })
			tx := once(r, kept("tx"), func(ctx context.Context, tx pgx.Tx, _ args) error {
				ignore(ctx)
				_, err := tx.Exec(ctx, "create table public.written ()")
				return err
			})
			for _, id := range []int64{plain, tx} {
				got, err := r.admin.History(t.Context(), id)
				if err != nil || len(got.Attempts) != 1 || got.Attempts[0].Outcome != admin.AttemptFailed || !strings.Contains(got.Attempts[0].Error, test.want) {
					t.Errorf("history: %+v, %v", got, err)
				}
			}
			if _, err := r.db.Pool().Exec(t.Context(), "select from public.written"); err == nil {
				t.Error("what the handler has written is committed")
			}
		})
	}
	r := newRig(t)
	var said, later error
	id := once(r, kept("later"), func(ctx context.Context, _ args) error {
		said = backfill.Output(ctx, strings.Repeat("x", backfill.MaxOutput))
		later = backfill.Output(ctx, 1)
		return nil
	})
	r.history(id, admin.Attempt{Attempt: 1, Outcome: admin.AttemptCompleted, Output: []byte("1")})
	if large, ok := errors.AsType[*backfill.OutputTooLargeError](said); !ok || large.Bytes != backfill.MaxOutput+2 || later != nil {
		t.Errorf("Output said %v, and then %v", said, later)
	}
}

// Without a history there is nowhere to keep an output; that is told, and costs nothing else.
func TestOutputWithoutHistory(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var said error
	without := func(task *backfill.Task[args]) { task.History = 0 }
	id := once(r, kept("plain", without), func(ctx context.Context, _ args) error {
		backfill.Logger(ctx).InfoContext(ctx, "somewhere")
		said = backfill.Output(ctx, 1)
		return nil
	})
	if !errors.Is(said, backfill.ErrNoHistory) {
		t.Errorf("Output said %v", said)
	}
	r.history(id)
	if err := backfill.Output(t.Context(), 1); err == nil || errors.Is(err, backfill.ErrNoHistory) {
		t.Errorf("Output outside of a handler said %v", err)
	}
	id = once(r, kept("all", without), func(ctx context.Context, _ args) error { return backfill.Output(ctx, 2) }, backfill.WithHistory(time.Hour))
	r.history(id, admin.Attempt{Attempt: 1, Outcome: admin.AttemptCompleted, Output: []byte("2")})
}

// Of a log that is too long, the first and the last lines are kept, and the cut is marked: the row
// does not grow (X142).
func TestHistoryOfALongLog(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	task := kept("long", func(task *backfill.Task[args]) { task.MaxAttempts = 5 })
	id := once(r, task, func(ctx context.Context, _ args) error {
		log := backfill.Logger(ctx)
		for i := range 10_000 {
			log.InfoContext(ctx, "long", slog.String("text", strings.Repeat("x", 100)), slog.Int("line", i))
		}
		return errors.New("no")
	}, backfill.WithScheduled())
	got, err := r.admin.History(t.Context(), id)
	if err != nil || len(got.Attempts) != 5 {
		t.Fatalf("history: %d attempts, %v", len(got.Attempts), err)
	}
	for _, a := range got.Attempts {
		for _, want := range []string{"line=0\n", "line=1\n", "bytes left out", "line=9998\n", "line=9999\n"} {
			if !strings.Contains(a.Log, want) {
				t.Errorf("the log has no %q", want)
			}
		}
		if len(a.Log) > 64_000 {
			t.Errorf("the log has %d bytes", len(a.Log))
		}
		for line := range strings.Lines(a.Log) {
			if !strings.HasSuffix(line, "\n") || !strings.HasPrefix(line, "time=") && !strings.Contains(line, "left out") {
				t.Errorf("a line was cut: %q", line)
			}
		}
	}
}

// What operators decide is kept once.
func TestHistoryOfWhatOthersDecide(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	task := kept("decided")
	registry := backfill.NewRegistry(backfill.Handle(task, func(context.Context, args) error { return nil }))
	r.runDue(registry) // which says that the task has a history
	add := func() int64 {
		job, err := backfill.Enqueue(t.Context(), r.client, task, args{}, backfill.Delay(time.Hour), backfill.Key("k"))
		if err != nil {
			t.Fatal(err)
		}
		return job.ID
	}
	canceled := add()
	for range 2 {
		if _, err := r.client.Cancel(t.Context(), canceled, backfill.CancelOptions{Reason: "enough"}); err != nil {
			t.Fatal(err)
		}
	}
	r.history(canceled, admin.Attempt{Key: "k", Outcome: admin.AttemptCanceled, Error: "enough"})
	completed, failed, removed := add(), int64(0), int64(0)
	if _, err := r.client.CompleteJobs(t.Context(), completed); err != nil {
		t.Fatal(err)
	}
	r.history(completed, admin.Attempt{Key: "k", Outcome: admin.AttemptCompleted})
	failed = add()
	if _, err := r.client.FailJobs(t.Context(), "no", failed); err != nil {
		t.Fatal(err)
	}
	r.history(failed, admin.Attempt{Key: "k", Attempt: 25, Outcome: admin.AttemptDead, Error: "no"})
	removed = add()
	if _, err := r.client.RemoveJob(t.Context(), "k"); err != nil {
		t.Fatal(err)
	}
	r.history(removed, admin.Attempt{Key: "k", Outcome: admin.AttemptRemoved})
}

// Who may not see values gets neither output nor log, and who may not see the task gets nothing.
func TestHistoryAccess(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	id := once(r, kept("secret"), func(ctx context.Context, _ args) error {
		backfill.Logger(ctx).InfoContext(ctx, "line")
		return backfill.Output(ctx, 1)
	})
	for name, want := range map[string][]admin.Attempt{
		"ann": {{Attempt: 1, Outcome: admin.AttemptCompleted, Output: []byte("1")}},
		"bob": {{Attempt: 1, Outcome: admin.AttemptCompleted, Withheld: true}},
		"eve": nil,
	} {
		a := openAdmin(t, r.db.URL, admin.WithAuthorize(func(_ context.Context, who admin.Principal, action admin.Action, target admin.Target) bool {
			if target.Kind != admin.KindHistory || target.Task != "secret" {
				t.Errorf("asked for %v", target)
			}
			return who.Name == "ann" || who.Name == "bob" && action == admin.ActionRead
		}))
		got, err := a.History(admin.As(t.Context(), admin.Principal{Name: name}), id)
		if err != nil {
			t.Fatal(err)
		}
		ignored := cmpopts.IgnoreFields(admin.Attempt{}, "Task", "StartedAt", "EndedAt", "Seconds", "WorkerID", "Log")
		if diff := cmp.Diff(want, got.Attempts, ignored, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s sees (-want +got):\n%s", name, diff)
		}
		if len(got.Attempts) > 0 && (got.Attempts[0].Log != "") != (name == "ann") {
			t.Errorf("%s sees the log %q", name, got.Attempts[0].Log)
		}
	}
}

// Weeks are made ahead, and go when the longest time that a task says has passed; what a task keeps
// for less goes in steps (X137).
func TestHistoryRetention(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	short, long := kept("short"), kept("long", func(task *backfill.Task[args]) { task.History = 21 * 24 * time.Hour })
	registry := backfill.NewRegistry(
		backfill.Handle(short, func(context.Context, args) error { return nil }), backfill.Handle(long, func(context.Context, args) error { return nil }))
	r.runDue(registry)
	parts := func() string {
		return get(r, `select coalesce(string_agg(right(c.relname, 8), ' ' order by c.relname), '') from pg_inherits join pg_class c on c.oid = inhrelid
			where inhparent = 'graphile_worker.backfill_history'::regclass and c.relname <> 'backfill_history_rest'`)
	}
	if got := len(strings.Fields(parts())); got != 3 {
		t.Errorf("partitions are %q, want three", parts())
	}
	for _, week := range []int{-7, -5, -1} {
		r.run(fmt.Sprintf(`do $$ declare w timestamp := date_trunc('week', now() at time zone 'UTC') + %d * interval '7 days'; begin
			execute format('create table graphile_worker.%%I partition of graphile_worker.backfill_history for values from (%%L) to (%%L)',
				'backfill_history_' || to_char(w, 'YYYYMMDD'), w at time zone 'UTC', (w + interval '7 days') at time zone 'UTC'); end $$`, week))
	}
	for task, days := range map[string][]int{"short": {0, 2, 8, 30, 45}, "long": {0, 2, 8, 30, 45}} {
		for _, age := range days {
			r.run("insert into graphile_worker.backfill_history (job_id, task_identifier, attempt, outcome, ended_at) "+
				"select $2::int, $1, 1, 'completed', now() - $2::int * interval '1 day' from generate_series(1, 3)", task, age)
		}
	}
	left := func(task string) string {
		return get(r, "select coalesce(string_agg(distinct job_id::text, ' ' order by job_id::text), '') from graphile_worker.backfill_history where task_identifier = $1", task)
	}
	r.sweeps(registry)
	if got := left("long"); got != "0 2 8" && got != "0 2 30 8" { // what is 30 days old may share a week with what is 21
		t.Errorf("of the task that keeps for three weeks, left are the days %s", got)
	}
	if got := left("short"); got != "0" {
		t.Errorf("of the task that keeps for a day, left are the days %s", got)
	}
	long.History = time.Hour
	r.run("update graphile_worker.backfill_workers set swept_at = null")
	r.sweeps(backfill.NewRegistry(
		backfill.Handle(short, func(context.Context, args) error { return nil }), backfill.Handle(long, func(context.Context, args) error { return nil })))
	if got := left("long"); got != "0" {
		t.Errorf("after its time was shortened, left are the days %s", got)
	}
}

// sweeps runs a worker until its first sweep for all is done.
func (r *rig) sweeps(registry *backfill.Registry) {
	r.Helper()
	swept := make(chan error, 10)
	ctx, cancel := context.WithCancel(r.Context())
	ended := make(chan error, 1)
	options := []backfill.WorkerOption{backfill.WithObserver(func(e backfill.Event) {
		if e.Kind == backfill.EventSwept {
			swept <- e.Err
		}
	})}
	go func() { ended <- backfill.Run(ctx, registry, toRun(r.client, options)...) }()
	select {
	case err := <-swept:
		if err != nil {
			r.Errorf("the sweep: %v", err)
		}
	case <-time.After(time.Minute):
		r.Error("nothing was swept")
	}
	cancel()
	if err := <-ended; err != nil {
		r.Error(err)
	}
}

func get(r *rig, sql string, args ...any) (text string) {
	r.Helper()
	if err := r.db.Pool().QueryRow(r.Context(), sql, args...).Scan(&text); err != nil {
		r.Fatal(err)
	}
	return text
}

// The progress is that of the attempt that runs; the jobs' rows are not changed for it (X141).
func TestProgressOfAJob(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	task := kept("slow", func(task *backfill.Task[args]) { task.Backoff = backfill.FixedBackoff(time.Millisecond) })
	job, err := backfill.Enqueue(t.Context(), r.client, task, args{})
	if err != nil {
		t.Fatal(err)
	}
	next := make(chan bool)
	registry := backfill.NewRegistry(backfill.Handle(task, func(ctx context.Context, _ pgx.Tx, _ args) error {
		if backfill.JobInfo(ctx).Attempt == 2 {
			next <- true
			<-next
			return nil
		}
		for i := range int64(100) {
			backfill.Progress(ctx, i, 100, "password=hunter2")
		}
		<-next
		return errors.New("no")
	}))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- backfill.Run(ctx, registry, toRun(r.client, nil)...) }()
	var got *admin.Progress
	for deadline := time.Now().Add(time.Minute); got == nil; {
		if got, err = r.admin.Progress(t.Context(), job.ID); err != nil || time.Now().After(deadline) {
			t.Fatalf("progress: %+v, %v", got, err)
		}
	}
	if got.Attempt != 1 || got.Done != 99 || got.Total != 100 || got.Note != "password=***" || got.At.IsZero() {
		t.Errorf("progress: %+v", got)
	}
	if changed := get(r, "select (updated_at > created_at)::text from graphile_worker._private_jobs"); changed != "false" {
		t.Error("the job's row was changed")
	}
	next <- true
	<-next
	if got, err = r.admin.Progress(t.Context(), job.ID); got != nil || err != nil {
		t.Errorf("progress of a new attempt: %+v, %v", got, err)
	}
	next <- true
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if got, err = r.admin.Progress(t.Context(), job.ID); !errors.Is(err, admin.ErrNotFound) {
		t.Errorf("progress of a job that has ended: %+v, %v", got, err)
	}
	if left := get(r, "select count(*)::text from graphile_worker.backfill_progress"); left != "0" {
		t.Errorf("%s rows are left", left)
	}
	nobody := openAdmin(t, r.db.URL, admin.WithAuthorize(func(context.Context, admin.Principal, admin.Action, admin.Target) bool { return false }))
	other, err := backfill.Enqueue(t.Context(), r.client, task, args{})
	if err != nil {
		t.Fatal(err)
	}
	if got, err = nobody.Progress(t.Context(), other.ID); !errors.Is(err, admin.ErrNotFound) {
		t.Errorf("progress that may not be seen: %+v, %v", got, err)
	}
	backfill.Progress(t.Context(), 1, 2, "outside of a handler")
}

// Weeks that nobody drops are found a day later, and the remedy drops them (X137).
func TestDoctorFindsAnOverdueHistory(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.run("insert into graphile_worker.backfill_history_tasks values ('a', '20 days')")
	for _, day := range []string{"20251103", "20251110"} {
		r.run(fmt.Sprintf("create table graphile_worker.backfill_history_%[1]s partition of graphile_worker.backfill_history "+
			"for values from ('%[1]s 00:00Z') to (timestamptz '%[1]s 00:00Z' + interval '7 days')", day))
	}
	found := r.finds(admin.HistoryOverdue, "2 weeks", "backfill_history_20251103")
	r.run(found.Remedies[0].Command)
	r.healthy()
	r.run(`do $$ begin execute format('create table graphile_worker.%I partition of graphile_worker.backfill_history for values from (%L) to (%L)',
		'backfill_history_' || to_char(now() - interval '26 days', 'YYYYMMDD'), now() - interval '26 days', now() - interval '19 days'); end $$`)
	r.healthy() // of its last day, something is to be kept
}
