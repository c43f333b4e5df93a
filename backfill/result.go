package backfill

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// ResultShape is satisfied by the functions that can handle args of type T and return a result of
// type R. See [HandlerShape] for transactions.
type ResultShape[T, R any] interface {
	func(context.Context, T) (R, error) |
		func(context.Context, pgx.Tx, T) (R, error) |
		func(context.Context, *sql.Tx, T) (R, error)
}

// ResultHandler is a handler whose result is kept as the job's output: see [Returning].
type ResultHandler[T any] struct {
	_ [0]func()

	plain func(context.Context, T) error
	pgx   func(context.Context, pgx.Tx, T) error
	sql   func(context.Context, *sql.Tx, T) error
}

// Returning makes a handler for [Handle] of a function that returns a result: Handle(TaskExport,
// Returning[ExportArgs, ExportResult](Export)). Where the function returns no error, its result is
// kept as by [Output], so that [Await] returns it. The task needs a History, or the worker
// [WithHistory]: NewWorker says so.
func Returning[T, R any, F ResultShape[T, R]](fn F) ResultHandler[T] {
	var h ResultHandler[T]
	switch fn := any(fn).(type) {
	case func(context.Context, T) (R, error):
		if fn != nil {
			h.plain = func(ctx context.Context, args T) error {
				result, err := fn(ctx, args)
				return keepResult(ctx, result, err)
			}
		}
	case func(context.Context, pgx.Tx, T) (R, error):
		if fn != nil {
			h.pgx = func(ctx context.Context, tx pgx.Tx, args T) error {
				result, err := fn(ctx, tx, args)
				return keepResult(ctx, result, err)
			}
		}
	case func(context.Context, *sql.Tx, T) (R, error):
		if fn != nil {
			h.sql = func(ctx context.Context, tx *sql.Tx, args T) error {
				result, err := fn(ctx, tx, args)
				return keepResult(ctx, result, err)
			}
		}
	}
	return h
}

func keepResult(ctx context.Context, result any, err error) error {
	if err != nil {
		return err
	}
	return Output(ctx, result)
}

// needsHistory returns an error for tasks whose handlers return results of which nothing is kept.
func (r *Registry) needsHistory(histories map[string]time.Duration) error {
	if r == nil {
		return nil
	}
	var errs []error
	for _, h := range r.handlers {
		if h.returns && histories[h.name] == 0 {
			errs = append(errs, fmt.Errorf("task %s: its handler returns a result, which is kept with the history: "+
				"set History in its descriptor (history= in its directive), or give the worker WithHistory", shortQuote(h.name)))
		}
	}
	return errors.Join(errs...)
}
