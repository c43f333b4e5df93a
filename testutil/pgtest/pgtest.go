// Package pgtest gives every test a PostgreSQL database of its own.
//
//	func TestSignup(t *testing.T) {
//		t.Parallel()
//		db := pgtest.New(t) // with backfill's schema in it
//		client, err := backfill.NewClient(t.Context(), db.Pool())
//		…
//	}
//
// A schema for each test would not do: notifications belong to the database, so tests would wake
// each other's workers. The schema is installed once, in a template, of which each test gets a
// copy.
//
// # Which server
//
// A test binary uses the first of these:
//
//   - that of [UseServer], if it was called. Where there is Docker alone, pass it container.Start
//     of github.com/backfillhq/go/testutil/pgtest/container, a module of its own.
//   - BACKFILL_TEST_PG_MAJOR=12: a private server of that major version.
//   - DATABASE_URL, or PGHOST, PGSERVICE or PGDATABASE: that server. The role needs CREATEDB. The
//     databases are named backfill_test_… and are dropped after the test; those of a killed test
//     are dropped a day later.
//   - an installed PostgreSQL, or npm's: a private server, on 127.0.0.1 and in memory where
//     possible. It ends with the test binary, no matter how that ends. There is none on Windows.
//
// # Connections
//
// A private server takes 300 connections, and [Database.Pool] uses up to 4.
package pgtest

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// createTimeout bounds making a database, and a server for it if need be.
const createTimeout = 5 * time.Minute

// releaseTimeout is how long a test may take to give its connections back.
const releaseTimeout = 10 * time.Second

// defaultPoolSize is small, as many tests run at once.
const defaultPoolSize, maxPoolSize = 4, 10_000

// A Database is the database of one test.
type Database struct {
	// URL connects to the database.
	URL string

	t      testing.TB
	size   int32
	tracer pgx.QueryTracer // nil: none
	pool   func() *pgxpool.Pool
}

// An Option changes what [New] and [Empty] make.
type Option interface{ apply(*config) }

type optionFunc func(*config)

func (f optionFunc) apply(c *config) { f(c) }

type config struct {
	schema   string
	poolSize int
	tracer   pgx.QueryTracer
}

// WithSchema installs backfill's tables in a schema of this name. [Empty] ignores it. Default:
// graphile_worker.
func WithSchema(name string) Option {
	return optionFunc(func(c *config) { c.schema = name })
}

// WithPoolSize sets how many connections [Database.Pool] can have, 1 to 10,000. Default: 4.
func WithPoolSize(connections int) Option {
	return optionFunc(func(c *config) { c.poolSize = connections })
}

// WithTracer sets the tracer of [Database.Pool]'s connections, such as testutil.FaultTracer.
// Default: none.
func WithTracer(tracer pgx.QueryTracer) Option {
	return optionFunc(func(c *config) { c.tracer = tracer })
}

// New makes a database with backfill's schema. If it cannot, it fails the test.
func New(tb testing.TB, opts ...Option) *Database {
	tb.Helper()
	return create(tb, true, opts)
}

// Empty makes a database without backfill's schema. If it cannot, it fails the test.
func Empty(tb testing.TB, opts ...Option) *Database {
	tb.Helper()
	return create(tb, false, opts)
}

func create(tb testing.TB, migrated bool, opts []Option) *Database {
	tb.Helper()
	cfg := config{poolSize: defaultPoolSize}
	for _, opt := range opts {
		if opt != nil {
			opt.apply(&cfg)
		}
	}
	if cfg.poolSize < 1 || cfg.poolSize > maxPoolSize {
		tb.Fatalf("pgtest: WithPoolSize: %d is out of range: want 1 to %d", cfg.poolSize, maxPoolSize)
	}
	ctx, cancel := context.WithTimeout(tb.Context(), createTimeout)
	defer cancel()
	s, err := testServer()
	if err == nil {
		err = checkLate()
	}
	if err != nil {
		tb.Fatalf("pgtest: %v", err)
	}
	template := ""
	if migrated {
		if template, err = s.migratedTemplate(ctx, cfg.schema); err != nil {
			tb.Fatalf("pgtest: %v", err)
		}
	}
	name := newName()
	if err := s.createDatabase(ctx, name, template); err != nil {
		tb.Fatalf("pgtest: %v", err)
	}
	if !s.disposable {
		// Registered before the pool, and thus run after it is closed.
		tb.Cleanup(func() { s.cleanUp(tb, name) })
	}
	db := &Database{URL: withDatabase(s.url, name), t: tb, size: int32(cfg.poolSize), tracer: cfg.tracer}
	db.pool = sync.OnceValue(db.newPool)
	return db
}

// Pool returns a pool of connections to the database, always the same one. It is closed at the end
// of the test, which fails if a connection was not released.
func (d *Database) Pool() *pgxpool.Pool {
	d.t.Helper()
	pool := d.pool()
	if pool == nil {
		d.t.Fatal("pgtest: there is no pool")
	}
	return pool
}

func (d *Database) newPool() *pgxpool.Pool {
	d.t.Helper()
	settings, err := pgxpool.ParseConfig(d.URL)
	if err != nil {
		d.t.Errorf("pgtest: read the URL: %v", err)
		return nil
	}
	settings.MaxConns, settings.ConnConfig.Tracer = d.size, d.tracer
	pool, err := pgxpool.NewWithConfig(d.t.Context(), settings)
	if err != nil {
		d.t.Errorf("pgtest: make a pool: %v", err)
		return nil
	}
	d.t.Cleanup(func() { closePool(d.t, pool) })
	return pool
}

// closePool closes a pool, which waits for connections that are in use. A test
// that kept one, as one that failed does easily, would hang here.
func closePool(tb testing.TB, pool *pgxpool.Pool) {
	tb.Helper()
	closed := make(chan struct{})
	go func() { pool.Close(); close(closed) }()
	timeout := time.NewTimer(releaseTimeout)
	defer timeout.Stop()
	select {
	case <-closed:
	case <-timeout.C:
		tb.Error("pgtest: a connection of the test's pool was not released")
	}
}
