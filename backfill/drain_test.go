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

// When Run's context ends, what runs may finish, in a context that lives; what has not started is
// given back.
func TestDrainLetsJobsFinish(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	var book logBook
	client := newClient(t, db, backfill.WithLogger(book.logger()))
	inside, release, alive := make(chan bool), make(chan bool), make(chan error, 1)
	task, registry := taskOf("send_email", func(ctx context.Context, _ mailArgs) error {
		inside <- true
		<-release
		alive <- ctx.Err()
		_, err := backfill.Enqueue(ctx, backfill.FromContext(ctx), mailTaskOfOthers, mailArgs{}) // enqueuing goes on
		return err
	})
	w := start(t, client, registry, backfill.WithConcurrency(1))
	if _, err := backfill.EnqueueMany(t.Context(), client, task, make([]mailArgs, 3)); err != nil {
		t.Fatal(err)
	}
	receive(t, "the handler", inside)
	w.cancel()
	if e := w.await("draining", 1, is(backfill.EventDraining)); e.Count != 1 {
		t.Errorf("draining: %+v", e)
	}
	close(release)
	if err := w.stop(); err != nil {
		t.Error(err)
	}
	if err := receive(t, "the context", alive); err != nil {
		t.Errorf("the job's context has ended: %v", err)
	}
	book.want(t, "worker drains", "jobs=1", "timeout=15s") // who presses Ctrl-C reads why nothing happens
	want := []jobRow{
		{Task: "send_email", Payload: `{"user_id":0}`, MaxAttempts: 25},
		{Task: "send_email", Payload: `{"user_id":0}`, MaxAttempts: 25},
		{Task: "task_of_others", Payload: `{"user_id":0}`, MaxAttempts: 25},
	}
	if diff := cmp.Diff(want, jobRows(t, db)); diff != "" {
		t.Errorf("jobs that are left (-want +got):\n%s", diff)
	}
}

// A handler that returns because of the shutdown is not charged for it; one that fails for another
// reason is.
func TestDrainCancels(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		result   func(ctx context.Context) error
		attempts int
	}{
		"context's error": {func(ctx context.Context) error { return ctx.Err() }, 0},
		"its cause":       {func(ctx context.Context) error { return errors.Join(errBoom, context.Cause(ctx)) }, 0},
		"another error":   {func(context.Context) error { return errBoom }, 1},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			client := newClient(t, db)
			inside, causes := make(chan bool), make(chan error, 1)
			task, registry := taskOf("send_email", func(ctx context.Context, _ mailArgs) error {
				inside <- true
				<-ctx.Done()
				causes <- context.Cause(ctx)
				return test.result(ctx)
			})
			job := enqueue(t, client, task, mailArgs{}, backfill.Queue("q"), backfill.Key("k"))
			w := start(t, client, registry, backfill.WithDrainTimeout(0))
			receive(t, "the handler", inside)
			if err := w.stop(); err != nil {
				t.Error(err)
			}
			if err := receive(t, "the cause", causes); !errors.Is(err, backfill.ErrShutdown) {
				t.Errorf("cause %v", err)
			}
			row := onlyRow(t, db)
			if row.Attempts != test.attempts || row.Locked || row.Key != "k" {
				t.Errorf("row %+v", row)
			}
			runAt := get[time.Time](t, db.Pool(), "select run_at from graphile_worker._private_jobs")
			if test.attempts == 0 && !runAt.Equal(job.RunAt) {
				t.Errorf("run_at went from %v to %v", job.RunAt, runAt)
			}
			if n := get[int](t, db.Pool(), "select count(*) from graphile_worker._private_job_queues where locked_at is not null"); n != 0 {
				t.Error("the queue is locked")
			}
		})
	}
}

// A job that ignores the end of its context is given back while it runs, and its result does not
// count. This takes the 5 seconds that jobs have to return.
func TestDrainGivesUp(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	var book logBook
	client := newClient(t, db, backfill.WithLogger(book.logger()))
	inside, release, done := make(chan bool), make(chan bool), make(chan bool)
	task, registry := taskOf("send_email", func(context.Context, mailArgs) error {
		inside <- true
		<-release
		close(done)
		return errBoom
	})
	enqueue(t, client, task, mailArgs{})
	w := start(t, client, registry, backfill.WithDrainTimeout(0))
	receive(t, "the handler", inside)
	if err := w.stop(); err != nil {
		t.Error(err)
	}
	if h := w.Health(); h.State != backfill.StateStopped {
		t.Errorf("%+v", h)
	}
	want := jobRow{Task: "send_email", Payload: `{"user_id":0}`, MaxAttempts: 25}
	if diff := cmp.Diff(want, onlyRow(t, db)); diff != "" {
		t.Errorf("row (-want +got):\n%s", diff)
	}
	close(release)
	receive(t, "the handler's end", done)
	if diff := cmp.Diff(want, onlyRow(t, db)); diff != "" {
		t.Errorf("row after the handler's end (-want +got):\n%s", diff)
	}
	book.want(t, "jobs ignore their cancelled contexts")
}

// RunOnce stops like Run; what it has claimed ahead does not start, and is given back.
func TestRunOnceDrains(t *testing.T) {
	t.Parallel()
	const jobs = 400
	db := pgtest.New(t)
	client := newClient(t, db)
	ctx, cancel := context.WithCancel(t.Context())
	draining := make(chan bool)
	var worker *backfill.Worker
	ran, ahead := 0, 0
	task, registry := taskOf("send_email", func(context.Context, mailArgs) error {
		ran++
		if ahead > 0 {
			t.Error("a job started after the end of the context")
		} else if ahead = worker.Health().Buffered; ahead > 0 {
			cancel()
			<-draining
		}
		return nil
	})
	if _, err := backfill.EnqueueMany(t.Context(), client, task, make([]mailArgs, jobs)); err != nil {
		t.Fatal(err)
	}
	worker = newWorker(t, client, registry, backfill.WithConcurrency(1), backfill.WithObserver(func(e backfill.Event) {
		if e.Kind == backfill.EventDraining {
			close(draining)
		}
	}))
	report, err := worker.RunOnce(ctx)
	if err != nil || report.Completed != int64(ran) || report.Returned < int64(ahead) || ahead == 0 {
		t.Errorf("%+v, %v; ran %d, %d were claimed ahead", report, err, ran, ahead)
	}
	for _, row := range jobRows(t, db) {
		if row.Locked || row.Attempts != 0 {
			t.Fatalf("row %+v", row)
		}
	}
	wantJobs(t, db, jobs-ran)
}

// A worker on a database that is gone says why, and is over.
func TestRunWithoutADatabase(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	_, registry := taskOf("send_email", ignore)
	if _, err := db.Pool().Exec(t.Context(), "drop table graphile_worker.backfill_workers"); err != nil {
		t.Fatal(err)
	}
	worker := newWorker(t, client, registry)
	report, err := worker.RunOnce(t.Context())
	wantError(t, err, "register worker: ")
	wantError(t, err, "backfill_workers")
	if report == nil || worker.Health().State != backfill.StateStopped {
		t.Errorf("report %v, health %+v", report, worker.Health())
	}
}
