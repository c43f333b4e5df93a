package backfill

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/internal/await"
	"github.com/backfillhq/go/internal/enqueue"
	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/schema"
	"github.com/backfillhq/go/internal/trouble"
	"github.com/backfillhq/go/internal/wire"
)

// Client enqueues jobs and makes workers. It is an [Enqueuer], and safe for concurrent use.
type Client struct {
	pool     *pgxpool.Pool
	owned    bool // the pool is closed with the client
	schema   string
	sqlDB    *sql.DB // nil: none
	logger   *slog.Logger
	inserter *pg.Inserter
	admin    *pg.Admin
	intake   *enqueue.Intake

	middleware []EnqueueMiddleware // the first is the outermost

	nudger *enqueue.Nudger
	nudges *pg.Nudges
	watch  *await.Watch[pg.Awaited]
	index  *schema.IndexBuild // nil if there is nothing to build
	closed atomic.Bool

	clock atomic.Pointer[string] // see pg.Settings.Clock; nil: time is PostgreSQL's
}

var _ Enqueuer = (*Client)(nil)

// Open connects to a database with a pool of its own and installs the schema, unless
// [WithMigrations] says otherwise. The URL is
// postgres://user:password@host:port/database?param=value, or "host=… dbname=…", with the
// parameters that pgx knows. If it is empty, Open uses the PG* environment variables. Errors name
// the host and the database, never the password.
//
// Open gives up after 10 seconds without a connection. One attempt to connect takes at most
// connect_timeout seconds, by default 3. Read-only servers, such as standbys, are skipped.
// Certificate, key and password files that the URL names are read again for each connection, so
// they can be replaced.
func Open(ctx context.Context, databaseURL string, opts ...ClientOption) (*Client, error) {
	config := newClientConfig(opts)
	if ctx == nil {
		config.problems = append(config.problems, errNoContext)
	}
	poolConfig, err := pg.PoolConfig(databaseURL)
	if err := errors.Join(append(config.problems, err)...); err != nil {
		return nil, fmt.Errorf("open client: %w", err)
	}
	pool, err := pgxpool.NewWithConfig(ctx, poolConfig)
	if err != nil {
		return nil, fmt.Errorf("open client: %w", err)
	}
	client, err := newClient(ctx, pool, config)
	if err != nil {
		pool.Close()
		if databaseURL == "" && !pg.EnvironmentConfigured() {
			err = fmt.Errorf("%w; the database URL was empty: %s", err, howToConfigure)
		}
		return nil, fmt.Errorf("open client: %w", err)
	}
	client.owned = true
	return client, nil
}

// NewClient returns a client that enqueues through an existing pool, and installs the schema as
// [Open] does. Close the pool yourself, after the client. Workers and notifications do not use its
// connections. They open their own, with its TLS, dialling, life times, BeforeConnect and
// AfterConnect, but without its tracer, handlers and other hooks.
func NewClient(ctx context.Context, pool *pgxpool.Pool, opts ...ClientOption) (*Client, error) {
	config := newClientConfig(opts)
	if ctx == nil {
		config.problems = append(config.problems, errNoContext)
	}
	config.require(pool != nil, "the pool is nil: pass what pgxpool.New returns, or use Open")
	if err := errors.Join(config.problems...); err != nil {
		return nil, fmt.Errorf("new client: %w", err)
	}
	client, err := newClient(ctx, pool, config)
	if err != nil {
		return nil, fmt.Errorf("new client: %w", err)
	}
	return client, nil
}

