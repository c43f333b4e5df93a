-- Trace contexts of jobs. Without one, none of these is sent but DropTraces, which then finds an empty table.
-- Those of enqueues run in sessions of the application's: see enqueue.sql.

-- name: InsertTracedJobs :many
-- InsertQueuedJobs, with the trace contexts of the jobs. Ids are given out in the order of the arrays.
with given as materialized (
  select u.ord, u.task, u.queue, u.payload, u.run_at, u.delay_us, u.max_attempts, u.priority, u.flags
    from rows from (pg_catalog.unnest($1::pg_catalog.text[]), pg_catalog.unnest($2::pg_catalog.text[]),
                    pg_catalog.unnest($3::pg_catalog.text[]), pg_catalog.unnest($4::pg_catalog.timestamptz[]),
                    pg_catalog.unnest($5::bigint[]), pg_catalog.unnest($6::smallint[]), pg_catalog.unnest($7::smallint[]),
                    pg_catalog.unnest($8::pg_catalog.text[]))
         with ordinality as u(task, queue, payload, run_at, delay_us, max_attempts, priority, flags, ord)
), added as (
  insert into graphile_worker._private_job_queues (queue_name)
  select distinct given.queue from given
   where given.queue OPERATOR(pg_catalog.<>) ''
     and not exists (select from graphile_worker._private_job_queues as s where s.queue_name OPERATOR(pg_catalog.=) given.queue)
   order by given.queue
  on conflict (queue_name) do nothing
  returning id, queue_name
), named as materialized (
  select s.id, s.queue_name from graphile_worker._private_job_queues as s
   where s.queue_name OPERATOR(pg_catalog.=) any($2::pg_catalog.text[])
  union all
  select added.id, added.queue_name from added
), spec as materialized (
  select given.ord, t.id as task_id, named.id as queue_id, given.payload, given.run_at, given.delay_us, given.max_attempts,
         given.priority, given.flags
    from given
    join graphile_worker._private_tasks as t on t.identifier OPERATOR(pg_catalog.=) given.task
    left join named on named.queue_name OPERATOR(pg_catalog.=) given.queue and given.queue OPERATOR(pg_catalog.<>) ''
   where given.queue OPERATOR(pg_catalog.=) '' or named.id is not null
), inserted as (
  insert into graphile_worker._private_jobs (job_queue_id, task_id, payload, run_at, max_attempts, priority, flags)
  select queue_id, task_id, payload::pg_catalog.json,
         case when run_at OPERATOR(pg_catalog.=) '-infinity' then pg_catalog.now() else run_at end
           OPERATOR(pg_catalog.+) (delay_us OPERATOR(pg_catalog.*) interval '1 microsecond'),
         max_attempts,
         priority, case when flags OPERATOR(pg_catalog.<>) '' then flags::pg_catalog.jsonb end
    from spec
   where (select pg_catalog.count(*) from spec) OPERATOR(pg_catalog.=) pg_catalog.cardinality($1::pg_catalog.text[])
   order by ord
  returning id, run_at, created_at
), traced as (
  insert into graphile_worker.backfill_traces (job_id, traceparent, tracestate)
  select i.id, c.traceparent, c.tracestate
    from (select inserted.id, pg_catalog.row_number() over (order by inserted.id) as ord from inserted) as i
    join rows from (pg_catalog.unnest($10::pg_catalog.text[]), pg_catalog.unnest($11::pg_catalog.text[]))
         with ordinality as c(traceparent, tracestate, ord) on c.ord OPERATOR(pg_catalog.=) i.ord
   where c.traceparent OPERATOR(pg_catalog.<>) ''
  on conflict (job_id) do nothing
)
select i.id, pg_catalog.encode(pg_catalog.timestamptz_send(i.run_at), 'hex') as run_at,
       pg_catalog.encode(pg_catalog.timestamptz_send(i.created_at), 'hex') as created_at
  from inserted as i
 where (select case
                 when pg_catalog.count(*) OPERATOR(pg_catalog.=) pg_catalog.cardinality($1::pg_catalog.text[]) then true
                 when (select pg_catalog.count(*) from spec) OPERATOR(pg_catalog.=) pg_catalog.cardinality($1::pg_catalog.text[])
                   then pg_catalog.concat('backfill: dropped ',
                          pg_catalog.cardinality($1::pg_catalog.text[]) OPERATOR(pg_catalog.-) pg_catalog.count(*))::boolean
                 when $9::boolean then pg_catalog.concat('backfill: names ', pg_catalog.count(*))::boolean
                 else true
               end
          from inserted);

