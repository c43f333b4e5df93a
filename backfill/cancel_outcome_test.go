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

// cancelForm makes a rig, and a task whose handler writes before and after act, if it can.
type cancelForm = func(t *testing.T, level backfill.Isolation, act func(context.Context, txArgs) error) (*txRig, *backfill.Task[txArgs], backfill.Binding)

// cancelForms are the forms of handlers.
var cancelForms = map[string]cancelForm{
	"plain": func(t *testing.T, _ backfill.Isolation, act func(context.Context, txArgs) error) (*txRig, *backfill.Task[txArgs], backfill.Binding) {
		t.Helper()
		r := newTxRig(t)
		task := &backfill.Task[txArgs]{Name: "t", Backoff: backfill.FixedBackoff(time.Hour)}
		return r, task, backfill.Handle(task, act)
	},
	"batch": func(t *testing.T, _ backfill.Isolation, act func(context.Context, txArgs) error) (*txRig, *backfill.Task[txArgs], backfill.Binding) {
		t.Helper()
		r := newTxRig(t)
		task := &backfill.Task[txArgs]{Name: "t", Backoff: backfill.FixedBackoff(time.Hour)}
		return r, task, backfill.Handle(task, func(ctx context.Context, args txArgs) error {
			err := act(ctx, args)
			if err == nil || errors.Is(err, errBoom) {
				return &backfill.BatchError{Errs: map[int]error{0: err}}
			}
			return err
		})
	},
	"pgx.Tx": func(t *testing.T, level backfill.Isolation, act func(context.Context, txArgs) error) (*txRig, *backfill.Task[txArgs], backfill.Binding) {
		t.Helper()
		r := newTxRig(t)
		task := &backfill.Task[txArgs]{Name: "t", Timeout: time.Minute, Isolation: level, Backoff: backfill.FixedBackoff(time.Hour)}
		return r, task, backfill.Handle(task, func(ctx context.Context, tx pgx.Tx, args txArgs) error {
			if err := write(ctx, tx, "first"); err != nil {
				return err
			}
			defer func() { _ = write(context.WithoutCancel(ctx), tx, "second") }()
			return act(ctx, args)
		})
	},
	"*sql.Tx": func(t *testing.T, level backfill.Isolation, act func(context.Context, txArgs) error) (*txRig, *backfill.Task[txArgs], backfill.Binding) {
		t.Helper()
		r := twoDrivers["pq"].newSQLTxRig(t)
		task := &backfill.Task[txArgs]{Name: "t", Timeout: time.Minute, Isolation: level, Backoff: backfill.FixedBackoff(time.Hour)}
		return r, task, backfill.Handle(task, func(ctx context.Context, tx *sql.Tx, args txArgs) error {
			if err := writeSQL(ctx, tx, "first"); err != nil {
				return err
			}
			defer func() { _ = writeSQL(context.WithoutCancel(ctx), tx, "second") }()
			return act(ctx, args)
		})
	},
}

// cancelReturns are what handlers do once their context has ended. docs/cancellation.md has the
// same list.
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

// cancelJobs enqueues a job for each of cancelReturns, with a queue and a key of its own, and
// returns them by what their handlers do. args.N is the place of that in the order of names.
func cancelJobs(t *testing.T, r *txRig, task *backfill.Task[txArgs], attempts int) map[string]*backfill.Job {
	t.Helper()
	jobs := map[string]*backfill.Job{}
	for i, does := range slices.Sorted(maps.Keys(cancelReturns)) {
		jobs[does] = enqueue(t, r.client, task, txArgs{N: i}, backfill.Queue(does), backfill.Key(does), backfill.MaxAttempts(attempts))
	}
	return jobs
}

// after does what the handler with these args is to do.
func after(ctx context.Context, args txArgs) error {
	return cancelReturns[slices.Sorted(maps.Keys(cancelReturns))[args.N]](ctx)
}

// wantCancelled checks that nothing is left of cancelled jobs, and that the worker has counted
// them.
func (w *running) wantCancelled(r *txRig, jobs int) {
	w.t.Helper()
	if err := w.stop(); err != nil {
		w.t.Fatal(err)
	}
	wantJobs(w.t, r.db, 0)
	if letters := letterRows(w.t, r.db); len(letters) > 0 {
		w.t.Errorf("dead letters %+v", letters)
	}
	if n := get[int](w.t, r.db.Pool(), "select count(*)::int from graphile_worker.backfill_cancels"); n > 0 {
		w.t.Errorf("%d requests are left", n)
	}
	if n := get[int](w.t, r.db.Pool(), "select count(*)::int from graphile_worker._private_job_queues where locked_by is not null"); n > 0 {
		w.t.Errorf("%d queues are locked", n)
	}
	if n := r.effects(w.t, ""); n > 0 {
		w.t.Errorf("%d effects are visible", n)
	}
	events, _ := w.seen()
	if n := count(events, backfill.EventCanceled); n != jobs {
		w.t.Errorf("%d events of %d cancelled jobs: %s", n, jobs, kinds(events))
	}
	if diff := cmp.Diff(backfill.Report{Canceled: int64(jobs)}, w.Health().Recorded); diff != "" {
		w.t.Errorf("report (-want +got):\n%s", diff)
	}
}

