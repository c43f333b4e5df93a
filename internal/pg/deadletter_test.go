package pg_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/testutil/pgtest"
)

// addLetters inserts dead letters, ids 1 to n, and returns their places.
func addLetters(t *testing.T, pool *pgxpool.Pool, n int) []pg.DeadLetterPlace {
	t.Helper()
	dbtest.Run(t, pool, `insert into graphile_worker.backfill_dlq (original_job_id, task_identifier, payload, priority, max_attempts, attempts,
		failure_reason, original_created_at, original_run_at) select 100 + i, 'a', '{}', 0, 25, 25, 'exhausted', now(), now() from generate_series(1, $1::int) as i`, n)
	places, err := pg.NewAdmin(pool, schemaName).FindDeadLetters(t.Context(), pg.DeadLetterFilter{}, pg.DeadLetterPlace{}, n)
	if err != nil || len(places) != n {
		t.Fatal(places, err)
	}
	return places
}

// What has changed between the look and the act is left as it is, whatever it has become.
func TestDeadLettersThatChangeMeanwhile(t *testing.T) {
	t.Parallel()
	for name, act := range map[string]func(*pg.Admin, []pg.DeadLetterPlace) ([]pg.DeadLetterOutcome, error){
		"requeue": func(a *pg.Admin, places []pg.DeadLetterPlace) ([]pg.DeadLetterOutcome, error) {
			return a.RequeueDeadLetters(t.Context(), places, "")
		},
		"delete": func(a *pg.Admin, places []pg.DeadLetterPlace) ([]pg.DeadLetterOutcome, error) {
			return a.DeleteDeadLetters(t.Context(), places)
		},
	} {
		pool := pgtest.New(t).Pool()
		admin := pg.NewAdmin(pool, schemaName)
		places := addLetters(t, pool, 5)
		dbtest.Run(t, pool, "delete from graphile_worker.backfill_dlq where id = 1")
		dbtest.Run(t, pool, "update graphile_worker.backfill_dlq set requeued_job_id = 77 where id = 2")
		dbtest.Run(t, pool, "update graphile_worker.backfill_dlq set failed_at = failed_at + interval '1 microsecond' where id = 3")
		dbtest.Run(t, pool, "update graphile_worker.backfill_dlq set requeued_job_id = 78, failed_at = failed_at + interval '1 second' where id = 4")
		const rows = "select string_agg(d::text, '; ' order by id) from graphile_worker.backfill_dlq d where id < 5"
		before := dbtest.Get[string](t, pool, rows)
		outcomes, err := act(admin, places)
		if err != nil {
			t.Fatal(err)
		}
		want := []pg.DeadLetterOutcome{
			{ID: 1, Skip: pg.DeadLetterGone},
			{ID: 2, Skip: pg.DeadLetterRequeued, JobID: 77},
			{ID: 3, Skip: pg.DeadLetterChanged},
			{ID: 4, Skip: pg.DeadLetterRequeued, JobID: 78},
			{ID: 5, JobID: outcomes[4].JobID},
		}
		if diff := cmp.Diff(want, outcomes); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if after := dbtest.Get[string](t, pool, rows); after != before {
			t.Errorf("%s: %s\nbefore: %s", name, after, before)
		}
		if jobs := dbtest.Get[int](t, pool, "select count(*) from graphile_worker._private_jobs"); jobs != map[string]int{"requeue": 1}[name] {
			t.Errorf("%s: %d jobs", name, jobs)
		}
	}
}

// A dead letter that another transaction requeues or deletes at this moment is waited for, and then
// it is as that has left it.
func TestDeadLetterThatAnotherTransactionHolds(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool()
	admin := pg.NewAdmin(pool, schemaName)
	admin.WaitForLocks(time.Minute)
	places := addLetters(t, pool, 3)
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	dbtest.Run(t, tx, "update graphile_worker.backfill_dlq set requeued_job_id = 77 where id = 1")
	dbtest.Run(t, tx, "delete from graphile_worker.backfill_dlq where id = 2")
	dbtest.Run(t, tx, "update graphile_worker.backfill_dlq set notes = 'n' where id = 3")
	done := make(chan []pg.DeadLetterOutcome, 1)
	go func() {
		outcomes, err := admin.RequeueDeadLetters(t.Context(), places, "")
		if err != nil {
			t.Error(err)
		}
		done <- outcomes
	}()
	dbtest.Until(t, func() bool { return dbtest.SomeoneWaits(t, pool, "transactionid") })
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	job := func() int64 {
		return dbtest.Get[int64](t, pool, "select coalesce(max(id), 0) from graphile_worker._private_jobs")
	}
	outcomes := <-done
	want := []pg.DeadLetterOutcome{{ID: 1, Skip: pg.DeadLetterRequeued, JobID: 77}, {ID: 2, Skip: pg.DeadLetterGone}, {ID: 3, JobID: job()}}
	if diff := cmp.Diff(want, outcomes); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := dbtest.Get[string](t, pool, "select concat(requeued_job_id, notes) from graphile_worker.backfill_dlq where id = 3"); got != fmt.Sprint(job(), "n") {
		t.Errorf("the last one is %s", got)
	}
}

