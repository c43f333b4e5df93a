package backfill_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/backfill"
)

// fakeEnqueuer records what it is asked to enqueue, and checks it like a client.
type fakeEnqueuer struct {
	mu       sync.Mutex
	calls    int
	requests []backfill.Request
	bound    string // "tx" or "sqltx"
	err      error
	short    bool // returns a job too few
}

func (f *fakeEnqueuer) Enqueue(_ context.Context, requests ...backfill.Request) ([]*backfill.Job, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls++
	if f.err != nil {
		return nil, f.err
	}
	jobs := make([]*backfill.Job, 0, len(requests))
	for _, r := range requests {
		if err := r.Validate(); err != nil {
			return nil, err
		}
		f.requests = append(f.requests, r)
		jobs = append(jobs, &backfill.Job{ID: int64(len(f.requests)), Task: r.Task, Args: r.Args})
	}
	if f.short {
		jobs = jobs[1:]
	}
	return jobs, nil
}

func (f *fakeEnqueuer) WithTx(pgx.Tx) backfill.Enqueuer     { return &fakeEnqueuer{bound: "tx"} }
func (f *fakeEnqueuer) WithSQLTx(*sql.Tx) backfill.Enqueuer { return &fakeEnqueuer{bound: "sqltx"} }

// sent returns the args of all requests.
func (f *fakeEnqueuer) sent() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var args []string
	for _, r := range f.requests {
		args = append(args, r.Task+string(r.Args))
	}
	return args
}

type mailArgs struct {
	UserID   int64  `json:"user_id"`
	Template string `json:"template,omitempty"`
}

func raw(s string) json.RawMessage { return json.RawMessage(s) }
