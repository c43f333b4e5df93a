-- What operators change (docs/design.md, section 17). A row is locked first, and judged as it is then; what follows
-- changes rows that are locked. In the transaction is the record of it, too.

-- name: LockJobsToChange :many
-- Jobs as they are while nobody else changes them. A row that somebody has locked is left out.
select j.id, coalesce(t.identifier, '')::text as task, coalesce(s.queue_name, '')::text as queue, j.revision, j.attempts, j.max_attempts,
       j.updated_at, (j.locked_at is not null or j.locked_by is not null)::boolean as locked, coalesce(j.locked_by, '')::text as locked_by,
       coalesce(j.locked_by ~ '^pool-[0-9a-f]{18}\.[0-9a-f]+\.[0-9]{1,9}k?$', false)::boolean as ours,
       coalesce(j.locked_at < now() - interval '4 hours', false)::boolean as stale,
       (j.attempts >= j.max_attempts)::boolean as failed, (j.last_error is null and j.key is null)::boolean as ended_unseen,
       case when @payloads::boolean then j.payload::text else '' end::text as payload,
       case when @payloads::boolean then coalesce(j.last_error, '') else '' end::text as last_error
  from graphile_worker._private_jobs as j
  left join graphile_worker._private_tasks as t on t.id = j.task_id
  left join graphile_worker._private_job_queues as s on s.id = j.job_queue_id
 where j.id = any(@ids::bigint[])
 order by j.id for update of j skip locked;

-- name: JudgeJobs :many
-- The same for a preview, which locks nothing.
select j.id, coalesce(t.identifier, '')::text as task, coalesce(s.queue_name, '')::text as queue, j.revision, j.attempts, j.max_attempts,
       j.updated_at, (j.locked_at is not null or j.locked_by is not null)::boolean as locked, coalesce(j.locked_by, '')::text as locked_by,
       coalesce(j.locked_by ~ '^pool-[0-9a-f]{18}\.[0-9a-f]+\.[0-9]{1,9}k?$', false)::boolean as ours,
       coalesce(j.locked_at < now() - interval '4 hours', false)::boolean as stale,
       (j.attempts >= j.max_attempts)::boolean as failed, (j.last_error is null and j.key is null)::boolean as ended_unseen,
       ''::text as payload, ''::text as last_error
  from graphile_worker._private_jobs as j
  left join graphile_worker._private_tasks as t on t.id = j.task_id
  left join graphile_worker._private_job_queues as s on s.id = j.job_queue_id
 where j.id = any(@ids::bigint[])
 order by j.id;

-- name: JobsThere :many
-- Which of these jobs there are, and what they are of: others have locked them.
select j.id, coalesce(t.identifier, '')::text as task, coalesce(s.queue_name, '')::text as queue
  from graphile_worker._private_jobs as j
  left join graphile_worker._private_tasks as t on t.id = j.task_id
  left join graphile_worker._private_job_queues as s on s.id = j.job_queue_id
 where j.id = any(@ids::bigint[]);

-- name: WorkersNamed :many
-- What is known of the workers that have locked something.
select w.id, w.host, w.pid, (w.dead_at is null and w.beats is not null)::boolean as beating,
       greatest(extract(epoch from clock_timestamp() - w.heartbeat_at), 0)::float8 as silent_seconds
  from graphile_worker.backfill_workers as w where w.id = any(@ids::text[]);

-- name: RetryLockedJobs :many
-- Makes jobs due now. One that has failed for good begins anew; the error stays, as in reschedule_jobs.
update graphile_worker._private_jobs as j
   set attempts = case when j.attempts >= j.max_attempts then 0 else j.attempts end, run_at = now(), updated_at = now()
 where j.id = any(@ids::bigint[]) returning j.id;

-- name: RescheduleLockedJobs :many
-- A null changes nothing.
update graphile_worker._private_jobs as j
   set run_at = coalesce(sqlc.narg('run_at')::timestamptz, j.run_at), priority = coalesce(sqlc.narg('priority')::smallint, j.priority),
       max_attempts = coalesce(sqlc.narg('max_attempts')::smallint, j.max_attempts), updated_at = now()
 where j.id = any(@ids::bigint[]) returning j.id;

-- name: EditLockedJob :many
update graphile_worker._private_jobs as j
   set payload = (@payload::text)::json, last_error = case when j.last_error is not null then @last_error::text end, updated_at = now()
 where j.id = @id::bigint returning j.id;

