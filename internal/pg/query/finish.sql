-- Ending leases. Every statement is guarded by (id, token) and by nothing else (R1), locks the rows
-- that it can get in the order of their ids and skips the others (R16), and frees a queue only if the
-- same claim holds it (R2). A job whose queue's row somebody has locked is skipped as well, so that it
-- alone waits. Rows are told apart by their place in the arrays (ord), not by job id: two leases of one
-- job can meet in a statement. What does not come back is looked up once (LeaseHolders): lost, or
-- locked by somebody for the moment.
--
-- The statements also say of which task the job is that is now first in line in each queue that they
-- free, if one is due: somebody has to take it. In their snapshot the job that ends is still locked. A
-- run_at can be infinite, with which nobody can calculate.
--
-- A job that had a key when it was claimed (its token ends in k) and has none now was superseded or
-- removed while it ran. Nobody will run it again, so it is deleted however it ended: here, or by
-- EndCanceled, if its end was requested as well, which is told then.

-- name: CompleteJobs :one
-- done is empty if all leases were ended: then their number says it.
with held as materialized (
  select j.id, j.job_queue_id, u.ord
    from rows from (unnest(@ids::bigint[]), unnest(@tokens::text[])) with ordinality as u(id, token, ord)
    join graphile_worker._private_jobs as j on j.id = u.id and j.locked_by = u.token
   order by j.id for update of j skip locked
), queue as materialized (
  select s.id from graphile_worker._private_job_queues as s
   where s.id = any(array(select job_queue_id from held where job_queue_id is not null)) order by s.id for update skip locked
), ended as (
  delete from graphile_worker._private_jobs as j where j.id = any(array(
    select id from held
     where job_queue_id is null or job_queue_id in (select id from queue)
        or not exists (select from graphile_worker._private_job_queues as s where s.id = held.job_queue_id)))
  returning j.id, j.job_queue_id, j.locked_by
), requested as materialized (                  -- a request that was stored before is met, whatever the handler says
  select c.job_id from graphile_worker.backfill_cancels as c
   where c.job_id = any(array(select id from ended)) order by c.job_id for update skip locked
), settled as (
  delete from graphile_worker.backfill_cancels as c where c.job_id = any(array(select job_id from requested))
), freed as (
  update graphile_worker._private_job_queues as s set locked_at = null, locked_by = null
    from ended where s.id = ended.job_queue_id and starts_with(ended.locked_by, s.locked_by || '.')
  returning s.id
), next as (
  select freed.id as queue_id, n.task_id from freed cross join lateral (
    select j.task_id from graphile_worker._private_jobs as j
     where j.job_queue_id = freed.id and j.is_available and j.run_at <= now()
     order by j.job_queue_id, j.priority, j.run_at, j.id limit 1) n
)
select (select count(*) from ended)::int as ended,
       case when (select count(*) from ended) = cardinality(@ids::bigint[]) then array[]::int[]
            else array(select held.ord::int from held join ended on ended.id = held.id) end::int[] as done,
       array(select held.ord::int from requested join held on held.id = requested.job_id)::int[] as canceled,
       array(select queue_id from next order by queue_id)::int[] as next_queues,
       array(select task_id from next order by queue_id)::int[] as next_tasks;

