package backfill

import (
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"time"

	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/schema"
	"github.com/backfillhq/go/internal/worker"
)

// ClientOption configures a client, in [Open] and [NewClient]. Every ClientOption is a [RunOption]
// too.
type ClientOption interface {
	RunOption
	applyToClient(c *clientConfig)
}

// WorkerOption configures a worker, in [Client.NewWorker]. Every WorkerOption is a [RunOption] too.
type WorkerOption interface {
	RunOption
	applyToWorker(c *workerConfig)
}

// Option configures clients and workers alike.
type Option interface {
	ClientOption
	WorkerOption
}

// ClientOptions makes one option of several. Those that are nil are left out.
func ClientOptions(options ...ClientOption) ClientOption {
	options = slices.Clone(options)
	return clientOption(func(c *clientConfig) { apply(options, func(o ClientOption) { o.applyToClient(c) }) })
}

// WorkerOptions makes one option of several. Those that are nil are left out.
func WorkerOptions(options ...WorkerOption) WorkerOption {
	options = slices.Clone(options)
	return workerOption(func(c *workerConfig) { apply(options, func(o WorkerOption) { o.applyToWorker(c) }) })
}

// RunOption configures [Run] and [RunOnce].
type RunOption interface{ applyToRun(c *runConfig) }

// config is what the configurations of clients and workers share.
type config struct {
	logger   *slog.Logger // guarded; nil for a worker: the client's
	problems []error
}

// require notes a problem unless ok.
func (c *config) require(ok bool, format string, args ...any) {
	if !ok {
		c.problems = append(c.problems, fmt.Errorf(format, args...))
	}
}

func (c *config) check(option string, err error) { c.require(err == nil, option+": %w", err) }

type clientConfig struct {
	config
	schema     string
	sqlDB      *sql.DB // nil: none
	migrations MigrateMode
	middleware []EnqueueMiddleware
}

type workerConfig struct {
	config
	concurrency   int
	drainTimeout  time.Duration
	txConnections int
	hurry         int // tests set it
	middleware    []Middleware
	observers     []Observer
	statements    []func(Statement)
	traces        bool
	probes        []*Probes
	crontab       []worker.CronEntry
	scheduled     bool
	listenURL     string // "": listen where the client's pool connects
	withoutListen bool
	forbidden     []string
	deadLetters   bool
	history       time.Duration // of tasks that say nothing of it; 0: none
	retention     time.Duration // of dead letters; 0: for ever
	// forbiddenFunc replaces forbidden, unless it is nil.
	forbiddenFunc func() []string
}

type runConfig struct {
	client   *Client // nil: from the environment
	existing bool    // WithClient was given
	forOpen  []ClientOption
	forWork  []WorkerOption
}

func newClientConfig(opts []ClientOption) clientConfig {
	c := clientConfig{schema: pg.DefaultSchema, config: config{logger: guardLogger(slog.Default())}}
	apply(opts, func(o ClientOption) { o.applyToClient(&c) })
	return c
}

func newWorkerConfig(opts []WorkerOption) workerConfig {
	c := workerConfig{
		concurrency: 10 * runtime.GOMAXPROCS(0), txConnections: 4, drainTimeout: 15 * time.Second,
		deadLetters: true, retention: 180 * 24 * time.Hour,
	}
	apply(opts, func(o WorkerOption) { o.applyToWorker(&c) })
	return c
}

func newRunConfig(opts []RunOption) (c runConfig) {
	apply(opts, func(o RunOption) { o.applyToRun(&c) })
	return c
}

// apply applies the options that are not nil.
func apply[O comparable](opts []O, one func(O)) {
	var none O
	for _, option := range opts {
		if option != none {
			one(option)
		}
	}
}

// clientOption makes a ClientOption of a function.
type clientOption func(c *clientConfig)

func (o clientOption) applyToClient(c *clientConfig) { o(c) }
func (o clientOption) applyToRun(c *runConfig)       { c.forOpen = append(c.forOpen, o) }

