package testutil_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/testutil"
	"github.com/backfillhq/go/testutil/pgtest"
)

var (
	taskStep   = &backfill.Task[string]{Name: "step", Backoff: backfill.FixedBackoff(time.Hour)}
	taskTxStep = &backfill.Task[string]{Name: "tx_step", Timeout: time.Minute}
)

// openClient returns a client on a database of the test's own.
func openClient(t *testing.T) *backfill.Client {
	t.Helper()
	client, err := backfill.NewClient(t.Context(), pgtest.New(t).Pool())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

// step is a handler that does what its args say.
func step(ctx context.Context, do string) error {
	switch {
	case do == "fail":
		return errors.New("boom")
	case do == "die":
		return backfill.Permanent(errors.New("boom"))
	case do == "snooze":
		return backfill.Snooze(time.Hour)
	case do == "hang":
		<-ctx.Done()
		return ctx.Err()
	case do == "fail once" && backfill.JobInfo(ctx).Attempt == 1:
		return backfill.RetryIn(0, errors.New("boom"))
	}
	return nil
}

func steps() *backfill.Registry {
	return backfill.NewRegistry(
		backfill.Handle(taskStep, step),
		backfill.Handle(taskTxStep, func(ctx context.Context, _ pgx.Tx, do string) error { return step(ctx, do) }),
	)
}

func enqueueStep(t *testing.T, e backfill.Enqueuer, do string, opts ...backfill.EnqueueOption) *backfill.Job {
	t.Helper()
	job, err := backfill.Enqueue(t.Context(), e, taskStep, do, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return job
}

// Each state is reached, and what it says holds in the database when WaitFor returns: also when the
// job has left it before the call.
func TestWaitFor(t *testing.T) {
	t.Parallel()
	client := openClient(t)
	w := testutil.Start(t, client, steps())
	stateOf := func(job *backfill.Job) string {
		status, err := client.Job(t.Context(), job.ID)
		if err != nil {
			return err.Error()
		}
		return fmt.Sprintf("%s, %d attempts, %s", status.State, status.Attempt, status.LastError)
	}
	for _, task := range []*backfill.Task[string]{taskStep, taskTxStep} {
		for _, c := range []struct {
			do    string
			state testutil.State
			want  string // in the database
			err   string // of the event
		}{
			{"", testutil.Succeeded, "no such job", ""},
			{"fail", testutil.Failed, "waiting, 1 attempts, boom", "boom"},
			{"die", testutil.Dead, "failed, 1 attempts, boom", "boom"},
			{"die", testutil.Failed, "failed, 1 attempts, boom", "boom"},
			{"snooze", testutil.Snoozed, "waiting, 0 attempts, ", ""},
			{"fail once", testutil.Succeeded, "no such job", ""},
			{"fail once", testutil.Failed, "", "boom"},
			{"", testutil.Running, "", ""},
		} {
			job, err := backfill.Enqueue(t.Context(), client, task, c.do)
			if err != nil {
				t.Fatal(err)
			}
			for range 2 { // the second time it has happened before
				event := testutil.WaitFor(t, w, job, c.state)
				if got := stateOf(job); !strings.Contains(got, c.want) {
					t.Errorf("%s %q is %s, and in the database it is %s: want %s", task.Name, c.do, c.state, got, c.want)
				}
				if c.err != "" && (event.Err == nil || event.Err.Error() != c.err) {
					t.Errorf("%s %q: the event has error %v, want %s", task.Name, c.do, event.Err, c.err)
				}
				if event.Job == nil || event.Job.ID != job.ID {
					t.Errorf("%s %q: the event is of job %v", task.Name, c.do, event.Job)
				}
			}
		}
	}
}

// A dead letter that another worker has made is seen, too.
func TestWaitForWhatIsDeadAlready(t *testing.T) {
	t.Parallel()
	client := openClient(t)
	job := enqueueStep(t, client, "die")
	worker, err := client.NewWorker(steps())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := worker.RunOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	event := testutil.WaitFor(t, testutil.Start(t, client, steps()), job, testutil.Dead)
	if event.Err == nil || event.Err.Error() != "boom" || event.Job.Task != "step" {
		t.Errorf("event: %+v", event)
	}
}

// A failure says what the job does.
func TestWaitForFails(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		do     string
		opts   []backfill.EnqueueOption
		before testutil.State // that it has reached: then its time is soon over
		state  testutil.State
		want   []string
	}{
		{"hang", nil, testutil.Running, testutil.Succeeded, []string{
			`of task "step" is not succeeded after 50ms: it is running, attempt 1 of 25, locked by pool-`, "attempt 1: start", "its handler runs:",
			"testutil_test.step",
		}},
		{"fail", nil, testutil.Failed, testutil.Succeeded, []string{"it waits until ", "attempt 1 of 25; its last error: boom", ": failed after ", "to run again in 1h0m0s"}},
		{"", []backfill.EnqueueOption{backfill.Delay(time.Hour)}, "waiting", testutil.Running, []string{"it waits until ", "attempt 0 of 25"}},
		{"", nil, "", testutil.Dead, []string{`of task "step" will not be dead any more: it has succeeded`, "finished after "}},
		{"die", nil, "", testutil.Succeeded, []string{"will not be succeeded any more: it has failed for good, attempt 1 of 25; its last error: boom"}},
		{"fail once", nil, "", testutil.Snoozed, []string{"will not be snoozed any more: it has succeeded", "attempt 1: failed", "attempt 2: finished"}},
	} {
		tb := try(t, func(tb *trial) {
			client := openClient(t)
			w := testutil.Start(tb, client, steps())
			job := enqueueStep(t, client, c.do, c.opts...)
			var limits []testutil.WaitOption
			if c.before != "" {
				limits = append(limits, testutil.Within(50*time.Millisecond))
			}
			if c.before != "" && c.before != "waiting" {
				testutil.WaitFor(tb, w, job, c.before)
			}
			testutil.WaitFor(tb, w, job, c.state, limits...)
		})
		mustContain(t, tb.failed(), c.want...)
		if len(tb.failures) != 1 {
			t.Errorf("%q: failed %d times: %s", c.do, len(tb.failures), tb.failed())
		}
	}
}

// What no worker takes, what is not there, and a worker that has stopped, are told apart.
func TestWaitForWhatDoesNotRun(t *testing.T) {
	t.Parallel()
	client := openClient(t)
	foreign, err := client.Enqueue(t.Context(), backfill.Request{Task: "foreign"})
	if err != nil {
		t.Fatal(err)
	}
	stopped := testutil.Start(t, client, steps())
	if err := stopped.Stop(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		worker *testutil.Worker
		job    *backfill.Job
		state  testutil.State
		want   string
	}{
		{testutil.Start(t, client, steps()), foreign[0], testutil.Running, "does its registry have the task"},
		{testutil.Start(t, client, steps()), &backfill.Job{ID: 1 << 40, Task: "step"}, testutil.Succeeded, "it is not committed, was removed"},
		{stopped, enqueueStep(t, client, "", backfill.Delay(time.Hour)), testutil.Succeeded, "and the worker has stopped: it waits until"},
		{stopped, nil, testutil.Succeeded, "the worker or the job is nil"},
		{nil, foreign[0], testutil.Succeeded, "the worker or the job is nil"},
		{stopped, foreign[0], "finished", `nobody knows the state "finished"`},
	} {
		tb := try(t, func(tb *trial) {
			testutil.WaitFor(tb, c.worker, c.job, c.state, testutil.Within(100*time.Millisecond))
		})
		mustContain(t, tb.failed(), c.want)
	}
}

// The outcome of a run whose lease was lost does not count.
func TestWaitForIgnoresLostLeases(t *testing.T) {
	t.Parallel()
	client := openClient(t)
	entered, leave := make(chan struct{}), make(chan struct{})
	registry := backfill.NewRegistry(backfill.Handle(taskStep, func(ctx context.Context, _ string) error {
		if backfill.JobInfo(ctx).Revision == 0 {
			close(entered)
			<-leave
		}
		return errors.New("too late")
	}))
	tb := try(t, func(tb *trial) {
		w := testutil.Start(tb, client, registry)
		job := enqueueStep(t, client, "")
		<-entered
		if _, err := client.UnlockWorker(t.Context(), w.Worker().Health().WorkerID); err != nil {
			t.Error(err)
		}
		if _, err := client.RescheduleJobs(t.Context(), backfill.RescheduleChange{RunAt: new(time.Now().Add(time.Hour))}, job.ID); err != nil {
			t.Error(err)
		}
		close(leave)
		testutil.WaitFor(tb, w, job, testutil.Failed, testutil.Within(time.Second))
	})
	mustContain(t, tb.failed(), "is not failed after 1s: it waits until", "failed after", ": lease_lost")
}

// A job that was cancelled is so, and nothing else any more, whatever its handler said at the end.
func TestWaitForWhatIsCancelled(t *testing.T) {
	t.Parallel()
	client, _ := newClient(t)
	w := testutil.Start(t, client, backfill.NewRegistry(backfill.Handle(taskStep, func(ctx context.Context, do string) error {
		if do == "at once" { // before the worker hears of it
			_, err := client.Cancel(context.WithoutCancel(ctx), backfill.JobInfo(ctx).ID, backfill.CancelOptions{})
			return err
		}
		<-ctx.Done()
		return nil
	})), backfill.WithoutListen())
	for _, do := range []string{"at once", "when told"} {
		job, err := backfill.Enqueue(t.Context(), client, taskStep, do)
		if err != nil {
			t.Fatal(err)
		}
		if do == "when told" {
			testutil.WaitFor(t, w, job, testutil.Running)
			if _, err := client.Cancel(t.Context(), job.ID, backfill.CancelOptions{By: "ada"}); err != nil {
				t.Fatal(err)
			}
		}
		if event := testutil.WaitFor(t, w, job, testutil.Canceled); !errors.Is(event.Err, backfill.ErrCanceled) {
			t.Errorf("%s: event %+v", do, event)
		}
		tb := try(t, func(tb *trial) { testutil.WaitFor(tb, w, job, testutil.Succeeded) })
		mustContain(t, tb.failed(), "will not be succeeded any more: it was cancelled")
	}
}
