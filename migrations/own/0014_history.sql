-- What has become of jobs: how many ended and how long they took, per minute (backfill_counters), and, of tasks that
-- ask for it, each attempt that has ended (backfill_history). And how far jobs are that run (backfill_progress). docs/design.md, section 18, has the rules.

create table if not exists graphile_worker.backfill_counters (
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

comment on table graphile_worker.backfill_counters is
  'How many jobs of a task ended in a minute, and how long they ran and had waited, as each worker has counted. Kept for 6 hours.';
comment on column graphile_worker.backfill_counters.worker_id is
  'The id that the worker had when it started. Each worker writes rows of its own.';
comment on column graphile_worker.backfill_counters.dead is
  'Failed for good. Those that will be tried again are in failed.';
comment on column graphile_worker.backfill_counters.returned is
  'Given back by a stop, a lost lease or the like: they run again.';
comment on column graphile_worker.backfill_counters.run_classes is
  'Of the histogram of run times, the classes that are not empty: class n is up to 2^(n/2) microseconds. Their counts are in run_counts.';
comment on column graphile_worker.backfill_counters.wait_classes is
  'The same of the times between run_at and the start.';

alter table graphile_worker.backfill_counters enable row level security;

create table if not exists graphile_worker.backfill_progress (
  job_id bigint constraint backfill_progress_pkey primary key,
  token text not null,
  attempt integer not null,
  done bigint not null,
  total bigint not null,
  note text not null,
  at timestamp with time zone not null default clock_timestamp()
) with (fillfactor = 50);

comment on table graphile_worker.backfill_progress is
  'How far running jobs are, as their handlers say. What is of another token than that in locked_by of the job is of an attempt that has ended.';
comment on column graphile_worker.backfill_progress.total is
  '0: not known.';

alter table graphile_worker.backfill_progress enable row level security;

create table if not exists graphile_worker.backfill_history_tasks (
  task_identifier text constraint backfill_history_tasks_pkey primary key,
  retention interval not null,
  seen_at timestamp with time zone not null default clock_timestamp()
);

comment on table graphile_worker.backfill_history_tasks is
  'Tasks whose attempts are kept in backfill_history, and for how long, as the worker says that started last.';
comment on column graphile_worker.backfill_history_tasks.seen_at is
  'When a worker last said so. After a day without, what others than workers decide about jobs of the task is not kept any more.';

alter table graphile_worker.backfill_history_tasks enable row level security;

create table if not exists graphile_worker.backfill_history (
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

create table if not exists graphile_worker.backfill_history_rest partition of graphile_worker.backfill_history default;

create index if not exists backfill_history_job on graphile_worker.backfill_history (job_id);

comment on table graphile_worker.backfill_history is
  'Attempts that have ended, and what others have decided about jobs, of tasks with history. A partition for each week.';
comment on table graphile_worker.backfill_history_rest is
  'The partition for what ended in a week that has none of its own, because no worker was there to make it.';
comment on column graphile_worker.backfill_history.outcome is
  'completed; failed, to be tried again; dead: failed for good; snoozed; returned: given back, to run again; canceled; superseded: a job with its key has taken its place; removed; crashed: its worker died; lost: its lock was taken away.';
comment on column graphile_worker.backfill_history.started_at is
  'When the handler was called. Null: the job was not running.';
comment on column graphile_worker.backfill_history.ended_at is
  'When the outcome was recorded.';
comment on column graphile_worker.backfill_history.duration is
  'How long the handler took, as its worker measured. Null: not known.';
comment on column graphile_worker.backfill_history.log is
  'What the handler has logged: the first and the last lines, if there is too much.';

alter table graphile_worker.backfill_history enable row level security;
alter table graphile_worker.backfill_history_rest enable row level security;

-- Makes partitions for this week and the two that follow, and drops those of which nothing is to be kept. A
-- worker's role owns no tables, so it runs as their owner. It waits 50 ms for a lock at most, and goes on with the
-- next partition then: late is how many are left to be made or dropped. walk says that there may be rows that are too
-- old beside others that are to be kept.
create or replace function graphile_worker.backfill_history_upkeep(
  out made integer, out dropped integer, out late integer, out walk boolean
)
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '50ms'
as $fn$
declare
  v_history constant oid := (select t.typrelid from pg_type as t where t.oid = pg_typeof(null::graphile_worker.backfill_history));
  v_schema constant oid := (select c.relnamespace from pg_class as c where c.oid = v_history);
  v_schema_name constant text := (select n.nspname from pg_namespace as n where n.oid = v_schema);
  v_keep interval;
  v_week timestamp;
  v_name text;
begin
  made := 0;
  dropped := 0;
  late := 0;
  walk := (select count(distinct t.retention) > 1 from graphile_worker.backfill_history_tasks as t)
    or exists (select from graphile_worker.backfill_history_rest);
  if not pg_try_advisory_xact_lock(hashtextextended('backfill history ' || v_schema_name, 0)) then
    return; -- another worker does it
  end if;

  for v_weeks in 0..2 loop
    v_week := date_trunc('week', now() at time zone 'UTC') + v_weeks * interval '7 days';
    v_name := 'backfill_history_' || to_char(v_week, 'YYYYMMDD');
    continue when exists (select from pg_class as c where c.relnamespace = v_schema and c.relname = v_name);
    continue when exists (
      select from graphile_worker.backfill_history_rest as r
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

  select coalesce(max(t.retention), interval '0') into v_keep from graphile_worker.backfill_history_tasks as t;
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

revoke execute on function graphile_worker.backfill_history_upkeep() from public;

insert into graphile_worker.backfill_migrations (id, name)
values (14, 'history')
on conflict (id) do nothing;
