package backfill

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// What tests of package backfill_test reach inside for: the seams between this package and the
// engine.
var (
	NewSpecs       = newSpecs
	NewEvent       = newEvent
	NewHealth      = newHealth
	ErrorText      = errorText
	CronTickOf     = cronTick
	GraphileDelays = graphileDelays
)

// Hurry makes heartbeats, and what follows from them, this many times as fast.
func Hurry(times int) WorkerOption {
	return workerOption(func(c *workerConfig) { c.hurry = times })
}

const (
	MaxArgsBytes = maxArgsBytes
	MaxErrorText = maxErrorText
)

func Problems(r *Registry) error { return r.problems() }

func Claimed(r *Registry) []string { return r.claimed() }

func DelayAt(b Backoff, attempt int, random float64) time.Duration { return b.delay(attempt, random) }

func DecodeArgs[T any](task string, args []byte) (T, error) {
	return decodeArgs[T](&Job{Task: task, Args: args})
}

// DecodePath decodes args into a T and returns the path of the value that does not decode; "" if
// all do.
func DecodePath[T any](args []byte) string {
	_, err := DecodeArgs[T]("t", args)
	if err == nil {
		return ""
	}
	var decoding *DecodeError
	if !errors.As(err, &decoding) {
		return "not a DecodeError"
	}
	return decoding.Path
}

func Executor(r *Registry, e Enqueuer, logger *slog.Logger, middleware ...Middleware) func(context.Context, *wire.Job, *worker.Outcome) {
	x, err := r.newExecutor(e, guardLogger(logger), middleware...)
	if err != nil {
		panic(err) // the test's middleware is wrong
	}
	return x.execute
}

// ForbiddenFlags returns what a claim asks for flags, and what a job with flags is asked before it
// starts.
func ForbiddenFlags(ask func() []string, logger *slog.Logger) (current func() []string, putOff func(flags ...string) bool) {
	f := newForbiddenFlags(ask, guardLogger(logger))
	return f.current, func(flags ...string) bool {
		_, later := f.putOff(flags)
		return later
	}
}
