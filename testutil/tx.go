package testutil

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/backfillhq/go/backfill"
)

var _ backfill.Transactor = (*Recorder)(nil)

// InTx implements [backfill.Transactor], for code that calls [backfill.InTx]. It calls fn with an
// Enqueuer in its context, as a client does. If fn returns an error or panics, ctx has ended, or an
// enqueue in the transaction has failed, what fn has enqueued is forgotten.
//
// There is no database: every method of the tx that fn gets returns an error, or something that
// does. Test functions that use it with package pgtest.
func (r *Recorder) InTx(ctx context.Context, fn func(ctx context.Context, tx pgx.Tx) error) error {
	switch {
	case r == nil || ctx == nil:
		return new(backfill.Client).InTx(ctx, fn)
	case fn == nil:
		return invalidError{errors.New("in transaction: the function is nil")}
	case ctx.Err() != nil:
		return fmt.Errorf("begin: the jobs were not enqueued: get a connection: %w", ended(ctx))
	}
	tx := noTx{transaction: &transaction{}, recorder: r}
	defer func() { _ = r.finish(tx.transaction, false) }() // when fn fails or panics
	if err := fn(backfill.NewContext(ctx, r.WithTx(tx)), tx); err != nil {
		return err
	}
	err := ended(ctx)
	if err == nil {
		err = r.finish(tx.transaction, true)
	}
	if err != nil {
		return fmt.Errorf("commit: the jobs were not enqueued: %w", err)
	}
	return nil
}

// ended returns why ctx has ended, as a client says it; nil if it has not.
func ended(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if err == nil || errors.Is(err, cause) {
		return err
	}
	return fmt.Errorf("%w: %w", cause, err)
}

// invalidError is a backfill.ErrInvalidRequest with the text of a client's.
type invalidError struct{ error }

func (invalidError) Is(target error) bool { return target == backfill.ErrInvalidRequest }

// transaction is one call of InTx. The Recorder's lock guards it.
type transaction struct {
	changes []change
	aborted bool // an enqueue has failed
	ended   bool
}

var errAborted = errors.New("the transaction is aborted, because an enqueue in it has failed")

// check returns why an enqueue fails. If that is failure, what the test wants, all others in the
// transaction fail as well.
func (t *transaction) check(failure error) error {
	switch {
	case t.ended:
		return pgx.ErrTxClosed
	case t.aborted:
		return errAborted
	}
	t.aborted = failure != nil
	return failure
}

// finish ends a transaction. Without commit, or if it is aborted, what it has recorded is
// forgotten.
func (r *Recorder) finish(t *transaction, commit bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t.ended {
		return pgx.ErrTxClosed
	}
	t.ended = true
	if commit && !t.aborted {
		return nil
	}
	r.recorded = slices.DeleteFunc(r.recorded, func(recorded recording) bool { return recorded.transaction == t })
	r.table.rollBack(t.changes)
	return pgx.ErrTxCommitRollback
}

var errNoDatabase = errors.New("testutil: a Recorder has no database: test what uses the transaction with package pgtest")

// noTx is a transaction that can do nothing. It embeds the interface, as do its results, so that it
// stays one when pgx adds a method.
type noTx struct {
	pgx.Tx

	transaction *transaction
	recorder    *Recorder
}

func (t noTx) Commit(ctx context.Context) error { return t.Rollback(ctx) }

// Rollback ends the transaction, so that InTx does not commit what a client could not.
func (t noTx) Rollback(context.Context) error {
	_ = t.recorder.finish(t.transaction, false)
	return errNoDatabase
}

func (noTx) Begin(context.Context) (pgx.Tx, error) { return nil, errNoDatabase }
func (noTx) Conn() *pgx.Conn                       { return nil }
func (noTx) LargeObjects() pgx.LargeObjects        { return pgx.LargeObjects{} }

func (noTx) CopyFrom(context.Context, pgx.Identifier, []string, pgx.CopyFromSource) (int64, error) {
	return 0, errNoDatabase
}

func (noTx) SendBatch(context.Context, *pgx.Batch) pgx.BatchResults { return noResults{} }

func (noTx) Prepare(context.Context, string, string) (*pgconn.StatementDescription, error) {
	return nil, errNoDatabase
}

func (noTx) Exec(context.Context, string, ...any) (pgconn.CommandTag, error) {
	return pgconn.CommandTag{}, errNoDatabase
}

func (noTx) Query(context.Context, string, ...any) (pgx.Rows, error) {
	return noResult{}, errNoDatabase
}
func (noTx) QueryRow(context.Context, string, ...any) pgx.Row { return noResult{} }

// noResult is the rows of a query that failed.
type noResult struct{ pgx.Rows }

func (noResult) Close()                                       {}
func (noResult) Err() error                                   { return errNoDatabase }
func (noResult) CommandTag() pgconn.CommandTag                { return pgconn.CommandTag{} }
func (noResult) FieldDescriptions() []pgconn.FieldDescription { return nil }
func (noResult) Next() bool                                   { return false }
func (noResult) Scan(...any) error                            { return errNoDatabase }
func (noResult) Values() ([]any, error)                       { return nil, errNoDatabase }
func (noResult) RawValues() [][]byte                          { return nil }
func (noResult) Conn() *pgx.Conn                              { return nil }

// noResults is the results of a batch that failed.
type noResults struct{ pgx.BatchResults }

func (noResults) Exec() (pgconn.CommandTag, error) { return pgconn.CommandTag{}, errNoDatabase }
func (noResults) Query() (pgx.Rows, error)         { return noResult{}, errNoDatabase }
func (noResults) QueryRow() pgx.Row                { return noResult{} }
func (noResults) Close() error                     { return errNoDatabase }
