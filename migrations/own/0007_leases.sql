-- What a worker's row says, for whoever watches it: that it lives, where it runs, what it does.
-- Workers of older versions have rows without beats: nobody can tell whether they live.

alter table graphile_worker.backfill_workers
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

comment on column graphile_worker.backfill_workers.beats is
  'Counts the heartbeats. Null: a worker of an older version, which does not beat.';
comment on column graphile_worker.backfill_workers.heartbeat_at is
  'The last heartbeat, for people. Whether a worker is dead is judged by its beats, never by this time.';
comment on column graphile_worker.backfill_workers.locked is
  'The session of this worker''s heartbeats has taken an advisory lock, whose keys are hashes of schema and id; it may have lost it since.';
comment on column graphile_worker.backfill_workers.dead_at is
  'When this worker stopped, or was declared dead. It claims nothing any more.';
comment on column graphile_worker.backfill_workers.rescued_at is
  'When nothing was locked by this dead worker any more.';
comment on column graphile_worker.backfill_workers.stopping_at is
  'When this worker was told to stop, or found itself declared dead: what ends after that was no crash.';
comment on column graphile_worker.backfill_workers.machine is
  'Where process ids and start times mean the same: boot id, pid namespace and time namespace. Empty: not known.';
comment on column graphile_worker.backfill_workers.process_start is
  'The start time of the process, as its system counts it; with machine and pid it names a process.';
comment on column graphile_worker.backfill_workers.running is
  'The ids of the jobs that run, at the last heartbeat; at most 1,000, the oldest first.';

insert into graphile_worker.backfill_migrations (id, name)
values (7, 'leases')
on conflict (id) do nothing;
