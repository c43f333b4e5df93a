package testutil_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/testutil"
	"github.com/backfillhq/go/testutil/pgtest"
)

var (
	taskDo     = &backfill.Task[string]{Name: "do", Backoff: backfill.FixedBackoff(time.Minute)}
	taskDoTx   = &backfill.Task[string]{Name: "do", Backoff: backfill.FixedBackoff(time.Minute), Timeout: time.Minute}
	taskNoArgs = &backfill.Task[backfill.NoArgs]{Name: "no_args", Timeout: time.Minute}
	taskAll    = &backfill.Task[[]string]{Name: "all", Backoff: backfill.FixedBackoff(time.Minute)}
)

// inside is a test's transaction, over one of the drivers, with a table in it.
type inside struct {
	t      *testing.T
	client *backfill.Client
	in     backfill.Enqueuer
	exec   func(ctx context.Context, text string, args ...any) error
	scan   func(text string, dest any) error
	kind   string
}

var insides = []string{"pgx.Tx", "*sql.Tx of pgx", "*sql.Tx of pq"}

func beginInside(t *testing.T, kind string) *inside {
	t.Helper()
	db := pgtest.New(t)
	i := &inside{t: t, kind: kind}
	var err error
	if i.client, err = backfill.NewClient(t.Context(), db.Pool()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(i.client.Close)
	if kind == "pgx.Tx" {
		tx := beginTx(t, db)
		i.in = i.client.WithTx(tx)
		i.exec = func(ctx context.Context, text string, args ...any) error {
			_, err := tx.Exec(ctx, text, args...)
			return err
		}
		i.scan = func(text string, dest any) error { return tx.QueryRow(t.Context(), text).Scan(dest) }
	} else {
		tx := beginSQL(t, db, map[string]string{"*sql.Tx of pgx": "pgx", "*sql.Tx of pq": "postgres"}[kind])
		i.in = i.client.WithSQLTx(tx)
		i.exec = func(ctx context.Context, text string, args ...any) error {
			_, err := tx.ExecContext(ctx, text, args...)
			return err
		}
		i.scan = func(text string, dest any) error { return tx.QueryRowContext(t.Context(), text).Scan(dest) }
	}
	if err := i.exec(t.Context(), "create table effects (what text)"); err != nil {
		t.Fatal(err)
	}
	return i
}

func (i *inside) count(query string) (n int) {
	i.t.Helper()
	if err := i.scan("select count(*)::int from "+query, &n); err != nil {
		i.t.Error(err)
	}
	return n
}

// transactional binds a transactional handler of the kind that the transaction is of.
func (i *inside) transactional(fn func(ctx context.Context, exec func(text string, args ...any) error, do string) error) backfill.Binding {
	if i.kind == "pgx.Tx" {
		return backfill.Handle(taskDoTx, func(ctx context.Context, tx pgx.Tx, do string) error {
			return fn(ctx, func(text string, args ...any) error { _, err := tx.Exec(ctx, text, args...); return err }, do)
		})
	}
	return backfill.Handle(taskDoTx, func(ctx context.Context, tx *sql.Tx, do string) error {
		return fn(ctx, func(text string, args ...any) error { _, err := tx.ExecContext(ctx, text, args...); return err }, do)
	})
}

// act writes, enqueues, and ends as it is told.
func act(ctx context.Context, exec func(text string, args ...any) error, do string) error {
	if err := exec("insert into effects values ($1)", do); err != nil {
		return err
	}
	if _, err := backfill.FromContext(ctx).Enqueue(ctx, taskStep.Request("follows "+do)); err != nil {
		return err
	}
	switch do {
	case "fail":
		return errors.New("boom")
	case "die":
		return backfill.Permanent(errors.New("boom"))
	case "snooze":
		return backfill.Snooze(time.Hour)
	case "panic":
		panic("at the disco")
	case "abort":
		_ = exec("select 1/0")
	case "commit":
		return exec("commit")
	case "conflict":
		return &pgconn.PgError{Code: "40001", Severity: "ERROR", SeverityUnlocalized: "ERROR"}
	}
	return nil
}

// A transactional task of each kind: effects, enqueues and completion are in the test's transaction
// together, or not at all, and none of it is seen outside.
func TestRunTransactional(t *testing.T) {
	t.Parallel()
	for _, kind := range insides {
		for _, c := range []struct {
			do    string
			state testutil.State
			err   string
			there bool // its effects are
			row   string
		}{
			{"", testutil.Succeeded, "", true, ""},
			{"fail", testutil.Failed, "boom", false, "waiting, attempt 1, boom"},
			{"die", testutil.Dead, "boom", false, ""},
			{"snooze", testutil.Snoozed, "", false, "waiting, attempt 0, "},
			{"panic", testutil.Failed, "at the disco", false, "waiting, attempt 1, "},
			{"abort", testutil.Failed, "division by zero", false, "waiting, attempt 1, "},
			{"conflict", testutil.Failed, "refused because of other transactions in 4 runs", false, "waiting, attempt 1, "},
		} {
			t.Run(kind+" "+c.do, func(t *testing.T) {
				t.Parallel()
				i := beginInside(t, kind)
				var runs int
				registry := backfill.NewRegistry(i.transactional(func(ctx context.Context, exec func(string, ...any) error, do string) error {
					runs++
					if job := backfill.JobInfo(ctx); job.Attempt != 1 || job.Queue != "q" || job.Key != "k" {
						t.Errorf("the handler's job: %+v", job)
					}
					return act(ctx, exec, do)
				}))
				result := testutil.Run(t, i.in, registry, taskDoTx.Request(c.do, backfill.Queue("q"), backfill.Key("k"), backfill.Delay(time.Hour)))
				if c.do == "abort" && kind != "pgx.Tx" {
					c.err = "current transaction is aborted" // nobody has seen the first one
				}
				i.check(result, c.state, c.err, c.row)
				want := 0
				if c.there {
					want = 1
					testutil.RequireEnqueued(t, i.in, taskStep, "follows "+c.do)
				}
				if effects := i.count("effects"); effects != want {
					t.Errorf("%d effects, want %d", effects, want)
				}
				if follows := i.count("graphile_worker.jobs where task_identifier = 'step'"); follows != want {
					t.Errorf("%d jobs were enqueued, want %d", follows, want)
				}
				if c.do == "conflict" && runs != 4 {
					t.Errorf("it ran %d times, want 4", runs)
				}
				i.seenOutside()
			})
		}
	}
}

// seenOutside fails the test if anything is seen outside of the transaction.
func (i *inside) seenOutside() {
	i.t.Helper()
	if stats, err := i.client.Stats(i.t.Context()); err != nil || len(stats.Tasks) != 0 {
		i.t.Errorf("outside of the transaction: %+v, %v", stats, err)
	}
}

// check compares a result with what is wanted, and with the job's row.
func (i *inside) check(result testutil.Result, state testutil.State, text, row string) {
	i.t.Helper()
	if result.State != state {
		i.t.Errorf("the job is %s: %v, want %s", result.State, result.Err, state)
	}
	switch {
	case text == "" && result.Err != nil:
		i.t.Errorf("error: %v", result.Err)
	case text != "" && result.Err == nil:
		i.t.Errorf("no error, want %s", text)
	case text != "":
		mustContain(i.t, result.Err.Error(), text)
	}
	var got string
	err := i.scan(fmt.Sprintf(`select coalesce((select case when run_at > now() then 'waiting' else 'due' end || ', attempt ' || attempts || ', ' ||
		coalesce(last_error, '') from graphile_worker._private_jobs where id = %d and locked_by is null and run_at > now()), '')`, result.Job.ID), &got)
	if err != nil || row == "" && got != "" || len(got) < len(row) || got[:len(row)] != row {
		i.t.Errorf("the row is %q, %v: want %q", got, err, row)
	}
	dead := 0
	if state == testutil.Dead {
		dead = 1
	}
	if n := i.count(fmt.Sprintf("graphile_worker.backfill_dlq where original_job_id = %d and failure_reason = 'permanent'", result.Job.ID)); n != dead {
		i.t.Errorf("%d dead letters, want %d", n, dead)
	}
	if n := i.count("graphile_worker._private_job_queues where locked_by is not null"); n != 0 {
		i.t.Errorf("%d queues are held", n)
	}
}

// Plain handlers, in all of their forms, with middleware and aliases; what they enqueue is in the
// transaction, whatever they return.
func TestRunPlain(t *testing.T) {
	t.Parallel()
	for _, kind := range insides {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			i := beginInside(t, kind)
			do := func(ctx context.Context, do string) error {
				return act(ctx, func(text string, args ...any) error { return i.exec(ctx, text, args...) }, do)
			}
			var around int
			middleware := backfill.WithMiddleware(func(next backfill.HandlerFunc) backfill.HandlerFunc {
				return func(ctx context.Context, job *backfill.Job) error { around++; return next(ctx, job) }
			})
			registry := backfill.NewRegistry(backfill.Handle(taskDo, do),
				backfill.Handle(taskNoArgs, func(ctx context.Context, _ backfill.NoArgs) error { return do(ctx, "no args") }),
			)
			i.check(testutil.Run(t, i.in, registry, taskDo.Request("a", backfill.Queue("q")), middleware), testutil.Succeeded, "", "")
			i.check(testutil.Run(t, i.in, registry, taskDo.Request("fail"), middleware), testutil.Failed, "boom", "waiting, attempt 1, boom")
			i.check(testutil.Run(t, i.in, registry, taskDo.Request("snooze")), testutil.Snoozed, "", "waiting, attempt 0, ")
			i.check(testutil.Run(t, i.in, registry, taskDo.Request("die")), testutil.Dead, "boom", "")
			i.check(testutil.Run(t, i.in, registry, taskNoArgs.Request(backfill.NoArgs{})), testutil.Succeeded, "", "")
			if effects, follows := i.count("effects"), i.count("graphile_worker.jobs where task_identifier = 'step'"); effects != 5 || follows != 5 {
				t.Errorf("%d effects and %d jobs, want 5", effects, follows)
			}
			i.seenOutside()
			if around != 2 {
				t.Errorf("the middleware was called %d times", around)
			}
		})
	}
}

