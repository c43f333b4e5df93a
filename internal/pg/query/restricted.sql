-- For a role that may only enqueue: migrations/own/0003_enqueue.sql and 0005_enqueue.sql have the
-- function.

-- name: EnqueueJobs :many
-- The columns of UpsertJobs, but payloads stay where they are, and two of its own.
select r.key, r.id, r.task, r.queue, null::pg_catalog.json as payload,
       pg_catalog.encode(pg_catalog.timestamptz_send(r.run_at), 'hex') as run_at,
       pg_catalog.encode(pg_catalog.timestamptz_send(r.created_at), 'hex') as created_at,
       r.attempts, r.max_attempts, r.priority, r.revision, r.flags, r.ordinal, r.as_sent
  from graphile_worker.backfill_enqueue(
         @tasks::pg_catalog.text[], @queues::pg_catalog.text[], @payloads::pg_catalog.text[],
         array(select case when n.run_at OPERATOR(pg_catalog.=) '-infinity' then null else n.run_at end
                 from pg_catalog.unnest(@run_ats::pg_catalog.timestamptz[]) with ordinality as n(run_at, ord) order by n.ord),
         @delays_us::bigint[], @max_attempts::smallint[], @priorities::smallint[], @flags::pg_catalog.text[],
         @keys::pg_catalog.text[], @key_modes::pg_catalog.text[])
    as r(ordinal, as_sent, key, id, task, queue, run_at, created_at, attempts, max_attempts, priority, revision, flags);

-- name: EnqueueRights :one
-- What the role that asks may do, whether its session can take another role (SET ROLE), and in
-- which encoding the session's texts are read.
select current_user::pg_catalog.text as role,
       coalesce((
         select s.rolsuper
                or exists (select from pg_catalog.pg_auth_members as m where m.member OPERATOR(pg_catalog.=) s.oid)
           from pg_catalog.pg_roles as s
          where s.rolname OPERATOR(pg_catalog.=) session_user
       ), true)::boolean as changes,
       coalesce(pg_catalog.has_schema_privilege(n.oid, 'usage') and (
         select pg_catalog.count(*) OPERATOR(pg_catalog.=) 3
                and pg_catalog.bool_and(
                      pg_catalog.has_table_privilege(c.oid, 'select') and pg_catalog.has_table_privilege(c.oid, 'insert')
                      and (c.relname OPERATOR(pg_catalog.<>) '_private_jobs' or pg_catalog.has_table_privilege(c.oid, 'update')))
           from pg_catalog.pg_class as c
          where c.relnamespace OPERATOR(pg_catalog.=) n.oid
            and c.relname OPERATOR(pg_catalog.=) any(array['_private_jobs', '_private_job_queues', '_private_tasks'])
       ), false)::boolean as writes,
       coalesce(pg_catalog.has_schema_privilege(n.oid, 'usage') and (
         select pg_catalog.bool_or(pg_catalog.has_function_privilege(f.oid, 'execute'))
           from pg_catalog.pg_proc as f
          where f.pronamespace OPERATOR(pg_catalog.=) n.oid and f.proname OPERATOR(pg_catalog.=) 'backfill_enqueue'
       ), false)::boolean as calls,
       pg_catalog.current_setting('client_encoding')::pg_catalog.text as encoding
  from (values (1)) as one
  left join pg_catalog.pg_namespace as n on n.nspname OPERATOR(pg_catalog.=) @schema::pg_catalog.text;
