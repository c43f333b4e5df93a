package backfill_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/testutil/pgtest"
)

// twoDrivers are the drivers in their usual modes.
var twoDrivers = map[string]sqlDriver{"pgx": sqlDrivers["pgx"], "pq": sqlDrivers["pq"]}

// newSQLTxRig is newTxRig with a client that has a *sql.DB.
func (d sqlDriver) newSQLTxRig(t *testing.T) *txRig {
	t.Helper()
	db := pgtest.New(t)
	run(t, db, "create table public.effects (job bigint not null, what text not null)")
	return &txRig{db: db, client: newClient(t, db, backfill.WithSQLDB(d.pool(t, db.URL)))}
}

type sqlTxHandler = func(context.Context, *sql.Tx, txArgs) error

// sqlTxTask is txTask for handlers that take a *sql.Tx.
func sqlTxTask(change func(*backfill.Task[txArgs]), handler sqlTxHandler, more ...backfill.Binding) (*backfill.Task[txArgs], *backfill.Registry) {
	task := &backfill.Task[txArgs]{Name: "transactional", Timeout: time.Minute, Backoff: backfill.FixedBackoff(time.Hour)}
	if change != nil {
		change(task)
	}
	return task, backfill.NewRegistry(append(more, backfill.Handle(task, handler))...)
}

// writeSQL writes an effect of the job of ctx.
func writeSQL(ctx context.Context, tx *sql.Tx, what string) error {
	_, err := tx.ExecContext(ctx, writeEffect, backfill.JobInfo(ctx).ID, what)
	return err
}

// execSQL runs statements one after the other.
func execSQL(ctx context.Context, tx *sql.Tx, statements ...string) error {
	for _, statement := range statements {
		if _, err := tx.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}

// What the handler writes, what it enqueues and the end of its job are committed together, in every
// mode of the drivers, and the dead letters of its key go with them.
func TestTransactionalSQL(t *testing.T) {
	t.Parallel()
	for name, driver := range sqlDrivers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := driver.newSQLTxRig(t)
			next, _ := taskOf("next", func(context.Context, mailArgs) error { return nil })
			var seen, failing atomic.Int32
			var level string
			task, registry := sqlTxTask(func(task *backfill.Task[txArgs]) {
				task.Isolation, task.MaxAttempts = backfill.RepeatableRead, 1
			}, func(ctx context.Context, tx *sql.Tx, args txArgs) error {
				if job := backfill.JobInfo(ctx); job.Task != "transactional" || args.N != 7 {
					return fmt.Errorf("job %+v, args %+v", job, args)
				}
				if failing.Load() == 1 {
					return errBoom
				}
				if err := tx.QueryRowContext(ctx, "show transaction_isolation").Scan(&level); err != nil {
					return err
				}
				if err := writeSQL(ctx, tx, "written"); err != nil {
					return err
				}
				if _, err := backfill.Enqueue(ctx, backfill.FromContext(ctx), next, mailArgs{UserID: 2}); err != nil {
					return err
				}
				if _, err := backfill.Enqueue(ctx, r.client.WithSQLTx(tx), next, mailArgs{UserID: 3}); err != nil {
					return err
				}
				seen.Store(int32(r.effects(t, "") + 10*(len(jobRows(t, r.db))-1))) // of another session
				return nil
			})
			failing.Store(1)
			letters := func() int { return get[int](t, r.db.Pool(), "select count(*)::int from graphile_worker.backfill_dlq") }
			for range 2 {
				enqueue(t, r.client, task, txArgs{N: 7}, backfill.Queue("q"), backfill.Key("k"))
				runOnce(t, r.client, registry)
				if failing.Swap(0) == 1 && letters() != 1 {
					t.Fatalf("%d dead letters after the failure", letters())
				}
			}
			if seen.Load() != 0 {
				t.Errorf("before the commit others see rows: %d", seen.Load())
			}
			if level != "repeatable read" {
				t.Errorf("the isolation level is %s", level)
			}
			if n := r.effects(t, "written"); n != 1 || letters() != 0 {
				t.Errorf("%d effects, want 1; %d dead letters, want 0", n, letters())
			}
			if rows := jobRows(t, r.db); len(rows) != 2 || rows[0].Task != "next" || rows[1].Task != "next" {
				t.Errorf("jobs %+v, want the two that were enqueued", rows)
			}
			if locked := get[int](t, r.db.Pool(), "select count(*)::int from graphile_worker._private_job_queues where locked_by is not null"); locked > 0 {
				t.Error("the queue is still locked")
			}
		})
	}
}

