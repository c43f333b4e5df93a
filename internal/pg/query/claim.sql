-- The claim, in three texts. They lock at most a batch of due jobs that this worker serves, free ones and the heads of open
-- queues, and do a bounded amount of work whatever stands ahead: blocked queues, tasks that nobody here serves, jobs of the
-- future, dead index entries. docs/design.md has the rules (R2, R5, R14, R15, R21, R23) and the measurements.
--
--   $1 text          worker id
--   $2 text          claim token
--   $3 int[]         ids of the served tasks
--   $4 smallint[]    marks: priorities, ascending; empty in a full claim
--   $5 timestamptz[] marks: below this run_at the last full claim left no free job
--   $6 int           not in the free text: at most this many jobs from queues
--   $7 int           deep text only: the queue id to go on from
--
-- A job's run_at can be infinity, or far away: it is never due, and arithmetic with it fails or overflows.
--
-- The limits are literals, because a parameter there spoils the plan; claim.go makes a text for each batch size out of these,
-- and replaces 9001 by the batch, 9000 by one less, 9002 by twice the batch, 9003 by the window and 9004 by the depth.

-- name: ClaimFront :many
with recursive prio(p) as (                      -- full claim only: the distinct priorities, by loose index scan
  (select priority from graphile_worker._private_jobs
    where is_available and cardinality($4::smallint[]) = 0 order by priority limit 1)
  union all
  select (select j.priority from graphile_worker._private_jobs as j
           where j.is_available and j.priority > prio.p order by j.priority limit 1)
    from prio where prio.p is not null
), mark as materialized (                        -- ascending; from here on always walked in this order
  select p, timestamptz '-infinity' as low from prio where p is not null
  union all
  select m.p, m.low from rows from (unnest($4::smallint[]), unnest($5::timestamptz[])) as m(p, low)
), cut as materialized (                         -- where the batch would end if there were only free jobs
  select f.priority, f.run_at from mark cross join lateral (
    select priority, run_at from graphile_worker._private_jobs
     where is_available and job_queue_id is null and priority = mark.p
       and run_at between mark.low and now() and task_id = any($3::int[])
     order by run_at limit 9001) f
   where (select e.job_queue_id from graphile_worker._private_jobs as e              -- only if queued jobs wait at all
           where e.is_available and e.job_queue_id is not null order by e.job_queue_id limit 1) is not null
  offset 9000 limit 1
), win as materialized (                         -- a bounded look at the front of the whole line
  select w.q, w.task_id, w.priority, w.run_at, row_number() over () as rn from (
    select j.q, j.task_id, j.priority, j.run_at from mark cross join lateral (
      select job_queue_id as q, task_id, priority, run_at from graphile_worker._private_jobs
       where is_available and priority = mark.p and run_at between mark.low and now()
       order by run_at limit 9003) j
     where (select e.job_queue_id from graphile_worker._private_jobs as e
             where e.is_available and e.job_queue_id is not null order by e.job_queue_id limit 1) is not null
     limit 9003) w
), line as materialized (                        -- the queues to try, best first
  select q from (
    select q, min(rn) as rn from win
     where q is not null and task_id = any($3::int[])
       and (not exists (select from cut) or (priority, run_at) <= (select priority, run_at from cut))
     group by q) x
  order by rn limit 9002
), lockq as materialized (                       -- lock open queues, never waiting
  select l.id from line cross join lateral (
    select s.id from graphile_worker._private_job_queues as s
     where s.id = line.q and s.is_available for update skip locked) l
  limit least(9001, $6::int)
), lockh as materialized (                       -- the head of each, and only the head: if its row is locked, leave the queue
  select k.id from lockq
   cross join lateral (
    select j.id from graphile_worker._private_jobs as j
     where j.job_queue_id = lockq.id and j.is_available and j.run_at <= now() and j.task_id = any($3::int[])
     order by j.job_queue_id, j.priority, j.run_at, j.id limit 1) h
   cross join lateral (
    select j.id from graphile_worker._private_jobs as j
     where j.id = h.id and j.job_queue_id = lockq.id and j.is_available and j.run_at <= now()
       and j.task_id = any($3::int[])                                                  -- checked again under the lock
     for update skip locked) k
), free as materialized (                        -- the rest of the batch from free jobs
  select f.id from mark cross join lateral (
    select id from graphile_worker._private_jobs
     where is_available and job_queue_id is null and priority = mark.p
       and run_at between mark.low and now() and task_id = any($3::int[])
     order by run_at limit 9001 for update skip locked) f
   limit greatest(0, 9001 - (select count(*) from lockh))
), alive as materialized (                       -- a worker that was declared dead claims nothing (R5)
  select 1 from graphile_worker.backfill_workers as w where w.id = $1::text and w.dead_at is null for key share
), upd as (
  update graphile_worker._private_jobs as j
     set attempts = j.attempts + 1, locked_at = now(),
         locked_by = $2::text || '.' || (j.attempts + 1) || case when j.key is null then '' else 'k' end
   where exists (select from alive) and j.id = any(array(select id from lockh union all select id from free))
  returning j.id, j.job_queue_id, j.task_id, j.payload, j.priority, j.run_at, j.attempts, j.max_attempts,
            j.created_at, j.key, j.locked_by, j.revision, j.flags
), qup as (                                      -- the queues of what was really claimed, by id: by ctid a new version is missed
  update graphile_worker._private_job_queues as s set locked_by = $2::text, locked_at = now()
   where s.id = any(array(select job_queue_id from upd where job_queue_id is not null))
)
select aux.alive, aux.queued, aux.found, aux.contended, aux.held_back, aux.next_due, upd.*,
       (select s.queue_name from graphile_worker._private_job_queues as s where s.id = upd.job_queue_id) as queue_name
  from (select exists (select from alive) as alive,
               (select e.job_queue_id from graphile_worker._private_jobs as e
                 where e.is_available and e.job_queue_id is not null order by e.job_queue_id limit 1) is not null as queued,
               (select count(*) from win)::int as found,
               not exists (select from lockq) and $6::int > 0 and exists (     -- open queues wait, and others hold them for a moment
                 select from line join graphile_worker._private_job_queues as s on s.id = line.q and s.is_available
               ) as contended,
               (select count(*) from line) > (select count(*) from lockq)
                 and (select count(*) from lockq) = least(9001, $6::int) as held_back,   -- queues wait that $6 kept out
               (select (extract(epoch from min(n.run_at) - now()) * 1000000)::bigint from mark cross join lateral (
                  select j.run_at from graphile_worker._private_jobs as j
                   where j.is_available and j.priority = mark.p and j.run_at > now()
                     and j.run_at < now() + interval '100 years' order by j.run_at limit 1) n
                 where cardinality($4::smallint[]) = 0)::bigint as next_due    -- microseconds; full claim only
       ) aux left join upd on true;

