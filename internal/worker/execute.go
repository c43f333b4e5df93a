package worker

import (
	"context"
	"log/slog"
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
	// Reason is why the job becomes a dead letter if it has failed for good. For a Store, "" says that
	// it becomes none: its row stays. An Execute leaves it out.
	Reason Reason
	// Output is what the handler has left as its result, as JSON, and Log what it has logged, both for
	// the history. Only of an attempt that completes the job, the output is kept.
	Output []byte
	Log    string
	// Committed says that the job's own transaction has completed it, and what became of its lease.
	// nil: the outcome is to be recorded.
	Committed *Fate
	// Run is the traceparent of the run, which the next one links to; "": it was not traced.
	Run string
	// Unsure says that a transaction may have completed the job all the same: then it is gone.
	Unsure bool
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
	OutcomeCanceled                         // its end was requested: to release it deletes it
)

// slot runs one job after the other until the worker closes. The contexts of jobs derive from jobs.
func (w *Worker) slot(jobs context.Context) {
	for w.runNext(jobs) {
	}
}

func (w *Worker) runNext(jobs context.Context) (more bool) {
	l, ctx := w.start(jobs)
	if l == nil {
		return false
	}
	var outcome Outcome
	returned := false
	defer func() {
		l.cancel(nil)
		w.ended(l, outcome)
		more = !l.slotGiven // else another goroutine has taken this one's place already
		if more && !returned {
			// runtime.Goexit, as testing's FailNow calls it, ends this goroutine: another one takes
			// its place.
			go w.slot(jobs)
		}
	}()
	w.handle(ctx, l, &outcome)
	returned = true
	return true
}

// start waits for a job; nil when the worker closes.
func (w *Worker) start(jobs context.Context) (*lease, context.Context) {
	w.mu.Lock()
	for !w.core.closed {
		if first := w.core.buffer.first(); first == nil {
			w.ready.Wait()
		} else if first.QueueID == 0 || !w.core.overdue(w.times, w.config.Moment()) {
			break
		} else { // this process has slept: the fence takes the job before a slot does
			w.mu.Unlock()
			w.fence()
			w.mu.Lock()
		}
	}
	if w.core.closed {
		w.mu.Unlock()
		return nil, nil
	}
	ctx, cancel := context.WithCancelCause(jobs)
	l, do := w.core.start(ctx, cancel, time.Now())
	if !l.RunAt.IsZero() {
		w.core.counts.of(l.Task).Wait.note(w.config.Clock.Now().Sub(l.RunAt))
	}
	w.mu.Unlock()
	w.carryOut(do)
	w.observe(Event{Kind: EventStart, WorkerID: l.workerID, Job: l.Job})
	return l, ctx
}

// ended reports how a job ended, and leaves its outcome to the flusher.
func (w *Worker) ended(l *lease, outcome Outcome) {
	w.mu.Lock()
	counts, took, run := l.state == leaseRunning || outcome.Committed != nil, time.Since(l.since), outcome.Run
	log := outcome.Log
	if l.canceled != nil && outcome.Committed == nil && !outcome.Unsure {
		outcome = Outcome{Kind: OutcomeCanceled, Err: l.canceled.cause()} // whatever it has returned
	}
	if l.lost && (outcome.Kind == OutcomeFailed || outcome.Kind == OutcomeExhausted) {
		// The lease is lost, or may be, and the handler was cancelled for that: it is not the job's
		// fault. If the lease is still ours, the job is given back.
		outcome = Outcome{Kind: OutcomeReturned, Unsure: outcome.Unsure}
	}
	if outcome.Kind == OutcomeReturned {
		unsure := outcome.Unsure
		outcome = l.interrupted()
		outcome.Unsure = unsure
	}
	outcome.Run, outcome.Log = run, log
	w.mu.Unlock()
	if counts {
		w.reportEnd(l.workerID, l.Job, outcome, took)
	}
	w.on(func(c *core, now time.Time) actions { return c.ended(l, outcome, now) })
	w.progress.ended(l.Lease)
	if outcome.Committed != nil {
		w.observe(Event{Kind: EventCompleted, Count: 1})
	}
}

// reportEnd tells observers and the log how a handler ended. A job that is given back, or was
// cancelled, is told of when that is recorded.
func (w *Worker) reportEnd(workerID string, job *wire.Job, outcome Outcome, took time.Duration) {
	event := Event{WorkerID: workerID, Job: job, Err: outcome.Err, Duration: took}
	level, became := slog.LevelDebug, ""
	switch outcome.Kind {
	case OutcomeCompleted:
		event.Kind, became = EventFinished, "completed"
	case OutcomeFailed:
		event.Kind, level = EventFailed, slog.LevelWarn
		if event.Final = job.Attempt >= job.MaxAttempts; event.Final {
			became = "failed on its last attempt"
		} else {
			event.Delay, became = outcome.Delay, "failed, to be retried"
		}
	case OutcomeExhausted:
		event.Kind, event.Final, level, became = EventFailed, true, slog.LevelWarn, "failed permanently"
	case OutcomeSnoozed:
		event.Kind, event.Delay, became = EventSnoozed, outcome.Delay, "snoozed"
	case OutcomeReturned, OutcomeCanceled:
		return
	}
	w.observe(event)
	if !w.config.Logger.Enabled(context.Background(), level) {
		return
	}
	var attrs []slog.Attr
	if event.Final && w.config.DeadLetters {
		attrs = append(attrs, slog.String("dead_letter", string(outcome.reason())))
	}
	attrs = append(attrs,
		slog.String("outcome", became), slog.String("task", job.Task), slog.Int64("job_id", job.ID),
		slog.Int("attempt", job.Attempt), slog.String("queue", job.Queue), slog.String("worker_id", workerID),
		slog.Duration("duration", took),
	)
	if outcome.Err != nil {
		attrs = append(attrs, slog.Any("error", outcome.Err))
		if !event.Final {
			attrs = append(attrs, slog.Duration("retry_in", event.Delay))
		}
	}
	w.config.Logger.LogAttrs(context.Background(), level, "job ended", attrs...)
}
