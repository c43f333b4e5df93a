package admin

import (
	"context"
	"net/http"
)

// lockRoutes are about what is locked.
func lockRoutes() []*route {
	return []*route{
		to(http.MethodGet, "/locks/status", "listLocks", "List who has locked what", func(ctx context.Context, a *Admin, _ *nothing) (*LockList, error) {
			return a.Locks(ctx)
		}),
		to(http.MethodPost, "/locks/cleanup", "cleanUpLocks", "Release what dead workers have locked, and locks older than 4 hours", func(ctx context.Context, a *Admin, in *struct {
			repeatable
			Body struct {
				reasoned

				DryRun bool `json:"dry_run,omitzero"` // change nothing, and say what would be released
			} `body:"CleanUpLocks"`
		}) (*LockCleanup, error) {
			return a.cleanUpLocks(ctx, in.Body.DryRun, in.options(in.Body.Reason))
		}).with("", "CLEANUP_FAILED"),
		to(http.MethodPost, "/queues/{name}/unlock", "unlockQueue", "Release a queue that a dead worker has locked", func(ctx context.Context, a *Admin, in *struct {
			Name string `path:"name"`
			repeatable
			Body unlock `body:"*"`
		}) (*Outcome, error) {
			return settled(a.UnlockQueue(ctx, in.Name, in.Body.Force, in.options(in.Body.Reason)))
		}).with("QUEUE_NOT_FOUND", ""),
		to(http.MethodPost, "/workers/{id}/unlock", "unlockWorker", "Declare a worker dead, and release what it has locked", func(ctx context.Context, a *Admin, in *struct {
			Worker string `path:"id"` // a worker's id, or a value of locked_by
			repeatable
			Body unlock `body:"*"`
		}) (*Unlocked, error) {
			unlocked, err := a.UnlockWorker(ctx, in.Worker, in.Body.Force, in.options(in.Body.Reason))
			if err == nil && unlocked.Skip != "" {
				return nil, conflict(&unlocked.Outcome)
			}
			return unlocked, err
		}).with("WORKER_NOT_FOUND", ""),
	}
}

type unlock struct {
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
