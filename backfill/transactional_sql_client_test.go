package backfill_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/testutil/pgtest"
)

// Wherever a serialization failure or a deadlock comes from, the job runs again at once, and no
// attempt is charged. One that the handler has hidden cannot be told from another failure.
func TestTransactionalSQLConflicts(t *testing.T) {
	t.Parallel()
	const always = 1000
	raise := func(state string) string {
		return fmt.Sprintf("do $$ begin raise exception 'raised' using errcode = '%s'; end $$", state)
	}
	for name, test := range map[string]struct {
		conflicts int // runs that meet one
		does      func(ctx context.Context, tx *sql.Tx) error
		runs      int
		want      []string // in last_error; nil: it succeeds
	}{
		"of a statement": {2, func(ctx context.Context, tx *sql.Tx) error { return execSQL(ctx, tx, raise("40001")) }, 3, nil},
		"a deadlock":     {3, func(ctx context.Context, tx *sql.Tx) error { return execSQL(ctx, tx, raise("40P01")) }, 4, nil},
		"wrapped": {1, func(ctx context.Context, tx *sql.Tx) error {
			return fmt.Errorf("mine: %w", execSQL(ctx, tx, raise("40001")))
		}, 2, nil},
		"at COMMIT": {2, func(ctx context.Context, tx *sql.Tx) error {
			return execSQL(ctx, tx, "insert into public.refused values ('40001')")
		}, 3, nil},
		"of the guard": {1, func(ctx context.Context, tx *sql.Tx) error {
			return execSQL(ctx, tx, "set local test.refuse = '40001'")
		}, 2, nil},
		"for ever": {always, func(ctx context.Context, tx *sql.Tx) error { return execSQL(ctx, tx, raise("40001")) }, 4, []string{
			"in 4 runs of this attempt", "40001",
		}},
		"caught":     {always, func(ctx context.Context, tx *sql.Tx) error { _ = execSQL(ctx, tx, raise("40001")); return nil }, 1, []string{"25P02", "caught"}},
		"of another": {always, func(ctx context.Context, tx *sql.Tx) error { return execSQL(ctx, tx, raise("23505")) }, 1, []string{"23505"}},
	} {
		for driverName, driver := range twoDrivers {
			t.Run(name+", "+driverName, func(t *testing.T) {
				t.Parallel()
				r := driver.newSQLTxRig(t)
				letRefuse(t, r)
				var runs atomic.Int32
				task, registry := sqlTxTask(nil, func(ctx context.Context, tx *sql.Tx, _ txArgs) error {
					n := int(runs.Add(1))
					if err := writeSQL(ctx, tx, fmt.Sprint("run ", n)); err != nil {
						return err
					}
					if n <= test.conflicts {
						return test.does(ctx, tx)
					}
					return nil
				})
				enqueue(t, r.client, task, txArgs{}, backfill.Queue("q"))
				report := runOnce(t, r.client, registry)
				if int(runs.Load()) != test.runs {
					t.Errorf("%d runs, want %d", runs.Load(), test.runs)
				}
				if test.want == nil {
					if report.Completed != 1 || r.effects(t, "") != 1 || r.effects(t, fmt.Sprint("run ", test.runs)) != 1 {
						t.Errorf("report %+v, %d effects, %+v", *report, r.effects(t, ""), jobRows(t, r.db))
					}
					return
				}
				row := onlyRow(t, r.db)
				for _, want := range test.want {
					if !strings.Contains(row.LastError, want) {
						t.Errorf("%+v, want the error %q", row, want)
					}
				}
				if n := r.effects(t, ""); n > 0 {
					t.Errorf("%d effects", n)
				}
			})
		}
	}
}

// Serializable handlers that get in each other's way and enqueue for one another: each has its
// effect once, and no attempt is charged.
func TestTransactionalSQLSerializable(t *testing.T) {
	t.Parallel()
	const chains, hops, accounts = 12, 15, 5000
	for driverName, driver := range twoDrivers {
		t.Run(driverName, func(t *testing.T) {
			t.Parallel()
			r := driver.newSQLTxRig(t)
			run(t, r.db, "create table public.accounts (id int primary key, total int not null default 0)")
			run(t, r.db, "insert into public.accounts select generate_series(1, $1::int)", accounts)
			run(t, r.db, "vacuum analyze public.accounts")
			var runs atomic.Int32
			var task *backfill.Task[txArgs]
			task, registry := sqlTxTask(func(task *backfill.Task[txArgs]) {
				task.Isolation, task.Backoff = backfill.Serializable, backfill.FixedBackoff(10*time.Millisecond)
			}, func(ctx context.Context, tx *sql.Tx, args txArgs) error {
				runs.Add(1)
				var total int
				if err := tx.QueryRowContext(ctx, "select total from public.accounts where id = $1", 1+rand.IntN(accounts)).Scan(&total); err != nil {
					return err
				}
				if _, err := tx.ExecContext(ctx, "update public.accounts set total = total + 1 where id = $1", 1+rand.IntN(accounts)); err != nil {
					return err
				}
				if args.N == 0 {
					return nil
				}
				_, err := backfill.Enqueue(ctx, backfill.FromContext(ctx), task, txArgs{N: args.N - 1})
				return err
			})
			var workers []*running
			for range 2 {
				workers = append(workers, start(t, r.client, registry, backfill.WithConcurrency(4)))
			}
			var requests []backfill.Request
			for range chains {
				requests = append(requests, task.Request(txArgs{N: hops - 1}))
			}
			if _, err := r.client.Enqueue(t.Context(), requests...); err != nil {
				t.Fatal(err)
			}
			until(t, "the end of all jobs", func() bool { return len(jobRows(t, r.db)) == 0 })
			var failures []error
			for _, w := range workers {
				if err := w.stop(); err != nil {
					t.Error(err)
				}
				events, _ := w.seen()
				for _, e := range events {
					if e.Kind == backfill.EventFailed {
						failures = append(failures, e.Err)
					}
				}
			}
			t.Logf("%d jobs, %d runs", chains*hops, runs.Load())
			checkCharged(t, chains*hops, failures)
			if total := get[int](t, r.db.Pool(), "select sum(total)::int from public.accounts"); total != chains*hops {
				t.Errorf("%d effects of %d jobs", total, chains*hops)
			}
		})
	}
}

