package backfill_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

var quiet = slog.New(slog.DiscardHandler)

// execute runs a job of a task whose handler is fn.
func execute[T any](ctx context.Context, task *backfill.Task[T], payload string, fn func(context.Context, T) error, opts ...backfill.HandleOption) worker.Outcome {
	registry := backfill.NewRegistry(backfill.Handle(task, fn, opts...))
	return executeWith(ctx, backfill.Executor(registry, &fakeEnqueuer{}, quiet), engineJob(task.Name, payload))
}

func executeWith(ctx context.Context, run func(context.Context, *wire.Job, *worker.Outcome), job *wire.Job) worker.Outcome {
	var outcome worker.Outcome
	done := make(chan struct{})
	go func() { // runtime.Goexit must not end the test
		defer close(done)
		run(ctx, job, &outcome)
	}()
	<-done
	return outcome
}

func engineJob(task, payload string) *wire.Job {
	return &wire.Job{Lease: wire.Lease{ID: 42}, Task: task, Payload: []byte(payload), Attempt: 2, MaxAttempts: 25}
}

var errBoom = errors.New("boom")

// wordy has a message, and methods that panic.
type wordy struct{}

func (wordy) Error() string   { return "wordy" }
func (wordy) Is(error) bool   { panic("Is") }
func (wordy) Unwrap() []error { panic("Unwrap") }

func TestOutcomes(t *testing.T) {
	t.Parallel()
	failed := func(text string) worker.Outcome {
		return worker.Outcome{Kind: worker.OutcomeFailed, Text: text, Delay: time.Minute}
	}
	tests := map[string]struct {
		handler func() error
		want    worker.Outcome
		is      error
	}{
		"success":           {func() error { return nil }, worker.Outcome{Kind: worker.OutcomeCompleted}, nil},
		"error":             {func() error { return errBoom }, failed("boom"), errBoom},
		"wrapped":           {func() error { return fmt.Errorf("send: %w", errBoom) }, failed("send: boom"), errBoom},
		"no message":        {func() error { return errors.New("") }, failed("error of type *errors.errorString without a message"), nil},
		"NUL":               {func() error { return errors.New("a\x00b") }, failed("ab"), nil},
		"nil pointer":       {func() error { return (*nilError)(nil) }, failed("error of type *backfill_test.nilError without a message"), nil},
		"methods panic":     {func() error { return wordy{} }, failed("error of type backfill_test.wordy, a method of which panicked: panic: Unwrap"), nil},
		"permanent":         {func() error { return backfill.Permanent(errBoom) }, worker.Outcome{Kind: worker.OutcomeExhausted, Text: "boom"}, errBoom},
		"permanent wrapped": {func() error { return fmt.Errorf("send: %w", backfill.Permanent(errBoom)) }, worker.Outcome{Kind: worker.OutcomeExhausted, Text: "send: boom"}, errBoom},
		"permanent joined":  {func() error { return errors.Join(errBoom, backfill.Permanent(errBoom)) }, worker.Outcome{Kind: worker.OutcomeExhausted, Text: "boom\nboom"}, errBoom},
		"permanent nil":     {func() error { return backfill.Permanent(nil) }, worker.Outcome{Kind: worker.OutcomeExhausted, Text: "failed permanently, without a reason"}, nil},
		"snooze":            {func() error { return backfill.Snooze(time.Hour) }, worker.Outcome{Kind: worker.OutcomeSnoozed, Delay: time.Hour}, nil},
		"snooze wrapped":    {func() error { return fmt.Errorf("busy: %w", backfill.Snooze(time.Hour)) }, worker.Outcome{Kind: worker.OutcomeSnoozed, Delay: time.Hour}, nil},
		"snooze negative":   {func() error { return backfill.Snooze(-1) }, worker.Outcome{Kind: worker.OutcomeSnoozed}, nil},
		"retry in":          {func() error { return backfill.RetryIn(time.Hour, errBoom) }, worker.Outcome{Kind: worker.OutcomeFailed, Text: "boom", Delay: time.Hour}, errBoom},
		"retry in wrapped":  {func() error { return fmt.Errorf("send: %w", backfill.RetryIn(0, errBoom)) }, worker.Outcome{Kind: worker.OutcomeFailed, Text: "send: boom"}, errBoom},
		"retry in nil":      {func() error { return backfill.RetryIn(-1, nil) }, worker.Outcome{Kind: worker.OutcomeFailed, Text: "failed, without a reason"}, nil},
		"outermost wins":    {func() error { return backfill.Permanent(backfill.RetryIn(time.Hour, errBoom)) }, worker.Outcome{Kind: worker.OutcomeExhausted, Text: "boom"}, errBoom},
		"panic":             {func() error { panic("at the disco") }, failed("panic: at the disco"), nil},
		"panic with error":  {func() error { panic(errBoom) }, failed("panic: boom"), errBoom},
		"panic nil":         {func() error { panic(nil) }, failed("panic: " + new(runtime.PanicNilError).Error()), nil},
		"panic that panics": {func() error { panic((*nilError)(nil)) }, failed("panic: <nil>"), nil},
		"canceled":          {func() error { return context.Canceled }, failed("context canceled"), context.Canceled},
		"batch of a struct": {
			func() error { return &backfill.BatchError{Errs: map[int]error{0: errBoom}} },
			failed("BatchError of a job whose args are not an array, all of them are kept: Batch failures:\nboom"), errBoom,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			task := &backfill.Task[mailArgs]{Name: "t", Backoff: backfill.FixedBackoff(time.Minute)}
			got := execute(t.Context(), task, `{}`, func(context.Context, mailArgs) error { return test.handler() })
			if diff := cmp.Diff(test.want, got, cmpopts.IgnoreFields(worker.Outcome{}, "Err")); diff != "" {
				t.Errorf("outcome (-want +got):\n%s", diff)
			}
			if failed := test.want.Text != ""; failed != (got.Err != nil) {
				t.Errorf("error %v of a job that failed: %v", got.Err, failed)
			}
			if got.Err != nil && test.is != nil && !errors.Is(got.Err, test.is) {
				t.Errorf("error %v is not %v", got.Err, test.is)
			}
			if got.Err != nil {
				_ = got.Err.Error() // must not panic
			}
		})
	}
}