-- name: CompleteKeyedJobs :one
-- CompleteJobs for leases of which some had a key: it also deletes dead letters of the same tasks and
-- keys, because what they asked for has been done: 1,000 for each job, so that a job that succeeds after
-- half a year is recorded, too; the next success goes on. Jobs without keys alone pay nothing for it. In
-- an order of ids they could be looked for among all dead letters.
with held as materialized (
  select j.id, j.job_queue_id, u.ord
    from rows from (unnest(@ids::bigint[]), unnest(@tokens::text[])) with ordinality as u(id, token, ord)
    join graphile_worker._private_jobs as j on j.id = u.id and j.locked_by = u.token
   order by j.id for update of j skip locked
), queue as materialized (
  select s.id from graphile_worker._private_job_queues as s
   where s.id = any(array(select job_queue_id from held where job_queue_id is not null)) order by s.id for update skip locked
), ended as (
  delete from graphile_worker._private_jobs as j where j.id = any(array(
    select id from held
     where job_queue_id is null or job_queue_id in (select id from queue)
        or not exists (select from graphile_worker._private_job_queues as s where s.id = held.job_queue_id)))
  returning j.id, j.job_queue_id, j.locked_by, j.task_id, j.key
), requested as materialized (                  -- a request that was stored before is met, whatever the handler says
  select c.job_id from graphile_worker.backfill_cancels as c
   where c.job_id = any(array(select id from ended)) order by c.job_id for update skip locked
), settled as (
  delete from graphile_worker.backfill_cancels as c where c.job_id = any(array(select job_id from requested))
), letter as materialized (
  select l.id from ended join graphile_worker._private_tasks as t on t.id = ended.task_id cross join lateral (
    select d.id from graphile_worker.backfill_dlq as d
     where d.job_key = ended.key and d.task_identifier = t.identifier limit 1000 for update skip locked) as l
), cleared as (
  delete from graphile_worker.backfill_dlq as d where d.id = any(array(select id from letter))
), freed as (
  update graphile_worker._private_job_queues as s set locked_at = null, locked_by = null
    from ended where s.id = ended.job_queue_id and starts_with(ended.locked_by, s.locked_by || '.')
  returning s.id
), next as (
  select freed.id as queue_id, n.task_id from freed cross join lateral (
    select j.task_id from graphile_worker._private_jobs as j
     where j.job_queue_id = freed.id and j.is_available and j.run_at <= now()
     order by j.job_queue_id, j.priority, j.run_at, j.id limit 1) n
)
select (select count(*) from ended)::int as ended,
       case when (select count(*) from ended) = cardinality(@ids::bigint[]) then array[]::int[]
            else array(select held.ord::int from held join ended on ended.id = held.id) end::int[] as done,
       array(select held.ord::int from requested join held on held.id = requested.job_id)::int[] as canceled,
       array(select queue_id from next order by queue_id)::int[] as next_queues,
       array(select task_id from next order by queue_id)::int[] as next_tasks;

-- name: CompleteRecordedJobs :one
-- CompleteKeyedJobs for leases of which some go into the history: those that have a task here.
with held as materialized (
  select j.id, j.job_queue_id, u.ord, u.token, u.task, u.queue, u.key, u.took_us, u.ago_us, u.output, u.log
    from rows from (unnest(@ids::bigint[]), unnest(@tokens::text[]), unnest(@kept_tasks::text[]), unnest(@kept_queues::text[]),
                    unnest(@kept_keys::text[]), unnest(@took_us::bigint[]), unnest(@ago_us::bigint[]), unnest(@outputs::text[]),
                    unnest(@logs::text[])) with ordinality as u(id, token, task, queue, key, took_us, ago_us, output, log, ord)
    join graphile_worker._private_jobs as j on j.id = u.id and j.locked_by = u.token
   order by j.id for update of j skip locked
), queue as materialized (
  select s.id from graphile_worker._private_job_queues as s
   where s.id = any(array(select job_queue_id from held where job_queue_id is not null)) order by s.id for update skip locked
), ended as (
  delete from graphile_worker._private_jobs as j where j.id = any(array(
    select id from held
     where job_queue_id is null or job_queue_id in (select id from queue)
        or not exists (select from graphile_worker._private_job_queues as s where s.id = held.job_queue_id)))
  returning j.id, j.job_queue_id, j.locked_by, j.task_id, j.key
), requested as materialized (                  -- a request that was stored before is met, whatever the handler says
  select c.job_id from graphile_worker.backfill_cancels as c
   where c.job_id = any(array(select id from ended)) order by c.job_id for update skip locked
), settled as (
  delete from graphile_worker.backfill_cancels as c where c.job_id = any(array(select job_id from requested))
), recorded as (
  insert into graphile_worker.backfill_history
         (job_id, task_identifier, queue_name, job_key, attempt, outcome, started_at, ended_at, duration, worker_id, output, log)
  select ended.id, held.task, nullif(held.queue, ''), nullif(held.key, ''), rtrim(split_part(held.token, '.', 3), 'k')::int,
         case when ended.id in (select job_id from requested) then 'canceled' else 'completed' end,
         now() - (held.took_us + held.ago_us) * interval '1 microsecond', now(), held.took_us * interval '1 microsecond',
         split_part(held.token, '.', 1), nullif(held.output, '')::json, nullif(held.log, '')
    from ended join held on held.id = ended.id
   where held.task <> ''
   order by ended.id
), letter as materialized (
  select l.id from ended join graphile_worker._private_tasks as t on t.id = ended.task_id cross join lateral (
    select d.id from graphile_worker.backfill_dlq as d
     where d.job_key = ended.key and d.task_identifier = t.identifier limit 1000 for update skip locked) as l
), cleared as (
  delete from graphile_worker.backfill_dlq as d where d.id = any(array(select id from letter))
), freed as (
  update graphile_worker._private_job_queues as s set locked_at = null, locked_by = null
    from ended where s.id = ended.job_queue_id and starts_with(ended.locked_by, s.locked_by || '.')
  returning s.id
), next as (
  select freed.id as queue_id, n.task_id from freed cross join lateral (
    select j.task_id from graphile_worker._private_jobs as j
     where j.job_queue_id = freed.id and j.is_available and j.run_at <= now()
     order by j.job_queue_id, j.priority, j.run_at, j.id limit 1) n
)
select (select count(*) from ended)::int as ended,
       case when (select count(*) from ended) = cardinality(@ids::bigint[]) then array[]::int[]
            else array(select held.ord::int from held join ended on ended.id = held.id) end::int[] as done,
       array(select held.ord::int from requested join held on held.id = requested.job_id)::int[] as canceled,
       array(select queue_id from next order by queue_id)::int[] as next_queues,
       array(select task_id from next order by queue_id)::int[] as next_tasks;

