-- Our own tables beside Graphile Worker's, in the same schema, all named backfill_*. Peers know
-- nothing of them; they have a ledger of their own, because the peers read "migrations".

create table graphile_worker.backfill_migrations (
  id integer constraint backfill_migrations_pkey primary key,
  name text not null,
  applied_at timestamp with time zone not null default now()
);

insert into graphile_worker.backfill_migrations (id, name)
values (1, 'workers');

-- One row per worker process. Heartbeats update it every few seconds: half of each page is kept
-- free and no column but the key is indexed, so that they stay on the page (HOT).
create table graphile_worker.backfill_workers (
  id text constraint backfill_workers_pkey primary key,
  host text not null default '',
  pid integer not null default 0,
  started_at timestamp with time zone not null default clock_timestamp(),
  heartbeat_at timestamp with time zone not null default clock_timestamp(),
  dead_at timestamp with time zone
) with (fillfactor = 50);

alter table graphile_worker.backfill_workers enable row level security;

-- Jobs come and go by the thousand per second: vacuum after 1 % instead of 20 %, and never take
-- the exclusive lock that giving back the end of the table needs.
alter table graphile_worker._private_jobs
  set (autovacuum_vacuum_scale_factor = 0.01, vacuum_truncate = off);

-- Queue rows are locked and unlocked for every job of a queue.
alter table graphile_worker._private_job_queues set (fillfactor = 50);
