package pg

import (
	"cmp"
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/internal/pg/query"
)

// connections are those of a worker's pool. Where they share their sessions with others, behind a
// transaction pooler, every statement is sent as a transaction that states its own settings.
type connections struct {
	pool     *pgxpool.Pool
	sessions *sessions
	full     *atomic.Pointer[time.Time] // since when no place of the pool was free; nil: one was
}

// acquire takes a connection from the pool.
func (c connections) acquire(ctx context.Context) (*pgxpool.Conn, error) {
	conn, err := c.pool.Acquire(ctx)
	if errors.Is(err, errNowShared) {
		conn, err = c.pool.Acquire(ctx)
	}
	c.noteFull(err == nil)
	return conn, err
}

// noteFull notes whether there was a free place. Every statement has an end, whatever the database
// does, and a connection that is being made is none that is in use: where all are in use for long,
// something in this process keeps them.
func (c connections) noteFull(acquired bool) {
	if acquired && c.full.Load() == nil {
		return // as nearly always
	}
	if stat := c.pool.Stat(); acquired || stat.AcquiredConns() < stat.MaxConns() {
		c.full.Store(nil)
		return
	}
	now := time.Now()
	c.full.CompareAndSwap(nil, &now)
}

// over returns what sends statements over a connection. More settings apply where sessions are
// shared.
func (s *sessions) over(conn *pgx.Conn, more ...string) query.DBTX {
	if !s.shared.Load() {
		return conn
	}
	return transactions{conn: conn, settings: append([]string{ownTimeoutLocal, engineLocal}, more...)}
}

// within runs statements in one transaction, over several round trips.
func (c connections) within(ctx context.Context, run func(ctx context.Context, tx pgx.Tx) error) error {
	conn, err := c.acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	return c.sessions.within(ctx, conn.Conn(), func(tx pgx.Tx) error { return run(ctx, tx) })
}

// beginStated begins a transaction that states its own settings. Both are one message: between two,
// the session would be idle in its transaction under the settings of somebody else.
const beginStated = "begin isolation level read committed; "

// within does so over a connection.
func (s *sessions) within(ctx context.Context, conn *pgx.Conn, run func(tx pgx.Tx) error) error {
	options := pgx.TxOptions{IsoLevel: pgx.ReadCommitted}
	if s.shared.Load() {
		options = pgx.TxOptions{BeginQuery: beginStated + engineTransaction}
	}
	return pgx.BeginTxFunc(ctx, conn, options, run)
}

func (c connections) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	return exec(c.Query(ctx, sql, args...))
}

func (c connections) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	rows, err := c.Query(ctx, sql, args...)
	return oneRow{rows, err}
}

func (c connections) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	return c.query(ctx, c.sessions.over, sql, args)
}

func (c connections) query(
	ctx context.Context, over func(conn *pgx.Conn, more ...string) query.DBTX, sql string, args []any,
) (pgx.Rows, error) {
	conn, err := c.acquire(ctx)
	if err != nil {
		return nil, err
	}
	rows, err := over(conn.Conn()).Query(ctx, sql, args...)
	if err != nil {
		conn.Release()
		return nil, err
	}
	return &endedRows{Rows: rows, end: func() error { conn.Release(); return nil }}, nil
}

// transactions sends each statement in a transaction of its own, in one round trip: BEGIN, the
// settings, the statement, COMMIT. A pooler gives all of it one session, and nothing of it outlives
// the transaction. An error of the server's says that nothing was changed: it has not come to the
// COMMIT, or that was refused. Without an answer, the outcome is unknown, as that of any statement.
type transactions struct {
	conn     *pgx.Conn
	settings []string
	behind   []following // go behind the statement, in order
	// own says that the session is nobody else's. Then nothing is in front: what is sent at once is
	// one transaction anyway.
	own bool
}

// following is a statement that goes behind another one, in its transaction. If it fails, none has
// changed anything.
type following struct {
	sql  string
	args []any
	read func(answer query.DBTX) error
}

