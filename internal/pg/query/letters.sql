-- Dead letters, apart from those that FailJobs writes. None of these waits for a row lock (R16).

-- name: BuryJobs :many
-- Makes dead letters of jobs: of those that are locked with a token, and, where that is empty, of those
-- that are locked by nobody, have no attempts left and a last error (R27). Without one a job was
-- superseded or removed. A verdict comes in front of what the job says of its last error. A job that was
-- requeued from a dead letter goes back to that one, and waits if somebody has it locked. Queues are
-- freed by others.
with burial as materialized (
  select u.id, u.token, u.reason, u.verdict
    from rows from (unnest(@ids::bigint[]), unnest(@tokens::text[]), unnest(@reasons::text[]), unnest(@verdicts::text[]))
         as u(id, token, reason, verdict)
), held as materialized (
  select j.id from burial join graphile_worker._private_jobs as j on j.id = burial.id
   where case when burial.token <> '' then j.locked_by = burial.token
              else j.locked_by is null and j.locked_at is null and j.attempts >= j.max_attempts and j.last_error is not null end
     and not exists (select from graphile_worker.backfill_cancels as c where c.job_id = j.id)
   order by j.id for update of j skip locked
), requeued as materialized (                 -- also what is locked by others
  select d.requeued_job_id from graphile_worker.backfill_dlq as d
   where d.requeued_job_id is not null and d.requeued_job_id = any(array(select id from held))
), letter as materialized (
  select d.id, d.requeued_job_id from graphile_worker.backfill_dlq as d
   where d.requeued_job_id is not null and d.requeued_job_id = any(array(select id from held)) order by d.id for update skip locked
), buried as (
  delete from graphile_worker._private_jobs as j where j.id = any(array(
    select id from held
     where id in (select requeued_job_id from letter) or id not in (select requeued_job_id from requeued)))
  returning j.id, j.job_queue_id, j.task_id, j.payload, j.priority, j.run_at, j.attempts, j.max_attempts, j.last_error, j.created_at,
            j.key, j.flags, j.locked_at
), dead as materialized (
  select buried.id, coalesce(t.identifier, '') as task, s.queue_name, buried.payload, buried.priority, buried.run_at, buried.attempts,
         buried.max_attempts, buried.created_at, buried.key, buried.flags, burial.reason, burial.token, buried.locked_at,
         concat_ws(E'\n', nullif(burial.verdict, ''), buried.last_error) as error
    from buried join burial on burial.id = buried.id
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
), recorded as (                              -- of a job that was found so, its end may be there already
  insert into graphile_worker.backfill_history
         (job_id, task_identifier, queue_name, job_key, attempt, outcome, started_at, ended_at, worker_id, error)
  select dead.id, h.task_identifier, dead.queue_name, dead.key, dead.attempts, 'dead', dead.locked_at, now(),
         nullif(split_part(dead.token, '.', 1), ''), dead.error
    from dead join graphile_worker.backfill_history_tasks as h
      on h.task_identifier = dead.task and h.seen_at > now() - interval '1 day'
   where dead.token <> '' or not exists (select from graphile_worker.backfill_history as k where k.job_id = dead.id and k.outcome = 'dead')
)
select dead.id, dead.task::text as task, coalesce(dead.queue_name, '')::text as queue, coalesce(dead.key, '')::text as key,
       dead.priority, dead.run_at, dead.attempts, dead.max_attempts, dead.error::text as error
  from dead order by dead.id;

-- name: LettersOf :many
-- The dead letters that some jobs have become.
select d.original_job_id, d.failure_reason, coalesce(d.last_error, '')::text as last_error
  from graphile_worker.backfill_dlq as d where d.original_job_id = any(@ids::bigint[]) and d.requeued_job_id is null;

-- name: DropRequeued :one
-- Deletes dead letters whose requeued job is gone: it has succeeded, or somebody has removed it. A page
-- is what comes next by the job.
with page as materialized (
  select d.id, d.requeued_job_id from graphile_worker.backfill_dlq as d
   where d.requeued_job_id is not null and d.requeued_job_id > @after::bigint order by d.requeued_job_id limit @size::int
), gone as materialized (
  select d.id from page join graphile_worker.backfill_dlq as d on d.id = page.id and d.requeued_job_id = page.requeued_job_id
   where not exists (select from graphile_worker._private_jobs as j where j.id = page.requeued_job_id)
   order by d.id for update of d skip locked
), dropped as (
  delete from graphile_worker.backfill_dlq as d where d.id = any(array(select id from gone)) returning d.id
)
select (select count(*) from page)::int as seen, coalesce((select max(page.requeued_job_id) from page), 0)::bigint as last,
       (select count(*) from dropped)::int as dropped;

-- name: ExpireLetters :one
-- Deletes the oldest dead letters that failed too long ago. What somebody has locked is passed over, and
-- not met again: a step is what comes next by the time. Those whose requeued job waits or runs stay: it
-- may fail again, and DropRequeued deletes them when it is gone.
with page as materialized (
  select d.id, d.failed_at from graphile_worker.backfill_dlq as d
   where d.failed_at >= @after_at::timestamptz and (d.failed_at > @after_at::timestamptz or d.id > @after_id::bigint)
     and d.failed_at < now() - make_interval(secs => @age_seconds::float8)
   order by d.failed_at, d.id limit @size::int
), held as materialized (
  select d.id from graphile_worker.backfill_dlq as d
   where d.id = any(array(select page.id from page)) and d.requeued_job_id is null and d.failed_at < now() - make_interval(secs => @age_seconds::float8)
   order by d.id for update skip locked
), expired as (
  delete from graphile_worker.backfill_dlq as d where d.id = any(array(select id from held)) returning d.id
)
select (select count(*) from page)::int as seen, (select count(*) from expired)::int as expired,
       coalesce((select max(page.failed_at) from page), 'epoch')::timestamptz as last_at,
       coalesce((select page.id from page order by page.failed_at desc, page.id desc limit 1), 0)::bigint as last_id;

-- name: NextLetter :many
-- The first dead letter behind one, as a step of ExpireLetters has it.
select d.failed_at, d.id from graphile_worker.backfill_dlq as d
 where d.failed_at >= @after_at::timestamptz and (d.failed_at > @after_at::timestamptz or d.id > @after_id::bigint)
 order by d.failed_at, d.id limit 1;
