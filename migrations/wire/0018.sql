-- Graphile Worker's revisions 1 to 18 in one step: tables, type, view and functions.
--
-- For a schema without jobs tables only; an older one is brought forward by Graphile Worker.
-- Several names below (jobs_pkey1, jobs_id_seq1, known_crontabs_pkey, ...) are older than the
-- tables that they belong to. They are part of the wire: later revisions may name them.

-- The peer's bootstrap makes the same table; an administrator may have made it as well.
create table if not exists graphile_worker.migrations (
  id integer constraint migrations_pkey primary key,
  ts timestamp with time zone not null default now(),
  breaking boolean not null default false
);

-- Row 1 goes first, before any other object: the primary key is the only mutex between
-- installers of all kinds.
insert into graphile_worker.migrations (id, breaking)
values
  (1, true),
  (2, false),
  (3, true),
  (4, false),
  (5, false),
  (6, false),
  (7, false),
  (8, false),
  (9, false),
  (10, false),
  (11, true),
  (12, false),
  (13, true),
  (14, true),
  (15, false),
  (16, true),
  (17, false),
  (18, false);

-- Tables. Row level security without a policy hides all rows from everybody but the owner.

create table graphile_worker._private_known_crontabs (
  identifier text not null constraint known_crontabs_pkey primary key,
  known_since timestamp with time zone not null,
  last_execution timestamp with time zone
);

create table graphile_worker._private_job_queues (
  id integer not null generated always as identity (sequence name graphile_worker.job_queues_id_seq)
    constraint job_queues_pkey1 primary key,
  queue_name text not null
    constraint job_queues_queue_name_key unique
    constraint job_queues_queue_name_check check (length(queue_name) <= 128),
  locked_at timestamp with time zone,
  locked_by text,
  is_available boolean not null generated always as (locked_at is null) stored
);

create table graphile_worker._private_tasks (
  id integer not null generated always as identity (sequence name graphile_worker.tasks_id_seq)
    constraint tasks_pkey primary key,
  identifier text not null
    constraint tasks_identifier_key unique
    constraint tasks_identifier_check check (length(identifier) <= 128)
);

-- No foreign keys, by design. The order of the columns matters: functions return whole rows.
create table graphile_worker._private_jobs (
  id bigint not null generated always as identity (sequence name graphile_worker.jobs_id_seq1)
    constraint jobs_pkey1 primary key,
  job_queue_id integer,
  task_id integer not null,
  payload json not null default '{}'::json,
  priority smallint not null default 0,
  run_at timestamp with time zone not null default now(),
  attempts smallint not null default 0,
  max_attempts smallint not null default 25
    constraint jobs_max_attempts_check check (max_attempts >= 1),
  last_error text,
  created_at timestamp with time zone not null default now(),
  updated_at timestamp with time zone not null default now(),
  key text
    constraint jobs_key_key1 unique
    constraint jobs_key_check check (length(key) > 0 and length(key) <= 512),
  locked_at timestamp with time zone,
  locked_by text,
  revision integer not null default 0,
  flags jsonb,
  is_available boolean not null
    generated always as ((locked_at is null) and (attempts < max_attempts)) stored
);

alter table graphile_worker._private_known_crontabs enable row level security;
alter table graphile_worker._private_job_queues enable row level security;
alter table graphile_worker._private_tasks enable row level security;
alter table graphile_worker._private_jobs enable row level security;

create index jobs_main_index on graphile_worker._private_jobs (priority, run_at)
  include (id, task_id, job_queue_id)
  where is_available = true;

create index jobs_no_queue_index on graphile_worker._private_jobs (priority, run_at)
  include (id, task_id)
  where is_available = true and job_queue_id is null;

-- One request, as add_jobs takes it. Clients fill arrays of it from JSON, by these names.
create type graphile_worker.job_spec as (
  identifier text,
  payload json,
  queue_name text,
  run_at timestamp with time zone,
  max_attempts smallint,
  job_key text,
  priority smallint,
  flags text[]
);

