-- Dead letters, as operators see and change them (docs/design.md, section 14). Workers write them:
-- finish.sql, crashes.sql and admin.sql.
--
-- A condition whose parameter is null is not asked for. Times come back in their binary format, as
-- hex, because they are compared again when a row is changed: a row is what it was while failed_at is
-- the same and nobody has requeued it.

-- name: DeadLetters :many
-- A page of those that match, the newest first.
select d.id, d.original_job_id, d.task_identifier, d.payload, coalesce(d.queue_name, '')::text as queue, d.priority,
       coalesce(d.job_key, '')::text as key, d.max_attempts, d.failure_reason, d.failure_count,
       coalesce(d.last_error, '')::text as last_error,
       encode(timestamptz_send(d.original_created_at), 'hex') as original_created_at,
       encode(timestamptz_send(d.original_run_at), 'hex') as original_run_at,
       encode(timestamptz_send(d.failed_at), 'hex') as failed_at, d.requeued_count,
       encode(timestamptz_send(coalesce(d.last_requeued_at, '-infinity')), 'hex') as last_requeued_at,
       coalesce(d.notes, '')::text as notes, d.attempts, d.flags, coalesce(d.first_error, '')::text as first_error,
       encode(timestamptz_send(d.first_failed_at), 'hex') as first_failed_at,
       coalesce(d.requeued_job_id, 0)::bigint as requeued_job_id
  from graphile_worker.backfill_dlq as d
 where (d.failed_at, d.id) < (@before::timestamptz, @before_id::bigint)
   and (@requeued::boolean or d.requeued_job_id is null)
   and (sqlc.narg('ids')::bigint[] is null or d.id = any(sqlc.narg('ids')::bigint[]))
   and (sqlc.narg('job_ids')::bigint[] is null or d.original_job_id = any(sqlc.narg('job_ids')::bigint[]))
   and (sqlc.narg('tasks')::text[] is null or d.task_identifier = any(sqlc.narg('tasks')::text[]))
   and (sqlc.narg('queues')::text[] is null or d.queue_name = any(sqlc.narg('queues')::text[]))
   and (sqlc.narg('keys')::text[] is null or d.job_key = any(sqlc.narg('keys')::text[]))
   and (sqlc.narg('reasons')::text[] is null or d.failure_reason = any(sqlc.narg('reasons')::text[]))
   and (sqlc.narg('failed_after')::timestamptz is null or d.failed_at >= sqlc.narg('failed_after')::timestamptz)
   and (sqlc.narg('failed_before')::timestamptz is null or d.failed_at < sqlc.narg('failed_before')::timestamptz)
   and (sqlc.narg('error_contains')::text is null or strpos(d.last_error, sqlc.narg('error_contains')::text) > 0)
   and (sqlc.narg('up_to')::timestamptz is null or d.failed_at <= sqlc.narg('up_to')::timestamptz)
   and (sqlc.narg('up_to_id')::bigint is null or d.id <= sqlc.narg('up_to_id')::bigint)
 order by d.failed_at desc, d.id desc limit @size::int;

-- name: FindDeadLetters :many
-- The same conditions, for what changes rows: the oldest first, so that jobs of a queue come back in
-- the order in which they failed.
select d.id, encode(timestamptz_send(d.failed_at), 'hex') as failed_at
  from graphile_worker.backfill_dlq as d
 where (d.failed_at, d.id) > (@after::timestamptz, @after_id::bigint)
   and d.requeued_job_id is null
   and (sqlc.narg('ids')::bigint[] is null or d.id = any(sqlc.narg('ids')::bigint[]))
   and (sqlc.narg('job_ids')::bigint[] is null or d.original_job_id = any(sqlc.narg('job_ids')::bigint[]))
   and (sqlc.narg('tasks')::text[] is null or d.task_identifier = any(sqlc.narg('tasks')::text[]))
   and (sqlc.narg('queues')::text[] is null or d.queue_name = any(sqlc.narg('queues')::text[]))
   and (sqlc.narg('keys')::text[] is null or d.job_key = any(sqlc.narg('keys')::text[]))
   and (sqlc.narg('reasons')::text[] is null or d.failure_reason = any(sqlc.narg('reasons')::text[]))
   and (sqlc.narg('failed_after')::timestamptz is null or d.failed_at >= sqlc.narg('failed_after')::timestamptz)
   and (sqlc.narg('failed_before')::timestamptz is null or d.failed_at < sqlc.narg('failed_before')::timestamptz)
   and (sqlc.narg('error_contains')::text is null or strpos(d.last_error, sqlc.narg('error_contains')::text) > 0)
   and (sqlc.narg('up_to')::timestamptz is null or d.failed_at <= sqlc.narg('up_to')::timestamptz)
   and (sqlc.narg('up_to_id')::bigint is null or d.id <= sqlc.narg('up_to_id')::bigint)
 order by d.failed_at, d.id limit @size::int;

-- name: LastDeadLetter :one
-- What is there now: the greatest id and the latest failure.
select coalesce(max(d.id), 0)::bigint as id, encode(timestamptz_send(coalesce(max(d.failed_at), '-infinity')), 'hex') as failed_at
  from graphile_worker.backfill_dlq as d;

