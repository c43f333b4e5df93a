package wire

import "errors"

// What errors.Is finds in the errors of an enqueue.
var (
	ErrRejected       = errors.New("the database refused the jobs")
	ErrOutcomeUnknown = errors.New("the jobs may or may not have been enqueued")
)

// NotEnqueuedError is the reason why jobs were not inserted although the database did not refuse
// them: they were never sent, or their transaction ended before its commit.
type NotEnqueuedError struct{ Err error }

func (e *NotEnqueuedError) Error() string { return "the jobs were not enqueued: " + e.Err.Error() }

// Unwrap returns the reason.
func (e *NotEnqueuedError) Unwrap() error { return e.Err }

// UnknownError is the reason why nobody knows whether jobs were inserted: their commit was sent,
// and not acknowledged.
type UnknownError struct{ Err error }

func (e *UnknownError) Error() string {
	return ErrOutcomeUnknown.Error() + ": " + e.Err.Error()
}

// Unwrap returns the reason.
func (e *UnknownError) Unwrap() error { return e.Err }

// Is makes it an ErrOutcomeUnknown.
func (*UnknownError) Is(target error) bool { return target == ErrOutcomeUnknown }

// BlockedError says that another transaction holds a row that an insert has to wait for. Nothing
// was inserted; the same insert can be sent again later.
type BlockedError struct{ Err error }

func (e *BlockedError) Error() string { return e.Err.Error() }

// Unwrap returns the database's error.
func (e *BlockedError) Unwrap() error { return e.Err }
