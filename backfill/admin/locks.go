package admin

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/backfillhq/go/internal/pg/query"
	"github.com/backfillhq/go/internal/wire"
)

// Lock is what somebody has locked.
type Lock struct {
	LockedBy string      `json:"locked_by"`
	Holder   LockHolder  `json:"holder"`
	Worker   *Worker     `json:"worker,omitempty"` // if it is a Go worker with a row
	Since    Time        `json:"since"`            // the oldest of its locks
	Jobs     []LockedJob `json:"jobs,omitempty"`
	Queues   []string    `json:"queues,omitempty"`
	Stale    int         `json:"stale,omitempty"` // how many of its locks are older than 4 hours, and count no more
}

// LockedJob is a job that is locked.
type LockedJob struct {
	ID    int64  `json:"id"`
	Task  string `json:"task"`
	Queue string `json:"queue,omitempty"`
	Since Time   `json:"since"`
	Stale bool   `json:"stale,omitempty"`
}

// LockHolder says what is known of who has locked something.
type LockHolder string

// The holders of locks.
const (
	HolderLives   LockHolder = "lives"   // a Go worker that lives
	HolderSilent  LockHolder = "silent"  // a Go worker without a heartbeat for more than 30 s
	HolderDead    LockHolder = "dead"    // a Go worker: others release what it has locked
	HolderTrial   LockHolder = "trial"   // nobody: the jobs are suspects, and wait for a trial
	HolderUnknown LockHolder = "unknown" // Node's, or a Go worker without a row: nobody can tell whether it lives
)

// LockList is what is locked, by whom, the oldest lock first.
type LockList struct {
	At    time.Time `json:"at"` // by the database's clock
	Locks []Lock    `json:"locks"`
	// Partial says that not all jobs were searched: jobs that are locked and that no Go worker says it
	// runs may be missing.
	Partial bool      `json:"partial,omitempty"`
	Missing []Missing `json:"missing,omitempty"`
}

// Locks says who has locked what: jobs that Go workers say they run, those among the newest 200,000 at
// most, 1,000 in all, and queues, 1,000 at most.
func (a *Admin) Locks(ctx context.Context) (*LockList, error) {
	var list *LockList
	err := a.read(ctx, func(r *reading) error {
		list = &LockList{At: r.now}
		filter := JobFilter{Locked: true}
		s := &searching{reading: r, admin: a, filter: filter, pg: filter.toPG(), size: mostPage}
		if err := s.search(jobPlace{}); err != nil {
			return err
		}
		list.Partial = s.list.Next != ""
		byHolder := map[string]*Lock{}
		of := func(lockedBy string, since Time) *Lock {
			name := lockedBy
			if w := r.worker(lockedBy); w != nil {
				name = w.ID
			}
			l := byHolder[name]
			if l == nil {
				l = r.newLock(name)
				byHolder[name] = l
			}
			if l.Since.IsZero() || since.before(l.Since) {
				l.Since = since
			}
			return l
		}
		for i := range s.list.Jobs {
			j := &s.list.Jobs[i]
			l := of(j.LockedBy, j.LockedAt)
			locked := LockedJob{ID: j.ID, Task: j.Task, Queue: j.Queue, Since: j.LockedAt, Stale: r.stale(j.LockedAt)}
			if l.Jobs = append(l.Jobs, locked); locked.Stale {
				l.Stale++
			}
		}
		queues, err := a.lockedQueues(r)
		if err != nil {
			return err
		}
		list.Partial = list.Partial || len(queues) == mostPage
		for _, q := range queues {
			l := of(q.LockedBy, timeOf(q.LockedAt))
			if l.Queues = append(l.Queues, q.QueueName); q.Stale {
				l.Stale++
			}
		}
		list.Locks = make([]Lock, 0, len(byHolder))
		for _, l := range byHolder {
			list.Locks = append(list.Locks, *l)
		}
		slices.SortFunc(list.Locks, func(a, b Lock) int {
			if a.Since.before(b.Since) {
				return -1
			}
			if b.Since.before(a.Since) {
				return 1
			}
			return strings.Compare(a.LockedBy, b.LockedBy)
		})
		list.Missing = r.missing()
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list locks: %w", err)
	}
	return list, nil
}

// lockedQueues reads the queues that are locked and that the principal may read.
func (a *Admin) lockedQueues(r *reading) ([]query.QueuesPageRow, error) {
	if !r.can(queuesTable, "the queues") {
		return nil, nil
	}
	rows, _, err := fact(r, "the queues", func(q *query.Queries, ctx context.Context) ([]query.QueuesPageRow, error) {
		return q.QueuesPage(ctx, query.QueuesPageParams{Locked: true, Size: mostPage})
	})
	return slices.DeleteFunc(rows, func(row query.QueuesPageRow) bool {
		return !a.may(r.ctx, ActionRead, Target{Kind: KindQueue, Queue: row.QueueName})
	}), err
}

// newLock says what is known of a holder.
func (r *reading) newLock(lockedBy string) *Lock {
	l := &Lock{LockedBy: lockedBy, Holder: HolderUnknown}
	w := r.worker(lockedBy)
	_, suspect := wire.CohortOf(lockedBy)
	switch {
	case suspect:
		l.Holder = HolderTrial
		return l
	case w == nil:
		return l
	case w.DeadAt.Valid:
		l.Holder = HolderDead
	case silence(*w) > deadAfter:
		l.Holder = HolderSilent
	default:
		l.Holder = HolderLives
	}
	worker := newWorker(*w)
	worker.Tasks = nil // they say nothing of the lock
	l.Worker = &worker
	return l
}

// lockAge is how long a lock counts.
const lockAge = 4 * time.Hour

// stale reports whether a lock counts no more.
func (r *reading) stale(since Time) bool {
	return since.Infinite < 0 || since.Infinite == 0 && since.Time.Before(r.now.Add(-lockAge))
}

// before reports whether a time is before another.
func (t Time) before(other Time) bool {
	if t.Infinite != other.Infinite {
		return cmp.Less(t.Infinite, other.Infinite)
	}
	return t.Infinite == 0 && t.Time.Before(other.Time)
}
