-- Requests to end jobs (docs/design.md, section 16). A request is a row with the id of a job that was
-- leased when it was stored. Whoever ends a lease deletes the job instead, so it never runs again.

-- name: EndCanceled :many
-- Deletes jobs of which the end was requested and that nobody runs: free ones, suspects, those with stale
-- locks (contract section 5.6), and those with these tokens, whose worker is dead. And deletes the requests
-- of jobs that are gone. Of these jobs alone, or, if ids is null, of all.
--
-- It stands behind every statement that ends leases, in the same transaction. What that statement has not
-- seen, because its snapshot is older than the request, this one sees: its snapshot is younger than the
-- locks of the rows. A request that is stored later waits for these locks (LookAtLeases).
with held as materialized (
  select j.id, j.job_queue_id, j.locked_by is not null as leased
    from graphile_worker.backfill_cancels as c join graphile_worker._private_jobs as j on j.id = c.job_id
   where (sqlc.narg('ids')::bigint[] is null or c.job_id = any(sqlc.narg('ids')::bigint[]))
     and (j.locked_by is null and j.locked_at is null or starts_with(j.locked_by, 'backfill-suspect.')
          or j.locked_at < now() - interval '4 hours' or j.locked_by = any(@tokens::text[]))
   order by j.id limit 1000 for update of j skip locked
), queue as materialized (
  select s.id from graphile_worker._private_job_queues as s
   where s.id = any(array(select job_queue_id from held where leased and job_queue_id is not null)) order by s.id for update skip locked
), ended as (
  delete from graphile_worker._private_jobs as j where j.id = any(array(
    select id from held
     where not leased or job_queue_id is null or job_queue_id in (select id from queue)
        or not exists (select from graphile_worker._private_job_queues as s where s.id = held.job_queue_id)))
  returning j.id, j.task_id, j.job_queue_id, j.locked_by, j.locked_at, j.key, j.priority, j.run_at, j.attempts, j.max_attempts
), freed as (
  update graphile_worker._private_job_queues as s set locked_at = null, locked_by = null
    from ended where s.id = ended.job_queue_id and starts_with(ended.locked_by, s.locked_by || '.')
), forgotten as (
  delete from graphile_worker.backfill_crashes as k where k.job_id = any(array(select id from ended))
), done as materialized (
  select c.job_id, c.requested_by, c.reason from graphile_worker.backfill_cancels as c
   where (sqlc.narg('ids')::bigint[] is null or c.job_id = any(sqlc.narg('ids')::bigint[]))
     and (c.job_id in (select id from ended)
          or c.requested_at < now() - interval '10 seconds'     -- until then, whoever has stored it looks
             and (select j.id from graphile_worker._private_jobs as j where j.id = c.job_id) is null)   -- of "not exists", all ids are read
   order by c.job_id limit 2000 for update skip locked
), settled as (
  delete from graphile_worker.backfill_cancels as c where c.job_id = any(array(select job_id from done))
), recorded as (                              -- unless the statement before it has
  insert into graphile_worker.backfill_history
         (job_id, task_identifier, queue_name, job_key, attempt, outcome, started_at, ended_at, worker_id, error)
  select ended.id, h.task_identifier, s.queue_name, ended.key, ended.attempts, 'canceled',
         case when starts_with(ended.locked_by, 'pool-') then ended.locked_at end, now(),
         case when starts_with(ended.locked_by, 'pool-') then split_part(ended.locked_by, '.', 1) end, nullif(done.reason, '')
    from ended join graphile_worker._private_tasks as t on t.id = ended.task_id
    join graphile_worker.backfill_history_tasks as h on h.task_identifier = t.identifier and h.seen_at > now() - interval '1 day'
    left join done on done.job_id = ended.id
    left join graphile_worker._private_job_queues as s on s.id = ended.job_queue_id
   where not exists (select from graphile_worker.backfill_history as k
                      where k.job_id = ended.id and k.ended_at = now() and k.outcome = 'canceled')
)
select ended.id, coalesce(ended.locked_by, '')::text as token, coalesce(t.identifier, '')::text as task,
       coalesce(s.queue_name, '')::text as queue, coalesce(ended.key, '')::text as key, ended.priority, ended.run_at,
       ended.attempts, ended.max_attempts, coalesce(done.requested_by, '')::text as requested_by, coalesce(done.reason, '')::text as reason
  from ended left join done on done.job_id = ended.id
  left join graphile_worker._private_tasks as t on t.id = ended.task_id
  left join graphile_worker._private_job_queues as s on s.id = ended.job_queue_id
 order by ended.id;

