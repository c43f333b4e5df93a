-- Requests to end jobs that were running. Whoever ends the lease of such a job deletes it. Go workers
-- read it; Node workers do not know it, so the jobs that they have get no request.

create table if not exists graphile_worker.backfill_cancels (
  job_id bigint constraint backfill_cancels_pkey primary key,
  requested_at timestamp with time zone not null default clock_timestamp(),
  requested_by text not null default '',
  reason text not null default ''
);

comment on table graphile_worker.backfill_cancels is
  'Running jobs that are to end and not to run again, with who asked for it and why. Client.Cancel writes it.';

alter table graphile_worker.backfill_cancels enable row level security;

insert into graphile_worker.backfill_migrations (id, name)
values (12, 'cancels')
on conflict (id) do nothing;
