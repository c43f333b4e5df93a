-- A worker's row, its tasks, and its notifications.

-- name: InsertWorker :exec
insert into graphile_worker.backfill_workers
       (id, host, pid, beats, version, server, machine, process_start, tasks, slots, dead_letters, crontab)
values (@id, @host, @pid, 0, @version, @server, @machine, @process_start, @tasks::text[], @slots, @dead_letters, (@crontab::text)::json);

-- name: NoteFormerWorker :exec
-- A worker that was declared dead and is not: what it held did not end it. Who holds the dead row
-- does not keep the worker from coming back.
with former as materialized (
  select w.id from graphile_worker.backfill_workers as w where w.id = @id and w.stopping_at is null for update skip locked
)
update graphile_worker.backfill_workers as w set stopping_at = clock_timestamp() from former where w.id = former.id;

-- name: RetireWorker :exec
-- The lock waits for a claim in flight, which holds the row for key share: it commits before this, or finds the worker dead (R4).
with worker as materialized (
  select w.id from graphile_worker.backfill_workers as w where w.id = @id and w.dead_at is null for update
)
update graphile_worker.backfill_workers as w
   set dead_at = clock_timestamp(), rescued_at = case when @clean::boolean then clock_timestamp() end,
       stopping_at = coalesce(w.stopping_at, clock_timestamp())
  from worker where w.id = worker.id;

-- name: DeleteOldWorkers :exec
-- A tombstone stays for a day: a claim that was in flight when the worker died must still find it (R4).
-- A start waits for nobody who holds one. The row of a worker that has given notice late goes when its
-- evidence was taken back: of one without a row, it would count again.
with old as materialized (
  select w.id from graphile_worker.backfill_workers as w
   where w.dead_at < now() - interval '24 hours' and w.rescued_at is not null
     and (w.stopping_at is null or not exists (
           select from graphile_worker.backfill_crashes as c
            where c.worker_id = w.id and c.judged_at is not null and c.age is not null))
   limit 1000 for update skip locked
), void as materialized (
  select c.job_id, c.worker_id from graphile_worker.backfill_crashes as c
    join graphile_worker.backfill_workers as w on w.id = c.worker_id
   where c.judged_at is not null and c.age is not null
     and w.dead_at < now() - interval '24 hours' and w.stopping_at is not null
   order by c.job_id, c.worker_id limit 1000 for update of c skip locked
), withdrawn as (
  update graphile_worker.backfill_crashes as c set age = null, alone = false
    from void where c.job_id = void.job_id and c.worker_id = void.worker_id
)
delete from graphile_worker.backfill_workers as w where w.id = any(array(select old.id from old));

-- name: Beat :many
-- Writes a heartbeat, or none, and reads every worker that lives, or from whom something may be left, and
-- those that were settled lately. The own row is read as it was before. When the server started is another
-- time after a restart and after every kind of fail-over, and each role may ask for it: a promotion
-- changes the timeline, but a restart on the same storage does not, and not everybody has one.
with beat as (
  update graphile_worker.backfill_workers as w
     set beats = @beats::bigint, heartbeat_at = clock_timestamp(), locked = w.locked or @locked::boolean,
         emptying_at = case when @emptying::boolean then coalesce(w.emptying_at, clock_timestamp()) end,
         running = @running::bigint[], forbidden = @forbidden::text[],
         stopping_at = case when @stopping::boolean then coalesce(w.stopping_at, clock_timestamp()) else w.stopping_at end
   where w.id = @id and w.dead_at is null and @write::boolean
  returning w.id
)
select w.id, w.host, w.pid, coalesce(w.beats, -1)::bigint as beats, w.locked, w.machine, w.process_start,
       (w.dead_at is not null)::boolean as dead, (w.rescued_at is not null)::boolean as rescued,
       (w.emptying_at is not null)::boolean as emptying, (w.trial_at is not null)::boolean as trying,
       exists (select from beat) as written,
       exists (select from graphile_worker.backfill_crashes as c where c.judged_at is not null) as crashes,
       (extract(epoch from pg_postmaster_start_time()) * 1000000)::bigint as server_started_us,
       (extract(epoch from clock_timestamp()) * 1000000)::bigint as now_us
  from graphile_worker.backfill_workers as w
 where w.dead_at is null or w.rescued_at is null or w.rescued_at > now() - interval '10 minutes';

