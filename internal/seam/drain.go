package seam

import (
	"context"
	"database/sql"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// TestDatabases is how the names of the databases begin that package pgtest makes. Time moves in
// these alone.
const TestDatabases = "backfill_test_"

// Database is where a client's jobs are.
type Database struct {
	Pool   *pgxpool.Pool
	SQLDB  *sql.DB // nil: none
	Schema string
	Clock  string // the schema of the functions that the client reads the time from; "": PostgreSQL's
	// ReadTimeFrom makes the client, and its workers that start from now on, read the time from the
	// functions of a schema.
	ReadTimeFrom func(clock string)
}

// DatabaseOf returns a client's. Package backfill sets it. The client is a *backfill.Client.
var DatabaseOf func(ctx context.Context, client any) (Database, error)

// Drain is what a worker is made of that runs once.
type Drain struct {
	Store  *pg.Store
	Config worker.Config
	// NewJob makes a *backfill.Job.
	NewJob func(*wire.Job) any
}

// NewDrain reports all mistakes in a registry and the options, as Client.NewWorker does. The jitter
// of backoffs is made of random. Package backfill sets it. The client is a *backfill.Client, the
// registry a *backfill.Registry, and the options are a []backfill.WorkerOption.
var NewDrain func(ctx context.Context, client, registry, opts any, random func() float64) (*Drain, error)
