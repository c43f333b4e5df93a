package backfill_test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/backfill"
)

// COMMIT has one way in. Whatever else ends a handler between two writes, neither is visible, also
// when it writes on.
func TestTransactionalHandlerIsCutShort(t *testing.T) {
	t.Parallel()
	ended := func(ctx context.Context) {
		select {
		case <-ctx.Done():
		case <-time.After(hang):
		}
	}
	for name, test := range map[string]struct {
		timeout   time.Duration
		drain     bool                                       // the worker is stopped while the handler runs
		interrupt func(t *testing.T, r *txRig, w *running)   // while the handler runs
		cut       func(ctx context.Context, tx pgx.Tx) error // between the two writes
		returns   error                                      // of the handler, after the second write
		attempts  int
		text      string // in last_error
	}{
		"an error":  {returns: errBoom, attempts: 1, text: "boom"},
		"permanent": {returns: backfill.Permanent(errBoom), attempts: 1, text: "boom"},
		"a snooze":  {returns: backfill.Snooze(time.Hour)},
		"a panic":   {cut: func(context.Context, pgx.Tx) error { panic("oops") }, attempts: 1, text: "panic: oops"},
		"Goexit": {
			cut:      func(context.Context, pgx.Tx) error { runtime.Goexit(); return nil },
			attempts: 1, text: "ended its goroutine",
		},
		"a timeout": {
			timeout: 2 * time.Second, cut: func(ctx context.Context, _ pgx.Tx) error { ended(ctx); return nil },
			attempts: 1, text: "task timed out after 2s",
		},
		"a timeout that it ignores": {
			timeout: 2 * time.Second,
			cut: func(_ context.Context, tx pgx.Tx) error {
				_, err := tx.Exec(context.Background(), "select pg_sleep(600)")
				return err
			},
			attempts: 1, text: "task timed out after 2s",
		},
		"a stop": {
			drain: true, cut: func(ctx context.Context, _ pgx.Tx) error { ended(ctx); return nil },
		},
		"a stop that it ignores": {
			drain: true,
			cut: func(_ context.Context, tx pgx.Tx) error {
				_, err := tx.Exec(context.Background(), "select pg_sleep(600)")
				return err
			},
		},
		"a death": {
			interrupt: func(t *testing.T, r *txRig, w *running) {
				t.Helper()
				run(t, r.db, "update graphile_worker.backfill_workers set dead_at = now() where id = $1", w.Health().WorkerID)
			},
			cut: func(ctx context.Context, _ pgx.Tx) error { ended(ctx); return nil },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newTxRig(t)
			running, wrote := make(chan struct{}, 100), make(chan struct{}, 100)
			var once atomic.Bool
			task, registry := txTask(func(task *backfill.Task[txArgs]) {
				if test.timeout > 0 {
					task.Timeout = test.timeout
				}
			}, func(ctx context.Context, tx pgx.Tx, _ txArgs) error {
				if once.Swap(true) {
					return backfill.Snooze(time.Hour) // a job that was given back
				}
				defer func() {
					_ = write(context.WithoutCancel(ctx), tx, "second")
					go func() {
						for range 100 {
							_ = write(context.WithoutCancel(ctx), tx, "third")
						}
						wrote <- struct{}{}
					}()
				}()
				if err := write(ctx, tx, "first"); err != nil {
					return err
				}
				if _, err := backfill.Enqueue(ctx, backfill.FromContext(ctx), &backfill.Task[txArgs]{Name: "other"}, txArgs{}); err != nil {
					return err
				}
				running <- struct{}{}
				if test.cut != nil {
					_ = test.cut(ctx, tx)
				}
				return test.returns
			})
			job := enqueue(t, r.client, task, txArgs{}, backfill.Queue("q"))
			w := start(t, r.client, registry, backfill.WithDrainTimeout(0), backfill.Hurry(10))
			receive(t, "the handler", running)
			if test.interrupt != nil {
				test.interrupt(t, r, w)
			}
			if !test.drain {
				receive(t, "the goroutine", wrote)
				until(t, "the end of the lease", func() bool { return !onlyEnd(t, r.db).Locked })
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
			row := onlyEnd(t, r.db) // and no other was enqueued
			if row.Attempts != test.attempts || !strings.Contains(row.LastError, test.text) || test.text == "" && row.LastError != "" || row.Locked {
				t.Errorf("row of job %d: %+v, want %d attempts and %q", job.ID, row, test.attempts, test.text)
			}
		})
	}
}

