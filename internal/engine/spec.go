package engine

import (
	"context"
	"time"
)

// Spec is one request to enqueue a job, validated and in the terms of the wire.
type Spec struct {
	Task        string
	Payload     []byte // JSON
	Queue, Key  string // "": none
	KeyMode     KeyMode
	Priority    int16
	MaxAttempts int16
	RunAt       time.Time     // zero: the database's now, plus Delay
	Delay       time.Duration // after the database's now; with a zero RunAt only
	Flags       []string
}

// KeyMode says what a request does to an existing job with its key (contract section 4.2).
type KeyMode int

// The key modes.
const (
	KeyReplace KeyMode = iota
	KeyPreserveRunAt
	KeyUnsafeDedupe
)

// Inserter inserts jobs, all or none, and returns them in the order of specs. It returns after the commit.
type Inserter interface {
	Insert(ctx context.Context, specs []Spec) ([]*Job, error)
}
