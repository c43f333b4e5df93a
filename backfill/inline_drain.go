package backfill

import (
	"context"
	"errors"

	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/seam"
	"github.com/backfillhq/go/internal/wire"
)

func init() { seam.DatabaseOf, seam.NewDrain = databaseOf, newDrain }

// databaseOf is for testutil, which moves the time in a database.
func databaseOf(ctx context.Context, client any) (seam.Database, error) {
	c := client.(*Client)
	if err := c.usable(ctx); err != nil {
		return seam.Database{}, err
	}
	db := seam.Database{Pool: c.pool, SQLDB: c.sqlDB, Schema: c.schema, ReadTimeFrom: c.readTimeFrom}
	if clock := c.clock.Load(); clock != nil {
		db.Clock = *clock
	}
	return db, nil
}

// readTimeFrom makes the client read the time from the functions of a schema. Nothing that users
// can call does.
func (c *Client) readTimeFrom(clock string) {
	c.clock.Store(&clock)
	c.inserter.ReadTimeFrom(clock)
	c.admin.ReadTimeFrom(clock)
}

// newDrain is for testutil, which runs the jobs of a database in an order of its own: it makes a
// worker that never starts, and hands out its parts.
func newDrain(ctx context.Context, client, registry, opts any, random func() float64) (*seam.Drain, error) {
	c := client.(*Client)
	w, err := c.NewWorker(registry.(*Registry), opts.([]WorkerOption)...)
	if err != nil {
		return nil, err
	}
	if w.config.scheduled {
		return nil, errors.New("WithScheduled is for RunOnce: leave it out, and call DrainUntil")
	}
	w.executor.random = random
	store, err := pg.Open(ctx, c.settings())
	if err != nil {
		return nil, err
	}
	store.LogTo(w.config.logger)
	return &seam.Drain{
		Store: store, Config: w.engineConfig(store, true), NewJob: func(job *wire.Job) any { return newJob(job) },
	}, nil
}
