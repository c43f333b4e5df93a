package testutil_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/testutil"
	"github.com/backfillhq/go/testutil/pgtest"
)

type counted struct{ N int }

// A Recorder's Await says what a client's says.
func TestAwaitIsAClients(t *testing.T) {
	t.Parallel()
	task := &backfill.Task[scene]{Name: "count", History: time.Hour, MaxAttempts: 2, Backoff: backfill.FixedBackoff(time.Hour)}
	bare := &backfill.Task[scene]{Name: "bare"}
	registry := backfill.NewRegistry(
		backfill.Handle(task, backfill.Returning[scene, *counted](func(_ context.Context, args scene) (*counted, error) {
			switch args.Name {
			case "null":
				return nil, nil
			case "permanent":
				return nil, backfill.Permanent(errors.New("boom"))
			case "fails":
				return nil, errors.New("boom")
			case "snooze":
				return nil, backfill.Snooze(time.Hour)
			}
			return &counted{len(args.Name)}, nil
		})),
		backfill.Handle(bare, func(context.Context, scene) error { return nil }),
	)
	play := func(e backfill.Enqueuer, work func(...backfill.WorkerOption)) (said []string) {
		var jobs []*backfill.Job
		for _, name := range []string{"one", "null", "permanent", "fails", "snooze"} {
			job, err := backfill.Enqueue(t.Context(), e, task, scene{Name: name})
			if err != nil {
				t.Fatal(err)
			}
			jobs = append(jobs, job)
		}
		job, err := backfill.Enqueue(t.Context(), e, bare, scene{})
		if err != nil {
			t.Fatal(err)
		}
		jobs = append(jobs, job, &backfill.Job{ID: 1000, Task: "count"}, &backfill.Job{ID: job.ID, Task: "count"}, nil)
		say := func() {
			for i, job := range jobs {
				ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
				of := task
				if job != nil && job.Task == bare.Name {
					of = bare
				}
				result, err := backfill.Await[*counted](ctx, e, of, job)
				cancel()
				text := fmt.Sprint(i, ": ")
				if end, ok := errors.AsType[*backfill.EndError](err); ok {
					text += fmt.Sprintf("%s, attempt %d, %q", end.End, end.Attempt, end.LastError)
				} else if pending, ok := errors.AsType[*backfill.PendingError](err); ok {
					text += fmt.Sprintf("%s, %v", pending.State, errors.Is(err, context.DeadlineExceeded))
				} else if err != nil {
					text += err.Error()
				} else if result != nil {
					text += fmt.Sprint(*result)
				}
				said = append(said, text)
			}
		}
		say()
		work()
		say()
		work(backfill.WithScheduled())
		say()
		return said
	}
	client, err := backfill.NewClient(t.Context(), pgtest.New(t).Pool())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	want := play(client, func(opts ...backfill.WorkerOption) {
		w, err := client.NewWorker(registry, opts...)
		if err == nil {
			_, err = w.RunOnce(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
	})
	rec := testutil.NewRecorder()
	got := play(rec, func(opts ...backfill.WorkerOption) { rec.Work(t, registry, opts...) })
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("the Recorder says %q, and a client %q", got[i], want[i])
		}
	}
	if _, err := backfill.Await[*counted](t.Context(), rec.WithTx(nil), task, &backfill.Job{ID: 1, Task: "count"}); !errors.Is(err, backfill.ErrInvalidRequest) {
		t.Errorf("in a transaction: %v", err)
	}
}
