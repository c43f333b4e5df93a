package admin

import (
	"context"
)

type unlockBody struct {
	reasoned

	Force bool `json:"force,omitzero"` // also if nobody can tell whether its worker lives: make sure that it does not
}

// LockCleanup is what was released, or, of a dry run, what would be.
type LockCleanup struct {
	_ [0]func() // fields may be added

	CleanedLocks

	DryRun bool `json:"dry_run"`
	// Partial says that a dry run has not looked at all jobs.
	Partial bool `json:"partial,omitempty"`
}

func (a *Admin) cleanUpLocks(ctx context.Context, dry bool, options ChangeOptions) (*LockCleanup, error) {
	if !dry {
		cleaned, err := a.CleanLocks(ctx, options)
		if err != nil {
			return nil, err
		}
		if cleaned.Workers == nil {
			cleaned.Workers = []string{}
		}
		return &LockCleanup{CleanedLocks: *cleaned}, nil
	}
	if err := a.allow(ctx, ActionUnlock, Target{Kind: KindDatabase, ID: a.schema}); err != nil {
		return nil, err
	}
	locks, err := a.Locks(ctx)
	if err != nil {
		return nil, err
	}
	if len(locks.Missing) > 0 {
		return nil, &UnreadableError{locks.Missing[0]}
	}
	would := &LockCleanup{DryRun: true, Partial: locks.Partial, CleanedLocks: CleanedLocks{Workers: []string{}}}
	for i := range locks.Locks {
		l := &locks.Locks[i]
		if l.Holder == HolderDead {
			would.Workers = append(would.Workers, l.LockedBy)
			would.Jobs, would.Queues = would.Jobs+len(l.Jobs), would.Queues+len(l.Queues)
			continue
		}
		stale := 0
		for _, job := range l.Jobs {
			if job.Stale {
				stale++
			}
		}
		would.Jobs, would.Queues = would.Jobs+stale, would.Queues+l.Stale-stale
	}
	return would, nil
}

func apiListLocks(ctx context.Context, a *Admin, _ *nothing) (*LockList, error) {
	return a.Locks(ctx)
}

type cleanUpLocksInput struct {
	repeatable
	Body struct {
		reasoned

		DryRun bool `json:"dry_run,omitzero"` // change nothing, and say what would be released
	} `body:"*"`
}

func apiCleanUpLocks(ctx context.Context, a *Admin, in *cleanUpLocksInput) (*LockCleanup, error) {
	return a.cleanUpLocks(ctx, in.Body.DryRun, in.options(in.Body.Reason))
}

type unlockQueueInput struct {
	Name string `path:"name"`
	repeatable
	Body unlockBody `body:"*"`
}

func apiUnlockQueue(ctx context.Context, a *Admin, in *unlockQueueInput) (*Outcome, error) {
	return settled(a.UnlockQueue(ctx, in.Name, in.Body.Force, in.options(in.Body.Reason)))
}

type unlockWorkerInput struct {
	Worker string `path:"id"` // a worker's id, or a value of locked_by
	repeatable
	Body unlockBody `body:"*"`
}

func apiUnlockWorker(ctx context.Context, a *Admin, in *unlockWorkerInput) (*Unlocked, error) {
	unlocked, err := a.UnlockWorker(ctx, in.Worker, in.Body.Force, in.options(in.Body.Reason))
	if err == nil && unlocked.Skip != "" {
		return nil, conflict(&unlocked.Outcome)
	}
	return unlocked, err
}
