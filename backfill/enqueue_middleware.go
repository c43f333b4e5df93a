package backfill

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/wire"
)

// EnqueueFunc enqueues jobs, like the method Enqueue of an [Enqueuer].
type EnqueueFunc func(ctx context.Context, requests []Request) ([]*Job, error)

// EnqueueMiddleware wraps the function that enqueues, for [WithEnqueueMiddleware]. It is called
// for each enqueue of at least one request, from many goroutines, so it keeps state in variables
// outside of it.
//
// The function that it returns may change the requests before it calls next. The slice is a copy
// of the caller's, but shares the bytes of Args: replace Args, and do not write into it. next
// checks the requests, so invalid ones are seen here first. Return one job for each request.
//
// A panic becomes an error. If the middleware returns an error, or panics, after a call of next
// that has enqueued jobs, or may have, that is an [ErrOutcomeUnknown], and no other kind of error:
// jobs may exist, or will once the transaction commits.
type EnqueueMiddleware func(next EnqueueFunc) EnqueueFunc

// WithEnqueueMiddleware calls middleware around every enqueue through the client: directly, by
// WithTx, WithSQLTx and [InTx], in handlers, and by generated code. The first is the outermost. The
// option can be given several times. Jobs of cron schedules do not pass through it, because the
// database enqueues them. Default: none.
func WithEnqueueMiddleware(middleware ...EnqueueMiddleware) ClientOption {
	middleware = slices.Clone(middleware)
	return clientOption(func(c *clientConfig) {
		for i, m := range middleware {
			if m == nil {
				c.require(false, "WithEnqueueMiddleware: argument %d is nil: leave it out", i+1)
				continue
			}
			_, err := wrapEnqueue(m, func(context.Context, []Request) ([]*Job, error) { return nil, nil })
			c.check(fmt.Sprintf("WithEnqueueMiddleware: argument %d", i+1), err)
		}
		c.middleware = append(c.middleware, middleware...)
	})
}

func wrapEnqueue(middleware EnqueueMiddleware, next EnqueueFunc) (wrapped EnqueueFunc, err error) {
	defer recoverAs("wrap an enqueue", &err)
	if wrapped = middleware(next); wrapped == nil {
		return nil, errors.New("it returned nil: return an EnqueueFunc that calls next")
	}
	return wrapped, nil
}

// inserter inserts jobs, directly or in a transaction.
type inserter interface {
	insertSpecs(ctx context.Context, specs []wire.Spec) ([]*wire.Job, error)
}

// enqueue enqueues requests, through the middleware. All ways to enqueue lead here.
func (c *Client) enqueue(ctx context.Context, requests []Request, to inserter) ([]*Job, error) {
	usable := c.usable(ctx)
	if len(requests) == 0 {
		return nil, usable
	}
	if usable != nil || len(c.middleware) == 0 {
		return c.insertRequests(ctx, requests, to)
	}
	var sent atomic.Bool // jobs may exist
	jobs, err := c.callMiddleware(ctx, slices.Clone(requests), func(ctx context.Context, requests []Request) ([]*Job, error) {
		if len(requests) == 0 {
			return nil, nil
		}
		jobs, err := c.insertRequests(ctx, requests, to)
		if err == nil || errors.Is(err, ErrOutcomeUnknown) {
			sent.Store(true)
		}
		return jobs, err
	})
	switch {
	case err != nil:
	case len(jobs) != len(requests):
		err = fmt.Errorf("enqueue middleware: it returned %d jobs for %d requests", len(jobs), len(requests))
	case slices.Contains(jobs, nil):
		err = errors.New("enqueue middleware: it returned a job that is nil")
	default:
		return jobs, nil
	}
	if sent.Load() && !errors.Is(err, ErrOutcomeUnknown) {
		err = &sentError{err}
	}
	return nil, err
}

// sentError is an error after which jobs may exist, whatever kind of error it was before.
type sentError struct{ err error }

func (e *sentError) Error() string {
	return "jobs were enqueued, or may have been, before this error: " + e.err.Error()
}

func (e *sentError) As(target any) bool { return errors.As(e.err, target) }

func (e *sentError) Is(target error) bool {
	switch target {
	case ErrOutcomeUnknown:
		return true
	case ErrInvalidRequest, ErrRejected, ErrClosed, ErrNoClient:
		return false // they say that nothing was sent, or enqueued
	}
	return errors.Is(e.err, target)
}

func (c *Client) callMiddleware(ctx context.Context, requests []Request, next EnqueueFunc) (jobs []*Job, err error) {
	defer recoverAs("enqueue middleware", &err)
	for _, m := range slices.Backward(c.middleware) {
		if next, err = wrapEnqueue(m, next); err != nil {
			return nil, fmt.Errorf("enqueue middleware: %w", err)
		}
	}
	return next(ctx, requests)
}

// insertRequests checks requests, inserts them, and converts the result.
func (c *Client) insertRequests(ctx context.Context, requests []Request, to inserter) ([]*Job, error) {
	specs, err := newSpecs(requests)
	if err != nil {
		return nil, err
	}
	var inserted []*wire.Job
	if err = c.usable(ctx); err == nil {
		inserted, err = to.insertSpecs(ctx, specs)
	}
	if err != nil {
		return nil, fmt.Errorf("enqueue: %w", pg.ExplainPooler(err))
	}
	jobs := make([]*Job, len(inserted))
	keyed := make(map[*wire.Job]*Job) // requests with the same key get the same *Job
	for i, job := range inserted {
		if jobs[i] = keyed[job]; jobs[i] != nil {
			continue
		}
		jobs[i] = newJob(job)
		if job.Key != "" {
			keyed[job] = jobs[i]
		}
	}
	return jobs, nil
}