// Whatever the handler of a cancelled job does, in every form: the job's row is gone, it is no dead
// letter, nothing that it wrote in its transaction is there, and event, statistics, middleware and
// log say so once.
func TestCancelOutcomes(t *testing.T) {
	t.Parallel()
	for form, make := range cancelForms {
		for _, attempts := range []int{1, 25} {
			t.Run(form+" "+number(int64(attempts)), func(t *testing.T) {
				t.Parallel()
				running := newSignal()
				r, task, binding := make(t, backfill.ReadCommitted, func(ctx context.Context, args txArgs) error {
					running.send()
					<-ctx.Done()
					if cause := context.Cause(ctx); !errors.Is(cause, backfill.ErrCanceled) || !strings.Contains(cause.Error(), "by ada: wrong list") {
						t.Errorf("the context's cause is %v", cause)
					}
					return after(ctx, args)
				})
				var log logBook
				verdicts := func(next backfill.HandlerFunc) backfill.HandlerFunc {
					return func(ctx context.Context, job *backfill.Job) error {
						err := next(ctx, job)
						if verdict := backfill.VerdictOf(ctx, err); verdict.Kind != backfill.VerdictCanceled || !verdict.Final || verdict.Failed() {
							t.Errorf("middleware is told %+v of %v", verdict, err)
						}
						return err
					}
				}
				jobs := cancelJobs(t, r, task, attempts)
				w := start(t, r.client, backfill.NewRegistry(binding), backfill.WithConcurrency(len(jobs)), backfill.WithTxConnections(len(jobs)),
					backfill.WithLogger(log.logger()), backfill.WithMiddleware(verdicts))
				for range jobs {
					running.wait(t)
				}
				for does, job := range jobs {
					outcome := cancelJob(t, r.client, job.ID)
					asked := outcome.State == backfill.CancelRequested && outcome.Worker == w.Health().WorkerID
					if !asked && outcome.State != backfill.CancelDone { // which a worker that polls just now makes of it
						t.Errorf("%s: outcome %+v", does, outcome)
					}
					if event := w.await("canceled", 1, of(backfill.EventCanceled, job.ID)); !errors.Is(event.Err, backfill.ErrCanceled) {
						t.Errorf("%s: the event's error is %v", does, event.Err)
					}
				}
				w.wantCancelled(r, len(jobs))
				events, _ := w.seen()
				for _, kind := range []backfill.EventKind{backfill.EventFinished, backfill.EventFailed, backfill.EventSnoozed, backfill.EventDead} {
					if n := count(events, kind); n > 0 {
						t.Errorf("%d events %s: %s", n, kind, kinds(events))
					}
				}
				if n := count(events, backfill.EventStart); n != len(jobs) {
					t.Errorf("%d handlers have started", n)
				}
				log.want(t, "job cancelled", "by=ada", `reason="wrong list"`)
			})
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

// A handler that ignores its end keeps its job, its queue and its key: nothing runs beside it, and
// nothing says that the job is cancelled, until it returns.
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

// Handlers that end before their worker has heard of the request: the request in the database
// decides. A transaction is not committed, whatever its isolation is and however old its snapshot.
func TestCancelBeforeTheWorkerHears(t *testing.T) {
	t.Parallel()
	for form, make := range cancelForms {
		for _, level := range []backfill.Isolation{backfill.ReadCommitted, backfill.RepeatableRead, backfill.Serializable} {
			if !strings.HasSuffix(form, "Tx") && level != backfill.ReadCommitted {
				continue
			}
			t.Run(form+" "+string(level), func(t *testing.T) {
				t.Parallel()
				var r *txRig
				r, task, binding := make(t, level, func(ctx context.Context, args txArgs) error {
					outcome, err := r.client.Cancel(context.WithoutCancel(ctx), backfill.JobInfo(ctx).ID, backfill.CancelOptions{})
					if err != nil || outcome.State != backfill.CancelRequested {
						t.Errorf("outcome %+v, %v", outcome, err)
					}
					return after(ctx, args)
				})
				jobs := cancelJobs(t, r, task, 25)
				w := launch(t, r.client, backfill.NewRegistry(binding), pollOnly(r.client), backfill.WithConcurrency(len(jobs)), backfill.WithTxConnections(len(jobs)))
				w.await("canceled", len(jobs), is(backfill.EventCanceled))
				w.wantCancelled(r, len(jobs))
			})
		}
	}
}
