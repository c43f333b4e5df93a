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
// Enqueuer in its context, as a client does. If fn returns an error or panics, or ctx has ended,
// what it has enqueued is forgotten.
//
// There is no database: every method of the tx that fn gets returns an error, or something that
// does. Test functions that use it with package pgtest.
func (r *Recorder) InTx(ctx context.Context, fn func(ctx context.Context, tx pgx.Tx) error) error {
	switch {
	case ctx == nil:
		return errors.New("the context is nil: pass context.Background()")
	case fn == nil:
		return errors.New("in transaction: the function is nil")
	case ctx.Err() != nil:
		return fmt.Errorf("begin: %w", ctx.Err())
	}
	j := &journal{}
	committed := false
	defer func() {
		if !committed {
			r.rollBack(j)
		}
	}()
	if err := fn(backfill.NewContext(ctx, txRecorder{r, new(backfill.Client).WithTx(noTx{}), j}), noTx{}); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	committed = true
	return nil
}

// journal is what one transaction of InTx has changed.
type journal struct {
	inserts []undo
}

// rollBack forgets what a transaction has recorded.
func (r *Recorder) rollBack(j *journal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.recorded = slices.DeleteFunc(r.recorded, func(recorded recording) bool { return recorded.journal == j })
	r.table.rollBack(j.inserts)
}

var errNoDatabase = errors.New("testutil: a Recorder has no database: test what uses the transaction with package pgtest")

// noTx is a transaction that can do nothing. It embeds the interface, as do its results, so that it
// stays one when pgx adds a method.
type noTx struct{ pgx.Tx }

func (noTx) Begin(context.Context) (pgx.Tx, error) { return nil, errNoDatabase }
func (noTx) Commit(context.Context) error          { return errNoDatabase }
func (noTx) Rollback(context.Context) error        { return errNoDatabase }
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
