package backfill_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/testutil/pgtest"
)

// ways are how a function of the user's can end that does not return.
var ways = map[string]func(){
	"panic":       func() { panic("broken") },
	"panic error": func() { panic(evilError{}) },
	"Goexit":      runtime.Goexit,
}

// evilError is an error whose methods panic.
type evilError struct{}

func (evilError) Error() string          { panic("Error panics") }
func (evilError) Is(error) bool          { panic("Is panics") }
func (evilError) As(any) bool            { panic("As panics") }
func (evilError) Unwrap() error          { panic("Unwrap panics") }
func (evilError) Format(fmt.State, rune) { panic("Format panics") }

// brokenLog is a log handler whose methods do not return.
type brokenLog struct {
	slog.Handler

	method string
	end    func()
	calls  *atomic.Int64
}

func (h brokenLog) broken(method string) {
	if h.method == method {
		h.calls.Add(1)
		h.end()
	}
}

func (h brokenLog) Enabled(context.Context, slog.Level) bool { h.broken("Enabled"); return true }

func (h brokenLog) Handle(ctx context.Context, r slog.Record) error {
	h.broken("Handle")
	return h.Handler.Handle(ctx, r)
}

func (h brokenLog) WithAttrs([]slog.Attr) slog.Handler { h.broken("WithAttrs"); return h }
func (h brokenLog) WithGroup(string) slog.Handler      { h.broken("WithGroup"); return h }

// Whatever a function of the user's does, the worker runs the jobs, and says once what happened.
func TestUsersFunctionsCannotStopAWorker(t *testing.T) { //nolint:tparallel // one after the other on one database
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	for way, end := range ways { //nolint:paralleltest // the same
		var calls atomic.Int64
		broken := func() { calls.Add(1); end() }
		var log logBook
		cases := map[string]struct {
			options []backfill.WorkerOption
			handle  []backfill.HandleOption
			err     error // of the handler
			logs    int   // lines about the function
		}{
			"observer": {options: []backfill.WorkerOption{
				backfill.WithLogger(log.logger()), backfill.WithObserver(func(backfill.Event) { broken() }),
			}, logs: 1},
			"flags": {options: []backfill.WorkerOption{
				backfill.WithLogger(log.logger()),
				backfill.WithForbiddenFlagsFunc(func() []string { broken(); return nil }),
			}, logs: 1},
			"log": {options: []backfill.WorkerOption{
				backfill.WithLogger(slog.New(brokenLog{quiet.Handler(), "Handle", end, &calls})),
			}},
			"log, enabled": {options: []backfill.WorkerOption{
				backfill.WithLogger(slog.New(brokenLog{quiet.Handler(), "Enabled", end, &calls})),
			}},
			"backoff": {
				options: []backfill.WorkerOption{backfill.WithLogger(log.logger())}, err: errBoom,
				handle: []backfill.HandleOption{
					backfill.BackoffFunc(func(int, error) time.Duration { broken(); return 0 }),
				},
			},
			"middleware": {options: []backfill.WorkerOption{
				backfill.WithLogger(log.logger()),
				backfill.WithMiddleware(func(next backfill.HandlerFunc) backfill.HandlerFunc {
					return func(ctx context.Context, job *backfill.Job) error {
						defer broken()
						return next(ctx, job)
					}
				}),
			}, err: errBoom},
		}
		for what, c := range cases {
			t.Run(way+" "+what, func(t *testing.T) {
				calls.Store(0)
				log.text.Reset()
				const jobs = 20
				task := &backfill.Task[mailArgs]{Name: "guarded", MaxAttempts: 1}
				registry := backfill.NewRegistry(backfill.Handle(task,
					func(context.Context, mailArgs) error { return c.err }, c.handle...))
				for range jobs {
					enqueue(t, client, task, mailArgs{})
				}
				report := runOnce(t, client, registry, c.options...)
				if done := report.Completed + report.Failed; done != jobs || calls.Load() == 0 {
					t.Errorf("%d of %d jobs ran, in %d calls", done, jobs, calls.Load())
				}
				if n := strings.Count(log.String(), "a function of the application failed"); n != c.logs {
					t.Errorf("%d lines about it, want %d:\n%s", n, c.logs, log.String())
				}
			})
		}
	}
}

// While nobody knows which flags are forbidden, jobs without flags run, and jobs with flags do not.
func TestUnknownForbiddenFlags(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	for what, flags := range map[string]func() []string{
		"NUL": func() []string { return []string{"a\x00b"} }, "UTF-8": func() []string { return []string{"a\xff"} },
		"empty": func() []string { return []string{""} }, "panic": func() []string { panic("down") },
	} {
		var log logBook
		var ran []string
		var mu sync.Mutex
		task, registry := taskOf("flagged", func(ctx context.Context, _ mailArgs) error {
			mu.Lock()
			defer mu.Unlock()
			ran = append(ran, backfill.JobInfo(ctx).Flags...)
			return nil
		})
		enqueue(t, client, task, mailArgs{})
		enqueue(t, client, task, mailArgs{}, backfill.Flags("eu"))
		options := []backfill.WorkerOption{
			backfill.WithForbiddenFlagsFunc(flags), backfill.WithLogger(log.logger()),
		}
		if report := runOnce(t, client, registry, options...); report.Completed != 1 || report.Snoozed != 1 || len(ran) != 0 {
			t.Errorf("%s: %+v, flags that ran %q", what, report, ran)
		}
		if row := onlyRow(t, db); row.Attempts != 0 || row.Locked || row.Flags == "" {
			t.Errorf("%s: left %+v", what, row)
		}
		if n := strings.Count(log.String(), "level=ERROR"); n != 1 {
			t.Errorf("%s: %d errors in the log, want 1:\n%s", what, n, log.String())
		}
		exec(t, db.Pool(), "delete from graphile_worker._private_jobs")
	}
}

