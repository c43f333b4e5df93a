-- What metrics are made of. Each reads a bounded number of rows, whatever there is.

-- name: MeasureJobs :many
-- Per task, from a percentage of the table's pages, chosen at random: all of them at 100. Tasks without jobs have a
-- row as well, so that their numbers go back to 0. The states are those of CountJobs; oldest is the run_at of the job
-- that has been due for longest.
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
                            and j.attempts < j.max_attempts and j.run_at <= now()) as due,
         min(j.run_at) filter (where (j.locked_at >= now() - interval '4 hours') is not true
                            and j.attempts < j.max_attempts and j.run_at <= now() and j.run_at > '-infinity') as oldest
    from graphile_worker._private_jobs as j tablesample system (@percent::float4)
   group by j.task_id
)
select t.identifier as task, coalesce(c.waiting, 0)::bigint as waiting, coalesce(c.due, 0)::bigint as due,
       coalesce(c.running, 0)::bigint as running, coalesce(c.suspect, 0)::bigint as suspect,
       coalesce(c.failed, 0)::bigint as failed,
       coalesce(extract(epoch from clock_timestamp() - c.oldest), -1)::float8 as oldest_due
  from graphile_worker._private_tasks as t left join counted as c on c.task_id = t.id
 order by t.identifier collate "C" limit 10000;

-- name: MeasureFront :many
-- How long the first jobs in line have been due, per task: of each priority the first so many, and at most 50
-- priorities. A sample of a large table would miss them.
with recursive band as (
  (select j.priority from graphile_worker._private_jobs as j where j.is_available order by j.priority limit 1)
  union all
  select (select j.priority from graphile_worker._private_jobs as j
           where j.is_available and j.priority > band.priority order by j.priority limit 1)
    from band where band.priority is not null
)
select t.identifier as task, coalesce(extract(epoch from clock_timestamp() - min(first.run_at)), -1)::float8 as oldest_due
  from (select priority from band where priority is not null limit 50) as b
  cross join lateral (
    select j.task_id, j.run_at from graphile_worker._private_jobs as j
     where j.is_available and j.priority = b.priority and j.run_at <= now()
     order by j.run_at limit @size::int
  ) as first
  join graphile_worker._private_tasks as t on t.id = first.task_id
 where first.run_at > '-infinity'
 group by t.identifier;

-- name: MeasureLetters :many
-- Dead letters that were not requeued, per task: of the newest so many.
select d.task_identifier as task, count(*)::bigint as letters,
       coalesce(extract(epoch from clock_timestamp() - min(d.failed_at)), 0)::float8 as oldest
  from (select n.task_identifier, n.failed_at, n.requeued_job_id from graphile_worker.backfill_dlq as n
         order by n.failed_at desc, n.id desc limit @size::int) as d
 where d.requeued_job_id is null
 group by d.task_identifier;

-- name: MeasureWorkers :one
-- Workers by their rows: silent ones have sent no heartbeat for longer than one may be late.
select count(*) filter (where w.heartbeat_at >= clock_timestamp() - interval '15 seconds')::bigint as alive,
       count(*) filter (where w.heartbeat_at < clock_timestamp() - interval '15 seconds')::bigint as silent,
       coalesce(sum(w.slots) filter (where w.heartbeat_at >= clock_timestamp() - interval '15 seconds'), 0)::bigint as slots
  from graphile_worker.backfill_workers as w where w.dead_at is null;
