package backfill_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/dbtest"
)

// raise raises an error with a SQLSTATE.
func raise(ctx context.Context, tx pgx.Tx, state string) error {
	_, err := tx.Exec(ctx, fmt.Sprintf("do $$ begin raise exception 'raised' using errcode = '%s'; end $$", state))
	return err
}

// letRefuse lets COMMIT fail where a row of public.refused was inserted, and the guard where the
// setting test.refuse is made, with the SQLSTATE that they have.
func letRefuse(t *testing.T, r *txRig) {
	t.Helper()
	run(t, r.db, "create table public.refused (state text)")
	run(t, r.db, `create function public.refuse() returns trigger language plpgsql as
		$$ begin raise exception 'refused' using errcode = new.state; end $$`)
	run(t, r.db, `create constraint trigger refuse after insert on public.refused deferrable initially deferred
		for each row execute function public.refuse()`)
	run(t, r.db, `create function public.refuse_guard() returns trigger language plpgsql as $$ begin
		if coalesce(current_setting('test.refuse', true), '') <> '' then
			raise exception 'refused' using errcode = current_setting('test.refuse'); end if;
		return old; end $$`)
	run(t, r.db, `create trigger refuse before delete on graphile_worker._private_jobs for each row execute function public.refuse_guard()`)
}

