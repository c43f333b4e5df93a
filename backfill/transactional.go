package backfill

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/backfillhq/go/internal/pg"
)

// maxTxTimeout is far enough below the 4 hours after which others take a lock for stale: those of
// transactional jobs are not renewed.
const maxTxTimeout = 3*time.Hour + 30*time.Minute

// txRun is one run of a transactional job's handler in its transaction.
type txRun struct {
	tx    *pg.JobTx
	calls atomic.Int32 // of the handler that have not returned
}

// handlerError is what a handler returned in whose transaction nothing may be committed any more.
type handlerError struct{ err error }

func (e *handlerError) Error() string { return e.err.Error() }
func (e *handlerError) Unwrap() error { return e.err }

var (
	errNoTx = errors.New("the context has no transaction: middleware must pass on a context that derives from the one it was given")
	// errNeedsDatabase is for testutil.
	errNeedsDatabase = errors.New("the task is transactional, and there is no database to run it in: test it with a worker on a database of " +
		"package pgtest: client.NewWorker(registry), and its RunOnce")
)

// txHandler is plainHandler for handlers that take a transaction, which pick gets of the job's.
func txHandler[T, Tx any](fn func(context.Context, Tx, T) error, pick func(*pg.JobTx) Tx) HandlerFunc {
	return plainHandler(func(ctx context.Context, args T) error {
		carried, ok := ctx.Value(jobContextKey{}).(*jobContext)
		if !ok || carried.tx == nil {
			return errNoTx
		}
		return fn(ctx, pick(carried.tx.tx), args)
	})
}

// inTx is around the handler of a transactional task, inside the middleware. What a call that fails
// has written must not be committed, whatever middleware makes of its error.
func inTx(handler HandlerFunc) HandlerFunc {
	return func(ctx context.Context, job *Job) error {
		carried, ok := ctx.Value(jobContextKey{}).(*jobContext)
		if !ok || carried.tx == nil {
			return errNoTx
		}
		run := carried.tx
		if failed := run.tx.Failed(); failed != nil {
			return fmt.Errorf("an earlier call of the handler has failed, and with it their transaction: %w", failed)
		}
		run.calls.Add(1)
		defer run.calls.Add(-1)
		err := errGoexit // unless it returns
		defer func() {
			if err != nil && verdictOf(ctx, err, carried.left).Kind != VerdictCompleted {
				run.tx.Fail(&handlerError{err})
			}
		}()
		err = handler(ctx, job)
		return err
	}
}

// setIsolation checks what only transactional tasks need and may have.
func (h *handler) setIsolation(isolation Isolation) {
	levels := []Isolation{ReadCommitted, RepeatableRead, Serializable}
	switch {
	case !h.transactional && isolation != "":
		h.fault(fmt.Errorf("isolation %q is for transactional tasks: leave it out, or let the handler take a pgx.Tx or a *sql.Tx", isolation))
	case !h.transactional:
	case isolation != "" && !slices.Contains(levels, isolation):
		h.fault(fmt.Errorf("unknown isolation %s: want %q, %q or %q", shortQuote(string(isolation)), ReadCommitted, RepeatableRead, Serializable))
	case h.timeout == 0:
		h.fault(fmt.Errorf("its handler takes a transaction, so it needs a timeout: set Timeout to %v at most", maxTxTimeout))
	case h.timeout > maxTxTimeout:
		h.fault(fmt.Errorf("timeout %v is too long for a handler that takes a transaction: want %v at most", h.timeout, maxTxTimeout))
	}
	if h.isolation = isolation; isolation == "" {
		h.isolation = ReadCommitted
	}
}

// needsSQLDB returns an error if a client without a *sql.DB cannot run the registry.
func (r *Registry) needsSQLDB() error {
	var names []string
	for _, h := range r.handlers {
		if h.onSQL {
			names = append(names, shortQuote(h.name))
		}
	}
	if names == nil {
		return nil
	}
	slices.Sort(names)
	return fmt.Errorf("the handlers of %s take a *sql.Tx, and the client has no *sql.DB to begin one in: "+
		"pass backfill.WithSQLDB(db) to Open, NewClient or Run", strings.Join(names, ", "))
}

// transactional returns the names of transactional tasks, aliases included, in alphabetical order.
func (r *Registry) transactional() (names []string) {
	for name, h := range r.names {
		if h.transactional {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
