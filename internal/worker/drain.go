package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/backfillhq/go/internal/trouble"
	"github.com/backfillhq/go/internal/wire"
)

// drain stops the worker: it claims no more, gives back what has not started, waits for the
// handlers that run, cancels them, waits a little more, and gives back what still runs.
func (w *Worker) drain(cancelJobs context.CancelCauseFunc) {
	running := 0
	var told time.Time
	w.on(func(c *core, now time.Time) (do actions) {
		running, do = c.drained(now)
		if told = w.toldAt; told.IsZero() {
			told = now
		}
		return do
	})
	w.observe(Event{Kind: EventDraining, Count: running})
	if running > 0 { // else it stops at once
		w.config.Logger.InfoContext(context.Background(),
			"worker drains: running jobs may finish, and are cancelled after the timeout",
			slog.Int("jobs", running), slog.Duration("timeout", w.config.DrainTimeout))
	}
	handlers := func(c *core) int { return c.handling }
	if !w.await(w.config.DrainTimeout-time.Since(told), handlers) { // an observer or a log may have taken long
		cancelJobs(ErrShutdown)
		if !w.await(w.config.CancelTimeout, handlers) {
			w.abandon()
		}
	}
	w.mu.Lock()
	w.core.closed = true
	w.ready.Broadcast()
	w.mu.Unlock()
}

// await reports whether nothing is left within d. It asks whenever the dispatcher would be told.
func (w *Worker) await(d time.Duration, left func(*core) int) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		w.mu.Lock()
		n := left(&w.core)
		w.mu.Unlock()
		if n == 0 {
			return true
		}
		select {
		case <-w.kick:
		case <-timer.C:
			return false
		}
	}
}

// abandon gives back the jobs whose handlers ignore their cancelled contexts.
func (w *Worker) abandon() {
	var left []*lease
	var ran []time.Duration // how long each has, which is read while it runs
	w.on(func(c *core, now time.Time) (do actions) {
		for _, l := range c.leases.in[leaseRunning] {
			ran = append(ran, now.Sub(l.since))
		}
		left, do = c.abandon(now)
		return do
	})
	names := make([]string, len(left))
	for i, l := range left {
		names[i] = jobName(l.Job)
		w.reportEnd(l.workerID, l.Job, l.interrupted(), ran[i])
	}
	if len(left) > 0 {
		w.config.Logger.WarnContext(context.Background(),
			"jobs ignore their cancelled contexts, and are given back while they run",
			slog.Int("count", len(left)), slog.String("jobs", trouble.Names(names)))
	}
}

// retire marks the worker's row as dead and releases what is locked under its ids and not recorded,
// apart from jobs with one attempt in all that have had it: they must not run again (R9), so the next
// worker that looks ends them. An error says which jobs run again although they have run, which have
// failed although they may have succeeded, and what may stay locked.
func (w *Worker) retire(statements context.Context) error {
	w.setState(StateStopped)
	w.observe(Event{Kind: EventStopped})
	w.troubles.say(w.config.Logger)
	w.mu.Lock()
	id, left, open := w.core.id, w.core.leases.all(leaseEnding, leaseAbandoned), w.core.doubts
	w.mu.Unlock()
	clean := len(left)+len(open) == 0 // else the other workers look for what is locked
	err := persist(statements, func() error { return w.store.Retire(statements, id, clean) })
	if err != nil {
		err = fmt.Errorf("mark its row as dead: %w", err)
	}
	if len(left) > 0 {
		open.about(id)
	}
	var again, over []*lease
	for _, l := range left {
		if l.only() && l.outcome.Kind != OutcomeReturned && l.outcome.Kind != OutcomeSnoozed {
			over = append(over, l)
		} else {
			again = append(again, l)
		}
	}
	for _, about := range open {
		reclaimErr := persist(statements, func() error { return w.reclaimAll(statements, about.id, tokens(over)) })
		if reclaimErr != nil {
			err = errors.Join(err, fmt.Errorf(
				"release what is locked: %w; the next worker that runs releases it, or call UnlockWorker(%q)", reclaimErr, about.id))
		}
	}
	if len(again) > 0 {
		err = errors.Join(err, fmt.Errorf("the outcomes of %d jobs were not recorded, so these jobs run again: job ids %s",
			len(again), trouble.Names(ids(again))))
	}
	if len(over) > 0 {
		err = errors.Join(err, fmt.Errorf("the outcomes of %d jobs with one attempt were not recorded, so these jobs fail: job ids %s",
			len(over), trouble.Names(ids(over))))
	}
	if err != nil {
		return fmt.Errorf("stop worker %s: %w", id, err)
	}
	w.config.Logger.LogAttrs(context.Background(), w.lifeLevel(), "worker stopped", slog.String("worker_id", id))
	return nil
}

func ids(list []*lease) []int64 {
	ids := make([]int64, len(list))
	for i, l := range list {
		ids[i] = l.ID
	}
	return ids
}

// reclaimAll releases everything that is locked under an id, apart from some leases.
func (w *Worker) reclaimAll(ctx context.Context, id string, apartFrom []wire.Lease) error {
	answer, err := w.store.Reclaim(ctx, id, apartFrom)
	if err != nil {
		return err
	}
	w.reclaimed(id, answer)
	if !answer.Settled {
		return errors.New("a claim of it may still commit, or somebody else has locked a row")
	}
	return nil
}

// persist tries until it succeeds, or ctx ends: then it returns the last error.
func persist(ctx context.Context, try func() error) error {
	for failures := 1; ; failures++ {
		err := try()
		if err == nil || !sleep(ctx, backoff(failures, errorMin, errorMax/4)) {
			return err
		}
	}
}
