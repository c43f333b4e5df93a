-- What the columns of backfill_workers mean to somebody who looks at the table. Comments block
-- neither readers nor writers.

comment on table graphile_worker.backfill_workers is
  'One row for each worker process.';

comment on column graphile_worker.backfill_workers.heartbeat_at is
  'Not in use yet: set when the worker starts, and never updated. It does not say whether the worker is alive.';

comment on column graphile_worker.backfill_workers.dead_at is
  'When the worker stopped and gave its jobs back. It stays null if the process was killed.';

insert into graphile_worker.backfill_migrations (id, name)
values (4, 'comments')
on conflict (id) do nothing;