// The caller's context ends while the answer to the commit is under way: the outcomes say what the
// database has.
func TestRequeueWhoseContextEndsAtTheCommit(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	for _, after := range []string{"commit\x00", "set_config('lock_timeout'"} {
		dbtest.Run(t, db.Pool(), "truncate graphile_worker.backfill_dlq, graphile_worker._private_jobs restart identity")
		places := addLetters(t, db.Pool(), 2)
		proxy := dbtest.NewProxy(t, db.URL)
		pool, err := pgxpool.New(t.Context(), proxy.URL)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { pg.ClosePool(pool) })
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		proxy.ArmAfter(after, dbtest.Freeze)
		go func() {
			dbtest.Until(t, func() bool { return proxy.Met() != 0 || t.Context().Err() != nil })
			cancel()
		}()
		outcomes, err := pg.NewAdmin(pool, schemaName).RequeueDeadLetters(ctx, places, "")
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%q: %v", after, err)
		}
		var want []pg.DeadLetterOutcome
		if after == "commit\x00" {
			want = []pg.DeadLetterOutcome{{ID: 1, JobID: 1}, {ID: 2, JobID: 2}}
		}
		if diff := cmp.Diff(want, outcomes); diff != "" {
			t.Errorf("%q (-want +got):\n%s", after, diff)
		}
		dbtest.Until(t, func() bool {
			return dbtest.Get[int](t, db.Pool(), "select count(*) from graphile_worker._private_jobs") == len(want)
		})
	}
}

// The same, and the jobs have ended before the caller looks: one that has failed for good is the
// dead letter again, and of one that is gone nobody knows which way it went.
func TestRequeueWhoseJobsEndBeforeTheLook(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	places := addLetters(t, db.Pool(), 2)
	proxy := dbtest.NewProxy(t, db.URL)
	pool, err := pgxpool.New(t.Context(), proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pg.ClosePool(pool) })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	proxy.ArmAfter("commit\x00", dbtest.Freeze)
	var ended sync.WaitGroup
	ended.Go(func() {
		dbtest.Until(t, func() bool {
			return dbtest.Get[int](t, db.Pool(), "select count(*)::int from graphile_worker._private_jobs") == 2
		})
		dbtest.Run(t, db.Pool(), `delete from graphile_worker._private_jobs`)
		dbtest.Run(t, db.Pool(), `update graphile_worker.backfill_dlq set original_job_id = requeued_job_id, requeued_job_id = null,
			failed_at = now(), failure_count = failure_count + 1 where id = 1`)
		dbtest.Run(t, db.Pool(), "delete from graphile_worker.backfill_dlq where id = 2")
		cancel()
	})
	outcomes, err := pg.NewAdmin(pool, schemaName).RequeueDeadLetters(ctx, places, "")
	ended.Wait()
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	want := []pg.DeadLetterOutcome{{ID: 1, JobID: 1}, {ID: 2, Skip: pg.DeadLetterUnknown, JobID: 2, Detail: "it is gone by now"}}
	if diff := cmp.Diff(want, outcomes); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// An item is in doubt: the answer to a commit was lost. What is told of it is what the database
// has, whatever keeps the next try from an answer.
func TestRequeueInDoubt(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool()
	admin := pg.NewAdmin(pool, schemaName)
	admin.WaitForLocks(50 * time.Millisecond)
	places := addLetters(t, pool, 2)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if outcome, err := admin.RequeueInDoubt(ended, places[0], 99); outcome != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("as it was, and the context has ended: %+v, %v", outcome, err)
	}
	dbtest.Run(t, pool, "update graphile_worker.backfill_dlq set requeued_job_id = 99 where id = 1")
	other, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Rollback(context.WithoutCancel(t.Context())) }()
	dbtest.Run(t, other, "select from graphile_worker.backfill_dlq for update")
	outcome, err := admin.RequeueInDoubt(t.Context(), places[0], 99)
	if err != nil || outcome == nil || *outcome != (pg.DeadLetterOutcome{ID: 1, JobID: 99}) {
		t.Errorf("requeued, and locked since: %+v, %v", outcome, err)
	}
	outcome, err = admin.RequeueInDoubt(t.Context(), places[1], 98)
	if err != nil || outcome == nil || outcome.Skip != pg.DeadLetterUnknown {
		t.Errorf("locked, perhaps by that transaction: %+v, %v", outcome, err)
	}
}

// Statistics are of the newest, and say so.
func TestDeadLetterStatsAreBounded(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool()
	admin := pg.NewAdmin(pool, schemaName)
	addLetters(t, pool, 10)
	dbtest.Run(t, pool, "update graphile_worker.backfill_dlq set failed_at = now() - id * interval '1 hour', task_identifier = 'old' where id > 5")
	dbtest.Run(t, pool, "update graphile_worker.backfill_dlq set requeued_job_id = id where id = 1")
	for limit, want := range map[int]pg.DeadLetterStats{
		5:  {Letters: 4, Requeued: 1, Part: true, Kinds: []pg.DeadLetterKind{{Task: "a", Reason: "exhausted", Letters: 4}}},
		11: {Letters: 9, Requeued: 1, Kinds: []pg.DeadLetterKind{{Task: "old", Reason: "exhausted", Letters: 5}, {Task: "a", Reason: "exhausted", Letters: 4}}},
	} {
		admin.CountLetters(limit)
		stats, err := admin.DeadLetterStats(t.Context())
		stats.Oldest, stats.Newest = time.Time{}, time.Time{}
		if diff := cmp.Diff(want, stats); err != nil || diff != "" {
			t.Errorf("of %d: %v (-want +got):\n%s", limit, err, diff)
		}
	}
}
