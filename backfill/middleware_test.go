package backfill_test

import (
	"context"
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/worker"
)

func TestMiddleware(t *testing.T) {
	t.Parallel()
	var trace []string
	note := func(name string) backfill.Middleware {
		return func(next backfill.HandlerFunc) backfill.HandlerFunc {
			return func(ctx context.Context, job *backfill.Job) error {
				trace = append(trace, name+" "+job.Task)
				err := next(ctx, job)
				trace = append(trace, name+" end")
				return err
			}
		}
	}
	task := &backfill.Task[mailArgs]{Name: "send_email", Aliases: []string{"mail"}}
	registry := backfill.NewRegistry(backfill.Handle(task, func(context.Context, mailArgs) error {
		trace = append(trace, "handler")
		return nil
	}))
	run := backfill.Executor(registry, nil, quiet, note("outer"), note("inner"))
	if got := executeWith(t.Context(), run, engineJob("mail", `{}`)); got.Kind != worker.OutcomeCompleted {
		t.Errorf("outcome %+v", got)
	}
	if diff := cmp.Diff([]string{"outer mail", "inner mail", "handler", "inner end", "outer end"}, trace); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}

func TestMiddlewareSeesAndChanges(t *testing.T) {
	t.Parallel()
	panics := func(context.Context, mailArgs) error { panic("handler") }
	tests := map[string]struct {
		handler    func(context.Context, mailArgs) error
		middleware backfill.Middleware
		want       string // text; "": completed
	}{
		"panic as an error": {panics, func(next backfill.HandlerFunc) backfill.HandlerFunc {
			return func(ctx context.Context, job *backfill.Job) error {
				var panicked *backfill.PanicError
				if err := next(ctx, job); !errors.As(err, &panicked) {
					return errors.New("no PanicError")
				}
				return nil
			}
		}, ""},
		"its own panic": {ignore, func(backfill.HandlerFunc) backfill.HandlerFunc {
			return func(context.Context, *backfill.Job) error { panic("middleware") }
		}, "panic: middleware"},
		"decode error": {ignore, func(next backfill.HandlerFunc) backfill.HandlerFunc {
			return func(ctx context.Context, job *backfill.Job) error {
				job.Args = raw(`{"user_id":true}`)
				return next(ctx, job)
			}
		}, "decode args of task t: $.user_id: cannot use bool as int64"},
		"inside the timeout": {ignore, func(backfill.HandlerFunc) backfill.HandlerFunc {
			return func(ctx context.Context, _ *backfill.Job) error {
				if _, ok := ctx.Deadline(); !ok || backfill.JobInfo(ctx).ID != 42 {
					return errors.New("not the context of the job")
				}
				return nil
			}
		}, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			task := &backfill.Task[mailArgs]{Name: "t", Timeout: time.Hour}
			run := backfill.Executor(backfill.NewRegistry(backfill.Handle(task, test.handler)), nil, quiet, test.middleware)
			got := executeWith(t.Context(), run, engineJob("t", `{}`))
			if got.Text != test.want || (test.want == "") != (got.Kind == worker.OutcomeCompleted) {
				t.Errorf("outcome %+v, want %q", got, test.want)
			}
		})
	}
}

func TestEvent(t *testing.T) {
	t.Parallel()
	got := backfill.NewEvent(worker.Event{
		Kind: worker.EventFailed, WorkerID: "pool-1", Count: 3, Full: true, Job: engineJob("t", `{}`), Err: errBoom, Final: true, Delay: 1, Duration: 2,
	})
	want := backfill.Event{
		Kind: backfill.EventFailed, WorkerID: "pool-1", Count: 3, Full: true, Err: errBoom, Final: true, Delay: 1, Duration: 2,
		Job: &backfill.Job{ID: 42, Task: "t", Args: raw(`{}`), Attempt: 2, MaxAttempts: 25},
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(errors.Is)); diff != "" {
		t.Errorf("event (-want +got):\n%s", diff)
	}
	if got := backfill.NewEvent(worker.Event{Kind: worker.EventPolled}); got.Job != nil {
		t.Errorf("job %+v", got.Job)
	}
}

// Every kind that a worker reports is public, with the same value: the name of its constant.
func TestEventKinds(t *testing.T) {
	t.Parallel()
	kinds := func(file string) (list [][2]string) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		pattern := regexp.MustCompile(`(?m)^\tEvent(\w+) +EventKind = "(\w+)"`)
		for _, kind := range pattern.FindAllStringSubmatch(string(text), -1) {
			list = append(list, [2]string{kind[1], kind[2]})
		}
		return list
	}
	want := kinds("../internal/worker/event.go")
	for _, kind := range want {
		words := regexp.MustCompile(`\B[A-Z]`).ReplaceAllString(kind[0], "_$0")
		if strings.ToLower(words) != kind[1] {
			t.Errorf("Event%s is %q", kind[0], kind[1])
		}
	}
	if diff := cmp.Diff(want, kinds("event.go")); diff != "" || len(want) == 0 {
		t.Errorf("kinds (-worker's +public):\n%s", diff)
	}
}
