package pg

import (
	"cmp"
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// localSettings states what operators' statements depend on, for the rest of a transaction: the
// contract's functions look names up in the search_path of their caller.
const localSettings = `select pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true),
  pg_catalog.set_config('datestyle', 'ISO', true), pg_catalog.set_config('array_nulls', 'on', true)`

// beginLocal begins a transaction with them, on an application's pool.
func beginLocal(ctx context.Context, pool *pgxpool.Pool) (pgx.Tx, error) {
	tx, err := pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted})
	if err != nil {
		return nil, err
	}
	if _, err := tx.Exec(ctx, localSettings); err != nil {
		Rollback(ctx, tx)
		return nil, err
	}
	return tx, nil
}

// inLocal runs fn in such a transaction.
func inLocal(ctx context.Context, pool *pgxpool.Pool, fn func(pgx.Tx) error) error {
	tx, err := beginLocal(ctx, pool)
	if err != nil {
		return err
	}
	defer Rollback(ctx, tx) // also when fn panics
	if err := fn(tx); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

// localPool is a query.DBTX that runs each statement in such a transaction. That takes four round
// trips, which enqueues do without.
type localPool struct{ pool *pgxpool.Pool }

func (p localPool) Exec(ctx context.Context, sql string, args ...any) (tag pgconn.CommandTag, err error) {
	err = inLocal(ctx, p.pool, func(tx pgx.Tx) error {
		tag, err = tx.Exec(ctx, sql, args...)
		return err
	})
	return tag, err
}

// Query returns rows whose end is that of the transaction.
func (p localPool) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	tx, err := beginLocal(ctx, p.pool)
	if err != nil {
		return nil, err
	}
	list, err := tx.Query(ctx, sql, args...)
	if err != nil {
		Rollback(ctx, tx)
		return nil, err
	}
	return &localRows{Rows: list, tx: tx, ctx: ctx}, nil
}

func (p localPool) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	list, err := p.Query(ctx, sql, args...)
	return localRow{list, err}
}

// localRows are those of a transaction that ends with them. Err is that of its commit, too.
type localRows struct {
	pgx.Rows
	tx  pgx.Tx
	ctx context.Context //nolint:containedctx // Close has no parameter for it
	err error
}

func (r *localRows) Next() bool {
	if r.Rows.Next() {
		return true
	}
	r.Close()
	return false
}

// Close commits if the statement has succeeded.
func (r *localRows) Close() {
	r.Rows.Close()
	if r.tx == nil {
		return
	}
	tx := r.tx
	r.tx = nil
	if r.Rows.Err() != nil {
		Rollback(r.ctx, tx)
		return
	}
	r.err = tx.Commit(r.ctx)
}

func (r *localRows) Err() error { return cmp.Or(r.Rows.Err(), r.err) }

type localRow struct {
	rows pgx.Rows
	err  error
}

func (r localRow) Scan(dest ...any) error {
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
