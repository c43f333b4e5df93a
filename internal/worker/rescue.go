package worker

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/backfillhq/go/internal/trouble"
	"github.com/backfillhq/go/internal/wire"
)

// rescueTimeout bounds the statements of one look at the other workers, which may read all jobs.
const rescueTimeout = lookTimeout

// Rescued is what a rescue has done.
type Rescued struct {
	Jobs   []*wire.Job // that were released; as the dead worker had them
	Parked []*wire.Job // that are suspects now (R30)
	Dead   []DeadJob   // that have failed for good
	Paused []string    // tasks, because too many of their jobs were convicted
	Queues int         // that were released

	Canceled []CanceledJob // that were deleted, because their end was requested
	// Settled are the workers by whom nothing is locked any more. The others are to be rescued again.
	Settled []string
}

// DeadJob is a job that has failed for good, and why.
type DeadJob struct {
	*wire.Job

	Err    error
	Reason Reason // of the dead letter that it has become; "": its row stays
}

// Add adds what a part of the rescue has done.
func (r *Rescued) Add(part Rescued) {
	r.Jobs, r.Parked = append(r.Jobs, part.Jobs...), append(r.Parked, part.Parked...)
	r.Dead, r.Paused = append(r.Dead, part.Dead...), append(r.Paused, part.Paused...)
	r.Canceled = append(r.Canceled, part.Canceled...)
	r.Queues += part.Queues
}

// watch judges the other workers whenever their rows were read, declares dead who is, and releases
// what the dead have locked, until ctx ends. It is a condition that every worker looks at again and
// again, and not an event: whoever fails half way is followed by whoever looks next. It is apart
// from the heartbeats, which wait for nothing.
func (w *Worker) watch(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.looks:
		}
		statements, cancel := context.WithTimeout(ctx, rescueTimeout)
		err := errors.Join(w.rescue(statements), w.seek(statements))
		cancel()
		switch {
		case ctx.Err() != nil:
		case err != nil:
			w.troubles.rescues.Failure(w.config.Logger, err)
		default:
			w.troubles.rescues.Success(w.config.Logger)
		}
	}
}

func (w *Worker) rescue(ctx context.Context) error {
	o := w.observer
	unlocked := map[string]bool{}
	if late := o.late(); len(late) > 0 {
		free, err := w.store.Unlocked(ctx, late)
		if err != nil {
			return err
		}
		for _, id := range free {
			unlocked[id] = true
		}
	}
	declare, release := o.dead(unlocked, time.Now())
	for _, peer := range declare {
		dead, err := w.store.Declare(ctx, peer.ID, peer.Beats)
		if err != nil {
			return err
		}
		if !dead {
			continue // it has beaten since, or a claim of it is under way
		}
		o.declared(peer.ID)
		release = append(release, peer.ID)
		w.config.Logger.LogAttrs(ctx, slog.LevelWarn, "worker is dead: its jobs are released", slog.String("worker_id", peer.ID),
			slog.String("host", peer.Host), slog.Int("pid", peer.Process.PID))
		w.observe(Event{Kind: EventDeath, WorkerID: peer.ID})
	}
	if len(release) == 0 {
		return nil
	}
	rescued, err := w.store.Rescue(ctx, RescueRequest{IDs: release, Settle: w.times.settle})
	w.report(rescued) // what was released is, also when it failed half way
	o.rescued(release, rescued.Settled, time.Now())
	return err
}

// report tells of jobs that a dead worker has left.
func (w *Worker) report(rescued Rescued) {
	for _, job := range rescued.Dead {
		owner, _, _ := strings.Cut(job.Token, ".")
		w.reportEnd(owner, job.Job, Outcome{Kind: OutcomeExhausted, Err: job.Err, Reason: job.Reason}, 0)
		if job.Reason != "" {
			w.bury(dead{Job: job.Job, workerID: owner, reason: job.Reason, err: job.Err, told: w.config.DeadLetters})
		}
	}
	w.reportCanceled("", rescued.Canceled)
	for _, task := range rescued.Paused {
		w.config.Logger.LogAttrs(context.Background(), slog.LevelError,
			"task is paused: three of its jobs have crashed their workers within an hour; fix the task, and call Resume", slog.String("task", task))
		w.observe(Event{Kind: EventPaused, Task: task})
	}
	for _, job := range rescued.Parked {
		w.observe(Event{Kind: EventSuspected, Job: job})
	}
	if len(rescued.Parked) > 0 {
		w.config.Logger.LogAttrs(context.Background(), slog.LevelWarn, "jobs of a dead worker were also held at an earlier crash: they wait for a trial",
			slog.Int("jobs", len(rescued.Parked)), slog.String("suspects", trouble.Names(jobNames(rescued.Parked))))
	}
	if len(rescued.Jobs)+rescued.Queues == 0 {
		return
	}
	for _, job := range rescued.Jobs {
		w.observe(Event{Kind: EventRescued, Job: job})
	}
	w.config.Logger.LogAttrs(context.Background(), slog.LevelWarn, "released jobs of a dead worker",
		slog.Int("jobs", len(rescued.Jobs)), slog.Int("queues", rescued.Queues), slog.String("released", trouble.Names(jobNames(rescued.Jobs))))
	w.announce(len(rescued.Jobs) + rescued.Queues)
}
