package pg

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/backfillhq/go/internal/pg/query"
)

// adminTimeout is how long a statement of an operator's may take, and a transaction of ours, if the
// context has no deadline. Some statements look at all jobs.
const adminTimeout = 30 * time.Second

// limitedDB gives each statement without a deadline one.
type limitedDB struct {
	query.DBTX
	limit time.Duration
}

// begin returns the context of a statement, and a function that adds to its error why it ended.
func (db limitedDB) begin(ctx context.Context) (limited context.Context, cancel func(), because func(error) error) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}, func(err error) error { return err }
	}
	limited, cancel = context.WithTimeout(ctx, db.limit)
	return limited, cancel, func(err error) error {
		if err == nil || !errors.Is(limited.Err(), context.DeadlineExceeded) || ctx.Err() != nil {
			return err
		}
		return fmt.Errorf("no answer within %v: the database does not respond, or a transaction has locked what this needs: %w", db.limit, err)
	}
}

func (db limitedDB) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	ctx, cancel, because := db.begin(ctx)
	defer cancel()
	tag, err := db.DBTX.Exec(ctx, sql, args...)
	return tag, because(err)
}

func (db limitedDB) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	ctx, cancel, because := db.begin(ctx)
	rows, err := db.DBTX.Query(ctx, sql, args...)
	if err != nil {
		cancel()
		return rows, because(err)
	}
	return &limitedRows{rows, cancel, because}, nil
}

func (db limitedDB) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	ctx, cancel, because := db.begin(ctx)
	return limitedRow{db.DBTX.QueryRow(ctx, sql, args...), cancel, because}
}

// limitedRows are rows whose deadline ends with them: whoever reads them closes them.
type limitedRows struct {
	pgx.Rows
	cancel  func()
	because func(error) error
}

func (r *limitedRows) Err() error { return r.because(r.Rows.Err()) }

func (r *limitedRows) Close() {
	r.Rows.Close()
	r.cancel()
}

type limitedRow struct {
	pgx.Row
	cancel  func()
	because func(error) error
}

func (r limitedRow) Scan(dest ...any) error {
	defer r.cancel()
	return r.because(r.Row.Scan(dest...))
}

// inTransaction runs a short transaction of an operator's.
func (a *Admin) inTransaction(ctx context.Context, run func(ctx context.Context, tx pgx.Tx) error) error {
	limited, cancel, because := a.db.begin(ctx)
	defer cancel()
	return because(pgx.BeginTxFunc(limited, a.pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		return run(limited, tx)
	}))
}
