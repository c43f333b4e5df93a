-- For a role that may only enqueue: migrations/own/0003_enqueue.sql says what the function does.

-- name: EnqueueJobs :many
-- The columns of UpsertJobs, but payloads stay where they are, and two of its own.
select r.key, r.id, r.task, r.queue, null::json as payload, r.run_at, r.created_at, r.attempts, r.max_attempts, r.priority,
       r.revision, r.flags, r.ordinal, r.as_sent
  from graphile_worker.backfill_enqueue(@tasks::text[], @queues::text[], @payloads::text[], @run_ats::timestamptz[],
         @delays_us::bigint[], @max_attempts::smallint[], @priorities::smallint[], @flags::text[], @keys::text[],
         @key_modes::text[])
    as r(ordinal, as_sent, key, id, task, queue, run_at, created_at, attempts, max_attempts, priority, revision, flags);
