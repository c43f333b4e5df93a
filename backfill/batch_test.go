package backfill_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/worker"
)

func TestBatch(t *testing.T) {
	t.Parallel()
	// Four elements, in spellings that no encoder would choose.
	const payload = `[ {"user_id":1, "x":1e0}, {"user_id": 2,"template":"<\u0062>"} ,{ "user_id":3 },{"user_id":4}]`
	batch := func(errs map[int]error) error { return &backfill.BatchError{Errs: errs} }
	first, last := errors.New("first\nline two"), errors.New("last")
	failed := worker.Outcome{Kind: worker.OutcomeFailed, Delay: time.Minute}
	with := func(kind worker.OutcomeKind, delay time.Duration, text, payload string) worker.Outcome {
		o := worker.Outcome{Kind: kind, Delay: delay, Text: text}
		if payload != "" {
			o.Payload = []byte(payload)
		}
		return o
	}
	var none *backfill.BatchError
	tests := map[string]struct {
		err  error
		want worker.Outcome
	}{
		"one": {
			batch(map[int]error{1: last}),
			with(failed.Kind, failed.Delay, "Batch failures:\nlast", `[{"user_id": 2,"template":"<\u0062>"}]`),
		},
		"two, in order": {
			batch(map[int]error{3: last, 0: first, 2: nil}),
			with(failed.Kind, failed.Delay, "Batch failures:\nfirst line two\nlast", `[{"user_id":1, "x":1e0},{"user_id":4}]`),
		},
		"all": {
			batch(map[int]error{0: last, 1: last, 2: last, 3: last}),
			with(failed.Kind, failed.Delay, "Batch failures:\nlast\nlast\nlast\nlast", ""),
		},
		"wrapped": {
			fmt.Errorf("send: %w", batch(map[int]error{3: last})),
			with(failed.Kind, failed.Delay, "Batch failures:\nlast", `[{"user_id":4}]`),
		},
		"retry in": {
			backfill.RetryIn(time.Hour, batch(map[int]error{3: last})),
			with(worker.OutcomeFailed, time.Hour, "Batch failures:\nlast", `[{"user_id":4}]`),
		},
		"permanent": {
			backfill.Permanent(batch(map[int]error{3: last})),
			with(worker.OutcomeExhausted, 0, "Batch failures:\nlast", `[{"user_id":4}]`),
		},
		"element that is permanent": {
			batch(map[int]error{3: backfill.Permanent(last)}),
			with(failed.Kind, failed.Delay, "Batch failures:\nlast", `[{"user_id":4}]`),
		},
		"element that snoozes": {
			batch(map[int]error{3: backfill.Snooze(time.Hour)}),
			with(failed.Kind, failed.Delay, "Batch failures:\nsnoozed for 1h0m0s", `[{"user_id":4}]`),
		},
		"element without a message": {
			batch(map[int]error{3: (*nilError)(nil)}),
			with(failed.Kind, failed.Delay, "Batch failures:\nerror of type *backfill_test.nilError without a message", `[{"user_id":4}]`),
		},
		"none":      {batch(nil), worker.Outcome{Kind: worker.OutcomeCompleted}},
		"none, nil": {batch(map[int]error{0: nil}), worker.Outcome{Kind: worker.OutcomeCompleted}},
		"nil batch": {none, worker.Outcome{Kind: worker.OutcomeCompleted}},
		"out of range": {
			batch(map[int]error{1: last, 4: last}),
			with(failed.Kind, failed.Delay, "BatchError for element 4 of 4, all of them are kept: Batch failures:\nlast\nlast", ""),
		},
		"negative": {
			batch(map[int]error{-1: last}),
			with(failed.Kind, failed.Delay, "BatchError for element -1 of 4, all of them are kept: Batch failures:\nlast", ""),
		},
		"joined with another error": {
			errors.Join(batch(map[int]error{3: last}), errBoom),
			with(failed.Kind, failed.Delay, "Batch failures:\nlast\nboom", ""),
		},
		"none, joined with another error": {
			errors.Join(batch(nil), errBoom),
			with(failed.Kind, failed.Delay, "Batch failures:\nboom", ""),
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			task := &backfill.Task[[]mailArgs]{Name: "notify", Backoff: backfill.FixedBackoff(time.Minute)}
			got := execute(t.Context(), task, payload, func(_ context.Context, args []mailArgs) error {
				if len(args) != 4 {
					t.Errorf("args %v", args)
				}
				return test.err
			})
			if diff := cmp.Diff(test.want, got, cmpopts.IgnoreFields(worker.Outcome{}, "Err")); diff != "" {
				t.Errorf("outcome (-want +got):\n%s\nerror: %v", diff, got.Err)
			}
		})
	}
}

func TestBatchOfNull(t *testing.T) {
	t.Parallel()
	task := &backfill.Task[[]mailArgs]{Name: "notify"}
	got := execute(t.Context(), task, `null`, func(context.Context, []mailArgs) error {
		return &backfill.BatchError{Errs: map[int]error{0: errBoom}}
	})
	want := "BatchError of a job whose args are not an array, all of them are kept: Batch failures:\nboom"
	if got.Text != want || got.Payload != nil {
		t.Errorf("outcome %+v", got)
	}
}
