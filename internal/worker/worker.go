package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/backfillhq/go/internal/wire"
)

// The numbers of the worker. None is an option: docs/design.md says why each has its value.
const (
	statementTimeout = 10 * time.Second       // every statement's deadline
	pollInterval     = 2 * time.Second        // the safety net below notifications, as Graphile Worker's default
	startWithin      = 250 * time.Millisecond // a claimed job that has not started by then is given back (R23)
	renewInterval    = 30 * time.Minute       // far below the 4 hours after which a peer sweeps a lock (R7)
	sweepFirst       = 60 * time.Second       // contract section 5.6: the first sweep within this,
	sweepMin         = 480 * time.Second      // and then one after sweepMin to sweepMax
	sweepMax         = 600 * time.Second
	sweepTimeout     = time.Minute  // of all its statements; the database ends each after statementTimeout
	maxUnrecorded    = 4 * maxBatch // outcomes waiting to be recorded, above which nothing is claimed
)

// Causes of a job context's end.
var (
	ErrShutdown  = errors.New("worker is shutting down")
	ErrLeaseLost = errors.New("lease lost: the job was released or taken by somebody else")
)

// Config configures a worker.
type Config struct {
	Tasks       []string
	Concurrency int

	// Once makes Run return when nothing is ready and everything claimed is recorded. Such a worker does not listen.
	Once bool

	// DrainTimeout is how long running jobs may go on after Run's context has ended; then their contexts are cancelled.
	// CancelTimeout is how long they have after that; then they are given back while they still run.
	DrainTimeout, CancelTimeout time.Duration

	// Crontab is what the worker schedules, through Cron, unless it runs with Once.
	Crontab []CronEntry
	Cron    CronStore
	// Clock is what the crontab goes by. nil: the clock of this process.
	Clock Clock

	// Execute runs one job and writes how it ended to outcome, also when the handler ends its goroutine (runtime.Goexit). It
	// must not panic.
	Execute func(ctx context.Context, job *wire.Job, outcome *Outcome)
	// Forbidden returns flags before each claim: jobs that have one of them are passed over. It must return quickly. nil: none.
	Forbidden func() []string
	// Nudge notifies every worker of the database, soon and without waiting, that this many jobs became claimable.
	Nudge func(jobs int)
	// Observe is called for every event, from many goroutines. It must return quickly.
	Observe func(Event)
	Logger  *slog.Logger
}

// State is where a worker stands in its life.
type State string

// The states, in the order in which a worker passes through them.
const (
	StateNew      State = "new"
	StateRunning  State = "running"
	StateDraining State = "draining"
	StateStopped  State = "stopped"
)

// Worker claims and runs jobs.
type Worker struct {
	config Config
	store  Store
	kick   chan struct{} // something changed that the dispatcher wants to know; capacity 1
	flush  chan struct{} // there are outcomes to record; capacity 1

	mu     sync.Mutex
	ready  sync.Cond // the buffer has jobs for idle slots, or closed
	closed bool

	state     State
	id        string
	claims    uint64 // claims of this process so far, whatever the id (R2)
	lastClaim time.Time
	listening bool

	buffer     buffer
	running    map[*run]struct{}
	unrecorded int      // jobs claimed and not recorded: in the buffer, running, or in pending
	pending    []finish // outcomes to record
	demand     demand   // when to claim
	pace       pace     // how much to claim
	stats      Stats
}

// Stats counts what a worker has recorded.
type Stats struct {
	Completed, Failed, Exhausted, Snoozed, Returned, Lost int64
}

// Health is a worker's state at one moment.
type Health struct {
	WorkerID   string
	State      State
	Running    int
	Buffered   int // claimed and not started
	Unrecorded int // running, buffered, or waiting to be recorded
	Listening  bool
	LastClaim  time.Time // when the last claim was answered
	Stats      Stats
}