-- name: LockSession :exec
-- The lock of a worker's heartbeats. Two ids that have one hash make a lock look held: the safe side.
select pg_advisory_lock(hashtext('backfill worker ' || @schema_name::text), hashtext(@id::text));

-- name: TryLockSession :one
select pg_try_advisory_lock(hashtext('backfill worker ' || @schema_name::text), hashtext(@id::text));

-- name: SessionUnlocked :one
-- Shared, so that two who ask do not hide the lock from each other (R28). A lock of this statement's transaction.
select pg_try_advisory_xact_lock_shared(hashtext('backfill worker ' || @schema_name::text), hashtext(@id::text));

-- name: DeclareDead :execrows
-- Skips a worker of which a claim is under way, which holds the row for key share (R4, R5).
with worker as materialized (
  select w.id from graphile_worker.backfill_workers as w
   where w.id = @id and w.dead_at is null and w.beats = @beats::bigint for update skip locked
)
update graphile_worker.backfill_workers as w set dead_at = clock_timestamp() from worker where w.id = worker.id;

-- name: LockRescue :one
select pg_try_advisory_xact_lock(hashtextextended('backfill rescue ' || @schema_name::text, 0));

-- name: RescueFind :many
-- The jobs of workers that are dead or have no row, found by what their rows say, whatever has become of
-- the worker's. After the tombstone nothing more can be locked, so this is all that is left. The first
-- time, it notes how many jobs each held: before any of them is released.
with gone as materialized (
  select u.id from unnest(@ids::text[]) as u(id)
   where not exists (select from graphile_worker.backfill_workers as w where w.id = u.id and w.dead_at is null)
), found as materialized (
  select j.id, split_part(j.locked_by, '.', 1) as worker_id from graphile_worker._private_jobs as j
   where j.locked_by is not null and split_part(j.locked_by, '.', 1) = any(array(select gone.id from gone))
     and j.locked_by ~ '^pool-[0-9a-f]{18}\.[0-9a-f]+\.[0-9]{1,9}k?$'
), uncounted as materialized (
  select w.id from graphile_worker.backfill_workers as w
   where w.id = any(array(select gone.id from gone)) and w.held is null order by w.id for update skip locked
), census as (
  update graphile_worker.backfill_workers as w set held = (select count(*) from found where found.worker_id = w.id)
   where w.id = any(array(select uncounted.id from uncounted))
)
select found.id, found.worker_id::text as worker_id from found order by found.id;

-- name: RescueQueues :one
-- The queues, after the jobs: not one of which a job is left. The jobs are read once, whatever the
-- planner thinks of them, and not for each queue.
with gone as materialized (
  select u.id from unnest(@ids::text[]) as u(id)
   where not exists (select from graphile_worker.backfill_workers as w where w.id = u.id and w.dead_at is null)
), found as materialized (
  select s.id, split_part(s.locked_by, '.', 1) as worker_id from graphile_worker._private_job_queues as s
   where s.locked_by is not null and split_part(s.locked_by, '.', 1) = any(array(select gone.id from gone))
     and s.locked_by ~ '^pool-[0-9a-f]{18}\.[0-9a-f]+$'
), jobs as materialized (
  select j.job_queue_id, j.locked_by from graphile_worker._private_jobs as j
   where j.locked_by is not null and split_part(j.locked_by, '.', 1) = any(array(select gone.id from gone))
     and j.job_queue_id is not null
), held as materialized (
  select s.id from graphile_worker._private_job_queues as s
   where s.id = any(array(select found.id from found)) and split_part(s.locked_by, '.', 1) = any(array(select gone.id from gone))
     and not exists (select from jobs where jobs.job_queue_id = s.id and starts_with(jobs.locked_by, s.locked_by || '.'))
   order by s.id limit 1000 for update skip locked
), freed as (
  update graphile_worker._private_job_queues as s set locked_at = null, locked_by = null
   where s.id = any(array(select held.id from held))
  returning s.id
)
select (select count(*) from found)::int as found, (select count(*) from freed)::int as ended,
       array(select distinct found.worker_id from found)::text[] as holders;

-- name: SettleWorkers :many
-- Notes that nothing is locked by these workers any more. Those that live are not meant.
with noted as (
  update graphile_worker.backfill_workers as w set rescued_at = clock_timestamp()
   where w.id = any(@ids::text[]) and w.dead_at is not null and w.rescued_at is null
)
select u.id::text from unnest(@ids::text[]) as u(id)
 where not exists (select from graphile_worker.backfill_workers as w where w.id = u.id and w.dead_at is null);

