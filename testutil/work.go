package testutil

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/seam"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// A call of Work runs maxRuns attempts, and maxRunsOfOne more for each job that waits when it
// begins, before it says that there is no end.
const maxRuns, maxRunsOfOne = 10_000, 100

// Work runs the recorded jobs of the registry's tasks, as [backfill.RunOnce] runs those of a
// database: until none is due, with the args decoded from their JSON, the registry's and the
// options' middleware, timeouts, panics, verdicts, backoff, and what they do to keys. The contexts
// of jobs carry rec, so what handlers enqueue is recorded and runs too. A job that failed is left
// for its retry, which is due later; with [backfill.WithScheduled], retries and delayed jobs run as
// well, at once, in the order of their times. A job that is snoozed waits for the next Work.
//
//	report := rec.Work(t, tasks.NewRegistry(handlers), backfill.WithScheduled())
//	if report.Completed != 3 || report.Failed != 1 { … }
//
// It is not a worker, so it does not show what workers and transactions do beside each other. Jobs
// run one after the other, in the order (priority, run_at, id). Jobs that were enqueued in a
// transaction run whether it commits or not. There are no leases, no shutdown and no cron schedule,
// and observers see the events of jobs only: start, finished, failed, dead, snoozed. A job that
// fails for good gives its key up, as a dead letter does, unless [backfill.WithoutDeadLetters] is
// given. Concurrency and drain timeout have no effect. Handlers that use a database of their own
// need one: see package pgtest.
//
// Mistakes in the registry and the options fail the test. Failed jobs do not: they are in the
// report, and in the test's log unless [backfill.WithLogger] says otherwise. Enqueued returns all
// requests as before, and those of handlers after them.
func (r *Recorder) Work(tb testing.TB, registry *backfill.Registry, opts ...backfill.WorkerOption) *backfill.Report {
	tb.Helper()
	logger := slog.New(slog.NewTextHandler(tb.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	jobs, err := seam.NewInline(registry, r, opts, logger)
	if err != nil {
		tb.Fatalf("testutil: %v", err)
		return nil
	}
	ctx := tb.Context()
	if ctx == nil { // of a testing.T that no test was started with, as in examples
		ctx = context.Background()
	}
	report := &backfill.Report{}
	r.keep(jobs.History)
	limit := maxRuns + maxRunsOfOne*r.size()
	snoozed := map[int64]bool{}
	for range limit {
		row, job := r.claim(jobs, snoozed)
		if row == nil {
			return report
		}
		began, outcome := time.Now(), worker.Outcome{}
		observe(jobs, worker.Event{Kind: worker.EventStart, Job: job})
		execute(ctx, jobs, job, &outcome)
		note(jobs, job, outcome, time.Since(began))
		if outcome.Kind == worker.OutcomeSnoozed {
			snoozed[job.ID] = true
		}
		exhausted := r.end(row, outcome, jobs.DeadLetters)
		count(report, outcome.Kind, exhausted)
		if exhausted && jobs.DeadLetters {
			observe(jobs, worker.Event{Kind: worker.EventDead, Job: job, Reason: reason(outcome), Err: outcome.Err})
		}
	}
	tb.Fatalf("testutil: jobs have run %d times, and more are due: does a task enqueue itself, or snooze for 0 seconds, for ever?", limit)
	return report
}

// size returns how many jobs have not ended.
func (r *Recorder) size() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.table.rows)
}

// keep notes the tasks that have a history.
func (r *Recorder) keep(histories map[string]time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.table.kept == nil {
		r.table.kept = map[string]bool{}
	}
	for task := range histories {
		r.table.kept[task] = true
	}
}

// claim takes the next job that is due.
func (r *Recorder) claim(jobs *seam.Inline, snoozed map[int64]bool) (*row, *wire.Job) {
	var forbidden []string
	if jobs.Forbidden != nil {
		forbidden = jobs.Forbidden()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now() // of one moment, or what becomes due between the two is missed
	row, job := r.table.claim(jobs.Tasks, forbidden, now)
	for row == nil && jobs.Scheduled && r.table.advance(jobs.Tasks, snoozed, now) {
		row, job = r.table.claim(jobs.Tasks, forbidden, now)
	}
	return row, job
}

func (r *Recorder) end(ended *row, outcome worker.Outcome, letters bool) (exhausted bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.table.end(ended, outcome, letters, time.Now())
}

// reason is why a job that has failed for good is a dead letter.
func reason(outcome worker.Outcome) worker.Reason {
	if outcome.Kind == worker.OutcomeExhausted {
		return worker.ReasonPermanent
	}
	return worker.ReasonExhausted
}

// execute runs a job on a goroutine of its own, as a worker does: runtime.Goexit ends the job, not
// the test.
func execute(ctx context.Context, jobs *seam.Inline, job *wire.Job, outcome *worker.Outcome) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		jobs.Execute(ctx, job, outcome)
	}()
	<-ended
}

func count(report *backfill.Report, kind worker.OutcomeKind, exhausted bool) {
	switch kind {
	case worker.OutcomeCompleted:
		report.Completed++
	case worker.OutcomeFailed, worker.OutcomeExhausted:
		report.Failed++
		if exhausted {
			report.Exhausted++
		}
	case worker.OutcomeSnoozed:
		report.Snoozed++
	case worker.OutcomeReturned:
		report.Returned++
	case worker.OutcomeCanceled:
		report.Canceled++
	}
}

// note tells observers and the log how a job ended.
func note(jobs *seam.Inline, job *wire.Job, outcome worker.Outcome, took time.Duration) {
	event := worker.Event{Job: job, Err: outcome.Err, Duration: took}
	switch outcome.Kind {
	case worker.OutcomeCompleted:
		event.Kind = worker.EventFinished
	case worker.OutcomeFailed, worker.OutcomeExhausted:
		event.Kind, event.Final = worker.EventFailed, outcome.Kind == worker.OutcomeExhausted || job.Attempt >= job.MaxAttempts
		if !event.Final {
			event.Delay = outcome.Delay
		}
		jobs.Logger.LogAttrs(context.Background(), slog.LevelWarn, "job failed", slog.String("task", job.Task), slog.Int64("job_id", job.ID),
			slog.Int("attempt", job.Attempt), slog.Bool("final", event.Final), slog.Any("error", outcome.Err))
	case worker.OutcomeSnoozed:
		event.Kind, event.Delay = worker.EventSnoozed, outcome.Delay
	case worker.OutcomeCanceled:
		event.Kind = worker.EventCanceled
	case worker.OutcomeReturned:
		return
	}
	observe(jobs, event)
}

func observe(jobs *seam.Inline, event worker.Event) {
	if jobs.Observe != nil {
		jobs.Observe(event)
	}
}