-- name: DeleteLockedJobs :many
-- Deletes jobs that nobody runs. A suspect holds its queue, which is freed; if somebody has that locked, the job stays. What an
-- operator has decided about a job goes into its history.
with queue as materialized (
  select s.id from graphile_worker._private_job_queues as s
   where s.id = any(array(select j.job_queue_id from graphile_worker._private_jobs as j
                           where j.id = any(@ids::bigint[]) and j.locked_by is not null and j.job_queue_id is not null))
   order by s.id for update skip locked
), ended as (
  delete from graphile_worker._private_jobs as j
   where j.id = any(@ids::bigint[])
     and (j.locked_by is null or j.job_queue_id is null or j.job_queue_id in (select queue.id from queue)
          or not exists (select from graphile_worker._private_job_queues as s where s.id = j.job_queue_id))
  returning j.id, j.job_queue_id, j.locked_by, j.task_id, j.key, j.attempts
), freed as (
  update graphile_worker._private_job_queues as s set locked_at = null, locked_by = null
    from ended where s.id = ended.job_queue_id and starts_with(ended.locked_by, s.locked_by || '.')
), forgotten as (
  delete from graphile_worker.backfill_crashes as k where k.job_id = any(array(select ended.id from ended))
), settled as (
  delete from graphile_worker.backfill_cancels as c where c.job_id = any(array(select ended.id from ended))
), recorded as (
  insert into graphile_worker.backfill_history (job_id, task_identifier, queue_name, job_key, attempt, outcome, ended_at, error)
  select ended.id, h.task_identifier, s.queue_name, ended.key, ended.attempts, @outcome::text, now(), nullif(@reason::text, '')
    from ended join graphile_worker._private_tasks as t on t.id = ended.task_id
    join graphile_worker.backfill_history_tasks as h on h.task_identifier = t.identifier and h.seen_at > now() - interval '1 day'
    left join graphile_worker._private_job_queues as s on s.id = ended.job_queue_id
)
select ended.id from ended;

-- name: RequestEnds :many
-- Asks for the end of jobs that workers of ours have. Their rows are locked, so nobody ends their leases meanwhile, and
-- whoever does afterwards sees the request. Each row is updated, to itself: a transaction whose snapshot is older than the
-- request does not see that, and cannot delete the row either (40001).
with touched as (
  update graphile_worker._private_jobs as j set locked_by = j.locked_by where j.id = any(@ids::bigint[]) returning j.id
), requested as (
  insert into graphile_worker.backfill_cancels (job_id, requested_by, reason)
  select touched.id, @requested_by::text, @reason::text from touched order by touched.id
  on conflict (job_id) do nothing
)
select touched.id from touched;

-- name: LockLettersToChange :many
-- Dead letters as they are while nobody else changes them.
select d.id, d.task_identifier as task, coalesce(d.queue_name, '')::text as queue, encode(timestamptz_send(d.failed_at), 'hex') as failed_at,
       coalesce(d.requeued_job_id, 0)::bigint as requeued_job_id, case when @payloads::boolean then d.payload::text else '' end::text as payload,
       case when @payloads::boolean then coalesce(d.last_error, '') else '' end::text as last_error,
       case when @payloads::boolean then coalesce(d.first_error, '') else '' end::text as first_error,
       case when @payloads::boolean then coalesce(d.notes, '') else '' end::text as notes
  from graphile_worker.backfill_dlq as d
 where d.id = any(@ids::bigint[])
 order by d.id for update skip locked;

-- name: LettersThere :many
select d.id, d.task_identifier as task, coalesce(d.queue_name, '')::text as queue
  from graphile_worker.backfill_dlq as d where d.id = any(@ids::bigint[]);

-- name: LockQueueToFree :many
-- A claim of the queue that is in flight has the row locked until it commits.
select s.id, coalesce(s.locked_by, '')::text as locked_by, (s.locked_at is not null or s.locked_by is not null)::boolean as locked,
       coalesce(s.locked_by ~ '^pool-[0-9a-f]{18}\.[0-9a-f]+$', false)::boolean as ours,
       coalesce(s.locked_at < now() - interval '4 hours', false)::boolean as stale
  from graphile_worker._private_job_queues as s where s.queue_name = @queue_name::text for update;

-- name: LockedJobOfQueue :one
-- The first job of a queue that is locked; 0: none is.
select coalesce(min(j.id), 0)::bigint as id from graphile_worker._private_jobs as j
 where j.job_queue_id = @queue_id::int and (j.locked_at is not null or j.locked_by is not null);

-- name: FreeQueue :execrows
update graphile_worker._private_job_queues as s set locked_at = null, locked_by = null where s.id = @id::int;

-- name: LockWorkerToRetire :many
-- The row of a worker, which a claim in flight holds until it commits.
select w.host, w.pid, (w.dead_at is null and w.beats is not null)::boolean as beating,
       greatest(extract(epoch from clock_timestamp() - w.heartbeat_at), 0)::float8 as silent_seconds
  from graphile_worker.backfill_workers as w where w.id = @id::text for update;

-- name: DeadHolders :many
-- Workers of ours that are dead, or silent for longer than a live one is, and have locked something.
with holders as materialized (
  select split_part(j.locked_by, '.', 1) as id from graphile_worker._private_jobs as j where j.locked_by is not null
  union
  select split_part(s.locked_by, '.', 1) from graphile_worker._private_job_queues as s where s.locked_by is not null
)
select w.id from graphile_worker.backfill_workers as w join holders on holders.id = w.id
 where w.dead_at is not null or w.beats is not null and w.heartbeat_at < clock_timestamp() - interval '30 seconds'
 order by w.id limit 1000;
