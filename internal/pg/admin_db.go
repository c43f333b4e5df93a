package pg

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// adminTimeout is how long a transaction of an operator's may take, if the context has no deadline.
// Some statements look at all jobs.
const adminTimeout = 30 * time.Second

// adminSettings are those that the statements of operators and the contract's functions depend on,
// for the rest of a transaction. The server ends one whose process was cut off or stopped: it would
// keep its locks until the server finds out by itself, which takes hours.
const adminSettings = `select pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true),
  pg_catalog.set_config('datestyle', 'ISO', true), pg_catalog.set_config('array_nulls', 'on', true),
  pg_catalog.set_config('client_encoding', 'UTF8', true),
  pg_catalog.set_config('idle_in_transaction_session_timeout', '2s', true)`

// adminDB is a query.DBTX on an application's pool. Each statement is a transaction with settings
// of its own and a limited time. Enqueues do without: they would need more round trips.
type adminDB struct {
	pool  *pgxpool.Pool
	limit time.Duration
}

// operation is a transaction of an operator's. Its connection goes back to the pool whatever a
// tracer of the application's does: panic, or end the goroutine.
type operation struct {
	pgx.Tx

	conn   *pgxpool.Conn
	ctx    context.Context //nolint:containedctx // for as long as the transaction
	cancel func()
	limit  time.Duration // 0: the caller's deadline
}

func (db adminDB) begin(ctx context.Context) (*operation, error) {
	o := &operation{ctx: ctx, cancel: func() {}}
	if _, ok := ctx.Deadline(); !ok {
		o.limit = db.limit
		o.ctx, o.cancel = context.WithTimeout(ctx, db.limit)
	}
	conn, err := db.pool.Acquire(o.ctx)
	if err != nil {
		defer o.cancel()
		return nil, o.ended(err)
	}
	o.conn = conn
	return o, o.try(func() (err error) {
		if o.Tx, err = conn.BeginTx(o.ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}); err != nil {
			return err
		}
		_, err = o.Exec(o.ctx, adminSettings)
		return err
	})
}

// try makes a step. If that fails, or does not return, it ends the operation.
func (o *operation) try(step func() error) error {
	returned := false
	defer func() {
		if !returned {
			o.release()
		}
	}()
	err := step()
	returned = true
	if err != nil {
		return o.end(err)
	}
	return nil
}

// end commits after success.
func (o *operation) end(err error) error {
	defer o.release()
	if err == nil {
		err = o.Commit(o.ctx)
	}
	if err != nil && o.Tx != nil {
		Rollback(o.ctx, o.Tx)
	}
	return o.ended(err)
}

// release gives the connection back to the pool, which closes one with an open transaction.
func (o *operation) release() {
	o.conn.Release()
	o.cancel()
}

// ended adds to an error that the time was over.
func (o *operation) ended(err error) error {
	late := o.limit > 0 && errors.Is(o.ctx.Err(), context.DeadlineExceeded)
	if err == nil || !late {
		return err
	}
	return fmt.Errorf("no answer within %v: the database does not respond, or a transaction has locked what this needs: %w", o.limit, err)
}

// in runs several statements in one transaction.
func (db adminDB) in(ctx context.Context, run func(context.Context, pgx.Tx) error) error {
	o, err := db.begin(ctx)
	if err != nil {
		return err
	}
	if err := o.try(func() error { return run(o.ctx, o.Tx) }); err != nil {
		return err
	}
	return o.end(nil)
}

func (db adminDB) Exec(ctx context.Context, sql string, args ...any) (tag pgconn.CommandTag, err error) {
	err = db.in(ctx, func(ctx context.Context, tx pgx.Tx) error {
		tag, err = tx.Exec(ctx, sql, args...)
		return err
	})
	return tag, err
}

func (db adminDB) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	o, err := db.begin(ctx)
	if err != nil {
		return nil, err
	}
	rows := &adminRows{o: o}
	err = o.try(func() (err error) {
		rows.Rows, err = o.Query(o.ctx, sql, args...)
		return err
	})
	if err != nil {
		return nil, err
	}
	return rows, nil
}

func (db adminDB) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	rows, err := db.Query(ctx, sql, args...)
	return adminRow{rows, err}
}

// adminRows are the rows of a transaction that ends with them. Err is that of its commit, too.
type adminRows struct {
	pgx.Rows

	o   *operation // nil: it has ended
	err error
}

func (r *adminRows) Next() bool {
	if r.Rows.Next() {
		return true
	}
	r.Close()
	return false
}

func (r *adminRows) Close() {
	if o := r.o; o != nil {
		r.o = nil
		defer o.release()
		r.Rows.Close()
		r.err = o.end(r.Rows.Err())
	}
}

func (r *adminRows) Err() error { return r.err }

type adminRow struct {
	rows pgx.Rows
	err  error
}

func (r adminRow) Scan(dest ...any) error {
	if r.err != nil {
		return r.err
	}
	defer r.rows.Close()
	if !r.rows.Next() {
		return cmp.Or(r.rows.Err(), pgx.ErrNoRows)
	}
	if err := r.rows.Scan(dest...); err != nil {
		return err
	}
	r.rows.Close()
	return r.rows.Err()
}