// A handler that ends its goroutine leaves the outcome that was written before it was called.
func TestGoexit(t *testing.T) {
	t.Parallel()
	task := &backfill.Task[mailArgs]{Name: "t", Backoff: backfill.FixedBackoff(time.Minute)}
	got := execute(t.Context(), task, `{}`, func(context.Context, mailArgs) error {
		runtime.Goexit()
		return nil
	})
	want := worker.Outcome{Kind: worker.OutcomeFailed, Text: "handler ended its goroutine (runtime.Goexit)", Delay: time.Minute}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(worker.Outcome{}, "Err")); diff != "" {
		t.Errorf("outcome (-want +got):\n%s", diff)
	}
}

// The log has the stack of a panic, the database does not.
func TestPanicIsLoggedWithItsStack(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	task := &backfill.Task[mailArgs]{Name: "send_email"}
	registry := backfill.NewRegistry(backfill.Handle(task, func(context.Context, mailArgs) error { panic("boom") }))
	run := backfill.Executor(registry, nil, slog.New(slog.NewJSONHandler(&log, nil)))
	got := executeWith(t.Context(), run, engineJob("send_email", `{}`))
	var panicked *backfill.PanicError
	if !errors.As(got.Err, &panicked) || panicked.Value != "boom" || !strings.Contains(string(panicked.Stack), "execute_test.go") {
		t.Errorf("error %#v", got.Err)
	}
	if strings.Contains(got.Text, "goroutine") {
		t.Errorf("text %q", got.Text)
	}
	for _, want := range []string{`"level":"WARN"`, `"msg":"handler panicked"`, `"task":"send_email"`, `"job_id":42`, `"attempt":2`, `"error":"panic: boom"`, "execute_test.go"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("log without %s:\n%s", want, log.String())
		}
	}
	if n := strings.Count(log.String(), "\n"); n != 1 {
		t.Errorf("%d lines in the log", n)
	}
}

