package backfill_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/testutil/pgtest"
)

// wantRetry checks when a job runs again, by the database's clock alone: between the given times,
// plus the delay.
func wantRetry(t *testing.T, db *pgtest.Database, before time.Time, least, most time.Duration) {
	t.Helper()
	runAt := get[time.Time](t, db.Pool(), "select run_at from graphile_worker._private_jobs")
	after := get[time.Time](t, db.Pool(), "select clock_timestamp()")
	if runAt.Before(before.Add(least)) || runAt.After(after.Add(most)) {
		t.Errorf("runs again %v after the start, want %v to %v", runAt.Sub(before), least, most)
	}
}

// isDead says that a job is a dead letter, and not how many attempts it has had.
const isDead = -1

// What a handler's error leaves in the database. The job is at its second attempt of three.
func TestFailures(t *testing.T) {
	t.Parallel()
	hour := backfill.FixedBackoff(time.Hour)
	tests := map[string]struct {
		err         error
		backoff     backfill.Backoff
		opts        []backfill.HandleOption
		text        string
		attempts    int
		least, most time.Duration
	}{
		"default":      {errBoom, backfill.Backoff{}, nil, "boom", 2, 6650 * time.Millisecond, 8128 * time.Millisecond},
		"graphile":     {errBoom, backfill.GraphileBackoff(), nil, "boom", 2, 7389056 * time.Microsecond, 7389056 * time.Microsecond},
		"fast":         {errBoom, backfill.FastBackoff(), nil, "boom", 2, 180 * time.Millisecond, 220 * time.Millisecond},
		"aggressive":   {errBoom, backfill.AggressiveBackoff(), nil, "boom", 2, 637 * time.Millisecond, 863 * time.Millisecond},
		"conservative": {errBoom, backfill.ConservativeBackoff(), nil, "boom", 2, 10 * time.Second, 15 * time.Second},
		"exponential":  {errBoom, backfill.ExponentialBackoff(time.Minute, time.Hour, 3), nil, "boom", 2, 162 * time.Second, 198 * time.Second},
		"function": {
			errBoom, hour, []backfill.HandleOption{backfill.BackoffFunc(func(attempt int, err error) time.Duration {
				return time.Duration(attempt*len(err.Error())) * time.Minute
			})}, "boom", 2, 8 * time.Minute, 8 * time.Minute,
		},
		"retry in":       {backfill.RetryIn(90*time.Minute, errBoom), hour, nil, "boom", 2, 90 * time.Minute, 90 * time.Minute},
		"wrapped":        {fmt.Errorf("send: %w", backfill.RetryIn(time.Minute, errBoom)), hour, nil, "send: boom", 2, time.Minute, time.Minute},
		"permanent":      {backfill.Permanent(errBoom), hour, nil, "boom", isDead, 0, 0},
		"snooze":         {backfill.Snooze(2 * time.Hour), hour, nil, "before", 1, 2 * time.Hour, 2 * time.Hour},
		"NUL":            {errors.New("a\x00b"), hour, nil, "ab", 2, time.Hour, time.Hour},
		"not UTF-8":      {errors.New("a\xffb"), hour, nil, "a\uFFFDb", 2, time.Hour, time.Hour},
		"long":           {errors.New(strings.Repeat("x", 20_000)), hour, nil, strings.Repeat("x", 9_990) + " … (cut)", 2, time.Hour, time.Hour},
		"quotes":         {errors.New(`{"a",'b',\,NULL}`), hour, nil, `{"a",'b',\,NULL}`, 2, time.Hour, time.Hour},
		"without text":   {errors.New(""), hour, nil, "error of type *errors.errorString without a message", 2, time.Hour, time.Hour},
		"empty batch":    {&backfill.BatchError{Errs: map[int]error{5: errBoom}}, hour, nil, "BatchError of a job whose args are not an array", 2, time.Hour, time.Hour},
		"very far":       {backfill.RetryIn(1<<63-1, errBoom), hour, nil, "boom", 2, 1<<63 - 1, 1<<63 - 1},
		"context's end":  {context.Canceled, hour, nil, "context canceled", 2, time.Hour, time.Hour},
		"its own":        {backfill.ErrShutdown, hour, nil, "worker is shutting down", 2, time.Hour, time.Hour},
		"joined verdict": {errors.Join(errBoom, backfill.Permanent(errors.New("no"))), hour, nil, "boom\nno", isDead, 0, 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			client := newClient(t, db)
			task := &backfill.Task[mailArgs]{Name: "send_email", MaxAttempts: 3, Backoff: test.backoff}
			registry := backfill.NewRegistry(backfill.Handle(task, func(ctx context.Context, _ mailArgs) error {
				if backfill.JobInfo(ctx).Attempt != 2 {
					return nil
				}
				return test.err
			}, test.opts...))
			enqueue(t, client, task, mailArgs{UserID: 1}, backfill.Queue("q"))
			exec(t, db.Pool(), "update graphile_worker._private_jobs set attempts = 1, last_error = 'before'")
			before := get[time.Time](t, db.Pool(), "select clock_timestamp()")
			runOnce(t, client, registry)
			if open := get[bool](t, db.Pool(), "select locked_at is null from graphile_worker._private_job_queues"); !open {
				t.Error("the queue is locked")
			}
			if test.attempts == isDead {
				want := letterRow{
					Task: "send_email", Queue: "q", Payload: `{"user_id":1}`, Reason: "permanent", LastError: test.text, Attempts: 2, MaxAttempts: 3, Count: 1,
				}
				if diff := cmp.Diff(want, onlyLetter(t, db)); diff != "" {
					t.Errorf("dead letter (-want +got):\n%s", diff)
				}
				return
			}
			row := onlyRow(t, db)
			if !strings.HasPrefix(row.LastError, test.text) || row.Attempts != test.attempts || row.Locked || row.Payload != `{"user_id":1}` {
				t.Errorf("row %+v", row)
			}
			wantRetry(t, db, before, test.least, test.most)
		})
	}
}

