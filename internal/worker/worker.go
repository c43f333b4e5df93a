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
	statementTimeout = 5 * time.Second        // of a statement that is to take milliseconds
	startTimeout     = 15 * time.Second       // of all those with which a worker starts, on a machine that may be busy
	claimTimeout     = 3 * time.Second        // of a claim; doubled when one took longer on a server that answers
	slowFor          = 10 * time.Minute       // how long claims keep the time that one has needed
	lookTimeout      = 30 * time.Second       // of a look for what is locked and not in memory: it scans the jobs
	pollInterval     = 2 * time.Second        // the safety net below notifications, as Graphile Worker's default
	startWithin      = 250 * time.Millisecond // a claimed job that has not started by then is given back (R23)
	renewInterval    = 30 * time.Minute       // far below the 4 hours after which a peer sweeps a lock (R7)
	sweepMin         = 480 * time.Second      // contract section 5.6: a sweep at the start,
	sweepMax         = 600 * time.Second      // and then one after sweepMin to sweepMax
	sweepTimeout     = 5 * time.Minute        // less than another worker leaves it the turn; it pauses most of this
	maxUnrecorded    = 4 * maxBatch           // outcomes waiting to be recorded, above which nothing is claimed
	maxAsides        = 64                     // lines and events of heartbeats and the fence that wait to be told

	// CloseTimeout is how long a stop may take after its last handler: to record outcomes, within
	// recordTimeout and a last try, to mark the worker's row, and to release what is left.
	CloseTimeout   = 5 * time.Second
	recordTimeout  = 2500 * time.Millisecond
	lastTryTimeout = time.Second
)

// Causes of a job context's end.
var (
	ErrShutdown  = errors.New("worker is shutting down")
	ErrTimeout   = errors.New("task timed out")
	ErrLeaseLost = errors.New("lease lost: the job was released or taken by somebody else")
)

// ErrCrashed is why a job has failed for good whose worker died while it had the only attempt.
var ErrCrashed = errors.New("crashed: the worker died while it had the job's only attempt")

// ErrInterrupted is why a job has failed for good whose worker stopped, or lost the database,
// during the only attempt.
var ErrInterrupted = errors.New("interrupted: the worker stopped, or lost the database, while the only attempt ran")

// ErrConvicted is why a job has failed for good that kills workers.
var ErrConvicted = errors.New("crashed: three workers have died while they ran this job and nothing else")

