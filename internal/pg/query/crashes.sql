-- What is known of crashes, and the suspects: jobs that are locked by nobody who lives, as
-- backfill-suspect.<cohort>.<attempt>, with a k appended if they had a key. The cohort is the id of the
-- worker that left them, without "pool-"; the queue of one is locked as backfill-suspect.<cohort>. A
-- worker with stopping_at has given notice: its end says nothing against a job. That can come late, so
-- it is asked for whenever the evidence is read. Somebody may have deleted a worker's row: that is no
-- notice.

-- name: AnyCrashes :one
select exists (select from graphile_worker.backfill_crashes) as any_crashes;

-- name: HeldJobs :many
-- Locks jobs that dead workers held, with what has to be known of each. Only whose worker was counted
-- (held) is judged.
with held as materialized (
  select j.id, j.job_queue_id, j.task_id, j.key, j.priority, j.run_at, j.attempts, j.max_attempts, j.locked_by, j.locked_at,
         split_part(j.locked_by, '.', 1) as worker_id
    from graphile_worker._private_jobs as j
   where j.id = any(@jobs::bigint[]) and split_part(j.locked_by, '.', 1) = any(@ids::text[])
     and not exists (select from graphile_worker.backfill_workers as w
                      where w.id = split_part(j.locked_by, '.', 1) and (w.dead_at is null or w.held is null))
   order by j.id for update of j skip locked
)
select held.id, held.worker_id::text as worker_id, held.locked_by::text as token, coalesce(t.identifier, '')::text as task,
       coalesce(s.queue_name, '')::text as queue, coalesce(held.key, '')::text as key, held.priority, held.run_at,
       held.attempts, held.max_attempts,
       coalesce(w.dead_letters, exists (select from graphile_worker.backfill_workers as other where other.dead_letters))::boolean as letters,
       (w.stopping_at is not null)::boolean as notice, coalesce(w.held, 0)::int as held_together,
       coalesce(own.began, held.locked_at)::timestamptz as began, coalesce(own.tried, false)::boolean as tried,
       coalesce(w.heartbeat_at, held.locked_at)::timestamptz as beat_at,
       coalesce(extract(epoch from now() - w.heartbeat_at) < @settle_seconds::float8, false)::boolean as unsettled,
       array(select extract(epoch from c.age) from graphile_worker.backfill_crashes as c
               left join graphile_worker.backfill_workers as o on o.id = c.worker_id
              where c.job_id = held.id and c.worker_id <> held.worker_id and c.age is not null and o.stopping_at is null)::float8[] as ages,
       (select count(*) from graphile_worker.backfill_crashes as c
          left join graphile_worker.backfill_workers as o on o.id = c.worker_id
         where c.job_id = held.id and c.worker_id <> held.worker_id and c.alone and o.stopping_at is null)::int as alone
  from held left join graphile_worker.backfill_workers as w on w.id = held.worker_id
  left join graphile_worker._private_tasks as t on t.id = held.task_id
  left join graphile_worker._private_job_queues as s on s.id = held.job_queue_id
  left join graphile_worker.backfill_crashes as own
         on own.job_id = held.id and own.worker_id = held.worker_id and own.token = held.locked_by;

-- name: Disturbed :one
-- Another worker, which was on no trial and did not hold the job, has died without notice in a time. It
-- is dead for this question as soon as its heartbeat is late.
select exists (
  select 1 from graphile_worker.backfill_workers as w
   where w.id <> @worker_id::text and w.stopping_at is null and w.trial_at is null
     and w.heartbeat_at >= @since::timestamptz and w.heartbeat_at <= @until::timestamptz
     and (w.dead_at is not null or w.heartbeat_at < now() - make_interval(secs => @settle_seconds::float8))
     and not exists (select from graphile_worker.backfill_crashes as c
                      where c.job_id = @job_id::bigint and c.worker_id = w.id and c.age is not null)) as disturbed;