func TestJobContext(t *testing.T) {
	t.Parallel()
	at := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	claimed := &wire.Job{
		Lease: wire.Lease{ID: 42, Token: "secret"}, Task: "mail", Payload: []byte(`{"user_id":7}`), Queue: "q", Key: "k", Priority: -5,
		Attempt: 2, MaxAttempts: 3, Revision: 1, RunAt: at, CreatedAt: at.Add(-time.Hour), Flags: []string{"f"},
	}
	want := backfill.Job{
		ID: 42, Task: "mail", Args: raw(`{"user_id":7}`), Queue: "q", Key: "k", Priority: backfill.PriorityFastDefault,
		Attempt: 2, MaxAttempts: 3, Revision: 1, RunAt: at, CreatedAt: at.Add(-time.Hour), Flags: []string{"f"},
	}
	var got backfill.Job
	var args mailArgs
	fake := &fakeEnqueuer{}
	task := &backfill.Task[mailArgs]{Name: "send_email", Aliases: []string{"mail"}}
	registry := backfill.NewRegistry(backfill.Handle(task, func(ctx context.Context, a mailArgs) error {
		got, args = backfill.JobInfo(ctx), a
		_, err := backfill.Enqueue(ctx, backfill.FromContext(ctx), mailTask, a)
		return err
	}))
	outcome := executeWith(backfill.NewContext(t.Context(), nil), backfill.Executor(registry, fake, quiet), claimed)
	if outcome.Kind != worker.OutcomeCompleted {
		t.Fatalf("outcome %+v", outcome)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("job (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(mailArgs{UserID: 7}, args); diff != "" {
		t.Errorf("args (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{`send_email{"user_id":7}`}, fake.sent()); diff != "" {
		t.Errorf("enqueued (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(backfill.Job{}, backfill.JobInfo(t.Context())); diff != "" {
		t.Errorf("job outside a handler: %s", diff)
	}
}

func TestExecuteDecodes(t *testing.T) {
	t.Parallel()
	task := &backfill.Task[mailArgs]{Name: "send_email", Backoff: backfill.FixedBackoff(time.Minute)}
	got := execute(t.Context(), task, `{"user_id":"x"}`, func(context.Context, mailArgs) error { return nil })
	want := worker.Outcome{
		Kind: worker.OutcomeFailed, Delay: time.Minute, Text: "decode args of task send_email: $.user_id: cannot use string as int64",
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(worker.Outcome{}, "Err")); diff != "" {
		t.Errorf("outcome (-want +got):\n%s", diff)
	}
	none := &backfill.Task[backfill.NoArgs]{Name: "purge"}
	for _, payload := range []string{`{}`, `[1]`, `null`, `5`} {
		if got := execute(t.Context(), none, payload, func(context.Context, backfill.NoArgs) error { return nil }); got.Kind != worker.OutcomeCompleted {
			t.Errorf("no args, payload %s: %+v", payload, got)
		}
	}
}

func TestExecuteUnknownTask(t *testing.T) {
	t.Parallel()
	got := executeWith(t.Context(), backfill.Executor(backfill.NewRegistry(bind("a")), nil, quiet), engineJob("b", `{}`))
	if got.Kind != worker.OutcomeFailed || got.Text != "this worker has no handler for the task" || got.Delay < time.Second {
		t.Errorf("outcome %+v", got)
	}
}

// An interrupted job is given back, whatever its handler makes of the interruption; other ends
// count as they are.
func TestShutdown(t *testing.T) {
	t.Parallel()
	batch := &backfill.BatchError{Errs: map[int]error{1: context.Canceled}}
	tests := map[string]struct {
		cause error
		err   error
		last  bool // attempt
		want  worker.OutcomeKind
	}{
		"canceled":                 {backfill.ErrShutdown, context.Canceled, false, worker.OutcomeReturned},
		"canceled, last attempt":   {backfill.ErrShutdown, context.Canceled, true, worker.OutcomeReturned},
		"canceled, wrapped":        {backfill.ErrShutdown, fmt.Errorf("query: %w", context.Canceled), false, worker.OutcomeReturned},
		"cause":                    {backfill.ErrShutdown, backfill.ErrShutdown, false, worker.OutcomeReturned},
		"cause, wrapped":           {backfill.ErrShutdown, fmt.Errorf("query: %w", backfill.ErrShutdown), false, worker.OutcomeReturned},
		"wrapped cause":            {fmt.Errorf("%w now", backfill.ErrShutdown), context.Canceled, false, worker.OutcomeReturned},
		"permanent":                {backfill.ErrShutdown, backfill.Permanent(context.Canceled), false, worker.OutcomeReturned},
		"retry in":                 {backfill.ErrShutdown, backfill.RetryIn(time.Hour, context.Canceled), false, worker.OutcomeReturned},
		"snooze":                   {backfill.ErrShutdown, backfill.Snooze(time.Hour), false, worker.OutcomeSnoozed},
		"success":                  {backfill.ErrShutdown, nil, false, worker.OutcomeCompleted},
		"other error":              {backfill.ErrShutdown, errBoom, false, worker.OutcomeFailed},
		"batch":                    {backfill.ErrShutdown, batch, false, worker.OutcomeFailed},
		"batch, last attempt":      {backfill.ErrShutdown, batch, true, worker.OutcomeReturned},
		"lease lost":               {backfill.ErrLeaseLost, context.Canceled, false, worker.OutcomeReturned},
		"lease lost, but finished": {backfill.ErrLeaseLost, nil, false, worker.OutcomeCompleted},
		"no shutdown":              {nil, context.Canceled, false, worker.OutcomeFailed},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			task := &backfill.Task[[]int]{Name: "t", Timeout: time.Hour}
			registry := backfill.NewRegistry(backfill.Handle(task, func(context.Context, []int) error {
				if test.cause != nil {
					cancel(test.cause)
				}
				return test.err
			}))
			job := engineJob("t", `[1,2]`)
			if test.last {
				job.MaxAttempts = job.Attempt
			}
			if got := executeWith(ctx, backfill.Executor(registry, nil, quiet), job); got.Kind != test.want {
				t.Errorf("outcome %+v, want kind %v", got, test.want)
			}
		})
	}
}

func TestTimeout(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		handler func(ctx context.Context) error
		want    worker.Outcome
	}{
		"deadline": {
			func(ctx context.Context) error { return fmt.Errorf("query: %w", ctx.Err()) },
			worker.Outcome{Kind: worker.OutcomeFailed, Text: "task timed out after 30s: query: context deadline exceeded", Delay: time.Minute},
		},
		"cause": {
			context.Cause,
			worker.Outcome{Kind: worker.OutcomeFailed, Text: "task timed out after 30s: task timed out", Delay: time.Minute},
		},
		"canceled": {
			func(ctx context.Context) error { return context.Canceled },
			worker.Outcome{Kind: worker.OutcomeFailed, Text: "task timed out after 30s: context canceled", Delay: time.Minute},
		},
		"permanent": {
			func(ctx context.Context) error { return backfill.Permanent(ctx.Err()) },
			worker.Outcome{Kind: worker.OutcomeExhausted, Text: "task timed out after 30s: context deadline exceeded"},
		},
		"another error": {
			func(context.Context) error { return errBoom },
			worker.Outcome{Kind: worker.OutcomeFailed, Text: "boom", Delay: time.Minute},
		},
		"finished": {func(context.Context) error { return nil }, worker.Outcome{Kind: worker.OutcomeCompleted}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				task := &backfill.Task[mailArgs]{Name: "t", Timeout: 30 * time.Second, Backoff: backfill.FixedBackoff(time.Minute)}
				started := time.Now()
				got := execute(t.Context(), task, `{}`, func(ctx context.Context, _ mailArgs) error {
					<-ctx.Done()
					if !errors.Is(context.Cause(ctx), backfill.ErrTimeout) {
						t.Errorf("cause %v", context.Cause(ctx))
					}
					return test.handler(ctx)
				})
				if took := time.Since(started); took != 30*time.Second {
					t.Errorf("took %v", took)
				}
				if diff := cmp.Diff(test.want, got, cmpopts.IgnoreFields(worker.Outcome{}, "Err")); diff != "" {
					t.Errorf("outcome (-want +got):\n%s", diff)
				}
				if timedOut := strings.Contains(test.want.Text, "timed out"); timedOut != errors.Is(got.Err, backfill.ErrTimeout) {
					t.Errorf("error %v", got.Err)
				}
			})
		})
	}
}

