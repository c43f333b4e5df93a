-- What operators ask for: stale locks, the contract's admin functions, and cleaning up.

-- name: SweepJobs :many
-- The contract's sweep (section 5.6) of one page, and who else holds locks in it: one walk does for
-- both. The attempt stays charged, and updated_at where it is. A page is what comes next by id, so
-- that no statement runs for long, however many jobs there are. The id of a Go worker is in front of
-- the first dot of its tokens. Each row repeats the counts; an empty owner: nobody holds locks.
--
-- Failed are jobs without attempts left that are to be dead letters (R27): an hour after they can have
-- failed at the latest, and of tasks that a worker serves, or has served within a day, that makes dead
-- letters. Nothing in a row says when it failed; the delay is the contract's (section 6.2), by which
-- run_at was moved then, unless that is a time to come.
with served as materialized (
  select t.id from graphile_worker._private_tasks as t
   where t.identifier in (select unnest(w.tasks) from graphile_worker.backfill_workers as w
                           where w.dead_letters and (w.dead_at is null or w.dead_at > now() - interval '1 day'))
), page as materialized (
  select count(*)::int as seen, coalesce(max(r.id), 0)::bigint as last,
         array_agg(r.id) filter (where r.locked_at is not null or r.locked_by is not null) as locked,
         array_agg(r.id order by r.id) filter (where r.locked_at is null and r.locked_by is null and r.failed
                             and r.task_id = any(array(select served.id from served))
                             and r.updated_at < now() - interval '1 hour'
                             and (r.run_at > now() + r.delay or r.run_at < now() + r.delay - interval '1 hour')) as failed
    from (select j.id, j.locked_at, j.locked_by, j.task_id, j.updated_at, j.run_at,
                 j.attempts >= j.max_attempts and j.last_error is not null as failed,
                 exp(least(10, greatest(0, j.attempts))) * interval '1 second' as delay
            from graphile_worker._private_jobs as j
           where j.id > @after::bigint order by j.id limit @size::int) as r
), lock as materialized (
  select j.id, j.task_id, j.job_queue_id, j.key, j.locked_at, j.locked_by, coalesce(j.locked_at < now() - interval '4 hours', false) as stale
    from graphile_worker._private_jobs as j where j.id = any((select page.locked from page)::bigint[])
), held as materialized (
  select j.id from graphile_worker._private_jobs as j
   where j.id = any(array(select lock.id from lock where lock.stale))
     and j.locked_at < now() - interval '4 hours'
     and not exists (select from graphile_worker.backfill_cancels as c where c.job_id = j.id)
   order by j.id for update skip locked
), swept as (
  update graphile_worker._private_jobs as j
     set locked_at = null, locked_by = null, run_at = greatest(j.run_at, now())
   where j.id = any(array(select id from held))
  returning j.id
), recorded as (
  insert into graphile_worker.backfill_history
         (job_id, task_identifier, queue_name, job_key, attempt, outcome, started_at, ended_at, worker_id, error)
  select lock.id, h.task_identifier, s.queue_name, lock.key, substring(lock.locked_by from '([0-9]+)k?$')::int, 'lost', lock.locked_at, now(),
         split_part(lock.locked_by, '.', 1), 'the lock was 4 hours old'
    from swept join lock on lock.id = swept.id join graphile_worker._private_tasks as t on t.id = lock.task_id
    join graphile_worker.backfill_history_tasks as h on h.task_identifier = t.identifier and h.seen_at > now() - interval '1 day'
    left join graphile_worker._private_job_queues as s on s.id = lock.job_queue_id
   where lock.locked_by ~ '^pool-[0-9a-f]{18}\.[0-9a-f]+\.[0-9]{1,9}k?$'
), owned as materialized (
  select case when lock.locked_by ~ '^pool-[0-9a-f]{18}\.[0-9a-f]+\.[0-9]+k?$'
              then split_part(lock.locked_by, '.', 1) else lock.locked_by end as owner,
         count(*)::int as locks, min(lock.locked_at) as oldest_at
    from lock
   where not lock.stale and lock.locked_by is not null
     and lock.locked_by <> @worker_id::text and not starts_with(lock.locked_by, @worker_id::text || '.')
     and not starts_with(lock.locked_by, 'backfill-suspect.')
   group by 1 order by min(lock.locked_at) limit 20
)
select (select count(*) from swept)::int as swept, page.seen, page.last,
       coalesce(owned.owner, '')::text as owner, coalesce(owned.locks, 0)::int as locks,
       coalesce(extract(epoch from now() - least(owned.oldest_at, now())), 0)::float8 as oldest_seconds,
       coalesce(page.failed, '{}')::bigint[] as failed
  from page left join owned on true;

