package worker

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/backfillhq/go/internal/wire"
)

// Outcome is how a job ended.
type Outcome struct {
	Kind    OutcomeKind
	Err     error         // OutcomeFailed, OutcomeExhausted
	Text    string        // what to record of it: valid UTF-8 without NUL
	Delay   time.Duration // OutcomeFailed: before the next attempt; OutcomeSnoozed: until the job runs again
	Payload []byte        // OutcomeFailed: replaces the payload; nil: keep it
}

// OutcomeKind tells outcomes apart.
type OutcomeKind int

// The kinds of outcome.
const (
	OutcomeCompleted OutcomeKind = iota + 1 // the job is deleted
	OutcomeFailed                           // it is tried again, if attempts are left
	OutcomeExhausted                        // it failed for good, whatever max_attempts says
	OutcomeSnoozed                          // it runs again later; the attempt is not charged
	OutcomeReturned                         // it was interrupted or never started; the attempt is not charged
)

// run is one job that is running.
type run struct {
	job       *wire.Job
	workerID  string // when it started
	started   time.Time
	cancel    context.CancelCauseFunc
	abandoned atomic.Bool // given back while it runs: its outcome does not count
}

// slot runs one job after the other until the worker closes. The contexts of jobs derive from jobs.
func (w *Worker) slot(jobs context.Context) {
	for w.runNext(jobs) {
	}
}

func (w *Worker) runNext(jobs context.Context) bool {
	run, ctx := w.start(jobs)
	if run == nil {
		return false
	}
	var outcome Outcome
	returned := false
	defer func() {
		run.cancel(nil)
		w.ended(run, outcome)
		if !returned { // runtime.Goexit, as testing's FailNow does it, takes this goroutine: another one takes its place
			go w.slot(jobs)
		}
	}()
	w.config.Execute(ctx, run.job, &outcome)
	returned = true
	return true
}

// start waits for a job; nil when the worker closes.
func (w *Worker) start(jobs context.Context) (*run, context.Context) {
	w.mu.Lock()
	for w.buffer.len() == 0 && !w.closed {
		w.ready.Wait()
	}
	if w.closed {
		w.mu.Unlock()
		return nil, nil
	}
	job := w.buffer.next()
	ctx, cancel := context.WithCancelCause(jobs)
	run := &run{job: job, workerID: w.id, started: time.Now(), cancel: cancel}
	w.running[run] = struct{}{}
	w.kickForRoomLocked()
	w.mu.Unlock()
	w.observe(Event{Kind: EventStart, WorkerID: run.workerID, Job: job})
	return run, ctx
}

// ended reports how a job ended, and takes its outcome to the flusher.
func (w *Worker) ended(run *run, outcome Outcome) {
	took := time.Since(run.started)
	if !run.abandoned.Load() {
		w.reportEnd(run.workerID, run.job, outcome, took)
	}
	w.mu.Lock()
	delete(w.running, run)
	w.pace.ended(took)
	if !run.abandoned.Load() {
		w.pending = append(w.pending, finish{job: run.job, outcome: outcome})
	}
	w.kickForRoomLocked()
	w.mu.Unlock()
	signal(w.flush)
}

// kickForRoomLocked wakes a dispatcher that waits for room to claim, and one that waits for the last job to end.
func (w *Worker) kickForRoomLocked() {
	if w.state == StateDraining || w.demand.waiting && w.roomLocked() > 0 {
		w.demand.waiting = false
		signal(w.kick)
	}
}

func (w *Worker) reportEnd(workerID string, job *wire.Job, outcome Outcome, took time.Duration) {
	event := Event{WorkerID: workerID, Job: job, Err: outcome.Err, Duration: took}
	switch outcome.Kind {
	case OutcomeCompleted:
		event.Kind = EventFinished
	case OutcomeFailed, OutcomeExhausted:
		event.Kind = EventFailed
		event.Delay = outcome.Delay
	case OutcomeSnoozed:
		event.Kind = EventSnoozed
		event.Delay = outcome.Delay
	case OutcomeReturned:
		return // counted when it is recorded
	}
	w.observe(event)
	w.logEnd(workerID, job, outcome, took)
}

func (w *Worker) logEnd(workerID string, job *wire.Job, outcome Outcome, took time.Duration) {
	level, became := slog.LevelDebug, "completed"
	switch outcome.Kind {
	case OutcomeFailed:
		level, became = slog.LevelWarn, "failed, to be retried"
		if job.Attempt >= job.MaxAttempts {
			became = "failed on its last attempt"
		}
	case OutcomeExhausted:
		level, became = slog.LevelWarn, "failed permanently"
	case OutcomeSnoozed:
		became = "snoozed"
	case OutcomeCompleted, OutcomeReturned:
	}
	if !w.config.Logger.Enabled(context.Background(), level) {
		return
	}
	attrs := []slog.Attr{
		slog.String("outcome", became), slog.String("task", job.Task), slog.Int64("job_id", job.ID),
		slog.Int("attempt", job.Attempt), slog.String("queue", job.Queue), slog.String("worker_id", workerID),
		slog.Duration("duration", took),
	}
	if outcome.Err != nil {
		attrs = append(attrs, slog.Any("error", outcome.Err), slog.Duration("retry_in", outcome.Delay))
	}
	w.config.Logger.LogAttrs(context.Background(), level, "job ended", attrs...)
}
