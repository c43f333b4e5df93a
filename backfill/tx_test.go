package backfill_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/testutil/pgtest"
)

// transaction is a transaction of either kind, with what is bound to it.
type transaction struct {
	enqueuer         backfill.Enqueuer
	commit, rollback func() error
}

// transactions begin one on a connection of its own: of pgx, and of each driver for database/sql.
func transactions() map[string]func(*testing.T, *pgtest.Database, *backfill.Client) transaction {
	all := map[string]func(*testing.T, *pgtest.Database, *backfill.Client) transaction{
		"pgx": func(t *testing.T, db *pgtest.Database, client *backfill.Client) transaction {
			t.Helper()
			tx, err := connect(t, db).Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return transaction{
				client.WithTx(tx), func() error { return tx.Commit(context.Background()) }, func() error { return tx.Rollback(context.Background()) },
			}
		},
	}
	for name, driver := range sqlDrivers {
		all["sql "+name] = driver.begin
	}
	return all
}

// manyKinds are requests of every kind.
func manyKinds() []backfill.Request {
	at := time.Date(2040, 1, 2, 3, 4, 5, 678901000, time.UTC)
	return []backfill.Request{
		{Task: "a", Args: raw(`{"text":"é \\ \" ' {,} \u0000"}`), Flags: []string{`f"`, "{", `\`}},
		{Task: "b", Args: raw(`[1, 2]`), Queue: `q"'\{},`, Priority: -3, MaxAttempts: 7, RunAt: at},
		{Task: "c", Args: raw(`{"n": 1}`), Key: `z"'\{},NULL`, Queue: "q", RunAt: at, Flags: []string{"f"}},
		{Task: "c", Key: "NULL", KeyMode: backfill.PreserveRunAt, Priority: 5},
		{Task: "c", Args: raw(`[3]`), Key: "a", KeyMode: backfill.UnsafeDedupe, Delay: time.Hour},
		{Task: "c", Args: raw(`[3]`), Key: "a", KeyMode: backfill.UnsafeDedupe},
	}
}

// Jobs of a transaction are there, and run, once it has committed; the results are those of a
// client without one.
func TestTransactionCommits(t *testing.T) {
	t.Parallel()
	for kind, begin := range transactions() {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			plain := pgtest.New(t)
			want, err := newClient(t, plain).Enqueue(t.Context(), manyKinds()...)
			if err != nil {
				t.Fatal(err)
			}
			db := pgtest.New(t)
			client := newClient(t, db)
			tx := begin(t, db, client)
			got, err := tx.enqueuer.Enqueue(t.Context(), manyKinds()...)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got, withoutTimes); diff != "" {
				t.Errorf("results (-without transaction +with):\n%s", diff)
			}
			if got[4] != got[5] || !got[1].RunAt.Equal(want[1].RunAt) {
				t.Errorf("results %+v", got)
			}
			wantJobs(t, db, 0)
			if err := tx.commit(); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(jobRows(t, plain), jobRows(t, db)); diff != "" {
				t.Errorf("rows (-without transaction +with):\n%s", diff)
			}
		})
	}
}

func TestTransactionRollsBack(t *testing.T) {
	t.Parallel()
	for kind, begin := range transactions() {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			tx := begin(t, db, newClient(t, db))
			if _, err := tx.enqueuer.Enqueue(t.Context(), manyKinds()...); err != nil {
				t.Fatal(err)
			}
			if err := tx.rollback(); err != nil {
				t.Fatal(err)
			}
			wantJobs(t, db, 0)
			_, err := tx.enqueuer.Enqueue(t.Context(), backfill.Request{Task: "a"})
			wantError(t, err, "in transaction: enqueue: ")
		})
	}
}

// While the transaction is open the job does not run, whatever else does; after the commit it does.
func TestTransactionRunsAfterCommit(t *testing.T) {
	t.Parallel()
	for kind, begin := range transactions() {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			client := newClient(t, db)
			task, registry := taskOf("send_email", ignore)
			w := start(t, client, registry)
			tx := begin(t, db, client)
			inside := enqueue(t, tx.enqueuer, task, mailArgs{})
			outside := enqueue(t, client, task, mailArgs{})
			w.await("the job outside", 1, of(backfill.EventFinished, outside.ID))
			if events, _ := w.seen(); count(events, backfill.EventStart) != 1 {
				t.Error("the job ran before the commit")
			}
			if err := tx.commit(); err != nil {
				t.Fatal(err)
			}
			w.await("the job inside", 1, of(backfill.EventFinished, inside.ID))
		})
	}
}