-- name: TraceKeys :exec
-- Behind UpsertJobs and DedupeJobs, in their transaction. A job that a worker has keeps its context, and so does one
-- that DedupeJobs has found: its revision is no longer 0.
insert into graphile_worker.backfill_traces (job_id, traceparent, tracestate)
select j.id, c.traceparent, c.tracestate
  from rows from (pg_catalog.unnest(@keys::pg_catalog.text[]), pg_catalog.unnest(@traceparents::pg_catalog.text[]),
                  pg_catalog.unnest(@tracestates::pg_catalog.text[])) as c(key, traceparent, tracestate)
  join graphile_worker._private_jobs as j on j.key OPERATOR(pg_catalog.=) c.key
 where c.traceparent OPERATOR(pg_catalog.<>) '' and j.locked_at is null
   and (j.revision OPERATOR(pg_catalog.=) 0 or not @only_new::boolean)
 order by j.id
on conflict (job_id) do update set traceparent = excluded.traceparent, tracestate = excluded.tracestate, run = '';

-- name: ReadTraces :many
-- The contexts of claimed jobs.
select t.job_id, t.traceparent, t.tracestate, t.run from graphile_worker.backfill_traces as t
 where t.job_id = any(@ids::bigint[]);

-- name: NoteRuns :exec
-- Before the end of runs that do not end their jobs: the next run links to this one. It does not wait for rows.
with old as materialized (
  select t.job_id from graphile_worker.backfill_traces as t where t.job_id = any(@ids::bigint[]) order by t.job_id for update skip locked
), run as (
  select distinct on (u.id) u.id, u.run from rows from (unnest(@ids::bigint[]), unnest(@runs::text[])) as u(id, run) where u.run <> ''
), changed as (
  update graphile_worker.backfill_traces as t set run = r.run from run as r join old on old.job_id = r.id where t.job_id = r.id
)
insert into graphile_worker.backfill_traces (job_id, run)
select r.id, r.run from run as r
 where not exists (select from graphile_worker.backfill_traces as t where t.job_id = r.id)
   and exists (select from graphile_worker._private_jobs as j where j.id = r.id)
on conflict (job_id) do nothing;

-- name: EndTraces :exec
-- Of jobs that have ended.
with gone as materialized (
  select t.job_id from graphile_worker.backfill_traces as t where t.job_id = any(@ids::bigint[])
     and not exists (select from graphile_worker._private_jobs as j where j.id = t.job_id)
   order by t.job_id for update skip locked
)
delete from graphile_worker.backfill_traces as t using gone where t.job_id = gone.job_id;

-- name: DropTraces :one
-- One page of those of jobs that are gone, whoever has ended them, and are no dead letters.
with page as materialized (
  select t.job_id from graphile_worker.backfill_traces as t where t.job_id > @after::bigint order by t.job_id limit @size::int
), gone as materialized (
  select t.job_id from graphile_worker.backfill_traces as t
   where t.job_id in (select page.job_id from page)
     and not exists (select from graphile_worker._private_jobs as j where j.id = t.job_id)
     and not exists (select from graphile_worker.backfill_dlq as d where d.original_job_id = t.job_id)
   order by t.job_id for update skip locked
), dropped as (
  delete from graphile_worker.backfill_traces as t using gone where t.job_id = gone.job_id
)
select count(*)::int as seen, coalesce(max(page.job_id), 0)::bigint as last from page;
