package backfill

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/wire"
)

// WithTx implements [Enqueuer]: the jobs are inserted in tx, a transaction on the same database,
// and exist once it commits. The client does not see the commit, so it notifies the workers about
// 2, 20 and 200 ms after the enqueue. Workers find a job that is committed later when they poll,
// every 2 seconds. [InTx] notifies right after the commit.
//
// The current role of tx (SET ROLE) must own the tables, or have been given the right to enqueue by
// "backfill migrate", with --enqueue-role or --worker-role.
//
// Without a deadline in its context, an enqueue waits at most 10 seconds for each statement: for
// the server, or for a transaction that holds one of its keys. After that error, as after any other
// of the server's, roll tx back.
//
// If nobody has enqueued to a task or queue before, its name is added in the transaction. Others
// that enqueue to it wait until tx ends, and two transactions that add names in opposite order can
// deadlock (SQLSTATE 40P01): repeat such a transaction.
func (c *Client) WithTx(tx pgx.Tx) Enqueuer {
	if c == nil {
		return noClient{}
	}
	return c.bindTx(tx, c.nudgeAfterCommit)
}

// WithSQLTx is [Client.WithTx] for database/sql. It works with any driver for PostgreSQL that
// takes parameters as text, and is tested with pgx's stdlib and lib/pq. docs/enqueuing.md says how
// to get the *sql.Tx of GORM, bun, ent and sqlx. While the server does not answer, lib/pq's
// methods do not return, whatever their context says. Enqueue does, a second after the end of its
// context; tx.Rollback may not.
func (c *Client) WithSQLTx(tx *sql.Tx) Enqueuer {
	if c == nil {
		return noClient{}
	}
	return c.bindSQLTx(tx, c.nudgeAfterCommit)
}

func (c *Client) nudgeAfterCommit(jobs int) { c.nudger.NudgeAfterCommit(jobs) }

// Transactor is an [Enqueuer] that runs functions in transactions, for [InTx]: a [Client], or
// testutil's Recorder.
type Transactor interface {
	Enqueuer

	// InTx is described at [InTx].
	InTx(ctx context.Context, fn func(ctx context.Context, tx pgx.Tx) error) error
}

var _ Transactor = (*Client)(nil)

// InTx runs fn in a transaction of the client's pool, commits if fn returns nil, and rolls back
// otherwise. The ctx that fn gets carries an [Enqueuer] for the transaction, so generated functions
// EnqueueX(ctx, …) enqueue in it. Workers are notified right after the commit. If the connection
// breaks before the commit is acknowledged, the error is an [ErrOutcomeUnknown].
//
// If ctx has no deadline, InTx waits at most 10 seconds each for a connection, for BEGIN and for
// COMMIT. If c is nil, it returns [ErrNoClient].
func InTx(ctx context.Context, c Transactor, fn func(ctx context.Context, tx pgx.Tx) error) error {
	if c == nil {
		return ErrNoClient
	}
	return c.InTx(ctx, fn)
}

// InTx is the function [InTx] as a method.
func (c *Client) InTx(ctx context.Context, fn func(ctx context.Context, tx pgx.Tx) error) error {
	if err := c.usable(ctx); err != nil {
		return err
	}
	if fn == nil {
		return invalid(errors.New("in transaction: the function is nil"))
	}
	conn, err := c.inserter.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer c.inserter.Release(ctx, conn, nil)
	tx, err := c.inserter.Begin(ctx, conn)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer pg.Rollback(ctx, tx) // also when fn panics
	var enqueued atomic.Int64
	bound := c.bindTx(tx, func(jobs int) { enqueued.Add(int64(jobs)) })
	if err := fn(NewContext(ctx, bound), tx); err != nil {
		return err
	}
	if err := c.inserter.Commit(ctx, tx); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	c.nudger.Nudge(int(enqueued.Load()))
	return nil
}

// txEnqueuer enqueues in a transaction of the application. It does not fold calls into batches,
// because the jobs belong to this one transaction.
type txEnqueuer struct {
	client *Client
	tx     pg.AppTx
	nudge  func(jobs int)
	insert func(context.Context, []wire.Spec) ([]*wire.Job, error)
}

func (c *Client) bindTx(tx pgx.Tx, nudge func(jobs int)) *txEnqueuer {
	return &txEnqueuer{c, pg.AppTx{Pgx: tx}, nudge, func(ctx context.Context, specs []wire.Spec) ([]*wire.Job, error) {
		if tx == nil {
			return nil, invalid(errors.New("WithTx: the transaction is nil"))
		}
		return c.inserter.InsertTx(ctx, tx, specs)
	}}
}

func (c *Client) bindSQLTx(tx *sql.Tx, nudge func(jobs int)) *txEnqueuer {
	return &txEnqueuer{c, pg.AppTx{SQL: tx}, nudge, func(ctx context.Context, specs []wire.Spec) ([]*wire.Job, error) {
		if tx == nil {
			return nil, invalid(errors.New("WithSQLTx: the transaction is nil"))
		}
		return c.inserter.InsertSQLTx(ctx, tx, specs)
	}}
}

func (e *txEnqueuer) Enqueue(ctx context.Context, requests ...Request) ([]*Job, error) {
	jobs, err := e.client.enqueue(ctx, requests, e)
	if err != nil && len(requests) > 0 {
		return nil, fmt.Errorf("in transaction: %w", err)
	}
	return jobs, err
}

func (e *txEnqueuer) insertSpecs(ctx context.Context, specs []wire.Spec) (jobs []*wire.Job, err error) {
	defer recoverAs("insert jobs", &err) // tx may be a zero value, whose methods panic
	if jobs, err = e.insert(ctx, specs); err == nil {
		e.nudge(len(jobs))
	}
	return jobs, err
}

// Await refuses to wait: nobody runs the job before the commit.
func (e *txEnqueuer) Await(ctx context.Context, _ *Job) (json.RawMessage, error) {
	err := e.client.usable(ctx)
	if err == nil {
		err = invalid(errors.New("a job that is enqueued in a transaction runs when it has been committed: " +
			"await it with the client afterwards, and not in a transactional task"))
	}
	return nil, fmt.Errorf("await in transaction: %w", err)
}

func (e *txEnqueuer) WithTx(tx pgx.Tx) Enqueuer     { return e.client.WithTx(tx) }
func (e *txEnqueuer) WithSQLTx(tx *sql.Tx) Enqueuer { return e.client.WithSQLTx(tx) }