-- name: FailJobs :many
-- The formula of run_at is the contract's (section 6.2); the delay is ours to choose. A run_at that
-- somebody has put where times end stays: their sum would be refused. An empty payload keeps the job's.
--
-- A job that fails for good, and whose outcome has a reason, becomes a dead letter: its row goes. If it
-- was requeued from a dead letter, that one has it again. Somebody may have locked that row: then the
-- job waits, too.
with failure as materialized (
  select u.ord, u.id, u.token, u.error, u.delay_us, u.permanent, u.payload, u.reason,
         u.task, u.queue, u.key, u.took_us, u.ago_us, u.log
    from rows from (unnest(@ids::bigint[]), unnest(@tokens::text[]), unnest(@errors::text[]), unnest(@delays_us::bigint[]),
                    unnest(@permanent::boolean[]), unnest(@payloads::text[]), unnest(@reasons::text[]),
                    unnest(@kept_tasks::text[]), unnest(@kept_queues::text[]), unnest(@kept_keys::text[]), unnest(@took_us::bigint[]),
                    unnest(@ago_us::bigint[]), unnest(@logs::text[]))
         with ordinality as u(id, token, error, delay_us, permanent, payload, reason, task, queue, key, took_us, ago_us, log, ord)
), held as materialized (
  select j.id, j.job_queue_id, failure.ord,
         failure.token like '%k' and j.key is null
           and not exists (select from graphile_worker.backfill_cancels as c where c.job_id = j.id) as superseded,
         failure.reason <> '' and (failure.permanent or j.attempts >= j.max_attempts)
           and not (failure.token like '%k' and j.key is null)
           and not exists (select from graphile_worker.backfill_cancels as c where c.job_id = j.id) as dead
    from failure
    join graphile_worker._private_jobs as j on j.id = failure.id and j.locked_by = failure.token
   order by j.id for update of j skip locked
), queue as materialized (
  select s.id from graphile_worker._private_job_queues as s
   where s.id = any(array(select job_queue_id from held where job_queue_id is not null)) order by s.id for update skip locked
), requeued as materialized (                 -- also what is locked by others
  select d.requeued_job_id from graphile_worker.backfill_dlq as d
   where d.requeued_job_id is not null and d.requeued_job_id = any(array(select id from held where dead))
), letter as materialized (
  select d.id, d.requeued_job_id from graphile_worker.backfill_dlq as d
   where d.requeued_job_id is not null and d.requeued_job_id = any(array(select id from held where dead)) order by d.id for update skip locked
), ending as materialized (
  select id, superseded, dead from held
   where (job_queue_id is null or job_queue_id in (select id from queue)
          or not exists (select from graphile_worker._private_job_queues as s where s.id = held.job_queue_id))
     and (not dead or id in (select requeued_job_id from letter) or id not in (select requeued_job_id from requeued))
), dropped as (
  delete from graphile_worker._private_jobs as j where j.id = any(array(select id from ending where superseded))
  returning j.id, j.job_queue_id, j.locked_by as token
), buried as (
  delete from graphile_worker._private_jobs as j where j.id = any(array(select id from ending where dead))
  returning j.id, j.job_queue_id, j.task_id, j.payload, j.priority, j.run_at, j.attempts, j.max_attempts, j.created_at, j.key, j.flags,
            j.locked_by as token
), dead as materialized (
  select buried.id, coalesce(t.identifier, '') as task, s.queue_name,
         case when failure.payload = '' then buried.payload else failure.payload::json end as payload, buried.priority, buried.run_at,
         buried.attempts, buried.max_attempts, buried.created_at, buried.key, buried.flags, failure.reason, failure.error
    from buried join failure on failure.id = buried.id and failure.token = buried.token
    left join graphile_worker._private_tasks as t on t.id = buried.task_id
    left join graphile_worker._private_job_queues as s on s.id = buried.job_queue_id
), again as (
  update graphile_worker.backfill_dlq as d
     set requeued_job_id = null, original_job_id = dead.id, task_identifier = dead.task, payload = dead.payload,
         queue_name = dead.queue_name, priority = dead.priority, job_key = dead.key, attempts = dead.attempts,
         max_attempts = dead.max_attempts, flags = dead.flags, original_created_at = dead.created_at, original_run_at = dead.run_at,
         failure_reason = dead.reason, failure_count = d.failure_count + 1, last_error = dead.error, failed_at = now()
    from dead where d.id = any(array(select id from letter)) and d.requeued_job_id = dead.id
), written as (
  insert into graphile_worker.backfill_dlq
         (original_job_id, task_identifier, payload, queue_name, priority, job_key, attempts, max_attempts, flags,
          original_created_at, original_run_at, failure_reason, last_error, first_error)
  select dead.id, dead.task, dead.payload, dead.queue_name, dead.priority, dead.key, dead.attempts, dead.max_attempts, dead.flags,
         dead.created_at, dead.run_at, dead.reason, dead.error, dead.error
    from dead where not exists (select from letter where letter.requeued_job_id = dead.id)
   order by dead.id
), ended as (
  update graphile_worker._private_jobs as j
     set last_error = failure.error,
         run_at = case when j.run_at > '200000-01-01Z' then j.run_at
                       else greatest(now(), j.run_at) + failure.delay_us * interval '1 microsecond' end,
         attempts = case when failure.permanent then greatest(j.attempts, j.max_attempts) else j.attempts end,
         payload = case when failure.payload = '' then j.payload else failure.payload::json end,
         locked_at = null, locked_by = null
    from failure
   where j.id = failure.id and j.id = any(array(select id from ending where not superseded and not dead))
     and j.locked_by = failure.token
  returning j.id, j.job_queue_id, failure.token, j.attempts < j.max_attempts as retry,
            (extract(epoch from least(greatest(j.run_at, now()), now() + interval '100 years') - now()) * 1000000)::bigint as due_us
), done as (
  select id, job_queue_id, token, retry, due_us from ended
  union all
  select id, job_queue_id, token, false, -1 from dropped
  union all
  select id, job_queue_id, token, false, -1 from buried
), freed as (
  update graphile_worker._private_job_queues as s set locked_at = null, locked_by = null
    from done where s.id = done.job_queue_id and starts_with(done.token, s.locked_by || '.')
), recorded as (
  insert into graphile_worker.backfill_history
         (job_id, task_identifier, queue_name, job_key, attempt, outcome, started_at, ended_at, duration, worker_id, error, log)
  select done.id, failure.task, nullif(failure.queue, ''), nullif(failure.key, ''), rtrim(split_part(done.token, '.', 3), 'k')::int,
         case when held.superseded then 'superseded'
              when done.retry or exists (select from graphile_worker.backfill_cancels as c where c.job_id = done.id) then 'failed'
              else 'dead' end,
         now() - (failure.took_us + failure.ago_us) * interval '1 microsecond', now(), failure.took_us * interval '1 microsecond',
         split_part(done.token, '.', 1), failure.error, nullif(failure.log, '')
    from done join held on held.id = done.id join failure on failure.id = done.id and failure.token = done.token
   where failure.task <> ''
)
select held.ord::int as ord, held.superseded::boolean as superseded, done.retry, done.due_us,
       case when done.job_queue_id is null then 0 else coalesce((
         select j.task_id from graphile_worker._private_jobs as j
          where j.job_queue_id = done.job_queue_id and j.is_available and j.run_at <= now()
          order by j.job_queue_id, j.priority, j.run_at, j.id limit 1), 0) end::int as next_task
  from done join held on held.id = done.id;