func TestLastAttempt(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	task := &backfill.Task[mailArgs]{Name: "send_email", MaxAttempts: 3, Backoff: backfill.FixedBackoff(0)}
	registry := backfill.NewRegistry(backfill.Handle(task, func(ctx context.Context, _ mailArgs) error {
		return fmt.Errorf("attempt %d", backfill.JobInfo(ctx).Attempt)
	}))
	enqueue(t, client, task, mailArgs{})
	report := runOnce(t, client, registry)
	if diff := cmp.Diff(&backfill.Report{Failed: 3, Exhausted: 1}, report); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
	want := letterRow{Task: "send_email", Payload: `{"user_id":0}`, Reason: "exhausted", LastError: "attempt 3", Attempts: 3, MaxAttempts: 3, Count: 1}
	if diff := cmp.Diff(want, onlyLetter(t, db)); diff != "" {
		t.Errorf("dead letter (-want +got):\n%s", diff)
	}
}

// Neither the log nor the event promises a retry that will not come; run_at moves, as the contract
// has it.
func TestLastAttemptPromisesNoRetry(t *testing.T) {
	t.Parallel()
	client := newClient(t, pgtest.New(t))
	for what, test := range map[string]struct {
		attempts int
		err      error
		promises bool
	}{
		"retry": {2, errBoom, true}, "last": {1, errBoom, false}, "last, RetryIn": {1, backfill.RetryIn(time.Hour, errBoom), false},
		"permanent": {2, backfill.Permanent(errBoom), false},
	} {
		var log logBook
		var mu sync.Mutex
		var delays []time.Duration
		task := &backfill.Task[mailArgs]{Name: "last", MaxAttempts: test.attempts, Backoff: backfill.FixedBackoff(time.Hour)}
		registry := backfill.NewRegistry(backfill.Handle(task, func(context.Context, mailArgs) error { return test.err }))
		enqueue(t, client, task, mailArgs{})
		runOnce(t, client, registry, backfill.WithLogger(log.logger()), backfill.WithObserver(func(e backfill.Event) {
			if e.Kind == backfill.EventFailed {
				mu.Lock()
				defer mu.Unlock()
				delays = append(delays, e.Delay)
			}
		}))
		if len(delays) != 1 || delays[0] > 0 != test.promises || strings.Contains(log.String(), "retry_in") != test.promises {
			t.Errorf("%s: delays %v, log:\n%s", what, delays, log.String())
		}
	}
}

// A job can be snoozed more often than it can fail.
func TestSnoozeIsNotCharged(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	task := &backfill.Task[mailArgs]{Name: "send_email", MaxAttempts: 1}
	runs := 0
	registry := backfill.NewRegistry(backfill.Handle(task, func(ctx context.Context, _ mailArgs) error {
		if runs++; backfill.JobInfo(ctx).Attempt != 1 {
			t.Errorf("run %d is attempt %d", runs, backfill.JobInfo(ctx).Attempt)
		}
		if runs <= 5 {
			return backfill.Snooze(0)
		}
		return nil
	}))
	enqueue(t, client, task, mailArgs{}, backfill.Key("k"), backfill.Queue("q"))
	if diff := cmp.Diff(&backfill.Report{Completed: 1, Snoozed: 5}, runOnce(t, client, registry)); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
	wantJobs(t, db, 0)
}