// followed are connections that send each statement with others behind it.
type followed struct {
	connections

	behind []following
}

func (f followed) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	over := func(conn *pgx.Conn, more ...string) query.DBTX {
		with, shared := f.sessions.over(conn, more...).(transactions)
		with.conn, with.behind, with.own = conn, f.behind, !shared
		return with
	}
	return f.query(ctx, over, sql, args)
}

func (f followed) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	rows, err := f.Query(ctx, sql, args...)
	return oneRow{rows, err}
}

func (f followed) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	return exec(f.Query(ctx, sql, args...))
}

// answers are the answers of a batch, which each statement takes in turn.
type answers struct{ pgx.BatchResults }

func (a answers) Query(context.Context, string, ...any) (pgx.Rows, error) {
	return a.BatchResults.Query()
}

func (a answers) QueryRow(context.Context, string, ...any) pgx.Row { return a.BatchResults.QueryRow() }

func (a answers) Exec(context.Context, string, ...any) (pgconn.CommandTag, error) {
	return a.BatchResults.Exec()
}

func (t transactions) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	return exec(t.Query(ctx, sql, args...))
}

func (t transactions) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	rows, err := t.Query(ctx, sql, args...)
	return oneRow{rows, err}
}

func (t transactions) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	var before []string
	if !t.own {
		before = append([]string{"begin isolation level read committed"}, t.settings...)
	}
	var batch pgx.Batch
	for _, statement := range before {
		batch.Queue(statement)
	}
	batch.Queue(sql, args...)
	for _, next := range t.behind {
		batch.Queue(next.sql, next.args...)
	}
	if !t.own {
		batch.Queue("commit")
	}
	results := t.conn.SendBatch(ctx, &batch)
	end := func() error {
		err := results.Close() // which has the answer to the COMMIT
		t.rollBack(ctx)
		return err
	}
	for range before {
		if _, err := results.Exec(); err != nil {
			return nil, cmp.Or(end(), err)
		}
	}
	rows, err := results.Query()
	if err != nil {
		return nil, cmp.Or(end(), err)
	}
	return &endedRows{Rows: rows, end: func() (err error) {
		for _, next := range t.behind {
			if err = next.read(answers{results}); err != nil {
				break
			}
		}
		return cmp.Or(err, end())
	}}, nil
}

// rollBack ends a transaction that an error has left open. Where that fails, the pool or the caller
// drops the connection, and with it the session.
func (t transactions) rollBack(ctx context.Context) {
	if t.conn.IsClosed() || t.conn.PgConn().TxStatus() == 'I' {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	_, _ = t.conn.Exec(ctx, "rollback")
}

// endedRows calls end once they were read or are closed. What it returns is an error of theirs.
type endedRows struct {
	pgx.Rows

	end   func() error
	ended bool
	err   error
}

func (r *endedRows) Next() bool {
	if r.Rows.Next() {
		return true
	}
	r.Close()
	return false
}

func (r *endedRows) Close() {
	r.Rows.Close()
	if !r.ended {
		r.ended = true
		r.err = cmp.Or(r.Rows.Err(), r.end())
	}
}

func (r *endedRows) Err() error { return cmp.Or(r.err, r.Rows.Err()) }

// oneRow is the first of rows.
type oneRow struct {
	rows pgx.Rows
	err  error
}

func (r oneRow) Scan(dest ...any) error {
	if r.err != nil {
		return r.err
	}
	defer r.rows.Close()
	if !r.rows.Next() {
		return cmp.Or(r.rows.Err(), pgx.ErrNoRows)
	}
	err := r.rows.Scan(dest...)
	r.rows.Close()
	return cmp.Or(r.rows.Err(), err)
}

// exec reads rows that do not matter.
func exec(rows pgx.Rows, err error) (pgconn.CommandTag, error) {
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	rows.Close()
	return rows.CommandTag(), rows.Err()
}