-- name: Unowned :many
-- Workers of ours by whom something is locked and who have no row: somebody has deleted it.
select o.id::text as id from (
  select split_part(j.locked_by, '.', 1) as id from graphile_worker._private_jobs as j
   where j.locked_by ~ '^pool-[0-9a-f]{18}\.[0-9a-f]+\.[0-9]{1,9}k?$'
  union
  select split_part(s.locked_by, '.', 1) from graphile_worker._private_job_queues as s
   where s.locked_by ~ '^pool-[0-9a-f]{18}\.[0-9a-f]+$'
) as o where not exists (select from graphile_worker.backfill_workers as w where w.id = o.id);

-- name: AddTasks :exec
-- Only missing names: an insert that conflicts would burn an identity value each time.
insert into graphile_worker._private_tasks (identifier)
select n.name from pg_catalog.unnest(@names::pg_catalog.text[]) as n(name)
 where not exists (select from graphile_worker._private_tasks as t where t.identifier OPERATOR(pg_catalog.=) n.name)
 order by n.name
on conflict (identifier) do nothing;

-- name: TaskIDs :many
select t.id, t.identifier from graphile_worker._private_tasks as t where t.identifier = any(@names::text[]);

-- name: PausesOf :many
-- What is paused now, of these tasks and of all queues, for the log those that have been for longest. The
-- claim itself knows of all queues that are.
select false as queue, p.task as name,
       concat_ws(', ', nullif(p.paused_by, ''), nullif(p.reason, ''), 'since ' || p.paused_at)::text as why
  from graphile_worker.backfill_pauses as p
 where p.task = any(@tasks::text[]) and coalesce(p.ends_at, 'infinity') > now()
union all
(select true as queue, q.queue_name as name,
       concat_ws(', ', nullif(q.paused_by, ''), nullif(q.reason, ''), 'since ' || q.paused_at)::text as why
  from graphile_worker.backfill_queue_pauses as q
 where coalesce(q.ends_at, 'infinity') > now() order by q.paused_at, q.queue_name limit @most_queues::int);

-- name: WorkerSettled :one
-- False while a claim of this worker may still commit: it holds the worker's row for key share (R5).
with worker as materialized (
  select w.id from graphile_worker.backfill_workers as w where w.id = @id for update skip locked
)
select (exists (select from worker)
        or not exists (select from graphile_worker.backfill_workers as w where w.id = @id))::boolean as settled;

-- name: ReclaimJobs :many
-- Releases jobs that are locked under a worker's id and that it does not know of (R6), a batch at a time.
-- Jobs of one claim can have one token, so it names what it knows as '<id> <token>', and queues likewise.
-- Refunds are those of ReleaseJobs.
with held as materialized (
  select j.id from graphile_worker._private_jobs as j
   where starts_with(j.locked_by, @worker_id::text || '.') and j.id || ' ' || j.locked_by <> all(@held::text[])
     and j.id <> all(@apart_from::bigint[])
   order by j.id limit 1000 for update skip locked
)
update graphile_worker._private_jobs as j
   set attempts = case when j.attempts = substring(j.locked_by from '\.([0-9]{1,9})k?$')::int
                        and not (j.locked_by like '%k' and j.key is null)
                       then greatest(0, j.attempts - 1) else j.attempts end,
       locked_at = null, locked_by = null
 where j.id = any(array(select id from held))
returning j.id;

-- name: ReclaimIDs :many
-- What ReclaimJobs finds.
select j.id from graphile_worker._private_jobs as j
 where starts_with(j.locked_by, @worker_id::text || '.') and j.id || ' ' || j.locked_by <> all(@held::text[])
 order by j.id limit 1000;

-- name: ReclaimQueues :execrows
-- The queues, after the jobs: not one of which a job is left, because somebody else had its row locked.
-- The jobs are read once, as in RescueQueues.
with jobs as materialized (
  select j.job_queue_id, j.locked_by from graphile_worker._private_jobs as j
   where starts_with(j.locked_by, @worker_id::text || '.') and j.job_queue_id is not null
), held as materialized (
  select s.id from graphile_worker._private_job_queues as s
   where starts_with(s.locked_by, @worker_id::text || '.') and s.id || ' ' || s.locked_by <> all(@claims::text[])
     and not exists (select from jobs where jobs.job_queue_id = s.id and starts_with(jobs.locked_by, s.locked_by || '.'))
   order by s.id limit 1000 for update skip locked
)
update graphile_worker._private_job_queues as s set locked_at = null, locked_by = null
 where s.id = any(array(select id from held));

