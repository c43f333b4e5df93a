-- Tasks that nobody is to start jobs of, for now. Go workers read it; Node workers do not know it.

create table if not exists graphile_worker.backfill_pauses (
  task text constraint backfill_pauses_pkey primary key,
  paused_at timestamp with time zone not null default clock_timestamp(),
  paused_by text not null default '',
  reason text not null default '',
  ends_at timestamp with time zone
);

comment on table graphile_worker.backfill_pauses is
  'Tasks whose jobs wait, with who paused them and why. Client.Pause and Client.Resume change it.';
comment on column graphile_worker.backfill_pauses.ends_at is
  'When the pause ends by itself. Null: when somebody ends it.';

alter table graphile_worker.backfill_pauses enable row level security;

insert into graphile_worker.backfill_migrations (id, name)
values (8, 'pauses')
on conflict (id) do nothing;
