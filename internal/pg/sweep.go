package pg

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/backfillhq/go/internal/pg/query"
	"github.com/backfillhq/go/internal/worker"
)

const (
	// sweepPage is how many rows one statement of a sweep looks at, and pageTimeout bounds each.
	sweepPage   = 10_000
	pageTimeout = 10 * time.Second
	// restFactor is how many times as long as a page a worker's sweep pauses after it, so that a sweep
	// takes less than a tenth of one connection's time.
	restFactor = 10
	// maxRefused is how many rows that the server refuses to release a sweep passes over.
	maxRefused = 100
	// maxOwners is how many owners of locks a sweep tells of.
	maxOwners = 20
)

// Sweep implements worker.Store. The workers' rows tell whose turn it is (TakeTurn).
func (s *Store) Sweep(ctx context.Context, workerID string, starting bool) (worker.Swept, error) {
	mine, err := s.takeTurn(ctx, workerID)
	if err = cmp.Or(err, s.noteHistory(ctx)); err != nil {
		return worker.Swept{}, err
	}
	if !mine {
		s.sweep.restart() // others go through all rows meanwhile
		if !starting {
			return worker.Swept{}, nil
		}
	}
	swept, err := s.sweep.run(ctx, workerID, mine)
	swept.Turn = mine
	if mine && swept.Done && err == nil {
		err = s.dropGone(ctx)
	}
	if ctx.Err() != nil {
		err = nil // its time was over during a page, with which the next one goes on
	}
	return swept, err
}

// dropGone deletes what is known of jobs that are gone, unless their rows are but hidden.
func (s *Store) dropGone(ctx context.Context) error {
	step, cancel := context.WithTimeout(ctx, pageTimeout)
	defer cancel()
	if _, err := s.visible(step); err != nil {
		return err
	}
	if err := s.sweepCrashes(ctx); err != nil {
		return err
	}
	if err := s.dropRequeued(ctx); err != nil {
		return err
	}
	return errors.Join(s.dropTraces(ctx), s.dropCounts(ctx), s.keepHistory(ctx))
}

// sweepCrashes forgets crashes that nobody asks for any more, and frees the queues of suspects that
// somebody has deleted.
func (s *Store) sweepCrashes(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pageTimeout)
	defer cancel()
	if _, err := s.queries.SweepCrashes(ctx); err != nil {
		return fmt.Errorf("forget old crashes: %w", err)
	}
	if _, err := ask(ctx, s.scanning, func(q *query.Queries, ctx context.Context, _ struct{}) (int64, error) {
		return q.FreeSuspectQueues(ctx)
	}, struct{}{}); err != nil {
		return fmt.Errorf("free the queues of suspects that are gone: %w", err)
	}
	return nil
}

func (s *Store) takeTurn(ctx context.Context, workerID string) (mine bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, pageTimeout)
	defer cancel()
	rows, err := s.queries.TakeTurn(ctx, query.TakeTurnParams{SchemaName: s.settings.Schema, ID: workerID})
	if err != nil {
		return false, fmt.Errorf("ask whose turn it is to sweep: %w", err)
	}
	return rows > 0, nil
}

// sweep goes through all jobs, and then all queues. It releases what is locked for too long, makes
// dead letters of jobs that have failed for good, and adds up what else is locked.
type sweep struct {
	in   transaction
	rest func(ctx context.Context, d time.Duration) bool // false: ctx has ended
	bury bool                                            // it makes dead letters

	// Where it goes on. A sweep that ends for its deadline or an error is continued by the next one,
	// so that a table which takes longer is swept, too.
	queueing bool // the jobs are done
	after    int64
	size     int32                        // of the next page: smaller beside a row that the server refuses to release
	refusals int                          // rows that were passed over
	refused  error                        // the first of them
	locks    map[string]*worker.HeldLocks // by owner, so far
}

func newSweep(in transaction, rest func(context.Context, time.Duration) bool, bury bool) *sweep {
	s := &sweep{in: in, rest: rest, bury: bury}
	s.restart()
	return s
}