-- name: ReclaimLeft :one
select (exists (select from graphile_worker._private_jobs as j
                 where starts_with(j.locked_by, @worker_id::text || '.') and j.id || ' ' || j.locked_by <> all(@held::text[]))
        or exists (select from graphile_worker._private_job_queues as s
                    where starts_with(s.locked_by, @worker_id::text || '.') and s.id || ' ' || s.locked_by <> all(@claims::text[])))::boolean as some_left;

-- name: Survey :many
-- Tasks that the worker does not serve, among the first jobs that are due; one row without a task if there
-- are none. And how often rows of the jobs have changed, whoever did it: -1 if the server does not count.
with front as materialized (
  select j.task_id, greatest(j.run_at, now() - interval '100 years') as due_at
    from graphile_worker._private_jobs as j
   where j.is_available and j.run_at <= now()
   order by j.priority, j.run_at limit 2000
), unserved as (
  select t.identifier, count(*)::int as jobs, extract(epoch from now() - min(front.due_at))::float8 as oldest_seconds
    from front join graphile_worker._private_tasks as t on t.id = front.task_id
   where t.id <> all(@served::int[])
   group by t.identifier order by t.identifier limit 20
)
select coalesce(u.identifier, '')::text as identifier, coalesce(u.jobs, 0)::int as jobs,
       coalesce(u.oldest_seconds, 0)::float8 as oldest_seconds,
       (case when current_setting('track_counts')::boolean
             then coalesce(pg_stat_get_tuples_inserted(c.oid) + pg_stat_get_tuples_updated(c.oid) + pg_stat_get_tuples_deleted(c.oid), -1)
             else -1 end)::bigint as changes
  from (select to_regclass(format('%I._private_jobs', @schema_name::text))::oid as oid) as c
  left join unserved as u on true;

-- name: LockOwners :many
-- Those of the owners of locks that are Go workers.
select w.id, w.host, w.pid, (w.dead_at is not null)::boolean as dead
  from graphile_worker.backfill_workers as w where w.id = any(@ids::text[]);

-- name: UnlockJobs :many
-- Releases the jobs that a worker has locked: by its tokens, with the attempt refunded as in
-- ReleaseJobs (R3), or by its bare id, as a Node worker's are, without. In batches, with a new
-- snapshot each, until none is left (R4). What only begins like a token is another worker's: the id
-- of a Node worker can be any text. A job with one attempt in all has had it, as at a rescue (R9): it
-- becomes a dead letter before, or stays if letters is false.
with held as materialized (
  select j.id, j.task_id, j.job_queue_id, j.key, j.locked_by as token, j.locked_at, j.locked_by <> @worker_id::text and j.max_attempts = 1 and j.attempts = 1 and j.locked_by ~ '\.1k?$'
         and not (j.locked_by like '%k' and j.key is null) as over
    from graphile_worker._private_jobs as j
   where (j.locked_by = @worker_id::text
      or starts_with(j.locked_by, @worker_id::text || '.')
         and substr(j.locked_by, length(@worker_id::text) + 1) ~ '^\.[0-9a-f]+\.[0-9]{1,9}k?$')
     and not (@letters::boolean and j.locked_by <> @worker_id::text and j.max_attempts = 1 and j.attempts = 1
              and j.locked_by ~ '\.1k?$' and not (j.locked_by like '%k' and j.key is null)
              and not exists (select from graphile_worker.backfill_cancels as c where c.job_id = j.id))
   order by j.id limit 1000 for update skip locked
), unlocked as (
  update graphile_worker._private_jobs as j
     set attempts = case when held.over or j.locked_by = @worker_id::text then j.attempts
                         when j.attempts = substring(j.locked_by from '([0-9]+)k?$')::int
                          and not (j.locked_by like '%k' and j.key is null)
                         then greatest(0, j.attempts - 1) else j.attempts end,
         last_error = case when held.over then concat_ws(E'\n', @verdict::text, j.last_error) else j.last_error end,
         locked_at = null, locked_by = null
    from held where j.id = held.id
  returning j.id
), recorded as (
  insert into graphile_worker.backfill_history
         (job_id, task_identifier, queue_name, job_key, attempt, outcome, started_at, ended_at, worker_id, error)
  select held.id, h.task_identifier, s.queue_name, held.key, substring(held.token from '([0-9]+)k?$')::int,
         case when held.over then 'dead' else 'lost' end, held.locked_at, now(), @worker_id::text,
         case when held.over then @verdict::text else 'the worker was unlocked by hand' end
    from unlocked join held on held.id = unlocked.id join graphile_worker._private_tasks as t on t.id = held.task_id
    join graphile_worker.backfill_history_tasks as h on h.task_identifier = t.identifier and h.seen_at > now() - interval '1 day'
    left join graphile_worker._private_job_queues as s on s.id = held.job_queue_id
   where held.token <> @worker_id::text       -- of others, nothing is known
)
select unlocked.id from unlocked;

