package backfill_test

import (
	"context"
	"database/sql"
	"errors"
	"maps"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/testutil/pgtest"
)

// cancelForms are the forms of handlers. Each gets a rig, and a handler that writes before and after act.
var cancelForms = map[string]func(t *testing.T, act func(context.Context) error) (*txRig, *backfill.Task[txArgs], backfill.Binding){
	"plain": func(t *testing.T, act func(context.Context) error) (*txRig, *backfill.Task[txArgs], backfill.Binding) {
		t.Helper()
		r := newTxRig(t)
		task := &backfill.Task[txArgs]{Name: "t", Backoff: backfill.FixedBackoff(time.Hour)}
		return r, task, backfill.Handle(task, func(ctx context.Context, _ txArgs) error { return act(ctx) })
	},
	"batch": func(t *testing.T, act func(context.Context) error) (*txRig, *backfill.Task[txArgs], backfill.Binding) {
		t.Helper()
		r := newTxRig(t)
		task := &backfill.Task[txArgs]{Name: "t", Backoff: backfill.FixedBackoff(time.Hour)}
		return r, task, backfill.Handle(task, func(ctx context.Context, _ txArgs) error {
			err := act(ctx)
			if err == nil || errors.Is(err, errBoom) {
				return &backfill.BatchError{Errs: map[int]error{0: err}}
			}
			return err
		})
	},
	"pgx.Tx": func(t *testing.T, act func(context.Context) error) (*txRig, *backfill.Task[txArgs], backfill.Binding) {
		t.Helper()
		r := newTxRig(t)
		task := &backfill.Task[txArgs]{Name: "t", Timeout: time.Minute, Backoff: backfill.FixedBackoff(time.Hour)}
		return r, task, backfill.Handle(task, func(ctx context.Context, tx pgx.Tx, _ txArgs) error {
			if err := write(ctx, tx, "first"); err != nil {
				return err
			}
			defer func() { _ = write(context.WithoutCancel(ctx), tx, "second") }()
			return act(ctx)
		})
	},
	"*sql.Tx": func(t *testing.T, act func(context.Context) error) (*txRig, *backfill.Task[txArgs], backfill.Binding) {
		t.Helper()
		r := twoDrivers["pq"].newSQLTxRig(t)
		task := &backfill.Task[txArgs]{Name: "t", Timeout: time.Minute, Backoff: backfill.FixedBackoff(time.Hour)}
		return r, task, backfill.Handle(task, func(ctx context.Context, tx *sql.Tx, _ txArgs) error {
			if err := writeSQL(ctx, tx, "first"); err != nil {
				return err
			}
			defer func() { _ = writeSQL(context.WithoutCancel(ctx), tx, "second") }()
			return act(ctx)
		})
	},
}

// cancelReturns are what handlers do once their context has ended. docs/cancellation.md has the same
// list.
var cancelReturns = map[string]func(ctx context.Context) error{
	"returns nil":                 func(context.Context) error { return nil },
	"returns the context's error": func(ctx context.Context) error { return ctx.Err() },
	"returns another error":       func(context.Context) error { return errBoom },
	"returns Snooze":              func(context.Context) error { return backfill.Snooze(time.Hour) },
	"returns RetryIn":             func(context.Context) error { return backfill.RetryIn(time.Hour, errBoom) },
	"returns Permanent":           func(context.Context) error { return backfill.Permanent(errBoom) },
	"panics":                      func(context.Context) error { panic("oops") },
	"ends its goroutine":          func(context.Context) error { runtime.Goexit(); return nil },
}

// Whatever the handler of a cancelled job does, in every form: the job's row is gone, it is no dead letter,
// nothing that it wrote in its transaction is there, and event, statistics, middleware and log say so once.
func TestCancelOutcomes(t *testing.T) {
	t.Parallel()
	for form, make := range cancelForms {
		for does, after := range cancelReturns {
			for _, attempts := range []int{1, 25} {
				t.Run(form+" "+does+" "+number(int64(attempts)), func(t *testing.T) {
					t.Parallel()
					running := newSignal()
					var runs atomic.Int32
					r, task, binding := make(t, func(ctx context.Context) error {
						runs.Add(1)
						running.send()
						<-ctx.Done()
						if cause := context.Cause(ctx); !errors.Is(cause, backfill.ErrCanceled) || !strings.Contains(cause.Error(), "by ada: wrong list") {
							t.Errorf("the context's cause is %v", cause)
						}
						return after(ctx)
					})
					var verdict atomic.Value
					var log logBook
					w := start(t, r.client, backfill.NewRegistry(binding), backfill.WithLogger(log.logger()), backfill.WithMiddleware(
						func(next backfill.HandlerFunc) backfill.HandlerFunc {
							return func(ctx context.Context, job *backfill.Job) error {
								err := next(ctx, job)
								verdict.Store(backfill.VerdictOf(ctx, err).Kind)
								return err
							}
						}))
					job := enqueue(t, r.client, task, txArgs{}, backfill.Queue("q"), backfill.Key("k"), backfill.MaxAttempts(attempts))
					running.wait(t)
					outcome := cancelJob(t, r.client, job.ID)
					if outcome.State != backfill.CancelRequested || outcome.Worker != w.Health().WorkerID {
						t.Errorf("outcome %+v", outcome)
					}
					event := w.await("canceled", 1, of(backfill.EventCanceled, job.ID))
					if !errors.Is(event.Err, backfill.ErrCanceled) {
						t.Errorf("the event's error is %v", event.Err)
					}
					wantJobs(t, r.db, 0)
					if letters := letterRows(t, r.db); len(letters) > 0 {
						t.Errorf("dead letters %+v", letters)
					}
					if n := get[int](t, r.db.Pool(), "select count(*)::int from graphile_worker.backfill_cancels"); n > 0 {
						t.Errorf("%d requests are left", n)
					}
					if n := r.effects(t, ""); n > 0 {
						t.Errorf("%d effects are visible", n)
					}
					next := enqueue(t, r.client, task, txArgs{}, backfill.Queue("q")) // the queue is free
					running.wait(t)
					cancelJob(t, r.client, next.ID)
					w.await("canceled", 2, is(backfill.EventCanceled))
					if got := verdict.Load(); got != backfill.VerdictCanceled && does != "ends its goroutine" {
						t.Errorf("middleware was told %v", got)
					}
					if err := w.stop(); err != nil {
						t.Fatal(err)
					}
					events, _ := w.seen()
					for _, kind := range []backfill.EventKind{backfill.EventFinished, backfill.EventFailed, backfill.EventSnoozed, backfill.EventDead} {
						if n := count(events, kind); n > 0 {
							t.Errorf("%d events %s: %s", n, kind, kinds(events))
						}
					}
					if n := count(events, backfill.EventCanceled); n != 2 || runs.Load() != 2 {
						t.Errorf("%d events of cancelled jobs, %d runs", n, runs.Load())
					}
					if diff := cmp.Diff(backfill.Report{Canceled: 2}, w.Health().Recorded); diff != "" {
						t.Errorf("report (-want +got):\n%s", diff)
					}
					log.want(t, "job cancelled", "by=ada", `reason="wrong list"`)
				})
			}
		}
	}
}