-- name: UnburyCanceled :many
-- Deletes the dead letters that a statement before it in its transaction has made of these jobs, although
-- their end was requested: when it began, the request was not there, and it had not locked their rows yet.
-- The requests go with them.
with requested as materialized (
  select c.job_id, c.requested_by, c.reason from graphile_worker.backfill_cancels as c
   where c.job_id = any(@ids::bigint[]) order by c.job_id for update skip locked
), unburied as (
  delete from graphile_worker.backfill_dlq as d
   where d.original_job_id = any(array(select requested.job_id from requested))
     and d.requeued_job_id is null and d.failed_at = now()
  returning d.original_job_id, d.task_identifier, d.queue_name, d.job_key, d.attempts
), settled as (
  delete from graphile_worker.backfill_cancels as c where c.job_id = any(array(select unburied.original_job_id from unburied))
), corrected as (                             -- the attempt has failed, and the job did not die of it
  update graphile_worker.backfill_history as k set outcome = 'failed' from unburied
   where k.job_id = unburied.original_job_id and k.ended_at = now() and k.outcome = 'dead'
), recorded as (
  insert into graphile_worker.backfill_history (job_id, task_identifier, queue_name, job_key, attempt, outcome, ended_at, error)
  select unburied.original_job_id, h.task_identifier, unburied.queue_name, unburied.job_key, unburied.attempts, 'canceled', now(),
         nullif(requested.reason, '')
    from unburied join requested on requested.job_id = unburied.original_job_id
    join graphile_worker.backfill_history_tasks as h
      on h.task_identifier = unburied.task_identifier and h.seen_at > now() - interval '1 day'
)
select requested.job_id, requested.requested_by, requested.reason
  from requested join unburied on unburied.original_job_id = requested.job_id;

-- name: EndableJobs :many
-- What EndCanceled finds.
select c.job_id from graphile_worker.backfill_cancels as c left join graphile_worker._private_jobs as j on j.id = c.job_id
 where j.id is null or j.locked_by is null and j.locked_at is null or starts_with(j.locked_by, 'backfill-suspect.')
    or j.locked_at < now() - interval '4 hours'
 order by c.job_id limit 1000;

-- name: Requested :one
-- Of which of these jobs the end was requested, and by whom and why. some: there are any requests at all.
select exists (select from graphile_worker.backfill_cancels)::boolean as some,
       array(select c.job_id from graphile_worker.backfill_cancels as c
              where c.job_id = any(@ids::bigint[]) order by c.job_id)::bigint[] as jobs,
       array(select c.requested_by from graphile_worker.backfill_cancels as c
              where c.job_id = any(@ids::bigint[]) order by c.job_id)::text[] as requested_by,
       array(select c.reason from graphile_worker.backfill_cancels as c
              where c.job_id = any(@ids::bigint[]) order by c.job_id)::text[] as reasons;

