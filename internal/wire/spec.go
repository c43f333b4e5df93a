package wire

import "time"

// Spec is one request to enqueue a job, validated and in the terms of the wire.
type Spec struct {
	Task        string
	Payload     []byte  // JSON
	Queue, Key  string  // "": none
	KeyMode     KeyMode // "": KeyReplace
	Priority    int16
	MaxAttempts int16
	RunAt       time.Time     // zero: the database's now, plus Delay
	Delay       time.Duration // after the database's now; with a zero RunAt only
	Flags       []string
	Trace       Trace // its Run is never set
}

// KeyMode says what a request does to an existing job with its key, in the contract's words
// (section 4.2).
type KeyMode string

// The key modes.
const (
	KeyReplace       KeyMode = "replace"
	KeyPreserveRunAt KeyMode = "preserve_run_at"
	KeyUnsafeDedupe  KeyMode = "unsafe_dedupe"
)

// RejectedError is an error with which the database refused a statement, so that nothing was
// changed. After any other error the outcome is unknown.
type RejectedError struct {
	Err error
	// Row says that the statement was refused for what a row holds, not for the state of the server:
	// to repeat it as it is leads to the same error.
	Row bool
}

func (e *RejectedError) Error() string { return e.Err.Error() }

// Unwrap returns the database's error.
func (e *RejectedError) Unwrap() error { return e.Err }

// Is makes it an ErrRejected.
func (*RejectedError) Is(target error) bool { return target == ErrRejected }
