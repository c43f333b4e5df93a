begin;
set local search_path = pg_catalog, pg_temp;

-- wire/0000.sql

-- The schema itself. Records nothing: 0018.sql makes the ledger.
--
-- Every file here names the schema graphile_worker; "backfill migrate --print" writes all of them
-- with any name. By hand, as the role that is to own everything:
--
--   for f in wire/*.sql own/*.sql; do
--     case $f in own/0002*) continue;; esac
--     psql -X -v ON_ERROR_STOP=1 --single-transaction -f "$f" || break
--   done
--   psql -X -v ON_ERROR_STOP=1 -f own/0002_queue_index.sql
--
-- Skip this file if an administrator has made the schema: PostgreSQL asks for the right to create
-- schemas in the database even if there is nothing left to create.

create schema if not exists "graphile_worker";

-- wire/0018.sql

-- Graphile Worker's revisions 1 to 18 in one step: tables, type, view and functions.
--
-- For a schema without jobs tables only; an older one is brought forward by Graphile Worker.
-- Several names below (jobs_pkey1, jobs_id_seq1, known_crontabs_pkey, ...) are older than the
-- tables that they belong to. They are part of the wire: later revisions may name them.

-- The peer's bootstrap makes the same table; an administrator may have made it as well.
create table if not exists "graphile_worker".migrations (
  id integer constraint migrations_pkey primary key,
  ts timestamp with time zone not null default now(),
  breaking boolean not null default false
);

-- Row 1 goes first, before any other object: the primary key is the only mutex between
-- installers of all kinds.
insert into "graphile_worker".migrations (id, breaking)
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

create table "graphile_worker"._private_known_crontabs (
  identifier text not null constraint known_crontabs_pkey primary key,
  known_since timestamp with time zone not null,
  last_execution timestamp with time zone
);

create table "graphile_worker"._private_job_queues (
  id integer not null generated always as identity (sequence name "graphile_worker".job_queues_id_seq)
    constraint job_queues_pkey1 primary key,
  queue_name text not null
    constraint job_queues_queue_name_key unique
    constraint job_queues_queue_name_check check (length(queue_name) <= 128),
  locked_at timestamp with time zone,
  locked_by text,
  is_available boolean not null generated always as (locked_at is null) stored
);

create table "graphile_worker"._private_tasks (
  id integer not null generated always as identity (sequence name "graphile_worker".tasks_id_seq)
    constraint tasks_pkey primary key,
  identifier text not null
    constraint tasks_identifier_key unique
    constraint tasks_identifier_check check (length(identifier) <= 128)
);

-- No foreign keys, by design. The order of the columns matters: functions return whole rows.
create table "graphile_worker"._private_jobs (
  id bigint not null generated always as identity (sequence name "graphile_worker".jobs_id_seq1)
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

alter table "graphile_worker"._private_known_crontabs enable row level security;
alter table "graphile_worker"._private_job_queues enable row level security;
alter table "graphile_worker"._private_tasks enable row level security;
alter table "graphile_worker"._private_jobs enable row level security;

create index jobs_main_index on "graphile_worker"._private_jobs (priority, run_at)
  include (id, task_id, job_queue_id)
  where is_available = true;

create index jobs_no_queue_index on "graphile_worker"._private_jobs (priority, run_at)
  include (id, task_id)
  where is_available = true and job_queue_id is null;

-- One request, as add_jobs takes it. Clients fill arrays of it from JSON, by these names.
create type "graphile_worker".job_spec as (
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
create view "graphile_worker".jobs as
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
from "graphile_worker"._private_jobs as jobs
join "graphile_worker"._private_tasks as tasks on tasks.id = jobs.task_id
left join "graphile_worker"._private_job_queues as job_queues on job_queues.id = jobs.job_queue_id;

-- Adds jobs. Revision 20 replaces this body and that of add_job.
create function "graphile_worker".add_jobs(
  specs "graphile_worker".job_spec[],
  job_key_preserve_run_at boolean default false
)
returns setof "graphile_worker"._private_jobs
language plpgsql
as $fn$
begin
  insert into "graphile_worker"._private_tasks (identifier)
  select distinct spec.identifier
  from unnest(specs) as spec
  on conflict do nothing;

  insert into "graphile_worker"._private_job_queues (queue_name)
  select distinct spec.queue_name
  from unnest(specs) as spec
  where spec.queue_name is not null
  on conflict do nothing;

  -- A job that runs, or will never run again, gives up its key to the new one.
  update "graphile_worker"._private_jobs as jobs
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
  insert into "graphile_worker"._private_jobs as jobs (
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
  join "graphile_worker"._private_tasks as tasks on tasks.identifier = spec.identifier
  left join "graphile_worker"._private_job_queues as job_queues on job_queues.queue_name = spec.queue_name
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
create function "graphile_worker".add_job(
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
returns "graphile_worker"._private_jobs
language plpgsql
as $fn$
declare
  v_job "graphile_worker"._private_jobs;
begin
  if add_job.job_key is null
    or add_job.job_key_mode is null
    or add_job.job_key_mode in ('replace', 'preserve_run_at')
  then
    select added.* into v_job
    from "graphile_worker".add_jobs(
      array[(
        add_job.identifier,
        add_job.payload,
        add_job.queue_name,
        add_job.run_at,
        add_job.max_attempts::smallint,
        add_job.job_key,
        add_job.priority::smallint,
        add_job.flags
      )::"graphile_worker".job_spec],
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

  insert into "graphile_worker"._private_tasks (identifier)
  values (add_job.identifier)
  on conflict do nothing;

  if add_job.queue_name is not null then
    insert into "graphile_worker"._private_job_queues (queue_name)
    values (add_job.queue_name)
    on conflict do nothing;
  end if;

  insert into "graphile_worker"._private_jobs as jobs (
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
  from "graphile_worker"._private_tasks as tasks
  left join "graphile_worker"._private_job_queues as job_queues
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

create function "graphile_worker".complete_jobs(job_ids bigint[])
returns setof "graphile_worker"._private_jobs
language sql
as $fn$
  delete from "graphile_worker"._private_jobs as jobs
  where jobs.id = any(job_ids)
    and (jobs.locked_at is null or jobs.locked_at < now() - interval '4 hours')
  returning jobs.*;
$fn$;

create function "graphile_worker".permanently_fail_jobs(job_ids bigint[], error_message text default null)
returns setof "graphile_worker"._private_jobs
language sql
as $fn$
  update "graphile_worker"._private_jobs as jobs
  set
    last_error = coalesce(error_message, 'Manually marked as failed'),
    attempts = jobs.max_attempts,
    updated_at = now()
  where jobs.id = any(job_ids)
    and (jobs.locked_at is null or jobs.locked_at < now() - interval '4 hours')
  returning jobs.*;
$fn$;

create function "graphile_worker".reschedule_jobs(
  job_ids bigint[],
  run_at timestamp with time zone default null,
  priority integer default null,
  attempts integer default null,
  max_attempts integer default null
)
returns setof "graphile_worker"._private_jobs
language sql
as $fn$
  update "graphile_worker"._private_jobs as jobs
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
create function "graphile_worker".remove_job(job_key text)
returns "graphile_worker"._private_jobs
language plpgsql
strict
as $fn$
declare
  v_job "graphile_worker"._private_jobs;
begin
  delete from "graphile_worker"._private_jobs as jobs
  where jobs.key = remove_job.job_key
    and (jobs.locked_at is null or jobs.locked_at < now() - interval '4 hours')
  returning jobs.* into v_job;

  if found then
    perform pg_notify('jobs:insert', '{"r":' || random()::text || ',"count":-1}');
    return v_job;
  end if;

  update "graphile_worker"._private_jobs as jobs
  set
    key = null,
    attempts = jobs.max_attempts,
    updated_at = now()
  where jobs.key = remove_job.job_key
  returning jobs.* into v_job;
  return v_job;
end;
$fn$;

create function "graphile_worker".force_unlock_workers(worker_ids text[])
returns void
language sql
as $fn$
  update "graphile_worker"._private_jobs as jobs
  set locked_at = null, locked_by = null
  where jobs.locked_by = any(worker_ids);

  update "graphile_worker"._private_job_queues as job_queues
  set locked_at = null, locked_by = null
  where job_queues.locked_by = any(worker_ids);
$fn$;

-- wire/0019.sql

-- A marker, and breaking: from here on locked_by names a pool, not a worker.
--
-- By hand on a database in use: stop the Graphile Worker 0.16 workers first; afterwards
--   notify "worker:migrate", '{"migrationNumber":19,"breaking":true}';
-- stops those that were forgotten.

insert into "graphile_worker".migrations (id, breaking)
values (19, true);

-- wire/0020.sql

-- add_job and add_jobs stop consuming an identity value of tasks and queues on every call: only
-- names that are missing are inserted. "on conflict do nothing" stays, for two callers who add the
-- same name at once. Nothing else changes.

insert into "graphile_worker".migrations (id, breaking)
values (20, false);

-- Adds jobs.
create or replace function "graphile_worker".add_jobs(
  specs "graphile_worker".job_spec[],
  job_key_preserve_run_at boolean default false
)
returns setof "graphile_worker"._private_jobs
language plpgsql
as $fn$
begin
  insert into "graphile_worker"._private_tasks (identifier)
  select distinct spec.identifier
  from unnest(specs) as spec
  where not exists (
    select from "graphile_worker"._private_tasks as tasks
    where tasks.identifier = spec.identifier
  )
  on conflict do nothing;

  insert into "graphile_worker"._private_job_queues (queue_name)
  select distinct spec.queue_name
  from unnest(specs) as spec
  where spec.queue_name is not null
    and not exists (
      select from "graphile_worker"._private_job_queues as job_queues
      where job_queues.queue_name = spec.queue_name
    )
  on conflict do nothing;

  -- A job that runs, or will never run again, gives up its key to the new one.
  update "graphile_worker"._private_jobs as jobs
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
  insert into "graphile_worker"._private_jobs as jobs (
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
  join "graphile_worker"._private_tasks as tasks on tasks.identifier = spec.identifier
  left join "graphile_worker"._private_job_queues as job_queues on job_queues.queue_name = spec.queue_name
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
create or replace function "graphile_worker".add_job(
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
returns "graphile_worker"._private_jobs
language plpgsql
as $fn$
declare
  v_job "graphile_worker"._private_jobs;
begin
  if add_job.job_key is null
    or add_job.job_key_mode is null
    or add_job.job_key_mode in ('replace', 'preserve_run_at')
  then
    select added.* into v_job
    from "graphile_worker".add_jobs(
      array[(
        add_job.identifier,
        add_job.payload,
        add_job.queue_name,
        add_job.run_at,
        add_job.max_attempts::smallint,
        add_job.job_key,
        add_job.priority::smallint,
        add_job.flags
      )::"graphile_worker".job_spec],
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

  insert into "graphile_worker"._private_tasks (identifier)
  select add_job.identifier
  where not exists (
    select from "graphile_worker"._private_tasks as tasks
    where tasks.identifier = add_job.identifier
  )
  on conflict do nothing;

  if add_job.queue_name is not null then
    insert into "graphile_worker"._private_job_queues (queue_name)
    select add_job.queue_name
    where not exists (
      select from "graphile_worker"._private_job_queues as job_queues
      where job_queues.queue_name = add_job.queue_name
    )
    on conflict do nothing;
  end if;

  insert into "graphile_worker"._private_jobs as jobs (
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
  from "graphile_worker"._private_tasks as tasks
  left join "graphile_worker"._private_job_queues as job_queues
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

-- own/0001_workers.sql

-- Our own tables beside Graphile Worker's, in the same schema, all named backfill_*. Peers know
-- nothing of them; they have a ledger of their own, because the peers read "migrations".

create table "graphile_worker".backfill_migrations (
  id integer constraint backfill_migrations_pkey primary key,
  name text not null,
  applied_at timestamp with time zone not null default now()
);

insert into "graphile_worker".backfill_migrations (id, name)
values (1, 'workers');

-- One row per worker process. Heartbeats update it every few seconds: half of each page is kept
-- free and no column but the key is indexed, so that they stay on the page (HOT).
create table "graphile_worker".backfill_workers (
  id text constraint backfill_workers_pkey primary key,
  host text not null default '',
  pid integer not null default 0,
  started_at timestamp with time zone not null default clock_timestamp(),
  heartbeat_at timestamp with time zone not null default clock_timestamp(),
  dead_at timestamp with time zone
) with (fillfactor = 50);

alter table "graphile_worker".backfill_workers enable row level security;

-- Jobs come and go by the thousand per second: vacuum after 1 % instead of 20 %, and never take
-- the exclusive lock that giving back the end of the table needs.
alter table "graphile_worker"._private_jobs
  set (autovacuum_vacuum_scale_factor = 0.01, vacuum_truncate = off);

-- Queue rows are locked and unlocked for every job of a queue.
alter table "graphile_worker"._private_job_queues set (fillfactor = 50);

-- own/0003_enqueue.sql

-- Enqueuing without rights on the tables, for roles that nothing but this function is granted to: "backfill migrate
-- --enqueue-role NAME". It does what the client's own statements do (internal/pg/query/enqueue.sql): the rows are
-- the same, all or none, names that are missing are inserted, and nobody is notified inside the transaction. It tells of a
-- job what a producer may know: payloads never leave it.
--
-- The arrays are the columns of the jobs. Empty texts in queues, flag_sets (else objects, {"name": true}) and keys mean none;
-- a null in run_ats means now. Results are in no order: ordinal, from 1, says which job a row is about. as_sent is false if
-- the job that a key found has another payload than was sent.

create function "graphile_worker".backfill_enqueue(
  tasks text[],
  queues text[],
  payloads text[],
  run_ats timestamp with time zone[],
  delays_us bigint[],
  attempt_limits smallint[],
  priorities smallint[],
  flag_sets text[],
  keys text[],
  key_modes text[]
)
returns table (
  ordinal integer,
  as_sent boolean,
  key text,
  id bigint,
  task text,
  queue text,
  run_at timestamp with time zone,
  created_at timestamp with time zone,
  attempts smallint,
  max_attempts smallint,
  priority smallint,
  revision integer,
  flags jsonb
)
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $fn$
#variable_conflict use_column
declare
  v_keyless bigint;
  v_inserted bigint;
  v_spec record;
  v_job "graphile_worker"._private_jobs;
begin
  if (select count(distinct cardinality(c.list)) from (values
        (tasks), (queues), (payloads), (run_ats::text[]), (delays_us::text[]), (attempt_limits::text[]), (priorities::text[]),
        (flag_sets), (keys), (key_modes)) as c (list)) <> 1 then
    raise exception 'the arrays differ in length' using errcode = 'invalid_parameter_value';
  end if;
  if exists (select from unnest(flag_sets) as f (flags) where jsonb_typeof(nullif(f.flags, '')::jsonb) <> 'object') then
    raise exception 'flags are not an object' using errcode = 'invalid_parameter_value';
  end if;
  if exists (
    select from unnest(key_modes) as m (mode)
    where m.mode is null or m.mode not in ('replace', 'preserve_run_at', 'unsafe_dedupe')
  ) then
    raise exception 'unknown key mode: want replace, preserve_run_at or unsafe_dedupe' using errcode = 'GWBKM';
  end if;

  select count(*) into v_keyless from unnest(keys) as k (key) where coalesce(k.key, '') = '';

  -- Names and keys can be in other hands for a moment.
  for v_try in 1..20 loop
    insert into "graphile_worker"._private_tasks (identifier)
    select distinct n.name
    from unnest(tasks) as n (name)
    where not exists (select from "graphile_worker"._private_tasks as t where t.identifier = n.name)
    order by n.name
    on conflict do nothing;

    insert into "graphile_worker"._private_job_queues (queue_name)
    select distinct n.name
    from unnest(queues) as n (name)
    where n.name <> ''
      and not exists (select from "graphile_worker"._private_job_queues as s where s.queue_name = n.name)
    order by n.name
    on conflict do nothing;

    exit when v_keyless = 0;

    return query
    with spec as materialized (
      select
        u.ord, t.id as task_id, s.id as queue_id, t.identifier, s.queue_name, u.payload, u.run_at, u.delay_us, u.attempt_limit,
        u.priority, u.flags, row_number() over (order by u.ord) as nth
      from unnest(tasks, queues, payloads, run_ats, delays_us, attempt_limits, priorities, flag_sets, keys)
        with ordinality as u (task, queue, payload, run_at, delay_us, attempt_limit, priority, flags, key, ord)
      join "graphile_worker"._private_tasks as t on t.identifier = u.task
      left join "graphile_worker"._private_job_queues as s on s.queue_name = u.queue and u.queue <> ''
      where coalesce(u.key, '') = '' and (coalesce(u.queue, '') = '' or s.id is not null)
    ), inserted as (
      insert into "graphile_worker"._private_jobs as j (job_queue_id, task_id, payload, run_at, max_attempts, priority, flags)
      select
        spec.queue_id, spec.task_id, spec.payload::json, coalesce(spec.run_at, now()) + spec.delay_us * interval '1 microsecond',
        spec.attempt_limit, spec.priority, nullif(spec.flags, '')::jsonb
      from spec
      where (select count(*) from spec) = v_keyless
      order by spec.ord
      returning j.*
    ), numbered as (
      select inserted.*, row_number() over (order by inserted.id) as nth from inserted
    )
    select
      spec.ord::integer, true, null::text, n.id, spec.identifier, coalesce(spec.queue_name, ''), n.run_at, n.created_at,
      n.attempts, n.max_attempts, n.priority, n.revision, n.flags
    from numbered as n
    join spec on spec.nth = n.nth;

    get diagnostics v_inserted = row_count;
    exit when v_inserted > 0;
    if v_try = 20 then
      raise exception 'jobs could not be inserted: others insert their task and queue names again and again, or this transaction''s snapshot is older than they are'
        using errcode = 'serialization_failure';
    end if;
  end loop;

  -- One key after the other, in their order: who enqueues several waits for nobody who waits for him. But jobs of queues in the
  -- order in which they were given, because they will run in it; and a key that is given twice twice.
  for v_spec in
    select u.*, row_number() over (partition by u.key order by u.ord) as nth
    from unnest(tasks, queues, payloads, run_ats, delays_us, attempt_limits, priorities, flag_sets, keys, key_modes)
      with ordinality as u (task, queue, payload, run_at, delay_us, attempt_limit, priority, flags, key, mode, ord)
    where u.key <> ''
    order by nth, case when coalesce(u.queue, '') = '' then 0 else u.ord end, u.key
  loop
    for v_try in 1..20 loop
      if v_spec.mode <> 'unsafe_dedupe' then
        perform j.id from "graphile_worker"._private_jobs as j where j.key = v_spec.key for update;

        update "graphile_worker"._private_jobs as j
        set key = null, attempts = j.max_attempts, updated_at = now()
        where j.key = v_spec.key and j.is_available is not true;
      end if;

      insert into "graphile_worker"._private_jobs as j (job_queue_id, task_id, payload, run_at, max_attempts, key, priority, flags)
      select
        s.id, t.id, v_spec.payload::json, coalesce(v_spec.run_at, now()) + v_spec.delay_us * interval '1 microsecond',
        v_spec.attempt_limit, v_spec.key, v_spec.priority, nullif(v_spec.flags, '')::jsonb
      from "graphile_worker"._private_tasks as t
      left join "graphile_worker"._private_job_queues as s on s.queue_name = v_spec.queue and v_spec.queue <> ''
      where t.identifier = v_spec.task and (coalesce(v_spec.queue, '') = '' or s.id is not null)
      on conflict (key) do update set
        job_queue_id = case when v_spec.mode = 'unsafe_dedupe' then j.job_queue_id else excluded.job_queue_id end,
        task_id = case when v_spec.mode = 'unsafe_dedupe' then j.task_id else excluded.task_id end,
        max_attempts = case when v_spec.mode = 'unsafe_dedupe' then j.max_attempts else excluded.max_attempts end,
        priority = case when v_spec.mode = 'unsafe_dedupe' then j.priority else excluded.priority end,
        flags = case when v_spec.mode = 'unsafe_dedupe' then j.flags else excluded.flags end,
        attempts = case when v_spec.mode = 'unsafe_dedupe' then j.attempts else 0 end,
        last_error = case when v_spec.mode = 'unsafe_dedupe' then j.last_error end,
        run_at = case
          when v_spec.mode = 'unsafe_dedupe' or v_spec.mode = 'preserve_run_at' and j.attempts = 0 then j.run_at
          else excluded.run_at
        end,
        payload = case
          when v_spec.mode = 'unsafe_dedupe' then j.payload
          when json_typeof(j.payload) = 'array' and json_typeof(excluded.payload) = 'array'
            then (j.payload::jsonb || excluded.payload::jsonb)::json
          else excluded.payload
        end,
        revision = j.revision + 1,
        updated_at = now()
      where v_spec.mode = 'unsafe_dedupe' or j.locked_at is null
      returning j.* into v_job;

      exit when found;
      if v_try = 20 then
        raise exception 'a job could not be inserted: its key is claimed by others again and again, or this transaction''s snapshot is older than they are'
          using errcode = 'serialization_failure';
      end if;
      perform pg_sleep(v_try * 0.001);
    end loop;

    return query
    select
      v_spec.ord::integer, v_job.payload::text = v_spec.payload, v_job.key, v_job.id,
      coalesce((select t.identifier from "graphile_worker"._private_tasks as t where t.id = v_job.task_id), ''),
      coalesce((select s.queue_name from "graphile_worker"._private_job_queues as s where s.id = v_job.job_queue_id), ''),
      v_job.run_at, v_job.created_at, v_job.attempts, v_job.max_attempts, v_job.priority, v_job.revision, v_job.flags;
  end loop;
end
$fn$;

revoke execute on function "graphile_worker".backfill_enqueue(
  text[], text[], text[], timestamp with time zone[], bigint[], smallint[], smallint[], text[], text[], text[]
) from public;

insert into "graphile_worker".backfill_migrations (id, name)
values (3, 'enqueue');

-- own/0004_comments.sql

-- What the columns of backfill_workers mean to somebody who looks at the table. Comments block
-- neither readers nor writers.

comment on table "graphile_worker".backfill_workers is
  'One row for each worker process.';

comment on column "graphile_worker".backfill_workers.heartbeat_at is
  'Not in use yet: set when the worker starts, and never updated. It does not say whether the worker is alive.';

comment on column "graphile_worker".backfill_workers.dead_at is
  'When the worker stopped and gave its jobs back. It stays null if the process was killed.';

insert into "graphile_worker".backfill_migrations (id, name)
values (4, 'comments')
on conflict (id) do nothing;

-- own/0005_enqueue.sql

-- backfill_enqueue again, see 0003_enqueue.sql. Inserts of names give the conflict that they
-- ignore, so that an id that is taken, because a sequence is behind its table, is an error. A
-- trigger that drops rows is an error at once, and not a conflict to be waited out.

create or replace function "graphile_worker".backfill_enqueue(
  tasks text[],
  queues text[],
  payloads text[],
  run_ats timestamp with time zone[],
  delays_us bigint[],
  attempt_limits smallint[],
  priorities smallint[],
  flag_sets text[],
  keys text[],
  key_modes text[]
)
returns table (
  ordinal integer,
  as_sent boolean,
  key text,
  id bigint,
  task text,
  queue text,
  run_at timestamp with time zone,
  created_at timestamp with time zone,
  attempts smallint,
  max_attempts smallint,
  priority smallint,
  revision integer,
  flags jsonb
)
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $fn$
#variable_conflict use_column
declare
  v_keyless bigint;
  v_inserted bigint;
  v_spec record;
  v_job "graphile_worker"._private_jobs;
begin
  if (select count(distinct cardinality(c.list)) from (values
        (tasks), (queues), (payloads), (run_ats::text[]), (delays_us::text[]), (attempt_limits::text[]), (priorities::text[]),
        (flag_sets), (keys), (key_modes)) as c (list)) <> 1 then
    raise exception 'the arrays differ in length' using errcode = 'invalid_parameter_value';
  end if;
  if exists (select from unnest(flag_sets) as f (flags) where jsonb_typeof(nullif(f.flags, '')::jsonb) <> 'object') then
    raise exception 'flags are not an object' using errcode = 'invalid_parameter_value';
  end if;
  if exists (
    select from unnest(key_modes) as m (mode)
    where m.mode is null or m.mode not in ('replace', 'preserve_run_at', 'unsafe_dedupe')
  ) then
    raise exception 'unknown key mode: want replace, preserve_run_at or unsafe_dedupe' using errcode = 'GWBKM';
  end if;

  select count(*) into v_keyless from unnest(keys) as k (key) where coalesce(k.key, '') = '';

  -- Another session can add a name, or take the job of a key, at this moment.
  for v_try in 1..20 loop
    insert into "graphile_worker"._private_tasks (identifier)
    select distinct n.name
    from unnest(tasks) as n (name)
    where not exists (select from "graphile_worker"._private_tasks as t where t.identifier = n.name)
    order by n.name
    on conflict (identifier) do nothing;

    insert into "graphile_worker"._private_job_queues (queue_name)
    select distinct n.name
    from unnest(queues) as n (name)
    where n.name <> ''
      and not exists (select from "graphile_worker"._private_job_queues as s where s.queue_name = n.name)
    order by n.name
    on conflict (queue_name) do nothing;

    exit when v_keyless = 0;

    return query
    with spec as materialized (
      select
        u.ord, t.id as task_id, s.id as queue_id, t.identifier, s.queue_name, u.payload, u.run_at, u.delay_us, u.attempt_limit,
        u.priority, u.flags, row_number() over (order by u.ord) as nth
      from unnest(tasks, queues, payloads, run_ats, delays_us, attempt_limits, priorities, flag_sets, keys)
        with ordinality as u (task, queue, payload, run_at, delay_us, attempt_limit, priority, flags, key, ord)
      join "graphile_worker"._private_tasks as t on t.identifier = u.task
      left join "graphile_worker"._private_job_queues as s on s.queue_name = u.queue and u.queue <> ''
      where coalesce(u.key, '') = '' and (coalesce(u.queue, '') = '' or s.id is not null)
    ), inserted as (
      insert into "graphile_worker"._private_jobs as j (job_queue_id, task_id, payload, run_at, max_attempts, priority, flags)
      select
        spec.queue_id, spec.task_id, spec.payload::json, coalesce(spec.run_at, now()) + spec.delay_us * interval '1 microsecond',
        spec.attempt_limit, spec.priority, nullif(spec.flags, '')::jsonb
      from spec
      where (select count(*) from spec) = v_keyless
      order by spec.ord
      returning j.*
    ), numbered as (
      select inserted.*, row_number() over (order by inserted.id) as nth from inserted
    )
    select
      spec.ord::integer, true, null::text, n.id, spec.identifier, coalesce(spec.queue_name, ''), n.run_at, n.created_at,
      n.attempts, n.max_attempts, n.priority, n.revision, n.flags
    from numbered as n
    join spec on spec.nth = n.nth;

    get diagnostics v_inserted = row_count;
    exit when v_inserted = v_keyless;
    if v_inserted > 0 or (
      select count(*)
      from unnest(tasks, queues, keys) as u (task, queue, key)
      where coalesce(u.key, '') = ''
        and exists (select from "graphile_worker"._private_tasks as t where t.identifier = u.task)
        and (coalesce(u.queue, '') = '' or exists (select from "graphile_worker"._private_job_queues as s where s.queue_name = u.queue))
    ) = v_keyless then
      raise exception 'a trigger on _private_jobs dropped jobs of this call, without an error';
    end if;
    if v_try = 20 then
      raise exception 'a task or queue name is still missing after 20 tries: this transaction''s snapshot may be older than the name'
        using errcode = 'serialization_failure';
    end if;
  end loop;

  -- In the order of the keys, so that two callers cannot deadlock. Jobs of queues come in the
  -- order in which they were given, because they will run in it. A key that is given twice is
  -- inserted twice.
  for v_spec in
    select u.*, row_number() over (partition by u.key order by u.ord) as nth
    from unnest(tasks, queues, payloads, run_ats, delays_us, attempt_limits, priorities, flag_sets, keys, key_modes)
      with ordinality as u (task, queue, payload, run_at, delay_us, attempt_limit, priority, flags, key, mode, ord)
    where u.key <> ''
    order by nth, case when coalesce(u.queue, '') = '' then 0 else u.ord end, u.key
  loop
    for v_try in 1..20 loop
      if v_spec.mode <> 'unsafe_dedupe' then
        perform j.id from "graphile_worker"._private_jobs as j where j.key = v_spec.key for update;

        update "graphile_worker"._private_jobs as j
        set key = null, attempts = j.max_attempts, updated_at = now()
        where j.key = v_spec.key and j.is_available is not true;
      end if;

      insert into "graphile_worker"._private_jobs as j (job_queue_id, task_id, payload, run_at, max_attempts, key, priority, flags)
      select
        s.id, t.id, v_spec.payload::json, coalesce(v_spec.run_at, now()) + v_spec.delay_us * interval '1 microsecond',
        v_spec.attempt_limit, v_spec.key, v_spec.priority, nullif(v_spec.flags, '')::jsonb
      from "graphile_worker"._private_tasks as t
      left join "graphile_worker"._private_job_queues as s on s.queue_name = v_spec.queue and v_spec.queue <> ''
      where t.identifier = v_spec.task and (coalesce(v_spec.queue, '') = '' or s.id is not null)
      on conflict (key) do update set
        job_queue_id = case when v_spec.mode = 'unsafe_dedupe' then j.job_queue_id else excluded.job_queue_id end,
        task_id = case when v_spec.mode = 'unsafe_dedupe' then j.task_id else excluded.task_id end,
        max_attempts = case when v_spec.mode = 'unsafe_dedupe' then j.max_attempts else excluded.max_attempts end,
        priority = case when v_spec.mode = 'unsafe_dedupe' then j.priority else excluded.priority end,
        flags = case when v_spec.mode = 'unsafe_dedupe' then j.flags else excluded.flags end,
        attempts = case when v_spec.mode = 'unsafe_dedupe' then j.attempts else 0 end,
        last_error = case when v_spec.mode = 'unsafe_dedupe' then j.last_error end,
        run_at = case
          when v_spec.mode = 'unsafe_dedupe' or v_spec.mode = 'preserve_run_at' and j.attempts = 0 then j.run_at
          else excluded.run_at
        end,
        payload = case
          when v_spec.mode = 'unsafe_dedupe' then j.payload
          when json_typeof(j.payload) = 'array' and json_typeof(excluded.payload) = 'array'
            then (j.payload::jsonb || excluded.payload::jsonb)::json
          else excluded.payload
        end,
        revision = j.revision + 1,
        updated_at = now()
      where v_spec.mode = 'unsafe_dedupe' or j.locked_at is null
      returning j.* into v_job;

      exit when found;
      -- A job that a worker took is locked by the insert that it conflicted with, so it is visible
      -- here.
      if not exists (select from "graphile_worker"._private_jobs as j where j.key = v_spec.key and j.locked_at is not null)
        and exists (select from "graphile_worker"._private_tasks as t where t.identifier = v_spec.task)
        and (
          coalesce(v_spec.queue, '') = ''
          or exists (select from "graphile_worker"._private_job_queues as s where s.queue_name = v_spec.queue)
        )
      then
        raise exception 'a trigger on _private_jobs dropped a job of this call, without an error';
      end if;
      if v_try = 20 then
        raise exception 'a key is still taken by workers after 20 tries, or a name is missing: this transaction''s snapshot may be older than the name'
          using errcode = 'serialization_failure';
      end if;
      perform pg_sleep(v_try * 0.001);
    end loop;

    return query
    select
      v_spec.ord::integer, v_job.payload::text = v_spec.payload, v_job.key, v_job.id,
      coalesce((select t.identifier from "graphile_worker"._private_tasks as t where t.id = v_job.task_id), ''),
      coalesce((select s.queue_name from "graphile_worker"._private_job_queues as s where s.id = v_job.job_queue_id), ''),
      v_job.run_at, v_job.created_at, v_job.attempts, v_job.max_attempts, v_job.priority, v_job.revision, v_job.flags;
  end loop;
end
$fn$;

insert into "graphile_worker".backfill_migrations (id, name)
values (5, 'enqueue_conflicts');

-- own/0006_sweeps.sql

-- Which worker sweeps for all. Without a default the rows stay as they are, so the table is locked
-- for an instant.

alter table "graphile_worker".backfill_workers
  add column if not exists swept_at timestamp with time zone;

comment on column "graphile_worker".backfill_workers.swept_at is
  'When this worker last began to sweep for all. Null if it never has.';

insert into "graphile_worker".backfill_migrations (id, name)
values (6, 'sweeps')
on conflict (id) do nothing;

-- own/0007_leases.sql

-- What a worker's row says, for whoever watches it: that it lives, where it runs, what it does.
-- Workers of older versions have rows without beats: nobody can tell whether they live.

alter table "graphile_worker".backfill_workers
  add column if not exists beats bigint,
  add column if not exists locked boolean not null default false,
  add column if not exists rescued_at timestamp with time zone,
  add column if not exists stopping_at timestamp with time zone,
  add column if not exists version text not null default '',
  add column if not exists server text not null default '',
  add column if not exists machine text not null default '',
  add column if not exists process_start bigint not null default 0,
  add column if not exists tasks text[] not null default '{}',
  add column if not exists forbidden text[] not null default '{}',
  add column if not exists slots integer not null default 0,
  add column if not exists running bigint[] not null default '{}';

comment on column "graphile_worker".backfill_workers.beats is
  'Counts the heartbeats. Null: a worker of an older version, which does not beat.';
comment on column "graphile_worker".backfill_workers.heartbeat_at is
  'The last heartbeat, for people. Whether a worker is dead is judged by its beats, never by this time.';
comment on column "graphile_worker".backfill_workers.locked is
  'The session of this worker''s heartbeats has taken an advisory lock, whose keys are hashes of schema and id; it may have lost it since.';
comment on column "graphile_worker".backfill_workers.dead_at is
  'When this worker stopped, or was declared dead. It claims nothing any more.';
comment on column "graphile_worker".backfill_workers.rescued_at is
  'When nothing was locked by this dead worker any more.';
comment on column "graphile_worker".backfill_workers.stopping_at is
  'When this worker was told to stop, or found itself declared dead: what ends after that was no crash.';
comment on column "graphile_worker".backfill_workers.machine is
  'Where process ids and start times mean the same: boot id, pid namespace and time namespace. Empty: not known.';
comment on column "graphile_worker".backfill_workers.process_start is
  'The start time of the process, as its system counts it; with machine and pid it names a process.';
comment on column "graphile_worker".backfill_workers.running is
  'The ids of the jobs that run, at the last heartbeat; at most 1,000, the oldest first.';

insert into "graphile_worker".backfill_migrations (id, name)
values (7, 'leases')
on conflict (id) do nothing;

-- own/0008_pauses.sql

-- Tasks that nobody is to start jobs of, for now. Go workers read it; Node workers do not know it.

create table if not exists "graphile_worker".backfill_pauses (
  task text constraint backfill_pauses_pkey primary key,
  paused_at timestamp with time zone not null default clock_timestamp(),
  paused_by text not null default '',
  reason text not null default '',
  ends_at timestamp with time zone
);

comment on table "graphile_worker".backfill_pauses is
  'Tasks whose jobs wait, with who paused them and why. Client.Pause and Client.Resume change it.';
comment on column "graphile_worker".backfill_pauses.ends_at is
  'When the pause ends by itself. Null: when somebody ends it.';

alter table "graphile_worker".backfill_pauses enable row level security;

insert into "graphile_worker".backfill_migrations (id, name)
values (8, 'pauses')
on conflict (id) do nothing;

-- own/0009_crashes.sql

-- What crashes say about the jobs that the workers held. docs/design.md has the rule.

create table if not exists "graphile_worker".backfill_crashes (
  job_id bigint not null,
  worker_id text not null,
  token text not null,
  began timestamp with time zone not null,
  tried boolean not null default false,
  judged_at timestamp with time zone,
  age interval,
  alone boolean not null default false,
  passed boolean not null default false,
  convicted text not null default '',
  key text,
  constraint backfill_crashes_pkey primary key (job_id, worker_id)
);

create index if not exists backfill_crashes_judged
  on "graphile_worker".backfill_crashes (worker_id) where judged_at is not null;

comment on table "graphile_worker".backfill_crashes is
  'Leases of which more has to be known than the job''s row says: those of workers that died, of trials, and of jobs that have run for half an hour.';
comment on column "graphile_worker".backfill_crashes.worker_id is
  'Who held the job. It is also the cohort of a suspect that this worker left.';
comment on column "graphile_worker".backfill_crashes.token is
  'The lease. Of a later one of this worker and job the row says nothing.';
comment on column "graphile_worker".backfill_crashes.began is
  'When the lease began: renewals move locked_at.';
comment on column "graphile_worker".backfill_crashes.tried is
  'The worker held nothing else than the jobs of a trial.';
comment on column "graphile_worker".backfill_crashes.judged_at is
  'When somebody decided what becomes of the job. Null: the lease is alive, as far as is known.';
comment on column "graphile_worker".backfill_crashes.age is
  'How long the job had been held at the last heartbeat. Null: this lease ended without a crash.';
comment on column "graphile_worker".backfill_crashes.alone is
  'The worker held nothing but this job, for a trial, and no other worker died around that time.';
comment on column "graphile_worker".backfill_crashes.passed is
  'A trial of this cohort has left the job out.';
comment on column "graphile_worker".backfill_crashes.convicted is
  'The job''s task, if it failed for good then: three of a task in an hour pause it.';
comment on column "graphile_worker".backfill_crashes.key is
  'The job''s key: a job that replaces it inherits what is known.';

alter table "graphile_worker".backfill_crashes enable row level security;

alter table "graphile_worker".backfill_workers
  add column if not exists held integer,
  add column if not exists emptying_at timestamp with time zone,
  add column if not exists trial_at timestamp with time zone,
  add column if not exists trial_cohort text;

comment on column "graphile_worker".backfill_workers.held is
  'How many jobs this worker held when it was found dead.';
comment on column "graphile_worker".backfill_workers.emptying_at is
  'Since when this worker claims nothing, to try suspects and hold nothing else. Null: it claims.';
comment on column "graphile_worker".backfill_workers.trial_at is
  'Since when this worker tries suspects. Null: it does not.';
comment on column "graphile_worker".backfill_workers.trial_cohort is
  'Whose suspects it tries: the worker that left them, without "pool-".';

insert into "graphile_worker".backfill_migrations (id, name)
values (9, 'crashes')
on conflict (id) do nothing;

-- own/0010_dead_letters.sql

-- Jobs that failed for good, kept for operators. docs/design.md has the rules.

create table if not exists "graphile_worker".backfill_dlq (
  id bigint generated by default as identity constraint backfill_dlq_pkey primary key,
  original_job_id bigint not null,
  task_identifier text not null,
  payload json not null,
  queue_name text,
  priority smallint not null,
  job_key text,
  max_attempts smallint not null,
  failure_reason text not null,
  failure_count integer not null default 1,
  last_error text,
  original_created_at timestamp with time zone not null,
  original_run_at timestamp with time zone not null,
  failed_at timestamp with time zone not null default now(),
  requeued_count integer not null default 0,
  last_requeued_at timestamp with time zone,
  notes text,
  attempts smallint not null,
  flags jsonb,
  first_error text,
  first_failed_at timestamp with time zone not null default now(),
  requeued_job_id bigint
);

create index if not exists backfill_dlq_failed_at on "graphile_worker".backfill_dlq (failed_at, id);
create index if not exists backfill_dlq_original on "graphile_worker".backfill_dlq (original_job_id);
create index if not exists backfill_dlq_key on "graphile_worker".backfill_dlq (job_key, task_identifier) where job_key is not null;
create unique index if not exists backfill_dlq_requeued
  on "graphile_worker".backfill_dlq (requeued_job_id) where requeued_job_id is not null;

comment on table "graphile_worker".backfill_dlq is
  'Dead letters: jobs that failed for good, and are in _private_jobs no more. Client.RequeueDeadLetters sends them back.';
comment on column "graphile_worker".backfill_dlq.original_job_id is
  'The id that the job had when it failed last.';
comment on column "graphile_worker".backfill_dlq.failure_reason is
  'exhausted, permanent, crashed, interrupted, or swept: the job was found with no attempts left.';
comment on column "graphile_worker".backfill_dlq.failure_count is
  'How often the job has failed for good: more than once if it was requeued.';
comment on column "graphile_worker".backfill_dlq.attempts is
  'How many attempts it had when it failed last.';
comment on column "graphile_worker".backfill_dlq.first_error is
  'The last error of the attempts before it failed for good for the first time.';
comment on column "graphile_worker".backfill_dlq.requeued_job_id is
  'The job that it was requeued as. Null: it was not, or that job has failed for good, too.';

alter table "graphile_worker".backfill_dlq enable row level security;

alter table "graphile_worker".backfill_workers
  add column if not exists dead_letters boolean not null default false;

comment on column "graphile_worker".backfill_workers.dead_letters is
  'This worker makes dead letters of jobs that fail for good.';

insert into "graphile_worker".backfill_migrations (id, name)
values (10, 'dead_letters')
on conflict (id) do nothing;

-- own/0011_queue_pauses.sql

-- Queues of which nobody is to start jobs, for now. Go workers read it; Node workers do not know it.

create table if not exists "graphile_worker".backfill_queue_pauses (
  queue_name text constraint backfill_queue_pauses_pkey primary key,
  paused_at timestamp with time zone not null default clock_timestamp(),
  paused_by text not null default '',
  reason text not null default '',
  ends_at timestamp with time zone
);

comment on table "graphile_worker".backfill_queue_pauses is
  'Queues whose jobs wait, with who paused them and why. Client.PauseQueue and Client.ResumeQueue change it.';
comment on column "graphile_worker".backfill_queue_pauses.ends_at is
  'When the pause ends by itself. Null: when somebody ends it.';

alter table "graphile_worker".backfill_queue_pauses enable row level security;

insert into "graphile_worker".backfill_migrations (id, name)
values (11, 'queue_pauses')
on conflict (id) do nothing;

-- own/0012_cancels.sql

-- Requests to end jobs that were running. Whoever ends the lease of such a job deletes it. Go workers
-- read it; Node workers do not know it, so the jobs that they have get no request.

create table if not exists "graphile_worker".backfill_cancels (
  job_id bigint constraint backfill_cancels_pkey primary key,
  requested_at timestamp with time zone not null default clock_timestamp(),
  requested_by text not null default '',
  reason text not null default ''
);

comment on table "graphile_worker".backfill_cancels is
  'Running jobs that are to end and not to run again, with who asked for it and why. Client.Cancel writes it.';

alter table "graphile_worker".backfill_cancels enable row level security;

insert into "graphile_worker".backfill_migrations (id, name)
values (12, 'cancels')
on conflict (id) do nothing;

-- own/0013_operations.sql

-- What operators change: the record of it, and operations of many items. docs/design.md, section 17, has the rules.

create table if not exists "graphile_worker".backfill_audit (
  id text constraint backfill_audit_pkey primary key,
  at timestamp with time zone not null default clock_timestamp(),
  principal text not null default '',
  action text not null,
  target_kind text not null,
  target_id text not null default '',
  task text not null default '',
  queue text not null default '',
  reason text not null default '',
  operation_id bigint,
  detail jsonb not null default '{}'
);

create index if not exists backfill_audit_at on "graphile_worker".backfill_audit (at, id);

comment on table "graphile_worker".backfill_audit is
  'What operators have changed: a row for each change, written in its transaction. An operation of many items has one row, and its items.';
comment on column "graphile_worker".backfill_audit.id is
  'Made by who asks for the change: a request that is sent again finds what the first has done.';
comment on column "graphile_worker".backfill_audit.principal is
  'Who has changed it, as the program says that asked for it. Empty: it did not say.';
comment on column "graphile_worker".backfill_audit.target_id is
  'The id of the job, dead letter or operation, or the name of the worker, task, queue or cron entry.';
comment on column "graphile_worker".backfill_audit.detail is
  'What it came to. It has no values of payloads.';

alter table "graphile_worker".backfill_audit enable row level security;

create table if not exists "graphile_worker".backfill_operations (
  id bigint generated by default as identity constraint backfill_operations_pkey primary key,
  token text not null constraint backfill_operations_token unique,
  place text not null,
  action text not null,
  filter jsonb not null,
  change jsonb not null default '{}',
  up_to bigint not null,
  seen_at timestamp with time zone not null,
  principal text not null default '',
  roles text[] not null default '{}',
  restricted boolean not null default false,
  reason text not null default '',
  state text not null default 'previewed',
  per_second double precision not null default 0,
  matched integer not null default 0,
  more boolean not null default false,
  created_at timestamp with time zone not null default clock_timestamp(),
  started_at timestamp with time zone,
  ended_at timestamp with time zone,
  carried_at timestamp with time zone,
  due_at timestamp with time zone not null default clock_timestamp(),
  after_at timestamp with time zone not null default '-infinity',
  after bigint not null default -9223372036854775808,
  acted bigint not null default 0,
  skipped bigint not null default 0,
  error text not null default ''
);

create index if not exists backfill_operations_running on "graphile_worker".backfill_operations (due_at, id) where state = 'running';

comment on table "graphile_worker".backfill_operations is
  'Changes of many jobs or dead letters. A preview makes a row, and fixes what is meant. Whoever carries it on does a batch in a transaction.';
comment on column "graphile_worker".backfill_operations.token is
  'A hash of what the preview has given to whoever may start it.';
comment on column "graphile_worker".backfill_operations.place is
  'jobs or dead_letters.';
comment on column "graphile_worker".backfill_operations.up_to is
  'No item with a greater id is meant: it was not there yet.';
comment on column "graphile_worker".backfill_operations.seen_at is
  'Items that somebody has changed later are left out. Of dead letters: those that have failed later.';
comment on column "graphile_worker".backfill_operations.restricted is
  'Not everybody may do everything where it was started: who does not ask who may, does not carry it on.';
comment on column "graphile_worker".backfill_operations.state is
  'previewed, running, stopped, or done.';
comment on column "graphile_worker".backfill_operations.due_at is
  'When the next batch may begin: per_second says how many items are changed in a second at most; 0: no limit.';
comment on column "graphile_worker".backfill_operations.after is
  'Up to which item it has come, with after_at for dead letters.';

alter table "graphile_worker".backfill_operations enable row level security;

create table if not exists "graphile_worker".backfill_operation_items (
  operation_id bigint not null,
  item_id bigint not null,
  at timestamp with time zone not null default clock_timestamp(),
  task text not null default '',
  queue text not null default '',
  skip text not null default '',
  worker text not null default '',
  job_id bigint,
  detail text not null default '',
  constraint backfill_operation_items_pkey primary key (operation_id, item_id)
);

comment on table "graphile_worker".backfill_operation_items is
  'What became of each item of an operation, written in the transaction of its change.';
comment on column "graphile_worker".backfill_operation_items.skip is
  'Why the item was left as it was. Empty: it was changed.';
comment on column "graphile_worker".backfill_operation_items.worker is
  'Who has it.';
comment on column "graphile_worker".backfill_operation_items.job_id is
  'The job that a dead letter was requeued as, or that has its key.';

alter table "graphile_worker".backfill_operation_items enable row level security;

insert into "graphile_worker".backfill_migrations (id, name)
values (13, 'operations')
on conflict (id) do nothing;

-- own/0014_history.sql

-- What has become of jobs: how many ended and how long they took, per minute (backfill_counters), and, of tasks that
-- ask for it, each attempt that has ended (backfill_history). And how far jobs are that run (backfill_progress). docs/design.md, section 18, has the rules.

create table if not exists "graphile_worker".backfill_counters (
  minute timestamp with time zone not null,
  task_identifier text not null,
  worker_id text not null,
  completed integer not null,
  failed integer not null,
  dead integer not null,
  snoozed integer not null,
  returned integer not null,
  canceled integer not null,
  run_seconds double precision not null,
  run_classes smallint[] not null,
  run_counts integer[] not null,
  wait_seconds double precision not null,
  wait_classes smallint[] not null,
  wait_counts integer[] not null,
  constraint backfill_counters_pkey primary key (minute, task_identifier, worker_id)
) with (fillfactor = 50);

comment on table "graphile_worker".backfill_counters is
  'How many jobs of a task ended in a minute, and how long they ran and had waited, as each worker has counted. Kept for 6 hours.';
comment on column "graphile_worker".backfill_counters.worker_id is
  'The id that the worker had when it started. Each worker writes rows of its own.';
comment on column "graphile_worker".backfill_counters.dead is
  'Failed for good. Those that will be tried again are in failed.';
comment on column "graphile_worker".backfill_counters.returned is
  'Given back by a stop, a lost lease or the like: they run again.';
comment on column "graphile_worker".backfill_counters.run_classes is
  'Of the histogram of run times, the classes that are not empty: class n is up to 2^(n/2) microseconds. Their counts are in run_counts.';
comment on column "graphile_worker".backfill_counters.wait_classes is
  'The same of the times between run_at and the start.';

alter table "graphile_worker".backfill_counters enable row level security;

create table if not exists "graphile_worker".backfill_progress (
  job_id bigint constraint backfill_progress_pkey primary key,
  token text not null,
  attempt integer not null,
  done bigint not null,
  total bigint not null,
  note text not null,
  at timestamp with time zone not null default clock_timestamp()
) with (fillfactor = 50);

comment on table "graphile_worker".backfill_progress is
  'How far running jobs are, as their handlers say. What is of another token than that in locked_by of the job is of an attempt that has ended.';
comment on column "graphile_worker".backfill_progress.total is
  '0: not known.';

alter table "graphile_worker".backfill_progress enable row level security;

create table if not exists "graphile_worker".backfill_history_tasks (
  task_identifier text constraint backfill_history_tasks_pkey primary key,
  retention interval not null,
  seen_at timestamp with time zone not null default clock_timestamp()
);

comment on table "graphile_worker".backfill_history_tasks is
  'Tasks whose attempts are kept in backfill_history, and for how long, as the worker says that started last.';
comment on column "graphile_worker".backfill_history_tasks.seen_at is
  'When a worker last said so. After a day without, what others than workers decide about jobs of the task is not kept any more.';

alter table "graphile_worker".backfill_history_tasks enable row level security;

create table if not exists "graphile_worker".backfill_history (
  job_id bigint not null,
  task_identifier text not null,
  queue_name text,
  job_key text,
  attempt integer not null,
  outcome text not null,
  started_at timestamp with time zone,
  ended_at timestamp with time zone not null default now(),
  duration interval,
  worker_id text,
  error text,
  output json,
  log text
) partition by range (ended_at);

create table if not exists "graphile_worker".backfill_history_rest partition of "graphile_worker".backfill_history default;

create index if not exists backfill_history_job on "graphile_worker".backfill_history (job_id);

comment on table "graphile_worker".backfill_history is
  'Attempts that have ended, and what others have decided about jobs, of tasks with history. A partition for each week.';
comment on table "graphile_worker".backfill_history_rest is
  'The partition for what ended in a week that has none of its own, because no worker was there to make it.';
comment on column "graphile_worker".backfill_history.outcome is
  'completed; failed, to be tried again; dead: failed for good; snoozed; returned: given back, to run again; canceled; superseded: a job with its key has taken its place; removed; crashed: its worker died; lost: its lock was taken away.';
comment on column "graphile_worker".backfill_history.started_at is
  'When the handler was called. Null: the job was not running.';
comment on column "graphile_worker".backfill_history.ended_at is
  'When the outcome was recorded.';
comment on column "graphile_worker".backfill_history.duration is
  'How long the handler took, as its worker measured. Null: not known.';
comment on column "graphile_worker".backfill_history.log is
  'What the handler has logged: the first and the last lines, if there is too much.';

alter table "graphile_worker".backfill_history enable row level security;
alter table "graphile_worker".backfill_history_rest enable row level security;

-- Makes partitions for this week and the two that follow, and drops those of which nothing is to be kept. A
-- worker's role owns no tables, so it runs as their owner. It waits 50 ms for a lock at most, and goes on with the
-- next partition then: late is how many are left to be made or dropped. walk says that there may be rows that are too
-- old beside others that are to be kept.
create or replace function "graphile_worker".backfill_history_upkeep(
  out made integer, out dropped integer, out late integer, out walk boolean
)
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '50ms'
as $fn$
declare
  v_history constant oid := (select t.typrelid from pg_type as t where t.oid = pg_typeof(null::"graphile_worker".backfill_history));
  v_schema constant oid := (select c.relnamespace from pg_class as c where c.oid = v_history);
  v_schema_name constant text := (select n.nspname from pg_namespace as n where n.oid = v_schema);
  v_keep interval;
  v_week timestamp;
  v_name text;
begin
  made := 0;
  dropped := 0;
  late := 0;
  walk := (select count(distinct t.retention) > 1 from "graphile_worker".backfill_history_tasks as t)
    or exists (select from "graphile_worker".backfill_history_rest);
  if not pg_try_advisory_xact_lock(hashtextextended('backfill history ' || v_schema_name, 0)) then
    return; -- another worker does it
  end if;

  for v_weeks in 0..2 loop
    v_week := date_trunc('week', now() at time zone 'UTC') + v_weeks * interval '7 days';
    v_name := 'backfill_history_' || to_char(v_week, 'YYYYMMDD');
    continue when exists (select from pg_class as c where c.relnamespace = v_schema and c.relname = v_name);
    continue when exists (
      select from "graphile_worker".backfill_history_rest as r
      where r.ended_at >= v_week at time zone 'UTC' and r.ended_at < (v_week + interval '7 days') at time zone 'UTC'
    );
    begin
      execute format('create table %1$I.%2$I (like %1$I.backfill_history including defaults)', v_schema_name, v_name);
      execute format('alter table %1$I.%2$I enable row level security', v_schema_name, v_name);
      execute format(
        'alter table %1$I.backfill_history attach partition %1$I.%2$I for values from (%3$L) to (%4$L)', v_schema_name, v_name,
        v_week at time zone 'UTC', (v_week + interval '7 days') at time zone 'UTC'
      );
      made := made + 1;
    exception when lock_not_available then
      late := late + 1;
    end;
  end loop;

  select coalesce(max(t.retention), interval '0') into v_keep from "graphile_worker".backfill_history_tasks as t;
  for v_name in
    select c.relname from pg_inherits as i join pg_class as c on c.oid = i.inhrelid
    where i.inhparent = v_history and c.relname ~ '^backfill_history_[0-9]{8}$'
      and (to_date(right(c.relname, 8), 'YYYYMMDD') + 7)::timestamp at time zone 'UTC' <= now() - v_keep
    order by c.relname
  loop
    begin
      execute format('drop table %I.%I', v_schema_name, v_name);
      dropped := dropped + 1;
    exception when lock_not_available then
      late := late + 1;
    end;
  end loop;
end
$fn$;

revoke execute on function "graphile_worker".backfill_history_upkeep() from public;

insert into "graphile_worker".backfill_migrations (id, name)
values (14, 'history')
on conflict (id) do nothing;

-- own/0015_traces.sql

-- Trace contexts (W3C) of jobs, where programs trace. Nothing of them is in payloads. Whoever ends the
-- job drops its row, or a worker's upkeep does. Node programs can read and write it as well.

create table if not exists "graphile_worker".backfill_traces (
  job_id bigint constraint backfill_traces_pkey primary key,
  traceparent text not null default '',
  tracestate text not null default '',
  run text not null default ''
);

comment on table "graphile_worker".backfill_traces is
  'Trace contexts of jobs: of the span that has enqueued the job, and of its last run. A run is a trace of its own that links to both.';
comment on column "graphile_worker".backfill_traces.traceparent is
  'The traceparent of the span that has enqueued the job. Empty: it was not traced.';
comment on column "graphile_worker".backfill_traces.run is
  'The traceparent of the last run that has not ended the job. Empty: there was none, or it was not traced.';

alter table "graphile_worker".backfill_traces enable row level security;

insert into "graphile_worker".backfill_migrations (id, name)
values (15, 'traces')
on conflict (id) do nothing;

-- own/0016_crontabs.sql

-- What a worker schedules, for whoever asks when an entry is due. The schedule stands in code: without
-- this, no other process knows it.

alter table "graphile_worker".backfill_workers
  add column if not exists crontab json not null default '[]';

comment on column "graphile_worker".backfill_workers.crontab is
  'The cron entries of this worker: an array of objects with id, schedule, tz, fill_s, task, and what the job gets.';

insert into "graphile_worker".backfill_migrations (id, name)
values (16, 'crontabs')
on conflict (id) do nothing;

-- The head of each queue, exactly and in bounded time. Workers run without it, only slower, so it
-- is built while they work; the runner takes the word "concurrently" out where the table is still
-- empty. An interrupted build leaves an invalid index of this name: drop it and run this again.

create index if not exists backfill_jobs_queue_idx
  on "graphile_worker"._private_jobs (job_queue_id, priority, run_at, id)
  include (task_id)
  where is_available and job_queue_id is not null;

insert into "graphile_worker".backfill_migrations (id, name)
values (2, 'queue_index')
on conflict (id) do nothing;

commit;