-- name: ReleaseJobs :many
-- Gives jobs back. The attempt is refunded only if nobody removed or superseded the job while it was
-- locked (R3): attempts is still the attempt of the token, and a job that had a key when it was claimed
-- has one now. A negative delay leaves run_at. What has a task in kept_tasks goes into the history: canceled
-- if that is the outcome and was requested, else returned.
with release as materialized (
  select u.ord, u.id, u.token, u.delay_us, u.outcome, u.task, u.queue, u.key, u.took_us, u.ago_us, u.error, u.log
    from rows from (unnest(@ids::bigint[]), unnest(@tokens::text[]), unnest(@delays_us::bigint[]),
                    unnest(@outcomes::text[]), unnest(@kept_tasks::text[]), unnest(@kept_queues::text[]), unnest(@kept_keys::text[]),
                    unnest(@took_us::bigint[]), unnest(@ago_us::bigint[]), unnest(@errors::text[]), unnest(@logs::text[]))
         with ordinality as u(id, token, delay_us, outcome, task, queue, key, took_us, ago_us, error, log, ord)
), held as materialized (
  select j.id, j.job_queue_id, release.ord,
         release.token like '%k' and j.key is null
           and not exists (select from graphile_worker.backfill_cancels as c where c.job_id = j.id) as superseded from release
    join graphile_worker._private_jobs as j on j.id = release.id and j.locked_by = release.token
   order by j.id for update of j skip locked
), queue as materialized (
  select s.id from graphile_worker._private_job_queues as s
   where s.id = any(array(select job_queue_id from held where job_queue_id is not null)) order by s.id for update skip locked
), ending as materialized (
  select id, superseded from held
   where job_queue_id is null or job_queue_id in (select id from queue)
      or not exists (select from graphile_worker._private_job_queues as s where s.id = held.job_queue_id)
), dropped as (
  delete from graphile_worker._private_jobs as j where j.id = any(array(select id from ending where superseded))
  returning j.id, j.job_queue_id, j.locked_by as token
), ended as (
  update graphile_worker._private_jobs as j
     set attempts = case when j.attempts = rtrim(split_part(release.token, '.', 3), 'k')::int
                         then greatest(0, j.attempts - 1) else j.attempts end,
         run_at = case when release.delay_us < 0 then j.run_at
                       else now() + release.delay_us * interval '1 microsecond' end,
         locked_at = null, locked_by = null
    from release
   where j.id = release.id and j.id = any(array(select id from ending where not superseded))
     and j.locked_by = release.token
  returning j.id, j.job_queue_id, release.token, j.attempts < j.max_attempts as retry,
            (extract(epoch from least(greatest(j.run_at, now()), now() + interval '100 years') - now()) * 1000000)::bigint as due_us
), done as (
  select id, job_queue_id, token, retry, due_us from ended
  union all
  select id, job_queue_id, token, false, -1 from dropped
), freed as (
  update graphile_worker._private_job_queues as s set locked_at = null, locked_by = null
    from done where s.id = done.job_queue_id and starts_with(done.token, s.locked_by || '.')
), recorded as (
  insert into graphile_worker.backfill_history
         (job_id, task_identifier, queue_name, job_key, attempt, outcome, started_at, ended_at, duration, worker_id, error, log)
  select done.id, release.task, nullif(release.queue, ''), nullif(release.key, ''), rtrim(split_part(done.token, '.', 3), 'k')::int,
         case when held.superseded then 'superseded'
              when release.outcome = 'canceled'
                   and not exists (select from graphile_worker.backfill_cancels as c where c.job_id = done.id) then 'returned'
              else release.outcome end,
         now() - (release.took_us + release.ago_us) * interval '1 microsecond', now(), release.took_us * interval '1 microsecond',
         split_part(done.token, '.', 1),
         coalesce((select nullif(c.reason, '') from graphile_worker.backfill_cancels as c where c.job_id = done.id), nullif(release.error, '')),
         nullif(release.log, '')
    from done join held on held.id = done.id join release on release.id = done.id and release.token = done.token
   where release.task <> ''
)
select held.ord::int as ord, held.superseded::boolean as superseded, done.retry, done.due_us,
       case when done.job_queue_id is null then 0 else coalesce((
         select j.task_id from graphile_worker._private_jobs as j
          where j.job_queue_id = done.job_queue_id and j.is_available and j.run_at <= now()
          order by j.job_queue_id, j.priority, j.run_at, j.id limit 1), 0) end::int as next_task
  from done join held on held.id = done.id;

