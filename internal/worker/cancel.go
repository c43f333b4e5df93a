package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/backfillhq/go/internal/wire"
)

// cancelTimeout bounds the question which running jobs are to end. Each pollInterval, it is asked
// anew.
const cancelTimeout = pollInterval

// ErrCanceled is the cause of the end of a job's context when somebody has requested the end of the
// job.
var ErrCanceled = errors.New("job cancelled")

// Request says who has requested the end of a job, and why. Both may be empty.
type Request struct{ By, Reason string }

// cause is what ends the context of the job.
func (r Request) cause() error {
	switch {
	case r.By != "" && r.Reason != "":
		return fmt.Errorf("%w by %s: %s", ErrCanceled, r.By, r.Reason)
	case r.By != "":
		return fmt.Errorf("%w by %s", ErrCanceled, r.By)
	case r.Reason != "":
		return fmt.Errorf("%w: %s", ErrCanceled, r.Reason)
	}
	return ErrCanceled
}

// Requests are answers to the question which jobs are to end.
type Requests struct {
	Jobs  map[int64]Request // of those that were asked for
	Ended []CanceledJob     // that nobody ran, and that are deleted now
	Left  bool              // there may be others, such as one that came too late and is not old enough to be deleted
}

// CanceledJob is a job that was deleted because its end was requested.
type CanceledJob struct {
	*wire.Job

	Request Request
}

// watchCancels ends the contexts of handlers whose jobs somebody has cancelled, until ctx ends. It
// asks when it is notified, and, while jobs run or requests are left, after each poll interval.
func (w *Worker) watchCancels(ctx context.Context) {
	for left := false; ; {
		notified := false
		select {
		case <-ctx.Done():
			return
		case <-w.cancels:
			notified = true
		case <-time.After(pollInterval):
		}
		held := w.cancelable()
		if len(held) == 0 && !notified && !left {
			continue
		}
		statement, cancel := context.WithTimeout(ctx, cancelTimeout)
		found, err := w.store.Requested(statement, held)
		cancel()
		w.on(func(c *core, now time.Time) actions { return c.requested(found.Jobs, now) })
		w.reportCanceled("", found.Ended)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			w.troubles.cancels.Failure(w.config.Logger, err)
		default:
			left = found.Left
			w.troubles.cancels.Success(w.config.Logger)
		}
	}
}

// cancelable returns the ids of the jobs that run, or wait for a slot, and are not known to be
// cancelled.
func (w *Worker) cancelable() (ids []int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, l := range w.core.leases.all(leaseClaimed, leaseRunning) {
		if l.canceled == nil {
			ids = append(ids, l.ID)
		}
	}
	return ids
}

// requested takes that the ends of jobs were requested. Those that have not started do not.
func (c *core) requested(jobs map[int64]Request, now time.Time) (do actions) {
	if len(jobs) == 0 {
		return do
	}
	unstarted := c.buffer.take(func(l *lease) bool {
		request, ok := jobs[l.ID]
		if ok {
			l.canceled = &request
		}
		return ok
	})
	do = c.unstarted(unstarted, Outcome{Kind: OutcomeCanceled}, now)
	for _, l := range c.leases.in[leaseRunning] {
		if request, ok := jobs[l.ID]; ok && l.canceled == nil {
			l.canceled = &request
			do.cancel = append(do.cancel, cancellation{l.cancel, request.cause()})
		}
	}
	return do
}

// canceled is a job that was deleted at the end of a lease of this worker's.
type canceled struct {
	CanceledJob

	workerID string
}

// cancellation ends the context of a handler.
type cancellation struct {
	end   context.CancelCauseFunc
	cause error
}

// reportCanceled tells of jobs that were deleted because their end was requested.
func (w *Worker) reportCanceled(workerID string, jobs []CanceledJob) {
	for _, job := range jobs {
		w.observe(Event{Kind: EventCanceled, WorkerID: workerID, Job: job.Job, Err: job.Request.cause()})
		w.config.Logger.LogAttrs(context.Background(), slog.LevelInfo, "job cancelled", slog.String("task", job.Task),
			slog.Int64("job_id", job.ID), slog.Int("attempt", job.Attempt), slog.String("by", job.Request.By), slog.String("reason", job.Request.Reason))
	}
}