// A batch job whose handler does a part of it keeps the rest.
func TestRunBatch(t *testing.T) {
	t.Parallel()
	i := beginInside(t, "pgx.Tx")
	registry := backfill.NewRegistry(backfill.Handle(taskAll, func(_ context.Context, all []string) error {
		return &backfill.BatchError{Errs: map[int]error{1: errors.New(all[1])}}
	}))
	result := testutil.Run(t, i.in, registry, taskAll.Request([]string{"a", "b", "c"}))
	if result.State != testutil.Failed {
		t.Errorf("result: %+v", result)
	}
	testutil.RequireEnqueued(t, i.in, taskAll, []string{"b"})
}

// The handler of a transactional task has the guard of a worker: it cannot commit.
func TestRunGuards(t *testing.T) {
	t.Parallel()
	i := beginInside(t, "pgx.Tx")
	var kept pgx.Tx
	registry := backfill.NewRegistry(backfill.Handle(taskDoTx, func(ctx context.Context, tx pgx.Tx, _ string) error {
		kept = tx
		return tx.Commit(ctx)
	}))
	i.check(testutil.Run(t, i.in, registry, taskDoTx.Request("")), testutil.Failed, "the worker commits a job's transaction", "waiting, attempt 1, ")
	if _, err := kept.Exec(t.Context(), "insert into effects values ('late')"); err == nil {
		t.Error("the transaction can be used when the handler has returned")
	}
	for _, kind := range insides {
		i := beginInside(t, kind)
		registry := backfill.NewRegistry(i.transactional(act))
		tb := try(t, func(tb *trial) { testutil.Run(tb, i.in, registry, taskDoTx.Request("commit")) })
		mustContain(t, tb.failed()+tb.logged(), "has ended the job's transaction")
	}
}

