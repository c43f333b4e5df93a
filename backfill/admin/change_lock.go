package admin

import (
	"context"
	"errors"
	"fmt"

	"github.com/backfillhq/go/internal/pg"
)

// UnlockQueue frees a queue that a dead worker has locked, or that has been locked for over 4 hours,
// if no job of it is locked. Force also frees one whose worker nobody can tell of, as of those of
// Node: make sure first that its process is dead, else jobs of the queue run at the same time.
func (a *Admin) UnlockQueue(ctx context.Context, queue string, force bool, options ChangeOptions) (*Outcome, error) {
	if err := checkName(queue); err != nil {
		return nil, invalid(named("queue", err))
	}
	target := Target{Kind: KindQueue, ID: queue, Queue: queue}
	ch := &change{admin: a, action: ActionUnlock, target: target, options: options, detail: forced(force)}
	return ch.run(ctx, func(ctx context.Context, c *pg.Changing) (*pg.Item, error) {
		if err := a.allow(ctx, ActionUnlock, target); err != nil {
			return nil, err
		}
		return c.FreeQueue(ctx, queue, force)
	})
}

func forced(force bool) any {
	if force {
		return map[string]bool{"force": true}
	}
	return nil
}

// Unlocked is what was released.
type Unlocked struct {
	_ [0]func() // fields may be added

	Outcome

	Jobs   int `json:"jobs"`
	Queues int `json:"queues"`
	// Left are jobs and queues of it that another transaction has locked: ask again.
	Left int `json:"left"`
}

// UnlockWorker declares a worker dead and releases what it has locked, so that others can run it. It
// takes the worker's id, or a value of locked_by. A Go worker that lives is left as it is, and so is
// one that nobody can tell of, as of those of Node; with force neither is: make sure first that its
// process is dead, else its jobs start again while they still run. The declaration is recorded in its
// transaction; what follows is done in several, and asking again goes on with it.
func (a *Admin) UnlockWorker(ctx context.Context, lockedBy string, force bool, options ChangeOptions) (*Unlocked, error) {
	if err := checkName(lockedBy); err != nil {
		return nil, invalid(named("worker", err))
	}
	state, err := a.writer.WorkerState(ctx, lockedBy)
	if err != nil {
		return nil, fmt.Errorf("look for worker %s: %w", quoteShort(lockedBy), err)
	}
	target := Target{Kind: KindWorker, ID: state.ID}
	ch := &change{admin: a, action: ActionUnlock, target: target, options: options, detail: forced(force)}
	outcome, err := ch.run(ctx, func(ctx context.Context, c *pg.Changing) (*pg.Item, error) {
		if err := a.allow(ctx, ActionUnlock, target); err != nil {
			return nil, err
		}
		switch {
		case state.Jobs+state.Queues == 0:
			return &pg.Item{Skip: pg.SkipUnlocked, Detail: "it has locked nothing: compare locked_by in the view jobs and in _private_job_queues"}, nil
		case state.Suspects:
			return &pg.Item{}, nil
		case !state.Known && !force:
			return &pg.Item{Skip: pg.SkipForeign, Worker: state.ID, Detail: "nobody can tell whether it lives: it is a Node worker, or one without heartbeats"}, nil
		}
		alive, err := c.Retire(ctx, state.ID, force)
		if err == nil && alive != "" {
			return &pg.Item{Skip: pg.SkipRunning, Worker: state.ID, Detail: alive}, nil
		}
		return &pg.Item{}, err
	})
	if err != nil {
		return nil, err
	}
	unlocked := &Unlocked{Outcome: *outcome}
	if outcome.Skip == "" {
		err = a.release(ctx, lockedBy, state, unlocked)
	}
	return unlocked, err
}

// release releases what a worker has locked that was declared dead; before is what that was.
func (a *Admin) release(ctx context.Context, lockedBy string, before pg.WorkerState, unlocked *Unlocked) error {
	jobs, queues, _, err := a.writer.Unlock(ctx, lockedBy)
	if errors.Is(err, pg.ErrNotLocked) { // others were faster
		err = nil
	}
	unlocked.Jobs, unlocked.Queues = jobs, queues
	if jobs+queues > 0 {
		a.writer.Wake(ctx)
	}
	if err != nil {
		return fmt.Errorf("worker %s was declared dead, but not all that it has locked was released: ask again: %w", unlocked.ID, err)
	}
	after, err := a.writer.WorkerState(ctx, lockedBy)
	unlocked.Queues, unlocked.Left = max(queues, before.Queues-after.Queues), after.Jobs+after.Queues // queues go with their jobs
	return err
}

// CleanedLocks is what CleanLocks has released.
type CleanedLocks struct {
	_ [0]func() // fields may be added

	Workers []string `json:"workers"` // that were dead and had locked something
	Jobs    int      `json:"jobs"`
	Queues  int      `json:"queues"`
	Left    int      `json:"left"`            // that another transaction has locked: ask again
	Record  string   `json:"record,omitzero"` // the id of the record
}

// CleanLocks releases what dead Go workers have locked, and what has been locked for over 4 hours,
// which is what Graphile Worker does with locks of Node workers. Workers do both by themselves.
func (a *Admin) CleanLocks(ctx context.Context, options ChangeOptions) (*CleanedLocks, error) {
	target := Target{Kind: KindDatabase, ID: a.schema}
	ch := &change{admin: a, action: ActionUnlock, target: target, options: options}
	outcome, err := ch.run(ctx, func(ctx context.Context, _ *pg.Changing) (*pg.Item, error) {
		return &pg.Item{}, a.allow(ctx, ActionUnlock, target)
	})
	if err != nil {
		return nil, err
	}
	cleaned := &CleanedLocks{Record: outcome.Record}
	if cleaned.Workers, err = a.writer.DeadHolders(ctx); err != nil {
		return cleaned, fmt.Errorf("look for dead workers: %w", err)
	}
	for _, id := range cleaned.Workers {
		unlocked := &Unlocked{Outcome: Outcome{ID: id}}
		before, err := a.writer.WorkerState(ctx, id)
		if err == nil {
			err = a.release(ctx, id, before, unlocked)
		}
		cleaned.Jobs, cleaned.Queues, cleaned.Left = cleaned.Jobs+unlocked.Jobs, cleaned.Queues+unlocked.Queues, cleaned.Left+unlocked.Left
		if err != nil {
			return cleaned, err
		}
	}
	jobs, queues, err := a.writer.Sweep(ctx)
	cleaned.Jobs, cleaned.Queues = cleaned.Jobs+jobs, cleaned.Queues+queues
	if jobs+queues > 0 {
		a.writer.Wake(ctx)
	}
	if err != nil {
		return cleaned, fmt.Errorf("release what has been locked for over 4 hours: %w", err)
	}
	return cleaned, nil
}