-- name: RecordCrashes :exec
-- An age of less than 0 is none. A job that was superseded while it was held has no key any more: what
-- is known of earlier crashes has it.
insert into graphile_worker.backfill_crashes as c (job_id, worker_id, token, began, judged_at, age, alone, convicted, key)
select u.job_id, u.worker_id, u.token, u.began, now(),
       case when u.age_us >= 0 then u.age_us * interval '1 microsecond' end, u.alone, u.convicted,
       coalesce(nullif(u.key, ''), (select max(k.key) from graphile_worker.backfill_crashes as k where k.job_id = u.job_id))
  from rows from (unnest(@jobs::bigint[]), unnest(@worker_ids::text[]), unnest(@tokens::text[]), unnest(@began::timestamptz[]),
                  unnest(@ages_us::bigint[]), unnest(@alone::boolean[]), unnest(@convicted::text[]), unnest(@keys::text[]))
       as u(job_id, worker_id, token, began, age_us, alone, convicted, key)
 order by u.job_id
on conflict (job_id, worker_id) do update
   set token = excluded.token, began = excluded.began, tried = c.tried and c.token = excluded.token, judged_at = now(),
       age = excluded.age, alone = excluded.alone, passed = false, convicted = excluded.convicted, key = excluded.key;

-- name: ReleaseHeld :many
-- Frees jobs that HeldJobs has locked, at their place. Refunds are those of ReleaseJobs. Whether their
-- handlers had been called, nobody knows.
with held as materialized (
  select j.id, j.task_id, j.job_queue_id, j.key, j.locked_by as token, j.locked_at from graphile_worker._private_jobs as j
   where j.id = any(@jobs::bigint[])
), released as (
  update graphile_worker._private_jobs as j
     set attempts = case when j.attempts = substring(j.locked_by from '([0-9]+)k?$')::int
                         then greatest(0, j.attempts - 1) else j.attempts end,
         locked_at = null, locked_by = null
   where j.id = any(@jobs::bigint[]) returning j.id
), recorded as (
  insert into graphile_worker.backfill_history
         (job_id, task_identifier, queue_name, job_key, attempt, outcome, started_at, ended_at, worker_id, error)
  select held.id, h.task_identifier, s.queue_name, held.key, substring(held.token from '([0-9]+)k?$')::int, 'crashed', held.locked_at, now(),
         split_part(held.token, '.', 1), @error::text
    from released join held on held.id = released.id join graphile_worker._private_tasks as t on t.id = held.task_id
    join graphile_worker.backfill_history_tasks as h on h.task_identifier = t.identifier and h.seen_at > now() - interval '1 day'
    left join graphile_worker._private_job_queues as s on s.id = held.job_queue_id
)
select released.id from released;

-- name: ExhaustHeld :many
-- Ends such jobs for good. What the job says of its last error stays behind the verdict.
with held as materialized (
  select j.id, j.task_id, j.job_queue_id, j.key, j.locked_by as token, j.locked_at, u.verdict
    from rows from (unnest(@jobs::bigint[]), unnest(@verdicts::text[])) as u(id, verdict)
    join graphile_worker._private_jobs as j on j.id = u.id
), exhausted as (
  update graphile_worker._private_jobs as j
     set attempts = greatest(j.attempts, j.max_attempts), last_error = concat_ws(E'\n', held.verdict, j.last_error),
         locked_at = null, locked_by = null
    from held where j.id = held.id returning j.id
), recorded as (
  insert into graphile_worker.backfill_history
         (job_id, task_identifier, queue_name, job_key, attempt, outcome, started_at, ended_at, worker_id, error)
  select held.id, h.task_identifier, s.queue_name, held.key, substring(held.token from '([0-9]+)k?$')::int, 'dead', held.locked_at, now(),
         split_part(held.token, '.', 1), held.verdict
    from exhausted join held on held.id = exhausted.id join graphile_worker._private_tasks as t on t.id = held.task_id
    join graphile_worker.backfill_history_tasks as h on h.task_identifier = t.identifier and h.seen_at > now() - interval '1 day'
    left join graphile_worker._private_job_queues as s on s.id = held.job_queue_id
)
select exhausted.id from exhausted;

