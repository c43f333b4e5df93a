-- no-transaction
--
-- The head of each queue, exactly and in bounded time. Workers run without it, only slower, so it
-- is built while they work; the runner takes the word "concurrently" out where the table is still
-- empty. An interrupted build leaves an invalid index of this name: drop it and run this again.

create index concurrently if not exists backfill_jobs_queue_idx
  on graphile_worker._private_jobs (job_queue_id, priority, run_at, id)
  include (task_id)
  where is_available and job_queue_id is not null;

insert into graphile_worker.backfill_migrations (id, name)
values (2, 'queue_index')
on conflict (id) do nothing;
