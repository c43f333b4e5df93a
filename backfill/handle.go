package backfill

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/trouble"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// HandlerShape is satisfied by the functions that can handle args of type T. One that takes a
// transaction makes a transactional task: what it writes through the transaction, what it enqueues,
// and the completion of its job commit together, or not at all. The transaction is pgx's, or one of
// database/sql, and of the libraries on it. What [Returning] makes is for functions that return a
// result.
type HandlerShape[T any] interface {
	func(context.Context, T) error |
		func(context.Context, pgx.Tx, T) error |
		func(context.Context, *sql.Tx, T) error |
		ResultHandler[T]
}

// HandleOption configures how a worker runs a task: [BackoffFunc] or [Cron].
type HandleOption interface{ applyToHandler(h *handler) }

// Handle binds a task to its handler, a function or a method value. The types must match, so code
// that was generated for an older signature does not compile. A handler that takes a *sql.Tx needs
// a client with [WithSQLDB].
func Handle[T any, F HandlerShape[T]](t *Task[T], fn F, opts ...HandleOption) Binding {
	if t == nil {
		return Binding{problem: &problem{err: errors.New("the *Task of a Handle is nil: pass the task's descriptor")}}
	}
	h := &handler{name: t.Name, where: callerOf(2), aliases: slices.Clone(t.Aliases), timeout: t.Timeout, backoff: t.Backoff, history: t.History}
	h.guard = &guard{limit: userLimit}
	h.misbehaved = &trouble.Log{Failing: "backoff function misbehaved, and the task's backoff is used", Level: slog.LevelWarn}
	h.faults = checkTask(t)
	var bound ResultHandler[T]
	switch fn := any(fn).(type) {
	case func(context.Context, T) error:
		bound.plain = fn
	case func(context.Context, pgx.Tx, T) error:
		bound.pgx = fn
	case func(context.Context, *sql.Tx, T) error:
		bound.sql = fn
	case ResultHandler[T]:
		bound, h.returns = fn, true
	}
	switch {
	case bound.plain != nil:
		h.run = plainHandler(bound.plain)
	case bound.pgx != nil:
		h.run, h.transactional = txHandler(bound.pgx, func(tx *pg.JobTx) pgx.Tx { return tx.Pgx }), true
	case bound.sql != nil:
		h.run, h.transactional, h.onSQL = txHandler(bound.sql, func(tx *pg.JobTx) *sql.Tx { return tx.SQL }), true, true
	default:
		h.fault(errors.New("its handler is nil: pass a function to Handle"))
	}
	h.setIsolation(t.Isolation)
	apply(opts, func(o HandleOption) { o.applyToHandler(h) })
	applyTask(h, t)
	return Binding{handler: h}
}

func plainHandler[T any](fn func(context.Context, T) error) HandlerFunc {
	var noArgs T
	if _, ok := any(noArgs).(NoArgs); ok {
		return func(ctx context.Context, _ *Job) error { return fn(ctx, noArgs) }
	}
	return func(ctx context.Context, job *Job) error {
		args, err := decodeArgs[T](job)
		if err != nil {
			return err
		}
		return fn(ctx, args)
	}
}

// BackoffFunc calls fn to compute how long a failed job waits for its next attempt. Attempt is the
// number of the attempt that failed, from 1, and err is its error. If fn panics, returns a negative
// time, or has not returned after 10 seconds, the task's [Backoff] is used for that attempt, and a
// warning is logged. Default: the task's Backoff.
func BackoffFunc(fn func(attempt int, err error) time.Duration) HandleOption {
	return backoffFuncOption(fn)
}

type backoffFuncOption func(attempt int, err error) time.Duration

func (o backoffFuncOption) applyToHandler(h *handler) {
	if o == nil {
		h.fault(errors.New("its BackoffFunc is nil: pass a function, or leave the option out"))
	}
	h.backoffFunc = o
}

// handler is a task that is bound, with its type erased.
type handler struct {
	name          string
	aliases       []string
	timeout       time.Duration // 0: none
	history       time.Duration // how long attempts are kept; 0: as the worker says
	isolation     Isolation     // of a transactional task
	transactional bool
	onSQL         bool // its transaction is of database/sql
	returns       bool // a result, which is kept
	backoff       Backoff
	backoffFunc   func(attempt int, err error) time.Duration // nil: backoff
	guard         *guard                                     // of backoffFunc
	misbehaved    *trouble.Log
	run           HandlerFunc  // decodes the args and calls the handler
	middleware    []Middleware // of Registry.Use: inside that of the worker
	crontab       []worker.CronEntry
	faults        []error
	where         string // the caller of Handle: package (file:line)
}

// callerOf names the place that called the function skip frames up.
func callerOf(skip int) string {
	programs := make([]uintptr, 1)
	if runtime.Callers(skip+1, programs) == 0 {
		return "an unknown place"
	}
	frame, _ := runtime.CallersFrames(programs).Next()
	pkg := frame.Function // path/of/package.Func, or path/of/package.(*Type).Method
	slash := strings.LastIndexByte(pkg, '/') + 1
	if dot := strings.IndexByte(pkg[slash:], '.'); dot >= 0 {
		pkg = pkg[:slash+dot]
	}
	return fmt.Sprintf("%s (%s:%d)", pkg, filepath.Base(frame.File), frame.Line)
}

func (h *handler) fault(err error) {
	h.faults = append(h.faults, fmt.Errorf("task %s: %w", shortQuote(h.name), err))
}

// delay is the time until the next attempt of a job whose attempt failed with err.
func (h *handler) delay(logger *slog.Logger, job *wire.Job, err error, random float64) time.Duration {
	if h.backoffFunc == nil {
		return h.backoff.delay(job.Attempt, random)
	}
	delay, problem := h.callBackoffFunc(job.Attempt, err)
	if problem == "" {
		return delay
	}
	fallback := h.backoff.delay(job.Attempt, random)
	h.misbehaved.Failure(logger, errors.New(problem), slog.String("task", h.name), slog.Int64("job_id", job.ID),
		slog.Int("attempt", job.Attempt), slog.Duration("retry_in", fallback))
	return fallback
}

func (h *handler) callBackoffFunc(attempt int, err error) (delay time.Duration, problem string) {
	var said time.Duration // not a result, which a call that was given up would write to later
	if failed := h.guard.try(func() { said = h.backoffFunc(attempt, err) }); failed != nil {
		return 0, errorText(failed)
	}
	if said < 0 {
		return 0, fmt.Sprintf("negative delay: %v", said)
	}
	return said, ""
}

// checkTask reports what is wrong with the values of a descriptor.
func checkTask[T any](t *Task[T]) []error {
	h := &handler{name: t.Name}
	check := func(err error) {
		if err != nil {
			h.fault(err)
		}
	}
	check(checkName("name", t.Name))
	for _, alias := range t.Aliases {
		check(checkName("alias", alias))
	}
	check(t.KeyMode.problem())
	check(checkMaxAttempts(t.MaxAttempts))
	check(checkFlags(t.Flags))
	if t.Delay < 0 {
		check(fmt.Errorf("delay %v is negative: want 0 or more", t.Delay))
	}
	if t.Timeout < 0 {
		check(fmt.Errorf("timeout %v is negative: want 0, for none, or more", t.Timeout))
	}
	check(t.Backoff.problem())
	if t.History != 0 {
		check(checkHistory(t.History))
	}
	return h.faults
}
