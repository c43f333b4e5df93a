package pg

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/internal/pg/query"
	"github.com/backfillhq/go/internal/schema"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// Store serves one worker; it implements worker.Store.
type Store struct {
	settings Settings
	pool     *pgxpool.Pool
	queries  *query.Queries
	tasks    []string
	resolved time.Time // when the ids of tasks were looked up
	served   atomic.Pointer[map[int32]string]
	claims   claims
}

var _ worker.Store = (*Store)(nil)

// resolveEvery is how often a claim looks up the ids of tasks again. They change when an operator deletes the names that no job
// has (Admin.DeleteTasks), and the next enqueue adds them again.
const resolveEvery = 5 * time.Second

// Open returns a store with a pool of its own. It connects when it is first used.
func Open(ctx context.Context, settings Settings) (*Store, error) {
	pool, err := settings.openWorkerPool(ctx)
	if err != nil {
		return nil, err
	}
	texts := newTexts(settings.Schema)
	return &Store{settings: settings, pool: pool, queries: texts.queries(pool), claims: claims{texts: texts}}, nil
}

// Close closes the connections.
func (s *Store) Close() { s.pool.Close() }

// Register implements worker.Store.
func (s *Store) Register(ctx context.Context, workerID string, tasks []string) (err error) {
	defer func() { err = s.settings.explainWork(err) }()
	s.tasks = distinct(tasks)
	taskIDs, err := s.addTasks(ctx)
	if err != nil {
		return err
	}
	if err := s.queries.DeleteOldWorkers(ctx); err != nil {
		return fmt.Errorf("delete old workers: %w", err)
	}
	host, _ := os.Hostname()                                                                                       // only informs the operator
	err = s.queries.InsertWorker(ctx, query.InsertWorkerParams{ID: workerID, Host: host, Pid: int32(os.Getpid())}) //nolint:gosec // a pid
	if err != nil {
		return fmt.Errorf("insert worker: %w", err)
	}
	s.claims.reset(taskIDs)
	return nil
}

// addTasks makes sure that every task has an id. Names are added one by one: somebody's open transaction may have added some of
// them, and to wait for it while holding another could be a deadlock.
func (s *Store) addTasks(ctx context.Context) (map[int32]string, error) {
	for {
		ids, err := s.taskIDs(ctx)
		if err != nil || len(ids) == len(s.tasks) {
			return ids, err
		}
		known := slices.Collect(maps.Values(ids))
		for _, name := range s.tasks {
			if slices.Contains(known, name) {
				continue
			}
			if err := s.queries.AddTasks(ctx, []string{name}); err != nil {
				return nil, fmt.Errorf("add task name %q, which an open transaction may be adding: %w", name, err)
			}
		}
	}
}

// taskIDs looks up the ids of tasks.
func (s *Store) taskIDs(ctx context.Context) (map[int32]string, error) {
	rows, err := s.queries.TaskIDs(ctx, s.tasks)
	if err != nil {
		return nil, fmt.Errorf("read task ids: %w", err)
	}
	s.resolved = time.Now()
	ids := make(map[int32]string, len(rows))
	for _, row := range rows {
		ids[row.ID] = row.Identifier
	}
	s.served.Store(&ids)
	return ids, nil
}

// Retire implements worker.Store.
func (s *Store) Retire(ctx context.Context, workerID string) error {
	return s.queries.RetireWorker(ctx, workerID)
}

// Claim implements worker.Store.
func (s *Store) Claim(ctx context.Context, request worker.ClaimRequest) (worker.Claimed, error) {
	if time.Since(s.resolved) >= resolveEvery {
		taskIDs, err := s.taskIDs(ctx)
		if err != nil {
			return worker.Claimed{}, err
		}
		s.claims.serve(taskIDs)
	}
	return s.claims.claim(ctx, s.pool, request)
}

// Complete implements worker.Store.
func (s *Store) Complete(ctx context.Context, leases []wire.Lease) (worker.Settled, error) {
	ids, tokens := columns(leases)
	done, err := s.queries.CompleteJobs(ctx, query.CompleteJobsParams{Ids: ids, Tokens: tokens})
	if err != nil {
		return worker.Settled{}, fmt.Errorf("complete jobs: %w", err)
	}
	var settled worker.Settled
	s.noteNext(&settled, done.NextTasks...)
	return s.settle(ctx, settled, leases, done.Ids)
}

// Fail implements worker.Store.
func (s *Store) Fail(ctx context.Context, failed []worker.Ended) (worker.Settled, error) {
	leases := make([]wire.Lease, len(failed))
	params := query.FailJobsParams{}
	for i, f := range failed {
		leases[i] = f.Lease
		params.Errors = append(params.Errors, f.Text)
		params.DelaysUs = append(params.DelaysUs, f.Delay.Microseconds())
		params.Permanent = append(params.Permanent, f.Kind == worker.OutcomeExhausted)
		params.Payloads = append(params.Payloads, string(f.Payload))
	}
	params.Ids, params.Tokens = columns(leases)
	rows, err := s.queries.FailJobs(ctx, params)
	if err != nil {
		return worker.Settled{}, fmt.Errorf("record failures: %w", err)
	}
	return settleRows(ctx, s, leases, rows)
}

