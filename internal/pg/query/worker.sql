-- A worker's row, its tasks, and its notifications.

-- name: InsertWorker :exec
insert into graphile_worker.backfill_workers (id, host, pid) values (@id, @host, @pid);

-- name: RetireWorker :exec
-- The lock waits for a claim in flight, which holds the row for key share: it commits before this, or finds the worker dead (R4).
with worker as materialized (
  select w.id from graphile_worker.backfill_workers as w where w.id = @id and w.dead_at is null for update
)
update graphile_worker.backfill_workers as w set dead_at = clock_timestamp() from worker where w.id = worker.id;

-- name: DeleteOldWorkers :exec
-- A tombstone stays for a day: a claim that was in flight when the worker died must still find it (R4).
delete from graphile_worker.backfill_workers where dead_at < now() - interval '24 hours';

-- name: AddTasks :exec
-- Only missing names: an insert that conflicts would burn an identity value each time.
insert into graphile_worker._private_tasks (identifier)
select n.name from unnest(@names::text[]) as n(name)
 where not exists (select from graphile_worker._private_tasks as t where t.identifier = n.name)
 order by n.name
on conflict do nothing;

-- name: TaskIDs :many
select id, identifier from graphile_worker._private_tasks where identifier = any(@names::text[]);

-- name: Notify :exec
select pg_notify(@channel::text, @payload::text);

-- name: UnlockJobs :execrows
-- Releases what a worker has locked: by its tokens, with the attempt refunded as in ReleaseJobs; or, if it is a Node worker, by
-- its pool id, as force_unlock_workers does; the id of a Node worker can have any text behind a dot. In batches, with a new snapshot
-- each, until none is left (R4).
with held as materialized (
  select j.id from graphile_worker._private_jobs as j
   where starts_with(j.locked_by, @worker_id::text || '.') or j.locked_by = @worker_id::text
   order by j.id limit 1000 for update skip locked
)
update graphile_worker._private_jobs as j
   set attempts = case when j.locked_by = @worker_id::text or j.locked_by !~ '\.[0-9a-f]+\.[0-9]{1,9}k?$' then j.attempts
                       when j.attempts = substring(j.locked_by from '([0-9]+)k?$')::int
                        and not (j.locked_by like '%k' and j.key is null)
                       then greatest(0, j.attempts - 1) else j.attempts end,
       locked_at = null, locked_by = null
 where j.id = any(array(select id from held));

-- name: UnlockQueues :execrows
-- The queues, after the jobs: not one of which a job is left, because somebody else had its row at that moment.
with held as materialized (
  select s.id from graphile_worker._private_job_queues as s
   where (starts_with(s.locked_by, @worker_id::text || '.') or s.locked_by = @worker_id::text)
     and not exists (select from graphile_worker._private_jobs as j where j.job_queue_id = s.id
                        and (j.locked_by = s.locked_by or starts_with(j.locked_by, s.locked_by || '.')))
   order by s.id limit 1000 for update skip locked
)
update graphile_worker._private_job_queues as s set locked_at = null, locked_by = null
 where s.id = any(array(select id from held));
