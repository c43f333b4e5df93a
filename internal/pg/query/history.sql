-- What has become of jobs, for people (docs/design.md, section 18).

-- name: WriteCounts :exec
-- Writes how many jobs have ended, as a worker has counted them so far, into rows that are its own. Classes and
-- counts are array literals, because one array of arrays has rows of one length.
insert into graphile_worker.backfill_counters as c
       (minute, task_identifier, worker_id, completed, failed, dead, snoozed, returned, canceled, run_seconds, run_classes, run_counts,
        wait_seconds, wait_classes, wait_counts)
select u.minute, u.task, @worker_id::text, u.completed, u.failed, u.dead, u.snoozed, u.returned, u.canceled,
       u.run_seconds, u.run_classes::smallint[], u.run_counts::integer[], u.wait_seconds, u.wait_classes::smallint[], u.wait_counts::integer[]
  from rows from (unnest(@minutes::timestamptz[]), unnest(@tasks::text[]), unnest(@completed::int[]), unnest(@failed::int[]),
                  unnest(@dead::int[]), unnest(@snoozed::int[]), unnest(@returned::int[]), unnest(@canceled::int[]),
                  unnest(@run_seconds::float8[]), unnest(@run_classes::text[]), unnest(@run_counts::text[]),
                  unnest(@wait_seconds::float8[]), unnest(@wait_classes::text[]), unnest(@wait_counts::text[]))
       as u(minute, task, completed, failed, dead, snoozed, returned, canceled, run_seconds, run_classes, run_counts,
            wait_seconds, wait_classes, wait_counts)
on conflict (minute, task_identifier, worker_id) do update
   set completed = excluded.completed, failed = excluded.failed, dead = excluded.dead, snoozed = excluded.snoozed,
       returned = excluded.returned, canceled = excluded.canceled, run_seconds = excluded.run_seconds,
       run_classes = excluded.run_classes, run_counts = excluded.run_counts, wait_seconds = excluded.wait_seconds,
       wait_classes = excluded.wait_classes, wait_counts = excluded.wait_counts;

-- name: DropCounts :one
-- Deletes the oldest counts that nobody asks for any more, and says how many.
with old as materialized (
  select c.minute, c.task_identifier, c.worker_id from graphile_worker.backfill_counters as c
   where c.minute < now() - interval '6 hours' order by c.minute limit @size::int for update skip locked
), dropped as (
  delete from graphile_worker.backfill_counters as c using old
   where c.minute = old.minute and c.task_identifier = old.task_identifier and c.worker_id = old.worker_id
  returning c.minute
)
select count(*)::int as dropped from dropped;

-- name: Rates :many
-- How many jobs of each task have ended in the last minutes, and in those of them that are recent.
select c.task_identifier, (c.minute > now() - make_interval(mins => @recent::int))::boolean as recent,
       sum(c.completed)::bigint as completed, sum(c.failed)::bigint as failed, sum(c.dead)::bigint as dead,
       sum(c.snoozed)::bigint as snoozed, sum(c.returned)::bigint as returned, sum(c.canceled)::bigint as canceled,
       sum(c.run_seconds)::float8 as run_seconds, sum(c.wait_seconds)::float8 as wait_seconds, min(c.minute)::timestamptz as since
  from graphile_worker.backfill_counters as c
 where c.minute > now() - make_interval(mins => @minutes::int)
 group by 1, 2;

-- name: RateClasses :many
-- The histograms of these times. A class that is empty has no row.
select t.task_identifier, t.recent, t.waiting, t.class::smallint as class, sum(t.count)::bigint as count
  from (
    select c.task_identifier, (c.minute > now() - make_interval(mins => @recent::int))::boolean as recent, false as waiting,
           u.class, u.count
      from graphile_worker.backfill_counters as c
     cross join lateral rows from (unnest(c.run_classes), unnest(c.run_counts)) as u(class, count)
     where c.minute > now() - make_interval(mins => @minutes::int)
    union all
    select c.task_identifier, (c.minute > now() - make_interval(mins => @recent::int))::boolean, true, u.class, u.count
      from graphile_worker.backfill_counters as c
     cross join lateral rows from (unnest(c.wait_classes), unnest(c.wait_counts)) as u(class, count)
     where c.minute > now() - make_interval(mins => @minutes::int)
  ) as t
 group by 1, 2, 3, 4;

-- name: KeepHistory :exec
-- Notes that a worker keeps the history of tasks, and for how long: that which said so last counts.
insert into graphile_worker.backfill_history_tasks as h (task_identifier, retention)
select u.task, u.seconds * interval '1 second'
  from rows from (unnest(@tasks::text[]), unnest(@retention_seconds::float8[])) as u(task, seconds)
 order by u.task
on conflict (task_identifier) do update set retention = excluded.retention, seen_at = clock_timestamp()
 where h.retention <> excluded.retention or h.seen_at < now() - interval '1 minute';

-- name: HistoryUpkeep :one
select u.made::int as made, u.dropped::int as dropped, u.late::int as late, u.walk::boolean as walk from graphile_worker.backfill_history_upkeep() as u;

-- name: ForgetHistoryTasks :exec
-- Forgets tasks of which nobody has kept a history for so long that none is left.
delete from graphile_worker.backfill_history_tasks as h where h.seen_at < now() - h.retention - interval '1 day';

