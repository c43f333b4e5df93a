package admin

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// TriggerCron enqueues the job of an entry of a crontab out of its turn, with what the entry says in
// the live Go worker that was started last. The ticks of the entry come as before, and none is
// recorded for this job. ErrNotFound is returned if no Go worker has the entry: what Node workers
// schedule stands in their code alone, and EnqueueJob enqueues it.
func (a *Admin) TriggerCron(ctx context.Context, identifier string, options ChangeOptions) (*Outcome, error) {
	e := &cronExplaining{x: &CronExplanation{Schema: a.schema, Identifier: identifier}}
	err := pg.Read(ctx, a.pool, a.schema, func(r *pg.Reader) error {
		e.reading = reading{ctx: ctx, reader: r}
		if err := e.readServer(); err != nil {
			return err
		}
		if err := e.readWorkers(); err != nil {
			return err
		}
		return e.readEntries()
	})
	if err != nil {
		return nil, fmt.Errorf("look for the cron entry %s: %w", quoteShort(identifier), err)
	}
	if len(e.described) == 0 {
		return nil, fmt.Errorf("%w: no Go worker that lives has the cron entry %s, and what Node workers enqueue stands in their code alone",
			ErrNotFound, quoteShort(identifier))
	}
	d := e.described[len(e.described)-1]
	spec := wire.Spec{
		Task: d.Task, Payload: worker.CronPayload(d.Payload, e.now.Truncate(time.Minute), false), Queue: d.Queue, Key: d.Key,
		KeyMode: wire.KeyMode(d.KeyMode), MaxAttempts: cmp.Or(d.MaxAttempts, defaultMaxAttempts), Flags: d.Flags,
	}
	if d.Priority != nil {
		spec.Priority = *d.Priority
	}
	target := Target{Kind: KindCron, ID: identifier, Task: d.Task, Queue: d.Queue}
	return (&change{admin: a, action: ActionTrigger, target: target, options: options}).enqueue(ctx, target, spec)
}
