package enqueue

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// Timeout is how long a step of an insert may take, if its caller's context has no deadline: the
// wait for a connection, and each statement.
const Timeout = 10 * time.Second

// noAnswerError is the end of a step that took too long. It is a context.DeadlineExceeded.
type noAnswerError struct{}

func (noAnswerError) Error() string {
	return fmt.Sprintf("the database did not answer within %v", Timeout)
}

func (noAnswerError) Is(target error) bool { return target == context.DeadlineExceeded }

// ErrNoAnswer is the cause of a context whose step took longer than Timeout.
var ErrNoAnswer error = noAnswerError{}

// Context is the context of one insert. It ends when its caller's ends, by End, or when a step
// takes longer than Timeout and the caller's context has no deadline.
//
// It takes the place of context.WithCancelCause and a timer, and costs less. What waits selects on
// Done, as with any context. A statement is interrupted by a Handler instead: pass pgx what
// Unwatched returns, and pgx does not watch the context for each statement. With the contexts of
// the standard library an enqueue took a tenth more of the client's CPU.
type Context struct {
	context.Context //nolint:containedctx // it is one, and this is its caller's

	done  chan struct{}
	leave func() bool // stops the wait for the caller's context; nil: there is none

	limits *Limits      // nil: the caller has a deadline
	step   atomic.Int64 // when the last one began, in nanoseconds after processBegan

	mu       sync.Mutex
	cause    error
	handler  Handler
	canceled bool // the handler was called
}

// Handler interrupts the statement under way on a connection, and makes the connection usable
// again if the statement had ended before. It is pgx's ctxwatch.Handler.
type Handler interface {
	HandleCancel(canceled context.Context)
	HandleUnwatchAfterCancel()
}

func (c *Context) enter(caller context.Context, limits *Limits) {
	c.Context = caller
	switch {
	case caller.Err() != nil:
		c.endWithCaller()
		return
	case caller.Done() != nil:
		c.leave = context.AfterFunc(caller, c.endWithCaller)
	}
	if _, ok := caller.Deadline(); !ok {
		c.limits = limits
		c.Step()
		limits.add(c)
	}
}

func (c *Context) endWithCaller() { c.End(context.Cause(c.Context)) }

// Leave ends the wait for the end of the caller's context, and the limit. It does not end c.
func (c *Context) Leave() {
	if c.leave != nil {
		c.leave()
	}
	if c.limits != nil {
		c.limits.remove(c)
	}
}

// Step begins the next step.
func (c *Context) Step() {
	if c.limits != nil {
		c.step.Store(sinceBegin())
	}
}

// End ends the context, unless it has ended, and interrupts the statement under way.
func (c *Context) End(cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause != nil {
		return
	}
	c.cause = cause
	close(c.done)
	if c.handler != nil {
		c.canceled = true
		c.handler.HandleCancel(c.Unwatched())
	}
}

// Watch has the statements that follow interrupted by h when the context ends. It returns why the
// context has ended, if it has: then send nothing.
func (c *Context) Watch(h Handler) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause == nil {
		c.handler = h
	}
	return c.cause
}

// Unwatch ends what Watch began. After it, the handler is not called any more.
func (c *Context) Unwatch() {
	c.mu.Lock()
	h, canceled := c.handler, c.canceled
	c.handler = nil
	c.mu.Unlock()
	if h != nil && canceled {
		h.HandleUnwatchAfterCancel()
	}
}

// Done implements context.Context.
func (c *Context) Done() <-chan struct{} { return c.done }

// Err implements context.Context.
func (c *Context) Err() error {
	if c.Cause() == nil {
		return nil
	}
	if err := c.Context.Err(); err != nil {
		return err
	}
	return context.Canceled
}

// Cause returns why the context has ended; nil if it has not. It takes the place of context.Cause,
// which knows the causes of the standard library's contexts only.
func (c *Context) Cause() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cause
}

// Unwatched returns c for statements that Watch's handler interrupts.
func (c *Context) Unwatched() context.Context { return unwatched{c} }

// unwatched is a Context that seems never to end, until it has.
type unwatched struct{ *Context }

func (unwatched) Done() <-chan struct{} { return nil }
