-- What operators ask about all jobs, queues and locks (docs/design.md, section 17). As in why.sql, each statement is
-- one fact. None reads more than a bounded number of rows of large tables.

-- name: JobsEstimate :one
-- How many rows the table of jobs has, as vacuum has last seen; -1: never.
select coalesce((select c.reltuples from pg_catalog.pg_class as c join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
                  where n.nspname = @schema_name::text and c.relname = '_private_jobs'), -1)::float8 as jobs;

-- name: CountStates :many
-- How many jobs are in each state, by task, and by queue if asked for, from a percentage of the table's pages, chosen at
-- random: all of them at 100.
with counted as materialized (
  select j.task_id, case when @by_queue::boolean then j.job_queue_id end as queue_id,
         count(*) filter (where j.locked_at >= now() - interval '4 hours'
                            and not starts_with(coalesce(j.locked_by, ''), 'backfill-suspect.')) as running,
         count(*) filter (where j.locked_at >= now() - interval '4 hours'
                            and starts_with(j.locked_by, 'backfill-suspect.')) as suspect,
         count(*) filter (where (j.locked_at >= now() - interval '4 hours') is not true
                            and j.attempts >= j.max_attempts) as failed,
         count(*) filter (where (j.locked_at >= now() - interval '4 hours') is not true
                            and j.attempts < j.max_attempts and j.run_at > now()) as waiting,
         count(*) filter (where (j.locked_at >= now() - interval '4 hours') is not true
                            and j.attempts < j.max_attempts and j.run_at <= now()) as due
    from graphile_worker._private_jobs as j tablesample system (@percent::float4)
   group by 1, 2
)
select coalesce(t.identifier, '')::text as task, coalesce(s.queue_name, '')::text as queue,
       c.waiting::bigint as waiting, c.due::bigint as due, c.running::bigint as running, c.suspect::bigint as suspect, c.failed::bigint as failed
  from counted as c left join graphile_worker._private_tasks as t on t.id = c.task_id
  left join graphile_worker._private_job_queues as s on s.id = c.queue_id;

-- name: TaskNames :many
select t.identifier from graphile_worker._private_tasks as t order by t.identifier limit 10000;

-- name: QueuesPage :many
-- Queues behind a name, or the ones with these names, or those that are locked alone.
select s.id, s.queue_name, s.locked_at, coalesce(s.locked_by, '')::text as locked_by,
       coalesce(s.locked_at < now() - interval '4 hours', false)::boolean as stale
  from graphile_worker._private_job_queues as s
 where (sqlc.narg('after')::text is null or s.queue_name > sqlc.narg('after')::text)
   and (sqlc.narg('names')::text[] is null or s.queue_name = any(sqlc.narg('names')::text[]))
   and (not @locked::boolean or s.locked_at is not null)
 order by s.queue_name limit @size::int;

-- name: QueueIndexed :one
-- Whether the index for queues is there and can be used.
select exists (select from pg_catalog.pg_index as i join pg_catalog.pg_class as c on c.oid = i.indexrelid
                 join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
                where n.nspname = @schema_name::text and c.relname = 'backfill_jobs_queue_idx' and i.indisvalid and i.indisready)::boolean as indexed;

-- name: QueueJobs :one
-- How many jobs of a queue can be taken, or later, up to 10,001.
select count(*)::bigint as jobs from (
  select from graphile_worker._private_jobs as j where j.job_queue_id = @queue_id::int and j.is_available limit 10001) as q;

-- name: Crontabs :many
select k.identifier, k.known_since, k.last_execution from graphile_worker._private_known_crontabs as k
 where sqlc.narg('after')::text is null or k.identifier > sqlc.narg('after')::text order by k.identifier limit @size::int;