// Release implements worker.Store.
func (s *Store) Release(ctx context.Context, released []worker.Ended) (worker.Settled, error) {
	leases := make([]wire.Lease, len(released))
	params := query.ReleaseJobsParams{}
	for i, r := range released {
		leases[i] = r.Lease
		delay := int64(-1)
		if r.Kind == worker.OutcomeSnoozed {
			delay = max(0, r.Delay.Microseconds())
		}
		params.DelaysUs = append(params.DelaysUs, delay)
	}
	params.Ids, params.Tokens = columns(leases)
	rows, err := s.queries.ReleaseJobs(ctx, params)
	if err != nil {
		return worker.Settled{}, fmt.Errorf("give back jobs: %w", err)
	}
	return settleRows(ctx, s, leases, rows)
}

// settleRows counts the jobs that a statement recorded, and settles the others.
func settleRows[R query.FailJobsRow | query.ReleaseJobsRow](
	ctx context.Context, s *Store, leases []wire.Lease, rows []R,
) (worker.Settled, error) {
	done := make([]int64, len(rows))
	var settled worker.Settled
	for i := range rows {
		row := query.FailJobsRow(rows[i]) // the same columns
		done[i] = row.ID
		note(&settled, row.ID, row.Retry, row.DueUs)
		s.noteNext(&settled, row.NextTask)
	}
	return s.settle(ctx, settled, leases, done)
}

// note adds one recorded job to what a statement settled.
func note(settled *worker.Settled, id int64, retry bool, dueMicroseconds int64) {
	if !retry {
		settled.Exhausted = append(settled.Exhausted, id)
		return
	}
	due := max(time.Duration(dueMicroseconds)*time.Microsecond, time.Microsecond)
	if settled.NextDue == 0 || due < settled.NextDue {
		settled.NextDue = due
	}
}

// noteNext adds the tasks of the jobs that are first in line in queues; 0: none is due.
func (s *Store) noteNext(settled *worker.Settled, tasks ...int32) {
	for _, task := range tasks {
		if _, own := (*s.served.Load())[task]; own {
			settled.NextOwn++
		} else if task != 0 {
			settled.NextForeign++
		}
	}
}

// settle asks once about the leases that a statement passed over. Those that are lost leave their queue locked, if it still
// is, and nobody else would free it (R7).
func (s *Store) settle(ctx context.Context, settled worker.Settled, leases []wire.Lease, done []int64) (worker.Settled, error) {
	if len(done) == len(leases) {
		return settled, nil
	}
	missing := without(leases, done)
	ids, _ := columns(missing)
	rows, err := s.queries.LeaseHolders(ctx, ids)
	if err != nil {
		return settled, fmt.Errorf("ask for leases: %w", err)
	}
	holders := make(map[int64]string, len(rows))
	for _, row := range rows {
		holders[row.ID] = row.LockedBy.String
	}
	var free query.FreeQueuesParams
	for _, lease := range missing {
		if holders[lease.ID] == lease.Token {
			settled.Busy = append(settled.Busy, lease.ID)
			continue
		}
		settled.Lost = append(settled.Lost, lease.ID)
		if lease.QueueID != 0 {
			free.Ids = append(free.Ids, lease.QueueID)
			free.Claims = append(free.Claims, lease.Claim())
		}
	}
	if len(free.Ids) == 0 {
		return settled, nil
	}
	if err := s.queries.FreeQueues(ctx, free); err != nil {
		return settled, fmt.Errorf("free queues of lost jobs: %w", err)
	}
	return settled, nil
}

// Renew implements worker.Store.
func (s *Store) Renew(ctx context.Context, leases []wire.Lease) (lost []int64, err error) {
	var params query.RenewJobsParams
	params.Ids, params.Tokens = columns(leases)
	for _, lease := range leases {
		params.QueueIds = append(params.QueueIds, lease.QueueID)
		params.Claims = append(params.Claims, lease.Claim())
	}
	renewed, err := s.queries.RenewJobs(ctx, params)
	if err != nil {
		return nil, fmt.Errorf("renew leases: %w", err)
	}
	settled, err := s.settle(ctx, worker.Settled{}, leases, renewed)
	return settled.Lost, err
}

// Sweep implements worker.Store.
func (s *Store) Sweep(ctx context.Context) (jobs, queues int, err error) {
	return sweep(ctx, s.queries)
}

// Ping implements worker.Store.
func (s *Store) Ping(ctx context.Context, payload string) error {
	return s.queries.Notify(ctx, query.NotifyParams{Channel: channelPing, Payload: payload})
}

// CheckSchema implements worker.Store.
func (s *Store) CheckSchema(ctx context.Context) error {
	_, err := schema.CheckLedger(ctx, s.pool, s.settings.Schema)
	if _, breaking := errors.AsType[*schema.BreakingError](err); breaking {
		return err
	}
	return nil
}

func columns(leases []wire.Lease) (ids []int64, tokens []string) {
	ids, tokens = make([]int64, len(leases)), make([]string, len(leases))
	for i, lease := range leases {
		ids[i], tokens[i] = lease.ID, lease.Token
	}
	return ids, tokens
}

func without(leases []wire.Lease, done []int64) []wire.Lease {
	settled := make(map[int64]bool, len(done))
	for _, id := range done {
		settled[id] = true
	}
	return slices.DeleteFunc(slices.Clone(leases), func(l wire.Lease) bool { return settled[l.ID] })
}

// flagNames returns the names of the wire's flags, an object {"name": true}.
func flagNames(flags []byte) []string {
	if len(flags) == 0 {
		return nil
	}
	var set map[string]any
	if err := json.Unmarshal(flags, &set); err != nil {
		return nil // not an object: no flags
	}
	return slices.Sorted(maps.Keys(set))
}
