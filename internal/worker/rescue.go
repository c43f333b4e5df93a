package worker

import (
	"context"
	"log/slog"
	"time"

	"github.com/backfillhq/go/internal/trouble"
	"github.com/backfillhq/go/internal/wire"
)

// rescueTimeout bounds the statements of one look at the other workers, which may read all jobs.
const rescueTimeout = lookTimeout

// Rescued is what a rescue has done.
type Rescued struct {
	Jobs    []*wire.Job // that were released; as the dead worker had them
	Crashed []*wire.Job // that have failed for good, because it had their only attempt (R9)
	Queues  int         // that were released
	// Settled are the workers by whom nothing is locked any more. The others are to be rescued again.
	Settled []string
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
		err := w.rescue(statements)
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
	rescued, err := w.store.Rescue(ctx, release)
	w.report(rescued) // what was released is, also when it failed half way
	o.rescued(release, rescued.Settled, time.Now())
	return err
}

// report tells of jobs that a dead worker has left.
func (w *Worker) report(rescued Rescued) {
	for _, job := range rescued.Crashed {
		w.reportEnd("", job, Outcome{Kind: OutcomeExhausted, Err: ErrCrashed}, 0)
	}
	if len(rescued.Jobs)+rescued.Queues == 0 {
		return
	}
	names := make([]string, len(rescued.Jobs))
	for i, job := range rescued.Jobs {
		names[i] = jobName(job)
		w.observe(Event{Kind: EventRescued, Job: job})
	}
	w.config.Logger.LogAttrs(context.Background(), slog.LevelWarn, "released jobs of a dead worker",
		slog.Int("jobs", len(rescued.Jobs)), slog.Int("queues", rescued.Queues), slog.String("released", trouble.Names(names)))
	w.announce(len(rescued.Jobs) + rescued.Queues)
}
