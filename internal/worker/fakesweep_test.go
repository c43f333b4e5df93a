package worker_test

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

func (s *fakeStore) Sweep(ctx context.Context, workerID string, starting bool) (swept worker.Swept, err error) {
	err = s.do(ctx, call{Op: opSweep}, func() []int64 {
		if mine := s.db.takeTurn(workerID); mine || starting {
			swept = s.db.sweep(workerID, mine)
		}
		return nil
	})
	if s.long > 0 && swept.Turn && err == nil {
		s.long--
		<-ctx.Done()
		swept.Done, swept.Locks = false, nil
	}
	return swept, err
}

// takeTurn reports whether it is this worker's turn to sweep for all, and notes that it does.
func (db *fakeDB) takeTurn(workerID string) bool {
	db.mu.Lock()
	defer db.mu.Unlock()
	for id, at := range db.sweptAt {
		if id != workerID && db.alive(id) && time.Since(at) < 15*time.Minute {
			return false
		}
	}
	if db.alive(workerID) {
		db.sweptAt[workerID] = time.Now()
	}
	return db.alive(workerID)
}

// sweep releases what is stale, and returns what others than this worker have locked: of all rows,
// or of the first jobs and queues.
func (db *fakeDB) sweep(workerID string, all bool) worker.Swept {
	db.mu.Lock()
	defer db.mu.Unlock()
	jobs := slices.SortedFunc(maps.Values(db.jobs), func(a, b *fakeJob) int { return cmp.Compare(a.ID, b.ID) })
	queues := slices.SortedFunc(maps.Values(db.queues), func(a, b *fakeQueue) int { return cmp.Compare(a.ID, b.ID) })
	if page := 10_000; !all {
		jobs, queues = jobs[:min(len(jobs), page)], queues[:min(len(queues), page)]
	}
	swept := worker.Swept{Turn: all, Done: true}
	held := make(map[string]*worker.HeldLocks)
	// visit releases a stale lock, or returns whose it is: nil if that needs no telling.
	visit := func(lockedBy *string, at time.Time, busy bool) (released bool, of *worker.HeldLocks) {
		stale := time.Since(at) > 4*time.Hour
		owner, _, _ := strings.Cut(*lockedBy, ".")
		if !wire.IsWorkerID(owner) {
			owner = *lockedBy
		}
		switch {
		case !stale && strings.HasPrefix(owner, suspectPrefix): // nobody has it
			return false, nil
		case owner == "" || stale && busy || !stale && owner == workerID:
			return false, nil
		case stale:
			*lockedBy = ""
			return true, nil
		case held[owner] == nil:
			held[owner] = &worker.HeldLocks{Owner: owner, Dead: db.workers[owner] != nil && !db.alive(owner)}
		}
		held[owner].Oldest = max(held[owner].Oldest, time.Since(at))
		return false, held[owner]
	}
	for _, job := range jobs {
		if db.requested(job) && time.Since(job.LockedAt) > 4*time.Hour {
			continue
		}
		before := *job
		if released, of := visit(&job.LockedBy, job.LockedAt, job.Busy); released {
			if strings.HasPrefix(before.LockedBy, "pool-") {
				db.keep(&before, keptLost, "the lock was 4 hours old", true)
			}
			job.RunAt = later(time.Now(), job.RunAt)
			swept.Jobs++
		} else if of != nil {
			of.Jobs++
		}
	}
	for _, queue := range queues {
		if released, of := visit(&queue.LockedBy, queue.LockedAt, queue.Held); released {
			swept.Queues++
		} else if of != nil {
			of.Queues++
		}
	}
	if all {
		db.sweepCrashes()
		db.buryFailed(jobs, &swept)
	}
	for _, of := range held {
		swept.Locks = append(swept.Locks, *of)
	}
	slices.SortFunc(swept.Locks, func(a, b worker.HeldLocks) int { return cmp.Compare(b.Oldest, a.Oldest) })
	return swept
}

// sweepCrashes forgets crashes that nobody asks for any more, and frees the queues of suspects that
// are gone; db.mu is held.
func (db *fakeDB) sweepCrashes() {
	db.crashes = slices.DeleteFunc(db.crashes, func(c *fakeCrash) bool {
		job := db.jobs[c.job]
		switch {
		case c.judged.IsZero():
			return (job == nil || job.LockedBy != c.token) && time.Since(c.began) > time.Minute
		case c.verdict != "":
			return time.Since(c.judged) > time.Hour
		default:
			return job == nil || job.LockedBy == "" && job.Attempt >= job.MaxAttempts
		}
	})
	for name, queue := range db.queues {
		if strings.HasPrefix(queue.LockedBy, suspectPrefix) && !db.heldBy(name, queue.LockedBy) {
			queue.LockedBy = ""
		}
	}
}
