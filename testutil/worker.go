package testutil

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/seam"
)

const (
	// startTimeout bounds the time until a worker has started, and what is asked for at its end.
	startTimeout = 30 * time.Second
	// drainTimeout is how long handlers may go on undisturbed when the test has ended.
	drainTimeout = time.Second
	// leaveTimeout is how long they have at last, when the worker has given their jobs back.
	leaveTimeout = time.Second
)

// Worker is a worker of a test, which [Start] has started. It remembers what has become of each
// job, for [WaitFor] and [RequireEnqueued]. Its methods of [backfill.Enqueuer] and
// [backfill.Transactor] are those of its client.
type Worker struct {
	client *backfill.Client
	worker *backfill.Worker
	log    *testLog
	cancel context.CancelFunc
	ended  chan struct{} // Run has returned; err says what
	err    error

	mu       sync.Mutex
	changed  chan struct{}          // closed, and replaced, when anything below has changed
	started  bool                   // the worker has
	flushes  int                    // how often outcomes were recorded, or given up
	events   map[int64][]seen       // of each job, in their order
	order    []int64                // the jobs that have started, in their order
	handlers map[int64]backfill.Job // that have not returned
}

// seen is an event of a job.
type seen struct {
	backfill.Event

	flushes int // Worker.flushes then
}

var _ backfill.Transactor = (*Worker)(nil)

// Start starts a worker on the client's database, and returns when it looks for jobs. Mistakes in
// the registry and the options fail the test.
//
//	worker := testutil.Start(t, client, tasks.NewRegistry(handlers))
//	job, err := tasks.NewClient(client).EnqueueSendWelcome(t.Context(), args)
//	testutil.WaitFor(t, worker, job, testutil.Succeeded)
//
// At the end of the test the worker stops: handlers that still run have a second, then their
// contexts are cancelled with [backfill.ErrShutdown], and their jobs are given back. What has not
// ended by then is in the test's log. A handler that still runs 5 seconds later fails the test,
// which says where it is: it would run beside the next test. [backfill.WithDrainTimeout] gives
// handlers more time.
//
// The worker logs to the test's log, from Warn, unless [backfill.WithLogger] says otherwise. Tests
// that run in parallel need a database each, as package pgtest gives them, or a schema each.
func Start(tb testing.TB, client *backfill.Client, registry *backfill.Registry, opts ...backfill.WorkerOption) *Worker {
	tb.Helper()
	w := &Worker{
		client: client, log: &testLog{to: tb.Output()}, ended: make(chan struct{}), changed: make(chan struct{}),
		events: map[int64][]seen{}, handlers: map[int64]backfill.Job{},
	}
	own := []backfill.WorkerOption{
		backfill.WithLogger(slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelWarn}))),
		backfill.WithDrainTimeout(drainTimeout), backfill.WithMiddleware(w.track), backfill.WithObserver(w.observe),
	}
	var err error
	if w.worker, err = client.NewWorker(registry, append(own, opts...)...); err != nil {
		tb.Fatalf("testutil: Start: %v", err)
		return nil
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(tb.Context())) // that ends before the clean-up
	w.cancel = cancel
	go func() {
		defer close(w.ended)
		w.err = w.worker.Run(ctx)
	}()
	tb.Cleanup(func() { w.end(tb) })
	limit := time.NewTimer(startTimeout)
	defer limit.Stop()
	for {
		w.mu.Lock()
		started, changed := w.started, w.changed
		w.mu.Unlock()
		if started {
			return w
		}
		select {
		case <-changed:
		case <-w.ended:
			tb.Fatalf("testutil: Start: the worker has stopped: %v", w.err)
			return nil
		case <-limit.C:
			tb.Fatalf("testutil: Start: the worker has not started within %v: is the database there?", startTimeout)
			return nil
		}
	}
}

// Enqueue implements [backfill.Enqueuer].
func (w *Worker) Enqueue(ctx context.Context, requests ...backfill.Request) ([]*backfill.Job, error) {
	return w.client.Enqueue(ctx, requests...)
}

// WithTx implements [backfill.Enqueuer].
func (w *Worker) WithTx(tx pgx.Tx) backfill.Enqueuer { return w.client.WithTx(tx) }

// WithSQLTx implements [backfill.Enqueuer].
func (w *Worker) WithSQLTx(tx *sql.Tx) backfill.Enqueuer { return w.client.WithSQLTx(tx) }

// InTx implements [backfill.Transactor].
func (w *Worker) InTx(ctx context.Context, fn func(ctx context.Context, tx pgx.Tx) error) error {
	return w.client.InTx(ctx, fn)
}

// Worker returns the worker itself, for its Health and Stack.
func (w *Worker) Worker() *backfill.Worker { return w.worker }

// Stop stops the worker before the test ends, as [Start] says, and returns what its Run has
// returned.
func (w *Worker) Stop() error {
	w.cancel()
	<-w.ended
	return w.err
}

