package pg

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/backfillhq/go/internal/pg/query"
	"github.com/backfillhq/go/internal/sqlstate"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

const (
	// traceTimeout bounds each statement about trace contexts: jobs do not wait longer for them.
	traceTimeout = time.Second
	// maxEndedTraces bounds how many rows of ended jobs wait to be deleted: others are left to upkeep.
	maxEndedTraces = 10_000
)

// traces are the trace contexts of a worker's jobs. They are never in the way of the jobs: what
// cannot be read or written is logged, and left out. nil: the worker does not trace.
type traces struct {
	logger func() *slog.Logger

	mu    sync.Mutex
	known map[int64]bool // jobs that are held and have a row
	ended []int64        // jobs that have ended, and may have a row
	said  time.Time      // when an error was last logged
}

// read reads the contexts of claimed jobs, and deletes those of jobs that have ended since the last
// time.
func (t *traces) read(ctx context.Context, queries *query.Queries, jobs []*wire.Job) {
	if t == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, traceTimeout)
	defer cancel()
	t.drop(ctx, queries)
	if len(jobs) == 0 {
		return
	}
	ids := make([]int64, len(jobs))
	byID := make(map[int64]*wire.Job, len(jobs))
	for i, job := range jobs {
		ids[i], byID[job.ID] = job.ID, job
	}
	rows, err := queries.ReadTraces(ctx, ids)
	if err != nil {
		t.failed(ctx, "read", err)
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, row := range rows {
		byID[row.JobID].Trace = &wire.Trace{Parent: row.Traceparent, State: row.Tracestate, Run: row.Run}
		t.known[row.JobID] = true
	}
}

// drop deletes the contexts of jobs that have ended.
func (t *traces) drop(ctx context.Context, queries *query.Queries) {
	t.mu.Lock()
	ended := t.ended
	t.ended = nil
	t.mu.Unlock()
	if len(ended) == 0 {
		return
	}
	if err := queries.EndTraces(ctx, ended); err != nil { // upkeep finds them
		t.failed(ctx, "delete", err)
	}
}

// note keeps the contexts of runs that do not end their jobs.
func (t *traces) note(ctx context.Context, queries *query.Queries, ended []worker.Ended) {
	if t == nil {
		return
	}
	var params query.NoteRunsParams
	t.mu.Lock()
	for _, e := range ended {
		delete(t.known, e.ID) // who claims it next reads it again
		if e.Run != "" {
			params.Ids, params.Runs = append(params.Ids, e.ID), append(params.Runs, e.Run)
		}
	}
	t.mu.Unlock()
	if len(params.Ids) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, traceTimeout)
	defer cancel()
	if err := queries.NoteRuns(ctx, params); err != nil {
		t.failed(ctx, "write", err)
	}
}

// end notes that jobs have ended.
func (t *traces) end(leases ...wire.Lease) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, lease := range leases {
		if t.known[lease.ID] && len(t.ended) < maxEndedTraces {
			t.ended = append(t.ended, lease.ID)
		}
		delete(t.known, lease.ID)
	}
}

// failed logs that trace contexts are missing, at most once a minute.
func (t *traces) failed(ctx context.Context, what string, err error) {
	if errors.Is(ctx.Err(), context.Canceled) {
		return // the worker stops
	}
	t.mu.Lock()
	due := time.Since(t.said) >= slowLogEvery
	if due {
		t.said = time.Now()
	}
	t.mu.Unlock()
	if due {
		t.logger().LogAttrs(ctx, slog.LevelWarn, "trace contexts of jobs cannot be read or written: runs lack links to their enqueues",
			slog.String("operation", what), slog.Any("error", err))
	}
}

// dropTraces deletes the contexts of jobs that are gone, whoever has ended them, page by page.
func (s *Store) dropTraces(ctx context.Context) error {
	for after := int64(0); ; {
		began := time.Now()
		step, cancel := context.WithTimeout(ctx, pageTimeout)
		page, err := s.queries.DropTraces(step, query.DropTracesParams{After: after, Size: sweepPage})
		cancel()
		if slices.Contains([]string{sqlstate.InsufficientRights, sqlstate.UndefinedTable}, sqlstate.Of(err)) {
			return nil // of a role from before there was the table: then nobody has told it to trace
		}
		if err != nil {
			return fmt.Errorf("delete trace contexts of jobs that are gone: %w", err)
		}
		if page.Seen < sweepPage || !s.sweep.rest(ctx, restFactor*time.Since(began)) {
			return nil
		}
		after = page.Last
	}
}
