package backfill_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/testutil/pgtest"
)

// Whatever happens to COMMIT and to its answer: the effects are there if and only if the job is gone,
// and the worker says what the database has.
func TestTransactionalCommitIsLost(t *testing.T) {
	t.Parallel()
	const times = 40
	for name, test := range map[string]struct {
		arm       func(*dbtest.Proxy)
		committed bool
	}{
		"cut before":    {func(p *dbtest.Proxy) { p.ArmBefore("commit\x00", dbtest.Cut) }, false},
		"killed before": {func(p *dbtest.Proxy) { p.ArmBefore("commit\x00", dbtest.Kill) }, false},
		"answer cut":    {func(p *dbtest.Proxy) { p.ArmAfter("commit\x00", dbtest.Cut) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newTxRig(t)
			proxy := dbtest.NewProxy(t, r.db.URL)
			client, err := backfill.NewClient(t.Context(), poolOf(t, proxy.URL, func(*pgxpool.Config) {}), backfill.WithLogger(quiet))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(client.Close)
			task, registry := txTask(nil, func(ctx context.Context, tx pgx.Tx, _ txArgs) error { return write(ctx, tx, "x") })
			w := start(t, client, registry)
			committed := 0
			for n := range times {
				test.arm(proxy)
				job := enqueue(t, r.client, task, txArgs{N: n}, backfill.Queue("q"))
				w.await("the end of the handler", 1, func(e backfill.Event) bool {
					return (e.Kind == backfill.EventFinished || e.Kind == backfill.EventSnoozed) && e.Job.ID == job.ID
				})
				until(t, "the end of the lease", func() bool {
					return get[int](t, r.db.Pool(), "select count(*)::int from graphile_worker._private_jobs where id = $1 and locked_by is not null", job.ID) == 0
				})
				if proxy.Disarm() == 0 {
					t.Fatal("nothing met the fault")
				}
				rows := get[int](t, r.db.Pool(), `with d as (delete from graphile_worker._private_jobs
					where id = $1 and locked_by is null and attempts = 0 returning 1) select count(*)::int from d`, job.ID)
				events, _ := w.seen()
				putOff := 0 // which is not the job's fault
				for _, e := range events {
					if of(backfill.EventSnoozed, job.ID)(e) {
						putOff++
					}
				}
				effects := get[int](t, r.db.Pool(), "select count(*)::int from public.effects where job = $1", job.ID)
				if effects+rows != 1 || putOff < rows || putOff > 0 && test.committed {
					t.Fatalf("%d effects, %d rows, put off %d times, want committed: %v", effects, rows, putOff, test.committed)
				}
				if effects == 1 {
					committed++
				}
			}
			if !test.committed && committed > times/2 { // what the worker itself commits may have met the fault
				t.Errorf("%d of %d jobs are committed", committed, times)
			}
			if n := get[int](t, r.db.Pool(), "select count(*)::int from graphile_worker._private_job_queues where locked_by is not null"); n > 0 {
				t.Error("the queue is locked")
			}
		})
	}
}

// A job whose transaction has no connection, or loses it before COMMIT, is not to blame: it runs again,
// and no attempt is charged. One with a single attempt must not run again once it has started.
func TestTransactionalConnectionsAreLost(t *testing.T) {
	t.Parallel()
	r := newTxRig(t)
	var away atomic.Bool
	client, err := backfill.NewClient(t.Context(), poolOf(t, r.db.URL, func(c *pgxpool.Config) {
		c.AfterConnect = func(context.Context, *pgx.Conn) error {
			if away.Load() {
				return errors.New("no connection for now")
			}
			return nil
		}
	}), backfill.WithLogger(quiet))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	var runs atomic.Int32
	task, registry := txTask(nil, func(ctx context.Context, tx pgx.Tx, args txArgs) error {
		if attempt := backfill.JobInfo(ctx).Attempt; attempt != 1 {
			return fmt.Errorf("it is attempt %d", attempt)
		}
		if err := write(ctx, tx, "x"); err != nil {
			return err
		}
		if runs.Add(1) == 1 || args.N == 1 {
			_, _ = tx.Exec(ctx, "select pg_terminate_backend(pg_backend_pid())")
		}
		return nil
	})
	w := start(t, client, registry)
	away.Store(true)
	job := enqueue(t, r.client, task, txArgs{})
	w.await("a job that is put off", 1, of(backfill.EventSnoozed, job.ID))
	if n := runs.Load(); n > 0 {
		t.Errorf("the handler has run %d times without a transaction", n)
	}
	away.Store(false)
	w.await("its end", 1, of(backfill.EventFinished, job.ID))
	if n, effects := runs.Load(), r.effects(t, ""); n != 2 || effects != 1 {
		t.Errorf("%d runs and %d effects, want 2 and 1", n, effects)
	}
	only := enqueue(t, r.client, task, txArgs{N: 1}, backfill.MaxAttempts(1))
	w.await("the dead letter", 1, of(backfill.EventDead, only.ID))
	if letter := onlyLetter(t, r.db); letter.Reason != "interrupted" || runs.Load() != 3 {
		t.Errorf("after %d runs in all: %+v", runs.Load(), letter)
	}
	events, _ := w.seen()
	if slices.ContainsFunc(events, of(backfill.EventFailed, job.ID)) {
		t.Errorf("an attempt was charged: %+v", events)
	}
}

