package worker

import (
	"context"
	"log/slog"

	"github.com/backfillhq/go/internal/trouble"
	"github.com/backfillhq/go/internal/wire"
)

// Reason says why a job is a dead letter. It is what failure_reason of the table says.
type Reason string

// The reasons.
const (
	ReasonExhausted   Reason = "exhausted"   // its last attempt failed
	ReasonPermanent   Reason = "permanent"   // its handler said that it cannot succeed
	ReasonCrashed     Reason = "crashed"     // it killed workers, or its worker died during the only attempt
	ReasonInterrupted Reason = "interrupted" // a stop, or a lost lease, cut the only attempt
	ReasonSwept       Reason = "swept"       // it was found without attempts left
)

// reason is why a job that ends with this outcome is a dead letter, if it fails for good. Whether it
// does, the database decides: others may have changed its attempts.
func (o Outcome) reason() Reason {
	switch {
	case o.Reason != "":
		return o.Reason
	case o.Kind == OutcomeExhausted:
		return ReasonPermanent
	default:
		return ReasonExhausted
	}
}

// dead is a job that has become a dead letter.
type dead struct {
	*wire.Job

	workerID string // that held it; "": this worker has found it
	reason   Reason
	err      error
	told     bool // the line about its end says so
}

// bury tells of a job that this worker has made a dead letter.
func (w *Worker) bury(d dead) {
	w.observe(Event{Kind: EventDead, WorkerID: d.workerID, Job: d.Job, Reason: d.reason, Err: d.err})
	if d.told {
		return
	}
	w.config.Logger.LogAttrs(context.Background(), slog.LevelWarn, "job is a dead letter", slog.String("dead_letter", string(d.reason)),
		slog.String("task", d.Task), slog.Int64("job_id", d.ID), slog.Int("attempt", d.Attempt))
}

// reportBuried tells of jobs that the sweep has made dead letters: of many in one line.
func (w *Worker) reportBuried(found []DeadJob) {
	if len(found) == 0 {
		return
	}
	jobs := make([]*wire.Job, len(found))
	for i, job := range found {
		jobs[i] = job.Job
		w.bury(dead{Job: job.Job, reason: job.Reason, err: job.Err, told: true})
	}
	w.config.Logger.LogAttrs(context.Background(), slog.LevelWarn, "jobs that had failed for good are dead letters now",
		slog.Int("jobs", len(found)), slog.String("dead_letter", string(ReasonSwept)), slog.String("found", trouble.Names(jobNames(jobs))))
}

// expire deletes dead letters that are too old.
func (w *Worker) expire(ctx context.Context) {
	if !w.config.DeadLetters || w.config.Retention <= 0 {
		return
	}
	statements, cancel := context.WithTimeout(ctx, sweepTimeout)
	defer cancel()
	expired, err := w.store.Expire(statements, w.config.Retention)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		w.troubles.sweeps.Failure(w.config.Logger, err)
	}
	if expired.Letters == 0 {
		return
	}
	w.config.Logger.LogAttrs(ctx, slog.LevelInfo, "deleted old dead letters", slog.Int("dead_letters", expired.Letters),
		slog.Duration("older_than", w.config.Retention))
	w.observe(Event{Kind: EventExpired, Count: expired.Letters})
}