// Config configures a worker.
type Config struct {
	Tasks       []string
	Timeouts    map[string]time.Duration // of tasks that have one: Execute ends the contexts of their jobs then
	Concurrency int
	// Transactional are the tasks whose jobs run in a transaction that completes them. Each holds one
	// of TxConnections while it is claimed or runs.
	Transactional []string
	TxConnections int

	// DeadLetters makes dead letters of jobs that fail for good. Without it, their rows stay.
	DeadLetters bool
	// Retention is how long dead letters are kept, by a worker that makes them; 0: for ever.
	Retention time.Duration
	// History is for how long the attempts of tasks are kept. Of other tasks, none is.
	History map[string]time.Duration

	// Once makes Run return when nothing is ready and everything claimed is recorded. Such a worker
	// neither listens nor sweeps.
	Once bool
	// PollOnly makes the worker do without a listener.
	PollOnly bool
	// Advance makes jobs due that are scheduled for later, and reports whether there were any: a
	// worker that runs once calls it when nothing is left. nil: it returns then.
	Advance func(ctx context.Context) (bool, error)

	// DrainTimeout is how long running jobs may go on after Run's context has ended; then their
	// contexts are cancelled. CancelTimeout is how long they have after that; then they are given
	// back while they still run.
	DrainTimeout, CancelTimeout time.Duration

	// Crontab is what the worker schedules, through Cron, unless it runs with Once.
	Crontab []CronEntry
	Cron    CronStore
	// Hurry divides the times of heartbeats, fence and observation, for tests. 0 and 1: as they are.
	Hurry int
	// Clock is what the crontab goes by: the database's. nil: that of this process.
	Clock Clock
	// Moment reads the clocks that heartbeats, the fence and the observation of others go by. nil:
	// those of this machine.
	Moment func() Moment

	// Execute runs one job and writes how it ended to outcome, also when the handler ends its
	// goroutine (runtime.Goexit). It must not panic.
	Execute func(ctx context.Context, job *wire.Job, outcome *Outcome)
	// Forbidden returns flags before each claim: jobs that have one of them are passed over. It
	// must return quickly. nil: none.
	Forbidden func() []string
	// Nudge notifies every worker of the database, soon and without waiting, that this many jobs
	// became claimable.
	Nudge func(jobs int)
	// Explain adds to an error of the database what to do about it, for the log. nil: nothing is
	// added.
	Explain func(error) error
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

// Worker claims and runs jobs. It is the core's shell: the mutex, the goroutines, and the calls to
// the database, which take events to the core and carry out its actions.
type Worker struct {
	config   Config
	store    Store
	troubles *troubles
	kick     chan struct{} // the dispatcher is to look again; capacity 1
	flush    chan struct{} // there are outcomes to record; capacity 1
	pulse    chan struct{} // a heartbeat is to be sent now; capacity 1
	looks    chan struct{} // the other workers' rows were read; capacity 1
	cancels  chan struct{} // the end of a job was requested; capacity 1
	asks     chan Asked    // operators' questions
	asides   chan func()   // what heartbeats and the fence have to say
	prove    chan struct{} // the listener is to prove itself now; capacity 1
	check    chan struct{} // the schema may have changed; capacity 1

	times    leaseTimes
	observer *observer
	turns    turns
	progress *progress
	server   int64 // that answered the last heartbeat, which alone looks at it

	mu        sync.Mutex
	ready     sync.Cond // the buffer has jobs for idle slots, or the core is closed
	core      core
	listening bool
	pollOnly  bool
	crashes   bool      // something is known of crashes, as of the last heartbeat
	askedID   string    // under which the worker has asked for the last trial
	quiet     time.Time // since when nobody has enqueued or claimed, if that is long ago
	toldAt    time.Time // when the worker was told to stop
}

// Stats counts what a worker has recorded.
type Stats struct {
	Completed, Failed, Exhausted, Snoozed, Returned, Canceled, Lost int64
}

// New returns a worker that has not started.
func New(store Store, config Config) *Worker {
	if config.Clock == nil {
		config.Clock = wallClock{}
	}
	if config.Moment == nil {
		config.Moment = readClocks
	}
	w := &Worker{
		config: config, store: store, troubles: newTroubles(config.Explain), core: newCore(config),
		times: newLeaseTimes(config.Hurry), observer: newObserver(newLeaseTimes(config.Hurry)),
		kick: make(chan struct{}, 1), flush: make(chan struct{}, 1), pulse: make(chan struct{}, 1), looks: make(chan struct{}, 1), cancels: make(chan struct{}, 1),
		asks: make(chan Asked, mostAsks), progress: newProgress(),
		prove: make(chan struct{}, 1), check: make(chan struct{}, 1), asides: make(chan func(), maxAsides),
	}
	w.ready.L = &w.mu
	return w
}

// Run works until ctx ends and then drains; with Config.Once, until nothing is ready. The contexts
// of jobs carry the values of ctx and outlive it by the drain. A Worker runs once.
func (w *Worker) Run(ctx context.Context) error {
	if !w.begin() {
		return errors.New("run worker: it has run already; make a new one")
	}
	base := context.WithoutCancel(ctx)
	if err := w.register(base, startTimeout, w.workerID(), ""); err != nil {
		w.setState(StateStopped)
		return fmt.Errorf("register worker: %w", err)
	}
	told := context.AfterFunc(ctx, w.told)
	defer told()
	stopped := make(chan error, 1)
	upkeep, stopUpkeep := context.WithCancel(base)
	defer stopUpkeep()
	statements, endStatements := context.WithCancel(base)
	defer endStatements()
	jobs, cancelJobs := context.WithCancelCause(base)
	defer cancelJobs(ErrShutdown)
	scheduling, stopScheduling := context.WithCancel(ctx)
	defer stopScheduling()

	var telling, background sync.WaitGroup
	telling.Go(w.tell)
	background.Go(func() { w.renew(upkeep) })
	background.Go(func() { w.beat(upkeep) })
	background.Go(func() { w.watch(upkeep) })
	background.Go(func() { w.fenceOnTime(upkeep) })
	background.Go(func() { w.sayOverlong(upkeep) })
	background.Go(func() { w.watchCancels(upkeep) })
	background.Go(func() { w.answerAsks(upkeep) })
	background.Go(func() { w.giveSlots(upkeep, jobs) })
	ended := &counter{id: w.workerID(), sums: make(map[countKey]*Count), due: make(map[countKey]bool)}
	background.Go(func() { w.count(upkeep, ended) })
	background.Go(func() { w.writeOn(upkeep) })
	if !w.config.Once {
		if w.pollsOnly() {
			background.Go(func() { w.pollSchema(upkeep) })
		} else {
			background.Go(func() { w.listen(upkeep) })
		}
		background.Go(func() { w.checkSchema(upkeep, stopped) })
		background.Go(func() { w.keepUp(upkeep) })
		if len(w.config.Crontab) > 0 {
			background.Go(func() { w.schedule(scheduling) })
		}
	}
	flusher, stopFlusher := context.WithCancel(base)
	defer stopFlusher()
	var recording sync.WaitGroup
	recording.Go(func() { w.record(flusher, statements) })
	for range w.config.Concurrency {
		go w.slot(jobs) // not waited for: a handler that ignores its context may outlive Run
	}

	err := w.dispatch(ctx, stopped)
	stopScheduling()
	w.drain(cancelJobs)
	closing, cancel := context.WithTimeout(base, CloseTimeout)
	defer cancel()
	w.await(recordTimeout, func(c *core) int { return c.leases.held() })
	stopFlusher()
	time.AfterFunc(lastTryTimeout, endStatements)
	recording.Wait()
	stopUpkeep() // heartbeats and renewals last for as long as anything may still be ours
	background.Wait()
	err = errors.Join(err, w.retire(closing))
	w.writeCounts(closing, ended)
	w.writeProgress(closing)
	close(w.asides)
	telling.Wait()
	return err
}

// begin reports whether the worker had not run.
func (w *Worker) begin() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.core.state != StateNew {
		return false
	}
	w.core.state = StateRunning
	w.turns.begin()
	return true
}

