package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/devpg"
)

// schema holds the jobs and the example's own tables, away from everything else in the database.
const schema = "backfill_example"

//go:embed schema.sql
var schemaSQL string

// database is a PostgreSQL with all tables: the pool is for the example's own ones, the client for
// the jobs.
type database struct {
	server  *devpg.Server
	metrics *metrics
	pool    *pgxpool.Pool
	client  *backfill.Client
}

// openDatabase connects to url. If that is empty, it goes by the PG* variables, and without those
// it uses a private server: one process of this program starts it, the others connect to it.
func openDatabase(ctx context.Context, url string, out io.Writer) (_ *database, err error) {
	db := &database{server: &devpg.Server{URL: url}}
	if url == "" {
		if db.server, err = startPostgres(ctx, out); err != nil {
			return nil, err
		}
	}
	if err := db.connect(ctx, out); err != nil {
		return nil, errors.Join(err, db.close())
	}
	return db, nil
}

func startPostgres(ctx context.Context, out io.Writer) (*devpg.Server, error) {
	dir, homeless := devpg.CacheDir("example")
	fmt.Fprintln(out, "Looking for a PostgreSQL …")
	server, err := devpg.Start(ctx, devpg.Config{DataDir: dir})
	if busy, ok := errors.AsType[*devpg.InUseError](err); ok {
		fmt.Fprintln(out, "Another process of the example runs the private server until it ends.")
		return &devpg.Server{URL: busy.URL}, nil
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w\nto use a server of yours, set DATABASE_URL=postgres://user:password@host:5432/database", err)
	case server.Owned() && homeless != nil:
		fmt.Fprintf(out, "A private server runs for this process alone, and its data is not kept:\n  %v\n", homeless)
	case server.Owned():
		fmt.Fprintln(out, "A private server runs until this process ends. It keeps its data in\n "+dir)
	}
	return server, nil
}

// connect connects, and makes the tables that are missing.
func (db *database) connect(ctx context.Context, out io.Writer) error {
	config, err := pgxpool.ParseConfig(db.server.URL)
	if err != nil {
		return fmt.Errorf("read the database's URL: %w", err)
	}
	config.MaxConns = max(config.MaxConns, 10)
	if db.pool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return err
	}
	if db.metrics, err = newMetrics(); err != nil {
		return err
	}
	if db.client, err = backfill.NewClient(ctx, db.pool, backfill.WithSchema(schema), db.metrics.Client()); err != nil {
		return err
	}
	if err := db.metrics.observe(db.server.URL); err != nil {
		return err
	}
	// "if not exists" alone fails when two processes start at the same time.
	err = pgx.BeginFunc(ctx, db.pool, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "select pg_advisory_xact_lock(hashtext('backfill_example'))")
		if err == nil {
			_, err = tx.Exec(ctx, schemaSQL)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("create the example's tables: %w", err)
	}
	at := config.ConnConfig
	fmt.Fprintf(out, "\ndatabase      %s:%d/%s\nschema        %s\n", at.Host, at.Port, at.Database, schema)
	return nil
}

// close disconnects, and stops a private server that this process has started.
func (db *database) close() error {
	if db.metrics != nil {
		db.metrics.close()
	}
	if db.client != nil {
		db.client.Close()
	}
	if db.pool != nil {
		db.pool.Close()
	}
	return db.server.Stop()
}
