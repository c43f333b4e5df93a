package backfill_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/testutil/pgtest"
)

// What waits is deleted at once, whatever it waits for, and its key is free.
func TestCancelOfWhatWaits(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	task, registry := taskOf("t", func(context.Context, mailArgs) error { return errBoom })
	retried := enqueue(t, client, task, mailArgs{})
	runOnce(t, client, registry)
	for name, job := range map[string]*backfill.Job{
		"due":       enqueue(t, client, task, mailArgs{}),
		"scheduled": enqueue(t, client, task, mailArgs{}, backfill.Delay(time.Hour)),
		"a retry":   retried,
		"in queue":  enqueue(t, client, task, mailArgs{}, backfill.Queue("q")),
		"with key":  enqueue(t, client, task, mailArgs{}, backfill.Key("k")),
	} {
		dry, err := client.Cancel(t.Context(), job.ID, backfill.CancelOptions{DryRun: true})
		if err != nil || dry.State != backfill.CancelDone {
			t.Errorf("%s: dry run %+v, %v", name, dry, err)
		}
		if outcome := cancelJob(t, client, job.ID); outcome.State != backfill.CancelDone || outcome.JobID != job.ID {
			t.Errorf("%s: outcome %+v", name, outcome)
		}
		if outcome := cancelJob(t, client, job.ID); outcome.State != backfill.CancelTooLate {
			t.Errorf("%s: outcome of a second cancel %+v", name, outcome)
		}
	}
	wantJobs(t, db, 0)
	again := enqueue(t, client, task, mailArgs{}, backfill.Key("k"), backfill.UnsafeDedupe)
	if _, err := client.Job(t.Context(), again.ID); err != nil {
		t.Error(err)
	}
}

// What has ended is too late, and its outcome says how it has ended as far as anything tells.
func TestCancelComesTooLate(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	task, registry := taskOf("t", func(_ context.Context, args mailArgs) error {
		if args.UserID > 0 {
			return backfill.Permanent(errBoom)
		}
		return nil
	})
	done := enqueue(t, client, task, mailArgs{})
	dead := enqueue(t, client, task, mailArgs{UserID: 1})
	runOnce(t, client, registry)
	failed := enqueue(t, client, task, mailArgs{UserID: 1})
	runOnce(t, client, registry, backfill.WithoutDeadLetters())
	for name, test := range map[string]struct {
		id     int64
		detail string
	}{
		"succeeded":            {done.ID, "has succeeded"},
		"a dead letter":        {dead.ID, "is dead letter"},
		"failed":               {failed.ID, "failed for good"},
		"that was never there": {1 << 60, "never been there"},
	} {
		outcome := cancelJob(t, client, test.id)
		if outcome.State != backfill.CancelTooLate {
			t.Errorf("%s: outcome %+v", name, outcome)
		}
		if !strings.Contains(outcome.Detail, test.detail) {
			t.Errorf("%s: detail %q", name, outcome.Detail)
		}
	}
	if len(letterRows(t, db)) != 1 || len(jobRows(t, db)) != 1 {
		t.Error("something was deleted")
	}
	if n := get[int](t, db.Pool(), "select count(*)::int from graphile_worker.backfill_cancels"); n > 0 {
		t.Errorf("%d requests are left", n)
	}
}

// A job of a Node worker is left alone, and the outcome says whose it is.
func TestCancelOfANodeWorkersJob(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	task, _ := taskOf("t", func(context.Context, mailArgs) error { return nil })
	job := enqueue(t, client, task, mailArgs{})
	run(t, db, "update graphile_worker._private_jobs set locked_by = 'worker-5f3', locked_at = now()")
	for _, dry := range []bool{true, false} {
		outcome, err := client.Cancel(t.Context(), job.ID, backfill.CancelOptions{DryRun: dry})
		if err != nil || outcome.State != backfill.CancelForeign || outcome.Worker != "worker-5f3" {
			t.Errorf("outcome %+v, %v", outcome, err)
		}
	}
	if row := onlyRow(t, db); !row.Locked {
		t.Errorf("row %+v", row)
	}
	if n := get[int](t, db.Pool(), "select count(*)::int from graphile_worker.backfill_cancels"); n > 0 {
		t.Errorf("%d requests are left", n)
	}
}

