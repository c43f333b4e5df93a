package backfill_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// Middleware recognises every verdict, wrapped or joined, and the worker does as it says.
func TestVerdictOf(t *testing.T) {
	t.Parallel()
	cancelled := func(cause error) context.Context {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(cause)
		return ctx
	}
	plain, shutdown, lost := t.Context(), cancelled(backfill.ErrShutdown), cancelled(backfill.ErrLeaseLost)
	batch := &backfill.BatchError{Errs: map[int]error{0: errBoom}}
	type verdict struct {
		Kind     backfill.VerdictKind
		Final    bool
		Delay    time.Duration
		Failed   bool
		OnlyOnce backfill.VerdictKind // on the last attempt, if it is another kind than before
	}
	const hour = time.Hour
	failed, snoozed := worker.OutcomeFailed, worker.OutcomeSnoozed
	retry := verdict{Kind: backfill.VerdictRetry, Failed: true}
	permanent := verdict{Kind: backfill.VerdictPermanent, Final: true, Failed: true}
	_, decoding := backfill.DecodeArgs[final]("t", raw(`1`))
	for name, test := range map[string]struct {
		ctx  context.Context //nolint:containedctx // of a job
		err  error
		want verdict
		is   worker.OutcomeKind
	}{
		"nil":               {plain, nil, verdict{Kind: backfill.VerdictCompleted}, worker.OutcomeCompleted},
		"error":             {plain, errBoom, retry, failed},
		"snooze":            {plain, backfill.Snooze(hour), verdict{Kind: backfill.VerdictSnooze, Delay: hour}, snoozed},
		"snooze wrapped":    {plain, fmt.Errorf("busy: %w", backfill.Snooze(hour)), verdict{Kind: backfill.VerdictSnooze, Delay: hour}, snoozed},
		"snooze joined":     {plain, errors.Join(errBoom, backfill.Snooze(0)), verdict{Kind: backfill.VerdictSnooze}, snoozed},
		"snooze hidden":     {plain, fmt.Errorf("busy: %v", backfill.Snooze(hour)), retry, failed}, //nolint:errorlint // the mistake
		"retry in":          {plain, backfill.RetryIn(hour, errBoom), verdict{Kind: backfill.VerdictRetryIn, Delay: hour, Failed: true}, failed},
		"retry at once":     {plain, fmt.Errorf("a: %w", backfill.RetryIn(0, errBoom)), verdict{Kind: backfill.VerdictRetryIn, Failed: true}, failed},
		"permanent":         {plain, fmt.Errorf("a: %w", backfill.Permanent(errBoom)), permanent, worker.OutcomeExhausted},
		"outermost":         {plain, backfill.RetryIn(hour, backfill.Permanent(errBoom)), verdict{Kind: backfill.VerdictRetryIn, Delay: hour, Failed: true}, failed},
		"batch":             {plain, fmt.Errorf("a: %w", batch), retry, failed},
		"batch in retry in": {plain, backfill.RetryIn(hour, batch), verdict{Kind: backfill.VerdictRetryIn, Delay: hour, Failed: true}, failed},
		"empty batch":       {plain, &backfill.BatchError{}, verdict{Kind: backfill.VerdictCompleted}, worker.OutcomeCompleted},
		"panic":             {plain, &backfill.PanicError{Value: "no"}, retry, failed},
		"methods panic":     {plain, wordy{}, retry, failed},
		"cancelled by hand": {plain, context.Canceled, retry, failed},
		"shutdown":          {shutdown, fmt.Errorf("read: %w", context.Canceled), verdict{Kind: backfill.VerdictInterrupted}, worker.OutcomeReturned},
		"shutdown's cause":  {shutdown, backfill.ErrShutdown, verdict{Kind: backfill.VerdictInterrupted}, worker.OutcomeReturned},
		"shutdown, failed":  {shutdown, errBoom, retry, failed},
		"shutdown, snooze":  {shutdown, backfill.Snooze(hour), verdict{Kind: backfill.VerdictSnooze, Delay: hour}, snoozed},
		"shutdown, batch": {
			shutdown, &backfill.BatchError{Errs: map[int]error{0: context.Canceled}},
			verdict{Kind: backfill.VerdictRetry, Failed: true, OnlyOnce: backfill.VerdictInterrupted},
			failed,
		},
		"lease lost":            {lost, context.Canceled, verdict{Kind: backfill.VerdictInterrupted}, worker.OutcomeReturned},
		"lease lost, failed":    {lost, errBoom, verdict{Kind: backfill.VerdictInterrupted}, worker.OutcomeReturned},
		"lease lost, permanent": {lost, backfill.Permanent(errBoom), verdict{Kind: backfill.VerdictInterrupted}, worker.OutcomeReturned},
		"batch, permanent":      {plain, errors.Join(batch, backfill.Permanent(errBoom)), permanent, worker.OutcomeExhausted},
		"permanent, batch":      {plain, errors.Join(backfill.Permanent(errBoom), batch), permanent, worker.OutcomeExhausted},
		"batch, snooze":         {plain, errors.Join(batch, backfill.Snooze(hour)), verdict{Kind: backfill.VerdictSnooze, Delay: hour}, snoozed},
		"permanent in batch":    {plain, &backfill.BatchError{Errs: map[int]error{0: backfill.Permanent(errBoom)}}, retry, failed},
		"decoder's permanent":   {plain, decoding, permanent, worker.OutcomeExhausted},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, attempt := range []int{1, 3} { // of 3
				want := test.want
				if attempt == 3 && want.OnlyOnce != "" {
					want = verdict{Kind: want.OnlyOnce}
				}
				if attempt == 3 && want.Failed {
					want.Final, want.Delay = true, 0
				}
				want.OnlyOnce = ""
				var got verdict
				task := &backfill.Task[mailArgs]{Name: "t", Backoff: backfill.FixedBackoff(time.Minute)}
				registry := backfill.NewRegistry(backfill.Handle(task, func(context.Context, mailArgs) error { return test.err }))
				run := backfill.Executor(registry, nil, quiet, func(next backfill.HandlerFunc) backfill.HandlerFunc {
					return func(ctx context.Context, job *backfill.Job) error {
						job.Attempt = 2 // the verdict goes by the job as it was claimed
						err := next(ctx, job)
						v := backfill.VerdictOf(ctx, err)
						got = verdict{Kind: v.Kind, Final: v.Final, Delay: v.Delay, Failed: v.Failed()}
						return err
					}
				})
				outcome := executeWith(test.ctx, run, &wire.Job{Task: "t", Payload: raw(`{}`), Attempt: attempt, MaxAttempts: 3})
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("attempt %d (-want +got):\n%s", attempt, diff)
				}
				if attempt == 1 && outcome.Kind != test.is {
					t.Errorf("the worker made %+v of it, want kind %d", outcome, test.is)
				}
				if explicit := got.Kind != backfill.VerdictRetry; explicit && outcome.Delay != got.Delay {
					t.Errorf("attempt %d: delay %v, and the worker waits %v", attempt, got.Delay, outcome.Delay)
				}
			}
		})
	}
}