// COMMIT has one way in on database/sql too: whatever else ends a handler between two writes,
// neither is visible, also when it writes on.
func TestTransactionalSQLHandlerIsCutShort(t *testing.T) {
	t.Parallel()
	ended := func(ctx context.Context, _ *sql.Tx) {
		select {
		case <-ctx.Done():
		case <-time.After(hang):
		}
	}
	sleep := func(_ context.Context, tx *sql.Tx) {
		_, _ = tx.ExecContext(context.Background(), "select pg_sleep(600)")
	}
	for name, test := range map[string]struct {
		timeout  time.Duration
		drain    bool // the worker is stopped while the handler runs
		dies     bool // it is declared dead
		cut      func(ctx context.Context, tx *sql.Tx)
		returns  error
		attempts int
		text     string // in last_error
	}{
		"an error":                  {returns: errBoom, attempts: 1, text: "boom"},
		"permanent":                 {returns: backfill.Permanent(errBoom), attempts: 25, text: "boom"},
		"a snooze":                  {returns: backfill.Snooze(time.Hour)},
		"a panic":                   {cut: func(context.Context, *sql.Tx) { panic("oops") }, attempts: 1, text: "panic: oops"},
		"Goexit":                    {cut: func(context.Context, *sql.Tx) { runtime.Goexit() }, attempts: 1, text: "ended its goroutine"},
		"a timeout":                 {timeout: 2 * time.Second, cut: ended, attempts: 1, text: "task timed out after 2s"},
		"a timeout that it ignores": {timeout: 2 * time.Second, cut: sleep, attempts: 1, text: "task timed out after 2s"},
		"a stop":                    {drain: true, cut: ended},
		"a stop that it ignores":    {drain: true, cut: sleep},
		"a death":                   {dies: true, cut: ended},
	} {
		for driverName, driver := range twoDrivers {
			t.Run(name+", "+driverName, func(t *testing.T) {
				t.Parallel()
				r := driver.newSQLTxRig(t)
				running, wrote := make(chan struct{}, 100), make(chan struct{}, 100)
				var once atomic.Bool
				task, registry := sqlTxTask(func(task *backfill.Task[txArgs]) {
					if test.timeout > 0 {
						task.Timeout = test.timeout
					}
				}, func(ctx context.Context, tx *sql.Tx, _ txArgs) error {
					if once.Swap(true) {
						return backfill.Snooze(time.Hour) // a job that was given back
					}
					defer func() {
						_ = writeSQL(context.WithoutCancel(ctx), tx, "second")
						go func() {
							for range 100 {
								_ = writeSQL(context.WithoutCancel(ctx), tx, "third")
							}
							wrote <- struct{}{}
						}()
					}()
					if err := writeSQL(ctx, tx, "first"); err != nil {
						return err
					}
					if _, err := backfill.Enqueue(ctx, backfill.FromContext(ctx), &backfill.Task[txArgs]{Name: "other"}, txArgs{}); err != nil {
						return err
					}
					running <- struct{}{}
					if test.cut != nil {
						test.cut(ctx, tx)
					}
					return test.returns
				})
				job := enqueue(t, r.client, task, txArgs{}, backfill.Queue("q"))
				w := start(t, r.client, registry, backfill.WithDrainTimeout(0), backfill.Hurry(10), backfill.WithoutDeadLetters())
				receive(t, "the handler", running)
				if test.dies {
					run(t, r.db, "update graphile_worker.backfill_workers set dead_at = now() where id = $1", w.Health().WorkerID)
				}
				if !test.drain {
					receive(t, "the goroutine", wrote)
					until(t, "the end of the lease", func() bool { return !onlyRow(t, r.db).Locked })
				}
				if err := w.stop(); err != nil {
					t.Fatal(err)
				}
				if test.drain {
					receive(t, "the goroutine", wrote)
				}
				if n := r.effects(t, ""); n > 0 {
					t.Errorf("%d effects are visible", n)
				}
				row := onlyRow(t, r.db) // and no other was enqueued
				if row.Attempts != test.attempts || !strings.Contains(row.LastError, test.text) || test.text == "" && row.LastError != "" || row.Locked {
					t.Errorf("row of job %d: %+v, want %d attempts and %q", job.ID, row, test.attempts, test.text)
				}
			})
		}
	}
}

