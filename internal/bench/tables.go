package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// taskName is the task of all jobs here, but for those of otherTask, which nobody serves.
const (
	taskName  = "bench"
	otherTask = "elsewhere"
)

const pgInsufficientPrivilege = "42501"

// tables are Graphile Worker's, with our additive indexes where they are ours or the floor's. Peers have a schema of their own.
type tables struct {
	*lab
	schema string
}

func (l *lab) tables() tables { return tables{l, "graphile_worker"} }

// backlog is what waits in the tables before a run.
type backlog struct {
	jobs   int // with args from 0 on
	queues int // that jobs are dealt to in turns; 0: they have none
	first  int // only the first so many of jobs are in queues, and they are older; 0: all are
	stuck  int // ahead of jobs, half of them by priority, half by time; they have the first ids
	locked int // queues that the stuck are in, locked by somebody else; 0: they are of a task that nobody serves
}

func (t tables) reset(ctx context.Context, jobs int) error { return t.fill(ctx, backlog{jobs: jobs}) }

func (t tables) fill(ctx context.Context, b backlog) error {
	stuckTask := otherTask
	if b.locked > 0 {
		stuckTask = taskName
	}
	for _, statement := range []string{
		"truncate graphile_worker._private_jobs, graphile_worker._private_job_queues restart identity",
		"truncate graphile_worker.backfill_workers",
		fmt.Sprintf("insert into graphile_worker._private_tasks (identifier) values ('%s'), ('%s') on conflict do nothing", taskName, otherTask),
		fmt.Sprintf(`insert into graphile_worker._private_job_queues (queue_name, locked_at, locked_by)
		             select 'stuck ' || i, now(), 'somebody else' from generate_series(0, %d) as i
		              union all select 'queue ' || i, null, null from generate_series(0, %d) as i`, b.locked-1, b.queues-1),
		fmt.Sprintf(`insert into graphile_worker._private_jobs (task_id, job_queue_id, payload, priority, run_at)
		             select t.id, q.id, '{"n": -1}', -(i %% 2), now() - interval '1 hour' + i * interval '1 ms'
		               from generate_series(0, %d) as i join graphile_worker._private_tasks as t on t.identifier = '%s'
		               left join graphile_worker._private_job_queues as q on q.queue_name = 'stuck ' || i / 2 %% greatest(1, %d)
		              order by i`, b.stuck-1, stuckTask, b.locked),
		fmt.Sprintf(`insert into graphile_worker._private_jobs (task_id, job_queue_id, payload, run_at)
		             select t.id, q.id, json_build_object('n', i), now() - case when i < %[1]d then interval '30 minutes' - i * interval '1 ms' else interval '0' end
		               from generate_series(0, %[2]d) as i join graphile_worker._private_tasks as t on t.identifier = '%[3]s'
		               left join graphile_worker._private_job_queues as q on q.queue_name = 'queue ' || i %% greatest(1, %[4]d) and (i < %[1]d or %[1]d = 0)
		              order by i`, b.first, b.jobs-1, taskName, b.queues),
		"vacuum analyze graphile_worker._private_jobs, graphile_worker._private_job_queues, graphile_worker._private_tasks, graphile_worker.backfill_workers",
		"checkpoint",
	} {
		// Our workers' table is in our schema alone.
		_, err := t.admin.Exec(ctx, strings.ReplaceAll(statement, "graphile_worker._", t.schema+"._"))
		if refused, ok := errors.AsType[*pgconn.PgError](err); ok && refused.Code == pgInsufficientPrivilege && statement == "checkpoint" {
			continue // on a server of somebody else's; then a checkpoint may fall into a run
		}
		if err != nil {
			return fmt.Errorf("prepare tables: %w", err)
		}
	}
	return t.forgetStatements(ctx)
}

func (t tables) waiting(ctx context.Context) (int, error) {
	var jobs int
	if err := t.admin.QueryRow(ctx, "select count(*) from "+t.schema+"._private_jobs").Scan(&jobs); err != nil {
		return 0, fmt.Errorf("count jobs: %w", err)
	}
	return jobs, nil
}

func taskID(ctx context.Context, conn *pgx.Conn) (id int32, err error) {
	err = conn.QueryRow(ctx, "select id from graphile_worker._private_tasks where identifier = $1", taskName).Scan(&id)
	if err != nil {
		return 0, fmt.Errorf("ask for the task: %w", err)
	}
	return id, nil
}
