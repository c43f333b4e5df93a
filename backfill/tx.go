package backfill

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/internal/wire"
)

// WithTx implements [Enqueuer]: the jobs commit with tx, in the same database. The workers are
// notified shortly afterwards; the client does not see the commit, so it does so about 2, 20 and
// 200 ms after the enqueue, and a job that is committed later waits for their poll, 2 seconds at
// most. [InTx] notifies exactly.
//
// A task or queue that nobody has enqueued to before is added in the transaction: others that
// enqueue to it wait for its end, and two transactions that add names in opposite order can
// deadlock (SQLSTATE 40P01). Repeat such a transaction.
func (c *Client) WithTx(tx pgx.Tx) Enqueuer {
	if c == nil || c.pool == nil {
		return noClient{}
	}
	return c.bindTx(tx, c.nudger.NudgeAfterCommit)
}

// WithSQLTx implements [Enqueuer]: the same for database/sql, whatever the driver. Tested are pgx's
// stdlib and lib/pq, each in two of its modes.
func (c *Client) WithSQLTx(tx *sql.Tx) Enqueuer {
	if c == nil || c.pool == nil {
		return noClient{}
	}
	return &txEnqueuer{client: c, nudge: c.nudger.NudgeAfterCommit, insert: func(ctx context.Context, specs []wire.Spec) ([]*wire.Job, error) {
		if tx == nil {
			return nil, errors.New("WithSQLTx: the transaction is nil")
		}
		return c.inserter.InsertSQLTx(ctx, tx, specs)
	}}
}

// InTx runs fn in a transaction of the client's pool, commits if fn returns nil, and rolls back
// otherwise. The ctx that fn gets carries an [Enqueuer] that is bound to the transaction, so that
// generated functions EnqueueX(ctx, …) join it. Workers are notified right after the commit.
func InTx(ctx context.Context, c *Client, fn func(ctx context.Context, tx pgx.Tx) error) error {
	if err := c.usable(ctx); err != nil {
		return err
	}
	if fn == nil {
		return errors.New("in transaction: the function is nil")
	}
	var enqueued atomic.Int64
	err := pgx.BeginFunc(ctx, c.pool, func(tx pgx.Tx) error {
		bound := c.bindTx(tx, func(jobs int) { enqueued.Add(int64(jobs)) })
		return fn(NewContext(ctx, bound), tx)
	})
	if err != nil {
		return err
	}
	c.nudger.Nudge(int(enqueued.Load()))
	return nil
}

// txEnqueuer enqueues in a transaction of the caller's. It never folds calls: what is enqueued must
// be in this transaction.
type txEnqueuer struct {
	client *Client
	insert insertFunc
	nudge  func(jobs int)
}

func (c *Client) bindTx(tx pgx.Tx, nudge func(jobs int)) *txEnqueuer {
	return &txEnqueuer{client: c, nudge: nudge, insert: func(ctx context.Context, specs []wire.Spec) ([]*wire.Job, error) {
		if tx == nil {
			return nil, errors.New("WithTx: the transaction is nil")
		}
		return c.inserter.InsertTx(ctx, tx, specs)
	}}
}

func (e *txEnqueuer) Enqueue(ctx context.Context, requests ...Request) ([]*Job, error) {
	if err := e.client.usable(ctx); err != nil {
		return nil, err
	}
	jobs, err := insertRequests(ctx, requests, e.insert)
	if err != nil {
		return nil, fmt.Errorf("in transaction: %w", err)
	}
	if len(jobs) > 0 {
		e.nudge(len(jobs))
	}
	return jobs, nil
}

func (e *txEnqueuer) WithTx(tx pgx.Tx) Enqueuer     { return e.client.WithTx(tx) }
func (e *txEnqueuer) WithSQLTx(tx *sql.Tx) Enqueuer { return e.client.WithSQLTx(tx) }