// Only the elements that failed are kept, byte for byte, until none is left.
func TestBatches(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	task := &backfill.Task[[]int]{Name: "batch", Backoff: backfill.FixedBackoff(0), MaxAttempts: 3}
	var seen [][]int
	registry := backfill.NewRegistry(backfill.Handle(task, func(_ context.Context, numbers []int) error {
		seen = append(seen, numbers)
		failed := &backfill.BatchError{Errs: map[int]error{}}
		for i, number := range numbers {
			if number > len(seen) {
				failed.Errs[i] = fmt.Errorf("%d is too much", number)
			}
		}
		return fmt.Errorf("all: %w", failed)
	}))
	enqueue(t, client, task, []int{1, 9, 2, 3, 9})
	runOnce(t, client, registry)
	if diff := cmp.Diff([][]int{{1, 9, 2, 3, 9}, {9, 2, 3, 9}, {9, 3, 9}}, seen); diff != "" {
		t.Errorf("runs (-want +got):\n%s", diff)
	}
	want := letterRow{
		Task: "batch", Payload: "[9,9]", Reason: "exhausted", LastError: "Batch failures:\n9 is too much\n9 is too much",
		Attempts: 3, MaxAttempts: 3, Count: 1,
	}
	if diff := cmp.Diff(want, onlyLetter(t, db)); diff != "" {
		t.Errorf("dead letter (-want +got):\n%s", diff)
	}
}

// Handlers that end in other ways than by returning cost their job an attempt, and nothing else.
func TestHandlersThatDoNotReturn(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	var book logBook
	client := newClient(t, db, backfill.WithLogger(book.logger()))
	task := &backfill.Task[mailArgs]{Name: "send_email", Backoff: backfill.FixedBackoff(time.Hour)}
	registry := backfill.NewRegistry(backfill.Handle(task, func(_ context.Context, args mailArgs) error {
		switch args.Template {
		case "panic":
			panicsDeepInside()
		case "panic with an error":
			panic(errBoom)
		case "exit":
			runtime.Goexit()
		}
		return nil
	}))
	w := start(t, client, registry, backfill.WithConcurrency(1))
	for _, template := range []string{"panic", "panic with an error", "exit"} {
		enqueue(t, client, task, mailArgs{Template: template})
	}
	w.await("failed", 3, is(backfill.EventFailed))
	enqueue(t, client, task, mailArgs{}) // the slot lives
	w.awaitRecorded(1)
	until(t, "the failures to be recorded", func() bool {
		return get[int](t, db.Pool(), "select count(*) from graphile_worker._private_jobs where locked_at is null") == 3
	})
	var texts []string
	for _, row := range jobRows(t, db) {
		texts = append(texts, row.LastError)
	}
	if diff := cmp.Diff([]string{"panic: oops", "panic: boom", "handler ended its goroutine (runtime.Goexit)"}, texts); diff != "" {
		t.Errorf("last_error (-want +got):\n%s", diff)
	}
	var panicked *backfill.PanicError
	if e := w.await("failed", 1, is(backfill.EventFailed)); !errors.As(e.Err, &panicked) || panicked.Value != "oops" {
		t.Errorf("the event has the error %v", e.Err)
	}
	book.want(t, "panicsDeepInside", "handler panicked")
}

func panicsDeepInside() { panic("oops") }

// Args that do not decode leave a job that is retried, and says where they are wrong; never what
// they are.
func TestArgsThatDoNotDecode(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ args, want string }{
		"wrong type": {`{"user_id": "s3cr3t"}`, "decode args of task send_email: $.user_id: cannot use string as int64"},
		"not object": {`["s3cr3t"]`, "decode args of task send_email: $: cannot use array as backfill_test.mailArgs"},
		"range":      {`{"user_id": 9223372036854775808}`, "$.user_id: cannot use this number as int64: it is out of range"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			client := newClient(t, db)
			_, registry := taskOf("send_email", func(context.Context, mailArgs) error { t.Error("the handler ran"); return nil })
			if _, err := client.Enqueue(t.Context(), backfill.Request{Task: "send_email", Args: raw(test.args)}); err != nil {
				t.Fatal(err)
			}
			runOnce(t, client, registry)
			row := onlyRow(t, db)
			if !strings.Contains(row.LastError, test.want) || row.Attempts != 1 || row.MaxAttempts != 25 || row.Payload != test.args || row.Locked {
				t.Errorf("row %+v, want last_error %q", row, test.want)
			}
			wantSecret(t, secret, row.LastError)
		})
	}
}

func TestTimeoutIsRecorded(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	task := &backfill.Task[mailArgs]{Name: "send_email", Timeout: time.Millisecond, Backoff: backfill.FixedBackoff(time.Hour)}
	cause := make(chan error, 1)
	registry := backfill.NewRegistry(backfill.Handle(task, func(ctx context.Context, _ mailArgs) error {
		<-ctx.Done()
		cause <- context.Cause(ctx)
		return ctx.Err()
	}))
	enqueue(t, client, task, mailArgs{})
	runOnce(t, client, registry)
	if err := receive(t, "the cause", cause); !errors.Is(err, backfill.ErrTimeout) {
		t.Errorf("cause %v", err)
	}
	if row := onlyRow(t, db); row.LastError != "task timed out after 1ms: context deadline exceeded" || row.Attempts != 1 {
		t.Errorf("row %+v", row)
	}
}