-- name: CancelJobs :many
-- Deletes those of these jobs that wait, suspects among them, and stores requests for those that workers of
-- ours have. A row that somebody has locked is left as it is. stored are jobs whose requests were stored
-- before: to insert one again would wait for whoever has met it and not committed yet, and would then store
-- it for a job that is gone. The answer says of which jobs it has stored the requests: those of the others
-- are somebody else's. The time of a request tells it from one that somebody stores when it was met.
--
-- Jobs are meant as they were found: with these revisions, if there are any, because an enqueue under its
-- key makes another job of one that waits, in the same row; and, if waiting, only as long as they wait.
with held as materialized (
  select j.id, j.job_queue_id, j.locked_by is not null as leased from graphile_worker._private_jobs as j
   where j.id = any(@ids::bigint[]) and (j.is_available or not @waiting::boolean and starts_with(j.locked_by, 'backfill-suspect.')
                                       or j.id = any(@stored::bigint[]) and j.locked_at is null and j.locked_by is null)   -- its last attempt has failed
     and ((cardinality(@revisions::int[]) > 0) is not true or j.revision = (@revisions::int[])[array_position(@ids::bigint[], j.id)])
   order by j.id for update skip locked
), queue as materialized (
  select s.id from graphile_worker._private_job_queues as s
   where s.id = any(array(select job_queue_id from held where leased and job_queue_id is not null)) order by s.id for update skip locked
), ended as (
  delete from graphile_worker._private_jobs as j where j.id = any(array(
    select id from held
     where not leased or job_queue_id is null or job_queue_id in (select id from queue)
        or not exists (select from graphile_worker._private_job_queues as s where s.id = held.job_queue_id)))
  returning j.id, j.job_queue_id, j.locked_by, j.task_id, j.key, j.attempts
), freed as (
  update graphile_worker._private_job_queues as s set locked_at = null, locked_by = null
    from ended where s.id = ended.job_queue_id and starts_with(ended.locked_by, s.locked_by || '.')
), forgotten as (
  delete from graphile_worker.backfill_crashes as k where k.job_id = any(array(select id from ended))
), recorded as (
  insert into graphile_worker.backfill_history (job_id, task_identifier, queue_name, job_key, attempt, outcome, ended_at, error)
  select ended.id, h.task_identifier, s.queue_name, ended.key, ended.attempts, 'canceled', now(), nullif(@reason::text, '')
    from ended join graphile_worker._private_tasks as t on t.id = ended.task_id
    join graphile_worker.backfill_history_tasks as h on h.task_identifier = t.identifier and h.seen_at > now() - interval '1 day'
    left join graphile_worker._private_job_queues as s on s.id = ended.job_queue_id
), met as materialized (                         -- requests that were stored before, when the jobs were running
  select c.job_id from graphile_worker.backfill_cancels as c
   where c.job_id = any(array(select id from ended)) order by c.job_id for update skip locked
), settled as (
  delete from graphile_worker.backfill_cancels as c where c.job_id = any(array(select job_id from met))
), requested as (
  insert into graphile_worker.backfill_cancels (job_id, requested_by, reason)
  select j.id, @requested_by::text, @reason::text from graphile_worker._private_jobs as j
   where j.id = any(@ids::bigint[]) and (j.id = any(@stored::bigint[])) is not true and not @waiting::boolean
     and j.locked_by ~ '^pool-[0-9a-f]{18}\.[0-9a-f]+\.[0-9]{1,9}k?$'
     and ((cardinality(@revisions::int[]) > 0) is not true or j.revision = (@revisions::int[])[array_position(@ids::bigint[], j.id)])
   order by j.id
  on conflict (job_id) do nothing
  returning job_id, requested_at
)
select u.id::bigint as id, exists (select from ended where ended.id = u.id)::boolean as ended,
       exists (select from requested where requested.job_id = u.id)::boolean as stored,
       coalesce((select requested.requested_at from requested where requested.job_id = u.id),
                (select c.requested_at from graphile_worker.backfill_cancels as c where c.job_id = u.id))::timestamptz as requested_at,
       coalesce(j.locked_by ~ '^pool-[0-9a-f]{18}\.[0-9a-f]+\.[0-9]{1,9}k?$', false)::boolean as requested,
       coalesce(cardinality(@revisions::int[]) > 0 and j.revision <> (@revisions::int[])[array_position(@ids::bigint[], u.id)], false)::boolean as replaced,
       coalesce(@waiting::boolean and (j.locked_at is not null or j.locked_by is not null), false)::boolean as started
  from unnest(@ids::bigint[]) as u(id) left join graphile_worker._private_jobs as j on j.id = u.id;

