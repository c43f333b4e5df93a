-- add_job and add_jobs stop consuming an identity value of tasks and queues on every call: only
-- names that are missing are inserted. "on conflict do nothing" stays, for two callers who add the
-- same name at once. Nothing else changes.

insert into graphile_worker.migrations (id, breaking)
values (20, false);

-- Adds jobs.
create or replace function graphile_worker.add_jobs(
  specs graphile_worker.job_spec[],
  job_key_preserve_run_at boolean default false
)
returns setof graphile_worker._private_jobs
language plpgsql
as $fn$
begin
  insert into graphile_worker._private_tasks (identifier)
  select distinct spec.identifier
  from unnest(specs) as spec
  where not exists (
    select from graphile_worker._private_tasks as tasks
    where tasks.identifier = spec.identifier
  )
  on conflict do nothing;

  insert into graphile_worker._private_job_queues (queue_name)
  select distinct spec.queue_name
  from unnest(specs) as spec
  where spec.queue_name is not null
    and not exists (
      select from graphile_worker._private_job_queues as job_queues
      where job_queues.queue_name = spec.queue_name
    )
  on conflict do nothing;

  -- A job that runs, or will never run again, gives up its key to the new one.
  update graphile_worker._private_jobs as jobs
  set
    key = null,
    attempts = jobs.max_attempts,
    updated_at = now()
  from unnest(specs) as spec
  where jobs.key = spec.job_key
    and jobs.is_available is not true;

  -- The random part keeps PostgreSQL from folding equal notifications of one transaction.
  perform pg_notify(
    'jobs:insert',
    '{"r":' || random()::text || ',"count":' || array_length(specs, 1)::text || '}'
  );

  return query
  insert into graphile_worker._private_jobs as jobs (
    job_queue_id,
    task_id,
    payload,
    run_at,
    max_attempts,
    key,
    priority,
    flags
  )
  select
    job_queues.id,
    tasks.id,
    coalesce(spec.payload, '{}'::json),
    coalesce(spec.run_at, now()),
    coalesce(spec.max_attempts, 25::smallint),
    spec.job_key,
    coalesce(spec.priority, 0::smallint),
    (select jsonb_object_agg(f.flag, true) from unnest(spec.flags) as f (flag))
  from unnest(specs) with ordinality as spec
  join graphile_worker._private_tasks as tasks on tasks.identifier = spec.identifier
  left join graphile_worker._private_job_queues as job_queues on job_queues.queue_name = spec.queue_name
  order by spec.ordinality
  on conflict (key) do update
  set
    job_queue_id = excluded.job_queue_id,
    task_id = excluded.task_id,
    payload = case
      when json_typeof(jobs.payload) = 'array' and json_typeof(excluded.payload) = 'array'
        then (jobs.payload::jsonb || excluded.payload::jsonb)::json
      else excluded.payload
    end,
    run_at = case
      when job_key_preserve_run_at is true and jobs.attempts = 0 then jobs.run_at
      else excluded.run_at
    end,
    max_attempts = excluded.max_attempts,
    priority = excluded.priority,
    flags = excluded.flags,
    revision = jobs.revision + 1,
    attempts = 0,
    last_error = null,
    updated_at = now()
  where jobs.locked_at is null
  returning jobs.*;
end;
$fn$;

-- Adds one job.
create or replace function graphile_worker.add_job(
  identifier text,
  payload json default null,
  queue_name text default null,
  run_at timestamp with time zone default null,
  max_attempts integer default null,
  job_key text default null,
  priority integer default null,
  flags text[] default null,
  job_key_mode text default 'replace'
)
returns graphile_worker._private_jobs
language plpgsql
as $fn$
declare
  v_job graphile_worker._private_jobs;
begin
  if add_job.job_key is null
    or add_job.job_key_mode is null
    or add_job.job_key_mode in ('replace', 'preserve_run_at')
  then
    select added.* into v_job
    from graphile_worker.add_jobs(
      array[(
        add_job.identifier,
        add_job.payload,
        add_job.queue_name,
        add_job.run_at,
        add_job.max_attempts::smallint,
        add_job.job_key,
        add_job.priority::smallint,
        add_job.flags
      )::graphile_worker.job_spec],
      coalesce(add_job.job_key_mode = 'preserve_run_at', false)
    ) as added
    limit 1;
    return v_job;
  end if;

  if add_job.job_key_mode <> 'unsafe_dedupe' then
    raise exception using
      errcode = 'GWBKM',
      message = 'Invalid job_key_mode value, expected ''replace'', ''preserve_run_at'' or ''unsafe_dedupe''.';
  end if;

  insert into graphile_worker._private_tasks (identifier)
  select add_job.identifier
  where not exists (
    select from graphile_worker._private_tasks as tasks
    where tasks.identifier = add_job.identifier
  )
  on conflict do nothing;

  if add_job.queue_name is not null then
    insert into graphile_worker._private_job_queues (queue_name)
    select add_job.queue_name
    where not exists (
      select from graphile_worker._private_job_queues as job_queues
      where job_queues.queue_name = add_job.queue_name
    )
    on conflict do nothing;
  end if;

  insert into graphile_worker._private_jobs as jobs (
    job_queue_id,
    task_id,
    payload,
    run_at,
    max_attempts,
    key,
    priority,
    flags
  )
  select
    job_queues.id,
    tasks.id,
    coalesce(add_job.payload, '{}'::json),
    coalesce(add_job.run_at, now()),
    coalesce(add_job.max_attempts::smallint, 25::smallint),
    add_job.job_key,
    coalesce(add_job.priority::smallint, 0::smallint),
    (select jsonb_object_agg(f.flag, true) from unnest(add_job.flags) as f (flag))
  from graphile_worker._private_tasks as tasks
  left join graphile_worker._private_job_queues as job_queues
    on job_queues.queue_name = add_job.queue_name
  where tasks.identifier = add_job.identifier
  on conflict (key) do update
  set
    revision = jobs.revision + 1,
    updated_at = now()
  returning jobs.* into v_job;

  if v_job.revision = 0 then
    perform pg_notify('jobs:insert', '{"r":' || random()::text || ',"count":1}');
  end if;
  return v_job;
end;
$fn$;