// What cannot be run fails the test, and says why.
func TestRunRefuses(t *testing.T) {
	t.Parallel()
	i := beginInside(t, "pgx.Tx")
	onSQL := backfill.NewRegistry(backfill.Handle(taskDoTx, func(context.Context, *sql.Tx, string) error { return nil }))
	onPgx := backfill.NewRegistry(backfill.Handle(taskDoTx, func(context.Context, pgx.Tx, string) error { return nil }))
	for want, run := range map[string]func(tb *trial){
		"cannot run a job in a *backfill.Client: pass what the client's WithTx or WithSQLTx returns": func(tb *trial) {
			testutil.Run(tb, i.client, onPgx, taskDoTx.Request(""))
		},
		"takes a *sql.Tx: pass what the client's WithSQLTx returns": func(tb *trial) {
			testutil.Run(tb, i.in, onSQL, taskDoTx.Request(""))
		},
		"takes a pgx.Tx: pass what the client's WithTx returns": func(tb *trial) {
			testutil.Run(tb, i.client.WithSQLTx(new(sql.Tx)), onPgx, taskDoTx.Request(""))
		},
		"has no handler for the task": func(tb *trial) { testutil.Run(tb, i.in, onPgx, taskStep.Request("")) },
		"the transaction is nil":      func(tb *trial) { testutil.Run(tb, i.client.WithTx(nil), onPgx, taskDoTx.Request("")) },
		"key is empty":                func(tb *trial) { testutil.Run(tb, i.in, onPgx, taskDoTx.Request("", backfill.Key(""))) },
	} {
		mustContain(t, try(t, run).failed(), want)
	}
}
