package backfill

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Enqueuer enqueues jobs. A [Client] is one, and so are the values that its WithTx and WithSQLTx
// return. Code that only enqueues should accept an Enqueuer.
type Enqueuer interface {
	// Enqueue inserts one job for each request, all or none, and returns the jobs in the order of
	// requests. Requests with the same key are applied one after the other, and share one job in
	// the result.
	//
	// The args of a job have at most 256 MiB as JSON. Each copy of them, in this process, in the
	// worker and in the database, takes as much memory, five and more in all, and 100 MB take
	// seconds: give ctx a deadline, because without one a statement has 10 seconds. Better store
	// what has more than a megabyte elsewhere, and enqueue where it is.
	Enqueue(ctx context.Context, requests ...Request) ([]*Job, error)

	// WithTx returns an Enqueuer whose jobs are inserted in tx: they exist once it commits.
	WithTx(tx pgx.Tx) Enqueuer

	// WithSQLTx is WithTx for database/sql. See [Client.WithSQLTx] for drivers.
	WithSQLTx(tx *sql.Tx) Enqueuer
}

// Enqueue inserts one job of task t. If e is nil, it returns [ErrNoClient]. For the size of args
// see [Enqueuer].
func Enqueue[T any](ctx context.Context, e Enqueuer, t *Task[T], args T, opts ...EnqueueOption) (*Job, error) {
	if e == nil {
		return nil, ErrNoClient
	}
	request := t.Request(args, opts...)
	jobs, err := e.Enqueue(ctx, request)
	if err != nil {
		return nil, err
	}
	if len(jobs) != 1 {
		return nil, fmt.Errorf("enqueue %s: the Enqueuer (%T) returned %d jobs for one request", request.Task, e, len(jobs))
	}
	return jobs[0], nil
}

// EnqueueMany inserts one job of task t for each of args, all or none, and returns the jobs in the
// order of args. Without args it does nothing.
//
// Options apply to every job. The option [Key] is an error, because each job would replace the one
// before. Jobs to which the task's Key gives the same key are applied one after the other, and
// share one job in the result.
func EnqueueMany[T any](ctx context.Context, e Enqueuer, t *Task[T], args []T, opts ...EnqueueOption) ([]*Job, error) {
	if e == nil {
		return nil, ErrNoClient
	}
	for _, option := range opts {
		if _, ok := option.(keyOption); ok {
			return nil, invalid(errors.New("enqueue many: the option Key would give every job the same key: " +
				"use the task's key template, or single requests"))
		}
	}
	if len(args) == 0 {
		return nil, nil
	}
	requests := make([]Request, len(args))
	for i := range args {
		requests[i] = t.Request(args[i], opts...)
	}
	jobs, err := e.Enqueue(ctx, requests...)
	if err != nil {
		return nil, err
	}
	if len(jobs) != len(args) {
		return nil, fmt.Errorf("enqueue %s: the Enqueuer (%T) returned %d jobs for %d requests", requests[0].Task, e, len(jobs), len(args))
	}
	return jobs, nil
}

type enqueuerKey struct{}

// NewContext returns a context that carries e, for [FromContext] and the generated functions
// EnqueueX. The context of every handler carries an Enqueuer already. Elsewhere call NewContext
// yourself: in http.Server.BaseContext, or for a transaction, NewContext(ctx, client.WithTx(tx)).
func NewContext(ctx context.Context, e Enqueuer) context.Context {
	return context.WithValue(ctx, enqueuerKey{}, e)
}

// FromContext returns the Enqueuer that ctx carries. It never returns nil: if ctx carries none,
// Enqueue of the result returns [ErrNoClient].
func FromContext(ctx context.Context) Enqueuer {
	if ctx == nil {
		return noClient{}
	}
	if e, ok := ctx.Value(enqueuerKey{}).(Enqueuer); ok {
		return e
	}
	return noClient{}
}

// noClient takes the place of a missing Enqueuer.
type noClient struct{}

func (noClient) Enqueue(context.Context, ...Request) ([]*Job, error)  { return nil, ErrNoClient }
func (noClient) WithTx(pgx.Tx) Enqueuer                               { return noClient{} }
func (noClient) WithSQLTx(*sql.Tx) Enqueuer                           { return noClient{} }
func (noClient) Await(context.Context, *Job) (json.RawMessage, error) { return nil, ErrNoClient }
