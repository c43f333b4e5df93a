// Package testutil tests code that enqueues, and the handlers of jobs. docs/testing.md says which
// function is for which test.
//
// Without a database, a [Recorder] takes the place of a client, and [Enqueued] returns what was
// enqueued.
//
//	func TestSignUp(t *testing.T) {
//		t.Parallel()
//		rec := testutil.NewRecorder()
//		service := signup.Service{Tasks: tasks.NewClient(rec)}
//		…
//		for _, job := range testutil.Enqueued(t, rec, tasks.TaskSendEmail) {
//			// job.Args.UserID, job.Queue, job.Delay, job.InTx …
//		}
//	}
//
// To test a handler, call it: with backfill.NewContext(ctx, rec) if it enqueues, and with
// [WithJob] if it looks at its job. [Recorder.Work] runs what was recorded, to test what becomes of
// jobs: retries, snoozes, middleware, and the jobs that handlers enqueue.
//
// With a database, which package pgtest makes: [RequireEnqueued] looks for a job, [Drain] runs what
// is due with a real worker and [DrainUntil] moves the time, [Start] and [WaitFor] run a worker and
// wait for what becomes of jobs, [Run] runs a job in a transaction of the test's own, and [Faults]
// finds the tasks that are not idempotent.
package testutil

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/backfill"
)

// Recorder is a [backfill.Enqueuer] that records what it is asked to enqueue. Its results and
// errors are those of a client, without enqueue middleware, on a database that was empty and has no
// workers but [Recorder.Work]. It is safe for concurrent use, and its zero value works.
type Recorder struct {
	mu       sync.Mutex
	recorded []recording
	table    table
	failure  error
}

type recording struct {
	request     backfill.Request
	inTx        bool
	transaction *transaction // the InTx that it was made in; nil: none
}

// NewRecorder returns a Recorder that has recorded nothing.
func NewRecorder() *Recorder { return &Recorder{} }

// Enqueue implements [backfill.Enqueuer]. It checks requests as a client does, and records all of
// them or, if it returns an error, none. Jobs are numbered from 1, and the clock is time.Now. Until
// Work has run a job, a second request with its key changes it, as the key mode says.
func (r *Recorder) Enqueue(ctx context.Context, requests ...backfill.Request) ([]*backfill.Job, error) {
	if r.needNoDatabase(ctx, requests) {
		return new(backfill.Client).Enqueue(ctx, requests...)
	}
	return r.record(ctx, requests, "enqueue: the jobs were not enqueued: get a connection", recording{})
}

// WithTx implements [backfill.Enqueuer]. What is enqueued through the result is recorded at once,
// with [Recorded].InTx, whether tx commits or not, unless tx is that of [Recorder.InTx]. The
// Recorder does not use tx, so it may be nil, which is an error with a client.
func (r *Recorder) WithTx(tx pgx.Tx) backfill.Enqueuer {
	bound := txRecorder{Recorder: r, client: new(backfill.Client).WithTx(noTx{})}
	if own, ok := tx.(noTx); ok && own.recorder == r {
		bound.transaction = own.transaction
	}
	return bound
}

// WithSQLTx is [Recorder.WithTx] for database/sql.
func (r *Recorder) WithSQLTx(*sql.Tx) backfill.Enqueuer {
	return txRecorder{Recorder: r, client: new(backfill.Client).WithSQLTx(new(sql.Tx))}
}

// Requests returns a copy of all recorded requests, of all tasks, in order. To compare it with
// go-cmp, pass cmpopts.IgnoreUnexported(backfill.Request{}).
func (r *Recorder) Requests() []backfill.Request {
	var requests []backfill.Request
	for _, recorded := range r.recordings() {
		requests = append(requests, recorded.request)
	}
	return requests
}

// FailWith makes Enqueue fail from now on, in transactions too, as if the database did: it returns
// an error that wraps err, and records nothing. FailWith(nil) ends this. Invalid requests get their
// own errors, as before.
func (r *Recorder) FailWith(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failure = err
}

// Reset forgets everything that was recorded: no job waits, keys are free, and jobs are numbered
// from 1 again. An error of FailWith stays.
func (r *Recorder) Reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.recorded, r.table = nil, table{}
}

// txRecorder is a Recorder in a transaction.
type txRecorder struct {
	*Recorder
	client      backfill.Enqueuer // in a transaction too, for what needs no database
	transaction *transaction      // nil: it is the caller's
}

func (t txRecorder) Enqueue(ctx context.Context, requests ...backfill.Request) ([]*backfill.Job, error) {
	if t.needNoDatabase(ctx, requests) {
		return t.client.Enqueue(ctx, requests...)
	}
	return t.record(ctx, requests, "in transaction: enqueue", recording{inTx: true, transaction: t.transaction})
}

// needNoDatabase reports whether the Recorder, the context or one of the requests is wrong. Then a
// client answers without a database, which a zero Client can do as well, so these errors are not
// copies that could go stale.
func (r *Recorder) needNoDatabase(ctx context.Context, requests []backfill.Request) bool {
	return r == nil || ctx == nil || slices.ContainsFunc(requests, func(r backfill.Request) bool { return r.Validate() != nil })
}

// record does what the database does for a client. made is what all the recordings share.
func (r *Recorder) record(ctx context.Context, requests []backfill.Request, operation string, made recording) ([]*backfill.Job, error) {
	if len(requests) == 0 {
		return nil, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	tx := cmp.Or(made.transaction, &transaction{})
	if err := cmp.Or(ended(ctx), tx.check(r.failure)); err != nil {
		return nil, fmt.Errorf("%s: %w", operation, err)
	}
	now := stored(time.Now())
	jobs := make([]*backfill.Job, len(requests))
	for i := range requests {
		made.request = clone(requests[i])
		r.recorded = append(r.recorded, made)
		var changes []change
		jobs[i], changes = r.table.insert(made.request, now)
		tx.changes = append(tx.changes, changes...)
	}
	for i, job := range jobs {
		if job.Key != "" { // equal keys share the job that the last of them left
			jobs[i] = r.table.keyed(job.Key).job
		}
	}
	return jobs, nil
}

// clone returns a request that shares no slice: callers may use theirs again.
func clone(r backfill.Request) backfill.Request {
	r.Args, r.Flags = bytes.Clone(r.Args), slices.Clone(r.Flags)
	return r
}

// recordings returns a copy of what was recorded.
func (r *Recorder) recordings() []recording {
	r.mu.Lock()
	defer r.mu.Unlock()
	recorded := slices.Clone(r.recorded)
	for i := range recorded {
		recorded[i].request = clone(recorded[i].request)
	}
	return recorded
}

// jobs returns copies of the jobs that have not ended.
func (r *Recorder) jobs() []*backfill.JobStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	jobs := make([]*backfill.JobStatus, len(r.table.rows))
	for i, row := range r.table.rows {
		jobs[i] = row.status(now)
		jobs[i].Args, jobs[i].Flags = bytes.Clone(jobs[i].Args), slices.Clone(jobs[i].Flags)
	}
	return jobs
}
