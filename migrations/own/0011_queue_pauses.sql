-- Queues of which nobody is to start jobs, for now. Go workers read it; Node workers do not know it.

create table if not exists graphile_worker.backfill_queue_pauses (
  queue_name text constraint backfill_queue_pauses_pkey primary key,
  paused_at timestamp with time zone not null default clock_timestamp(),
  paused_by text not null default '',
  reason text not null default '',
  ends_at timestamp with time zone
);

comment on table graphile_worker.backfill_queue_pauses is
  'Queues whose jobs wait, with who paused them and why. Client.PauseQueue and Client.ResumeQueue change it.';
comment on column graphile_worker.backfill_queue_pauses.ends_at is
  'When the pause ends by itself. Null: when somebody ends it.';

alter table graphile_worker.backfill_queue_pauses enable row level security;

insert into graphile_worker.backfill_migrations (id, name)
values (11, 'queue_pauses')
on conflict (id) do nothing;