// The row decides: what middleware makes of a handler's error is about the job, and never commits
// what that handler has written.
func TestTransactionalMiddleware(t *testing.T) {
	t.Parallel()
	wrote := make(chan struct{}, 1)
	swallow := func(next backfill.HandlerFunc) backfill.HandlerFunc {
		return func(ctx context.Context, job *backfill.Job) error { _ = next(ctx, job); return nil }
	}
	for name, test := range map[string]struct {
		middleware backfill.Middleware
		effects    int
		left       bool // the job
		text       string
	}{
		"swallows the error": {swallow, 0, false, ""},
		"fails afterwards": {func(next backfill.HandlerFunc) backfill.HandlerFunc {
			return func(ctx context.Context, job *backfill.Job) error { return errors.Join(next(ctx, job), errBoom) }
		}, 0, true, "boom"},
		"calls it twice": {func(next backfill.HandlerFunc) backfill.HandlerFunc {
			return func(ctx context.Context, job *backfill.Job) error {
				_ = next(ctx, job)
				job.Args = []byte(`{"n": 1}`) // of a handler that succeeds
				return next(ctx, job)
			}
		}, 0, true, "an earlier call of the handler has failed"},
		"does not wait": {func(next backfill.HandlerFunc) backfill.HandlerFunc {
			return func(ctx context.Context, job *backfill.Job) error {
				job.Args = []byte(`{"n": 2}`)
				go func() { _ = next(ctx, job) }()
				<-wrote
				return nil
			}
		}, 0, true, "while the handler ran"},
		"does without it": {func(backfill.HandlerFunc) backfill.HandlerFunc {
			return func(context.Context, *backfill.Job) error { return nil }
		}, 0, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newTxRig(t)
			stay := make(chan struct{})
			task, registry := txTask(nil, func(ctx context.Context, tx pgx.Tx, args txArgs) error {
				if err := write(ctx, tx, "x"); err != nil {
					return err
				}
				switch args.N {
				case 0:
					return errBoom
				case 2:
					wrote <- struct{}{}
					<-stay
				}
				return nil
			})
			enqueue(t, r.client, task, txArgs{})
			runOnce(t, r.client, registry, backfill.WithMiddleware(test.middleware))
			close(stay)
			if n := r.effects(t, ""); n != test.effects {
				t.Errorf("%d effects, want %d", n, test.effects)
			}
			if !test.left {
				wantJobs(t, r.db, 0)
			} else if row := onlyRow(t, r.db); !strings.Contains(row.LastError, test.text) {
				t.Errorf("%+v, want the error %q", row, test.text)
			}
		})
	}
}

