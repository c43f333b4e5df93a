package dev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/cmd/backfill/internal/scratch"
	"github.com/backfillhq/go/internal/devpg"
	"github.com/backfillhq/go/internal/pg"
)

const (
	command = "dev"
	// scratchSchema is the one in a database of the user's.
	scratchSchema = "backfill_dev"
	// cleanupTimeout is how long it may take to drop it, after the context of the run has ended.
	cleanupTimeout = 30 * time.Second
)

// place is where the traffic is: a private server, or a scratch schema in a database of the user's.
type place struct {
	url    string
	schema string
	server *devpg.Server // nil: the database is the user's
	pool   *pgxpool.Pool
	client *backfill.Client
}

// open starts a private server, or makes the scratch schema, and installs the tables.
func open(ctx context.Context, options Options, notes io.Writer) (_ *place, err error) {
	p := &place{url: options.DatabaseURL, schema: scratchSchema}
	if p.url == "" {
		err = p.startServer(ctx, options.Keep, notes)
	} else {
		err = p.makeSchema(ctx, notes)
	}
	if err != nil {
		return nil, err
	}
	if err := p.connect(ctx, notes); err != nil {
		return nil, errors.Join(err, p.close(ctx))
	}
	return p, nil
}

// startServer starts a server that nobody else uses. DATABASE_URL is not looked at.
func (p *place) startServer(ctx context.Context, folder string, notes io.Writer) (err error) {
	fmt.Fprintln(notes, "Looking for a PostgreSQL …")
	p.server, err = devpg.Start(ctx, devpg.Config{Private: true, DataDir: folder})
	if _, busy := errors.AsType[*devpg.InUseError](err); busy {
		return fmt.Errorf("%w: choose another folder, or stop it", err)
	}
	if err != nil {
		return fmt.Errorf("%w\nto use a server of yours, pass --database-url postgres://user:password@host:5432/database", err)
	}
	p.url, p.schema = p.server.URL, pg.DefaultSchema
	return nil
}

// makeSchema makes the scratch schema in a database that has no other queue: notifications go to a
// whole database, and sample jobs are not to be taken for real ones.
func (p *place) makeSchema(ctx context.Context, notes io.Writer) error {
	conn, err := pg.Connect(ctx, p.url)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	queues, err := scratch.Queues(ctx, conn, command)
	if err != nil {
		return err
	}
	if len(queues) > 0 {
		return fmt.Errorf("the database %s has a queue already, in the schema %q: dev makes sample jobs, and its notifications would wake the workers "+
			"of that queue; name an empty database, or leave --database-url out for a private server", conn.Config().Database, queues[0])
	}
	if err := p.dropLeftover(ctx, conn, notes); err != nil {
		return err
	}
	return scratch.Create(ctx, conn, command, p.schema)
}

// dropLeftover drops the schema of an earlier run that was killed, and refuses one that is used, or
// that dev has not made.
func (p *place) dropLeftover(ctx context.Context, conn *pgx.Conn, notes io.Writer) error {
	there, err := scratch.Exists(ctx, conn, p.schema)
	if err != nil || !there {
		return err
	}
	workers, err := scratch.Alive(ctx, conn, p.schema)
	if err != nil {
		return err
	}
	if workers > 0 {
		return fmt.Errorf("another backfill dev runs in this database, or was killed less than 30 seconds ago: its worker in the schema %s has a "+
			"young heartbeat; stop it, or wait", p.schema)
	}
	if err := scratch.Drop(ctx, conn, command, p.schema); err != nil {
		return err
	}
	fmt.Fprintf(notes, "Dropped the schema %s of an earlier run, which did not end in order.\n", p.schema)
	return nil
}

func (p *place) connect(ctx context.Context, notes io.Writer) error {
	config, err := pg.PoolConfig(p.url)
	if err != nil {
		return err
	}
	if p.pool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return fmt.Errorf("open connections: %w", err)
	}
	logger := slog.New(slog.NewTextHandler(notes, &slog.HandlerOptions{Level: slog.LevelError}))
	p.client, err = backfill.NewClient(ctx, p.pool, backfill.WithSchema(p.schema), backfill.WithLogger(logger))
	return err
}

// close removes everything that open has made, but for what is kept.
func (p *place) close(ctx context.Context) error {
	if p.client != nil {
		p.client.Close()
	}
	if p.pool != nil {
		p.pool.Close()
	}
	if p.server != nil {
		return p.server.Stop()
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	conn, err := pg.Connect(ctx, p.url)
	if err != nil {
		return fmt.Errorf("drop the schema %s: %w; the next backfill dev there drops it", p.schema, err)
	}
	defer conn.Close(ctx)
	return scratch.Drop(ctx, conn, command, p.schema)
}
