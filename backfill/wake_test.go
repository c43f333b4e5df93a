package backfill_test

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/testutil/pgtest"
)

// withoutPoll checks that what enqueue enqueues runs, in one of a few tries, after a notification
// and without a poll in between. A poll that happens to fall in between, or a claim that was on its
// way, proves nothing, so there are several tries; where polls are what makes jobs start, each of
// them fails.
func withoutPoll(t *testing.T, w *running, enqueue func() *backfill.Job) {
	t.Helper()
	for range 20 {
		events, _ := w.seen()
		before := len(events)
		job := enqueue()
		w.await("the job's end", 1, of(backfill.EventFinished, job.ID))
		events, _ = w.seen()
		end := slices.IndexFunc(events, of(backfill.EventFinished, job.ID))
		if count(events[before:end], backfill.EventPolled) == 0 && count(events[before:end], backfill.EventWoken) > 0 {
			return
		}
	}
	t.Error("jobs start only when the worker polls")
}

// Every way to enqueue wakes the worker.
func TestNotificationsWake(t *testing.T) {
	t.Parallel()
	task, registry := taskOf("send_email", ignore)
	plain := func(opts ...backfill.EnqueueOption) func(*testing.T, *backfill.Client, *pgx.Conn) *backfill.Job {
		return func(t *testing.T, client *backfill.Client, _ *pgx.Conn) *backfill.Job {
			t.Helper()
			return enqueue(t, client, task, mailArgs{}, opts...)
		}
	}
	for name, add := range map[string]func(*testing.T, *backfill.Client, *pgx.Conn) *backfill.Job{
		"one":   plain(),
		"keyed": plain(backfill.Key("k")),
		"queue": plain(backfill.Queue("q")),
		"InTx": func(t *testing.T, client *backfill.Client, _ *pgx.Conn) (job *backfill.Job) {
			t.Helper()
			err := backfill.InTx(t.Context(), client, func(ctx context.Context, _ pgx.Tx) (err error) {
				job, err = backfill.Enqueue(ctx, backfill.FromContext(ctx), task, mailArgs{})
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			return job
		},
		"tx": func(t *testing.T, client *backfill.Client, conn *pgx.Conn) (job *backfill.Job) {
			t.Helper()
			err := pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) (err error) {
				job, err = backfill.Enqueue(t.Context(), client.WithTx(tx), task, mailArgs{})
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			return job
		},
		"peer": func(t *testing.T, _ *backfill.Client, conn *pgx.Conn) *backfill.Job {
			t.Helper()
			return &backfill.Job{ID: get[int64](t, conn, "select id from graphile_worker.add_job('send_email')")}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			client, conn := newClient(t, db), connect(t, db)
			withoutPoll(t, start(t, client, registry), func() *backfill.Job { return add(t, client, conn) })
		})
	}
}

// A job of the future runs when it is due, by a timer; so does a retry, and one that was snoozed.
func TestDueJobsWake(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	task := &backfill.Task[mailArgs]{Name: "send_email", Backoff: backfill.FixedBackoff(50 * time.Millisecond)}
	snoozed := false
	registry := backfill.NewRegistry(backfill.Handle(task, func(ctx context.Context, args mailArgs) error {
		switch {
		case args.Template == "retry" && backfill.JobInfo(ctx).Attempt == 1:
			return errBoom
		case args.Template == "snooze":
			if snoozed = !snoozed; snoozed {
				return backfill.Snooze(50 * time.Millisecond)
			}
		}
		return nil
	}))
	w := start(t, client, registry)
	enqueue(t, client, task, mailArgs{}) // connects what notifies: the next notification comes before its job is due
	w.awaitRecorded(1)
	for _, template := range []string{"later", "retry", "snooze"} {
		withoutPoll(t, w, func() *backfill.Job {
			if template == "later" {
				return enqueue(t, client, task, mailArgs{}, backfill.Delay(500*time.Millisecond))
			}
			return enqueue(t, client, task, mailArgs{Template: template})
		})
	}
}

// The jobs of a queue run in its order, one at a time, and each starts because the one before has
// ended.
func TestQueueRunsInOrderWithoutPolls(t *testing.T) {
	t.Parallel()
	const jobs = 60
	db := pgtest.New(t)
	client := newClient(t, db)
	var busy atomic.Int64
	ran := make(chan int64, jobs)
	task, registry := taskOf("send_email", func(_ context.Context, args mailArgs) error {
		if n := busy.Add(1); n != 1 {
			t.Errorf("%d jobs of the queue run at a time", n)
		}
		defer busy.Add(-1)
		ran <- args.UserID
		return nil
	})
	var requests []backfill.Request
	var want []int64
	for i := range int64(jobs) { // the order is by priority, and then by run_at
		args := mailArgs{UserID: 1000*(i%3) + i}
		requests = append(requests, task.Request(args, backfill.Queue("q"), backfill.Priority(i%3), backfill.RunAt(time.Unix(1000+i, 0))))
		want = append(want, args.UserID)
	}
	if _, err := client.Enqueue(t.Context(), requests...); err != nil {
		t.Fatal(err)
	}
	w := start(t, client, registry)
	other := start(t, client, registry)
	var got []int64
	for range jobs {
		got = append(got, receive(t, "a job of the queue", ran))
	}
	if !slices.Equal(got, slices.Sorted(slices.Values(want))) {
		t.Errorf("ran in the order %v", got)
	}
	polls := 0
	for _, worker := range []interface {
		seen() ([]backfill.Event, <-chan struct{})
	}{w, other} {
		events, _ := worker.seen()
		polls += count(events, backfill.EventPolled)
	}
	if polls > jobs/2 {
		t.Errorf("%d polls for %d jobs", polls, jobs)
	}
}

// Different queues run side by side.
func TestQueuesRunSideBySide(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	const queues = 5
	inside := make(chan bool, queues)
	release := make(chan bool)
	task, registry := taskOf("send_email", func(context.Context, mailArgs) error {
		inside <- true
		<-release
		return nil
	})
	w := start(t, client, registry, backfill.WithConcurrency(queues+1))
	for i := range 2 * queues {
		enqueue(t, client, task, mailArgs{}, backfill.Queue(fmt.Sprint("q", i%queues)))
	}
	for range queues {
		receive(t, "a job of each queue", inside)
	}
	if n := get[int](t, db.Pool(), "select count(*) from graphile_worker._private_jobs where locked_at is not null"); n != queues {
		t.Errorf("%d jobs are locked", n)
	}
	close(release)
	w.awaitRecorded(2 * queues)
}

// Contract section 11 C: a queue whose next job is for others is no longer left to their polls.
func TestTheNextJobOfAQueueWakesOthers(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	_, registry := taskOf("ours", ignore)
	addJob(t, db, "select id from graphile_worker.add_job('ours', queue_name := 'q')")
	addJob(t, db, "select id from graphile_worker.add_job('theirs', queue_name := 'q')")
	next := listenForJobs(t, db)
	if report := runOnce(t, client, registry); report.Completed != 1 {
		t.Fatalf("report %+v", report)
	}
	if count := next(); count != "1" {
		t.Errorf("notified with count %s", count)
	}
}