// liar is a driver that says that it has committed when the transaction was rolled back.
type liar struct{ driver.Connector }

func (l liar) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := l.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return lyingConn{conn.(*stdlib.Conn)}, nil
}

type lyingConn struct{ *stdlib.Conn }

func (c lyingConn) BeginTx(ctx context.Context, options driver.TxOptions) (driver.Tx, error) {
	tx, err := c.Conn.BeginTx(ctx, options)
	return lyingTx{tx}, err
}

type lyingTx struct{ driver.Tx }

func (t lyingTx) Commit() error { return t.Rollback() }

// What a driver says about COMMIT does not count: the job's row does.
func TestTransactionalSQLDriverLies(t *testing.T) {
	t.Parallel()
	r := newTxRig(t)
	config, err := pgx.ParseConfig(r.db.URL)
	if err != nil {
		t.Fatal(err)
	}
	pool := sql.OpenDB(liar{stdlib.GetConnector(*config)})
	t.Cleanup(func() { pool.Close() })
	client := newClient(t, r.db, backfill.WithSQLDB(pool))
	task, registry := sqlTxTask(nil, func(ctx context.Context, tx *sql.Tx, _ txArgs) error { return writeSQL(ctx, tx, "x") })
	enqueue(t, client, task, txArgs{}, backfill.Queue("q"))
	runOnce(t, client, registry)
	if row := onlyRow(t, r.db); row.Attempts != 1 || !strings.Contains(row.LastError, "the database has rolled back") || row.Locked {
		t.Errorf("%+v", row)
	}
	if n := r.effects(t, ""); n > 0 {
		t.Errorf("%d effects", n)
	}
}

