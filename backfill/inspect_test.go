package backfill_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/testutil/pgtest"
)

// A job in each state, and what the row of each has to be. The lock of the last one is stale.
var inspected = []struct {
	state  backfill.JobState
	change string
}{
	{backfill.JobDue, "attempts = 1, last_error = 'before'"},
	{backfill.JobWaiting, "run_at = now() + interval '1 hour'"},
	{backfill.JobWaiting, "run_at = 'infinity'"},
	{backfill.JobDue, "run_at = '-infinity'"},
	{backfill.JobRunning, "attempts = 1, locked_at = now(), locked_by = 'w'"},
	{backfill.JobRunning, "attempts = 25, locked_at = now() - interval '239 minutes', locked_by = 'w'"},
	{backfill.JobRunning, "attempts = 1, run_at = now() + interval '1 hour', locked_at = now(), locked_by = 'w'"},
	{backfill.JobSuspect, "attempts = 1, locked_at = now() - interval '29 minutes', locked_by = 'backfill-suspect.0123456789abcdef01.1'"},
	{backfill.JobFailed, "attempts = 25, last_error = 'it broke'"},
	{backfill.JobFailed, "attempts = 25, run_at = now() + interval '1 hour'"},
	{backfill.JobDue, "attempts = 1, locked_at = now() - interval '241 minutes', locked_by = 'w'"},
}

func TestJobAndStats(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db, backfill.WithSchema(`jobs of "us"`))
	want := backfill.TaskStats{Task: "t"}
	for _, row := range inspected {
		jobs, err := client.Enqueue(t.Context(), backfill.Request{Task: "t", Args: raw(`{"n": 1}`), Queue: "q"})
		if err != nil {
			t.Fatal(err)
		}
		job := jobs[0]
		exec(t, db.Pool(), `update "jobs of ""us"""._private_jobs set `+row.change+" where id = $1", job.ID)
		got, err := client.Job(t.Context(), job.ID)
		if err != nil {
			t.Fatalf("%s: %v", row.change, err)
		}
		if got.State != row.state || got.ID != job.ID || got.Task != "t" || got.Queue != "q" || string(got.Args) != `{"n": 1}` {
			t.Errorf("%s: %+v", row.change, got)
		}
		if got.LockedAt.IsZero() != (got.LockedBy == "") || time.Since(got.UpdatedAt) > hang {
			t.Errorf("%s: locked by %q at %v, updated at %v", row.change, got.LockedBy, got.LockedAt, got.UpdatedAt)
		}
		counter := map[backfill.JobState]*int64{
			backfill.JobWaiting: &want.Waiting, backfill.JobDue: &want.Due, backfill.JobRunning: &want.Running, backfill.JobSuspect: &want.Suspect, backfill.JobFailed: &want.Failed,
		}[row.state]
		*counter++
	}
	enqueue(t, client, &backfill.Task[int]{Name: "other"}, 1)
	id := enqueue(t, client, &backfill.Task[int]{Name: "done"}, 1).ID
	if _, err := client.CompleteJobs(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	stats, err := client.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&backfill.Stats{Tasks: []backfill.TaskStats{{Task: "done"}, {Task: "other", Due: 1}, want}}, stats); diff != "" {
		t.Errorf("stats (-want +got):\n%s", diff)
	}
	for _, id := range []int64{id, 0, -1} {
		if job, err := client.Job(t.Context(), id); !errors.Is(err, backfill.ErrJobNotFound) || job != nil {
			t.Errorf("job %d: %v, %v", id, job, err)
		}
	}
}

// What the last attempt said is there.
func TestJobLastError(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	task, registry := failing()
	id := enqueue(t, client, task, backfill.NoArgs{}).ID
	runOnce(t, client, registry, backfill.WithoutDeadLetters())
	got, err := client.Job(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if got.State != backfill.JobFailed || got.LastError != "no such user" || got.Attempt != got.MaxAttempts {
		t.Errorf("%+v", got)
	}
}

func failing() (*backfill.Task[backfill.NoArgs], *backfill.Registry) {
	return taskOf("t", func(context.Context, backfill.NoArgs) error { return backfill.Permanent(errors.New("no such user")) })
}