-- The interface for reading. A job whose task row is gone is not shown; payloads never are.
create view graphile_worker.jobs as
select
  jobs.id,
  job_queues.queue_name,
  tasks.identifier as task_identifier,
  jobs.priority,
  jobs.run_at,
  jobs.attempts,
  jobs.max_attempts,
  jobs.last_error,
  jobs.created_at,
  jobs.updated_at,
  jobs.key,
  jobs.locked_at,
  jobs.locked_by,
  jobs.revision,
  jobs.flags
from graphile_worker._private_jobs as jobs
join graphile_worker._private_tasks as tasks on tasks.id = jobs.task_id
left join graphile_worker._private_job_queues as job_queues on job_queues.id = jobs.job_queue_id;

-- Adds jobs. Revision 20 replaces this body and that of add_job.
create function graphile_worker.add_jobs(
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
  on conflict do nothing;

  insert into graphile_worker._private_job_queues (queue_name)
  select distinct spec.queue_name
  from unnest(specs) as spec
  where spec.queue_name is not null
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
create function graphile_worker.add_job(
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
  values (add_job.identifier)
  on conflict do nothing;

  if add_job.queue_name is not null then
    insert into graphile_worker._private_job_queues (queue_name)
    values (add_job.queue_name)
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

-- Functions for operators. They leave alone what a worker may be running: a lock counts for
-- four hours.

create function graphile_worker.complete_jobs(job_ids bigint[])
returns setof graphile_worker._private_jobs
language sql
as $fn$
  delete from graphile_worker._private_jobs as jobs
  where jobs.id = any(job_ids)
    and (jobs.locked_at is null or jobs.locked_at < now() - interval '4 hours')
  returning jobs.*;
$fn$;

create function graphile_worker.permanently_fail_jobs(job_ids bigint[], error_message text default null)
returns setof graphile_worker._private_jobs
language sql
as $fn$
  update graphile_worker._private_jobs as jobs
  set
    last_error = coalesce(error_message, 'Manually marked as failed'),
    attempts = jobs.max_attempts,
    updated_at = now()
  where jobs.id = any(job_ids)
    and (jobs.locked_at is null or jobs.locked_at < now() - interval '4 hours')
  returning jobs.*;
$fn$;

create function graphile_worker.reschedule_jobs(
  job_ids bigint[],
  run_at timestamp with time zone default null,
  priority integer default null,
  attempts integer default null,
  max_attempts integer default null
)
returns setof graphile_worker._private_jobs
language sql
as $fn$
  update graphile_worker._private_jobs as jobs
  set
    run_at = coalesce(reschedule_jobs.run_at, jobs.run_at),
    priority = coalesce(reschedule_jobs.priority::smallint, jobs.priority),
    attempts = coalesce(reschedule_jobs.attempts::smallint, jobs.attempts),
    max_attempts = coalesce(reschedule_jobs.max_attempts::smallint, jobs.max_attempts),
    updated_at = now()
  where jobs.id = any(job_ids)
    and (jobs.locked_at is null or jobs.locked_at < now() - interval '4 hours')
  returning jobs.*;
$fn$;

-- Deletes the job with this key; one that runs only loses its key and its retries.
create function graphile_worker.remove_job(job_key text)
returns graphile_worker._private_jobs
language plpgsql
strict
as $fn$
declare
  v_job graphile_worker._private_jobs;
begin
  delete from graphile_worker._private_jobs as jobs
  where jobs.key = remove_job.job_key
    and (jobs.locked_at is null or jobs.locked_at < now() - interval '4 hours')
  returning jobs.* into v_job;

  if found then
    perform pg_notify('jobs:insert', '{"r":' || random()::text || ',"count":-1}');
    return v_job;
  end if;

  update graphile_worker._private_jobs as jobs
  set
    key = null,
    attempts = jobs.max_attempts,
    updated_at = now()
  where jobs.key = remove_job.job_key
  returning jobs.* into v_job;
  return v_job;
end;
$fn$;

create function graphile_worker.force_unlock_workers(worker_ids text[])
returns void
language sql
as $fn$
  update graphile_worker._private_jobs as jobs
  set locked_at = null, locked_by = null
  where jobs.locked_by = any(worker_ids);

  update graphile_worker._private_job_queues as job_queues
  set locked_at = null, locked_by = null
  where job_queues.locked_by = any(worker_ids);
$fn$;