-- name: DeadLetterStats :many
-- Of the newest rows, so that the work is bounded: per task and reason, the most frequent first. The
-- first row has the sums; the others have no times.
with newest as materialized (
  select d.task_identifier, d.failure_reason, d.requeued_job_id
    from graphile_worker.backfill_dlq as d order by d.failed_at desc, d.id desc limit @size::int
), kinds as (
  select n.task_identifier as task, n.failure_reason as reason, count(*) as letters
    from newest as n where n.requeued_job_id is null group by 1, 2 order by 3 desc, 1, 2 limit @top::int
)
select ''::text as task, ''::text as reason, count(*) filter (where n.requeued_job_id is null) as letters,
       count(n.requeued_job_id) as requeued,
       encode(timestamptz_send(coalesce((
         select min(o.failed_at) from (select d.failed_at, d.requeued_job_id from graphile_worker.backfill_dlq as d
                                        order by d.failed_at, d.id limit @size::int) as o
          where o.requeued_job_id is null), '-infinity')), 'hex') as oldest,
       encode(timestamptz_send(coalesce((
         select max(o.failed_at) from (select d.failed_at, d.requeued_job_id from graphile_worker.backfill_dlq as d
                                        order by d.failed_at desc, d.id desc limit @size::int) as o
          where o.requeued_job_id is null), '-infinity')), 'hex') as newest
  from newest as n
union all
select k.task, k.reason, k.letters, 0, '', '' from kinds as k;

-- name: EditDeadLetter :execrows
-- A row only if the dead letter is as it was seen. A null changes nothing.
update graphile_worker.backfill_dlq as d
   set payload = coalesce(sqlc.narg('payload')::text::json, d.payload),
       priority = coalesce(sqlc.narg('priority')::smallint, d.priority),
       max_attempts = coalesce(sqlc.narg('max_attempts')::smallint, d.max_attempts),
       queue_name = nullif(coalesce(sqlc.narg('queue')::text, d.queue_name), ''),
       job_key = nullif(coalesce(sqlc.narg('key')::text, d.job_key), ''),
       notes = nullif(coalesce(sqlc.narg('notes')::text, d.notes), ''),
       last_error = coalesce(sqlc.narg('last_error')::text, d.last_error), first_error = coalesce(sqlc.narg('first_error')::text, d.first_error)
 where d.id = @id::bigint and d.failed_at = @seen::timestamptz and d.requeued_job_id is null;

-- name: AddDeadTasks :exec
-- The names of tasks and queues that dead letters need, as an enqueue adds them.
insert into graphile_worker._private_tasks (identifier)
select distinct d.task_identifier from graphile_worker.backfill_dlq as d
 where d.id = any(@ids::bigint[]) and d.requeued_job_id is null
   and not exists (select from graphile_worker._private_tasks as t where t.identifier = d.task_identifier)
 order by d.task_identifier
on conflict (identifier) do nothing;

-- name: AddDeadQueues :exec
insert into graphile_worker._private_job_queues (queue_name)
select distinct d.queue_name from graphile_worker.backfill_dlq as d
 where d.id = any(@ids::bigint[]) and d.requeued_job_id is null and d.queue_name <> ''
   and not exists (select from graphile_worker._private_job_queues as s where s.queue_name = d.queue_name)
 order by d.queue_name
on conflict (queue_name) do nothing;

-- name: RequeueDeadLetter :many
-- One dead letter (R20): lock it as it was seen, insert the job from the stored bytes, note the job.
-- No row: nothing was changed, because it is not as it was seen, a name is missing, a live job has
-- its key, or a trigger suppressed the row. A failed job gives its key up, as in an enqueue.
with letter as materialized (
  select d.id, d.task_identifier, d.payload, d.queue_name, d.priority, d.job_key, d.max_attempts, d.flags
    from graphile_worker.backfill_dlq as d
   where d.id = @id::bigint and d.failed_at = @seen::timestamptz and d.requeued_job_id is null
     for update
), ready as materialized (
  select l.id, t.id as task_id, s.id as queue_id, l.payload, l.priority, l.job_key, l.max_attempts, l.flags
    from letter as l
    join graphile_worker._private_tasks as t on t.identifier = l.task_identifier
    left join graphile_worker._private_job_queues as s on s.queue_name = l.queue_name
   where coalesce(l.queue_name, '') = '' or s.id is not null
), freed as (
  update graphile_worker._private_jobs as j
     set key = null, updated_at = now()
    from ready
   where j.key = ready.job_key and j.locked_at is null and j.attempts >= j.max_attempts
  returning j.id
), inserted as (
  insert into graphile_worker._private_jobs (job_queue_id, task_id, payload, run_at, max_attempts, key, priority, flags)
  select ready.queue_id, ready.task_id, ready.payload, now(), ready.max_attempts, ready.job_key, ready.priority, ready.flags
    from ready where (select count(*) from freed) >= 0
  on conflict (key) do nothing
  returning id
)
update graphile_worker.backfill_dlq as d
   set requeued_job_id = inserted.id, requeued_count = d.requeued_count + 1, last_requeued_at = now(),
       notes = coalesce(sqlc.narg('notes')::text, d.notes)
  from inserted where d.id = @id::bigint
returning d.id, inserted.id as job_id;

-- name: DeleteDeadLetter :many
-- The columns are those of RequeueDeadLetter.
delete from graphile_worker.backfill_dlq as d
 where d.id = @id::bigint and d.failed_at = @seen::timestamptz and d.requeued_job_id is null
returning d.id, 0::bigint as job_id;

-- name: LockDeadLetters :exec
-- Waits until nobody changes these rows.
select d.id from graphile_worker.backfill_dlq as d where d.id = any(@ids::bigint[]) order by d.id for update;

-- name: DeadLetterStates :many
-- What is true of dead letters, and which live job has the key of each; 0: none. Rows that are gone
-- are left out.
select d.id, encode(timestamptz_send(d.failed_at), 'hex') as failed_at, coalesce(d.requeued_job_id, 0)::bigint as requeued_job_id, d.original_job_id,
       coalesce((select j.id from graphile_worker._private_jobs as j
                  where j.key = d.job_key and (j.locked_at is not null or j.attempts < j.max_attempts)), 0)::bigint as holder_id
  from graphile_worker.backfill_dlq as d where d.id = any(@ids::bigint[]);