-- name: ForgetConvicted :exec
-- A convicted job has no record any more: whoever sends it back wants to see it run. That it was
-- convicted is kept, with its last death.
with forgotten as (
  delete from graphile_worker.backfill_crashes as c where c.job_id = any(@jobs::bigint[]) and c.convicted = ''
)
update graphile_worker.backfill_crashes as c set age = null, alone = false
 where c.job_id = any(@jobs::bigint[]) and c.convicted <> '';

-- name: ParkJobs :many
-- Makes suspects of jobs that a worker held, with their queues. Refunds are those of ReleaseJobs. The history
-- has the outcome and the error that are given, if it is to have any.
with held as materialized (
  select j.id, j.job_queue_id, j.task_id, j.key, j.locked_at, j.locked_by as token, 'backfill-suspect.' || substr(split_part(j.locked_by, '.', 1), 6) as cohort,
         regexp_replace(j.locked_by, '\.[0-9]+k?$', '') as claim,
         case when j.attempts = substring(j.locked_by from '([0-9]+)k?$')::int and not (j.locked_by like '%k' and j.key is null)
              then greatest(0, j.attempts - 1) else j.attempts end as attempts,
         case when j.locked_by like '%k' then 'k' else '' end as k
    from rows from (unnest(@ids::bigint[]), unnest(@tokens::text[])) as u(id, token)
    join graphile_worker._private_jobs as j on j.id = u.id and j.locked_by = u.token
   order by j.id for update of j skip locked
), queue as materialized (
  select s.id from graphile_worker._private_job_queues as s
   where s.id = any(array(select job_queue_id from held where job_queue_id is not null)) order by s.id for update skip locked
), parked as (
  update graphile_worker._private_jobs as j
     set attempts = held.attempts, locked_at = now(), locked_by = held.cohort || '.' || held.attempts || held.k
    from held
   where j.id = held.id and (held.job_queue_id is null or held.job_queue_id in (select id from queue)
      or not exists (select from graphile_worker._private_job_queues as s where s.id = held.job_queue_id))
  returning j.id, held.job_queue_id, held.token, held.claim, held.cohort
), moved as (
  update graphile_worker._private_job_queues as s set locked_at = now(), locked_by = parked.cohort
    from parked where s.id = parked.job_queue_id and s.locked_by = parked.claim
), noted as (
  update graphile_worker.backfill_crashes as c set judged_at = coalesce(c.judged_at, now())
    from parked where c.job_id = parked.id and c.worker_id = split_part(parked.token, '.', 1) and c.token = parked.token
), recorded as (
  insert into graphile_worker.backfill_history
         (job_id, task_identifier, queue_name, job_key, attempt, outcome, started_at, ended_at, worker_id, error)
  select held.id, h.task_identifier, s.queue_name, held.key, substring(held.token from '([0-9]+)k?$')::int, @outcome::text, held.locked_at, now(),
         split_part(held.token, '.', 1), nullif(@error::text, '')
    from parked join held on held.id = parked.id join graphile_worker._private_tasks as t on t.id = held.task_id
    join graphile_worker.backfill_history_tasks as h on h.task_identifier = t.identifier and h.seen_at > now() - interval '1 day'
    left join graphile_worker._private_job_queues as s on s.id = held.job_queue_id
   where @outcome::text <> ''
)
select parked.id, parked.token::text as token from parked;

-- name: TriedJobs :many
-- What a worker holds for a trial, apart from what it knows of, as ReclaimJobs has it.
select j.id, j.locked_by::text as token from graphile_worker.backfill_crashes as c
  join graphile_worker._private_jobs as j on j.id = c.job_id and j.locked_by = c.token
 where c.worker_id = @worker_id::text and c.tried and c.judged_at is null and j.id || ' ' || j.locked_by <> all(@held::text[])
 order by j.id;

