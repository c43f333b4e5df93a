-- What a worker schedules, for whoever asks when an entry is due. The schedule stands in code: without
-- this, no other process knows it.

alter table graphile_worker.backfill_workers
  add column if not exists crontab json not null default '[]';

comment on column graphile_worker.backfill_workers.crontab is
  'The cron entries of this worker: an array of objects with id, schedule, tz, fill_s, task, and what the job gets.';

insert into graphile_worker.backfill_migrations (id, name)
values (16, 'crontabs')
on conflict (id) do nothing;
