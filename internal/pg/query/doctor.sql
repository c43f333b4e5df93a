-- What the doctor looks at (docs/design.md, section 17). As in why.sql, each statement is one fact. None reads
-- more than a bounded number of rows of large tables.

-- name: DoctorFunctions :many
-- The functions of a schema, without the name of the schema in their bodies.
select p.proname::text as name,
       md5(replace(case when n.nspname = 'graphile_worker' then replace(p.prosrc, 'graphile_worker.', 'S.') else p.prosrc end,
                   '"' || replace(n.nspname, '"', '""') || '".', 'S.'))::text as body
  from pg_catalog.pg_proc as p join pg_catalog.pg_namespace as n on n.oid = p.pronamespace
 where n.nspname = @schema_name::text order by p.proname, p.oid;

-- name: DoctorIndexes :many
-- Indexes that are not usable, and that nobody is building: whoever does has locked the table.
select c.relname::text as name, t.relname::text as on_table, pg_get_indexdef(i.indexrelid)::text as definition
  from pg_catalog.pg_index as i join pg_catalog.pg_class as c on c.oid = i.indexrelid join pg_catalog.pg_class as t on t.oid = i.indrelid
  join pg_catalog.pg_namespace as n on n.oid = t.relnamespace
 where n.nspname = @schema_name::text and not (i.indisvalid and i.indisready)
   and not exists (select from pg_catalog.pg_locks as l join pg_catalog.pg_stat_activity as a on a.pid = l.pid
                    where l.relation = i.indrelid and l.granted and l.mode = 'ShareUpdateExclusiveLock'   -- vacuum has it, too
                      and (a.query is null or a.query ~* 'index' or a.query = '<insufficient privilege>'))
 order by c.relname;

-- name: DoctorTriggers :many
select g.tgname::text as name, t.relname::text as on_table, (g.tgenabled = 'D')::boolean as disabled,
       coalesce(format('%I.%I', fn.nspname, f.proname), '')::text as function
  from pg_catalog.pg_trigger as g join pg_catalog.pg_class as t on t.oid = g.tgrelid join pg_catalog.pg_namespace as n on n.oid = t.relnamespace
  left join pg_catalog.pg_proc as f on f.oid = g.tgfoid left join pg_catalog.pg_namespace as fn on fn.oid = f.pronamespace
 where n.nspname = @schema_name::text and not g.tgisinternal order by t.relname, g.tgname;

-- name: DoctorOwners :many
-- Who owns what.
select c.relname::text as name, pg_get_userbyid(c.relowner)::text as owner from pg_catalog.pg_class as c
  join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
 where n.nspname = @schema_name::text and c.relkind in ('r', 'v', 'p') order by c.relname;

-- name: DoctorSequences :many
-- Sequences of which more than four fifths are used up.
select s.sequencename::text as name, s.last_value::bigint as last, s.max_value::bigint as most from pg_catalog.pg_sequences as s
 where s.schemaname = @schema_name::text and s.sequencename in ('jobs_id_seq1', 'job_queues_id_seq', 'tasks_id_seq', 'backfill_dlq_id_seq') and s.last_value is not null and s.last_value::numeric > 0.8 * s.max_value order by s.sequencename;

-- name: DoctorHistory :one
-- The partitions of the history of which nothing is to be kept, for a day: workers drop them.
select count(*)::bigint as overdue, coalesce(min(c.relname), '')::text as oldest
  from pg_catalog.pg_inherits as i join pg_catalog.pg_class as c on c.oid = i.inhrelid
 where i.inhparent = to_regclass(format('%I.%I', @schema_name::text, 'backfill_history'))
   and case when c.relname ~ '^backfill_history_[0-9]{8}$'
            then (to_date(right(c.relname::text, 8), 'YYYYMMDD') + 8)::timestamp at time zone 'UTC'
                 < now() - (select coalesce(max(t.retention), interval '0') from graphile_worker.backfill_history_tasks as t) end;