// A handler whose lease somebody else has ended cannot commit, whether it hears of that or not.
func TestTransactionalLeaseLost(t *testing.T) {
	t.Parallel()
	for _, level := range []backfill.Isolation{backfill.ReadCommitted, backfill.RepeatableRead, backfill.Serializable} {
		t.Run(string(level), func(t *testing.T) {
			t.Parallel()
			r := newTxRig(t)
			var runs atomic.Int32
			task, registry := txTask(func(task *backfill.Task[txArgs]) { task.Isolation = level }, func(ctx context.Context, tx pgx.Tx, _ txArgs) error {
				if runs.Add(1) > 1 {
					return write(ctx, tx, "second run")
				}
				if err := write(ctx, tx, "first run"); err != nil {
					return err
				}
				_, err := r.client.UnlockWorker(context.WithoutCancel(ctx), workerOf(ctx, r))
				return err
			})
			enqueue(t, r.client, task, txArgs{}, backfill.Queue("q"))
			w := start(t, r.client, registry)
			w.await("lease lost", 1, is(backfill.EventLeaseLost))
			w.awaitRecorded(1)
			if first, second := r.effects(t, "first run"), r.effects(t, "second run"); first != 0 || second != 1 {
				t.Errorf("%d effects of the first run, %d of the second", first, second)
			}
			wantJobs(t, r.db, 0)
		})
	}
}

// Nor can one whose job somebody else has taken, or deleted, of which nobody has told the worker: the
// guard is by (id, token).
func TestTransactionalGuard(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		sql  string // $1: the job
		rows int
	}{
		"taken":   {"update graphile_worker._private_jobs set locked_by = 'somebody' where id = $1", 1},
		"deleted": {"delete from graphile_worker._private_jobs where id = $1", 0},
	} {
		for _, level := range []backfill.Isolation{backfill.ReadCommitted, backfill.Serializable} {
			t.Run(name+" "+string(level), func(t *testing.T) {
				t.Parallel()
				r := newTxRig(t)
				task, registry := txTask(func(task *backfill.Task[txArgs]) { task.Isolation = level }, func(ctx context.Context, tx pgx.Tx, _ txArgs) error {
					if err := write(ctx, tx, "x"); err != nil {
						return err
					}
					_, err := r.db.Pool().Exec(ctx, test.sql, backfill.JobInfo(ctx).ID)
					return err
				})
				enqueue(t, r.client, task, txArgs{}, backfill.Queue("q"))
				if report := runOnce(t, r.client, registry); report.Lost != 1 || report.Completed+report.Failed != 0 {
					t.Errorf("report %+v", *report)
				}
				if n := r.effects(t, ""); n != 0 {
					t.Errorf("%d effects", n)
				}
				if n := get[int](t, r.db.Pool(), "select count(*)::int from graphile_worker._private_jobs where locked_by = 'somebody'"); n != test.rows {
					t.Errorf("%d rows, want %d", n, test.rows)
				}
				if n := get[int](t, r.db.Pool(), "select count(*)::int from graphile_worker._private_job_queues where locked_by is not null"); n != 0 {
					t.Error("the queue is locked")
				}
			})
		}
	}
}

// workerOf returns what has locked the job of ctx.
func workerOf(ctx context.Context, r *txRig) (lockedBy string) {
	_ = r.db.Pool().QueryRow(ctx, "select locked_by from graphile_worker._private_jobs where id = $1", backfill.JobInfo(ctx).ID).Scan(&lockedBy)
	return lockedBy
}