-- name: DropJobs :many
-- Deletes locked jobs that were removed or superseded, and frees their queues. What is known of each goes
-- to the job that has its key now.
with held as materialized (
  select j.id, j.job_queue_id, j.locked_by as token
    from rows from (unnest(@ids::bigint[]), unnest(@tokens::text[])) as u(id, token)
    join graphile_worker._private_jobs as j on j.id = u.id and j.locked_by = u.token
   where j.locked_by like '%k' and j.key is null
   order by j.id for update of j skip locked
), queue as materialized (
  select s.id from graphile_worker._private_job_queues as s
   where s.id = any(array(select job_queue_id from held where job_queue_id is not null)) order by s.id for update skip locked
), dropped as (
  delete from graphile_worker._private_jobs as j where j.id = any(array(
    select id from held
     where job_queue_id is null or job_queue_id in (select id from queue)
        or not exists (select from graphile_worker._private_job_queues as s where s.id = held.job_queue_id)))
  returning j.id, j.job_queue_id, j.locked_by as token, j.locked_at, j.task_id
), freed as (
  update graphile_worker._private_job_queues as s set locked_at = null, locked_by = null
    from dropped where s.id = dropped.job_queue_id and starts_with(dropped.token, s.locked_by || '.')
  returning s.id
), inherited as (
  insert into graphile_worker.backfill_crashes (job_id, worker_id, token, began, judged_at, age, alone, key)
  select j.id, c.worker_id, c.token, c.began, c.judged_at, c.age, c.alone, c.key from dropped
    join graphile_worker.backfill_crashes as c on c.job_id = dropped.id and c.judged_at is not null
    join graphile_worker._private_jobs as j on j.key = c.key
  on conflict (job_id, worker_id) do nothing
), forgotten as (
  delete from graphile_worker.backfill_crashes as c where c.job_id = any(array(select dropped.id from dropped))
), recorded as (
  insert into graphile_worker.backfill_history
         (job_id, task_identifier, queue_name, attempt, outcome, started_at, ended_at, worker_id)
  select dropped.id, h.task_identifier, s.queue_name, substring(dropped.token from '([0-9]+)k?$')::int, 'superseded',
         case when starts_with(dropped.token, 'pool-') then dropped.locked_at end, now(),
         case when starts_with(dropped.token, 'pool-') then split_part(dropped.token, '.', 1) end
    from dropped join graphile_worker._private_tasks as t on t.id = dropped.task_id
    join graphile_worker.backfill_history_tasks as h on h.task_identifier = t.identifier and h.seen_at > now() - interval '1 day'
    left join graphile_worker._private_job_queues as s on s.id = dropped.job_queue_id
)
select dropped.id, exists (select from freed where freed.id = dropped.job_queue_id) as freed from dropped;

