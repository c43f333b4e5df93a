-- What an operator has to know before a worker is unlocked by hand.

-- name: WorkerState :one
-- Workers of older versions do not beat: nobody can tell whether they live.
select w.host, w.pid, (w.dead_at is not null)::boolean as dead, (w.beats is not null)::boolean as beats,
       greatest(extract(epoch from now() - w.heartbeat_at), 0)::float8 as silent_seconds
  from graphile_worker.backfill_workers as w where w.id = @id::text;

-- name: WorkerLocks :one
-- How many jobs and queues are locked by an id, or, if it is a worker's of ours, by its tokens.
select (select count(*) from graphile_worker._private_jobs as j
         where j.locked_by = @id::text or @ours::boolean and starts_with(j.locked_by, @id::text || '.'))::int as jobs,
       (select count(*) from graphile_worker._private_job_queues as s
         where s.locked_by = @id::text or @ours::boolean and starts_with(s.locked_by, @id::text || '.'))::int as queues;