func newClient(ctx context.Context, pool *pgxpool.Pool, config clientConfig) (*Client, error) {
	report, err := migrate(ctx, pool, config)
	if err != nil {
		return nil, err
	}
	if config.sqlDB != nil {
		if err := pg.CheckSameDatabase(ctx, pool, config.sqlDB); err != nil {
			return nil, fmt.Errorf("WithSQLDB: %w", err)
		}
	}
	c := &Client{
		pool: pool, schema: config.schema, sqlDB: config.sqlDB, logger: config.logger,
		inserter:   pg.NewInserter(pool, config.schema, report.Access),
		admin:      pg.NewAdmin(pool, config.schema),
		nudges:     pg.NewNudges(pg.SettingsOf(pool, config.schema)),
		middleware: config.middleware,
	}
	c.watch = await.New(c.admin.Awaited)
	unnotified := &trouble.Log{
		Failing: "workers were not notified of new jobs, and find them when they poll",
		Over:    "workers are notified of new jobs again", Level: slog.LevelWarn,
	}
	send := func(ctx context.Context, jobs int) error {
		err := c.nudges.Send(ctx, jobs)
		if err == nil {
			unnotified.Success(c.logger)
		}
		return err
	}
	c.nudger = enqueue.NewNudger(send, func(err error) { unnotified.Failure(c.logger, err) })
	c.intake = enqueue.NewIntake(c.inserter, int(pool.Config().MaxConns), c.nudger)
	if !report.Index && config.migrations != MigrateVerify {
		c.index = schema.StartIndexBuild(c.settings().Connect, schema.Options{Schema: config.schema, Logger: config.logger})
	}
	return c, nil
}

// migrate connects, which shows most mistakes in the configuration, and brings the schema up to
// date. It does not build the index on a table with jobs, because a build waits for other
// transactions: the client does that in the background.
func migrate(ctx context.Context, pool *pgxpool.Pool, config clientConfig) (schema.Report, error) {
	var report schema.Report
	connecting, cancel := context.WithTimeout(ctx, pg.ConnectTimeout)
	conn, err := pool.Acquire(connecting)
	cancel()
	if err != nil {
		return report, explainConnect(ctx, pool, err)
	}
	defer conn.Release()
	if err := pg.CheckEncoding(conn.Conn()); err != nil {
		return report, err
	}
	err = schema.Migrate(ctx, conn.Conn(), schema.Options{
		Schema: config.schema, Mode: schema.Mode(config.migrations), Logger: config.logger, Report: &report, LeaveIndex: true,
	})
	return report, explainSchema(err)
}

// Close waits at most 5 seconds for calls of Enqueue that have not returned, sends the last
// notification, and closes the client's connections. Stop the client's workers first. A second
// Close does nothing.
func (c *Client) Close() {
	if c == nil || c.pool == nil || c.closed.Swap(true) {
		return
	}
	c.watch.Close()
	c.index.Close()
	c.intake.Close()
	c.nudger.Close()
	c.nudges.Close(context.Background())
	if c.owned {
		pg.ClosePool(c.pool)
	}
}

// Enqueue implements [Enqueuer]. It checks all requests before it sends anything. When it returns
// no error, the jobs are committed. When it returns one, no job is, unless the error is an
// [ErrOutcomeUnknown]: then the connection broke or ctx ended after the commit was sent. The other
// errors are [ErrInvalidRequest], [ErrRejected], [ErrClosed] and [ErrNoClient]; one that is none of
// them says that the database was not reached in time.
//
// If ctx has no deadline, Enqueue waits at most 10 seconds for a connection and for each statement.
// More than 5,000 jobs take several statements in one transaction. While another transaction
// inserts or changes a job with the same key, Enqueue waits without a connection until that
// transaction or ctx ends. When the connections are busy, it inserts the jobs of several calls in
// one batch.
func (c *Client) Enqueue(ctx context.Context, requests ...Request) ([]*Job, error) {
	return c.enqueue(ctx, requests, c)
}

func (c *Client) insertSpecs(ctx context.Context, specs []wire.Spec) ([]*wire.Job, error) {
	return c.intake.Insert(ctx, specs)
}

var errNoContext = invalid(errors.New("the context is nil: pass context.Background()"))

// usable returns an error if the client is nil, a zero value, or closed, or the context is nil.
// Every method that returns an error checks this first.
func (c *Client) usable(ctx context.Context) error {
	switch {
	case ctx == nil:
		return errNoContext
	case c == nil || c.pool == nil:
		return ErrNoClient
	case c.closed.Load():
		return ErrClosed
	}
	return nil
}

// settings are what a worker connects with.
func (c *Client) settings() pg.Settings {
	settings := pg.SettingsOf(c.pool, c.schema)
	settings.Logger = c.logger
	if clock := c.clock.Load(); clock != nil { // which is another than this machine's on purpose
		settings.Clock, settings.Logger = *clock, nil
	}
	return settings
}
