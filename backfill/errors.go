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

// Errors to compare with errors.Is. They may be wrapped.
var (
	// ErrNoClient is returned by an enqueue without an [Enqueuer], and by methods of a nil Client.
	ErrNoClient = errors.New("no client: put one into the context with backfill.NewContext, or use the generated NewClient")
	// ErrNotLocked is returned by [Client.UnlockWorker] and [Client.ForceUnlock] when nothing is
	// locked by the given worker.
	ErrNotLocked = pg.ErrNotLocked
	// ErrBreakingMigration is returned when the schema has a migration that this program does not
	// know and must not work with. Upgrade the program.
	ErrBreakingMigration = errors.New("breaking migration of the job schema")
)

// Why a handler's context was cancelled: compare context.Cause(ctx) with errors.Is.
var (
	// ErrShutdown is the cause when the worker stops and its drain timeout is over.
	ErrShutdown = worker.ErrShutdown
	// ErrTimeout is the cause when the task's timeout is over.
	ErrTimeout = errors.New("task timed out")
	// ErrLeaseLost is the cause when the job was released, for example by [Client.UnlockWorker], or
	// taken by another worker. What the handler returns is not recorded.
	ErrLeaseLost = worker.ErrLeaseLost
	// ErrCanceled is reserved for cancelling single jobs, which is not implemented yet.
	ErrCanceled = errors.New("job canceled")
)

// Permanent returns an error after which the job is not retried. It can be wrapped. Permanent(nil)
// is a failure too, so check err first.
func Permanent(err error) error {
	if err == nil {
		err = errors.New("failed permanently, without a reason")
	}
	return &permanentError{err}
}

type permanentError struct{ err error }

func (e *permanentError) Error() string { return e.err.Error() }
func (e *permanentError) Unwrap() error { return e.err }
func (*permanentError) decides()        {}

// RetryIn returns an error after which the job is retried in d, instead of after the task's
// backoff, if it has attempts left. It can be wrapped. A negative d counts as 0. RetryIn(d, nil) is
// a failure too, so check err first.
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
func (*retryError) decides()        {}

// Snooze returns an error after which the job runs again in d. The attempt is not charged, so a job
// can be snoozed any number of times. It can be wrapped. A negative d counts as 0.
func Snooze(d time.Duration) error { return &snoozeError{max(d, 0)} }

type snoozeError struct{ delay time.Duration }

func (e *snoozeError) Error() string { return fmt.Sprintf("snoozed for %v", e.delay) }
func (*snoozeError) decides()        {}

// PanicError is the error recorded when a handler or middleware panics. It counts like an error
// that the handler returned. The stack goes to the log; the database gets the message only.
type PanicError struct {
	_ [0]func() // fields may be added

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

// BatchError is returned by a handler whose args are a slice when some elements failed. The job is
// retried with these elements only, byte for byte and in their order. If an index does not exist,
// it is retried with all elements.
//
// A BatchError may be wrapped, by [RetryIn] and [Permanent] too. Joined with other errors it counts
// as an ordinary error, and all elements are retried. RetryIn, Permanent and [Snooze] have no
// effect inside Errs. A BatchError without a failed element is a success.
type BatchError struct {
	_ [0]func() // fields may be added

	Errs map[int]error // by index; an element whose error is nil did not fail
}

// Error returns "Batch failures:" and a line for each failed element, in order: Graphile Worker's
// format.
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

func (*BatchError) decides() {}

// failed returns the indexes of the failed elements, in order.
func (e *BatchError) failed() []int {
	if e == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Sorted(maps.Keys(e.Errs)), func(i int) bool { return e.Errs[i] == nil })
}
