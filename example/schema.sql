-- The example's own tables, beside those of the jobs. Every process runs this when it starts; a
-- lock in database.go lets one run it at a time.

create table if not exists backfill_example.subscribers (
  id bigint generated always as identity primary key,
  name text not null,
  email text not null unique,
  member text, -- the number that the partner gave
  created_at timestamptz not null default now()
);

-- What arrived at the mail server of this program.
create table if not exists backfill_example.outbox (
  id bigint generated always as identity primary key,
  arrived_at timestamptz not null default now(),
  message_id text not null, -- not unique: mail may arrive twice
  recipient text not null,
  subject text not null,
  body text not null
);

-- What the partner remembers: how often it was called for a subscriber.
create table if not exists backfill_example.partner_calls (
  subscriber_id bigint primary key,
  calls int not null
);

-- Jobs that are done, for the page: the queue deletes them.
create table if not exists backfill_example.done_jobs (
  id bigint primary key,
  task text not null,
  queue text not null, -- '': none
  attempts int not null,
  took bigint not null, -- the last attempt, in nanoseconds
  done_at timestamptz not null default clock_timestamp()
);
create index if not exists done_jobs_done_at_idx on backfill_example.done_jobs (done_at);