// stuck says what keeps a worker that runs from going on; w.mu is held. One that runs once ends by
// itself, or not.
func (w *Worker) stuck() string {
	if w.config.Once || w.core.state != StateRunning {
		return ""
	}
	if text := w.turns.stuck(); text != "" {
		return text
	}
	if full := w.store.Sessions().Full; !full.IsZero() && time.Since(full) >= stuckAfter {
		return fmt.Sprintf("all connections of the worker are in use, and none has come back for %v", time.Since(full).Round(time.Second))
	}
	return ""
}

// told notes that the worker was told to stop: the stop's deadlines count from then.
func (w *Worker) told() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.toldAt = time.Now()
	signal(w.pulse)
}

// on takes an event to the core and carries out what follows from it.
func (w *Worker) on(event func(c *core, now time.Time) actions) {
	w.mu.Lock()
	do := event(&w.core, time.Now())
	w.mu.Unlock()
	w.carryOut(do)
}

func (w *Worker) carryOut(do actions) {
	switch {
	case do.start == 1:
		w.ready.Signal()
	case do.start > 1:
		w.ready.Broadcast()
	}
	if do.dispatch {
		signal(w.kick)
	}
	if do.flush {
		signal(w.flush)
	}
	if do.beat {
		signal(w.pulse)
	}
	for _, c := range do.cancel {
		c.end(c.cause)
	}
	if do.nudge > 0 {
		w.config.Nudge(do.nudge)
	}
	for _, job := range do.lost {
		w.troubles.lost.Add(w.config.Logger, jobName(job))
		w.observe(Event{Kind: EventLeaseLost, Job: job})
	}
	for _, d := range do.dead {
		w.bury(d)
	}
	for _, c := range do.canceled {
		w.reportCanceled(c.workerID, []CanceledJob{c.CanceledJob})
	}
}

// register makes a row for an id, which the worker has from then on.
func (w *Worker) register(base context.Context, timeout time.Duration, id, former string) error {
	ctx, cancel := context.WithTimeout(base, timeout)
	defer cancel()
	sent := w.config.Moment()
	err := w.store.Register(ctx, Registration{
		ID: id, Former: former, Tasks: w.config.Tasks, Transactional: w.config.Transactional, Slots: w.config.Concurrency,
		DeadLetters: w.config.DeadLetters, Crontab: w.describeCrontab(), History: w.config.History,
	})
	if err != nil {
		return err
	}
	w.on(func(c *core, _ time.Time) actions {
		c.reborn(id, sent)
		return actions{}
	})
	signal(w.pulse)
	w.observe(Event{Kind: EventStarted})
	attrs := append(w.place(), slog.String("worker_id", id), slog.Int("concurrency", w.config.Concurrency),
		slog.Any("tasks", w.config.Tasks))
	if w.store.Sessions().Pooled {
		attrs = append(attrs, slog.String("pooler", "transaction"))
	}
	w.config.Logger.LogAttrs(ctx, w.lifeLevel(), "worker started", attrs...)
	return nil
}

// place says where the worker works.
func (w *Worker) place() []slog.Attr {
	at := w.store.Sessions()
	return []slog.Attr{
		slog.String("server", at.Server), slog.String("database", at.Database), slog.String("schema", at.Schema),
	}
}

// lifeLevel is the level of a worker's start and stop. One that runs once has its results.
func (w *Worker) lifeLevel() slog.Level {
	if w.config.Once {
		return slog.LevelDebug
	}
	return slog.LevelInfo
}

func (w *Worker) workerID() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.core.id
}

func (w *Worker) setState(state State) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.core.state = state
}

// aside calls fn, which logs or tells an observer, apart from the caller. Heartbeats and the fence
// keep their time whatever the application does in a log handler or an observer. If that falls far
// behind, fn is left out.
func (w *Worker) aside(fn func()) {
	select {
	case w.asides <- fn:
	default:
	}
}

// tell calls what was put aside, until the end.
func (w *Worker) tell() {
	for fn := range w.asides {
		fn()
	}
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

// jobName names a job in a line of the log about many.
func jobName(job *wire.Job) string { return fmt.Sprintf("%s %d", job.Task, job.ID) }

// signal wakes the receiver of a channel of capacity 1, unless it has been woken already.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
