package engine

import (
	"context"
	"time"
)

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
}

// KeyMode says what a request does to an existing job with its key, in the contract's words (section 4.2).
type KeyMode string

// The key modes.
const (
	KeyReplace       KeyMode = "replace"
	KeyPreserveRunAt KeyMode = "preserve_run_at"
	KeyUnsafeDedupe  KeyMode = "unsafe_dedupe"
)

// Inserter inserts jobs, all or none, and returns them in the order of specs. It returns after the commit.
type Inserter interface {
	Insert(ctx context.Context, specs []Spec) ([]*Job, error)
	// InsertAndNotify inserts one job, if it can send the workers' notification right behind the insert, in a transaction of its
	// own on the same connection. If it cannot, ok is false and nothing was done. Otherwise it returns when the job is
	// committed or has failed, and calls notified, from another goroutine, when the notification is sent or lost.
	InsertAndNotify(ctx context.Context, spec Spec, notified func()) (job *Job, ok bool, err error)
}