-- name: RenewJobs :one
-- Moves the lock times of jobs and, separately, of their queues: a peer's sweep looks at each on its own
-- (R7). When the lease began is kept.
with lease as materialized (
  select u.ord, u.id, u.token, u.queue_id, u.claim
    from rows from (unnest(@ids::bigint[]), unnest(@tokens::text[]), unnest(@queue_ids::int[]), unnest(@claims::text[]))
         with ordinality as u(id, token, queue_id, claim, ord)
), held as materialized (
  select j.id, lease.ord, lease.token, j.locked_at from lease
    join graphile_worker._private_jobs as j on j.id = lease.id and j.locked_by = lease.token
   order by j.id for update of j skip locked
), noted as (
  insert into graphile_worker.backfill_crashes as c (job_id, worker_id, token, began)
  select held.id, split_part(held.token, '.', 1), held.token, coalesce(held.locked_at, now()) from held
  on conflict (job_id, worker_id) do update
     set token = excluded.token, began = excluded.began, tried = false, judged_at = null, age = null, alone = false, passed = false
   where c.token <> excluded.token
), queue as materialized (
  select s.id from lease
    join graphile_worker._private_job_queues as s on s.id = lease.queue_id and s.locked_by = lease.claim
   order by s.id for update of s skip locked
), renewed_queue as (
  update graphile_worker._private_job_queues as s set locked_at = now() where s.id = any(array(select id from queue))
), renewed as (
  update graphile_worker._private_jobs as j set locked_at = now() where j.id = any(array(select id from held))
)
select array(select ord::int from held)::int[] as done;

-- name: LeaseHolders :many
select id, locked_by from graphile_worker._private_jobs where id = any(@ids::bigint[]);

-- name: FreeQueues :exec
-- Frees queues whose locked job somebody else deleted or released: nothing else would, for 4 hours (R7).
with held as materialized (
  select s.id
    from rows from (unnest(@ids::int[]), unnest(@claims::text[])) as u(id, claim)
    join graphile_worker._private_job_queues as s on s.id = u.id and s.locked_by = u.claim
   order by s.id for update of s skip locked
)
update graphile_worker._private_job_queues as s set locked_at = null, locked_by = null
 where s.id = any(array(select id from held));
