package worker

import (
	"context"
	"log/slog"
	"slices"
	"time"
)

// A handler that ignores the end of its context keeps its job, with the job's queue and key: no
// other run may begin beside it. It does not keep its slot: a task that hangs must not stop the
// others.
const (
	stuckGrace = 30 * time.Second // from the end of a handler's context until it counts as stuck
	stuckEvery = 5 * time.Second  // between two looks for such handlers, and two lines about them
)

// StuckJob is a job whose handler has ignored the end of its context for stuckGrace.
type StuckJob struct {
	ID        int64
	Task      string
	Since     time.Time // when the handler was called
	Ended     time.Time // when its context was seen to have ended, up to stuckEvery later
	Cause     error     // why it had
	SlotGiven bool      // another job may run in its place
}

// ending is the end of the context of a handler that goes on.
type ending struct {
	at    time.Time // when it was seen; zero: it was not
	cause error
}

// slots returns how many handlers may run: as configured, and one for each that is stuck and whose
// slot was given to others.
func (c *core) slots() int { return c.concurrency + c.given }

// idleSlots returns how many of the slots are free.
func (c *core) idleSlots() int { return c.slots() - c.handling }

// isStuck reports whether a handler that runs has ignored the end of its context for too long.
func (c *core) isStuck(l *lease, now time.Time) bool {
	return !l.ending.at.IsZero() && now.Sub(l.ending.at) >= stuckGrace/time.Duration(c.hurry)
}

// stuckLeases returns the leases of handlers that are stuck, the longest first.
func (c *core) stuckLeases(now time.Time) (stuck []*lease) {
	for _, l := range c.leases.in[leaseRunning] {
		if c.isStuck(l, now) {
			stuck = append(stuck, l)
		}
	}
	slices.SortFunc(stuck, func(a, b *lease) int { return a.ending.at.Compare(b.ending.at) })
	return stuck
}

// stuckJobs is stuckLeases, for Health.
func (c *core) stuckJobs(now time.Time) (jobs []StuckJob) {
	for _, l := range c.stuckLeases(now) {
		jobs = append(jobs, StuckJob{
			ID: l.ID, Task: l.Task, Since: l.since, Ended: l.ending.at, Cause: l.ending.cause, SlotGiven: l.slotGiven,
		})
	}
	return jobs
}

// giveSlots notes whose contexts have ended, and gives the slots of stuck handlers to others. It
// returns how many. Time counts from when the end was seen: a process that was frozen through both
// has given its handlers no time to return. No more slots are given than there are, so twice as
// many handlers run at most; further ones that are stuck keep theirs. A worker that stops gives
// none.
func (c *core) giveSlots(now time.Time) (slots int, do actions) {
	if c.state != StateRunning {
		return 0, do
	}
	for _, l := range c.leases.in[leaseRunning] {
		if l.ending.at.IsZero() {
			if cause := c.endOf(l, now); cause != nil {
				l.ending = ending{at: now, cause: cause}
			}
		}
	}
	for _, l := range c.stuckLeases(now) {
		if !l.slotGiven && c.given < c.concurrency {
			l.slotGiven = true
			c.given++
			slots++
		}
	}
	if slots > 0 {
		do = c.roomChanged()
	}
	return slots, do
}

// endOf says why the context of a handler has ended; nil: it has not. That of the task's timeout is
// made by Execute.
func (c *core) endOf(l *lease, now time.Time) error {
	if cause := context.Cause(l.ctx); cause != nil {
		return cause
	}
	if limit := c.timeouts[l.Task]; limit > 0 && now.Sub(l.since) >= limit {
		return ErrTimeout
	}
	return nil
}

// giveSlots gives the slots of stuck handlers to others, and says of each such handler once where
// it is, one at a time, because the stack costs a look at all goroutines. It ends with ctx; jobs is
// what the contexts of jobs derive from.
func (w *Worker) giveSlots(ctx, jobs context.Context) {
	for sleep(ctx, stuckEvery/time.Duration(max(w.config.Hurry, 1))) {
		slots := 0
		w.on(func(c *core, now time.Time) (do actions) {
			slots, do = c.giveSlots(now)
			return do
		})
		for range slots {
			go w.slot(jobs) // until a stuck handler returns, which ends its own
		}
		w.sayStuck(ctx)
	}
}

func (w *Worker) sayStuck(ctx context.Context) {
	w.mu.Lock()
	now := time.Now()
	stuck := w.core.stuckLeases(now)
	at := slices.IndexFunc(stuck, func(l *lease) bool { return !l.saidStuck })
	if at < 0 || w.core.state != StateRunning {
		w.mu.Unlock()
		return
	}
	l := stuck[at]
	l.saidStuck = true
	took, ending, given := now.Sub(l.since), l.ending, l.slotGiven
	w.mu.Unlock()
	slot := "given to others"
	if !given {
		slot = "kept: as many as the worker has are given already"
	}
	w.config.Logger.LogAttrs(ctx, slog.LevelWarn, "handler is stuck: it ignores that its context has ended",
		slog.String("task", l.Task), slog.Int64("job_id", l.ID), slog.Int("attempt", l.Attempt), slog.String("queue", l.Queue),
		slog.String("worker_id", l.workerID), slog.Duration("duration", took), slog.Any("cause", ending.cause),
		slog.Duration("since_then", now.Sub(ending.at)), slog.String("slot", slot), slog.Int("such_jobs", len(stuck)),
		slog.String("stack", stacksOf(l).short()))
}