// A client that is bound to one transaction can be bound to another.
func TestTransactionsOfABoundClient(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	// A name that is new in two open transactions makes the second wait for the first.
	exec(t, db.Pool(), "insert into graphile_worker._private_tasks (identifier) values ('send_email')")
	first, second := connect(t, db), connect(t, db)
	one, err := first.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	other, err := second.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	enqueue(t, client.WithTx(one), mailTask, mailArgs{UserID: 1})
	enqueue(t, client.WithTx(one).WithTx(other), mailTask, mailArgs{UserID: 2})
	_, err = backfill.Enqueue(t.Context(), client.WithTx(one).WithSQLTx(nil), mailTask, mailArgs{})
	wantError(t, err, "WithSQLTx: the transaction is nil")
	_, err = backfill.Enqueue(t.Context(), client.WithTx(nil), mailTask, mailArgs{})
	wantError(t, err, "WithTx: the transaction is nil")
	if err := errors.Join(one.Rollback(t.Context()), other.Commit(t.Context())); err != nil {
		t.Fatal(err)
	}
	if row := onlyRow(t, db); row.Payload != `{"user_id":2}` {
		t.Errorf("got %+v", row)
	}
}

func TestInTx(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	if _, err := db.Pool().Exec(t.Context(), "create table users (id int)"); err != nil {
		t.Fatal(err)
	}
	signUp := func(id int, result error) error {
		return backfill.InTx(t.Context(), client, func(ctx context.Context, tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "insert into users values ($1)", id); err != nil {
				return err
			}
			if _, err := EnqueuePurge(ctx); err != nil { // as generated code does it
				return err
			}
			// Inside another context the Enqueuer is still the transaction's.
			inner, cancel := context.WithTimeout(ctx, hang)
			defer cancel()
			if _, err := EnqueueNightly(inner, NightlyArgs{"1"}); err != nil {
				return err
			}
			if n := get[int](t, db.Pool(), "select count(*) from graphile_worker._private_jobs"); id == 1 && n != 0 {
				t.Errorf("%d jobs are visible outside", n)
			}
			return result
		})
	}
	if err := signUp(1, errBoom); !errors.Is(err, errBoom) {
		t.Errorf("got %v", err)
	}
	wantJobs(t, db, 0)
	if err := signUp(2, nil); err != nil {
		t.Fatal(err)
	}
	wantJobs(t, db, 2)
	if id := get[int](t, db.Pool(), "select id from users"); id != 2 {
		t.Errorf("user %d", id)
	}
	// A panic goes on, and nothing stays.
	func() {
		defer func() {
			if value := recover(); value != "oops" {
				t.Errorf("recovered %v", value)
			}
		}()
		_ = backfill.InTx(t.Context(), client, func(ctx context.Context, _ pgx.Tx) error {
			_, _ = EnqueuePurge(ctx)
			panic("oops")
		})
	}()
	wantJobs(t, db, 2)
	if err := backfill.InTx(t.Context(), nil, nil); !errors.Is(err, backfill.ErrNoClient) {
		t.Errorf("without a client: %v", err)
	}
}

// InTx in InTx: the inner function's jobs are those of the inner transaction.
func TestInTxNested(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	err := backfill.InTx(t.Context(), client, func(outer context.Context, _ pgx.Tx) error {
		if err := backfill.InTx(outer, client, func(inner context.Context, _ pgx.Tx) error {
			_, err := EnqueueNightly(inner, NightlyArgs{"inner"})
			return err
		}); err != nil {
			return err
		}
		if _, err := EnqueueNightly(outer, NightlyArgs{"outer"}); err != nil {
			return err
		}
		return errBoom
	})
	if !errors.Is(err, errBoom) {
		t.Errorf("got %v", err)
	}
	if row := onlyRow(t, db); row.Payload != `{"day":"inner"}` {
		t.Errorf("got %+v", row)
	}
}

// A request that is wrong is refused before anything is sent, so the transaction goes on.
func TestTransactionSurvivesBadRequests(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	err := backfill.InTx(t.Context(), client, func(ctx context.Context, _ pgx.Tx) error {
		_, err := backfill.Enqueue(ctx, backfill.FromContext(ctx), mailTask, mailArgs{}, backfill.Delay(-1))
		wantError(t, err, "in transaction: enqueue: request 0")
		_, err = backfill.Enqueue(ctx, backfill.FromContext(ctx), mailTask, mailArgs{})
		return err
	})
	if err != nil {
		t.Error(err)
	}
	wantJobs(t, db, 1)
}

// A transaction whose context has ended when its function returns is not committed, and the error
// does not say that it may have been.
func TestInTxWhoseContextHasEnded(t *testing.T) {
	t.Parallel()
	client := newClient(t, pgtest.New(t))
	task, _ := taskOf("send_email", ignore)
	ctx, cancel := context.WithCancel(t.Context())
	err := backfill.InTx(ctx, client, func(ctx context.Context, _ pgx.Tx) error {
		defer cancel()
		_, err := backfill.Enqueue(ctx, backfill.FromContext(ctx), task, mailArgs{})
		return err
	})
	wantError(t, err, "commit: the jobs were not enqueued: context canceled")
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
