package backfill_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/testutil/pgtest"
)

// What is enqueued later under the key of a job that was found is not touched, although it is in
// the same row.
func TestCancelJobsLeavesWhatWasReplaced(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	task, _ := taskOf("t", func(context.Context, mailArgs) error { return nil })
	other, _ := taskOf("other", func(context.Context, mailArgs) error { return nil })
	enqueue(t, client, task, mailArgs{})
	job := enqueue(t, client, task, mailArgs{UserID: 1}, backfill.Key("k"))
	result, err := client.CancelJobs(t.Context(), backfill.JobFilter{Tasks: []string{"t"}}, backfill.CancelOptions{
		PerSecond: 1,
		Each: func(o backfill.CancelOutcome) {
			if o.JobID != job.ID {
				if again := enqueue(t, client, other, mailArgs{UserID: 2}, backfill.Key("k")); again.ID != job.ID {
					t.Errorf("job %d was not replaced, but %d added", job.ID, again.ID)
				}
			}
		},
	})
	if err != nil || result.Canceled != 1 || result.SkippedBy[backfill.CancelUnmatched] != 1 {
		t.Errorf("%+v, %v", result, err)
	}
	if row := onlyRow(t, db); row.Task != "other" {
		t.Errorf("row %+v", row)
	}
}

// Waiting leaves out jobs that run, also those that have begun since they were found.
func TestCancelJobsOfThoseThatWait(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	task, _ := taskOf("t", func(context.Context, mailArgs) error { return nil })
	enqueue(t, client, task, mailArgs{})
	job := enqueue(t, client, task, mailArgs{UserID: 1})
	result, err := client.CancelJobs(t.Context(), backfill.JobFilter{Tasks: []string{"t"}, Waiting: true}, backfill.CancelOptions{
		PerSecond: 1,
		Each: func(o backfill.CancelOutcome) {
			if o.JobID != job.ID {
				run(t, db, "update graphile_worker._private_jobs set attempts = 1, locked_by = $1, locked_at = now() where id = $2",
					wire.ClaimToken(wire.NewWorkerID(), 1)+".1", job.ID)
			}
		},
	})
	if err != nil || result.Canceled != 1 || result.SkippedBy[backfill.CancelUnmatched] != 1 {
		t.Errorf("%+v, %v", result, err)
	}
	if n := get[int](t, db.Pool(), "select count(*)::int from graphile_worker.backfill_cancels"); n > 0 {
		t.Errorf("%d requests are stored", n)
	}
}

// A preview that has found no jobs at all leaves nothing for what follows it.
func TestCancelJobsUpToAnEmptyTable(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	task, _ := taskOf("t", func(context.Context, mailArgs) error { return nil })
	filter := backfill.JobFilter{Tasks: []string{"t"}}
	preview, err := client.CancelJobs(t.Context(), filter, backfill.CancelOptions{DryRun: true})
	if err != nil {
		t.Fatal(err)
	}
	enqueue(t, client, task, mailArgs{})
	filter.UpTo = preview.UpTo
	result, err := client.CancelJobs(t.Context(), filter, backfill.CancelOptions{})
	if err != nil || result.Canceled != 0 {
		t.Errorf("%+v, %v", result, err)
	}
	wantJobs(t, db, 1)
}

// An id that is above UpTo does not match, which says nothing of the job.
func TestCancelJobsAboveUpTo(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	task, _ := taskOf("t", func(context.Context, mailArgs) error { return nil })
	first := enqueue(t, client, task, mailArgs{})
	job := enqueue(t, client, task, mailArgs{})
	result, err := client.CancelJobs(t.Context(), backfill.JobFilter{IDs: []int64{job.ID}, UpTo: first.ID}, backfill.CancelOptions{})
	if err != nil || result.SkippedBy[backfill.CancelUnmatched] != 1 {
		t.Errorf("%+v, %v", result, err)
	}
}

// The plans of filters are made for what they ask for. One for all of them looks at every job, and
// for each of these at every id of a list: of 50,000 ids, that took ten minutes.
func TestCancelJobsPlansForItsFilter(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	if get[int](t, db.Pool(), "select current_setting('server_version_num')::int") < 140000 {
		t.Skip("older servers do not count generic plans")
	}
	pool := poolOf(t, db.URL, func(config *pgxpool.Config) { config.MaxConns = 1 })
	client, err := backfill.NewClient(t.Context(), pool, backfill.WithLogger(quiet))
	if err != nil {
		t.Fatal(err)
	}
	task, _ := taskOf("t", func(context.Context, mailArgs) error { return nil })
	job := enqueue(t, client, task, mailArgs{})
	for range 10 { // from the sixth on, the server has a choice
		if _, err := client.CancelJobs(t.Context(), backfill.JobFilter{IDs: []int64{job.ID}}, backfill.CancelOptions{DryRun: true}); err != nil {
			t.Fatal(err)
		}
	}
	const plans = "select coalesce(sum(generic_plans), -1)::int || ' of ' || count(*) from pg_prepared_statements where statement ~ 'name: (FindJobs|CountUnaffected)'"
	if got := get[string](t, pool, plans); got != "0 of 2" {
		t.Errorf("%s statements have generic plans", got)
	}
}

// A job can be free although its end was requested: a worker has released it just before. Of what
// is deleted then, no request is left.
func TestCancelOfAFreeJobWithARequest(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	task, _ := taskOf("t", func(context.Context, mailArgs) error { return nil })
	job := enqueue(t, client, task, mailArgs{})
	run(t, db, "insert into graphile_worker.backfill_cancels (job_id) values ($1)", job.ID)
	if outcome := cancelJob(t, client, job.ID); outcome.State != backfill.CancelDone {
		t.Errorf("outcome %+v", outcome)
	}
	if n := get[int](t, db.Pool(), "select count(*)::int from graphile_worker.backfill_cancels"); n > 0 {
		t.Errorf("%d requests are left", n)
	}
}

// A request that nobody meets goes when it is old, also where nothing runs any more.
func TestIdleWorkersForgetRequests(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	_, registry := taskOf("t", func(context.Context, mailArgs) error { return nil })
	start(t, client, registry)
	run(t, db, "insert into graphile_worker.backfill_cancels (job_id, requested_at) values (7, now() - interval '9 seconds')")
	run(t, db, "select pg_notify('backfill:cancel', '')")
	until(t, "the request is deleted", func() bool {
		return !get[bool](t, db.Pool(), "select exists (select from graphile_worker.backfill_cancels)")
	})
}