// workerOption makes a WorkerOption of a function.
type workerOption func(c *workerConfig)

func (o workerOption) applyToWorker(c *workerConfig) { o(c) }
func (o workerOption) applyToRun(c *runConfig)       { c.forWork = append(c.forWork, o) }

// WithSchema names the PostgreSQL schema that holds the jobs. It is quoted, so any legal name
// works. Processes that share jobs use the same schema. Default: graphile_worker.
func WithSchema(name string) ClientOption {
	return clientOption(func(c *clientConfig) {
		c.check("WithSchema", pg.CheckSchemaName(name))
		c.schema = name
	})
}

// WithSQLDB gives the client the *sql.DB that transactional tasks get a *sql.Tx of, for GORM, bun,
// ent, sqlx and plain database/sql. Its driver is pgx's stdlib or lib/pq, and it leads to the
// client's database, which [Open] and [NewClient] check. The client uses it for these transactions
// alone, as many at a time as [WithTxConnections] says, and does not close it. Default: workers
// refuse tasks that take a *sql.Tx.
func WithSQLDB(db *sql.DB) ClientOption {
	return clientOption(func(c *clientConfig) {
		c.require(db != nil, "WithSQLDB: the *sql.DB is nil: pass what sql.Open returns, or leave the option out")
		c.sqlDB = db
	})
}

// MigrateMode says what [Open] and [NewClient] do about the schema.
type MigrateMode int

// The modes of [WithMigrations].
const (
	// MigrateAuto installs a missing schema and applies missing migrations, except for those that
	// would stop older workers that may still be running.
	MigrateAuto = MigrateMode(schema.MigrateAuto)
	// MigrateVerify changes nothing. If the schema is not current, the error says what is missing.
	MigrateVerify = MigrateMode(schema.MigrateVerify)
	// MigrateBreaking also applies migrations that stop older workers. Because notifications belong
	// to the database, they may stop workers of other schemas in it, too.
	MigrateBreaking = MigrateMode(schema.MigrateBreaking)
)

// WithMigrations says whether the client may install and upgrade the schema. Default:
// [MigrateAuto].
func WithMigrations(mode MigrateMode) ClientOption {
	return clientOption(func(c *clientConfig) {
		c.require(slices.Contains([]MigrateMode{MigrateAuto, MigrateVerify, MigrateBreaking}, mode),
			"WithMigrations: unknown mode %d: want MigrateAuto, MigrateVerify or MigrateBreaking", mode)
		c.migrations = mode
	})
}

// WithLogger sets the logger. It gets every job at Debug, start and stop at Info (of RunOnce at
// Debug), failed jobs at Warn, and what keeps the worker from its work at Error. Payloads are never
// logged. In a test, slog.New(slog.NewTextHandler(t.Output(), nil)) shows them with the test.
//
// If the logger's handler panics, or has not returned after 10 seconds, the worker goes on without
// that record, and writes a line to stderr, at most once a minute.
//
// Default: slog.Default() for a client; the client's logger for a worker.
func WithLogger(logger *slog.Logger) Option { return loggerOption{logger} }

type loggerOption struct{ logger *slog.Logger }

var errNilLogger = errors.New("WithLogger: the logger is nil: leave the option out, or pass slog.New(slog.DiscardHandler)")

func (o loggerOption) applyToClient(c *clientConfig) { o.applyTo(&c.config) }
func (o loggerOption) applyToWorker(c *workerConfig) { o.applyTo(&c.config) }

func (o loggerOption) applyTo(c *config) {
	if o.logger == nil || o.logger.Handler() == nil { // A zero logger has no handler.
		c.problems = append(c.problems, errNilLogger)
		return
	}
	c.logger = guardLogger(o.logger)
}

func (o loggerOption) applyToRun(c *runConfig) {
	c.forOpen = append(c.forOpen, o)
	c.forWork = append(c.forWork, o)
}

// maxConcurrency is far above what one process can use.
const maxConcurrency = 100_000

