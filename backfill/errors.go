package backfill

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/worker"
)

// Errors to branch on with errors.Is. They may be wrapped.
var (
	// ErrNoClient is returned when something is to be enqueued without an Enqueuer.
	ErrNoClient = errors.New("no client: put one into the context with backfill.NewContext, or enqueue through NewClient of the package with the tasks")
	// ErrNotLocked is returned by [Client.UnlockWorker] and [Client.ForceUnlock] when nothing
	// matched: no job or queue is locked by what was given.
	ErrNotLocked = pg.ErrNotLocked
	// ErrBreakingMigration is returned when the database has a migration of its schema that this program cannot work with.
	ErrBreakingMigration = errors.New("breaking migration of the job schema")
)

// Causes of the end of a handler's context: context.Cause(ctx) is one of them, wrapped or not.
var (
	// ErrShutdown is the cause when the worker has to stop and its time for draining is over.
	ErrShutdown = worker.ErrShutdown
	// ErrTimeout is the cause when the timeout of the task is over.
	ErrTimeout = errors.New("task timed out")
	// ErrLeaseLost is the cause when the job was released or taken by somebody else. What the handler returns is not recorded.
	ErrLeaseLost = worker.ErrLeaseLost
	// ErrCanceled is for jobs that an operator cancels. Nothing does yet.
	ErrCanceled = errors.New("job canceled")
)

// A verdict is an error by which a handler says what becomes of its job. The outermost one counts.
type verdict interface {
	error
	verdict()
}

// Permanent returns an error after which the job is not tried again. It can be wrapped. A nil err is a failure too: check first.
func Permanent(err error) error {
	if err == nil {
		err = errors.New("failed permanently, without a reason")
	}
	return &permanentError{err}
}

type permanentError struct{ err error }

func (e *permanentError) Error() string { return e.err.Error() }
func (e *permanentError) Unwrap() error { return e.err }
func (*permanentError) verdict()        {}

// RetryIn returns an error after which the job is tried again in d, instead of the task's backoff, if attempts are left. It can
// be wrapped. A negative d is 0. A nil err is a failure too: check first.
func RetryIn(d time.Duration, err error) error {
	if err == nil {
		err = errors.New("failed, without a reason")
	}
	return &retryError{max(d, 0), err}
}

type retryError struct {
	delay time.Duration
	err   error
}

func (e *retryError) Error() string { return e.err.Error() }
func (e *retryError) Unwrap() error { return e.err }
func (*retryError) verdict()        {}

// Snooze returns an error after which the job runs again in d. The attempt is not charged, so a job can be snoozed for ever. It
// can be wrapped. A negative d is 0.
func Snooze(d time.Duration) error { return &snoozeError{max(d, 0)} }

type snoozeError struct{ delay time.Duration }

func (e *snoozeError) Error() string { return fmt.Sprintf("snoozed for %v", e.delay) }
func (*snoozeError) verdict()        {}

// PanicError is what becomes of a panic in a handler or in middleware. It counts like an error that was returned. The stack goes
// to the log; the database gets the message only.
type PanicError struct {
	Value any    // what panic was called with
	Stack []byte // of the goroutine, at the panic
}

// Error returns the value as text.
func (e *PanicError) Error() string {
	if e == nil {
		return "panic"
	}
	return fmt.Sprint("panic: ", e.Value)
}

// Unwrap returns the value, if it is an error.
func (e *PanicError) Unwrap() error {
	if e == nil {
		return nil
	}
	err, _ := e.Value.(error)
	return err
}

// BatchError is returned by a handler whose args are a slice, when some of the elements failed. The job keeps these only, in
// their order and as they were stored, and is tried again with them. An index that does not exist keeps them all.
//
// It may be wrapped, also by [RetryIn] and [Permanent], but not joined with other errors. Inside Errs, those and [Snooze] are
// ordinary errors. A BatchError without a failed element is a success.
type BatchError struct {
	Errs map[int]error // by index; an element whose error is nil did not fail
}

// Error returns "Batch failures:" and a line for each failed element, in order: Graphile Worker's format.
func (e *BatchError) Error() string {
	var text strings.Builder
	text.WriteString("Batch failures:")
	for _, err := range e.Unwrap() {
		text.WriteByte('\n')
		text.WriteString(strings.ReplaceAll(errorText(err), "\n", " "))
	}
	return text.String()
}

// Unwrap returns the errors of the failed elements, in order.
func (e *BatchError) Unwrap() []error {
	var errs []error
	for _, i := range e.failed() {
		errs = append(errs, e.Errs[i])
	}
	return errs
}

func (*BatchError) verdict() {}

// failed returns the indexes of the failed elements, in order.
func (e *BatchError) failed() []int {
	if e == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Sorted(maps.Keys(e.Errs)), func(i int) bool { return e.Errs[i] == nil })
}