-- name: ClaimFree :many
-- For as long as no jobs of queues wait: most of the front text is about them, and starting a plan costs for what it does not do.
with recursive prio(p) as (
  (select priority from graphile_worker._private_jobs
    where is_available and cardinality($4::smallint[]) = 0 order by priority limit 1)
  union all
  select (select j.priority from graphile_worker._private_jobs as j
           where j.is_available and j.priority > prio.p order by j.priority limit 1)
    from prio where prio.p is not null
), mark as materialized (
  select p, timestamptz '-infinity' as low from prio where p is not null
  union all
  select m.p, m.low from rows from (unnest($4::smallint[]), unnest($5::timestamptz[])) as m(p, low)
), free as materialized (
  select f.id from mark cross join lateral (
    select id from graphile_worker._private_jobs
     where is_available and job_queue_id is null and priority = mark.p
       and run_at between mark.low and now() and task_id = any($3::int[])
     order by run_at limit 9001 for update skip locked) f
   limit 9001
), alive as materialized (
  select 1 from graphile_worker.backfill_workers as w where w.id = $1::text and w.dead_at is null for key share
), upd as (
  update graphile_worker._private_jobs as j
     set attempts = j.attempts + 1, locked_at = now(),
         locked_by = $2::text || '.' || (j.attempts + 1) || case when j.key is null then '' else 'k' end
   where exists (select from alive) and j.id = any(array(select id from free))
  returning j.id, j.job_queue_id, j.task_id, j.payload, j.priority, j.run_at, j.attempts, j.max_attempts,
            j.created_at, j.key, j.locked_by, j.revision, j.flags
)
select aux.alive, aux.queued, aux.found, aux.contended, aux.held_back, aux.next_due, upd.*, null::text as queue_name
  from (select exists (select from alive) as alive,
               (select e.job_queue_id from graphile_worker._private_jobs as e
                 where e.is_available and e.job_queue_id is not null order by e.job_queue_id limit 1) is not null as queued,
               0 as found, false as contended, false as held_back,
               (select (extract(epoch from min(n.run_at) - now()) * 1000000)::bigint from mark cross join lateral (
                  select j.run_at from graphile_worker._private_jobs as j
                   where j.is_available and j.priority = mark.p and j.run_at > now()
                     and j.run_at < now() + interval '100 years' order by j.run_at limit 1) n
                 where cardinality($4::smallint[]) = 0)::bigint as next_due
       ) aux left join upd on true;

