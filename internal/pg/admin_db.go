package pg

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/internal/pg/query"
)

// adminTimeout is how long a transaction of an operator's may take, if the context has no deadline.
// Some statements look at all jobs.
const adminTimeout = 30 * time.Second

// adminSettings are those that the statements of operators and the contract's functions depend on,
// for the rest of a transaction. The server ends one whose process was cut off or stopped: it would
// keep its locks until the server finds out by itself, which takes hours. Filters are planned each
// time: a plan for all of them has no index for any.
const adminSettings = `select pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true),
  pg_catalog.set_config('datestyle', 'ISO', true), pg_catalog.set_config('array_nulls', 'on', true),
  pg_catalog.set_config('client_encoding', 'UTF8', true),
  pg_catalog.set_config('plan_cache_mode', 'force_custom_plan', true),
  pg_catalog.set_config('idle_in_transaction_session_timeout', '2s', true)`

// in runs statements in a transaction on the application's pool, with settings of its own and a
// limited time. Enqueues do without: they would need more round trips.
func (a *Admin) in(ctx context.Context, run func(context.Context, query.DBTX) error) error {
	return a.inTx(ctx, func(ctx context.Context, tx pgx.Tx) error { return run(ctx, renderer{tx, a.texts}) })
}

// lostError is the error of a transaction that has lost its connection.
type lostError struct{ error }

func (e lostError) Unwrap() error { return e.error }

// inTx is in, for what sends several statements at once.
func (a *Admin) inTx(ctx context.Context, run func(context.Context, pgx.Tx) error) (err error) {
	if _, ok := ctx.Deadline(); !ok {
		limited, cancel := context.WithTimeout(ctx, a.limit)
		ctx = limited
		defer cancel()
		defer func() {
			if err != nil && errors.Is(limited.Err(), context.DeadlineExceeded) {
				err = fmt.Errorf("no answer within %v: the database does not respond, or a transaction has locked what this needs: %w", a.limit, err)
			}
		}()
	}
	conn, err := a.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	// Also if a tracer of the application's panics, or ends the goroutine: then the transaction is
	// open, and the pool closes the connection.
	defer conn.Release()
	defer func() {
		if err != nil && conn.Conn().IsClosed() { // while it is ours: from the pool others may get it
			err = lostError{err}
		}
	}()
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted})
	if err != nil {
		return err
	}
	if _, err = tx.Exec(ctx, adminSettings); err == nil {
		err = run(ctx, tx)
	}
	if err == nil {
		err = tx.Commit(ctx)
	}
	if err != nil {
		Rollback(ctx, tx)
	}
	return err
}

// transaction runs statements together.
type transaction = func(ctx context.Context, run func(context.Context, query.DBTX) error) error

// ask runs a single statement in a transaction.
func ask[A, R any](
	ctx context.Context, in transaction, statement func(*query.Queries, context.Context, A) (R, error), arg A,
) (result R, err error) {
	err = in(ctx, func(ctx context.Context, db query.DBTX) error {
		result, err = statement(query.New(db), ctx, arg)
		return err
	})
	if err != nil { // perhaps of the commit
		return *new(R), err
	}
	return result, nil
}
