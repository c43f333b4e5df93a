-- Trace contexts (W3C) of jobs, where programs trace. Nothing of them is in payloads. Whoever ends the
-- job drops its row, or a worker's upkeep does. Node programs can read and write it as well.

create table if not exists graphile_worker.backfill_traces (
  job_id bigint constraint backfill_traces_pkey primary key,
  traceparent text not null default '',
  tracestate text not null default '',
  run text not null default ''
);

comment on table graphile_worker.backfill_traces is
  'Trace contexts of jobs: of the span that has enqueued the job, and of its last run. A run is a trace of its own that links to both.';
comment on column graphile_worker.backfill_traces.traceparent is
  'The traceparent of the span that has enqueued the job. Empty: it was not traced.';
comment on column graphile_worker.backfill_traces.run is
  'The traceparent of the last run that has not ended the job. Empty: there was none, or it was not traced.';

alter table graphile_worker.backfill_traces enable row level security;

insert into graphile_worker.backfill_migrations (id, name)
values (15, 'traces')
on conflict (id) do nothing;
