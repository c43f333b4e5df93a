-- Which worker sweeps for all. Without a default the rows stay as they are, so the table is locked
-- for an instant.

alter table graphile_worker.backfill_workers
  add column if not exists swept_at timestamp with time zone;

comment on column graphile_worker.backfill_workers.swept_at is
  'When this worker last began to sweep for all. Null if it never has.';

insert into graphile_worker.backfill_migrations (id, name)
values (6, 'sweeps')
on conflict (id) do nothing;