// Whoever ends the transaction behind the worker's back is found out, whatever the handler returns.
func TestTransactionalHandlerEndsTransaction(t *testing.T) {
	t.Parallel()
	statement := func(sql string) func(context.Context, pgx.Tx) error {
		return func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, sql)
			return err
		}
	}
	const procedure = "create procedure public.ends() language plpgsql as $$ begin commit; end $$"
	for name, test := range map[string]struct {
		does func(context.Context, pgx.Tx) error
		text string // "": the job succeeds
		kept int    // effects that stay, of two
	}{
		"tx.Commit":           {func(ctx context.Context, tx pgx.Tx) error { return tx.Commit(ctx) }, "the worker commits a job's transaction", 0},
		"tx.Rollback":         {func(ctx context.Context, tx pgx.Tx) error { return tx.Rollback(ctx) }, "the worker commits a job's transaction", 0},
		"commit":              {statement("commit"), "has ended the job's transaction", 1},
		"rollback":            {statement("rollback"), "has ended the job's transaction", 0},
		"commit and begin":    {statement("commit; begin"), "has ended the job's transaction", 1},
		"commit and chain":    {statement("commit and chain"), "has ended the job's transaction", 1},
		"rollback and begin":  {statement("rollback; begin"), "has ended the job's transaction", 0},
		"a DO block":          {statement("do $$ begin commit; end $$"), "you caught it", 0},
		"a procedure":         {statement("call public.ends()"), "you caught it", 0},
		"begin":               {statement("begin"), "", 2},
		"prepare transaction": {statement("prepare transaction 'x'"), "has ended the job's transaction", 0},
		"another role": {func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "set local role pg_monitor; set local search_path = nowhere; set local enable_seqscan = on")
			return err
		}, "permission denied", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newTxRig(t)
			run(t, r.db, procedure)
			var runs atomic.Int32
			task, registry := txTask(nil, func(ctx context.Context, tx pgx.Tx, _ txArgs) error {
				runs.Add(1)
				if err := write(ctx, tx, "before"); err != nil {
					return err
				}
				_ = test.does(ctx, tx)
				err := write(ctx, tx, "after")
				if strings.Contains(test.text, "permission") {
					return err
				}
				return nil
			})
			enqueue(t, r.client, task, txArgs{}, backfill.Queue("q"))
			report := runOnce(t, r.client, registry)
			if n := r.effects(t, ""); n != test.kept {
				t.Errorf("%d effects, want %d", n, test.kept)
			}
			if runs.Load() != 1 {
				t.Errorf("the handler ran %d times", runs.Load())
			}
			if test.text == "" {
				if report.Completed != 1 {
					t.Errorf("report %+v, %+v", *report, jobRows(t, r.db))
				}
				return
			}
			if row := onlyRow(t, r.db); row.Attempts != 1 || !strings.Contains(row.LastError, test.text) || row.Locked {
				t.Errorf("%+v, want the error %q", row, test.text)
			}
		})
	}
}