-- name: ClaimDeep :many
-- For a front that is clogged by jobs of blocked queues: a bounded, rotating loose scan over the queues that have waiting jobs.
with recursive prio(p) as (
  (select priority from graphile_worker._private_jobs
    where is_available and cardinality($4::smallint[]) = 0 order by priority limit 1)
  union all
  select (select j.priority from graphile_worker._private_jobs as j
           where j.is_available and j.priority > prio.p order by j.priority limit 1)
    from prio where prio.p is not null
), mark as materialized (
  select p, timestamptz '-infinity' as low from prio where p is not null
  union all
  select m.p, m.low from rows from (unnest($4::smallint[]), unnest($5::timestamptz[])) as m(p, low)
), qs(q, n) as (
  (select job_queue_id, 1 from graphile_worker._private_jobs
    where is_available and job_queue_id is not null and job_queue_id > $7::int order by job_queue_id limit 1)
  union all
  select (select j.job_queue_id from graphile_worker._private_jobs as j
           where j.is_available and j.job_queue_id is not null and j.job_queue_id > qs.q
           order by j.job_queue_id limit 1), qs.n + 1
    from qs where qs.q is not null and qs.n < 9004
), line as materialized (
  select s.id as q
    from qs join graphile_worker._private_job_queues as s on s.id = qs.q and s.is_available
   cross join lateral (
     select j.priority, j.run_at from graphile_worker._private_jobs as j
      where j.job_queue_id = s.id and j.is_available and j.run_at <= now() and j.task_id = any($3::int[])
      order by j.job_queue_id, j.priority, j.run_at, j.id limit 1) j
   order by j.priority, j.run_at limit 9002
), lockq as materialized (
  select l.id from line cross join lateral (
    select s.id from graphile_worker._private_job_queues as s
     where s.id = line.q and s.is_available for update skip locked) l
  limit least(9001, $6::int)
), lockh as materialized (
  select k.id from lockq
   cross join lateral (
    select j.id from graphile_worker._private_jobs as j
     where j.job_queue_id = lockq.id and j.is_available and j.run_at <= now() and j.task_id = any($3::int[])
     order by j.job_queue_id, j.priority, j.run_at, j.id limit 1) h
   cross join lateral (
    select j.id from graphile_worker._private_jobs as j
     where j.id = h.id and j.job_queue_id = lockq.id and j.is_available and j.run_at <= now()
       and j.task_id = any($3::int[])
     for update skip locked) k
), free as materialized (
  select f.id from mark cross join lateral (
    select id from graphile_worker._private_jobs
     where is_available and job_queue_id is null and priority = mark.p
       and run_at between mark.low and now() and task_id = any($3::int[])
     order by run_at limit 9001 for update skip locked) f
   limit greatest(0, 9001 - (select count(*) from lockh))
), alive as materialized (
  select 1 from graphile_worker.backfill_workers as w where w.id = $1::text and w.dead_at is null for key share
), upd as (
  update graphile_worker._private_jobs as j
     set attempts = j.attempts + 1, locked_at = now(),
         locked_by = $2::text || '.' || (j.attempts + 1) || case when j.key is null then '' else 'k' end
   where exists (select from alive) and j.id = any(array(select id from lockh union all select id from free))
  returning j.id, j.job_queue_id, j.task_id, j.payload, j.priority, j.run_at, j.attempts, j.max_attempts,
            j.created_at, j.key, j.locked_by, j.revision, j.flags
), qup as (
  update graphile_worker._private_job_queues as s set locked_by = $2::text, locked_at = now()
   where s.id = any(array(select job_queue_id from upd where job_queue_id is not null))
)
select aux.alive, aux.queued, aux.found, aux.contended, aux.held_back, aux.next_due, upd.*,
       (select s.queue_name from graphile_worker._private_job_queues as s where s.id = upd.job_queue_id) as queue_name
  from (select exists (select from alive) as alive, true as queued,
               coalesce((select max(q) from qs having max(n) >= 9004), 0)::int as found,   -- where the scan goes on; 0: at the end
               not exists (select from lockq) and $6::int > 0 and exists (select from line) as contended,
               (select count(*) from line) > (select count(*) from lockq)
                 and (select count(*) from lockq) = least(9001, $6::int) as held_back,
               (select (extract(epoch from min(n.run_at) - now()) * 1000000)::bigint from mark cross join lateral (
                  select j.run_at from graphile_worker._private_jobs as j
                   where j.is_available and j.priority = mark.p and j.run_at > now()
                     and j.run_at < now() + interval '100 years' order by j.run_at limit 1) n
                 where cardinality($4::smallint[]) = 0)::bigint as next_due
       ) aux left join upd on true;