// A cancel waits for no transaction of the application's for long.
func TestCancelOfALockedRow(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	task, _ := taskOf("t", func(context.Context, mailArgs) error { return nil })
	for name, lock := range map[string]string{
		"row":   "select from graphile_worker._private_jobs where id = $1 for update",
		"table": "lock table graphile_worker._private_jobs in access exclusive mode",
	} {
		job, other := enqueue(t, client, task, mailArgs{}), enqueue(t, client, task, mailArgs{})
		tx, err := db.Pool().Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		args := []any{job.ID}
		if name == "table" {
			args = nil
		}
		if _, err := tx.Exec(t.Context(), lock, args...); err != nil {
			t.Fatal(err)
		}
		outcome := cancelJob(t, client, job.ID)
		if outcome.State != backfill.CancelLocked || outcome.Detail == "" {
			t.Errorf("%s: outcome %+v", name, outcome)
		}
		if name == "row" {
			if outcome := cancelJob(t, client, other.ID); outcome.State != backfill.CancelDone {
				t.Errorf("outcome of the other job %+v", outcome)
			}
		}
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
		if tx, err = db.Pool().Begin(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(t.Context(), lock, args...); err != nil {
			t.Fatal(err)
		}
		released := make(chan error, 1)
		time.AfterFunc(200*time.Millisecond, func() { released <- tx.Rollback(context.Background()) })
		if outcome := cancelJob(t, client, job.ID); outcome.State != backfill.CancelDone {
			t.Errorf("%s: outcome when it is released %+v", name, outcome)
		}
		if err := receive(t, "the release", released); err != nil {
			t.Error(err)
		}
	}
}

// A row that a trigger keeps from being deleted keeps no other.
func TestCancelOfARefusedRow(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	task, _ := taskOf("t", func(context.Context, mailArgs) error { return nil })
	var ids []int64
	for range 9 {
		ids = append(ids, enqueue(t, client, task, mailArgs{}).ID)
	}
	run(t, db, fmt.Sprintf(`create function public.keep() returns trigger language plpgsql as $$ begin
		if old.id = %d then raise exception 'this one stays'; end if; return old; end $$`, ids[4]))
	run(t, db, "create trigger keep before delete on graphile_worker._private_jobs for each row execute function public.keep()")
	result, err := client.CancelJobs(t.Context(), backfill.JobFilter{IDs: ids}, backfill.CancelOptions{})
	if err != nil || result.Canceled != 8 || result.SkippedBy[backfill.CancelRefused] != 1 {
		t.Fatalf("result %+v, %v", result, err)
	}
	if !strings.Contains(result.Outcomes[4].Detail, "this one stays") {
		t.Errorf("outcome %+v", result.Outcomes[4])
	}
	wantJobs(t, db, 1)
}

// A request lasts: workers that were down, that do not listen, or that got the job from somebody
// who knows of no requests, do not run a cancelled job.
func TestCancelIsDurable(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	var runs atomic.Int32
	task, registry := taskOf("t", func(context.Context, mailArgs) error { runs.Add(1); return nil })
	dead := wire.NewWorkerID()
	lock := func(job *backfill.Job) {
		run(t, db, `update graphile_worker._private_jobs set attempts = 1, locked_by = $2, locked_at = now() where id = $1`,
			job.ID, wire.ClaimToken(dead, 1)+".1")
		if outcome := cancelJob(t, client, job.ID); outcome.State != backfill.CancelRequested || outcome.Worker != dead {
			t.Errorf("outcome %+v", outcome)
		}
	}
	byNode := enqueue(t, client, task, mailArgs{})
	lock(byNode)
	run(t, db, "update graphile_worker._private_jobs set locked_by = null, locked_at = null where id = $1", byNode.ID) // as Node's admin functions do
	w := start(t, client, registry)
	w.await("canceled", 1, of(backfill.EventCanceled, byNode.ID))
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	forced := enqueue(t, client, task, mailArgs{}, backfill.Delay(time.Hour))
	lock(forced)
	if _, err := client.UnlockWorker(t.Context(), dead); err != nil {
		t.Fatal(err)
	}
	wantJobs(t, db, 0)
	if runs.Load() > 0 {
		t.Errorf("%d runs", runs.Load())
	}
}

// Without a listener a running handler learns of its end within the poll interval.
func TestCancelWithoutAListener(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	running := newSignal()
	task, registry := taskOf("t", func(ctx context.Context, _ mailArgs) error {
		running.send()
		<-ctx.Done()
		return ctx.Err()
	})
	w := launch(t, client, registry, pollOnly(client))
	job := enqueue(t, client, task, mailArgs{})
	running.wait(t)
	cancelJob(t, client, job.ID)
	w.await("canceled", 1, of(backfill.EventCanceled, job.ID))
}

// One of many handlers is cancelled: the other contexts live (X69).
func TestCancelEndsOneContext(t *testing.T) {
	t.Parallel()
	const jobs = 200
	db := pgtest.New(t)
	client := newClient(t, db)
	running, release := newSignal(), make(chan struct{})
	var ended atomic.Int32
	task, registry := taskOf("t", func(ctx context.Context, _ mailArgs) error {
		running.send()
		select {
		case <-ctx.Done():
			ended.Add(1)
		case <-release:
		}
		return ctx.Err()
	})
	w := start(t, client, registry, backfill.WithConcurrency(jobs))
	var last *backfill.Job
	for range jobs {
		last = enqueue(t, client, task, mailArgs{})
	}
	for range jobs {
		running.wait(t)
	}
	cancelJob(t, client, last.ID)
	w.await("canceled", 1, of(backfill.EventCanceled, last.ID))
	if n := ended.Load(); n != 1 {
		t.Errorf("%d contexts have ended", n)
	}
	close(release)
	w.awaitRecorded(jobs - 1)
}

// A filter hits what is there, all of it and nothing else, and a preview tells what would be done.
func TestCancelJobs(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	running := newSignal()
	task, registry := taskOf("t", func(ctx context.Context, args mailArgs) error {
		if args.UserID == 7 {
			return backfill.Permanent(errBoom)
		}
		running.send()
		<-ctx.Done()
		return ctx.Err()
	})
	other := &backfill.Task[mailArgs]{Name: "other"}
	for range 3 {
		enqueue(t, client, task, mailArgs{UserID: 7})
	}
	runOnce(t, client, registry, backfill.WithoutDeadLetters())
	enqueue(t, client, task, mailArgs{}, backfill.Queue("a"))
	w := start(t, client, registry)
	running.wait(t)
	for range 4 {
		enqueue(t, client, task, mailArgs{}, backfill.Queue("a"))
	}
	keyed := enqueue(t, client, task, mailArgs{}, backfill.Queue("a"), backfill.Key("k"))
	for _, queue := range []string{"a", "b"} {
		enqueue(t, client, other, mailArgs{}, backfill.Queue(queue))
	}
	filter := backfill.JobFilter{Tasks: []string{"t"}, Queues: []string{"a"}}
	dry, err := client.CancelJobs(t.Context(), filter, backfill.CancelOptions{DryRun: true})
	if err != nil || dry.Canceled != 5 || dry.Requested != 1 || dry.Unaffected != 0 || dry.UpTo == 0 {
		t.Errorf("preview %+v, %v", dry, err)
	}
	all, err := client.CancelJobs(t.Context(), backfill.JobFilter{Tasks: []string{"t"}}, backfill.CancelOptions{DryRun: true})
	if err != nil || all.Unaffected != 3 {
		t.Errorf("preview of all %+v, %v", all, err)
	}
	later := enqueue(t, client, task, mailArgs{}, backfill.Queue("a"))
	waiting := filter
	waiting.UpTo, waiting.Waiting, waiting.Keys = dry.UpTo, true, []string{"k"}
	result, err := client.CancelJobs(t.Context(), waiting, backfill.CancelOptions{})
	if err != nil || result.Canceled != 1 || result.Outcomes[0].JobID != keyed.ID {
		t.Errorf("result by key %+v, %v", result, err)
	}
	filter.UpTo = dry.UpTo
	var each []backfill.CancelState
	result, err = client.CancelJobs(t.Context(), filter, backfill.CancelOptions{
		By: "ada", PerSecond: 1000, Each: func(o backfill.CancelOutcome) { each = append(each, o.State) },
	})
	if err != nil || result.Canceled != 4 || result.Requested != 1 || result.Skipped != 0 || len(each) != 5 || len(result.Outcomes) != 5 {
		t.Errorf("result %+v, %v; %v", result, err, each)
	}
	w.await("canceled", 1, is(backfill.EventCanceled))
	running.wait(t) // the later one
	if row, err := client.Job(t.Context(), later.ID); err != nil {
		t.Errorf("the job that was enqueued later: %+v, %v", row, err)
	}
	if n := get[int](t, db.Pool(), "select count(*)::int from graphile_worker.jobs where task_identifier = 'other'"); n != 2 {
		t.Errorf("%d jobs of the other task are left", n)
	}
	missing, err := client.CancelJobs(t.Context(), backfill.JobFilter{IDs: []int64{1 << 60, later.ID, later.ID}, Tasks: []string{"other"}}, backfill.CancelOptions{})
	if err != nil || missing.SkippedBy[backfill.CancelUnmatched] != 2 || missing.Requested > 0 {
		t.Errorf("result of ids that do not match %+v, %v", missing, err)
	}
	cancelJob(t, client, later.ID)
	w.await("canceled", 2, is(backfill.EventCanceled))
}

// What means nothing is refused, with all problems at once, and changes nothing.
func TestCancelRefusesBadInput(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	task, _ := taskOf("t", func(context.Context, mailArgs) error { return nil })
	enqueue(t, client, task, mailArgs{})
	for name, call := range map[string]func() error{
		"id": func() error { _, err := client.Cancel(t.Context(), 0, backfill.CancelOptions{}); return err },
		"rate of one": func() error {
			_, err := client.Cancel(t.Context(), 1, backfill.CancelOptions{PerSecond: 1})
			return err
		},
		"empty filter": func() error {
			_, err := client.CancelJobs(t.Context(), backfill.JobFilter{}, backfill.CancelOptions{})
			return err
		},
		"empty list": func() error {
			_, err := client.CancelJobs(t.Context(), backfill.JobFilter{IDs: []int64{}}, backfill.CancelOptions{})
			return err
		},
		"empty text": func() error {
			_, err := client.CancelJobs(t.Context(), backfill.JobFilter{Keys: []string{""}}, backfill.CancelOptions{})
			return err
		},
		"all and more": func() error {
			_, err := client.CancelJobs(t.Context(), backfill.JobFilter{All: true, Tasks: []string{"t"}}, backfill.CancelOptions{})
			return err
		},
	} {
		if err := call(); !errors.Is(err, backfill.ErrInvalidRequest) {
			t.Errorf("%s: %v", name, err)
		}
	}
	wantJobs(t, db, 1)
	result, err := client.CancelJobs(t.Context(), backfill.JobFilter{All: true}, backfill.CancelOptions{})
	if err != nil || result.Canceled != 1 {
		t.Errorf("all: %+v, %v", result, err)
	}
}

// A cancelled job that was requeued from a dead letter takes that with it, and a requeue after a
// cancel is another job, which runs (X64).
func TestCancelAndRequeue(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	fail := true
	task, registry := taskOf("t", func(context.Context, mailArgs) error {
		if fail {
			return backfill.Permanent(errBoom)
		}
		return nil
	})
	first := enqueue(t, client, task, mailArgs{})
	runOnce(t, client, registry)
	cancelJob(t, client, first.ID) // too late
	requeue(t, client, backfill.DeadLetterFilter{All: true})
	fail = false
	if diff := cmp.Diff(&backfill.Report{Completed: 1}, runOnce(t, client, registry)); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
}