// Jobs with transactions of both kinds together never run beside more others than WithTxConnections
// says.
func TestTransactionalSQLConnections(t *testing.T) {
	t.Parallel()
	r := sqlDrivers["pgx"].newSQLTxRig(t)
	var now, most atomic.Int32
	count := func() (done func()) {
		n := now.Add(1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		return func() { now.Add(-1) }
	}
	const slowly = "select pg_sleep(0.01)"
	onPgx := &backfill.Task[txArgs]{Name: "on_pgx", Timeout: time.Minute}
	onSQL, registry := sqlTxTask(nil, func(ctx context.Context, tx *sql.Tx, _ txArgs) error {
		defer count()()
		return errors.Join(execSQL(ctx, tx, slowly), writeSQL(ctx, tx, "x"))
	}, backfill.Handle(onPgx, func(ctx context.Context, tx pgx.Tx, _ txArgs) error {
		defer count()()
		_, err := tx.Exec(ctx, slowly)
		return errors.Join(err, write(ctx, tx, "x"))
	}))
	const jobs = 40
	var requests []backfill.Request
	for n := range jobs {
		requests = append(requests, onPgx.Request(txArgs{N: n}), onSQL.Request(txArgs{N: n}))
	}
	if _, err := r.client.Enqueue(t.Context(), requests...); err != nil {
		t.Fatal(err)
	}
	start(t, r.client, registry, backfill.WithTxConnections(3), backfill.WithConcurrency(20)).awaitRecorded(2 * jobs)
	if most.Load() != 3 {
		t.Errorf("%d transactional jobs ran at the same time, want 3", most.Load())
	}
	if n := r.effects(t, "x"); n != 2*jobs {
		t.Errorf("%d effects, want %d", n, 2*jobs)
	}
}

// A job whose transaction cannot be begun, because the pool has no connection for it, ends with its
// timeout.
func TestTransactionalSQLWaitsForConnection(t *testing.T) {
	t.Parallel()
	for driverName, driver := range twoDrivers {
		t.Run(driverName, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			pool := driver.pool(t, db.URL)
			pool.SetMaxOpenConns(1)
			client := newClient(t, db, backfill.WithSQLDB(pool))
			task, registry := sqlTxTask(func(task *backfill.Task[txArgs]) { task.Timeout = time.Second }, func(context.Context, *sql.Tx, txArgs) error {
				return nil
			})
			enqueue(t, client, task, txArgs{})
			conn, err := pool.Conn(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			runOnce(t, client, registry)
			row := onlyRow(t, db)
			for _, want := range []string{"begin the job's transaction", "timed out after 1s"} {
				if row.Attempts != 1 || !strings.Contains(row.LastError, want) {
					t.Errorf("%+v, want the error %q", row, want)
				}
			}
		})
	}
}

// Workers are notified of what a handler enqueues once that is committed.
func TestTransactionalSQLNotifies(t *testing.T) {
	t.Parallel()
	r := sqlDrivers["pgx"].newSQLTxRig(t)
	_, registry := sqlTxTask(nil, func(ctx context.Context, _ *sql.Tx, args txArgs) error {
		_, err := backfill.Enqueue(ctx, backfill.FromContext(ctx), &backfill.Task[txArgs]{Name: "next"}, txArgs{})
		if args.N == 0 {
			return errors.Join(err, errBoom)
		}
		return err
	})
	listener := dbtest.Listen(t, r.db.URL)
	heard := func() bool {
		return slices.ContainsFunc(listener.Take(t), func(n string) bool { return strings.Contains(n, "jobs:insert") })
	}
	for n, want := range []bool{false, true} {
		run(t, r.db, "select graphile_worker.add_job('transactional', json_build_object('n', $1::int))", n)
		listener.Take(t) // of that one's own transaction
		runOnce(t, r.client, registry)
		if !want && heard() {
			t.Error("of jobs that were rolled back, others were notified")
		}
		run(t, r.db, "delete from graphile_worker._private_jobs where attempts > 0")
	}
	until(t, "the notification of the commit", heard)
}

// A client needs a *sql.DB for such tasks, and one that leads to its own database.
func TestWithSQLDB(t *testing.T) {
	t.Parallel()
	db, other := pgtest.New(t), pgtest.New(t)
	_, registry := sqlTxTask(nil, func(context.Context, *sql.Tx, txArgs) error { return nil })
	_, err := newClient(t, db).NewWorker(registry)
	wantError(t, err, `the handlers of "transactional" take a *sql.Tx, and the client has no *sql.DB`)
	wantError(t, err, "WithSQLDB(db)")
	if _, err := newClient(t, db, backfill.WithSQLDB(sqlDrivers["pq"].pool(t, db.URL))).NewWorker(registry); err != nil {
		t.Error(err)
	}
	for name, test := range map[string]struct {
		db   *sql.DB
		want string
	}{
		"nil":             {nil, "WithSQLDB: the *sql.DB is nil"},
		"another":         {sqlDrivers["pgx"].pool(t, other.URL), "WithSQLDB: the *sql.DB leads to database "},
		"another, by pq":  {sqlDrivers["pq"].pool(t, other.URL), "WithSQLDB: the *sql.DB leads to database "},
		"out of reach":    {sqlDrivers["pgx"].pool(t, "postgres://127.0.0.1:1/x"), "ask which database the *sql.DB leads to"},
		"of another kind": {sql.OpenDB(nil), "WithSQLDB: ask which database the *sql.DB leads to: panic"},
	} {
		if _, err := backfill.NewClient(t.Context(), db.Pool(), backfill.WithSQLDB(test.db), backfill.WithLogger(quiet)); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
	err = backfill.Problems(backfill.NewRegistry(backfill.Handle(&backfill.Task[txArgs]{Name: "t", Timeout: time.Minute}, sqlTxHandler(nil))))
	wantError(t, err, "its handler is nil")
}

// Where the *sql.DB comes to lead elsewhere later, nothing is committed there, and the failure says
// so.
func TestWithSQLDBThatChanges(t *testing.T) {
	t.Parallel()
	r := newTxRig(t)
	other := newTxRig(t)
	config, err := pgx.ParseConfig(r.db.URL)
	if err != nil {
		t.Fatal(err)
	}
	var database atomic.Value
	database.Store(config.Database)
	pool := stdlib.OpenDB(*config, stdlib.OptionBeforeConnect(func(_ context.Context, c *pgx.ConnConfig) error {
		c.Database = database.Load().(string)
		return nil
	}))
	t.Cleanup(func() { pool.Close() })
	pool.SetMaxIdleConns(-1)
	client := newClient(t, r.db, backfill.WithSQLDB(pool))
	database.Store(get[string](t, other.db.Pool(), "select current_database()"))
	task, registry := sqlTxTask(nil, func(ctx context.Context, tx *sql.Tx, _ txArgs) error { return writeSQL(ctx, tx, "x") })
	enqueue(t, client, task, txArgs{})
	runOnce(t, client, registry)
	if row := onlyRow(t, r.db); row.Attempts != 1 || !strings.Contains(row.LastError, "leads to another database") || row.Locked {
		t.Errorf("%+v", row)
	}
	if n := r.effects(t, "") + other.effects(t, ""); n > 0 {
		t.Errorf("%d effects", n)
	}
}
