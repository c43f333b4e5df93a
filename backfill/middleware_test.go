package backfill_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
	"github.com/backfillhq/go/testutil/pgtest"
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

// Middleware of some tasks runs inside that of the worker, under every name of the task.
func TestUse(t *testing.T) {
	t.Parallel()
	var trace []string
	note := func(name string) backfill.Middleware {
		return func(next backfill.HandlerFunc) backfill.HandlerFunc {
			return func(ctx context.Context, job *backfill.Job) error {
				trace = append(trace, name)
				return next(ctx, job)
			}
		}
	}
	mail := backfill.NewRegistry(bind("send_email", "mail"), bind("report"))
	used := mail.Use(note("all")).Use(note("some"), "send_email")
	registry := backfill.MergeRegistries(used, backfill.NewRegistry(bind("other"))).Only("send_email", "report", "other")
	for task, want := range map[string]string{"mail": "worker all some", "send_email": "worker all some", "report": "worker all", "other": "worker"} {
		trace = nil
		run := backfill.Executor(registry, nil, quiet, note("worker"))
		if got := executeWith(t.Context(), run, engineJob(task, `{}`)); got.Kind != worker.OutcomeCompleted {
			t.Errorf("outcome %+v", got)
		}
		if got := strings.Join(trace, " "); got != want {
			t.Errorf("%s: %s, want %s", task, got, want)
		}
	}
	trace = nil
	executeWith(t.Context(), backfill.Executor(mail, nil, quiet), engineJob("mail", `{}`))
	if len(trace) > 0 {
		t.Errorf("Use has changed the registry that it was called on: %s", trace)
	}
}

func TestUseProblems(t *testing.T) {
	t.Parallel()
	good := backfill.NewRegistry(bind("a", "a_old"), bind("b"))
	same := func(next backfill.HandlerFunc) backfill.HandlerFunc { return next }
	for name, test := range map[string]struct {
		registry *backfill.Registry
		want     string
	}{
		"nil":              {good.Use(nil), "Use: the middleware is nil: leave the call out"},
		"unknown":          {good.Use(same, "c"), `Use names "c", which is not a task of the registry: it has ["a" "b"]`},
		"alias":            {good.Use(same, "a_old"), `Use names "a_old", an alias: name the task "a"`},
		"of nil":           {(*backfill.Registry)(nil).Use(same), "registry is nil"},
		"requirements":     {backfill.NewRegistry(backfill.Require("Handlers.A", false), bind("a")).Use(same), "Handlers.A is required"},
		"fine":             {good.Use(same, "a").Use(same), ""},
		"twice in it":      {backfill.MergeRegistries(good, good.Only("a")).Use(same, "a"), ""},
		"with and without": {backfill.MergeRegistries(good, good.Use(same).Only("a")), `task "a" is bound twice`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wantError(t, backfill.Problems(test.registry), test.want)
		})
	}
	client := newClient(t, pgtest.New(t))
	none := func(backfill.HandlerFunc) backfill.HandlerFunc { return nil }
	_, err := client.NewWorker(good.Use(none, "b"))
	wantError(t, err, `new worker: Registry.Use for task "b": argument 1: it returned nil: return a HandlerFunc that calls next`)
}

