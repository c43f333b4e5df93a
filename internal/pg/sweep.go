package pg

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/internal/pg/query"
	"github.com/backfillhq/go/internal/worker"
)

const (
	// sweepPage is how many rows one statement of a sweep looks at, and pageTimeout bounds it.
	sweepPage   = 10_000
	pageTimeout = 10 * time.Second
	// turnTimeout bounds the question whose turn it is, with the wait for a listener.
	turnTimeout = 5 * time.Second
	// restFactor is how many times as long as a page a worker's sweep pauses after it, so that a sweep
	// takes less than a tenth of one connection's time.
	restFactor = 10
	// maxOwners is how many owners of locks a sweep tells of.
	maxOwners = 20
)

// Sweep implements worker.Store. Whose turn it is, an advisory lock of the listener's session tells
// (TakeTurn).
func (s *Store) Sweep(ctx context.Context, workerID string) (worker.Swept, error) {
	mine, err := s.takeTurn(ctx)
	if err != nil || !mine {
		s.sweep.restart() // others go through all rows meanwhile
		return worker.Swept{}, err
	}
	swept, err := s.sweep.run(ctx, workerID)
	swept.Turn = true
	return swept, err
}

// takeTurn asks on the listener's connection. Without a listener nothing is this worker's turn.
func (s *Store) takeTurn(ctx context.Context) (mine bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, turnTimeout)
	defer cancel()
	answered := make(chan error, 1)
	ask := func(conn *pgx.Conn) (err error) {
		mine, err = s.claims.texts.queries(conn).TakeTurn(ctx, s.settings.Schema)
		answered <- err
		return err
	}
	select {
	case s.asks <- ask:
		if err := <-answered; err != nil {
			return false, fmt.Errorf("ask whose turn it is to sweep: %w", err)
		}
		return mine, nil
	case <-ctx.Done():
		return false, nil
	}
}

// sweep goes through all jobs, and then all queues. It releases what is locked for too long, and
// adds up what else is locked.
type sweep struct {
	queries *query.Queries
	rest    func(ctx context.Context, d time.Duration) bool // false: ctx has ended

	// Where it goes on. A sweep that ends for its deadline or an error is continued by the next one, so
	// that a table which takes longer is swept, too.
	queueing bool // the jobs are done
	after    int64
	locks    map[string]*worker.HeldLocks // by owner, so far
}

func newSweep(queries *query.Queries, rest func(context.Context, time.Duration) bool) *sweep {
	s := &sweep{queries: queries, rest: rest}
	s.restart()
	return s
}

func (s *sweep) restart() {
	s.queueing, s.after, s.locks = false, 0, make(map[string]*worker.HeldLocks)
}

// run sweeps what others than this worker have locked: their locks are told of.
func (s *sweep) run(ctx context.Context, workerID string) (swept worker.Swept, err error) {
	for {
		sent := time.Now()
		rows, err := s.page(ctx, workerID)
		if err != nil {
			return swept, err
		}
		if s.queueing {
			swept.Queues += int(rows[0].Swept)
		} else {
			swept.Jobs += int(rows[0].Swept)
		}
		s.add(rows)
		s.after = rows[0].Last
		if rows[0].Seen < sweepPage {
			if s.queueing {
				break
			}
			s.queueing, s.after = true, 0
		}
		if !s.rest(ctx, restFactor*time.Since(sent)) {
			return swept, nil
		}
	}
	swept.Locks, err = s.owners(ctx)
	swept.Whole = err == nil
	s.restart()
	return swept, err
}

// page sweeps the next rows. Each of what it returns has the counts, and an owner of locks.
func (s *sweep) page(ctx context.Context, workerID string) ([]query.SweepJobsRow, error) {
	ctx, cancel := context.WithTimeout(ctx, pageTimeout)
	defer cancel()
	params := query.SweepJobsParams{After: s.after, Size: sweepPage, WorkerID: workerID}
	if !s.queueing {
		rows, err := s.queries.SweepJobs(ctx, params)
		if err != nil {
			return nil, fmt.Errorf("release stale jobs: %w", err)
		}
		return rows, nil
	}
	found, err := s.queries.SweepQueues(ctx, query.SweepQueuesParams(params))
	if err != nil {
		return nil, fmt.Errorf("release stale queues: %w", err)
	}
	rows := make([]query.SweepJobsRow, len(found))
	for i, row := range found {
		rows[i] = query.SweepJobsRow(row)
	}
	return rows, nil
}

// add adds up the locks that a page has.
func (s *sweep) add(rows []query.SweepJobsRow) {
	for _, row := range rows {
		if row.Owner == "" {
			continue
		}
		held := s.locks[row.Owner]
		if held == nil {
			held = &worker.HeldLocks{Owner: row.Owner}
			s.locks[row.Owner] = held
		}
		if s.queueing {
			held.Queues += int(row.Locks)
		} else {
			held.Jobs += int(row.Locks)
		}
		held.Oldest = max(held.Oldest, seconds(row.OldestSeconds))
	}
}

// owners returns the locks of those who have held theirs for longest, and who they are.
func (s *sweep) owners(ctx context.Context) ([]worker.HeldLocks, error) {
	if len(s.locks) == 0 {
		return nil, nil
	}
	held := slices.SortedFunc(maps.Values(s.locks), func(a, b *worker.HeldLocks) int {
		return cmp.Or(-cmp.Compare(a.Oldest, b.Oldest), cmp.Compare(a.Owner, b.Owner))
	})
	var locks []worker.HeldLocks
	var ids []string
	for _, h := range held[:min(len(held), maxOwners)] {
		locks, ids = append(locks, *h), append(ids, h.Owner)
	}
	ctx, cancel := context.WithTimeout(ctx, pageTimeout)
	defer cancel()
	found, err := s.queries.LockOwners(ctx, ids)
	if err != nil {
		return nil, fmt.Errorf("look up who holds locks: %w", err)
	}
	for _, owner := range found {
		l := &locks[slices.Index(ids, owner.ID)]
		l.Host, l.Pid, l.Dead = owner.Host, int(owner.Pid), owner.Dead
	}
	return locks, nil
}

// rest waits. It reports false when ctx ended first.
func rest(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

func noRest(context.Context, time.Duration) bool { return true }