func (s *sweep) restart() {
	s.queueing, s.after, s.size, s.locks = false, 0, sweepPage, make(map[string]*worker.HeldLocks)
	s.refusals, s.refused = 0, nil
}

// run sweeps all rows, or the first page of either table. It tells of the locks of others than this
// worker. Rows that the server refuses to release are passed over, and the first is the error of a
// sweep that is done.
func (s *sweep) run(ctx context.Context, workerID string, all bool) (swept worker.Swept, err error) {
	for {
		sent := time.Now()
		rows, err := s.page(ctx, workerID)
		if refusesRow(err) {
			err = s.narrow(ctx, err)
		}
		took := time.Since(sent)
		if err == nil && rows != nil {
			if s.queueing {
				swept.Queues += int(rows[0].Swept)
			} else {
				swept.Jobs += int(rows[0].Swept)
			}
			s.add(rows)
			if s.bury && all {
				if err := s.buryFailed(ctx, rows[0].Failed, &swept); err != nil {
					return swept, err
				}
			}
			if s.turned(rows[0], all) {
				break
			}
		}
		if err != nil {
			return swept, err
		}
		if !s.rest(ctx, restFactor*took) || len(swept.Dead) >= maxBuried {
			return swept, nil
		}
	}
	swept.Locks, err = s.owners(ctx)
	swept.Done = err == nil
	err = cmp.Or(err, s.refused)
	s.restart()
	return swept, err
}

// turned goes on to the next page, or to the queues. It reports whether there is nothing more.
func (s *sweep) turned(page query.SweepJobsRow, all bool) (done bool) {
	s.after = page.Last
	if page.Seen < s.size || !all && s.size == sweepPage {
		if s.queueing {
			return true
		}
		s.queueing, s.after = true, 0
	}
	s.size = min(2*s.size, sweepPage)
	return false
}

// narrow makes the next page smaller after one that the server refused for what a row holds. A row
// that is alone in its page is passed over.
func (s *sweep) narrow(ctx context.Context, refused error) error {
	if s.size > 1 {
		s.size /= 2
		return nil
	}
	next, what := (*query.Queries).NextJob, "job"
	if s.queueing {
		next, what = (*query.Queries).NextQueue, "queue"
	}
	id, err := ask(ctx, s.in, next, s.after)
	if err != nil {
		return fmt.Errorf("pass over a stale %s: %w", what, err)
	}
	if id == 0 || s.refusals == maxRefused { // it is no row's fault, or that of too many
		return refused
	}
	s.after = id
	s.refusals++
	s.refused = cmp.Or(s.refused, fmt.Errorf("%s %d: %w", what, id, refused))
	return nil
}

// page sweeps the next rows. Each of what it returns has the counts, and an owner of locks.
func (s *sweep) page(ctx context.Context, workerID string) (rows []query.SweepJobsRow, err error) {
	ctx, cancel := context.WithTimeout(ctx, pageTimeout)
	defer cancel()
	params := query.SweepJobsParams{After: s.after, Size: s.size, WorkerID: workerID}
	if !s.queueing {
		if rows, err = ask(ctx, s.in, (*query.Queries).SweepJobs, params); err != nil {
			return nil, fmt.Errorf("release stale jobs: %w", err)
		}
		return rows, nil
	}
	found, err := ask(ctx, s.in, (*query.Queries).SweepQueues, query.SweepQueuesParams(params))
	if err != nil {
		return nil, fmt.Errorf("release stale queues: %w", err)
	}
	for _, row := range found {
		rows = append(rows, query.SweepJobsRow{
			Swept: row.Swept, Seen: row.Seen, Last: row.Last, Owner: row.Owner, Locks: row.Locks, OldestSeconds: row.OldestSeconds,
		})
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
	found, err := ask(ctx, s.in, (*query.Queries).LockOwners, ids)
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
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

func noRest(context.Context, time.Duration) bool { return true }