func TestNoTimeoutUnlessAsked(t *testing.T) {
	t.Parallel()
	execute(t.Context(), mailTask, `{}`, func(ctx context.Context, _ mailArgs) error {
		if deadline, ok := ctx.Deadline(); ok {
			t.Errorf("deadline %v", deadline)
		}
		return nil
	})
}

func TestBackoffFunc(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		fn   func(attempt int, err error) time.Duration
		want time.Duration
	}{
		"time":     {func(attempt int, err error) time.Duration { return time.Duration(attempt) * time.Second }, 2 * time.Second},
		"zero":     {func(int, error) time.Duration { return 0 }, 0},
		"negative": {func(int, error) time.Duration { return -1 }, time.Minute},
		"panic":    {func(int, error) time.Duration { panic("no idea") }, time.Minute},
		"error": {func(_ int, err error) time.Duration {
			if errors.Is(err, errBoom) {
				return time.Hour
			}
			return 0
		}, time.Hour},
		"goexit": {func(int, error) time.Duration { runtime.Goexit(); return 0 }, time.Minute},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			task := &backfill.Task[mailArgs]{Name: "t", Backoff: backfill.FixedBackoff(time.Minute)}
			boom := func(context.Context, mailArgs) error { return fmt.Errorf("send: %w", errBoom) }
			got := execute(t.Context(), task, `{}`, boom, backfill.BackoffFunc(test.fn))
			if got.Kind != worker.OutcomeFailed || got.Delay != test.want {
				t.Errorf("outcome %+v, want a delay of %v", got, test.want)
			}
			if want := "send: boom"; got.Text != want && name != "goexit" {
				t.Errorf("text %q, want %q", got.Text, want)
			}
		})
	}
}

