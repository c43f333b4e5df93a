package backfill

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Enqueuer enqueues jobs. Clients are Enqueuers, and so are what their WithTx and WithSQLTx return. Code that only
// enqueues should ask for this interface.
type Enqueuer interface {
	// Enqueue enqueues one job for each request, in one round trip, all or none. It returns the jobs in the order of requests.
	// Requests with the same key are taken one after the other: their results are the same job.
	Enqueue(ctx context.Context, requests ...Request) ([]*Job, error)

	// WithTx returns an Enqueuer whose jobs come to be when tx commits, and not at all if it is rolled back.
	WithTx(tx pgx.Tx) Enqueuer

	// WithSQLTx does the same for a transaction of database/sql, opened with the driver of pgx (package stdlib).
	WithSQLTx(tx *sql.Tx) Enqueuer
}

// Enqueue enqueues one job of task t. Without an Enqueuer it returns [ErrNoClient].
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

// EnqueueMany enqueues a job of task t for each of args, in one round trip, all or none, and returns the jobs in the order of
// args. Options apply to every job; the option [Key] is an error, because each job would replace the one before. If the task
// gives several jobs the same key, the last one wins, and their results are the same job. No args are no round trip.
func EnqueueMany[T any](ctx context.Context, e Enqueuer, t *Task[T], args []T, opts ...EnqueueOption) ([]*Job, error) {
	if e == nil {
		return nil, ErrNoClient
	}
	for _, option := range opts {
		if _, ok := option.(keyOption); ok {
			return nil, errors.New("enqueue many: the option Key would give every job the same key: use the task's key template, or single requests")
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

// NewContext returns a context that carries e, for [FromContext] and the generated functions EnqueueX. A worker puts an
// Enqueuer into the context of every job; elsewhere do it yourself, for example in http.Server.BaseContext, or with a client
// that is bound to a transaction: NewContext(ctx, client.WithTx(tx)).
func NewContext(ctx context.Context, e Enqueuer) context.Context {
	return context.WithValue(ctx, enqueuerKey{}, e)
}

// FromContext returns the Enqueuer that ctx carries. It never returns nil: if there is none, the result reports [ErrNoClient]
// when it is asked to enqueue something.
func FromContext(ctx context.Context) Enqueuer {
	if ctx == nil {
		return noClient{}
	}
	if e, ok := ctx.Value(enqueuerKey{}).(Enqueuer); ok {
		return e
	}
	return noClient{}
}

// noClient stands for the Enqueuer that is missing.
type noClient struct{}

func (noClient) Enqueue(context.Context, ...Request) ([]*Job, error) { return nil, ErrNoClient }
func (noClient) WithTx(pgx.Tx) Enqueuer                              { return noClient{} }
func (noClient) WithSQLTx(*sql.Tx) Enqueuer                          { return noClient{} }
