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

// Context is the context of one insert. It ends when its caller's ends, by End, by Leave, or when a
// step takes longer than Timeout and the caller's context has no deadline.
//
// It takes the place of context.WithCancelCause and a timer, and costs less. What waits selects on
// Done, as with any context. A statement is interrupted by a Handler instead: Watch has it called,
// and pgx does not watch what Statements returns. With the contexts of the standard library an
// enqueue took a tenth more of the client's CPU.
type Context struct {
	context.Context //nolint:containedctx // it is one, and this is its caller's

	done  chan struct{}
	leave func() bool // stops the wait for the caller's context; nil: there is none

	limits *Limits      // nil: the caller has a deadline
	step   atomic.Int64 // when the last one began, in nanoseconds after processBegan

	mu    sync.Mutex
	cause error

	watching sync.Mutex // held while the handler is called, which may ask for Err
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
	if _, ok := caller.Deadline(); !ok || caller.Done() == nil {
		c.limits = limits
		c.Step()
		limits.add(c)
	}
}

func (c *Context) endWithCaller() { c.End(context.Cause(c.Context)) }

// Leave ends the wait for the end of the caller's context, the limit, and c: a function of the
// application's pool may have kept it. Call Unwatch first.
func (c *Context) Leave() {
	if c.leave != nil {
		c.leave()
	}
	if c.limits != nil {
		c.limits.remove(c)
	}
	c.End(context.Canceled)
}

// Step begins the next step.
func (c *Context) Step() {
	if c.limits != nil {
		c.step.Store(sinceBegin())
	}
}

// End ends the context, unless it has ended, and interrupts the statement under way.
func (c *Context) End(cause error) {
	if !c.end(cause) {
		return
	}
	c.watching.Lock()
	defer c.watching.Unlock()
	if c.handler != nil {
		c.canceled = true
		c.handler.HandleCancel(c)
	}
}

func (c *Context) end(cause error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause != nil {
		return false
	}
	c.cause = cause
	close(c.done)
	return true
}

// Watch has the statements that follow interrupted by h when the context ends. It returns why the
// context has ended, if it has: then send nothing.
func (c *Context) Watch(h Handler) error {
	c.watching.Lock()
	defer c.watching.Unlock()
	cause := c.Cause()
	if cause == nil {
		c.handler = h // an End from here on waits for the lock
	}
	return cause
}

// Unwatch ends what Watch began. After it, the handler is not called any more.
func (c *Context) Unwatch() {
	c.watching.Lock()
	h, canceled := c.handler, c.canceled
	c.handler = nil
	c.watching.Unlock()
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

// Statements returns the context to send statements with: one that pgx does not watch, between Watch
// and Unwatch. It is for the goroutine that calls these.
func (c *Context) Statements() context.Context {
	if c.handler == nil {
		return c
	}
	return unwatched{c}
}

// unwatched is a Context that seems never to end, until it has.
type unwatched struct{ *Context }

func (unwatched) Done() <-chan struct{} { return nil }
