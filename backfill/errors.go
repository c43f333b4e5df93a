package backfill

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/backfillhq/go/internal/enqueue"
	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// What an error of [Client.Enqueue] means: compare with errors.Is. It holds for every way to
// enqueue: directly, in a transaction, in a handler, and through generated code. An error that is
// none of these says that nothing was enqueued because the database could not be reached in time,
// or is what your own middleware returned.
var (
	// ErrInvalidRequest says that the call is wrong, and nothing was sent: a request has a value
	// that the database does not take, args cannot be encoded, or the context or transaction is
	// nil. Repeating the call leads to the same error. The methods for dead letters say so of a
	// filter, options or an edit.
	ErrInvalidRequest = errors.New("invalid request")
	// ErrOutcomeUnknown says that the jobs may or may not have been enqueued: the commit was sent,
	// and the connection broke or ctx ended before it was acknowledged. Enqueue again if the jobs
	// have keys, or if running twice does no harm. After any other error no job was enqueued.
	ErrOutcomeUnknown = wire.ErrOutcomeUnknown
	// ErrRejected says that the database answered with an error, and nothing was enqueued. For pgx,
	// errors.As with a *pgconn.PgError finds the answer. In a transaction of yours, roll it back.
	ErrRejected = wire.ErrRejected
	// ErrNoClient says that there is no [Enqueuer], or that the Client is nil or not from [Open] or
	// [NewClient].
	ErrNoClient = errors.New("no client: put one into the context with backfill.NewContext, or use the generated NewClient")
	// ErrClosed says that the client was closed. All methods of the client and its workers return
	// it.
	ErrClosed = enqueue.ErrClosed
)

// Other errors to compare with errors.Is. They may be wrapped.
var (
	// ErrJobNotFound is returned by [Client.Job]: there is no such job. Jobs that succeeded are
	// gone.
	ErrJobNotFound = pg.ErrJobNotFound
	// ErrDeadLetterNotFound is returned by [Client.DeadLetter] and [Client.EditDeadLetter]: there
	// is no such dead letter.
	ErrDeadLetterNotFound = pg.ErrDeadLetterNotFound
	// ErrNotLocked is returned by [Client.UnlockWorker] and [Client.ForceUnlock] when nothing is
	// locked by the given worker.
	ErrNotLocked = pg.ErrNotLocked
	// ErrUnknownTask is returned by [Client.Pause]: no worker has served a task of this name, and
	// no job has had it.
	ErrUnknownTask = pg.ErrUnknownTask
	// ErrNotPaused is returned by [Client.Resume] and [Client.ResumeQueue]: it is not paused.
	ErrNotPaused = pg.ErrNotPaused
	// ErrBreakingMigration is returned when the schema has a migration that this program does not
	// know and must not work with. Upgrade the program.
	ErrBreakingMigration = errors.New("breaking migration of the job schema")
)

// invalid makes an error an [ErrInvalidRequest].
func invalid(err error) error { return &kindError{err, ErrInvalidRequest} }

// kindError makes an error one that errors.Is finds to be of a kind, without a change to its text.
type kindError struct{ err, kind error }

func (e *kindError) Error() string        { return e.err.Error() }
func (e *kindError) Unwrap() error        { return e.err }
func (e *kindError) Is(target error) bool { return target == e.kind }

// Why a handler's context was cancelled: compare context.Cause(ctx) with errors.Is.
var (
	// ErrShutdown is the cause when the worker stops and its drain timeout is over.
	ErrShutdown = worker.ErrShutdown
	// ErrTimeout is the cause when the task's timeout is over.
	ErrTimeout = worker.ErrTimeout
	// ErrCanceled is the cause when [Client.Cancel] has requested the end of the job. Whatever the
	// handler returns afterwards, the job is deleted.
	ErrCanceled = worker.ErrCanceled
	// ErrLeaseLost is the cause when the job was released or taken by another worker, because this
	// one was declared dead, or by [Client.UnlockWorker]: what the handler returns is not recorded.
	// For a job of a queue it is the cause as well when the database has acknowledged no heartbeat
	// of the worker for 10 seconds: another worker may soon run the next job of the queue.
	ErrLeaseLost = worker.ErrLeaseLost
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

// Snooze returns an error after which the job runs again in d. The attempt is not charged, so a job
// can be snoozed any number of times. It can be wrapped. A negative d counts as 0.
func Snooze(d time.Duration) error { return &snoozeError{max(d, 0)} }

type snoozeError struct{ delay time.Duration }

func (e *snoozeError) Error() string { return fmt.Sprintf("snoozed for %v", e.delay) }

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

// failed returns the indexes of the failed elements, in order.
func (e *BatchError) failed() []int {
	if e == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Sorted(maps.Keys(e.Errs)), func(i int) bool { return e.Errs[i] == nil })
}
