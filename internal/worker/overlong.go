package worker

import (
	"context"
	"log/slog"
	"slices"
	"time"
)

// A handler that hangs looks like one that works: its lease is renewed for as long as the process
// lives. Only the time that it takes tells the two apart.
const (
	overlongFactor = 10               // times what almost all jobs of the task have taken
	overlongLeast  = time.Minute      // less is not worth a look
	overlongFirst  = 15 * time.Minute // while nobody knows how long jobs of the task take
	timeoutGrace   = 5 * time.Second  // for a handler whose context has ended

	overlongEvery = time.Minute // between two lines of the log
)

// OverlongJob is a job whose handler runs for longer than expected.
type OverlongJob struct {
	ID       int64
	Task     string
	Since    time.Time     // when the handler was called
	Expected time.Duration // how long it should have taken at most
}

// overlong returns the jobs that run for longer than expected and are not stuck, the longest first.
func (c *core) overlong(now time.Time) (jobs []OverlongJob) {
	for _, l := range c.overlongLeases(now) {
		jobs = append(jobs, OverlongJob{ID: l.ID, Task: l.Task, Since: l.since, Expected: c.expected(l.Task)})
	}
	return jobs
}

// overlongLeases returns their leases, in the same order.
func (c *core) overlongLeases(now time.Time) (late []*lease) {
	for _, l := range c.leases.in[leaseRunning] {
		if took := now.Sub(l.since); took > timeoutGrace && took > c.expected(l.Task) && !c.isStuck(l, now) { // most have not taken so long
			late = append(late, l)
		}
	}
	slices.SortFunc(late, func(a, b *lease) int { return a.since.Compare(b.since) })
	return late
}

// sayOverlong says which handlers may hang, and where they are, until ctx ends: of each job once,
// and of one at a time, because the stack costs a look at all goroutines.
func (w *Worker) sayOverlong(ctx context.Context) {
	for sleep(ctx, overlongEvery) {
		w.mu.Lock()
		now := time.Now()
		late := w.core.overlongLeases(now)
		at := slices.IndexFunc(late, func(l *lease) bool { return !l.saidLate })
		if at < 0 {
			w.mu.Unlock()
			continue
		}
		l := late[at]
		l.saidLate = true
		took, expected := now.Sub(l.since), w.core.expected(l.Task)
		w.mu.Unlock()
		w.config.Logger.LogAttrs(ctx, slog.LevelWarn, "handler takes longer than expected: it may hang",
			slog.String("task", l.Task), slog.Int64("job_id", l.ID), slog.Int("attempt", l.Attempt), slog.String("queue", l.Queue),
			slog.String("worker_id", l.workerID), slog.Duration("duration", took), slog.Duration("expected", expected),
			slog.Int("such_jobs", len(late)), slog.String("stack", stacksOf(l).short()))
	}
}

// expected returns how long a job of a task should take at most: as long as the task's timeout
// says, or else by what its jobs have taken so far.
func (c *core) expected(task string) time.Duration {
	if timeout := c.timeouts[task]; timeout > 0 {
		return timeout + timeoutGrace
	}
	if p99, known := c.durations[task].p99(); known {
		return max(overlongFactor*p99, overlongLeast)
	}
	return overlongFirst
}
