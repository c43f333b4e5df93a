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
	if err := r.needsSQLDB(); err != nil && c.sqlDB == nil {
		return nil, fmt.Errorf("new worker: %w", err)
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
	histories := r.histories(config.history)
	config.problems = append(config.problems, r.needsHistory(histories))
	if err := joinProblems(operation, append(config.problems, err)); err != nil {
		return nil, err
	}
	executor, err := r.newExecutor(e, config.logger, config.middleware...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", operation, err)
	}
	executor.histories = histories
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
// of [ErrShutdown], [ErrTimeout], [ErrCanceled] and [ErrLeaseLost].
func (w *Worker) Run(ctx context.Context) error {
	return w.run(ctx, false)
}

// RunOnce runs jobs until none is due and every outcome is recorded, for system cron jobs and
// tests. It does not wait for retries and future jobs: see [WithScheduled]. The report is never
// nil.
func (w *Worker) RunOnce(ctx context.Context) (*Report, error) {
	err := w.run(ctx, true)
	report := w.Health().Recorded
	return &report, err
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
	settings.Traces = w.config.traces
	if len(w.config.statements) > 0 {
		settings.Tracer = pg.TraceStatements(w.observeStatements())
	}
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
	w.engine = worker.New(store, w.engineConfig(store, once))
	w.executor.report = w.engine.Progress
	return w.engine, nil
}

func (w *Worker) engineConfig(store *pg.Store, once bool) worker.Config {
	transactional := w.registry.transactional()
	if len(transactional) > 0 {
		w.executor.client, w.executor.transactions = w.client, store.Transactions(w.config.txConnections)
	}
	config := worker.Config{
		Tasks:         w.registry.claimed(),
		Transactional: transactional,
		TxConnections: w.config.txConnections,
		Timeouts:      w.registry.timeouts(),
		History:       w.executor.histories,
		Concurrency:   w.config.concurrency,
		DeadLetters:   w.config.deadLetters,
		Retention:     w.config.retention,
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
		Hurry:         w.config.hurry,
		Explain:       store.Explain,
		Observe:       w.observe(),
		Logger:        w.config.logger,
	}
	if w.config.scheduled {
		runScheduled(&config, store)
	}
	return config
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