-- name: Suspects :many
-- The suspects. Cohorts are numbered in the order of the deaths that made them. One is proven if its
-- worker died on a trial, and cleared if another worker died in a trial of it. Mine: the worker may try
-- it.
with parked as materialized (
  select j.id, j.task_id, j.job_queue_id, j.key, j.flags, j.locked_by, j.locked_at, split_part(j.locked_by, '.', 2) as cohort
    from graphile_worker._private_jobs as j
   where j.id = any(array(select c.job_id from graphile_worker.backfill_crashes as c where c.judged_at is not null))
     and j.locked_by ~ '^backfill-suspect\.[0-9a-f]{18}\.[0-9]{1,9}k?$'
), cohorts as materialized (
  select p.cohort, row_number() over (order by min(c.judged_at), p.cohort) as number,
         coalesce(bool_or(c.tried and c.age is not null and w.stopping_at is null), false) as proven
    from (select distinct parked.cohort from parked) as p
    left join graphile_worker.backfill_crashes as c on c.worker_id = 'pool-' || p.cohort and c.judged_at is not null
    left join graphile_worker.backfill_workers as w on w.id = c.worker_id
   group by p.cohort
)
select parked.id, parked.locked_by::text as token, parked.cohort::text as cohort, cohorts.number, cohorts.proven::boolean as proven,
       exists (select from graphile_worker.backfill_workers as w
                where w.trial_cohort = parked.cohort and w.dead_at is not null and w.stopping_at is null) as cleared,
       coalesce(own.passed, false)::boolean as passed,
       array(select extract(epoch from c.age) from graphile_worker.backfill_crashes as c
               left join graphile_worker.backfill_workers as w on w.id = c.worker_id
              where c.job_id = parked.id and c.age is not null and w.stopping_at is null)::float8[] as ages,
       (parked.locked_by like '%k' and parked.key is null)::boolean as superseded,
       (parked.locked_at < now() - interval '30 minutes')::boolean as stale,
       (t.identifier = any(@tasks::text[]) and (parked.flags ?| @forbidden::text[]) is not true
        and not exists (select from graphile_worker.backfill_cancels as c where c.job_id = parked.id)
        and not exists (select from graphile_worker.backfill_pauses as p
                         where p.task = t.identifier and coalesce(p.ends_at, 'infinity') > now())
        and not exists (select from graphile_worker._private_job_queues as s
                          join graphile_worker.backfill_queue_pauses as p on p.queue_name = s.queue_name
                         where s.id = parked.job_queue_id and coalesce(p.ends_at, 'infinity') > now()))::boolean as mine
  from parked join cohorts on cohorts.cohort = parked.cohort
  join graphile_worker._private_tasks as t on t.id = parked.task_id
  left join graphile_worker.backfill_crashes as own on own.job_id = parked.id and own.worker_id = 'pool-' || parked.cohort
 order by parked.id;

-- name: RenewSuspects :exec
-- Moves the lock times of suspects and their queues, as those of leases are.
with held as materialized (
  select j.id, j.job_queue_id, j.locked_by from graphile_worker._private_jobs as j
   where j.id = any(@ids::bigint[]) and starts_with(j.locked_by, 'backfill-suspect.') order by j.id for update skip locked
), queue as materialized (
  select s.id from held join graphile_worker._private_job_queues as s
      on s.id = held.job_queue_id and starts_with(held.locked_by, s.locked_by || '.')
   order by s.id for update of s skip locked
), renewed as (
  update graphile_worker._private_job_queues as s set locked_at = now() where s.id = any(array(select id from queue))
)
update graphile_worker._private_jobs as j set locked_at = now() where j.id = any(array(select id from held));

-- name: LastTrial :many
-- Of the last trial that a worker died in: for how long that worker had claimed nothing, and how long ago
-- it ended.
select coalesce(extract(epoch from w.heartbeat_at - least(w.emptying_at, w.trial_at)), 0)::float8 as stopped_seconds,
       extract(epoch from now() - w.heartbeat_at)::float8 as free_seconds
  from graphile_worker.backfill_workers as w
 where w.dead_at is not null and w.trial_at is not null and w.stopping_at is null
 order by w.dead_at desc limit 1;