// New returns a worker that has not started.
func New(store Store, config Config) *Worker {
	if config.Clock == nil {
		config.Clock = wallClock{}
	}
	w := &Worker{
		config:  config,
		store:   store,
		kick:    make(chan struct{}, 1),
		flush:   make(chan struct{}, 1),
		state:   StateNew,
		running: make(map[*run]struct{}, config.Concurrency),
		id:      wire.NewWorkerID(),
	}
	w.ready.L = &w.mu
	return w
}

// Run works until ctx ends and then drains; with Config.Once, until nothing is ready. The contexts of jobs carry the values of
// ctx and outlive it by the drain. A Worker runs once.
func (w *Worker) Run(ctx context.Context) error {
	w.mu.Lock()
	if w.state != StateNew {
		w.mu.Unlock()
		return errors.New("run worker: it has run already; make a new one")
	}
	w.state = StateRunning
	w.mu.Unlock()

	base := context.WithoutCancel(ctx)
	if err := w.register(base); err != nil {
		w.setState(StateStopped)
		return err
	}
	stopped := make(chan error, 1)
	upkeep, stopUpkeep := context.WithCancelCause(base)
	defer stopUpkeep(nil)
	jobs, cancelJobs := context.WithCancelCause(base)
	defer cancelJobs(ErrShutdown)

	var background sync.WaitGroup
	if !w.config.Once {
		background.Go(func() { w.listen(upkeep, stopped) })
		background.Go(func() { w.sweep(upkeep) })
	}
	background.Go(func() { w.renew(upkeep) })
	recorded := make(chan struct{})
	flusher, stopFlusher := context.WithCancel(base)
	defer stopFlusher()
	go func() { defer close(recorded); w.record(flusher) }()
	for range w.config.Concurrency {
		go w.slot(jobs) // not waited for: a handler that ignores its context may outlive Run
	}

	scheduling, stopScheduling := context.WithCancel(ctx)
	defer stopScheduling()
	if !w.config.Once && len(w.config.Crontab) > 0 {
		background.Go(func() { w.schedule(scheduling) })
	}

	err := w.dispatch(ctx, stopped)
	stopScheduling()
	w.drain(cancelJobs)
	err = errors.Join(err, w.finishRecording(stopFlusher, recorded))
	stopUpkeep(nil)
	background.Wait()
	return errors.Join(err, w.retire(base))
}

// Health reports the worker's state.
func (w *Worker) Health() Health {
	w.mu.Lock()
	defer w.mu.Unlock()
	return Health{
		WorkerID: w.id, State: w.state, Running: len(w.running), Buffered: w.buffer.len(), Unrecorded: w.unrecorded,
		Listening: w.listening, LastClaim: w.lastClaim, Stats: w.stats,
	}
}

func (w *Worker) register(base context.Context) error {
	ctx, cancel := context.WithTimeout(base, statementTimeout)
	defer cancel()
	id := w.workerID()
	if err := w.store.Register(ctx, id, w.config.Tasks); err != nil {
		return fmt.Errorf("register worker: %w", err)
	}
	w.observe(Event{Kind: EventStarted})
	w.config.Logger.InfoContext(ctx, "worker started",
		slog.String("worker_id", id), slog.Int("concurrency", w.config.Concurrency), slog.Any("tasks", w.config.Tasks))
	return nil
}

func (w *Worker) retire(base context.Context) error {
	ctx, cancel := context.WithTimeout(base, statementTimeout)
	defer cancel()
	id := w.workerID()
	w.setState(StateStopped)
	w.observe(Event{Kind: EventStopped})
	if err := w.store.Retire(ctx, id); err != nil {
		return fmt.Errorf("retire worker %s: %w", id, err)
	}
	w.config.Logger.InfoContext(ctx, "worker stopped", slog.String("worker_id", id))
	return nil
}

func (w *Worker) workerID() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.id
}

func (w *Worker) setState(state State) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.state = state
}

func (w *Worker) observe(event Event) {
	if w.config.Observe == nil {
		return
	}
	if event.WorkerID == "" {
		event.WorkerID = w.workerID()
	}
	w.config.Observe(event)
}

// signal wakes the receiver of a channel of capacity 1, unless it has been woken already.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
