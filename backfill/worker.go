package backfill

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// cancelTimeout is how long jobs have between the cancellation of their contexts and being given
// back while they run.
const cancelTimeout = 5 * time.Second

// Worker runs the jobs of a registry. A Worker can run once; make a new one to run again.
type Worker struct {
	client   *Client
	registry *Registry
	config   workerConfig
	executor *executor
	schedule []worker.CronEntry

	mu     sync.Mutex
	engine *worker.Worker // nil: not started
}

// NewWorker returns a worker for the tasks of a registry. It reports all mistakes in the registry
// and the options at once, and sends nothing to the database.
func (c *Client) NewWorker(r *Registry, opts ...WorkerOption) (*Worker, error) {
	if err := c.usable(context.Background()); err != nil {
		return nil, fmt.Errorf("new worker: %w", err)
	}
	w, err := assemble("new worker", r, c, c.logger, opts)
	if err != nil {
		return nil, err
	}
	w.client = c
	for _, probes := range w.config.probes {
		probes.add(w)
	}
	return w, nil
}

// assemble makes a worker without a client. The enqueuer is for the contexts of jobs.
func assemble(operation string, r *Registry, e Enqueuer, logger *slog.Logger, opts []WorkerOption) (*Worker, error) {
	config := newWorkerConfig(opts)
	if config.logger == nil {
		config.logger = logger
	}
	config.problems = append(config.problems, r.problems())
	schedule, err := config.schedule(r)
	if err := joinProblems(operation, append(config.problems, err)); err != nil {
		return nil, err
	}
	executor, err := r.newExecutor(e, config.logger, config.middleware...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", operation, err)
	}
	executor.flags = newForbiddenFlags(config.forbiddenFunc, config.logger)
	return &Worker{registry: r, config: config, executor: executor, schedule: schedule}, nil
}

// Run runs jobs until ctx ends. Then it stops claiming jobs, gives back those that have not
// started, waits for running ones as long as [WithDrainTimeout] says, cancels their contexts, gives
// back those that still run 5 seconds later, and returns without waiting for their handlers.
//
// It returns nil if every outcome was recorded, and [ErrBreakingMigration] if another process
// installed a schema that this version must not work on. A failing job never ends it.
//
// The contexts of jobs carry the values of ctx, but are not cancelled with it. Their cause is one
// of [ErrShutdown], [ErrTimeout] and [ErrLeaseLost].
func (w *Worker) Run(ctx context.Context) error {
	return w.run(ctx, false)
}

// RunOnce runs jobs until none is due and every outcome is recorded, for system cron jobs and
// tests. It does not wait for retries and future jobs: see [WithScheduled]. The report is never
// nil.
func (w *Worker) RunOnce(ctx context.Context) (*Report, error) {
	err := w.run(ctx, true)
	return w.Health().report(), err
}

func (w *Worker) run(ctx context.Context, once bool) error {
	if w == nil || w.executor == nil {
		return errors.New("run worker: the worker is nil: pass what NewWorker returns")
	}
	if err := w.client.usable(ctx); err != nil {
		return fmt.Errorf("run worker: %w", err)
	}
	if w.config.scheduled && !once {
		return errors.New("run worker: WithScheduled is for RunOnce: leave it out, and jobs run when they are due")
	}
	settings := w.client.settings()
	if w.config.listenURL != "" {
		if err := settings.ListenAt(w.config.listenURL); err != nil {
			return fmt.Errorf("run worker: WithListenURL: %w", err)
		}
	}
	store, err := pg.Open(ctx, settings)
	if err != nil {
		return err
	}
	defer store.Close()
	store.LogTo(w.config.logger)
	running, err := w.start(store, once)
	if err != nil {
		return err
	}
	return explainSchema(running.Run(ctx))
}

func (w *Worker) start(store *pg.Store, once bool) (*worker.Worker, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.engine != nil {
		return nil, errors.New("run worker: it has run already; make a new one")
	}
	config := worker.Config{
		Tasks:         w.registry.claimed(),
		Concurrency:   w.config.concurrency,
		Once:          once,
		PollOnly:      w.config.withoutListen,
		DrainTimeout:  w.config.drainTimeout,
		CancelTimeout: cancelTimeout,
		Execute:       w.executor.execute,
		Forbidden:     w.forbidden(),
		Nudge:         w.client.nudger.Nudge,
		Crontab:       w.schedule,
		Cron:          store,
		Clock:         store.Clock(),
		Observe:       w.observe(),
		Logger:        w.config.logger,
	}
	if w.config.scheduled {
		runScheduled(&config, store)
	}
	w.engine = worker.New(store, config)
	return w.engine, nil
}

// runScheduled makes jobs due that are scheduled for later, but not those that this run has
// snoozed: a job that waits for something else would run for ever.
func runScheduled(config *worker.Config, store *pg.Store) {
	var mu sync.Mutex
	snoozed := []int64{}
	execute := config.Execute
	config.Execute = func(ctx context.Context, job *wire.Job, outcome *worker.Outcome) {
		execute(ctx, job, outcome)
		if outcome.Kind == worker.OutcomeSnoozed {
			mu.Lock()
			defer mu.Unlock()
			snoozed = append(snoozed, job.ID)
		}
	}
	config.Advance = func(ctx context.Context) (bool, error) {
		mu.Lock()
		apart := slices.Clone(snoozed)
		mu.Unlock()
		return store.Advance(ctx, apart)
	}
}