-- name: TrySuspects :many
-- Claims suspects of one cohort for a trial, as far as nobody else has them, they were not superseded nor
-- paused since the look, and their payloads fit: the first one always does. If it gets any, the rest of the cohort was passed
-- by. Nothing is claimed by a worker that was declared dead (R5); its row repeats in each row of the answer.
with alive as (
  update graphile_worker.backfill_workers as w
     set trial_at = now(), trial_cohort = @cohort::text, emptying_at = coalesce(w.emptying_at, now())
   where w.id = @worker_id::text and w.dead_at is null
  returning w.id
), drawn as materialized (
  select j.id, j.job_queue_id,
         case when pg_column_size(j.payload) <= 2000 then octet_length(j.payload::text)
              else pg_column_size(j.payload)::bigint * 256 end as bytes
    from graphile_worker._private_jobs as j
   where j.id = any(@jobs::bigint[]) and starts_with(j.locked_by, 'backfill-suspect.' || @cohort::text || '.')
     and not (j.locked_by like '%k' and j.key is null)
     and not exists (select from graphile_worker.backfill_cancels as c where c.job_id = j.id)
     and not exists (select from graphile_worker._private_tasks as t
                       join graphile_worker.backfill_pauses as p on p.task = t.identifier
                      where t.id = j.task_id and coalesce(p.ends_at, 'infinity') > now())
   order by j.id for update skip locked
), queue as materialized (
  select s.id from graphile_worker._private_job_queues as s
   where s.id = any(array(select job_queue_id from drawn where job_queue_id is not null))
     and coalesce(s.locked_by, '') in ('', 'backfill-suspect.' || @cohort::text)
     and not exists (select from graphile_worker.backfill_queue_pauses as p
                      where p.queue_name = s.queue_name and coalesce(p.ends_at, 'infinity') > now())
   order by s.id for update skip locked
), fit as materialized (
  select drawn.id, row_number() over (order by drawn.id) as place, sum(drawn.bytes) over (order by drawn.id) as bytes from drawn
   where drawn.job_queue_id is null or drawn.job_queue_id in (select id from queue)
), claimed as (
  update graphile_worker._private_jobs as j
     set attempts = j.attempts + 1, locked_at = now(),
         locked_by = @token::text || '.' || (j.attempts + 1) || case when j.key is null then '' else 'k' end
   where exists (select from alive)
     and j.id = any(array(select fit.id from fit where fit.place = 1 or fit.bytes <= @bytes::bigint))
  returning j.id, j.job_queue_id, j.task_id, j.payload::text as payload, j.priority, j.run_at, j.attempts, j.max_attempts,
            j.created_at, j.key, j.locked_by, j.revision, j.flags
), queued as (
  update graphile_worker._private_job_queues as s set locked_by = @token::text, locked_at = now()
   where s.id = any(array(select job_queue_id from claimed where job_queue_id is not null))
), noted as (
  insert into graphile_worker.backfill_crashes as c (job_id, worker_id, token, began, tried)
  select claimed.id, @worker_id::text, claimed.locked_by, now(), true from claimed
  on conflict (job_id, worker_id) do update
     set token = excluded.token, began = excluded.began, tried = true, judged_at = null, age = null, alone = false, passed = false
), left_out as materialized (
  select c.job_id, c.worker_id from graphile_worker.backfill_crashes as c
   where c.worker_id = 'pool-' || @cohort::text and c.judged_at is not null and not c.passed
     and exists (select from claimed) and c.job_id <> all(array(select claimed.id from claimed))
   order by c.job_id for update skip locked
), passed as (
  update graphile_worker.backfill_crashes as c set passed = true
    from left_out where c.job_id = left_out.job_id and c.worker_id = left_out.worker_id
)
select exists (select from alive) as alive, coalesce(claimed.id, 0)::bigint as id, coalesce(claimed.job_queue_id, 0)::int as queue_id,
       coalesce(t.identifier, '')::text as task, coalesce(s.queue_name, '')::text as queue,
       coalesce(claimed.payload, '')::text as payload, coalesce(claimed.priority, 0)::smallint as priority, claimed.run_at,
       coalesce(claimed.attempts, 0)::smallint as attempts, coalesce(claimed.max_attempts, 0)::smallint as max_attempts,
       claimed.created_at, coalesce(claimed.key, '')::text as key, coalesce(claimed.locked_by, '')::text as token,
       coalesce(claimed.revision, 0)::int as revision, claimed.flags
  from (select 1) as one left join claimed on true
  left join graphile_worker._private_tasks as t on t.id = claimed.task_id
  left join graphile_worker._private_job_queues as s on s.id = claimed.job_queue_id
 order by claimed.id;