-- name: LookAtLeases :many
-- The state of jobs, as it is while nobody changes them: one whose row is locked is not free, and asked for
-- again. requested_at is that of its request. failed: no attempts are left.
--
-- The row of a leased job with a request is updated, to itself. A transaction whose snapshot is older than the
-- request does not see that; from now on, it cannot delete the row either (40001).
with free as materialized (
  select j.id, j.locked_by, j.locked_at, j.is_available from graphile_worker._private_jobs as j
   where j.id = any(@ids::bigint[]) order by j.id for update skip locked
), touched as (
  update graphile_worker._private_jobs as j set locked_by = j.locked_by from free
   where j.id = free.id and free.locked_by ~ '^pool-[0-9a-f]{18}\.[0-9a-f]+\.[0-9]{1,9}k?$'
     and exists (select from graphile_worker.backfill_cancels as c where c.job_id = free.id)
)
select u.id::bigint as id, ((select j.id from graphile_worker._private_jobs as j where j.id = u.id) is not null)::boolean as there,   -- of "exists", all ids are read
       (free.id is not null)::boolean as free, coalesce(free.locked_by, '')::text as locked_by,
       coalesce(free.locked_by ~ '^pool-[0-9a-f]{18}\.[0-9a-f]+\.[0-9]{1,9}k?$', false)::boolean as ours,
       (free.id is not null and not free.is_available and free.locked_at is null and free.locked_by is null)::boolean as failed,
       (select c.requested_at from graphile_worker.backfill_cancels as c where c.job_id = u.id) as requested_at,
       coalesce((select d.id from graphile_worker.backfill_dlq as d
                  where d.original_job_id = u.id and d.requeued_job_id is null limit 1), 0)::bigint as dead_letter
  from unnest(@ids::bigint[]) as u(id) left join free on free.id = u.id;

-- name: WithdrawRequests :exec
-- Deletes requests that came too late: those that the caller has stored, and old ones. Who has stored
-- another one is told by it what became of the job.
with late as materialized (
  select c.job_id from graphile_worker.backfill_cancels as c
   where c.job_id = any(@ids::bigint[]) and (c.job_id = any(@own::bigint[]) or c.requested_at < now() - interval '10 seconds')
     and not exists (select from graphile_worker._private_jobs as j where j.id = c.job_id)
   order by c.job_id for update skip locked
)
delete from graphile_worker.backfill_cancels as c where c.job_id = any(array(select job_id from late));

-- name: FindJobs :many
-- Jobs that match, by id, and how they stand. A condition whose parameter is null is not asked for.
select j.id, j.revision, j.is_available::boolean as waits, coalesce(j.locked_by, '')::text as locked_by,
       coalesce(j.locked_by ~ '^pool-[0-9a-f]{18}\.[0-9a-f]+\.[0-9]{1,9}k?$', false)::boolean as ours
  from graphile_worker._private_jobs as j
  join graphile_worker._private_tasks as t on t.id = j.task_id
  left join graphile_worker._private_job_queues as s on s.id = j.job_queue_id
 where j.id > @after::bigint and j.id <= @up_to::bigint
   and (j.is_available or not @waiting::boolean and (j.locked_at is not null or j.locked_by is not null))
   and (sqlc.narg('ids')::bigint[] is null or j.id = any(sqlc.narg('ids')::bigint[]))
   and (sqlc.narg('tasks')::text[] is null or t.identifier = any(sqlc.narg('tasks')::text[]))
   and (sqlc.narg('queues')::text[] is null or s.queue_name = any(sqlc.narg('queues')::text[]))
   and (sqlc.narg('keys')::text[] is null or j.key = any(sqlc.narg('keys')::text[]))
 order by j.id limit @size::int;

-- name: CountUnaffected :one
-- How many jobs match and neither wait nor run: they have failed for good.
select count(*)::bigint from graphile_worker._private_jobs as j
  join graphile_worker._private_tasks as t on t.id = j.task_id
  left join graphile_worker._private_job_queues as s on s.id = j.job_queue_id
 where j.id <= @up_to::bigint and not j.is_available and j.locked_at is null and j.locked_by is null
   and (sqlc.narg('ids')::bigint[] is null or j.id = any(sqlc.narg('ids')::bigint[]))
   and (sqlc.narg('tasks')::text[] is null or t.identifier = any(sqlc.narg('tasks')::text[]))
   and (sqlc.narg('queues')::text[] is null or s.queue_name = any(sqlc.narg('queues')::text[]))
   and (sqlc.narg('keys')::text[] is null or j.key = any(sqlc.narg('keys')::text[]));

-- name: LastJob :one
-- The greatest id that a job has, no job that is enqueued later has a smaller one; or -1 if there is none.
select coalesce(max(j.id), -1)::bigint as id from graphile_worker._private_jobs as j;

-- name: NotifyCancels :exec
select pg_notify(@channel::text, '');