// Whoever ends the transaction behind the worker's back is found out, whatever the handler returns,
// and so is a statement that has failed. A dead letter of the job's key stays.
func TestTransactionalSQLHandlerSpoilsTransaction(t *testing.T) {
	t.Parallel()
	const ended, caught = "has ended the job's transaction", "it caught the error"
	statements := func(list ...string) sqlTxHandler {
		return func(ctx context.Context, tx *sql.Tx, _ txArgs) error {
			for _, statement := range list {
				_ = execSQL(ctx, tx, statement)
			}
			return nil
		}
	}
	for name, test := range map[string]struct {
		does sqlTxHandler
		want []string // in last_error; nil: the job succeeds
		kept int      // effects that stay, of two
	}{
		"tx.Commit":                {func(_ context.Context, tx *sql.Tx, _ txArgs) error { return tx.Commit() }, []string{ended}, 1},
		"tx.Rollback":              {func(_ context.Context, tx *sql.Tx, _ txArgs) error { return tx.Rollback() }, []string{ended}, 0},
		"tx.Commit, then an error": {func(_ context.Context, tx *sql.Tx, _ txArgs) error { _ = tx.Commit(); return errBoom }, []string{"boom", ended}, 1},
		"commit":                   {statements("commit"), []string{ended}, 2},
		"commit, then an error": {func(ctx context.Context, tx *sql.Tx, _ txArgs) error {
			return errors.Join(execSQL(ctx, tx, "commit"), errBoom)
		}, []string{"boom", ended}, 1},
		"rollback":           {statements("rollback"), []string{ended}, 1},
		"commit and begin":   {statements("commit", "begin"), []string{ended}, 1},
		"commit and chain":   {statements("commit and chain"), []string{ended}, 1},
		"rollback and begin": {statements("rollback", "begin"), []string{ended}, 0},
		"a failed statement": {statements("select 1/0"), []string{"25P02", caught}, 0},
		"its echo": {func(ctx context.Context, tx *sql.Tx, _ txArgs) error {
			_ = execSQL(ctx, tx, "select 1/0")
			return writeSQL(ctx, tx, "x")
		}, []string{"25P02", caught}, 0},
		"the error itself":          {func(ctx context.Context, tx *sql.Tx, _ txArgs) error { return execSQL(ctx, tx, "select 1/0") }, []string{"division by zero"}, 0},
		"a savepoint":               {statements("savepoint s", "insert into public.nowhere values (1)", "rollback to s"), nil, 2},
		"a savepoint that is kept":  {statements("savepoint s", "insert into public.effects values (0, 'kept')", "release s"), nil, 3},
		"of a deferred constraint":  {statements("insert into public.child values (1)"), []string{"violates foreign key constraint", "commit the job's transaction"}, 0},
		"a role that may do little": {statements("set local role pg_monitor"), []string{caught}, 0},
		"rows that stay open": {func(ctx context.Context, tx *sql.Tx, _ txArgs) error {
			rows, err := tx.QueryContext(ctx, "select generate_series(1, 100000)") //nolint:rowserrcheck,sqlclosecheck // that is the case
			if err == nil {
				rows.Next()
			}
			return err
		}, []string{"complete the job in its transaction"}, 0},
	} {
		for driverName, driver := range twoDrivers {
			t.Run(name+", "+driverName, func(t *testing.T) {
				t.Parallel()
				r := driver.newSQLTxRig(t)
				run(t, r.db, "create table public.parent (id int primary key)")
				run(t, r.db, "create table public.child (parent int references public.parent deferrable initially deferred)")
				var runs atomic.Int32
				task, registry := sqlTxTask(nil, func(ctx context.Context, tx *sql.Tx, args txArgs) error {
					if args.N == 1 {
						return backfill.Permanent(errBoom) // a dead letter
					}
					runs.Add(1)
					if err := writeSQL(ctx, tx, "before"); err != nil {
						return err
					}
					if err := test.does(ctx, tx, args); err != nil {
						return err
					}
					_ = writeSQL(ctx, tx, "after")
					return nil
				})
				enqueue(t, r.client, task, txArgs{N: 1}, backfill.Key("k"))
				runOnce(t, r.client, registry)
				enqueue(t, r.client, task, txArgs{}, backfill.Queue("q"), backfill.Key("k"))
				report := runOnce(t, r.client, registry)
				letters := get[int](t, r.db.Pool(), "select count(*)::int from graphile_worker.backfill_dlq")
				if n := r.effects(t, ""); n != test.kept {
					t.Errorf("%d effects, want %d", n, test.kept)
				}
				if runs.Load() != 1 {
					t.Errorf("the handler ran %d times", runs.Load())
				}
				if test.want == nil {
					if report.Completed != 1 || letters != 0 {
						t.Errorf("report %+v, %+v, %d dead letters", *report, jobRows(t, r.db), letters)
					}
					return
				}
				row := onlyRow(t, r.db)
				for _, want := range test.want {
					if row.Attempts != 1 || !strings.Contains(row.LastError, want) || row.Locked {
						t.Errorf("%+v, want the error %q", row, want)
					}
				}
				if letters != 1 {
					t.Errorf("%d dead letters, want 1", letters)
				}
			})
		}
	}
}