// signal tells a test that a handler runs.
type runSignal chan struct{}

func newSignal() runSignal { return make(runSignal, 100) }

func (s runSignal) send() { s <- struct{}{} }

func (s runSignal) wait(t *testing.T) {
	t.Helper()
	receive(t, "the handler", s)
}

func cancelJob(t *testing.T, client *backfill.Client, id int64) backfill.CancelOutcome {
	t.Helper()
	outcome, err := client.Cancel(t.Context(), id, backfill.CancelOptions{By: "ada", Reason: "wrong list"})
	if err != nil {
		t.Fatal(err)
	}
	return outcome
}

// The table of the documentation has each of these cases, and no other.
func TestCancelOutcomesAreDocumented(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/cancellation.md")
	if err != nil {
		t.Fatal(err)
	}
	var said []string
	for _, row := range regexp.MustCompile(`(?m)^\| the handler (.+?) \|`).FindAllStringSubmatch(string(page), -1) {
		said = append(said, strings.ReplaceAll(row[1], "`", ""))
	}
	slices.Sort(said)
	want := slices.Sorted(maps.Keys(cancelReturns))
	want = append(want, "does not return", "does not return, and its worker stops", "has returned before")
	slices.Sort(want)
	if diff := cmp.Diff(want, said); diff != "" {
		t.Errorf("rows of the table (-want +got):\n%s", diff)
	}
}

// A handler that ignores its end keeps its job, its queue and its key: nothing runs beside it, and nothing
// says that the job is cancelled, until it returns.
func TestCancelOfAHandlerThatGoesOn(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	release, running := make(chan struct{}), newSignal()
	var at atomic.Int32
	task, registry := taskOf("t", func(context.Context, mailArgs) error {
		if at.Add(1) > 1 {
			t.Error("two handlers of one queue run")
		}
		defer at.Add(-1)
		running.send()
		<-release
		return nil
	})
	w := start(t, client, registry)
	job := enqueue(t, client, task, mailArgs{}, backfill.Queue("q"), backfill.Key("k"))
	behind := enqueue(t, client, task, mailArgs{}, backfill.Queue("q"))
	running.wait(t)
	for range 2 { // also when it is asked for again
		if outcome := cancelJob(t, client, job.ID); outcome.State != backfill.CancelRequested {
			t.Errorf("outcome %+v", outcome)
		}
	}
	if outcome := cancelJob(t, client, behind.ID); outcome.State != backfill.CancelDone {
		t.Errorf("outcome of a job that waits behind it: %+v", outcome)
	}
	last := enqueue(t, client, task, mailArgs{}, backfill.Queue("q"))
	<-time.After(3 * time.Second) // longer than a poll
	if row := jobRows(t, db)[0]; !row.Locked {
		t.Errorf("the row is %+v while the handler runs", row)
	}
	events, _ := w.seen()
	if n := count(events, backfill.EventCanceled) + count(events, backfill.EventFinished); n > 0 {
		t.Errorf("events: %s", kinds(events))
	}
	close(release)
	w.await("canceled", 1, of(backfill.EventCanceled, job.ID))
	running.wait(t)
	w.await("finished", 1, of(backfill.EventFinished, last.ID))
	if events, _ = w.seen(); count(events, backfill.EventFinished) != 1 {
		t.Errorf("events: %s", kinds(events))
	}
}

// A worker that stops gives up a handler that ignores its end, and with it the cancelled job.
func TestCancelOfAHandlerThatOutlivesItsWorker(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	release, running := make(chan struct{}), newSignal()
	defer close(release)
	task, registry := taskOf("t", func(context.Context, mailArgs) error {
		running.send()
		<-release
		return nil
	})
	w := start(t, client, registry, backfill.WithDrainTimeout(0), backfill.Hurry(10))
	job := enqueue(t, client, task, mailArgs{}, backfill.Queue("q"))
	running.wait(t)
	cancelJob(t, client, job.ID)
	_ = w.stop() // an error says that a handler still runs
	w.await("canceled", 1, of(backfill.EventCanceled, job.ID))
	wantJobs(t, db, 0)
}
