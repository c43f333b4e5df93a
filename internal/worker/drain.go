package worker

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/backfillhq/go/internal/wire"
)

// drain stops the worker: it claims no more, gives back what has not started, waits for what runs, cancels it, waits a little
// more, and gives back what still runs.
func (w *Worker) drain(cancelJobs context.CancelCauseFunc) {
	w.mu.Lock()
	w.state = StateDraining
	w.returnLocked(w.buffer.takeOlder(time.Now()))
	running := len(w.running)
	w.mu.Unlock()
	w.observe(Event{Kind: EventDraining, Count: running})
	if running > 0 { // else it stops at once
		w.config.Logger.InfoContext(context.Background(), "worker drains: running jobs may finish, and are cancelled after the timeout",
			slog.Int("jobs", running), slog.Duration("timeout", w.config.DrainTimeout))
	}

	handlers := func() int { return len(w.running) }
	if !w.await(w.config.DrainTimeout, handlers) {
		cancelJobs(ErrShutdown)
		if !w.await(w.config.CancelTimeout, handlers) {
			w.giveBackRunning()
		}
	}
	w.mu.Lock()
	w.closed = true
	w.ready.Broadcast()
	w.mu.Unlock()
}

// await reports whether nothing is left within d. It asks whenever the dispatcher would be told.
func (w *Worker) await(d time.Duration, leftLocked func() int) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		w.mu.Lock()
		left := leftLocked()
		w.mu.Unlock()
		if left == 0 {
			return true
		}
		select {
		case <-w.kick:
		case <-timer.C:
			return false
		}
	}
}

func (w *Worker) giveBackRunning() {
	w.mu.Lock()
	left := slices.Collect(maps.Keys(w.running))
	for _, run := range left {
		run.abandoned.Store(true)
		w.returnLocked([]*wire.Job{run.job})
	}
	w.mu.Unlock()
	for _, run := range left {
		w.config.Logger.WarnContext(context.Background(), "job ignores its cancelled context, and is given back while it runs",
			slog.String("task", run.job.Task), slog.Int64("job_id", run.job.ID), slog.Duration("duration", time.Since(run.started)))
	}
}

// finishRecording waits until the flusher has recorded what it can, but not longer than one statement may take.
func (w *Worker) finishRecording(stopFlusher context.CancelFunc, recorded <-chan struct{}) error {
	w.await(statementTimeout, func() int { return w.unrecorded })
	stopFlusher()
	<-recorded
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.unrecorded == 0 {
		return nil
	}
	ids := make([]int64, 0, len(w.pending))
	for _, f := range w.pending {
		ids = append(ids, f.job.ID)
	}
	return fmt.Errorf("stop worker %s: the outcome of %d jobs could not be recorded; they stay locked: job ids %v",
		w.id, w.unrecorded, ids)
}
