package backfill_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/pg/query"
)

// accountOf says of each n where it is more or less often than once: as a job, as a dead letter that
// is not requeued, as a success, or as a dead letter that was deleted as such.
const accountOf = `
	with place(n, what) as (
	  select (payload->>'n')::int, 'job' from graphile_worker._private_jobs
	  union all
	  select (payload->>'n')::int, 'dead letter' from graphile_worker.backfill_dlq where requeued_job_id is null
	  union all
	  select n, 'success' from public.successes
	  union all
	  select n, 'deleted' from public.deletions
	)
	select n || ': ' || coalesce(string_agg(what, ', ' order by what), 'nowhere')
	  from generate_series(1, $1::int) as n left join place using (n)
	 group by n having count(what) <> 1 order by n`

// Jobs fail for good, in transactions and without, and are requeued, deleted, swept, expired and
// cleared, all at once, by several at a time. None is lost, and none is doubled.
//
// With unlocks, workers are declared dead all the time, also between a job's guard and its COMMIT:
// then all jobs are transactional, because others may run twice.
func TestDeadLettersAreNeitherLostNorDoubled(t *testing.T) {
	t.Parallel()
	for name, unlocks := range map[string]bool{"while nobody is unlocked": false, "while workers are unlocked": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lettersAtOnce(t, unlocks)
		})
	}
}

func lettersAtOnce(t *testing.T, unlocks bool) {
	t.Helper()
	const jobs = 300
	r := newTxRig(t)
	for _, statement := range []string{
		"create table public.successes (n int not null)",
		"create table public.deletions (n int not null)",
		`create function public.note_deletion() returns trigger language plpgsql as $$ begin
		   if old.requeued_job_id is null then insert into public.deletions select (old.payload->>'n')::int; end if; return null; end $$`,
		"create trigger note after delete on graphile_worker.backfill_dlq for each row execute function public.note_deletion()",
	} {
		run(t, r.db, statement)
	}
	type args struct {
		N int `json:"n"`
	}
	const succeed = "insert into public.successes values ($1)"
	says := func() error {
		switch rand.N(100) {
		case 0:
			return nil
		case 1:
			return backfill.Permanent(errors.New("never"))
		default:
			return errors.New("not now")
		}
	}
	soon := backfill.FixedBackoff(time.Millisecond)
	plain := &backfill.Task[args]{Name: "plain", MaxAttempts: 2, Backoff: soon}
	inTx := &backfill.Task[args]{Name: "in_tx", MaxAttempts: 2, Backoff: soon, Timeout: time.Minute}
	registry := backfill.NewRegistry(
		backfill.Handle(plain, func(ctx context.Context, a args) error {
			err := says()
			if err == nil {
				_, err = r.db.Pool().Exec(ctx, succeed, a.N)
			}
			return err
		}),
		backfill.Handle(inTx, func(ctx context.Context, tx pgx.Tx, a args) error {
			if _, err := tx.Exec(ctx, succeed, a.N); err != nil {
				return err
			}
			return says()
		}),
	)
	start(t, r.client, registry, backfill.WithTxConnections(2))
	start(t, r.client, registry, backfill.WithTxConnections(2), backfill.WithoutDeadLetters())

	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	var acting sync.WaitGroup
	pause := func(d time.Duration) {
		select {
		case <-ctx.Done():
		case <-time.After(d):
		}
	}
	act := func(what string, every time.Duration, do func() error) {
		acting.Go(func() {
			for ctx.Err() == nil {
				if err := do(); err != nil && ctx.Err() == nil {
					t.Errorf("%s: %v", what, err)
					return
				}
				pause(rand.N(every))
			}
		})
	}
	anyOf := func() backfill.DeadLetterFilter {
		filters := []backfill.DeadLetterFilter{
			{All: true}, {Tasks: []string{"plain"}}, {Tasks: []string{"in_tx"}}, {Reasons: []backfill.DeadLetterReason{backfill.ReasonSwept}},
		}
		return filters[rand.N(len(filters))]
	}
	for range 2 {
		act("requeue", 50*time.Millisecond, func() error {
			_, err := r.client.RequeueDeadLetters(ctx, anyOf(), backfill.DeadLetterOptions{})
			return err
		})
	}
	act("delete", 200*time.Millisecond, func() error {
		list, err := r.client.DeadLetters(ctx, backfill.DeadLetterFilter{}, backfill.DeadLetterPage{Size: 1})
		if err != nil || len(list.Letters) == 0 {
			return err
		}
		_, err = r.client.DeleteDeadLetters(ctx, only(list.Letters[0].ID), backfill.DeadLetterOptions{})
		return err
	})
	queries := query.New(r.db.Pool())
	act("sweep", 50*time.Millisecond, func() error {
		rows, _ := r.db.Pool().Query(ctx, "select id from graphile_worker._private_jobs where attempts >= max_attempts and locked_at is null")
		ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
		if err != nil || len(ids) == 0 {
			return err
		}
		params := query.BuryJobsParams{Ids: ids, Tokens: make([]string, len(ids)), Verdicts: make([]string, len(ids))}
		for range ids {
			params.Reasons = append(params.Reasons, "swept")
		}
		_, err = queries.BuryJobs(ctx, params)
		return err
	})
	act("drop requeued", 20*time.Millisecond, func() error {
		_, err := queries.DropRequeued(ctx, query.DropRequeuedParams{Size: 1000})
		return err
	})
	act("expire", 300*time.Millisecond, func() error {
		first := pgtype.Timestamptz{InfinityModifier: pgtype.NegativeInfinity, Valid: true}
		_, err := queries.ExpireLetters(ctx, query.ExpireLettersParams{AfterAt: first, AgeSeconds: 0.3, Size: 3})
		return err
	})
	tasks := []*backfill.Task[args]{plain, inTx}
	if unlocks {
		tasks[0] = inTx
		act("unlock", 500*time.Millisecond, func() error {
			rows, _ := r.db.Pool().Query(ctx, "select distinct split_part(locked_by, '.', 1) from graphile_worker._private_jobs where locked_by like 'pool-%' limit 1")
			ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
			for _, id := range ids {
				if _, err := r.client.UnlockWorker(ctx, id); err != nil {
					return err
				}
			}
			return err
		})
	}
	for n := 1; n <= jobs; n++ {
		var opts []backfill.EnqueueOption
		if n%3 == 0 {
			opts = append(opts, backfill.Key(fmt.Sprint("k", n)))
		}
		if n%4 == 0 {
			opts = append(opts, backfill.Queue(fmt.Sprint("q", n%5)))
		}
		enqueue(t, r.client, tasks[n%2], args{n}, opts...)
		pause(5 * time.Millisecond)
	}
	<-ctx.Done()
	acting.Wait()
	until(t, "no job runs", func() bool {
		return get[int](t, r.db.Pool(), "select count(*)::int from graphile_worker._private_jobs where attempts < max_attempts or locked_at is not null") == 0
	})
	rows, _ := r.db.Pool().Query(t.Context(), accountOf, jobs)
	wrong, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{}, wrong); diff != "" {
		t.Errorf("where jobs are not once (-want +got):\n%s", diff)
	}
	for what, sql := range map[string]string{
		"successes": "select count(*)::int from public.successes", "deletions": "select count(*)::int from public.deletions",
		"dead letters": "select count(*)::int from graphile_worker.backfill_dlq",
		"rounds":       "select coalesce(max(failure_count), 0)::int from graphile_worker.backfill_dlq",
	} {
		t.Logf("%d %s", dbtest.Get[int](t, r.db.Pool(), sql), what)
	}
}