// WithConcurrency sets how many jobs the worker runs at the same time, 1 to 100,000. Jobs whose
// handlers ignore for 30 seconds that their contexts have ended do not count, but for at most n of
// them: see [Health]. Jobs that must run one at a time need a queue. Default: 10 × GOMAXPROCS.
func WithConcurrency(n int) WorkerOption {
	return workerOption(func(c *workerConfig) {
		c.require(1 <= n && n <= maxConcurrency, "WithConcurrency: %d is out of range: want 1 to %d", n, maxConcurrency)
		c.concurrency = n
	})
}

// WithTxConnections sets how many connections the worker has for transactional tasks, 1 to 1,000.
// Each of their jobs has one while it runs, so this is how many run at the same time; others wait.
// They are apart from those of the client's pool, and made in the same way; tasks that take a
// *sql.Tx have theirs from [WithSQLDB] instead. Default: 4.
func WithTxConnections(n int) WorkerOption {
	return workerOption(func(c *workerConfig) {
		c.require(1 <= n && n <= 1000, "WithTxConnections: %d is out of range: want 1 to 1000", n)
		c.txConnections = n
	})
}

// WithDrainTimeout sets how long a stopping worker waits for running jobs before it cancels their
// contexts with [ErrShutdown]. 5 seconds after that, it gives back the jobs that still run, and
// refunds their attempts. To record all outcomes can take 5 seconds more, so the platform's grace
// period must be at least d + 10 seconds. Default: 15 seconds, which fits Kubernetes' 30.
func WithDrainTimeout(d time.Duration) WorkerOption {
	return workerOption(func(c *workerConfig) {
		c.require(d >= 0, "WithDrainTimeout: %v is negative: want 0 or more", d)
		c.drainTimeout = d
	})
}

// WithMiddleware calls middleware around every job of the worker; the first is the outermost. The
// option can be given several times. Default: none.
func WithMiddleware(middleware ...Middleware) WorkerOption {
	return workerOption(func(c *workerConfig) {
		for i, m := range middleware {
			c.require(m != nil, "WithMiddleware: argument %d is nil: leave it out", i+1)
		}
		c.middleware = append(c.middleware, middleware...)
	})
}

// WithObserver calls observer for every worker event. See [Observer] for what it may do. The option
// can be given several times: each event goes to all observers, in their order. Default: none.
func WithObserver(observer Observer) WorkerOption {
	return workerOption(func(c *workerConfig) {
		c.require(observer != nil, "WithObserver: the observer is nil: leave the option out")
		c.observers = append(c.observers, observer)
	})
}

// WithScheduled makes RunOnce run jobs of the worker's tasks that are not due yet as well, and
// their retries, until none is left, for tests. When nothing is due, it makes due what is scheduled
// for the earliest second, in its order: run_at becomes now. A job that is snoozed waits for the
// next RunOnce, so a test can look at it, and change what it waits for. A task that enqueues itself
// runs until ctx ends. [Worker.Run] refuses the option. Default: RunOnce leaves such jobs.
func WithScheduled() WorkerOption {
	return workerOption(func(c *workerConfig) { c.scheduled = true })
}

// WithListenURL makes the worker listen for notifications over a connection of its own to this URL,
// for clients whose URL leads through a transaction pooler, which passes no notifications on. The
// URL is one of the same database, as [Open] takes it, that leads to PostgreSQL directly or through
// a pooler in session mode. Nothing else uses it. Default: the worker listens where the client
// connects; through a transaction pooler it only polls, as [WithoutListen] says.
func WithListenURL(databaseURL string) WorkerOption {
	return workerOption(func(c *workerConfig) {
		c.require(databaseURL != "", "WithListenURL: the URL is empty: leave the option out, or say WithoutListen")
		var settings pg.Settings
		c.check("WithListenURL", settings.ListenAt(databaseURL))
		c.listenURL = databaseURL
		c.require(!c.withoutListen, errBothListen)
	})
}

