package testutil

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/migrations"
)

// drainTable reads the tables of the queue beside a drain.
type drainTable struct {
	pool   *pgxpool.Pool
	schema string
}

func (t drainTable) sql(text string) string { return migrations.Render(text, t.schema) }

// foreign returns who else works on the tables; "": nobody. own is the id of the drain's worker.
//
// A worker lives if the session lock of its heartbeats is held, or if it was heard of within half a
// minute: a worker behind a pooler holds no lock, nor does one that has just started.
func (t drainTable) foreign(ctx context.Context, own string) (who string, err error) {
	err = t.pool.QueryRow(ctx, t.sql(`
		select who from (
		  select 1 as rank, format('worker %s (process %s on %s)', w.id, w.pid, w.host) as who
		    from graphile_worker.backfill_workers as w
		   where w.dead_at is null and w.id <> $1
		     and (w.heartbeat_at > clock_timestamp() - interval '30 seconds'
		          or not pg_try_advisory_xact_lock_shared(hashtext('backfill worker ' || $2::text), hashtext(w.id)))
		  union all
		  select 2, format('job %s of task %s is locked by %s since %s', j.id, t.identifier, j.locked_by, j.locked_at)
		    from graphile_worker._private_jobs as j join graphile_worker._private_tasks as t on t.id = j.task_id
		   where j.locked_by is not null and not starts_with(j.locked_by, $1 || '.') and not starts_with(j.locked_by, 'backfill-suspect.')
		  union all
		  select 3, format('queue %s is locked by %s since %s', s.queue_name, s.locked_by, s.locked_at)
		    from graphile_worker._private_job_queues as s
		   where s.locked_by is not null and not starts_with(s.locked_by, $1 || '.') and not starts_with(s.locked_by, 'backfill-suspect.')
		) as others order by rank, who limit 1`), own, t.schema).Scan(&who)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return "", fmt.Errorf("look for other workers: %w", err)
	}
	return who, nil
}

// next returns when something happens next by itself, after now and until then: a job becomes due,
// or a pause ends. Zero: nothing does.
func (t drainTable) next(ctx context.Context, tasks []string, now, until time.Time) (time.Time, error) {
	var next pgtype.Timestamptz
	err := t.pool.QueryRow(ctx, t.sql(`
		select min(at) from (
		  select min(j.run_at) as at from graphile_worker._private_jobs as j join graphile_worker._private_tasks as t on t.id = j.task_id
		   where j.is_available and t.identifier = any($1) and j.run_at > $2 and j.run_at <= $3
		  union all
		  select min(p.ends_at) from graphile_worker.backfill_pauses as p where p.ends_at > $2 and p.ends_at <= $3
		  union all
		  select min(p.ends_at) from graphile_worker.backfill_queue_pauses as p where p.ends_at > $2 and p.ends_at <= $3
		) as times`), tasks, now, until).Scan(&next)
	if err != nil {
		return time.Time{}, fmt.Errorf("look for what is due next: %w", err)
	}
	return next.Time, nil
}

// enqueued returns the tasks of the jobs with higher ids.
func (t drainTable) enqueued(ctx context.Context, above int64) (tasks []string, last int64, err error) {
	var task string
	rows, err := t.pool.Query(ctx, t.sql(`
		select j.id, t.identifier from graphile_worker._private_jobs as j join graphile_worker._private_tasks as t on t.id = j.task_id
		 where j.id > $1 order by j.id`), above)
	if err == nil {
		_, err = pgx.ForEachRow(rows, []any{&last, &task}, func() error {
			tasks = append(tasks, task)
			return nil
		})
	}
	if err != nil {
		return nil, 0, fmt.Errorf("look for new jobs: %w", err)
	}
	return tasks, max(above, last), nil
}

// left returns the jobs that are there, and what the tables say of why.
func (t drainTable) left(ctx context.Context, now time.Time) ([]leftRow, error) {
	rows, err := t.pool.Query(ctx, t.sql(`
		select j.id, t.identifier, coalesce(s.queue_name, ''), coalesce(j.key, ''), j.payload::text, j.run_at, j.created_at,
		       j.attempts, j.max_attempts, j.priority, j.revision, coalesce(j.flags::text, ''), coalesce(j.locked_by, ''),
		       coalesce(j.last_error, ''), j.run_at <= $1,
		       coalesce((select format('task %s, by %s: %s', p.task, p.paused_by, p.reason) from graphile_worker.backfill_pauses as p
		                  where p.task = t.identifier and coalesce(p.ends_at, 'infinity') > $1),
		                (select format('queue %s, by %s: %s', p.queue_name, p.paused_by, p.reason) from graphile_worker.backfill_queue_pauses as p
		                  where p.queue_name = s.queue_name and coalesce(p.ends_at, 'infinity') > $1), ''),
		       coalesce((select h.id from graphile_worker._private_jobs as h
		                  where h.job_queue_id = j.job_queue_id and h.is_available and h.run_at <= $1
		                  order by h.priority, h.run_at, h.id limit 1), 0)
		  from graphile_worker._private_jobs as j
		  join graphile_worker._private_tasks as t on t.id = j.task_id
		  left join graphile_worker._private_job_queues as s on s.id = j.job_queue_id
		 order by j.run_at, j.priority, j.id`), now)
	if err != nil {
		return nil, fmt.Errorf("look at the jobs that are left: %w", err)
	}
	left, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (leftRow, error) {
		l := leftRow{job: &wire.Job{}}
		var runAt pgtype.Timestamptz
		var flags string
		err := row.Scan(&l.job.ID, &l.job.Task, &l.job.Queue, &l.job.Key, &l.job.Payload, &runAt, &l.job.CreatedAt, &l.job.Attempt,
			&l.job.MaxAttempts, &l.job.Priority, &l.job.Revision, &flags, &l.lockedBy, &l.lastError, &l.due, &l.paused, &l.head)
		l.job.RunAt = runAt.Time
		var set map[string]any
		if json.Unmarshal([]byte(flags), &set) == nil { // not an object: no flags
			l.job.Flags = slices.Sorted(maps.Keys(set))
		}
		return l, err
	})
	if err != nil {
		return nil, fmt.Errorf("look at the jobs that are left: %w", err)
	}
	return left, nil
}

// leftRow is a job, and what keeps it.
type leftRow struct {
	job                         *wire.Job
	lockedBy, lastError, paused string
	due                         bool
	head                        int64 // the first job of its queue that is due
}

func (t drainTable) now(ctx context.Context) (now time.Time, err error) {
	if err := t.pool.QueryRow(ctx, "select pg_catalog.clock_timestamp()").Scan(&now); err != nil {
		return now, fmt.Errorf("ask for the time: %w", err)
	}
	return now, nil
}
