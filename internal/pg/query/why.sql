-- What operators ask about one job (docs/design.md, section 17). Each statement is one fact, which may be
-- missing: a table that is not there, or that the role may not read. All are read in one transaction, which
-- changes nothing and waits for no lock (pg/reader.go).

-- name: Relations :many
-- The tables and views of a schema, and what this role may do with them. hidden: row level security may hide
-- rows from it, because no policy shows it all.
select c.relname::text as name, c.oid::bigint as oid,
       (has_schema_privilege(n.oid, 'usage') and has_table_privilege(c.oid, 'select'))::boolean as readable,
       (row_security_active(c.oid) and not exists (
         select from pg_catalog.pg_policy as p cross join unnest(p.polroles) as r (role)
          where p.polrelid = c.oid and p.polpermissive and p.polcmd::text in ('*', 'r') and pg_get_expr(p.polqual, p.polrelid) = 'true'
            and case when r.role = 0 then true else pg_has_role(r.role, 'usage') end
         ))::boolean as hidden
  from pg_catalog.pg_class as c join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
 where n.nspname = @schema_name::text and c.relkind in ('r', 'v', 'p', 'm') order by c.relname;

-- name: SchemasWithJobs :many
-- The schemas that Graphile Worker's tables are in, and whether this role may read the jobs there.
select n.nspname::text as name, (has_schema_privilege(n.oid, 'usage') and has_table_privilege(c.oid, 'select'))::boolean as readable
  from pg_catalog.pg_class as c join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
 where c.relname = '_private_jobs' and c.relkind = 'r' order by n.nspname;

-- name: Server :one
select clock_timestamp()::timestamptz as now, current_user::text as role, current_database()::text as database,
       pg_is_in_recovery()::boolean as standby, pg_has_role('pg_read_all_stats', 'usage')::boolean as sees_sessions;

-- name: WhyJob :many
-- A job as it stands. xmax, and that of its queue, are the transactions that have locked the rows, or had.
select j.id, j.task_id, coalesce(t.identifier, '')::text as task, (t.id is null)::boolean as task_gone,
       coalesce(j.job_queue_id, 0)::int as queue_id, coalesce(s.queue_name, '')::text as queue,
       (j.job_queue_id is not null and s.id is null)::boolean as queue_gone,
       j.priority, j.run_at, j.attempts, j.max_attempts, coalesce(j.last_error, '')::text as last_error,
       j.created_at, j.updated_at, coalesce(j.key, '')::text as key, j.locked_at, coalesce(j.locked_by, '')::text as locked_by,
       j.revision, coalesce((select array_agg(f order by f) from jsonb_object_keys(case jsonb_typeof(j.flags) when 'object' then j.flags else '{}' end) as f),
                '{}')::text[] as flags,
       case when octet_length(j.payload::text) <= 1000000 then j.payload::text else '' end::text as payload,
       j.is_available::boolean as available, (j.run_at <= now())::boolean as due,
       coalesce(j.locked_at < now() - interval '4 hours', false)::boolean as stale,
       s.locked_at as queue_locked_at, coalesce(s.locked_by, '')::text as queue_locked_by,
       coalesce(s.locked_at < now() - interval '4 hours', false)::boolean as queue_stale,
       array[j.xmax::text, coalesce(s.xmax::text, '0')]::text[] as lockers
  from graphile_worker._private_jobs as j
  left join graphile_worker._private_tasks as t on t.id = j.task_id
  left join graphile_worker._private_job_queues as s on s.id = j.job_queue_id
 where j.id = @id::bigint;

-- name: WhyJobByView :many
-- The same, for a role that may read the view alone.
select j.id, coalesce(j.task_identifier, '')::text as task, coalesce(j.queue_name, '')::text as queue, j.priority, j.run_at,
       j.attempts, j.max_attempts, coalesce(j.last_error, '')::text as last_error, j.created_at, j.updated_at,
       coalesce(j.key, '')::text as key, j.locked_at, coalesce(j.locked_by, '')::text as locked_by, j.revision,
       coalesce((select array_agg(f order by f) from jsonb_object_keys(case jsonb_typeof(j.flags) when 'object' then j.flags else '{}' end) as f),
                '{}')::text[] as flags,
       (j.run_at <= now())::boolean as due, coalesce(j.locked_at < now() - interval '4 hours', false)::boolean as stale
  from graphile_worker.jobs as j where j.id = @id::bigint;

-- name: WhyWorkers :many
-- Workers that live, and those that have died in the last day, whose rows are kept that long.
select w.id, w.host, w.pid, w.version, w.started_at, w.heartbeat_at, w.dead_at, w.rescued_at, w.stopping_at, w.emptying_at,
       w.tasks, w.forbidden, w.slots, w.running,
       (extract(epoch from clock_timestamp() - w.heartbeat_at) * 1000000)::bigint as silent_us
  from graphile_worker.backfill_workers as w
 order by w.dead_at is not null, w.dead_at desc, w.started_at limit 1000;

