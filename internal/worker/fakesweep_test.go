package worker_test

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

func (s *fakeStore) Sweep(ctx context.Context, workerID string) (swept worker.Swept, err error) {
	answer := make(chan bool, 1)
	select {
	case s.asks <- answer:
		swept.Turn = <-answer
	case <-time.After(5 * time.Second): // nobody listens
	}
	err = s.do(ctx, call{Op: opSweep}, func() []int64 {
		if swept.Turn {
			swept = s.db.sweep(workerID)
		}
		return nil
	})
	return swept, err
}

// takeTurn gives the turn to sweep to a listener, unless another one has it: for this period and
// the next.
func (db *fakeDB) takeTurn(l *fakeListener) bool {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.turn != nil && db.turn != l && time.Now().Before(db.turnUntil) {
		return false
	}
	const period = 20 * time.Minute
	db.turn, db.turnUntil = l, time.Now().Truncate(period).Add(2*period)
	return true
}

// sweep releases what is stale, and returns what others than this worker have locked.
func (db *fakeDB) sweep(workerID string) worker.Swept {
	db.mu.Lock()
	defer db.mu.Unlock()
	swept := worker.Swept{Turn: true, Whole: true}
	held := make(map[string]*worker.HeldLocks)
	// visit releases a stale lock, or returns whose it is: nil if that needs no telling.
	visit := func(lockedBy *string, at time.Time, busy bool) (released bool, of *worker.HeldLocks) {
		stale := time.Since(at) > 4*time.Hour
		owner, _, _ := strings.Cut(*lockedBy, ".")
		if !wire.IsWorkerID(owner) {
			owner = *lockedBy
		}
		switch {
		case owner == "" || stale && busy || !stale && owner == workerID:
			return false, nil
		case stale:
			*lockedBy = ""
			return true, nil
		case held[owner] == nil:
			alive, known := db.workers[owner]
			held[owner] = &worker.HeldLocks{Owner: owner, Dead: known && !alive}
		}
		held[owner].Oldest = max(held[owner].Oldest, time.Since(at))
		return false, held[owner]
	}
	for _, job := range db.jobs {
		if released, of := visit(&job.LockedBy, job.LockedAt, job.Busy); released {
			job.RunAt = later(time.Now(), job.RunAt)
			swept.Jobs++
		} else if of != nil {
			of.Jobs++
		}
	}
	for _, queue := range db.queues {
		if released, of := visit(&queue.LockedBy, queue.LockedAt, queue.Held); released {
			swept.Queues++
		} else if of != nil {
			of.Queues++
		}
	}
	for _, of := range held {
		swept.Locks = append(swept.Locks, *of)
	}
	slices.SortFunc(swept.Locks, func(a, b worker.HeldLocks) int { return cmp.Compare(b.Oldest, a.Oldest) })
	return swept
}