-- name: OverJobs :many
-- The jobs with one attempt in all that UnlockJobs leaves out, because they are to be dead letters.
select j.id, j.locked_by::text as token from graphile_worker._private_jobs as j
 where starts_with(j.locked_by, @worker_id::text || '.')
   and substr(j.locked_by, length(@worker_id::text) + 1) ~ '^\.[0-9a-f]+\.1k?$'
   and j.max_attempts = 1 and j.attempts = 1 and not (j.locked_by like '%k' and j.key is null) and j.id > @after::bigint
 order by j.id limit 1000;

-- name: MakesLetters :one
-- Whether a worker makes dead letters, or, if it has no row, any other.
select coalesce((select w.dead_letters from graphile_worker.backfill_workers as w where w.id = @id),
                exists (select from graphile_worker.backfill_workers as w where w.dead_letters))::boolean as letters;

-- name: UnlockQueues :execrows
-- The queues, after the jobs. A queue of which a job is left, because somebody else had the job's
-- row at that moment, stays locked.
with jobs as materialized (
  select j.job_queue_id, j.locked_by from graphile_worker._private_jobs as j
   where starts_with(j.locked_by, @worker_id::text) and j.job_queue_id is not null
), held as materialized (
  select s.id from graphile_worker._private_job_queues as s
   where (s.locked_by = @worker_id::text
          or starts_with(s.locked_by, @worker_id::text || '.')
             and substr(s.locked_by, length(@worker_id::text) + 1) ~ '^\.[0-9a-f]+$')
     and not exists (select from jobs where jobs.job_queue_id = s.id
                        and (jobs.locked_by = s.locked_by or starts_with(jobs.locked_by, s.locked_by || '.')))
   order by s.id limit 1000 for update skip locked
)
update graphile_worker._private_job_queues as s set locked_at = null, locked_by = null
 where s.id = any(array(select id from held));

-- name: AdvanceJobs :execrows
-- Makes due what is scheduled for the earliest second, in its order, for a worker that runs once,
-- apart from some jobs. What others have locked stays as it is, and so do jobs of paused queues or with
-- forbidden flags, which would not run: their time would be lost.
with paused as materialized (
  select s.id from graphile_worker.backfill_queue_pauses as p
    join graphile_worker._private_job_queues as s on s.queue_name = p.queue_name
   where coalesce(p.ends_at, 'infinity') > now()
), later as materialized (
  select j.id, j.run_at from graphile_worker._private_jobs as j
   where j.task_id = any(@tasks::int[]) and j.is_available and j.run_at > now() and j.run_at < 'infinity'
     and j.id <> all(@apart_from::bigint[])
     and (j.job_queue_id is null or j.job_queue_id <> all(array(select paused.id from paused)))
     and (j.flags ?| @forbidden::text[]) is not true
   order by j.run_at limit 10000
), first as materialized (
  select min(later.run_at) as at from later
), held as materialized (
  select j.id from graphile_worker._private_jobs as j
   where j.id = any(array(select later.id from later, first where later.run_at - first.at < interval '1 second'))
     and j.is_available and j.run_at > now()
   order by j.id for update of j skip locked
)
update graphile_worker._private_jobs as j
   set run_at = now() - interval '1 second' + (j.run_at - first.at) from first
 where j.id = any(array(select id from held));
