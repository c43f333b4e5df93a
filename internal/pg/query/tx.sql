-- The ends of transactional jobs. Those of the first four statements run in the handler's
-- transaction, in a session of the application's: they depend on none of its settings, and name
-- functions and operators with pg_catalog, because its search_path may have another schema in front.

-- name: NoteTx :exec
-- Follows BEGIN. Notes what has to be known at the end: whose transaction it is, and the role that it began
-- with. Both are forgotten when somebody ends it. Returns what EndLostSession needs.
select pg_catalog.set_config('idle_in_transaction_session_timeout', @idle::pg_catalog.text, true),
       pg_catalog.set_config('backfill.job', @job::pg_catalog.text, true),
       pg_catalog.set_config('backfill.role', pg_catalog.current_setting('role'), true),
       pg_catalog.pg_backend_pid()::pg_catalog.int4 as pid,
       (extract(epoch from pg_catalog.transaction_timestamp()) OPERATOR(pg_catalog.*) 1000000)::pg_catalog.int8 as began;

-- name: NotedTx :one
-- The job whose transaction this is; empty once somebody has ended that.
select coalesce(pg_catalog.current_setting('backfill.job', true), '')::pg_catalog.text as job;

-- name: PrepareGuard :exec
-- Takes the role back that the transaction began with, which may complete jobs. Without sequential scans
-- the guard reads a row and not the table: a serializable transaction is refused for what it has read.
select pg_catalog.set_config('role', coalesce(nullif(pg_catalog.current_setting('backfill.role', true), ''),
                                              pg_catalog.current_setting('role')), true),
       pg_catalog.set_config('row_security', 'on', true),
       pg_catalog.set_config('enable_seqscan', 'off', true);

-- name: ClearLettersInTx :exec
-- Goes before the guard of a job with a key: what dead letters of the same task and key asked for is done.
-- At most 1,000, as in CompleteKeyedJobs. Where somebody has ended the transaction, it would be committed on
-- its own, so it does nothing.
with letter as materialized (
  select l.id from graphile_worker._private_jobs as j
    join graphile_worker._private_tasks as t on t.id OPERATOR(pg_catalog.=) j.task_id cross join lateral (
    select d.id from graphile_worker.backfill_dlq as d
     where d.job_key OPERATOR(pg_catalog.=) j.key and d.task_identifier OPERATOR(pg_catalog.=) t.identifier
     limit 1000 for update skip locked) as l
   where j.id OPERATOR(pg_catalog.=) @id::pg_catalog.int8 and j.locked_by OPERATOR(pg_catalog.=) @token::pg_catalog.text
     and pg_catalog.current_setting('backfill.job', true) OPERATOR(pg_catalog.=) @token::pg_catalog.text
)
delete from graphile_worker.backfill_dlq as d using letter where d.id OPERATOR(pg_catalog.=) letter.id;

-- name: CompleteInTx :one
-- The guard (R1, R16, R22): completes a job as CompleteJobs does, as the last statement before COMMIT. It
-- never waits for a row lock. known is false if the transaction is not the one that was begun for the job.
-- locked is true if the job is still ours, and somebody has its row or that of its queue locked.
with held as materialized (
  select j.id, j.job_queue_id
    from graphile_worker._private_jobs as j
   where j.id OPERATOR(pg_catalog.=) @id::pg_catalog.int8 and j.locked_by OPERATOR(pg_catalog.=) @token::pg_catalog.text
     and pg_catalog.current_setting('backfill.job', true) OPERATOR(pg_catalog.=) @token::pg_catalog.text
     for update of j skip locked
), queue as materialized (
  select s.id from graphile_worker._private_job_queues as s
   where s.id OPERATOR(pg_catalog.=) (select job_queue_id from held) for update of s skip locked
), ended as (
  delete from graphile_worker._private_jobs as j using held
   where j.id OPERATOR(pg_catalog.=) held.id
     and (held.job_queue_id is null or exists (select from queue)
          or not exists (select from graphile_worker._private_job_queues as s where s.id OPERATOR(pg_catalog.=) held.job_queue_id))
  returning j.job_queue_id, j.locked_by
), freed as (
  update graphile_worker._private_job_queues as s set locked_at = null, locked_by = null
    from ended
   where s.id OPERATOR(pg_catalog.=) ended.job_queue_id
     and pg_catalog.starts_with(ended.locked_by, s.locked_by OPERATOR(pg_catalog.||) '.')
)
select exists (select from ended)::pg_catalog.bool as ended,
       exists (select from graphile_worker._private_jobs as j
                where j.id OPERATOR(pg_catalog.=) @id and j.locked_by OPERATOR(pg_catalog.=) @token)::pg_catalog.bool as locked,
       coalesce(pg_catalog.current_setting('backfill.job', true) OPERATOR(pg_catalog.=) @token, false)::pg_catalog.bool as known,
       pg_catalog.pg_backend_pid()::pg_catalog.int4 as pid,
       (extract(epoch from pg_catalog.transaction_timestamp()) OPERATOR(pg_catalog.*) 1000000)::pg_catalog.int8 as began,
       pg_catalog.txid_current()::pg_catalog.int8 as xid;

-- name: RequestedInTx :one
-- Goes behind the guard, which has the job's row locked, and tells whether the end of the job was requested. At
-- READ COMMITTED its snapshot is younger than that lock; above, LookAtLeases has updated the row, and the guard
-- has failed.
select exists (select from graphile_worker.backfill_cancels as c
                where c.job_id OPERATOR(pg_catalog.=) @id::pg_catalog.int8)::pg_catalog.bool as requested;

-- name: Standing :one
-- Whether a lease is held, and whether the end of its job was requested.
select exists (select from graphile_worker._private_jobs as j where j.id = @id::bigint and j.locked_by = @token::text)::boolean as held,
       exists (select from graphile_worker.backfill_cancels as c where c.job_id = @id)::boolean as requested;

-- name: LeaseState :one
-- Says whether a job is there, whether a lease of it is held, and whether its row is free. While a
-- transaction that has deleted the row is not over, the lease is held, and its row is not free. aborted says
-- that the transaction was rolled back, as far as this server knows of it.
with free as materialized (
  select j.id from graphile_worker._private_jobs as j where j.id = @id and j.locked_by = @token for update of j skip locked
)
select exists (select from graphile_worker._private_jobs as j where j.id = @id)::boolean as there,
       exists (select from graphile_worker._private_jobs as j where j.id = @id and j.locked_by = @token)::boolean as held,
       exists (select from free)::boolean as free,
       coalesce(case when @xid::bigint < txid_snapshot_xmax(txid_current_snapshot())
                     then txid_status(@xid::bigint) = 'aborted' end, false)::boolean as aborted;

-- name: EndLostSession :exec
-- Ends the session of a transaction whose connection was lost before its COMMIT arrived: it would keep
-- its locks until the server notices. One that runs a statement is left alone, unless busy is true.
select pg_terminate_backend(a.pid) from pg_catalog.pg_stat_activity as a
 where a.pid = @pid and (a.state = 'idle in transaction' or @busy::boolean) and a.datname = current_database()
   and (extract(epoch from a.xact_start) * 1000000)::bigint = @began::bigint;

-- name: NextInQueue :one
-- The task of the job that is first in line in a queue, if one is due; else 0.
select coalesce((
  select j.task_id from graphile_worker._private_jobs as j
   where j.job_queue_id = @queue_id::int and j.is_available and j.run_at <= now()
   order by j.job_queue_id, j.priority, j.run_at, j.id limit 1), 0)::int as task_id;