-- name: DoctorRoles :many
-- The roles that have policies of ours, whether these are for changes, too, and for their record.
select r.rolname::text as role, bool_or(p.polcmd = '*')::boolean as works, bool_or(p.polcmd = '*' and c.relname = 'backfill_audit')::boolean as operates
  from pg_catalog.pg_policy as p join pg_catalog.pg_class as c on c.oid = p.polrelid join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
  join pg_catalog.pg_roles as r on p.polroles = array[r.oid]
 where n.nspname = @schema_name::text and p.polname like 'backfill\_%' group by r.rolname order by r.rolname;

-- name: DoctorSettings :many
-- Settings of this session's, which are those of the database and the role, that void a promise.
select s.name::text as name, s.setting::text as setting, coalesce(s.sourcefile, s.source)::text as source from pg_catalog.pg_settings as s
 where s.name in ('fsync', 'full_page_writes', 'synchronous_commit', 'autovacuum', 'track_counts') and s.setting = 'off' order by s.name;

-- name: DoctorTables :many
-- How many rows vacuum has to remove, and when it has last done so.
select c.relname::text as name, pg_stat_get_live_tuples(c.oid)::bigint as live, pg_stat_get_dead_tuples(c.oid)::bigint as dead,
       greatest(pg_stat_get_last_vacuum_time(c.oid), pg_stat_get_last_autovacuum_time(c.oid))::timestamptz as vacuumed_at,
       coalesce('autovacuum_enabled=false' = any(c.reloptions) or 'autovacuum_enabled=off' = any(c.reloptions), false)::boolean as off,
       (extract(epoch from clock_timestamp() - pg_postmaster_start_time()) > 600)::boolean as long_up
  from pg_catalog.pg_class as c join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
 where n.nspname = @schema_name::text and c.relkind = 'r' order by c.relname;

-- name: DoctorBloat :many
-- Indexes that are much larger than their rows need. An entry of one of ours takes 100 bytes or less.
-- A table that was not analyzed yet says nothing.
select c.relname::text as name, t.relname::text as on_table, pg_relation_size(c.oid)::bigint as bytes, pg_stat_get_live_tuples(t.oid)::bigint as live
  from pg_catalog.pg_index as i join pg_catalog.pg_class as c on c.oid = i.indexrelid join pg_catalog.pg_class as t on t.oid = i.indrelid
  join pg_catalog.pg_namespace as n on n.oid = t.relnamespace
 where n.nspname = @schema_name::text and i.indisvalid and t.relname in ('_private_jobs', '_private_job_queues', '_private_tasks', 'backfill_dlq')
   and greatest(pg_stat_get_last_analyze_time(t.oid), pg_stat_get_last_autoanalyze_time(t.oid)) is not null
   and pg_relation_size(c.oid) - 500 * (pg_stat_get_live_tuples(t.oid) + pg_stat_get_dead_tuples(t.oid)) > @spare::bigint
 order by bytes desc;

-- name: DoctorSnapshots :many
-- Who keeps vacuum from removing rows: sessions of this database, prepared transactions and replication slots.
select 'session'::text as kind, a.pid::text as name, coalesce(a.usename, '')::text as role, coalesce(a.application_name, '')::text as application,
       coalesce(a.state, '')::text as state, coalesce(a.xact_start, a.backend_start)::timestamptz as since
  from pg_catalog.pg_stat_activity as a
 where a.backend_xmin is not null and a.pid <> pg_backend_pid() and a.datname = current_database() and a.backend_type = 'client backend'
   and a.query not ilike 'vacuum%'
   and a.xact_start < clock_timestamp() - case when a.state like 'idle in transaction%' then interval '5 seconds' else interval '5 minutes' end
