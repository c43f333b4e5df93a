-- backfill_enqueue again, see 0003_enqueue.sql. Inserts of names give the conflict that they
-- ignore, so that an id that is taken, because a sequence is behind its table, is an error. A
-- trigger that drops rows is an error at once, and not a conflict to be waited out.

create or replace function graphile_worker.backfill_enqueue(
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
  v_job graphile_worker._private_jobs;
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
    insert into graphile_worker._private_tasks (identifier)
    select distinct n.name
    from unnest(tasks) as n (name)
    where not exists (select from graphile_worker._private_tasks as t where t.identifier = n.name)
    order by n.name
    on conflict (identifier) do nothing;

    insert into graphile_worker._private_job_queues (queue_name)
    select distinct n.name
    from unnest(queues) as n (name)
    where n.name <> ''
      and not exists (select from graphile_worker._private_job_queues as s where s.queue_name = n.name)
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
      join graphile_worker._private_tasks as t on t.identifier = u.task
      left join graphile_worker._private_job_queues as s on s.queue_name = u.queue and u.queue <> ''
      where coalesce(u.key, '') = '' and (coalesce(u.queue, '') = '' or s.id is not null)
    ), inserted as (
      insert into graphile_worker._private_jobs as j (job_queue_id, task_id, payload, run_at, max_attempts, priority, flags)
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
        and exists (select from graphile_worker._private_tasks as t where t.identifier = u.task)
        and (coalesce(u.queue, '') = '' or exists (select from graphile_worker._private_job_queues as s where s.queue_name = u.queue))
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
        perform j.id from graphile_worker._private_jobs as j where j.key = v_spec.key for update;

        update graphile_worker._private_jobs as j
        set key = null, attempts = j.max_attempts, updated_at = now()
        where j.key = v_spec.key and j.is_available is not true;
      end if;

      insert into graphile_worker._private_jobs as j (job_queue_id, task_id, payload, run_at, max_attempts, key, priority, flags)
      select
        s.id, t.id, v_spec.payload::json, coalesce(v_spec.run_at, now()) + v_spec.delay_us * interval '1 microsecond',
        v_spec.attempt_limit, v_spec.key, v_spec.priority, nullif(v_spec.flags, '')::jsonb
      from graphile_worker._private_tasks as t
      left join graphile_worker._private_job_queues as s on s.queue_name = v_spec.queue and v_spec.queue <> ''
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
      if not exists (select from graphile_worker._private_jobs as j where j.key = v_spec.key and j.locked_at is not null)
        and exists (select from graphile_worker._private_tasks as t where t.identifier = v_spec.task)
        and (
          coalesce(v_spec.queue, '') = ''
          or exists (select from graphile_worker._private_job_queues as s where s.queue_name = v_spec.queue)
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
      coalesce((select t.identifier from graphile_worker._private_tasks as t where t.id = v_job.task_id), ''),
      coalesce((select s.queue_name from graphile_worker._private_job_queues as s where s.id = v_job.job_queue_id), ''),
      v_job.run_at, v_job.created_at, v_job.attempts, v_job.max_attempts, v_job.priority, v_job.revision, v_job.flags;
  end loop;
end
$fn$;

insert into graphile_worker.backfill_migrations (id, name)
values (5, 'enqueue_conflicts');
