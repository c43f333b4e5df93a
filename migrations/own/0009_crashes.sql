-- What crashes say about the jobs that the workers held. docs/design.md has the rule.

create table if not exists graphile_worker.backfill_crashes (
  job_id bigint not null,
  worker_id text not null,
  token text not null,
  began timestamp with time zone not null,
  tried boolean not null default false,
  judged_at timestamp with time zone,
  age interval,
  alone boolean not null default false,
  passed boolean not null default false,
  convicted text not null default '',
  key text,
  constraint backfill_crashes_pkey primary key (job_id, worker_id)
);

create index if not exists backfill_crashes_judged
  on graphile_worker.backfill_crashes (worker_id) where judged_at is not null;

comment on table graphile_worker.backfill_crashes is
  'Leases of which more has to be known than the job''s row says: those of workers that died, of trials, and of jobs that have run for half an hour.';
comment on column graphile_worker.backfill_crashes.worker_id is
  'Who held the job. It is also the cohort of a suspect that this worker left.';
comment on column graphile_worker.backfill_crashes.token is
  'The lease. Of a later one of this worker and job the row says nothing.';
comment on column graphile_worker.backfill_crashes.began is
  'When the lease began: renewals move locked_at.';
comment on column graphile_worker.backfill_crashes.tried is
  'The worker held nothing else than the jobs of a trial.';
comment on column graphile_worker.backfill_crashes.judged_at is
  'When somebody decided what becomes of the job. Null: the lease is alive, as far as is known.';
comment on column graphile_worker.backfill_crashes.age is
  'How long the job had been held at the last heartbeat. Null: this lease ended without a crash.';
comment on column graphile_worker.backfill_crashes.alone is
  'The worker held nothing but this job, for a trial, and no other worker died around that time.';
comment on column graphile_worker.backfill_crashes.passed is
  'A trial of this cohort has left the job out.';
comment on column graphile_worker.backfill_crashes.convicted is
  'The job''s task, if it failed for good then: three of a task in an hour pause it.';
comment on column graphile_worker.backfill_crashes.key is
  'The job''s key: a job that replaces it inherits what is known.';

alter table graphile_worker.backfill_crashes enable row level security;

alter table graphile_worker.backfill_workers
  add column if not exists held integer,
  add column if not exists emptying_at timestamp with time zone,
  add column if not exists trial_at timestamp with time zone,
  add column if not exists trial_cohort text;

comment on column graphile_worker.backfill_workers.held is
  'How many jobs this worker held when it was found dead.';
comment on column graphile_worker.backfill_workers.emptying_at is
  'Since when this worker claims nothing, to try suspects and hold nothing else. Null: it claims.';
comment on column graphile_worker.backfill_workers.trial_at is
  'Since when this worker tries suspects. Null: it does not.';
comment on column graphile_worker.backfill_workers.trial_cohort is
  'Whose suspects it tries: the worker that left them, without "pool-".';

insert into graphile_worker.backfill_migrations (id, name)
values (9, 'crashes')
on conflict (id) do nothing;