// track knows the handlers that run. Events do not: they say nothing of a handler that goes on when
// its job was given back.
func (w *Worker) track(next backfill.HandlerFunc) backfill.HandlerFunc {
	return func(ctx context.Context, job *backfill.Job) error {
		id := job.ID
		w.change(func() { w.handlers[id] = *job })
		defer w.change(func() { delete(w.handlers, id) })
		return next(ctx, job)
	}
}

// change changes what those who wait look at.
func (w *Worker) change(what func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	what()
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *Worker) observe(event backfill.Event) {
	w.change(func() {
		switch event.Kind { //nolint:exhaustive // the others change nothing here
		case backfill.EventStarted:
			w.started = true
		case backfill.EventCompleted, backfill.EventRecorded, backfill.EventReturned:
			w.flushes++
		case backfill.EventLeaseLost, backfill.EventDead, backfill.EventCanceled:
			w.flushes++
		}
		if event.Job != nil {
			if _, known := w.events[event.Job.ID]; !known {
				w.order = append(w.order, event.Job.ID)
			}
			w.events[event.Job.ID] = append(w.events[event.Job.ID], seen{event, w.flushes})
		}
	})
}

// jobs returns the jobs in the database, and those that have started here. A job is gone when it
// has succeeded, so the database is asked first: what it has no more has started.
func (w *Worker) jobs(ctx context.Context) ([]*backfill.JobStatus, error) {
	found, _, err := seam.Jobs(ctx, w.client)
	if err != nil {
		return nil, err
	}
	jobs := found.([]*backfill.JobStatus) //nolint:forcetypeassert // as the seam says
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, id := range w.order {
		first := w.events[id][0]
		there := slices.ContainsFunc(jobs, func(job *backfill.JobStatus) bool { return job.ID == id })
		if !there && first.Kind == backfill.EventStart {
			jobs = append(jobs, &backfill.JobStatus{Job: *first.Job, State: stateRan})
		}
	}
	return jobs, nil
}

// stateRan is that of a job that is not in the table any more.
const stateRan backfill.JobState = "run by the worker"

// end is at the end of the test: nothing of it may go on.
func (w *Worker) end(tb testing.TB) {
	tb.Helper()
	if err := w.Stop(); err != nil && !errors.Is(err, backfill.ErrClosed) {
		tb.Errorf("testutil: the worker of Start has ended with an error: %v", err)
	}
	left := w.lingering()
	w.log.close()
	for id, job := range left {
		tb.Errorf("testutil: the test has ended, and the handler of job %d of task %q has not, although its context has been cancelled: "+
			"it runs beside what comes next. It is here:\n%s", id, job.Task, stackOf(id, w.worker.Health().WorkerID))
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), startTimeout)
	defer cancel()
	found, ok, err := seam.Jobs(ctx, w.client)
	if err != nil || !ok {
		return // the test has closed the client, or ended the database: there is nothing to say
	}
	jobs := found.([]*backfill.JobStatus) //nolint:forcetypeassert // as the seam says
	if len(jobs) == 0 {
		return
	}
	var text strings.Builder
	for i, job := range jobs {
		if i == listed {
			fmt.Fprintf(&text, "\n  and %d more", len(jobs)-listed)
			break
		}
		fmt.Fprintf(&text, "\n  %s %s", job.Task, describeJob(job))
	}
	tb.Logf("testutil: left when the test ended:%s", text.String())
}

// lingering returns the jobs whose handlers do not return soon.
func (w *Worker) lingering() map[int64]backfill.Job {
	limit := time.NewTimer(leaveTimeout)
	defer limit.Stop()
	for over := false; ; {
		w.mu.Lock()
		left, changed := maps.Clone(w.handlers), w.changed
		w.mu.Unlock()
		if over || len(left) == 0 {
			return left
		}
		select {
		case <-changed:
		case <-limit.C:
			over = true
		}
	}
}

// stackOf returns where the handler of a job is that its worker has given up: the worker does not
// show it any more. Profiles have the labels that docs of [backfill.Worker.Stack] name.
func stackOf(job int64, worker string) string {
	var profile bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&profile, 1); err != nil {
		return err.Error()
	}
	for record := range strings.SplitSeq(profile.String(), "\n\n") {
		labelled := strings.Contains(record, fmt.Sprintf("%q:\"%d\"", "backfill_job", job)) && strings.Contains(record, worker)
		above, _, tracked := strings.Cut(record, "testutil.(*Worker).track")
		if _, frames, ok := strings.Cut(above, "\n#\t"); ok && tracked && labelled {
			return "#\t" + frames[:strings.LastIndexByte(frames, '\n')]
		}
	}
	return "(it has just returned)"
}

// testLog is the log of a test, which ends with it.
type testLog struct {
	mu sync.Mutex
	to io.Writer // nil: the test has ended
}

func (l *testLog) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.to == nil {
		return len(line), nil
	}
	return l.to.Write(line)
}

func (l *testLog) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.to = nil
}