-- name: Acquit :one
-- Ends the trial of a worker that was not declared dead. Nothing is known any more against its jobs; when
-- those began that run on, is kept.
with alive as (
  update graphile_worker.backfill_workers as w set trial_at = null, trial_cohort = null
   where w.id = @worker_id::text and w.dead_at is null
  returning w.id
), forgotten as (
  delete from graphile_worker.backfill_crashes as c
   where c.job_id = any(@jobs::bigint[]) and c.worker_id <> @worker_id::text and exists (select from alive)
), ended as (
  update graphile_worker.backfill_crashes as c set tried = false
   where c.job_id = any(@jobs::bigint[]) and c.worker_id = @worker_id::text and exists (select from alive)
)
select exists (select from alive) as alive;

-- name: Convictions :many
-- How long ago jobs of a task were convicted, in seconds.
select extract(epoch from now() - c.judged_at)::float8 as seconds from graphile_worker.backfill_crashes as c
 where c.judged_at > now() - interval '1 day' and c.convicted = @task::text;

-- name: PauseCrashing :execrows
-- A pause that somebody else has made stays.
insert into graphile_worker.backfill_pauses as p (task, paused_by, reason)
select t.identifier, 'backfill', @reason::text from graphile_worker._private_tasks as t where t.identifier = @task::text
on conflict (task) do update
   set paused_at = clock_timestamp(), paused_by = excluded.paused_by, reason = excluded.reason, ends_at = null
 where p.ends_at <= now();

-- name: SweepCrashes :execrows
-- What nobody needs to know any more: of jobs that are gone or have failed for good, and of leases that
-- have ended well. Convictions count for an hour.
with old as materialized (
  select c.job_id, c.worker_id
    from graphile_worker.backfill_crashes as c left join graphile_worker._private_jobs as j on j.id = c.job_id
   where case when c.judged_at is null then j.locked_by is distinct from c.token and c.began < now() - interval '1 minute'
              when c.convicted <> '' then c.judged_at < now() - interval '1 hour'
              else j.id is null or j.locked_by is null and j.attempts >= j.max_attempts end
   order by c.job_id, c.worker_id limit 10000 for update of c skip locked
)
delete from graphile_worker.backfill_crashes as c using old where c.job_id = old.job_id and c.worker_id = old.worker_id;

-- name: FreeSuspectQueues :execrows
-- Queues of suspects that somebody has deleted. LIMIT keeps the planner from reading all jobs at once.
with lost as materialized (
  select s.id from graphile_worker._private_job_queues as s
   where starts_with(s.locked_by, 'backfill-suspect.')
     and (select count(*) from (select from graphile_worker._private_jobs as j
                                 where j.job_queue_id = s.id and starts_with(j.locked_by, s.locked_by || '.') limit 1) as suspect) = 0
   order by s.id for update of s skip locked
)
update graphile_worker._private_job_queues as s set locked_at = null, locked_by = null
 where s.id = any(array(select lost.id from lost));

-- name: UnlockSuspects :execrows
-- Frees the suspects of a cohort, in batches. What is known of them stays.
with held as materialized (
  select j.id from graphile_worker._private_jobs as j
   where starts_with(j.locked_by, 'backfill-suspect.' || @cohort::text || '.') order by j.id limit 1000 for update skip locked
)
update graphile_worker._private_jobs as j set locked_at = null, locked_by = null where j.id = any(array(select held.id from held));

-- name: UnlockSuspectQueues :execrows
-- Their queues, after them: not one of which a suspect is left, because somebody else had its row locked.
with held as materialized (
  select s.id from graphile_worker._private_job_queues as s
   where s.locked_by = 'backfill-suspect.' || @cohort::text
     and not exists (select from graphile_worker._private_jobs as j
                      where j.job_queue_id = s.id and starts_with(j.locked_by, s.locked_by || '.'))
   order by s.id limit 1000 for update skip locked
)
update graphile_worker._private_job_queues as s set locked_at = null, locked_by = null where s.id = any(array(select held.id from held));
