-- For a role that may only enqueue: migrations/own/0003_enqueue.sql and 0005_enqueue.sql have the function.

-- name: EnqueueJobs :many
-- The columns of UpsertJobs, but payloads stay where they are, and two of its own.
select r.key, r.id, r.task, r.queue, null::json as payload, r.run_at, r.created_at, r.attempts, r.max_attempts, r.priority,
       r.revision, r.flags, r.ordinal, r.as_sent
  from graphile_worker.backfill_enqueue(@tasks::text[], @queues::text[], @payloads::text[], @run_ats::timestamptz[],
         @delays_us::bigint[], @max_attempts::smallint[], @priorities::smallint[], @flags::text[], @keys::text[],
         @key_modes::text[])
    as r(ordinal, as_sent, key, id, task, queue, run_at, created_at, attempts, max_attempts, priority, revision, flags);

-- name: EnqueueRights :one
-- What the role that asks may do, and whether its session can take another role (SET ROLE).
select current_user::text as role,
       coalesce((
         select s.rolsuper or exists (select from pg_catalog.pg_auth_members as m where m.member = s.oid)
           from pg_catalog.pg_roles as s
          where s.rolname = session_user
       ), true)::boolean as changes,
       coalesce(has_schema_privilege(n.oid, 'usage') and (
         select count(*) = 3
                and bool_and(has_table_privilege(c.oid, 'select') and has_table_privilege(c.oid, 'insert')
                             and (c.relname <> '_private_jobs' or has_table_privilege(c.oid, 'update')))
           from pg_catalog.pg_class as c
          where c.relnamespace = n.oid and c.relname in ('_private_jobs', '_private_job_queues', '_private_tasks')
       ), false)::boolean as writes,
       coalesce(has_schema_privilege(n.oid, 'usage') and (
         select bool_or(has_function_privilege(f.oid, 'execute'))
           from pg_catalog.pg_proc as f
          where f.pronamespace = n.oid and f.proname = 'backfill_enqueue'
       ), false)::boolean as calls
  from (values (1)) as one
  left join pg_catalog.pg_namespace as n on n.nspname = @schema::text;