// Whatever happens to COMMIT and to its answer: the effects are there if and only if the job is gone,
// and the worker says what the database has.
func TestTransactionalSQLCommitIsLost(t *testing.T) {
	t.Parallel()
	const times = 25
	commits := map[string]string{"pgx": "commit\x00", "pq": "COMMIT\x00"}
	for name, test := range map[string]struct {
		arm       func(p *dbtest.Proxy, commit string)
		committed int
	}{
		"cut before":    {func(p *dbtest.Proxy, commit string) { p.ArmBefore(commit, dbtest.Cut) }, 0},
		"killed before": {func(p *dbtest.Proxy, commit string) { p.ArmBefore(commit, dbtest.Kill) }, 0},
		"answer cut":    {func(p *dbtest.Proxy, commit string) { p.ArmAfter(commit, dbtest.Cut) }, 1},
	} {
		for driverName, driver := range twoDrivers {
			t.Run(name+", "+driverName, func(t *testing.T) {
				t.Parallel()
				r := driver.newSQLTxRig(t)
				proxy := dbtest.NewProxy(t, r.db.URL) // of the *sql.DB alone
				client := newClient(t, r.db, backfill.WithSQLDB(driver.pool(t, proxy.URL)))
				task, registry := sqlTxTask(nil, func(ctx context.Context, tx *sql.Tx, _ txArgs) error { return writeSQL(ctx, tx, "x") })
				w := start(t, client, registry)
				for n := range times {
					test.arm(proxy, commits[driverName])
					job := enqueue(t, r.client, task, txArgs{N: n}, backfill.Queue("q"))
					w.await("the end of the handler", 1, func(e backfill.Event) bool {
						return (e.Kind == backfill.EventFinished || e.Kind == backfill.EventFailed) && e.Job.ID == job.ID
					})
					until(t, "the end of the lease", func() bool {
						return get[int](t, r.db.Pool(), "select count(*)::int from graphile_worker._private_jobs where id = $1 and locked_by is not null", job.ID) == 0
					})
					if proxy.Disarm() == 0 {
						t.Fatal("nothing met the fault")
					}
					events, _ := w.seen()
					failed := 0
					for _, e := range events {
						if of(backfill.EventFailed, job.ID)(e) {
							failed++
						}
					}
					rows := get[int](t, r.db.Pool(), "select count(*)::int from graphile_worker._private_jobs where id = $1", job.ID)
					effects := get[int](t, r.db.Pool(), "select count(*)::int from public.effects where job = $1", job.ID)
					if effects != test.committed || effects+rows != 1 || failed != rows {
						t.Fatalf("%d effects, %d rows, %d failures, want %d effects", effects, rows, failed, test.committed)
					}
					run(t, r.db, "delete from graphile_worker._private_jobs where id = $1", job.ID)
				}
				if n := get[int](t, r.db.Pool(), "select count(*)::int from graphile_worker._private_job_queues where locked_by is not null"); n > 0 {
					t.Error("the queue is locked")
				}
			})
		}
	}
}