// forbidden returns the function that claims ask; nil: no flag is forbidden.
func (w *Worker) forbidden() func() []string {
	switch {
	case w.executor.flags != nil:
		return w.executor.flags.current
	case len(w.config.forbidden) > 0:
		return func() []string { return w.config.forbidden }
	}
	return nil
}

// observe converts events for the observers; nil: there are none. Each has a guard of its own, so
// that one that fails or hangs keeps no event from the others.
func (w *Worker) observe() func(worker.Event) {
	if len(w.config.observers) == 0 {
		return nil
	}
	guards := make([]*guard, len(w.config.observers))
	for i := range guards {
		guards[i] = &guard{what: "WithObserver", limit: userLimit, logger: w.config.logger}
	}
	return func(e worker.Event) {
		event := newEvent(e)
		for i, observer := range w.config.observers {
			guards[i].call(func() { observer(event) })
		}
	}
}

// Health is the state of a worker at one moment, as [Worker.Health] returns it. Fields may be
// added: write it with field names, and do not compare two with ==.
type Health struct {
	_ [0]func()

	WorkerID   string // "" before it has started; a new one after it was declared dead
	State      State  // new, running, draining or stopped
	Running    int    // running handlers
	Buffered   int    // claimed jobs that have not started
	Unrecorded int    // claimed jobs without a recorded outcome: Running, Buffered and ended
	Listening  bool   // notifications arrive; false: jobs are found by polling only
	// PollOnly says that Listening stays false, because of [WithoutListen] or because the connections
	// lead through a transaction pooler without [WithListenURL].
	PollOnly bool
	// LastClaim is when the database last answered a claim; zero: never. A worker that has no room
	// for more jobs claims none, so its age says nothing: see Ready.
	LastClaim time.Time
	// ClaimFailures counts the claims that have failed since the last one that was answered.
	ClaimFailures int
	// LastHeartbeat is when the last heartbeat was sent that the database has acknowledged. They come
	// every 5 seconds.
	LastHeartbeat time.Time
	// Silent says that it was too long ago: the worker claims nothing, and has cancelled its jobs of
	// queues, because other workers may soon run them.
	Silent bool
	// Stuck says which part of the worker has not gone on for 10 minutes, which only a restart can
	// mend; "": none. The database is never the reason.
	Stuck string

	stats worker.Stats
}

// Ready returns nil if the worker takes jobs, and else an error that says why it does not: it has
// not started, it is draining, it has stopped, or the database did not answer its last claim or its
// heartbeats. A worker that is full is ready, and so is one that has only started.
func (h Health) Ready() error {
	switch {
	case h.State == StateNew || h.State == "":
		return errors.New("the worker has not started")
	case h.State == StateDraining:
		return errors.New("the worker is draining")
	case h.State == StateStopped:
		return errors.New("the worker has stopped")
	case h.Silent:
		return fmt.Errorf("no heartbeat was acknowledged since %s", h.LastHeartbeat.Format(time.RFC3339))
	case h.ClaimFailures > 0:
		return fmt.Errorf("the last %d claims have failed", h.ClaimFailures)
	}
	return nil
}

// State is a stage in the life of a worker.
type State string

// The states of a worker, in their order.
const (
	StateNew      = State(worker.StateNew)
	StateRunning  = State(worker.StateRunning)
	StateDraining = State(worker.StateDraining)
	StateStopped  = State(worker.StateStopped)
)

// Health returns the worker's state, for metrics and probes: see [Health.Ready] and [Probes]. It
// sends no query.
func (w *Worker) Health() Health {
	if w == nil {
		return Health{State: StateNew}
	}
	w.mu.Lock()
	running := w.engine
	w.mu.Unlock()
	if running == nil {
		return Health{State: StateNew}
	}
	h := running.Health()
	return Health{
		WorkerID: h.WorkerID, State: State(h.State), Running: h.Running, Buffered: h.Buffered, Unrecorded: h.Unrecorded,
		Listening: h.Listening, PollOnly: h.PollOnly, LastClaim: h.LastClaim,
		ClaimFailures: h.Failures, LastHeartbeat: h.LastBeat, Silent: h.Silent, Stuck: h.Stuck, stats: h.Stats,
	}
}

// Report counts the outcomes that a run has recorded. Fields may be added: write it with field
// names, and do not compare two with ==.
type Report struct {
	_ [0]func()

	Completed int64 // succeeded
	Failed    int64 // attempts that failed
	Exhausted int64 // of these, jobs that will not be retried
	Snoozed   int64 // put off: they run again later
	Returned  int64 // given back unfinished
	Lost      int64 // not recorded: the job had been released or taken by another worker
}

func (h Health) report() *Report {
	return &Report{
		Completed: h.stats.Completed, Failed: h.stats.Failed, Exhausted: h.stats.Exhausted, Snoozed: h.stats.Snoozed,
		Returned: h.stats.Returned, Lost: h.stats.Lost,
	}
}