// Middleware that formats the handler's error with %v, where %w would keep what it decides, is
// warned of; middleware that decides by itself is not.
func TestHiddenVerdicts(t *testing.T) {
	t.Parallel()
	batch := &backfill.BatchError{Errs: map[int]error{0: errBoom}}
	hide := func(err error) error { return fmt.Errorf("middleware: %v", err) } //nolint:errorlint // the mistake
	for name, test := range map[string]struct {
		own    error
		change func(error) error
		warned bool
	}{
		"snooze":              {backfill.Snooze(time.Hour), hide, true},
		"permanent":           {backfill.Permanent(errBoom), hide, true},
		"wrapped before":      {fmt.Errorf("send: %w", backfill.RetryIn(0, errBoom)), hide, true},
		"batch":               {batch, hide, true},
		"by its text":         {backfill.Permanent(errBoom), func(err error) error { return errors.New(err.Error()) }, true},
		"kept":                {backfill.Permanent(errBoom), func(err error) error { return fmt.Errorf("middleware: %w", err) }, false},
		"as it is":            {backfill.Snooze(time.Hour), func(err error) error { return err }, false},
		"batch kept":          {batch, func(err error) error { return fmt.Errorf("middleware: %w", err) }, false},
		"another verdict":     {backfill.Snooze(time.Hour), func(err error) error { return backfill.Permanent(hide(err)) }, false},
		"an error of its own": {backfill.Snooze(time.Hour), func(error) error { return errors.New("snoozing is not allowed") }, false},
		"success":             {backfill.Permanent(errBoom), func(error) error { return nil }, false},
		"nothing to hide":     {errBoom, hide, false},
		"methods panic":       {wordy{}, hide, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			task := &backfill.Task[[]int]{Name: "t"}
			registry := backfill.NewRegistry(backfill.Handle(task, func(context.Context, []int) error { return test.own }))
			change := func(next backfill.HandlerFunc) backfill.HandlerFunc {
				return func(ctx context.Context, job *backfill.Job) error {
					if err := next(ctx, job); err != nil {
						return test.change(err)
					}
					return errors.New("no error to change")
				}
			}
			for where, run := range map[string]func(logger *slog.Logger) func(context.Context, *wire.Job, *worker.Outcome){
				"worker": func(logger *slog.Logger) func(context.Context, *wire.Job, *worker.Outcome) {
					return backfill.Executor(registry, nil, logger, change)
				},
				"registry": func(logger *slog.Logger) func(context.Context, *wire.Job, *worker.Outcome) {
					return backfill.Executor(registry.Use(change), nil, logger)
				},
			} {
				var log logBook
				execute := run(log.logger())
				for range 20 {
					executeWith(t.Context(), execute, engineJob("t", `[1]`))
				}
				lines := strings.Count(log.String(), "middleware hides what the handler's error decides")
				if lines > 0 != test.warned || lines > 1 {
					t.Errorf("in the %s: %d warnings for 20 jobs:\n%s", where, lines, log.String())
				}
			}
		})
	}
}

// Middleware for one task, with a registry that backfillgen has written or another one.
func ExampleRegistry_Use() {
	free := make(chan struct{}, 3) // calls of the gateway at a time, in this process
	limit := func(next backfill.HandlerFunc) backfill.HandlerFunc {
		return func(ctx context.Context, job *backfill.Job) error {
			select {
			case free <- struct{}{}:
				defer func() { <-free }()
				return next(ctx, job)
			default:
				return backfill.Snooze(time.Second) // it keeps no other job waiting
			}
		}
	}
	registry := backfill.NewRegistry(backfill.Handle(TaskWelcome, Welcome)).Use(limit, TaskWelcome.Name)
	_ = registry
}

// A middleware that passes nothing on gets an error that says so, as a failure of the job.
func TestMiddlewarePassesNothingOn(t *testing.T) {
	t.Parallel()
	_, registry := taskOf("t", func(context.Context, mailArgs) error { return nil })
	for name, call := range map[string]func(backfill.HandlerFunc, context.Context, *backfill.Job) error{
		"context": func(next backfill.HandlerFunc, _ context.Context, job *backfill.Job) error { return next(nil, job) },
		"job":     func(next backfill.HandlerFunc, ctx context.Context, _ *backfill.Job) error { return next(ctx, nil) },
	} {
		run := backfill.Executor(registry, nil, quiet, func(next backfill.HandlerFunc) backfill.HandlerFunc {
			return func(ctx context.Context, job *backfill.Job) error { return call(next, ctx, job) }
		})
		outcome := executeWith(t.Context(), run, &wire.Job{Task: "t", Payload: raw(`{}`), Attempt: 1, MaxAttempts: 3})
		if outcome.Kind != worker.OutcomeFailed {
			t.Errorf("%s: %+v", name, outcome)
		}
		wantError(t, outcome.Err, "middleware called next without a context or a job")
	}
}
