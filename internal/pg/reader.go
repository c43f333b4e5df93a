package pg

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/internal/pg/query"
	"github.com/backfillhq/go/internal/sqlstate"
	"github.com/backfillhq/go/migrations"
)

// Reader reads facts for operators, one after the other, in a transaction that changes nothing and
// waits for no lock. What the role may not read, or what is locked, is missing, and the others are
// not.
type Reader struct {
	Missing []Missing // in the order in which they were asked for

	tx       pgx.Tx
	schema   string
	texts    *texts
	patience time.Duration // of a statement
}

// Missing is a fact that could not be read.
type Missing struct{ What, Why string }

// ErrMissing is returned for a fact that could not be read, and that Reader.Missing has now.
var ErrMissing = errors.New("it could not be read")

const (
	// readTimeout ends the statement of a fact that reads too much.
	readTimeout = 1500 * time.Millisecond
	// readLockWait is how long a statement waits for a table that somebody has locked as a whole.
	readLockWait = 200 * time.Millisecond
)

// readerSettings hold in the reader's transaction alone, also behind a pooler.
var readerSettings = fmt.Sprintf(`select pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true),
  pg_catalog.set_config('datestyle', 'ISO', true), pg_catalog.set_config('client_encoding', 'UTF8', true),
  pg_catalog.set_config('plan_cache_mode', 'force_custom_plan', true), pg_catalog.set_config('jit', 'off', true),
  pg_catalog.set_config('statement_timeout', '%d', true), pg_catalog.set_config('lock_timeout', '%d', true),
  pg_catalog.set_config('idle_in_transaction_session_timeout', '5s', true)`, readTimeout.Milliseconds(), readLockWait.Milliseconds())

// Read runs read with a Reader on a connection of the pool.
func Read(ctx context.Context, pool *pgxpool.Pool, schema string, read func(*Reader) error) error {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return explainReconnect(pool.Config().ConnConfig, err)
	}
	defer conn.Release()
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return fmt.Errorf("begin to read: %w", err)
	}
	defer Rollback(ctx, tx)
	if _, err := tx.Exec(ctx, readerSettings); err != nil {
		return fmt.Errorf("set what reading depends on: %w", err)
	}
	return read(&Reader{tx: tx, schema: schema, texts: newTexts(schema), patience: readTimeout})
}

// Patience sets how long the statement of a fact may take from now on, in place of 1.5 s.
func (r *Reader) Patience(ctx context.Context, d time.Duration) error {
	if _, err := r.tx.Exec(ctx, "select pg_catalog.set_config('statement_timeout', $1, true)", strconv.FormatInt(d.Milliseconds(), 10)); err != nil {
		return fmt.Errorf("set the patience of reading: %w", err)
	}
	r.patience = d
	return nil
}

// Schema returns the name of the schema that is read.
func (r *Reader) Schema() string { return r.schema }

// NewestRevision is the newest revision of Graphile Worker's schema that is known.
const NewestRevision = migrations.Newest

// QuoteIdentifier quotes a name for SQL.
func QuoteIdentifier(name string) string { return migrations.QuoteIdentifier(name) }

// Name returns the name of a relation or function of the schema, as SQL has it.
func (r *Reader) Name(of string) string {
	if r.schema == DefaultSchema { // easier to read, and right
		return r.schema + "." + of
	}
	return migrations.QuoteIdentifier(r.schema) + "." + of
}

// In returns a Reader of another schema in the same transaction.
func (r *Reader) In(schema string) *Reader {
	return &Reader{tx: r.tx, schema: schema, texts: newTexts(schema), patience: r.patience}
}

// Fact reads one fact, which what names. An error that is ErrMissing says that it could not be read.
func Fact[R any](ctx context.Context, r *Reader, what string, read func(*query.Queries, context.Context) (R, error)) (fact R, err error) {
	fact, err = read(query.New(renderer{savepoints{r.tx}, r.texts}), ctx)
	if err == nil {
		return fact, nil
	}
	why := missing(err, r.patience)
	if why == "" || ctx.Err() != nil {
		return *new(R), fmt.Errorf("read %s: %w", what, err)
	}
	if _, err := r.tx.Exec(ctx, "rollback to savepoint "+factSavepoint); err != nil {
		return *new(R), fmt.Errorf("read %s: %w", what, err)
	}
	r.Missing = append(r.Missing, Missing{what, why})
	return *new(R), ErrMissing
}

// missing says why a statement could not read what it asks for; "": because of something else, such
// as a lost connection.
func missing(err error, patience time.Duration) string {
	said, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || sqlstate.EndsSession(said.Code) {
		return ""
	}
	switch said.Code {
	case sqlstate.QueryCanceled:
		return fmt.Sprintf("it took longer than %v", patience)
	case sqlstate.LockNotAvailable:
		return "a session has locked the whole table"
	}
	return said.Message
}

// factSavepoint is in front of each fact: after an error, the others can be read.
const factSavepoint = "backfill_fact"

// savepoints sends each statement with a savepoint in front of it, in one round trip.
type savepoints struct{ tx pgx.Tx }

func (s savepoints) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	var batch pgx.Batch
	batch.Queue("savepoint " + factSavepoint)
	batch.Queue(sql, args...)
	results := s.tx.SendBatch(ctx, &batch)
	if _, err := results.Exec(); err != nil {
		return nil, errors.Join(err, results.Close())
	}
	rows, err := results.Query()
	if err != nil {
		_ = results.Close() // with the same error
		return nil, err
	}
	return &endedRows{Rows: rows, end: results.Close}, nil
}

func (s savepoints) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	rows, err := s.Query(ctx, sql, args...)
	return oneRow{rows, err}
}

func (s savepoints) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	return exec(s.Query(ctx, sql, args...))
}