-- name: WhyPauses :many
-- The pauses of a task and of a queue that are in force.
select 'task'::text as what, p.task as name, p.paused_at, p.paused_by, p.reason, p.ends_at from graphile_worker.backfill_pauses as p
 where p.task = @task::text and (p.ends_at is null or p.ends_at > now())
union all
select 'queue', q.queue_name, q.paused_at, q.paused_by, q.reason, q.ends_at from graphile_worker.backfill_queue_pauses as q
 where q.queue_name = @queue::text and (q.ends_at is null or q.ends_at > now());

-- name: Ledger :many
-- Which revisions of Graphile Worker's schema are installed.
select m.id, m.breaking from graphile_worker.migrations as m order by m.id;

-- name: WhyRequests :many
select c.requested_at, c.requested_by, c.reason from graphile_worker.backfill_cancels as c where c.job_id = @id::bigint;

-- name: WhyPast :many
-- The attempts of a job, the last first, without what they have left.
select h.attempt, h.outcome, h.started_at, h.ended_at, coalesce(extract(epoch from h.duration), 0)::float8 as duration_seconds,
       coalesce(h.worker_id, '')::text as worker_id, coalesce(substr(h.error, 1, 2000), '')::text as error, h.task_identifier as task,
       coalesce(h.queue_name, '')::text as queue
  from graphile_worker.backfill_history as h where h.job_id = @job_id::bigint
 order by h.ended_at desc, h.started_at desc nulls first limit @most::int;

-- name: WhyChanges :many
-- Who has changed a job around a moment: a record is in the transaction of its change.
select a.at, a.principal, a.action, a.reason from graphile_worker.backfill_audit as a
 where a.at >= @since::timestamptz and a.at <= @until::timestamptz
   and a.target_kind = 'job' and a.target_id = @job_id::text order by a.at desc limit 1;

-- name: WhyLetters :many
-- Dead letters that a job has become, or was requeued from.
select d.id, d.failure_count, d.requeued_count, coalesce(d.first_error, '')::text as first_error, d.original_job_id, d.failure_reason, d.failed_at, d.attempts, d.max_attempts, coalesce(d.last_error, '')::text as last_error,
       coalesce(d.requeued_job_id, 0)::bigint as requeued_job_id, d.task_identifier as task, coalesce(d.queue_name, '')::text as queue,
       case when octet_length(d.payload::text) <= 1000000 then d.payload::text else '' end::text as payload
  from graphile_worker.backfill_dlq as d
 where d.original_job_id = @id::bigint or d.requeued_job_id = @id::bigint order by d.failed_at desc limit 1;

-- name: WhyRunningInQueue :many
-- Which of these jobs, which their workers say they run, are of a queue, and locked.
select j.id, j.locked_by::text as locked_by, j.locked_at from graphile_worker._private_jobs as j
 where j.id = any(@ids::bigint[]) and j.job_queue_id = @queue_id::int and j.locked_by is not null order by j.locked_at limit 1;

-- name: WhyLockedInQueue :many
-- The locked jobs of a queue. There is no index for them: all jobs are read.
select j.id, j.locked_by::text as locked_by, j.locked_at from graphile_worker._private_jobs as j
 where j.job_queue_id = @queue_id::int and j.locked_by is not null order by j.locked_at limit 1;

-- name: WhyLine :one
-- How many jobs of a queue are before a job, among the first of all jobs that are before it.
with line as materialized (
  select j.job_queue_id, j.priority, j.run_at, j.id from graphile_worker._private_jobs as j
   where j.is_available and (j.priority, j.run_at) <= (@priority::smallint, @run_at::timestamptz)
   order by j.priority, j.run_at limit 200000
)
select (count(*) filter (where line.job_queue_id = @queue_id::int
                           and (line.priority, line.run_at, line.id) < (@priority::smallint, @run_at::timestamptz, @id::bigint)))::bigint as before,
       (count(*) >= 200000)::boolean as more
  from line;

-- name: WhyAhead :one
-- How many due jobs of these tasks are before a job, and do not wait for their queues: of the first 200,000 of the
-- line. 10,001 are more than 10,000.
with line as materialized (
  select j.id, j.task_id, j.job_queue_id, j.priority, j.run_at from graphile_worker._private_jobs as j
   where j.is_available and j.run_at <= now() and (j.priority, j.run_at) <= (@priority::smallint, @run_at::timestamptz)
   order by j.priority, j.run_at limit 200000
)
select count(*)::bigint as ahead from (
  select from line join graphile_worker._private_tasks as t on t.id = line.task_id
    left join graphile_worker._private_job_queues as s on s.id = line.job_queue_id
   where (line.priority, line.run_at, line.id) < (@priority::smallint, @run_at::timestamptz, @id::bigint)
     and t.identifier = any(@tasks::text[]) and (line.job_queue_id is null or s.is_available and s.queue_name <> all(@paused_queues::text[]))
   limit 10001) as a;

