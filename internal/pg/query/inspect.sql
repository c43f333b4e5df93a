-- What programs ask about jobs: one of them, and how many there are.
--
-- A job is running while it is locked, for 4 hours at most: then its lock is stale, and released. A
-- suspect is locked and does not run.

-- name: JobPages :one
-- How many pages the table has.
select coalesce(pg_relation_size(to_regclass(format('%I.%I', @schema_name::text, '_private_jobs')))
                / current_setting('block_size')::bigint, 0)::bigint as pages;

-- name: CountJobs :many
-- Per task, from a percentage of the table's pages, chosen at random: all of them at 100. Tasks
-- without jobs have a row as well.
with counted as materialized (
  select j.task_id,
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
   group by j.task_id
)
select t.identifier as task, coalesce(c.waiting, 0)::bigint as waiting, coalesce(c.due, 0)::bigint as due,
       coalesce(c.running, 0)::bigint as running, coalesce(c.suspect, 0)::bigint as suspect,
       coalesce(c.failed, 0)::bigint as failed
  from graphile_worker._private_tasks as t left join counted as c on c.task_id = t.id
 order by t.identifier collate "C";

-- name: JobByID :many
-- The columns of UpsertJobs, and those that follow them.
select j.key, j.id, coalesce(t.identifier, '') as task, coalesce(s.queue_name, '') as queue, j.payload,
       encode(timestamptz_send(j.run_at), 'hex') as run_at,
       encode(timestamptz_send(j.created_at), 'hex') as created_at,
       j.attempts, j.max_attempts, j.priority, j.revision, j.flags,
       case when j.locked_at >= now() - interval '4 hours' and starts_with(j.locked_by, 'backfill-suspect.') then 'suspect'
            when j.locked_at >= now() - interval '4 hours' then 'running'
            when j.attempts >= j.max_attempts then 'failed'
            when j.run_at > now() then 'waiting'
            else 'due' end as state,
       coalesce(j.last_error, '') as last_error, coalesce(j.locked_by, '') as locked_by,
       encode(timestamptz_send(coalesce(j.locked_at, '-infinity')), 'hex') as locked_at,
       encode(timestamptz_send(j.updated_at), 'hex') as updated_at
  from graphile_worker._private_jobs as j
  left join graphile_worker._private_tasks as t on t.id = j.task_id
  left join graphile_worker._private_job_queues as s on s.id = j.job_queue_id
 where j.id = $1::bigint;

-- name: ListJobs :many
-- The rows of the table, at most so many, as JobByID returns them: for tests, whose tables are small. The session
-- may be the application's.
select j.key, j.id, coalesce(t.identifier, '') as task, coalesce(s.queue_name, '') as queue, j.payload,
       encode(timestamptz_send(j.run_at), 'hex') as run_at,
       encode(timestamptz_send(j.created_at), 'hex') as created_at,
       j.attempts, j.max_attempts, j.priority, j.revision, j.flags,
       case when j.locked_at >= now() - interval '4 hours' and starts_with(j.locked_by, 'backfill-suspect.') then 'suspect'
            when j.locked_at >= now() - interval '4 hours' then 'running'
            when j.attempts >= j.max_attempts then 'failed'
            when j.run_at > now() then 'waiting'
            else 'due' end as state,
       coalesce(j.last_error, '') as last_error, coalesce(j.locked_by, '') as locked_by,
       encode(timestamptz_send(coalesce(j.locked_at, '-infinity')), 'hex') as locked_at,
       encode(timestamptz_send(j.updated_at), 'hex') as updated_at
  from graphile_worker._private_jobs as j
  left join graphile_worker._private_tasks as t on t.id = j.task_id
  left join graphile_worker._private_job_queues as s on s.id = j.job_queue_id
 order by j.id limit $1::int;

-- name: LockJob :many
-- Locks a job as a claim does, wherever it is in the line, for a test in the test's own transaction. No row: it
-- is locked, has no attempt left, or its queue is held.
with job as materialized (
  select j.id, j.job_queue_id from graphile_worker._private_jobs as j
   where j.id = $1::bigint and j.is_available for update
), queue as (
  update graphile_worker._private_job_queues as s set locked_by = $2::text, locked_at = now()
    from job where s.id = job.job_queue_id and s.is_available
  returning s.id
)
update graphile_worker._private_jobs as j
   set attempts = j.attempts + 1, locked_at = now(),
       locked_by = $2::text || '.' || (j.attempts + 1) || case when j.key is null then '' else 'k' end
  from job
 where j.id = job.id and (job.job_queue_id is null or exists (select from queue))
returning j.locked_by;