// A job that was claimed while the flags were unknown does not start if they forbid it then.
func TestFlagsThatAreForbiddenAfterTheClaim(t *testing.T) {
	t.Parallel()
	answers := [][]string{{"\x00"}, {"eu"}, nil}
	current, putOff := backfill.ForbiddenFlags(func() []string {
		next := answers[0]
		answers = answers[1:]
		return next
	}, quiet)
	for i, want := range []struct{ eu, us bool }{{true, true}, {true, false}, {false, false}} {
		current()
		if eu, us := putOff("us", "eu"), putOff("us"); eu != want.eu || us != want.us || putOff() {
			t.Errorf("after call %d: eu %v, us %v; want %+v", i+1, eu, us, want)
		}
	}
}

// A function that blocks is given up, and not called again before it has returned.
func TestUsersFunctionThatBlocks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log logBook
		release := make(chan struct{})
		var calls atomic.Int64
		current, putOff := backfill.ForbiddenFlags(func() []string { calls.Add(1); <-release; return nil }, log.logger())
		for range 100 {
			current()
		}
		if calls.Load() != 1 || !putOff("eu") || strings.Count(log.String(), "level=ERROR") != 1 {
			t.Errorf("%d calls; the log has\n%s", calls.Load(), log.String())
		}
		<-time.After(2 * time.Minute)
		if current(); strings.Count(log.String(), "level=ERROR") != 2 {
			t.Errorf("after two minutes the log has\n%s", log.String())
		}
		close(release)
		synctest.Wait()
		if current(); calls.Load() != 2 || putOff("eu") {
			t.Errorf("%d calls after the first has returned", calls.Load())
		}
	})
}

func TestMiddlewareProblems(t *testing.T) {
	t.Parallel()
	client := newClient(t, pgtest.New(t))
	_, registry := taskOf("t", ignore)
	fine := func(next backfill.HandlerFunc) backfill.HandlerFunc { return next }
	for want, wrap := range map[string]backfill.Middleware{
		"argument 2: it returned nil":                   func(backfill.HandlerFunc) backfill.HandlerFunc { return nil },
		"argument 2: wrap a handler: panic: no metrics": func(backfill.HandlerFunc) backfill.HandlerFunc { panic("no metrics") },
	} {
		_, err := client.NewWorker(registry, backfill.WithMiddleware(fine, wrap))
		wantError(t, err, "new worker: WithMiddleware: "+want)
	}
	_, err := client.NewWorker(registry, backfill.WithObserver(nil))
	wantError(t, err, "WithObserver: the observer is nil")
}

// panickyArgs panic wherever they can.
type panickyArgs struct{}

func (panickyArgs) MarshalJSON() ([]byte, error) { panic("no JSON") }
func (*panickyArgs) UnmarshalJSON([]byte) error  { panic("no Go") }

func TestTemplatesThatPanic(t *testing.T) {
	t.Parallel()
	for want, request := range map[string]backfill.Request{
		"key template: panic: k": (&backfill.Task[mailArgs]{Name: "t", Key: func(mailArgs) string { panic("k") }}).Request(mailArgs{}),
		"queue template: panic: runtime error": (&backfill.Task[*mailArgs]{
			Name: "t", Queue: func(a *mailArgs) string { return a.Template },
		}).Request(nil),
		"encode args: panic: no JSON": (&backfill.Task[panickyArgs]{Name: "t"}).Request(panickyArgs{}),
	} {
		wantError(t, request.Validate(), want)
	}
	task := &backfill.Task[panickyArgs]{Name: "t"}
	handle := backfill.Handle(task, func(context.Context, panickyArgs) error { return nil }, backfill.Cron("* * * * *"))
	wantError(t, backfill.Problems(backfill.NewRegistry(handle)), "the value is refused by the type that it is for (*backfill.PanicError)")
}

// The panics of an error's methods are those of its job alone.
func TestErrorsWhoseMethodsPanic(t *testing.T) {
	t.Parallel()
	for what, err := range map[string]error{
		"plain": evilError{}, "wrapped": fmt.Errorf("send: %w", error(evilWrappedError{})), "joined": errors.Join(evilError{}, errBoom),
	} {
		task := &backfill.Task[mailArgs]{Name: "t"}
		outcome := execute(t.Context(), task, "{}", func(context.Context, mailArgs) error { return err })
		if outcome.Text == "" || outcome.Err == nil {
			t.Errorf("%s: outcome %+v", what, outcome)
		}
	}
}

// evilWrappedError has a message, and panics when it is looked into.
type evilWrappedError struct{ evilError }

func (evilWrappedError) Error() string { return "mail server" }
