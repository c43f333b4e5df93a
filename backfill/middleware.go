package backfill

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/backfillhq/go/internal/wire"
)

// HandlerFunc runs a job. Its error decides how the job ends, like the error of a handler.
type HandlerFunc func(ctx context.Context, job *Job) error

// Middleware wraps the function that runs jobs. [Client.NewWorker] calls it once for each task; if
// it panics or returns nil, NewWorker returns an error. The function that it returns is called for
// each job, from many goroutines, inside the task's timeout.
//
// The innermost HandlerFunc decodes job.Args and calls the task's handler. If that panics, it
// returns a *[PanicError]. A panic in the middleware itself counts as a failure of the job, too.
//
// Middleware may change the job before it calls next, Args included. The error that it returns
// decides how the job ends: return what next has returned, or wrap it with %w. With %v or %s a
// [Snooze] becomes a failure and a [Permanent] is retried: the worker logs a warning when it sees
// that. [VerdictOf] says what an error decides.
//
// [WithMiddleware] is for all tasks of a worker, [Registry.Use] for some.
type Middleware func(next HandlerFunc) HandlerFunc

// around wraps the function of a handler: its own middleware, and that of the worker around it.
func (h *handler) around(run HandlerFunc, middleware []Middleware) (HandlerFunc, error) {
	if len(h.middleware)+len(middleware) > 0 {
		run = noteError(run)
	}
	run, err := chain(run, h.middleware)
	if err != nil {
		return nil, fmt.Errorf("Registry.Use for task %s: %w", shortQuote(h.name), err)
	}
	if run, err = chain(run, middleware); err != nil {
		return nil, fmt.Errorf("WithMiddleware: %w", err)
	}
	return run, nil
}

// noteError keeps the handler's own error, for warnOfHidden. It is what middleware calls.
func noteError(next HandlerFunc) HandlerFunc {
	return func(ctx context.Context, job *Job) error {
		if ctx == nil || job == nil {
			return errors.New("middleware called next without a context or a job: pass on what it was given")
		}
		err := next(ctx, job)
		if carried, ok := ctx.Value(jobContextKey{}).(*jobContext); ok && err != nil {
			carried.said.Store(&err)
		}
		return err
	}
}

// warnOfHidden logs that middleware has hidden what the handler's error decides: the error that
// counts has its text, as with %v, and decides nothing. Said is nil if there was no error.
func (x *executor) warnOfHidden(ctx context.Context, job *wire.Job, said *error, returned error) {
	if said == nil || returned == nil {
		return
	}
	text, ok := message(*said)
	whole, alsoOK := message(returned)
	if !ok || !alsoOK || !strings.Contains(whole, text) {
		return // an error of its own, which may be what it is for
	}
	defer func() { _ = recover() }() // a method of an error panicked
	was, is := verdictOf(ctx, *said, attempts{}), verdictOf(ctx, returned, attempts{})
	var batch *BatchError
	hidden := was.Kind != VerdictRetry && is.Kind == VerdictRetry || errors.As(*said, &batch) && !errors.As(returned, &batch)
	if hidden {
		x.hidden.Failure(x.logger, returned, slog.String("task", job.Task), slog.Int64("job_id", job.ID), slog.Int("attempt", job.Attempt),
			slog.String("decides", string(was.Kind)))
	}
}

// chain wraps handler; the first middleware becomes the outermost.
func chain(handler HandlerFunc, middleware []Middleware) (HandlerFunc, error) {
	for i, m := range slices.Backward(middleware) {
		wrapped, err := wrap(m, handler)
		if err != nil {
			return nil, fmt.Errorf("argument %d: %w", i+1, err)
		}
		handler = wrapped
	}
	return handler, nil
}

func wrap(middleware Middleware, next HandlerFunc) (wrapped HandlerFunc, err error) {
	defer recoverAs("wrap a handler", &err)
	if wrapped = middleware(next); wrapped == nil {
		return nil, errors.New("it returned nil: return a HandlerFunc that calls next")
	}
	return wrapped, nil
}

// Use returns a registry in which middleware is called around the tasks of these names; without
// names, around every task of r, which can be that of one package:
//
//	registry := backfill.MergeRegistries(
//		mail.NewRegistry(handlers).Use(limitRate, mail.TaskSendTip.Name),
//		billing.NewRegistry(gateway).Use(audit),
//	)
//
// It is called inside the middleware of [WithMiddleware]; of several calls of Use, the first one's
// is the outermost. An alias or an unknown name is a start-up error.
func (r *Registry) Use(middleware Middleware, names ...string) *Registry {
	if r == nil {
		return nil
	}
	used := &Registry{handlers: slices.Clone(r.handlers), faults: slices.Clone(r.faults)}
	if middleware == nil {
		used.fault(errors.New("Use: the middleware is nil: leave the call out"))
	}
	for _, name := range names {
		if _, err := r.task("Use", name); err != nil {
			used.fault(err)
		}
	}
	changed := map[*handler]*handler{} // a handler can be in a registry twice
	for i, h := range used.handlers {
		if middleware == nil || len(names) > 0 && !slices.Contains(names, h.name) {
			continue
		}
		if changed[h] == nil {
			with := *h
			with.middleware = append(slices.Clone(h.middleware), middleware)
			changed[h] = &with
		}
		used.handlers[i] = changed[h]
	}
	used.claimNames()
	return used
}
