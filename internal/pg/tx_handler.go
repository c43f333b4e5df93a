package pg

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

var (
	errNotYours = errors.New("the worker commits a job's transaction when its handler has returned nil, and rolls it back otherwise: " +
		"leave Commit and Rollback out, or use a savepoint (tx.Begin)")
	errReturned       = errors.New("the handler has returned: its transaction can no longer be used")
	errInUse          = errors.New("another goroutine uses the job's transaction: it takes one statement at a time")
	errStillUsed      = errors.New("the handler returned while a goroutine still used its transaction: wait for it before you return")
	errRowsOpen       = errors.New("the handler returned with rows or a batch open in its transaction: close them, or read them to their end")
	errConnectionLost = errors.New("the connection of the job's transaction was lost")
	errAborted        = errors.New("a statement of the handler's has failed, which ended its transaction, and it caught the error: " +
		"return the error, or use a savepoint around what may fail")
	errElsewhere = errors.New("the job's transaction does not see the job, which is still this worker's: it leads to another database " +
		"than the client, or its role does not see the row")
	errRowLocked = errors.New("another transaction has the job's row or its queue's locked")
)

// ErrTxEnded says that a job's transaction was ended by somebody else than the worker.
var ErrTxEnded = errors.New("the handler, or what it called, has ended the job's transaction, so what it wrote until then may be " +
	"committed without the job: the worker commits it, so leave COMMIT and ROLLBACK out; use a savepoint")

// txSession is a job's transaction while its handler has it. Handlers may start goroutines, which
// may go on when the handler has returned: whatever they do then is refused, and touches nothing.
type txSession struct {
	*refusal

	ctx  context.Context //nolint:containedctx // of the job, which the transaction belongs to
	conn *pgx.Conn

	using    sync.Mutex  // held while the connection is used; in the end for good
	returned atomic.Bool // the handler has
	kept     atomic.Bool // using is held for good
	exposed  atomic.Bool // the handler has got the connection itself, or may have

	first error // that has aborted the transaction; nil: it is not aborted
	ended bool  // somebody has ended the transaction
}

// end takes the transaction from the handler. It reports false if a goroutine is using it.
func (s *txSession) end() bool {
	s.returned.Store(true)
	if !s.kept.Load() && s.using.TryLock() {
		s.kept.Store(true)
	}
	return s.kept.Load()
}

// enter begins a use of the connection; leave ends it.
func (s *txSession) enter() error {
	if s.returned.Load() {
		return errReturned
	}
	if !s.using.TryLock() {
		return errInUse
	}
	var err error
	switch {
	case s.returned.Load():
		err = errReturned
	case s.ctx.Err() != nil:
		err = fmt.Errorf("the job's context has ended, so its transaction is rolled back: %w", context.Cause(s.ctx))
	case s.ended:
		err = ErrTxEnded
	}
	if err != nil {
		s.using.Unlock()
	}
	return err
}

// leave notes what a statement has made of the transaction.
func (s *txSession) leave(err error) {
	defer s.using.Unlock()
	if s.conn.IsClosed() {
		return
	}
	switch s.conn.PgConn().TxStatus() {
	case 'T':
		s.first = nil // a savepoint has undone it
	case 'E':
		if said, ok := errors.AsType[*pgconn.PgError](err); ok && s.first == nil {
			s.first = said
		}
	case 'I':
		s.ended = true
		s.Fail(ErrTxEnded)
	}
}

// aborted returns what has aborted the transaction; nil if nothing has.
func (s *txSession) aborted() error {
	if s.conn.IsClosed() || s.conn.PgConn().TxStatus() != 'E' {
		return nil
	}
	if s.first == nil {
		return errAborted
	}
	position := ""
	if said, ok := errors.AsType[*pgconn.PgError](s.first); ok && said.Position > 0 {
		position = fmt.Sprintf(" (at character %d of the statement)", said.Position)
	}
	return fmt.Errorf("a statement of the handler's has failed, which ended its transaction: %w%s; you caught it: return the error, "+
		"or use a savepoint (tx.Begin) around what may fail", s.first, position)
}