union all
select 'prepared transaction', p.gid, p.owner::text, '', '', p.prepared from pg_catalog.pg_prepared_xacts as p where p.database = current_database()
union all
select 'replication slot', s.slot_name::text, '', '', case when s.active then 'in use' else 'not in use' end, null
  from pg_catalog.pg_replication_slots as s where s.xmin is not null and age(s.xmin) > 100000
 order by since limit 5;

-- name: DoctorNotifications :one
-- Which part of the queue of notifications is full.
select pg_notification_queue_usage()::float8 as used;

-- name: DoctorLockedQueues :many
-- Queues that are locked for more than a minute.
select s.id, s.queue_name, coalesce(s.locked_by, '')::text as locked_by, s.locked_at from graphile_worker._private_job_queues as s
 where s.locked_at < clock_timestamp() - interval '1 minute' order by s.locked_at limit 1000;

-- name: DoctorQueuesWithLockedJobs :many
-- Those of these queues of which a job is locked. There is no index: all jobs are read.
select distinct j.job_queue_id::int as id from graphile_worker._private_jobs as j
 where j.locked_at is not null and j.job_queue_id = any(@ids::int[]);

-- name: DoctorNames :one
-- How many names of queues there are.
select count(*)::bigint as queues from graphile_worker._private_job_queues;

-- name: DoctorEmptyQueues :one
-- How many of them no job has.
select count(*)::bigint as queues from graphile_worker._private_job_queues as s
 where not exists (select from graphile_worker._private_jobs as j where j.job_queue_id = s.id);

-- name: DoctorLine :many
-- What waits, by task: of the first jobs of the line, which are due or not.
with line as materialized (
  select j.id, j.task_id, j.job_queue_id, j.run_at from graphile_worker._private_jobs as j
   where j.is_available order by j.priority, j.run_at limit @most::bigint
)
select line.task_id, coalesce(t.identifier, '')::text as task, (t.id is null)::boolean as task_gone,
       count(*) filter (where line.run_at <= now())::bigint as due,
       coalesce(min(line.run_at) filter (where line.run_at <= now()), 'infinity')::timestamptz as oldest,
       min(line.id)::bigint as first_job, count(*)::bigint as jobs
  from line left join graphile_worker._private_tasks as t on t.id = line.task_id
 group by line.task_id, t.identifier, t.id order by due desc, line.task_id limit 1000;

-- name: DoctorDanglingQueues :many
-- Jobs among them whose queue has no row.
with line as materialized (
  select j.id, j.job_queue_id from graphile_worker._private_jobs as j
   where j.is_available order by j.priority, j.run_at limit @most::bigint
)
select line.job_queue_id::int as queue_id, count(*)::bigint as jobs, min(line.id)::bigint as first_job
  from line left join graphile_worker._private_job_queues as s on s.id = line.job_queue_id
 where line.job_queue_id is not null and s.id is null group by line.job_queue_id order by 1 limit 100;

-- name: DoctorKeys :many
-- Jobs that have failed for good and have a key, by task, among the first keys.
with keyed as materialized (
  select j.task_id, j.key, j.attempts, j.max_attempts, j.locked_at from graphile_worker._private_jobs as j
   where j.key is not null order by j.key limit @most::bigint
)
select coalesce(t.identifier, '')::text as task, count(*)::bigint as jobs, (array_agg(keyed.key order by keyed.key))[1:3]::text[] as keys
  from keyed left join graphile_worker._private_tasks as t on t.id = keyed.task_id
 where keyed.attempts >= keyed.max_attempts and keyed.locked_at is null group by t.identifier order by jobs desc limit 100;

-- name: DoctorTransactions :many
-- Transactions of ours that are open for more than 5 minutes.
select a.pid, coalesce(a.application_name, '')::text as application, coalesce(a.state, '')::text as state, a.xact_start::timestamptz as since
  from pg_catalog.pg_stat_activity as a
 where a.datname = current_database() and a.application_name = 'backfill' and a.xact_start < clock_timestamp() - interval '5 minutes'
 order by a.xact_start limit 10;