-- name: PausedNames :many
-- The tasks and queues that are paused.
select 'task'::text as what, p.task as name from graphile_worker.backfill_pauses as p where p.ends_at is null or p.ends_at > now()
union all
select 'queue', q.queue_name from graphile_worker.backfill_queue_pauses as q where q.ends_at is null or q.ends_at > now();

-- name: WhyLockers :many
-- The sessions of this database whose transactions are these, and those that keep claims from a table.
select a.pid, coalesce(a.usename, '')::text as role, coalesce(a.application_name, '')::text as application,
       coalesce(a.state, '')::text as state, coalesce(a.xact_start, a.backend_start)::timestamptz as since,
       coalesce(l.relation, 0)::bigint as relation, l.mode::text as mode, coalesce(l.transactionid::text, '')::text as transaction
  from pg_catalog.pg_locks as l join pg_catalog.pg_stat_activity as a on a.pid = l.pid
 where l.granted and l.pid <> pg_backend_pid() and a.datname = current_database()
   and (l.locktype = 'transactionid' and l.mode = 'ExclusiveLock' and l.transactionid::text = any(@transactions::text[])
     or l.locktype = 'relation' and l.database = (select d.oid from pg_catalog.pg_database as d where d.datname = current_database())
        and l.relation::bigint = any(@relations::bigint[])
        and l.mode in ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock'))
 order by since;

-- name: WhyPrepared :many
-- Prepared transactions among these, and those that keep claims from a table.
select p.gid::text as name, p.owner::text as role, p.prepared as since, coalesce(l.relation, 0)::bigint as relation, l.mode::text as mode,
       coalesce(l.transactionid::text, '')::text as transaction
  from pg_catalog.pg_prepared_xacts as p join pg_catalog.pg_locks as l
    on l.pid is null and l.virtualtransaction = '-1/' || p.transaction::text
 where p.database = current_database() and l.granted
   and (l.locktype = 'transactionid' and l.mode = 'ExclusiveLock' and l.transactionid::text = any(@transactions::text[])
     or l.locktype = 'relation' and l.relation::bigint = any(@relations::bigint[])
        and l.mode in ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock'))
 order by p.prepared;

-- name: MembersOf :many
-- The transactions that share a row's lock. An error: it is none that several share.
select m.xid::text as transaction from pg_get_multixact_members((@xmax::text)::xid) as m;

-- name: WhyWriters :many
-- The sessions of this database that have a lock of a table in a transaction that is open and has written something.
select distinct a.pid, coalesce(a.usename, '')::text as role, coalesce(a.application_name, '')::text as application,
       coalesce(a.state, '')::text as state, a.xact_start::timestamptz as since
  from pg_catalog.pg_locks as l join pg_catalog.pg_stat_activity as a on a.pid = l.pid
 where l.granted and l.locktype = 'relation' and l.mode = any(@modes::text[]) and l.relation::bigint = @relation::bigint
   and l.pid <> pg_backend_pid() and a.datname = current_database() and a.xact_start is not null and a.backend_xid is not null
 order by since limit 10;

-- name: LastID :many
-- The last id of a job that was given out; 0: none was. No row: this role may not read it.
select coalesce(pg_sequence_last_value(c.oid), 0)::bigint as id from pg_catalog.pg_class as c
  join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
 where n.nspname = @schema_name::text and c.relname = 'jobs_id_seq1'
   and has_schema_privilege(n.oid, 'usage') and has_sequence_privilege(c.oid, 'usage, select');

-- name: JobExists :one
select exists (select from graphile_worker._private_jobs as j where j.id = @id::bigint)::boolean as there;

-- name: JobsRemoved :one
-- How many rows of the table were deleted, as far as the statistics say: jobs that ended. Without the first
-- column, a transaction would be told the same again.
select (pg_stat_clear_snapshot() is null)::boolean as cleared, coalesce(pg_stat_get_tuples_deleted((@relation::bigint)::oid), 0)::bigint as deleted;

-- name: ListenersOfPeers :one
-- The sessions whose last statement was to listen as Graphile Worker's workers do. Those of other roles can
-- only be seen with the right to.
select count(*)::bigint as sessions from pg_catalog.pg_stat_activity as a
 where a.datname = current_database() and a.query ~* '^\s*listen "jobs:insert"' and a.query not like '%"backfill:%';

-- name: WhyCrontab :many
-- What is recorded of an identifier of a crontab.
select k.known_since, k.last_execution from graphile_worker._private_known_crontabs as k where k.identifier = @identifier::text;

-- name: WhyCrontabNames :many
-- Identifiers that there are, those that were used last first.
select k.identifier from graphile_worker._private_known_crontabs as k order by k.last_execution desc nulls last, k.identifier limit 20;

-- name: WhyCrontabEntries :many
-- The entries of an identifier that workers have.
select w.id as worker_id, e.entry::text as entry
  from graphile_worker.backfill_workers as w cross join lateral json_array_elements(w.crontab) as e (entry)
 where e.entry ->> 'id' = @identifier::text
 order by w.dead_at is not null, w.dead_at desc, w.started_at limit 1000;