// handlerTx is the transaction that a handler gets, or a savepoint in it.
type handlerTx struct {
	txn  *txSession
	tx   pgx.Tx
	root bool
}

var _ pgx.Tx = (*handlerTx)(nil)

// connOf returns the connection of a transaction, for statements of ours.
func connOf(tx pgx.Tx) *pgx.Conn {
	if t, ok := tx.(*handlerTx); ok {
		return t.txn.conn
	}
	return tx.Conn()
}

// Begin makes a savepoint, which the handler ends itself.
func (t *handlerTx) Begin(ctx context.Context) (pgx.Tx, error) {
	if err := t.txn.enter(); err != nil {
		return nil, err
	}
	tx, err := t.tx.Begin(ctx)
	t.txn.leave(err)
	if err != nil {
		return nil, err
	}
	return &handlerTx{txn: t.txn, tx: tx}, nil
}

// Commit releases a savepoint. That of the job's transaction is the worker's.
func (t *handlerTx) Commit(ctx context.Context) error { return t.endSavepoint(ctx, pgx.Tx.Commit) }

// Rollback goes back to a savepoint. That of the job's transaction is the worker's.
func (t *handlerTx) Rollback(ctx context.Context) error { return t.endSavepoint(ctx, pgx.Tx.Rollback) }

func (t *handlerTx) endSavepoint(ctx context.Context, end func(pgx.Tx, context.Context) error) error {
	if t.root {
		t.txn.Fail(errNotYours)
		return errNotYours
	}
	if err := t.txn.enter(); err != nil {
		return err
	}
	err := end(t.tx, ctx)
	t.txn.leave(err)
	return err
}

func (t *handlerTx) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	if err := t.txn.enter(); err != nil {
		return pgconn.CommandTag{}, err
	}
	tag, err := t.tx.Exec(ctx, sql, args...)
	t.txn.leave(err)
	return tag, err
}

func (t *handlerTx) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if err := t.txn.enter(); err != nil {
		return &handlerRows{refused: err}, err
	}
	rows, err := t.tx.Query(ctx, sql, args...)
	t.txn.leave(err)
	return &handlerRows{txn: t.txn, rows: rows}, err
}

func (t *handlerTx) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	rows, _ := t.Query(ctx, sql, args...)
	return handlerRow{rows}
}

func (t *handlerTx) CopyFrom(
	ctx context.Context, table pgx.Identifier, columns []string, source pgx.CopyFromSource,
) (int64, error) {
	if err := t.txn.enter(); err != nil {
		return 0, err
	}
	n, err := t.tx.CopyFrom(ctx, table, columns, source)
	t.txn.leave(err)
	return n, err
}

func (t *handlerTx) SendBatch(ctx context.Context, batch *pgx.Batch) pgx.BatchResults {
	if err := t.txn.enter(); err != nil {
		return pgx.FailedBatchResults(batch, err)
	}
	results := t.tx.SendBatch(ctx, batch)
	t.txn.leave(nil)
	return &handlerBatch{txn: t.txn, results: results}
}

func (t *handlerTx) Prepare(ctx context.Context, name, sql string) (*pgconn.StatementDescription, error) {
	if err := t.txn.enter(); err != nil {
		return nil, err
	}
	description, err := t.tx.Prepare(ctx, name, sql)
	t.txn.leave(err)
	return description, err
}

// LargeObjects returns pgx's own, which uses the connection itself.
func (t *handlerTx) LargeObjects() pgx.LargeObjects {
	t.txn.exposed.Store(true)
	return t.tx.LargeObjects()
}

// Conn returns the connection. It is closed when the job has ended.
func (t *handlerTx) Conn() *pgx.Conn {
	t.txn.exposed.Store(true)
	return t.txn.conn
}