-- name: DropAttempts :one
-- Deletes attempts that are older than their tasks keep them, of one page: what comes next by the job. Most go
-- with their partitions.
with kept as materialized (
  select h.task_identifier, h.retention from graphile_worker.backfill_history_tasks as h
), page as materialized (
  select k.job_id, k.task_identifier, k.ended_at from graphile_worker.backfill_history as k
   where k.job_id > @after::bigint order by k.job_id limit @size::int
), dropped as (
  delete from graphile_worker.backfill_history as k using page left join kept on kept.task_identifier = page.task_identifier
   where k.job_id = page.job_id and k.ended_at = page.ended_at and k.task_identifier = page.task_identifier
     and k.ended_at < now() - coalesce(kept.retention, interval '0')
  returning k.job_id
)
select (select count(*) from page)::int as seen, coalesce((select max(page.job_id) from page), 0)::bigint as last,
       (select count(*) from dropped)::int as dropped;

-- name: RecordInTx :one
-- Goes behind the guard, in the job's transaction: the attempt goes into the history, if the guard has deleted the
-- job's row: not if somebody has ended the transaction, or has the row locked.
with recorded as (
  insert into graphile_worker.backfill_history
         (job_id, task_identifier, queue_name, job_key, attempt, outcome, started_at, ended_at, duration, worker_id, output, log)
  select @id::pg_catalog.int8, @task::pg_catalog.text, nullif(@queue::pg_catalog.text, ''), nullif(@key::pg_catalog.text, ''),
         pg_catalog.rtrim(pg_catalog.split_part(@token::pg_catalog.text, '.', 3), 'k')::pg_catalog.int4, 'completed',
         pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) pg_catalog.make_interval(secs => @took_seconds::pg_catalog.float8),
         pg_catalog.clock_timestamp(), pg_catalog.make_interval(secs => @took_seconds::pg_catalog.float8),
         pg_catalog.split_part(@token::pg_catalog.text, '.', 1), nullif(@output::pg_catalog.text, '')::pg_catalog.json,
         nullif(@log::pg_catalog.text, '')
   where not exists (select from graphile_worker._private_jobs as j where j.id OPERATOR(pg_catalog.=) @id::pg_catalog.int8)
     and coalesce(pg_catalog.current_setting('backfill.job', true) OPERATOR(pg_catalog.=) @token::pg_catalog.text, false)
  returning job_id
)
select pg_catalog.count(*)::pg_catalog.int4 as recorded from recorded;

-- name: History :many
-- What has become of a job, the last first.
select h.job_id, h.task_identifier, coalesce(h.queue_name, '')::text as queue_name, coalesce(h.job_key, '')::text as job_key, h.attempt,
       h.outcome, h.started_at, h.ended_at, coalesce(extract(epoch from h.duration), 0)::float8 as duration_seconds,
       coalesce(h.worker_id, '')::text as worker_id, coalesce(h.error, '')::text as error, h.output, coalesce(h.log, '')::text as log
  from graphile_worker.backfill_history as h where h.job_id = @job_id::bigint
 order by h.ended_at desc, h.started_at desc nulls first limit @most::int;

-- name: WriteProgress :exec
-- Writes how far jobs are, of those whose leases are held, and deletes what is known of others.
with gone as materialized (
  select p.job_id from rows from (unnest(@gone::bigint[]), unnest(@gone_tokens::text[])) as u(id, token)
    join graphile_worker.backfill_progress as p on p.job_id = u.id and p.token = u.token
   order by p.job_id for update of p skip locked
), dropped as (
  delete from graphile_worker.backfill_progress as p where p.job_id = any(array(select gone.job_id from gone))
)
insert into graphile_worker.backfill_progress as p (job_id, token, attempt, done, total, note)
select u.id, u.token, rtrim(split_part(u.token, '.', 3), 'k')::int, u.done, u.total, u.note
  from rows from (unnest(@ids::bigint[]), unnest(@tokens::text[]), unnest(@done::bigint[]), unnest(@total::bigint[]), unnest(@notes::text[]))
       as u(id, token, done, total, note)
  join graphile_worker._private_jobs as j on j.id = u.id and j.locked_by = u.token
 order by u.id
on conflict (job_id) do update
   set token = excluded.token, attempt = excluded.attempt, done = excluded.done, total = excluded.total, note = excluded.note,
       at = clock_timestamp();

-- name: DropProgress :one
-- Deletes the progress of attempts that have ended with their workers, and says how many there were.
with gone as materialized (
  select p.job_id from graphile_worker.backfill_progress as p
   where not exists (select from graphile_worker._private_jobs as j where j.id = p.job_id and j.locked_by = p.token)
   order by p.job_id limit @size::int for update skip locked
), dropped as (
  delete from graphile_worker.backfill_progress as p where p.job_id = any(array(select gone.job_id from gone)) returning p.job_id
)
select count(*)::int as dropped from dropped;

-- name: Progress :many
-- How far a job is in the attempt that runs. Without a time, nothing was said in that.
select coalesce(t.identifier, '')::text as task, coalesce(s.queue_name, '')::text as queue, coalesce(p.attempt, 0)::int as attempt,
       coalesce(p.done, 0)::bigint as done, coalesce(p.total, 0)::bigint as total, coalesce(p.note, '')::text as note, p.at
  from graphile_worker._private_jobs as j
  left join graphile_worker._private_tasks as t on t.id = j.task_id
  left join graphile_worker._private_job_queues as s on s.id = j.job_queue_id
  left join graphile_worker.backfill_progress as p on p.job_id = j.id and p.token = j.locked_by
 where j.id = @job_id::bigint;
