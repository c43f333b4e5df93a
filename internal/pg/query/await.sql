-- How jobs stand for whose ends somebody waits (docs/design.md, section 20).

-- name: AwaitJobs :many
-- How these jobs stand, in one snapshot: a job's row, or how it ended last, which a row that has failed for good has as well. Whoever deletes a row adds to the history in its
-- statement or its transaction, so there is no moment without both.
select u.id::bigint as id,
       coalesce(case when j.id is null then null
            when j.locked_at >= now() - interval '4 hours' and starts_with(j.locked_by, 'backfill-suspect.') then 'suspect'
            when j.locked_at is not null then 'running'
            when j.attempts >= j.max_attempts then 'failed'
            when j.run_at > now() then 'waiting'
            else 'due' end, '')::text as state,
       coalesce(j.revision, 0)::int as revision, coalesce(h.outcome, '')::text as outcome, h.output,
       coalesce(case when h.outcome = 'dead' then h.attempt end, j.attempts, h.attempt, d.attempts, 0)::int as attempt,
       coalesce(j.last_error, h.error, d.last_error, '')::text as error,
       coalesce(h.ended_at, d.failed_at, j.updated_at) as ended_at, coalesce(d.id, 0)::bigint as letter_id
  from unnest(@ids::bigint[]) as u(id)
  left join graphile_worker._private_jobs as j on j.id = u.id
  left join lateral (
    select k.outcome, k.output, k.attempt, k.error, k.ended_at from graphile_worker.backfill_history as k
     where (j.id is null or j.locked_at is null and j.attempts >= j.max_attempts) and k.job_id = u.id order by k.ended_at desc, k.started_at desc nulls first limit 1
  ) as h on true
  left join lateral (
    select l.id, l.attempts, l.last_error, l.failed_at from graphile_worker.backfill_dlq as l
     where j.id is null and l.original_job_id = u.id order by l.failed_at desc limit 1
  ) as d on true;

-- name: AwaitAbsent :one
-- What tells apart why there is nothing of a job: the last id that was given out, or the greatest that can be, if the role may not read it; how long the task's
-- history is kept, or 0; and the transactions that may have made the job and are open.
select coalesce((select coalesce(pg_sequence_last_value(c.oid), 0) from pg_catalog.pg_class as c join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
         where n.nspname = @schema_name::text and c.relname = 'jobs_id_seq1' and has_sequence_privilege(c.oid, 'usage, select')), 9223372036854775807)::bigint as last_id,
       coalesce((select extract(epoch from t.retention) from graphile_worker.backfill_history_tasks as t
                  where t.task_identifier = @task::text), 0)::float8 as retention_seconds, now()::timestamptz as now,
       coalesce((select array_agg(distinct l.virtualtransaction::text) from pg_catalog.pg_locks as l
                  where l.granted and l.locktype = 'relation' and l.mode = 'RowExclusiveLock'
                    and l.database = (select d.oid from pg_catalog.pg_database as d where d.datname = current_database())
                    and l.relation = (select c.oid from pg_catalog.pg_class as c join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
                                       where n.nspname = @schema_name::text and c.relname = '_private_jobs')), '{}')::text[] as writers;