// Wherever a serialization failure or a deadlock comes from, the job runs again at once, and no
// attempt is charged; if it does not end, one is, and the failure says how often it was tried.
func TestTransactionalConflicts(t *testing.T) {
	t.Parallel()
	const always = 1000
	for name, test := range map[string]struct {
		conflicts int // runs that meet one
		does      func(ctx context.Context, tx pgx.Tx) error
		runs      int
		want      []string // in last_error; nil: it succeeds
	}{
		"of a statement":     {2, func(ctx context.Context, tx pgx.Tx) error { return raise(ctx, tx, "40001") }, 3, nil},
		"a deadlock":         {3, func(ctx context.Context, tx pgx.Tx) error { return raise(ctx, tx, "40P01") }, 4, nil},
		"wrapped":            {1, func(ctx context.Context, tx pgx.Tx) error { return fmt.Errorf("mine: %w", raise(ctx, tx, "40001")) }, 2, nil},
		"hidden":             {1, func(ctx context.Context, tx pgx.Tx) error { return fmt.Errorf("mine: %v", raise(ctx, tx, "40001")) }, 2, nil}, //nolint:errorlint // as users do
		"caught":             {1, func(ctx context.Context, tx pgx.Tx) error { _ = raise(ctx, tx, "40001"); return nil }, 2, nil},
		"its echo":           {1, func(ctx context.Context, tx pgx.Tx) error { _ = raise(ctx, tx, "40P01"); return write(ctx, tx, "x") }, 2, nil},
		"an echo of another": {1, func(ctx context.Context, tx pgx.Tx) error { _ = raise(ctx, tx, "22012"); return write(ctx, tx, "x") }, 1, []string{"25P02", "22012"}},
		"at COMMIT": {2, func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "insert into public.refused values ('40001')")
			return err
		}, 3, nil},
		"of the guard": {1, func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "select set_config('test.refuse', '40001', true)")
			return err
		}, 2, nil},
		"for ever":   {always, func(ctx context.Context, tx pgx.Tx) error { return raise(ctx, tx, "40001") }, 4, []string{"in 4 runs of this attempt", "40001"}},
		"permanent":  {always, func(ctx context.Context, tx pgx.Tx) error { return backfill.Permanent(raise(ctx, tx, "40001")) }, 1, []string{"40001"}},
		"of another": {always, func(ctx context.Context, tx pgx.Tx) error { return raise(ctx, tx, "23505") }, 1, []string{"23505"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newTxRig(t)
			letRefuse(t, r)
			var runs atomic.Int32
			task, registry := txTask(nil, func(ctx context.Context, tx pgx.Tx, _ txArgs) error {
				n := int(runs.Add(1))
				if err := write(ctx, tx, fmt.Sprint("run ", n)); err != nil {
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
			row := onlyEnd(t, r.db)
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

// checkCharged fails the test if attempts were charged for conflicts before their four runs were
// used up. Whether one job in hundreds meets somebody four times in a row is chance: the server,
// which all tests share, decides when it refuses.
func checkCharged(t *testing.T, jobs int, failures []error) {
	t.Helper()
	for _, err := range failures {
		if err == nil || !strings.Contains(err.Error(), "in 4 runs of this attempt") {
			t.Errorf("an attempt was charged: %v", err)
		}
	}
	if len(failures) > jobs/50 {
		t.Errorf("%d attempts of %d jobs were charged", len(failures), jobs)
	}
}

// Serializable handlers that get in each other's way and enqueue for one another: each has its
// effect once, and no attempt is charged before its runs are used up.
func TestTransactionalSerializable(t *testing.T) {
	t.Parallel()
	const workers, chains, hops, accounts = 4, 40, 50, 20_000
	r := newTxRig(t)
	run(t, r.db, "create table public.accounts (id int primary key, total int not null default 0)")
	run(t, r.db, "insert into public.accounts select generate_series(1, $1::int)", accounts)
	run(t, r.db, "vacuum analyze public.accounts")
	var task *backfill.Task[txArgs]
	var mu sync.Mutex
	var failures []error
	runs := atomic.Int32{}
	task, registry := txTask(func(task *backfill.Task[txArgs]) {
		task.Isolation, task.Backoff = backfill.Serializable, backfill.FixedBackoff(10*time.Millisecond)
	}, func(ctx context.Context, tx pgx.Tx, args txArgs) error {
		runs.Add(1)
		from, to := 1+rand.IntN(accounts), 1+rand.IntN(accounts)
		var total int
		if err := tx.QueryRow(ctx, "select total from public.accounts where id = $1", from).Scan(&total); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "update public.accounts set total = total + 1 where id = $1", to); err != nil {
			return err
		}
		if args.N == 0 {
			return nil
		}
		_, err := backfill.Enqueue(ctx, backfill.FromContext(ctx), task, txArgs{N: args.N - 1})
		return err
	})
	var requests []backfill.Request
	for range chains {
		requests = append(requests, task.Request(txArgs{N: hops - 1}))
	}
	var all []*running
	for range workers {
		all = append(all, start(t, r.client, registry, backfill.WithConcurrency(4), backfill.WithObserver(func(e backfill.Event) {
			if e.Kind == backfill.EventFailed {
				mu.Lock()
				defer mu.Unlock()
				failures = append(failures, e.Err)
			}
		})))
	}
	if _, err := r.client.Enqueue(t.Context(), requests...); err != nil {
		t.Fatal(err)
	}
	dbtest.UntilWithin(t, 3*hang, func() bool {
		return get[int](t, r.db.Pool(), "select count(*)::int from graphile_worker._private_jobs") == 0
	})
	for _, w := range all {
		if err := w.stop(); err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d jobs, %d runs", chains*hops, runs.Load())
	checkCharged(t, chains*hops, failures)
	if total := get[int](t, r.db.Pool(), "select sum(total)::int from public.accounts"); total != chains*hops {
		t.Errorf("%d effects of %d jobs", total, chains*hops)
	}
	if runs.Load() == chains*hops {
		t.Error("nothing got in anything's way")
	}
}

// A job whose row somebody has locked is not waited for: whoever has it may wait for the
// transaction. It is tried again, and the attempt is charged when that does not end.
func TestTransactionalRowLocked(t *testing.T) {
	t.Parallel()
	r := newTxRig(t)
	locked := make(chan func(), 1)
	task, registry := txTask(nil, func(ctx context.Context, tx pgx.Tx, _ txArgs) error {
		other, err := r.db.Pool().Begin(context.WithoutCancel(ctx))
		if err != nil {
			return err
		}
		_, err = other.Exec(ctx, "select from graphile_worker._private_jobs where id = $1 for update", backfill.JobInfo(ctx).ID)
		locked <- func() { _ = other.Rollback(context.WithoutCancel(ctx)) }
		return errors.Join(err, write(ctx, tx, "x"))
	})
	enqueue(t, r.client, task, txArgs{})
	w := start(t, r.client, registry)
	unlock := receive(t, "the lock", locked)
	for end := time.Now().Add(300 * time.Millisecond); time.Now().Before(end); {
		// pg_locks would show the waits of other tests' databases, too.
		if get[bool](t, r.db.Pool(), `select exists (select from pg_stat_activity
			where datname = current_database() and wait_event_type = 'Lock')`) {
			t.Fatal("the guard waits for the row")
		}
	}
	unlock()
	w.awaitRecorded(1)
	if n := r.effects(t, "x"); n != 1 {
		t.Errorf("%d effects", n)
	}
}