// A backoff function that does not return keeps its slot for a limited time.
func TestBackoffFuncThatHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		defer close(release)
		task := &backfill.Task[mailArgs]{Name: "t", Backoff: backfill.FixedBackoff(time.Minute)}
		boom := func(context.Context, mailArgs) error { return errBoom }
		got := execute(t.Context(), task, `{}`, boom, backfill.BackoffFunc(func(int, error) time.Duration { <-release; return 0 }))
		if got.Kind != worker.OutcomeFailed || got.Delay != time.Minute {
			t.Errorf("outcome %+v, want a delay of a minute", got)
		}
	})
}

// A backoff function that misbehaves for every job makes few lines.
func TestBackoffFuncCannotFloodTheLog(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	task := &backfill.Task[mailArgs]{Name: "send_email"}
	registry := backfill.NewRegistry(backfill.Handle(task, func(context.Context, mailArgs) error { return errBoom },
		backfill.BackoffFunc(func(int, error) time.Duration { return -1 })))
	run := backfill.Executor(registry, nil, slog.New(slog.NewTextHandler(&log, nil)))
	for range 1000 {
		executeWith(t.Context(), run, engineJob("send_email", `{}`))
	}
	if n := strings.Count(log.String(), "backoff function misbehaved"); n == 0 || n > 10 {
		t.Errorf("%d lines", n)
	}
}

// The error types are found through wrapping, as users look for them.
func TestErrorsAreFound(t *testing.T) {
	t.Parallel()
	if !errors.Is(fmt.Errorf("a: %w", backfill.Permanent(errBoom)), errBoom) || !errors.Is(backfill.RetryIn(1, errBoom), errBoom) {
		t.Error("Permanent and RetryIn hide their error")
	}
	if !errors.Is(worker.ErrShutdown, backfill.ErrShutdown) || !errors.Is(worker.ErrLeaseLost, backfill.ErrLeaseLost) {
		t.Error("causes differ from the engine's")
	}
	var batch *backfill.BatchError
	err := fmt.Errorf("a: %w", &backfill.BatchError{Errs: map[int]error{1: errBoom}})
	if !errors.As(err, &batch) || !errors.Is(err, errBoom) {
		t.Error("BatchError is not found")
	}
	var panicked *backfill.PanicError
	if !errors.As(fmt.Errorf("a: %w", &backfill.PanicError{Value: errBoom}), &panicked) || !errors.Is(panicked, errBoom) {
		t.Error("PanicError is not found")
	}
}