// The sessions are the application's: its role, its search_path, its timeouts and hooks, and what it
// sets for sessions and transactions. The guard works in all of them.
func TestTransactionalSessions(t *testing.T) {
	t.Parallel()
	setup := func(t *testing.T) (r *txRig, role string) {
		t.Helper()
		r = newTxRig(t)
		dbtest.NeedSuperuser(t, connect(t, r.db))
		role = dbtest.NewRole(t, connect(t, r.db))
		return r, role
	}
	wild := "set search_path = elsewhere; set default_transaction_isolation = serializable; set standard_conforming_strings = off; " +
		"set datestyle = 'SQL, DMY'; set enable_indexscan = off; set row_security = off; set statement_timeout = '1s'; set transform_null_equals = on"
	for name, sql := range map[string]string{"wild settings": wild, "a statement_timeout": "set statement_timeout = '200ms'"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newTxRig(t)
			run(t, r.db, "create schema elsewhere")
			for _, sql := range dbtest.Hostile() {
				_, _ = r.db.Pool().Exec(t.Context(), sql)
			}
			var hooks atomic.Int32
			pool := poolOf(t, r.db.URL, func(c *pgxpool.Config) {
				c.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
					hooks.Add(1)
					_, err := conn.Exec(ctx, sql)
					return err
				}
			})
			client, err := backfill.NewClient(t.Context(), pool, backfill.WithLogger(quiet), backfill.WithMigrations(backfill.MigrateVerify))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(client.Close)
			var timeout string
			task, registry := txTask(nil, func(ctx context.Context, tx pgx.Tx, _ txArgs) error {
				if err := tx.QueryRow(ctx, "select pg_catalog.current_setting('statement_timeout')").Scan(&timeout); err != nil {
					return err
				}
				return write(ctx, tx, "x")
			})
			enqueue(t, r.client, task, txArgs{}, backfill.Queue("q"), backfill.Key("k"))
			addLetter(t, r.db, map[string]string{"task_identifier": "'transactional'", "job_key": "'k'"})
			runOnce(t, client, registry)
			if rows := jobRows(t, r.db); len(rows) > 0 || r.effects(t, "x") != 1 || len(letterRows(t, r.db)) != 0 {
				t.Errorf("%+v, %d effects, dead letters %+v", rows, r.effects(t, "x"), letterRows(t, r.db))
			}
			if !strings.Contains(sql, "'"+timeout+"'") {
				t.Errorf("the handler's statement_timeout is %s", timeout)
			}
		})
	}
	t.Run("a role that may only read", func(t *testing.T) {
		t.Parallel()
		r, role := setup(t)
		run(t, r.db, "grant select on public.effects to "+role)
		task, registry := txTask(nil, func(ctx context.Context, tx pgx.Tx, args txArgs) error {
			if _, err := tx.Exec(ctx, "set local role "+role); err != nil {
				return err
			}
			var n int
			if err := tx.QueryRow(ctx, "select count(*) from public.effects").Scan(&n); err != nil {
				return err
			}
			if args.N == 1 {
				return write(ctx, tx, "x")
			}
			return nil
		})
		enqueue(t, r.client, task, txArgs{N: 0}, backfill.Queue("q"))
		enqueue(t, r.client, task, txArgs{N: 1}, backfill.Queue("q"))
		if report := runOnce(t, r.client, registry); report.Completed != 1 || report.Failed != 1 {
			t.Errorf("report %+v", *report)
		}
		if row := onlyRow(t, r.db); !strings.Contains(row.LastError, "permission denied") || row.Locked {
			t.Errorf("%+v", row)
		}
	})
	t.Run("a read-only transaction", func(t *testing.T) {
		t.Parallel()
		r := newTxRig(t)
		task, registry := txTask(nil, func(ctx context.Context, tx pgx.Tx, _ txArgs) error {
			_, err := tx.Exec(ctx, "set transaction read only")
			return err
		})
		enqueue(t, r.client, task, txArgs{})
		runOnce(t, r.client, registry)
		if row := onlyRow(t, r.db); !strings.Contains(row.LastError, "25006") || row.Attempts != 1 {
			t.Errorf("%+v", row)
		}
	})
}

// Through a transaction pooler transactional jobs work as everywhere.
func TestTransactionalThroughPooler(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"exec", "simple_protocol", "cache_statement"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			r := newTxRig(t)
			through := dbtest.Pooler(t, r.db.URL, "transaction", 6, "server_round_robin = 1")
			pool := poolOf(t, through, throughPooler)
			client, err := backfill.NewClient(t.Context(), pool, backfill.WithLogger(quiet))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(client.Close)
			next := &backfill.Task[txArgs]{Name: "next"}
			var ran atomic.Int32
			task, registry := txTask(nil, func(ctx context.Context, tx pgx.Tx, args txArgs) error {
				if err := write(ctx, tx, "x"); err != nil || args.N%3 == 0 {
					return errors.Join(err, errBoom)
				}
				_, err := backfill.Enqueue(ctx, backfill.FromContext(ctx), next, txArgs{})
				return err
			}, backfill.Handle(next, func(context.Context, txArgs) error { ran.Add(1); return nil }))
			const jobs = 60
			for n := range jobs {
				enqueue(t, r.client, task, txArgs{N: n}, backfill.Queue(fmt.Sprint("q", n%7)))
			}
			report := runOnce(t, client, registry, backfill.WithTxConnections(3))
			if report.Completed != 2*jobs*2/3 || report.Failed != jobs/3 || r.effects(t, "x") != jobs*2/3 || int(ran.Load()) != jobs*2/3 {
				t.Errorf("report %+v, %d effects, %d ran", *report, r.effects(t, "x"), ran.Load())
			}
		})
	}
}

// Workers on one database share transactional jobs: each effect is there once.
func TestTransactionalFleet(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	run(t, db, "create table public.effects (job bigint not null, what text not null)")
	r := &txRig{db: db, client: newClient(t, db)}
	var mu sync.Mutex
	seen := map[int64]int{}
	task, registry := txTask(nil, func(ctx context.Context, tx pgx.Tx, _ txArgs) error {
		mu.Lock()
		defer mu.Unlock()
		seen[backfill.JobInfo(ctx).ID]++
		return write(ctx, tx, "x")
	})
	const jobs = 300
	for range 3 {
		start(t, r.client, registry, backfill.WithConcurrency(5), backfill.WithTxConnections(2))
	}
	var requests []backfill.Request
	for n := range jobs {
		requests = append(requests, task.Request(txArgs{N: n}))
	}
	if _, err := r.client.Enqueue(t.Context(), requests...); err != nil {
		t.Fatal(err)
	}
	until(t, "the end of all jobs", func() bool { return len(jobRows(t, db)) == 0 })
	if n := r.effects(t, "x"); n != jobs {
		t.Errorf("%d effects, want %d", n, jobs)
	}
}
