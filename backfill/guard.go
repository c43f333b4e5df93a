package backfill

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync/atomic"
	"time"
)

// guard calls one function of the user's from a goroutine of ours, such as an Observer. Whatever
// the function does, our goroutine goes on: a panic, runtime.Goexit and a call that takes longer
// than the limit are logged, at most once a minute.
type guard struct {
	what   string        // names the function in the log
	limit  time.Duration // how long to wait for a call
	logger *slog.Logger

	stuck  atomic.Int64 // calls that were given up and have not returned
	logged atomic.Int64 // when a problem was last logged, in nanoseconds since guardsBegan; 0: never
}

// logEvery is how often a problem of one function is logged at most.
const logEvery = time.Minute

// guardsBegan is a time by Go's clock, which nobody sets.
var guardsBegan = time.Now()

// userLimit is how long the worker waits for an Observer or a log handler.
const userLimit = 10 * time.Second

var errStuck = errors.New("an earlier call has not returned yet")

// call runs fn and reports whether it returned. After a call that was given up, further calls fail
// at once until that one has returned: so at most a few goroutines are ever left behind.
func (g *guard) call(fn func()) bool {
	err := g.try(fn)
	if err != nil {
		g.report(err)
	}
	return err == nil
}

func (g *guard) try(fn func()) error {
	if g.stuck.Load() > 0 {
		return errStuck
	}
	done := isolate(fn)
	timeout := time.NewTimer(g.limit)
	defer timeout.Stop()
	select {
	case err := <-done:
		return err
	case <-timeout.C:
	}
	g.stuck.Add(1)
	go func() {
		<-done //nolint:errcheck // the call was reported when it was given up
		g.stuck.Add(-1)
	}()
	return fmt.Errorf("it has not returned after %v", g.limit)
}

// report logs a problem, unless one was logged within the last minute.
func (g *guard) report(err error) {
	last, now := g.logged.Load(), int64(time.Since(guardsBegan))
	if last != 0 && now-last < int64(logEvery) || !g.logged.CompareAndSwap(last, now) {
		return
	}
	attrs := []slog.Attr{slog.String("function", g.what), slog.String("error", errorText(err))}
	if panicked, ok := errors.AsType[*PanicError](err); ok {
		attrs = append(attrs, slog.String("stack", string(panicked.Stack)))
	}
	g.logger.LogAttrs(context.Background(), slog.LevelError,
		"a function of the application failed, and the worker goes on without it", attrs...)
}

// isolate calls fn in a goroutine of its own, because runtime.Goexit ends the goroutine that calls
// it, and sends how fn ended: nil, a *PanicError or errGoexit.
func isolate(fn func()) <-chan error {
	done := make(chan error, 1)
	go func() {
		err := errGoexit
		defer func() { done <- err }()
		defer func() {
			if value := recover(); value != nil {
				err = &PanicError{Value: value, Stack: debug.Stack()}
			}
		}()
		fn()
		err = nil
	}()
	return done
}

// recoverAs turns a panic into an error. It is deferred around functions that run on the caller's
// own goroutine, such as a template of a task that is enqueued; Goexit there is the caller's wish.
func recoverAs(what string, err *error) {
	if value := recover(); value != nil {
		*err = fmt.Errorf("%s: %w", what, &PanicError{Value: value, Stack: debug.Stack()})
	}
}