-- name: SweepQueues :many
with page as materialized (
  select count(*)::int as seen, coalesce(max(r.id), 0)::bigint as last,
         array_agg(r.id) filter (where r.locked_at is not null or r.locked_by is not null) as locked
    from (select s.id, s.locked_at, s.locked_by from graphile_worker._private_job_queues as s
           where s.id > @after::bigint order by s.id limit @size::int) as r
), lock as materialized (
  select s.id, s.locked_at, s.locked_by, coalesce(s.locked_at < now() - interval '4 hours', false) as stale
    from graphile_worker._private_job_queues as s where s.id = any((select page.locked from page)::bigint[])
), held as materialized (
  select s.id from graphile_worker._private_job_queues as s
   where s.id = any(array(select lock.id from lock where lock.stale))
     and s.locked_at < now() - interval '4 hours'
   order by s.id for update skip locked
), swept as (
  update graphile_worker._private_job_queues as s
     set locked_at = null, locked_by = null
   where s.id = any(array(select id from held))
  returning s.id
), owned as materialized (
  select case when lock.locked_by ~ '^pool-[0-9a-f]{18}\.[0-9a-f]+$'
              then split_part(lock.locked_by, '.', 1) else lock.locked_by end as owner,
         count(*)::int as locks, min(lock.locked_at) as oldest_at
    from lock
   where not lock.stale and lock.locked_by is not null
     and lock.locked_by <> @worker_id::text and not starts_with(lock.locked_by, @worker_id::text || '.')
     and not starts_with(lock.locked_by, 'backfill-suspect.')
   group by 1 order by min(lock.locked_at) limit 20
)
select (select count(*) from swept)::int as swept, page.seen, page.last,
       coalesce(owned.owner, '')::text as owner, coalesce(owned.locks, 0)::int as locks,
       coalesce(extract(epoch from now() - least(owned.oldest_at, now())), 0)::float8 as oldest_seconds
  from page left join owned on true;

-- name: NextJob :one
-- The first job behind an id, as a page of SweepJobs has it; 0: there is none.
select coalesce(min(j.id), 0)::bigint as id from graphile_worker._private_jobs as j where j.id > @after::bigint;

-- name: NextQueue :one
select coalesce(min(s.id), 0)::bigint as id from graphile_worker._private_job_queues as s where s.id > @after::bigint;

