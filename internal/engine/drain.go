package engine

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"
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

	if !w.waitForRunning(w.config.DrainTimeout) {
		cancelJobs(ErrShutdown)
		if !w.waitForRunning(w.config.CancelTimeout) {
			w.giveBackRunning()
		}
	}
	w.mu.Lock()
	w.closed = true
	w.ready.Broadcast()
	w.mu.Unlock()
}

// waitForRunning reports whether every handler has returned within d.
func (w *Worker) waitForRunning(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		w.mu.Lock()
		running := len(w.running)
		w.mu.Unlock()
		if running == 0 {
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
		w.returnLocked([]*Job{run.job})
	}
	w.mu.Unlock()
	for _, run := range left {
		w.config.Logger.WarnContext(context.Background(), "job ignores its cancelled context, and is given back while it runs",
			slog.String("task", run.job.Task), slog.Int64("job_id", run.job.ID), slog.Duration("duration", time.Since(run.started)))
	}
}

// finishRecording waits until the flusher has recorded what it can.
func (w *Worker) finishRecording(stopFlusher context.CancelFunc, recorded <-chan struct{}) error {
	w.awaitRecorded()
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

// awaitRecorded waits for the flusher, but not longer than one statement may take.
func (w *Worker) awaitRecorded() {
	timer := time.NewTimer(statementTimeout)
	defer timer.Stop()
	for {
		w.mu.Lock()
		left := w.unrecorded
		w.mu.Unlock()
		if left == 0 {
			return
		}
		select {
		case <-w.kick:
		case <-timer.C:
			return
		}
	}
}
