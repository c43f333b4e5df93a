package worker_test

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// rig is a worker on a fake database, in a bubble.
type rig struct {
	t      *testing.T
	db     *fakeDB
	store  *fakeStore
	worker *worker.Worker
	clocks *clocks
	start  time.Time
	cancel context.CancelFunc
	result chan error

	mu      sync.Mutex
	stopped bool
	events  []event
	runs    []started
	nudges  []int
}

// event is an observed event and when it happened.
type event struct {
	worker.Event

	At time.Duration
}

// started is one start of a handler.
type started struct {
	Job int64
	At  time.Duration
}

// handler runs a job and says how it ended.
type handler func(ctx context.Context, job *wire.Job) worker.Outcome

var completed = worker.Outcome{Kind: worker.OutcomeCompleted}

// takes is a handler that completes after d, whatever its context says.
func takes(d time.Duration) handler {
	return func(context.Context, *wire.Job) worker.Outcome {
		<-time.After(d)
		return completed
	}
}

// setup is what a test changes before its worker runs.
type setup struct {
	*fakeStore
	worker.Config

	Context context.Context //nolint:containedctx // Run's
}

// newRig makes a worker with two slots that does not run yet.
func newRig(t *testing.T, db *fakeDB, handle handler, changes ...func(*setup)) *rig {
	t.Helper()
	r := &rig{t: t, db: db, store: db.newStore(), clocks: new(clocks), start: time.Now(), result: make(chan error, 1)}
	s := setup{fakeStore: r.store, Context: t.Context(), Config: worker.Config{
		Tasks: []string{"task"}, Concurrency: 2, DeadLetters: true, DrainTimeout: 10 * time.Second, CancelTimeout: time.Second,
		Moment: r.clocks.read, Observe: r.observe, Nudge: r.nudge, Logger: slog.New(slog.DiscardHandler),
		Execute: func(ctx context.Context, job *wire.Job, outcome *worker.Outcome) {
			r.mu.Lock()
			r.runs = append(r.runs, started{job.ID, time.Since(r.start)})
			r.mu.Unlock()
			defer db.starts(job)()
			*outcome = worker.Outcome{Kind: worker.OutcomeFailed, Text: "the handler ended its goroutine"}
			*outcome = handle(ctx, job)
		},
	}}
	for _, change := range changes {
		change(&s)
	}
	r.worker = worker.New(r.store, s.Config)
	r.store.health = r.worker.Health
	ctx, cancel := context.WithCancel(s.Context)
	r.cancel = cancel
	go func() { r.result <- r.worker.Run(ctx) }()
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return r
}

func concurrency(n int) func(*setup) { return func(s *setup) { s.Concurrency = n } }

func once(s *setup) { s.Once = true }

func latency(op string, d time.Duration) func(*setup) {
	return func(s *setup) { s.latency[op] = d }
}

// stop ends Run's context and returns what Run returns.
func (r *rig) stop() error {
	r.cancel()
	return r.wait()
}

// wait waits for Run to return. It reports an error only once.
func (r *rig) wait() error {
	if r.stopped {
		return nil
	}
	r.stopped = true
	return <-r.result
}

// pass lets time go by, and everything happen that happens at its end.
func (r *rig) pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// passUntil lets time go by until it is d after the start.
func (r *rig) passUntil(d time.Duration) { r.pass(time.Until(r.start.Add(d))) }

func (r *rig) observe(e worker.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, event{e, time.Since(r.start)})
}

func (r *rig) nudge(jobs int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.nudges = append(r.nudges, jobs)
}

// nudged returns the notifications to other workers so far.
func (r *rig) nudged() []int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]int(nil), r.nudges...)
}

// seen returns the events of one kind.
func (r *rig) seen(kind worker.EventKind) []event {
	r.mu.Lock()
	defer r.mu.Unlock()
	var seen []event
	for _, e := range r.events {
		if e.Kind == kind {
			seen = append(seen, e)
		}
	}
	return seen
}

// died checks that a job is a dead letter, and gone, and that this worker has said so once.
func (r *rig) died(id int64, reason worker.Reason, text string) {
	r.t.Helper()
	letter := r.db.letter(id)
	if letter == nil || letter.Reason != reason || letter.LastError != text || r.db.job(id) != nil {
		r.t.Errorf("job %d is left as %+v, and its dead letter is %+v, want %s: %s", id, r.db.job(id), letter, reason, text)
	}
	said := slices.DeleteFunc(r.seen(worker.EventDead), func(e event) bool { return e.Job.ID != id })
	if len(said) != 1 || said[0].Reason != reason {
		r.t.Errorf("events of job %d are %+v, want one of reason %s", id, said, reason)
	}
}

// sum adds up the counts of the events of one kind.
func (r *rig) sum(kind worker.EventKind) int {
	sum := 0
	for _, e := range r.seen(kind) {
		sum += e.Count
	}
	return sum
}

// started returns the starts of handlers so far.
func (r *rig) started() []started {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]started(nil), r.runs...)
}

// noPoll checks that nothing was found by the poll.
func (r *rig) noPoll() {
	r.t.Helper()
	if polls := r.seen(worker.EventPolled); len(polls) > 0 {
		r.t.Errorf("polled %d times, first after %v", len(polls), polls[0].At)
	}
}

// nothingLeft checks that every job was completed exactly once and that nothing is locked.
func (r *rig) nothingLeft() {
	r.t.Helper()
	if jobs, locked := r.db.left(); jobs > 0 || locked > 0 {
		r.t.Errorf("%d jobs are left, and %d rows locked", jobs, locked)
	}
	r.db.mu.Lock()
	defer r.db.mu.Unlock()
	for id, n := range r.db.completed {
		if n != 1 {
			r.t.Errorf("job %d was completed %d times", id, n)
		}
	}
	if len(r.db.completed) != int(r.db.lastID) {
		r.t.Errorf("%d of %d jobs were completed", len(r.db.completed), r.db.lastID)
	}
}