// final refuses to be decoded for good.
type final struct{}

func (*final) UnmarshalJSON([]byte) error { return backfill.Permanent(errBoom) }

// Outside a job nobody knows how many attempts there are.
func TestVerdictOfWithoutAJob(t *testing.T) {
	t.Parallel()
	for _, ctx := range []context.Context{nil, t.Context()} {
		if v := backfill.VerdictOf(ctx, errBoom); v.Kind != backfill.VerdictRetry || v.Final {
			t.Errorf("error: %+v", v)
		}
		if v := backfill.VerdictOf(ctx, backfill.Permanent(errBoom)); !v.Final {
			t.Errorf("permanent: %+v", v)
		}
	}
}

// A middleware that reports failures, and neither snoozes nor interruptions, and says which are
// final.
func ExampleVerdictOf() {
	report := func(string, error) {} // to an error tracker
	tracker := func(next backfill.HandlerFunc) backfill.HandlerFunc {
		return func(ctx context.Context, job *backfill.Job) error {
			err := next(ctx, job)
			if verdict := backfill.VerdictOf(ctx, err); verdict.Final {
				report("error", err)
			} else if verdict.Failed() {
				report("warning", err)
			}
			return err // or fmt.Errorf("…: %w", err): with %v the verdict would be lost
		}
	}
	_ = backfill.WithMiddleware(tracker)
}