// What an error of the server's has aborted cannot be committed, and the failure names that error
// and not its echo.
func TestTransactionalErrorIsCaught(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		handler func(ctx context.Context, tx pgx.Tx) error
		want    []string // in last_error; nil: it succeeds
		effects int
	}{
		"and nil returned": {func(ctx context.Context, tx pgx.Tx) error {
			_, _ = tx.Exec(ctx, "select 1/0")
			return nil
		}, []string{"division by zero", "22012", "you caught it", "use a savepoint"}, 0},
		"of a row": {func(ctx context.Context, tx pgx.Tx) error {
			var n int
			_ = tx.QueryRow(ctx, "select 1/$1::int", 0).Scan(&n)
			return nil
		}, []string{"division by zero", "you caught it"}, 0},
		"in a batch": {func(ctx context.Context, tx pgx.Tx) error {
			var batch pgx.Batch
			batch.Queue("select 1/$1::int", 0)
			_ = tx.SendBatch(ctx, &batch).Close()
			return nil
		}, []string{"division by zero", "you caught it"}, 0},
		"with a position": {func(ctx context.Context, tx pgx.Tx) error {
			_, _ = tx.Exec(ctx, "select nothing")
			return nil
		}, []string{"42703", "at character 8", "you caught it"}, 0},
		"and its echo returned": {func(ctx context.Context, tx pgx.Tx) error {
			_, _ = tx.Exec(ctx, "select 1/0")
			return write(ctx, tx, "echo")
		}, []string{"25P02", "division by zero", "you caught it"}, 0},
		"in a savepoint": {func(ctx context.Context, tx pgx.Tx) error {
			err := pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error {
				_ = write(ctx, tx, "undone")
				_, err := tx.Exec(ctx, "select 1/0")
				return err
			})
			if err == nil {
				return errors.New("no error")
			}
			return pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error { return write(ctx, tx, "kept") })
		}, nil, 2},
		"by rows that stay open": {func(ctx context.Context, tx pgx.Tx) error {
			rows, err := tx.Query(ctx, "select generate_series(1, 1000)")
			if err != nil || !rows.Next() {
				return errors.New("no rows")
			}
			return nil
		}, []string{"with rows or a batch open"}, 0},
		"of a deferred constraint": {func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "insert into public.child values (1)")
			return err
		}, []string{"23503", "commit the job's transaction"}, 0},
		"by a goroutine that goes on": {func(ctx context.Context, tx pgx.Tx) error {
			started := make(chan struct{})
			go func() {
				close(started)
				_, _ = tx.Exec(ctx, "select pg_sleep(600)")
			}()
			<-started
			for { // until it is on its way
				if _, err := tx.Exec(ctx, "select 1"); err != nil {
					return nil //nolint:nilerr // that is the case
				}
			}
		}, []string{"a goroutine still used its transaction"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newTxRig(t)
			run(t, r.db, "create table public.parent (id int primary key)")
			run(t, r.db, "create table public.child (parent int references public.parent deferrable initially deferred)")
			var runs atomic.Int32
			task, registry := txTask(nil, func(ctx context.Context, tx pgx.Tx, _ txArgs) error {
				runs.Add(1)
				if err := write(ctx, tx, "first"); err != nil {
					return err
				}
				return test.handler(ctx, tx)
			})
			enqueue(t, r.client, task, txArgs{})
			report := runOnce(t, r.client, registry)
			if n := r.effects(t, ""); n != test.effects {
				t.Errorf("%d effects, want %d", n, test.effects)
			}
			if runs.Load() != 1 {
				t.Errorf("the handler ran %d times", runs.Load())
			}
			if test.want == nil {
				if report.Completed != 1 {
					t.Errorf("report %+v, %+v", *report, jobRows(t, r.db))
				}
				return
			}
			row := onlyRow(t, r.db)
			for _, want := range test.want {
				if row.Attempts != 1 || !strings.Contains(row.LastError, want) {
					t.Errorf("%+v, want the error %q", row, want)
				}
			}
		})
	}
}

// What a handler keeps of its transaction is of no use later, whoever has the connection then.
func TestTransactionalLateWrites(t *testing.T) {
	t.Parallel()
	r := newTxRig(t)
	kept := make(chan pgx.Tx, 1)
	var conn atomic.Pointer[pgx.Conn]
	task, registry := txTask(nil, func(ctx context.Context, tx pgx.Tx, args txArgs) error {
		switch args.N {
		case 0:
			kept <- tx
		case 1:
			conn.Store(tx.Conn())
		}
		return write(ctx, tx, "right")
	})
	enqueue(t, r.client, task, txArgs{N: 0})
	w := start(t, r.client, registry, backfill.WithTxConnections(1))
	tx := receive(t, "the transaction", kept)
	w.awaitRecorded(1)
	if _, err := tx.Exec(t.Context(), writeEffect, 0, "wrong"); err == nil || !strings.Contains(err.Error(), "has returned") {
		t.Errorf("a late write: %v", err)
	}
	if err := tx.QueryRow(t.Context(), "select 1").Scan(new(int)); err == nil {
		t.Error("a late query succeeded")
	}
	if _, err := tx.Begin(t.Context()); err == nil {
		t.Error("a late savepoint was made")
	}
	if err := tx.SendBatch(t.Context(), &pgx.Batch{}).Close(); err == nil {
		t.Error("a late batch succeeded")
	}
	enqueue(t, r.client, task, txArgs{N: 1})
	w.awaitRecorded(2)
	until(t, "the end of the connection", func() bool {
		_, err := conn.Load().Exec(t.Context(), "select 1")
		return err != nil
	})
	enqueue(t, r.client, task, txArgs{N: 2})
	w.awaitRecorded(3)
	if right, all := r.effects(t, "right"), r.effects(t, ""); right != 3 || all != 3 {
		t.Errorf("%d effects, %d of them right, want 3", all, right)
	}
}