-- name: TakeTurn :execrows
-- A row if this worker is to sweep for all: no other one that is alive has begun to in the last 15
-- minutes. Of workers that ask at the same instant one gets the lock. (If its commit falls between
-- another's snapshot and lock, both sweep, once. That harms nobody.)
with lock as materialized (
  select pg_try_advisory_xact_lock(hashtextextended('backfill sweep ' || @schema_name::text, 0)) as got
)
update graphile_worker.backfill_workers as w set swept_at = clock_timestamp()
 where w.id = @id and w.dead_at is null and (select lock.got from lock)
   and not exists (select from graphile_worker.backfill_workers as other
                    where other.id <> @id and other.dead_at is null and other.swept_at > now() - interval '15 minutes');

-- name: AdminComplete :many
-- This and the next four return the columns of UpsertJobs. A job whose task's name is gone has none.
with changed as materialized (
  select * from graphile_worker.complete_jobs($1::bigint[])
), recorded as (
  insert into graphile_worker.backfill_history (job_id, task_identifier, queue_name, job_key, attempt, outcome, ended_at, error)
  select j.id, h.task_identifier, s.queue_name, j.key, j.attempts, 'completed', now(), null::text
    from changed as j join graphile_worker._private_tasks as t on t.id = j.task_id
    join graphile_worker.backfill_history_tasks as h on h.task_identifier = t.identifier and h.seen_at > now() - interval '1 day'
    left join graphile_worker._private_job_queues as s on s.id = j.job_queue_id
)
select j.key, j.id, coalesce(t.identifier, '') as task, coalesce(s.queue_name, '') as queue, j.payload,
       encode(timestamptz_send(j.run_at), 'hex') as run_at,
       encode(timestamptz_send(j.created_at), 'hex') as created_at,
       j.attempts, j.max_attempts, j.priority, j.revision, j.flags
  from changed as j
  left join graphile_worker._private_tasks as t on t.id = j.task_id
  left join graphile_worker._private_job_queues as s on s.id = j.job_queue_id
 order by j.id;

-- name: AdminFail :many
with changed as materialized (
  select * from graphile_worker.permanently_fail_jobs($1::bigint[], nullif($2::text, ''))
), recorded as (
  insert into graphile_worker.backfill_history (job_id, task_identifier, queue_name, job_key, attempt, outcome, ended_at, error)
  select j.id, h.task_identifier, s.queue_name, j.key, j.attempts, 'dead', now(), j.last_error
    from changed as j join graphile_worker._private_tasks as t on t.id = j.task_id
    join graphile_worker.backfill_history_tasks as h on h.task_identifier = t.identifier and h.seen_at > now() - interval '1 day'
    left join graphile_worker._private_job_queues as s on s.id = j.job_queue_id
)
select j.key, j.id, coalesce(t.identifier, '') as task, coalesce(s.queue_name, '') as queue, j.payload,
       encode(timestamptz_send(j.run_at), 'hex') as run_at,
       encode(timestamptz_send(j.created_at), 'hex') as created_at,
       j.attempts, j.max_attempts, j.priority, j.revision, j.flags
  from changed as j
  left join graphile_worker._private_tasks as t on t.id = j.task_id
  left join graphile_worker._private_job_queues as s on s.id = j.job_queue_id
 order by j.id;

-- name: AdminReschedule :many
select j.key, j.id, coalesce(t.identifier, '') as task, coalesce(s.queue_name, '') as queue, j.payload,
       encode(timestamptz_send(j.run_at), 'hex') as run_at,
       encode(timestamptz_send(j.created_at), 'hex') as created_at,
       j.attempts, j.max_attempts, j.priority, j.revision, j.flags
  from graphile_worker.reschedule_jobs($1::bigint[], $2::timestamptz, $3::int, $4::int, $5::int) as j
  left join graphile_worker._private_tasks as t on t.id = j.task_id
  left join graphile_worker._private_job_queues as s on s.id = j.job_queue_id
 order by j.id;

-- name: AdminRemove :many
-- A row of nulls says that there was no such job.
with changed as materialized (
  select * from graphile_worker.remove_job($1::text)
), recorded as (
  insert into graphile_worker.backfill_history (job_id, task_identifier, queue_name, job_key, attempt, outcome, ended_at, error)
  select j.id, h.task_identifier, s.queue_name, j.key, j.attempts, 'removed', now(), null::text
    from changed as j join graphile_worker._private_tasks as t on t.id = j.task_id
    join graphile_worker.backfill_history_tasks as h on h.task_identifier = t.identifier and h.seen_at > now() - interval '1 day'
    left join graphile_worker._private_job_queues as s on s.id = j.job_queue_id
   where j.locked_at is null                   -- else it is deleted when it ends
)
select j.key, j.id, coalesce(t.identifier, '') as task, coalesce(s.queue_name, '') as queue, j.payload,
       encode(timestamptz_send(j.run_at), 'hex') as run_at,
       encode(timestamptz_send(j.created_at), 'hex') as created_at,
       j.attempts, j.max_attempts, j.priority, j.revision, j.flags
  from changed as j
  left join graphile_worker._private_tasks as t on t.id = j.task_id
  left join graphile_worker._private_job_queues as s on s.id = j.job_queue_id
 where j.id is not null;

-- name: LockedJobs :many
select j.key, j.id, coalesce(t.identifier, '') as task, coalesce(s.queue_name, '') as queue, j.payload,
       encode(timestamptz_send(j.run_at), 'hex') as run_at,
       encode(timestamptz_send(j.created_at), 'hex') as created_at,
       j.attempts, j.max_attempts, j.priority, j.revision, j.flags
  from graphile_worker._private_jobs as j
  left join graphile_worker._private_tasks as t on t.id = j.task_id
  left join graphile_worker._private_job_queues as s on s.id = j.job_queue_id
 where j.locked_by = any($1::text[])
 order by j.id for update of j;

-- name: LockedQueues :one
select count(*)::int from graphile_worker._private_job_queues as s where s.locked_by = any($1::text[]);

-- name: RegisteredWorker :one
-- The longest of these ids that a worker of ours has, dead or alive; empty if none has.
select coalesce((select w.id from graphile_worker.backfill_workers as w
                  where w.id = any(@ids::text[]) order by length(w.id) desc limit 1), '')::text;

-- name: UnlockNodeJobs :execrows
-- UnlockJobs and UnlockQueues for a worker that is not ours: exactly its id, attempts stay charged.
with held as materialized (
  select j.id from graphile_worker._private_jobs as j
   where j.locked_by = @worker_id::text
   order by j.id limit 1000 for update skip locked
)
update graphile_worker._private_jobs as j set locked_at = null, locked_by = null
 where j.id = any(array(select id from held));

-- name: UnlockNodeQueues :execrows
with held as materialized (
  select s.id from graphile_worker._private_job_queues as s
   where s.locked_by = @worker_id::text
     and not exists (select from graphile_worker._private_jobs as j
                      where j.job_queue_id = s.id and j.locked_by = s.locked_by)
   order by s.id limit 1000 for update skip locked
)
update graphile_worker._private_job_queues as s set locked_at = null, locked_by = null
 where s.id = any(array(select id from held));

-- name: HoldsLocks :one
-- Whether anything is locked by the worker: by its bare id, or, if it is ours, by its tokens.
select (exists (select from graphile_worker._private_jobs as j
                 where j.locked_by = @worker_id::text
                    or @ours::boolean and starts_with(j.locked_by, @worker_id::text || '.'))
     or exists (select from graphile_worker._private_job_queues as s
                 where s.locked_by = @worker_id::text
                    or @ours::boolean and starts_with(s.locked_by, @worker_id::text || '.')))::boolean as holds;

-- name: ForceUnlock :exec
select graphile_worker.force_unlock_workers($1::text[]);

-- name: DeleteFailedJobs :one
-- A batch of the permanently failed jobs (contract section 8) behind an id.
with held as materialized (
  select j.id from graphile_worker._private_jobs as j
   where j.attempts = j.max_attempts and j.locked_at is null and j.id > @after::bigint
   order by j.id limit 1000 for update skip locked
), deleted as (
  delete from graphile_worker._private_jobs as j where j.id = any(array(select id from held)) returning j.id
)
select count(*)::int as jobs, coalesce(max(id), 0)::bigint as last from deleted;

-- name: LockTasks :exec
-- Names are deleted under this lock (cleanup.go).
lock table graphile_worker._private_tasks, graphile_worker._private_jobs in share row exclusive mode;

-- name: LockQueues :exec
lock table graphile_worker._private_job_queues, graphile_worker._private_jobs in share row exclusive mode;

-- name: UnusedTasks :many
select t.id from graphile_worker._private_tasks as t
 where t.identifier <> all(@keep::text[])
   and not exists (select from graphile_worker._private_jobs as j where j.task_id = t.id)
 order by t.id limit 10000;

-- name: DeleteTasks :execrows
delete from graphile_worker._private_tasks as t
 where t.id = any(@ids::int[])
   and not exists (select from graphile_worker._private_jobs as j where j.task_id = t.id);

-- name: UnusedQueues :many
select s.id from graphile_worker._private_job_queues as s
 where s.locked_at is null
   and not exists (select from graphile_worker._private_jobs as j where j.job_queue_id = s.id)
 order by s.id limit 10000;

-- name: DeleteQueues :execrows
delete from graphile_worker._private_job_queues as s
 where s.id = any(@ids::int[]) and s.locked_at is null
   and not exists (select from graphile_worker._private_jobs as j where j.job_queue_id = s.id);

-- name: PauseTask :execrows
-- A second pause of a task replaces the first.
insert into graphile_worker.backfill_pauses (task, paused_by, reason, ends_at)
select t.identifier, @paused_by::text, @reason::text, sqlc.narg('ends_at')::timestamptz
  from graphile_worker._private_tasks as t where t.identifier = @task::text
on conflict (task) do update
   set paused_at = clock_timestamp(), paused_by = excluded.paused_by, reason = excluded.reason, ends_at = excluded.ends_at;

-- name: ResumeTask :execrows
delete from graphile_worker.backfill_pauses where task = @task::text and coalesce(ends_at, 'infinity') > now();

-- name: PauseQueue :exec
-- The name counts, whether the queue has a row or not: a row without jobs is cleaned up, and comes back
-- under another id. A second pause of a queue replaces the first.
insert into graphile_worker.backfill_queue_pauses (queue_name, paused_by, reason, ends_at)
values (@queue_name::text, @paused_by::text, @reason::text, sqlc.narg('ends_at')::timestamptz)
on conflict (queue_name) do update
   set paused_at = clock_timestamp(), paused_by = excluded.paused_by, reason = excluded.reason, ends_at = excluded.ends_at;

-- name: ResumeQueue :execrows
delete from graphile_worker.backfill_queue_pauses
 where queue_name = @queue_name::text and coalesce(ends_at, 'infinity') > now();

-- name: Pauses :many
-- Tasks first.
select p.task, ''::text as queue_name, p.paused_at, p.paused_by, p.reason, p.ends_at from graphile_worker.backfill_pauses as p
 where coalesce(p.ends_at, 'infinity') > now()
union all
select ''::text as task, q.queue_name, q.paused_at, q.paused_by, q.reason, q.ends_at from graphile_worker.backfill_queue_pauses as q
 where coalesce(q.ends_at, 'infinity') > now()
 order by 2, 1;