// WithoutListen makes the worker do without notifications: it opens no connection for them, and
// looks for jobs every 2 seconds, when a job has ended, and when one that it knows of becomes due.
// [Health.PollOnly] is true then. Default: the worker listens, unless its connections lead through
// a transaction pooler.
func WithoutListen() WorkerOption {
	return workerOption(func(c *workerConfig) {
		c.withoutListen = true
		c.require(c.listenURL == "", errBothListen)
	})
}

const errBothListen = "WithListenURL and WithoutListen: give one of them"

// WithoutDeadLetters makes the worker leave jobs that fail for good in the table of jobs, with no
// attempts left, as Graphile Worker does. A worker without this option that serves the same task
// makes dead letters of them an hour later, so give it to all of them. Default: a job that fails
// for good becomes a dead letter, in the table backfill_dlq.
func WithoutDeadLetters() WorkerOption {
	return workerOption(func(c *workerConfig) { c.deadLetters = false })
}

// WithDeadLetterRetention sets how long a dead letter is kept after the job failed for good. One
// worker deletes older ones for all, every 8 to 10 minutes, and logs how many; one with
// [WithoutDeadLetters] deletes none. Which worker it is changes, so give all of them the same. 0
// keeps dead letters for ever. Default: 180 days.
func WithDeadLetterRetention(d time.Duration) WorkerOption {
	return workerOption(func(c *workerConfig) {
		c.require(d >= 0, "WithDeadLetterRetention: %v is negative: want 0, which keeps dead letters for ever, or more", d)
		c.retention = d
	})
}

// WithHistory keeps each attempt of all tasks of the worker for some time after it has ended, in the
// table backfill_history, with its error, its output and what it has logged: an hour to 400 days. A
// task that says its own time keeps that. Attempts go by the week, so some stay for a week longer.
// Give it to all workers of a task: the one that started last says for how long. Default: no
// attempts are kept, except of tasks whose [Task.History] says so.
func WithHistory(retention time.Duration) WorkerOption {
	return workerOption(func(c *workerConfig) {
		c.check("WithHistory", checkHistory(retention))
		c.history = retention
	})
}

// WithForbiddenFlags makes the worker skip jobs that have one of these flags. They wait for another
// worker. The option can be given several times, but not together with [WithForbiddenFlagsFunc].
// Default: none.
func WithForbiddenFlags(flags ...string) WorkerOption {
	flags = slices.Clone(flags)
	return workerOption(func(c *workerConfig) {
		c.check("WithForbiddenFlags", checkFlags(flags))
		c.require(c.forbiddenFunc == nil, errBothFlags)
		c.forbidden = append(c.forbidden, flags...)
	})
}

const errBothFlags = "WithForbiddenFlags and WithForbiddenFlagsFunc: give one of them; the function can return the fixed flags too"

// WithForbiddenFlagsFunc is [WithForbiddenFlags] for flags that change. Before each claim the
// worker calls flags, one call at a time, and waits for it, so it should return within
// milliseconds. Jobs whose flag is no longer forbidden are found within 2 seconds.
//
// If a call panics, takes longer than a second, or returns a flag that is empty, not UTF-8 or
// contains NUL, the worker does not know which flags are forbidden. Until a call succeeds, it puts
// off each job with flags by 10 seconds at a time, without charging an attempt. Jobs without flags
// run. An error is logged at most once a minute. Default: none.
func WithForbiddenFlagsFunc(flags func() []string) WorkerOption {
	return workerOption(func(c *workerConfig) {
		c.require(flags != nil, "WithForbiddenFlagsFunc: the function is nil: leave the option out")
		c.require(c.forbidden == nil, errBothFlags)
		c.require(c.forbiddenFunc == nil, "WithForbiddenFlagsFunc: given twice: pass one function")
		c.forbiddenFunc = flags
	})
}

// WithClient makes [Run] and [RunOnce] use client instead of opening one; they do not close it. It
// cannot be combined with client options. Default: a new client for DATABASE_URL or the PG*
// variables.
func WithClient(client *Client) RunOption { return existingClient{client} }

type existingClient struct{ client *Client }

func (o existingClient) applyToRun(c *runConfig) { c.client, c.existing = o.client, true }
