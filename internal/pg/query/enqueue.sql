-- Enqueuing. The rows are those of the contract's add_job (section 4). Keyless jobs take one
-- insert, keyed ones several statements, which close the lost-row race of section 4.4. Nothing
-- notifies inside the transaction (R17).
--
-- A list of statements is one transaction, and inserts all jobs or none. A statement that got fewer
-- rows than it should raises an error, because the client sees the rows only after the commit. SQL
-- alone cannot raise one, so it casts a text to boolean that is none; enqueue_outcome.go reads it:
--   backfill: dropped   the rows were given to the table, and a trigger suppressed some of them
--   backfill: names     a task or queue has no id; with "whole" only
--   backfill: taken     a worker took the job of a key; with "whole" only
-- "whole" says that the transaction is the client's own, which sends all of it again. In a
-- transaction of the application's the client sends the statement again instead, because an error
-- would end it.
--
-- The session is the application's, whose search_path may name a schema in front of pg_catalog,
-- and whose DateStyle may be any. So functions, types and operators are pg_catalog's by name
-- (nullif, in and "is distinct from" would look for an operator =), and times come back in
-- their binary format, as hex. No array has an element that is NULL, because
-- array_nulls may be off: -infinity is a run_at of now.
--
-- Parameters have numbers where sqlc would give them an order that nobody can foresee: tasks,
-- queues (not for InsertJobs), payloads, run_ats, delays_us, max_attempts, priorities, flags,
-- keys (of keyed jobs), whole, and preserve_run_at (of UpsertJobs).

-- name: InsertJob :one
-- One job without key and queue. No row: the task has no id yet (AddTasks), or a trigger dropped
-- it. The parameters are in the order of InsertJobs.
insert into graphile_worker._private_jobs (task_id, payload, run_at, max_attempts, priority, flags)
select t.id, $2::pg_catalog.json,
       coalesce($3::pg_catalog.timestamptz, pg_catalog.now())
         OPERATOR(pg_catalog.+) ($4::bigint OPERATOR(pg_catalog.*) interval '1 microsecond'),
       $5::smallint, $6::smallint,
       case when $7::pg_catalog.text OPERATOR(pg_catalog.<>) '' then $7::pg_catalog.text::pg_catalog.jsonb end
  from graphile_worker._private_tasks as t
 where t.identifier OPERATOR(pg_catalog.=) $1::pg_catalog.text
returning id, pg_catalog.encode(pg_catalog.timestamptz_send(run_at), 'hex') as run_at,
          pg_catalog.encode(pg_catalog.timestamptz_send(created_at), 'hex') as created_at;

-- name: InsertJobs :many
-- Jobs without key and queue, in the order of the arrays. Nothing is inserted unless every task has
-- an id.
with spec as materialized (
  select u.ord, t.id as task_id, u.payload, u.run_at, u.delay_us, u.max_attempts, u.priority, u.flags
    from rows from (pg_catalog.unnest($1::pg_catalog.text[]), pg_catalog.unnest($2::pg_catalog.text[]),
                    pg_catalog.unnest($3::pg_catalog.timestamptz[]), pg_catalog.unnest($4::bigint[]),
                    pg_catalog.unnest($5::smallint[]), pg_catalog.unnest($6::smallint[]), pg_catalog.unnest($7::pg_catalog.text[]))
         with ordinality as u(task, payload, run_at, delay_us, max_attempts, priority, flags, ord)
    join graphile_worker._private_tasks as t on t.identifier OPERATOR(pg_catalog.=) u.task
), inserted as (
  insert into graphile_worker._private_jobs (task_id, payload, run_at, max_attempts, priority, flags)
  select task_id, payload::pg_catalog.json,
         case when run_at OPERATOR(pg_catalog.=) '-infinity' then pg_catalog.now() else run_at end
           OPERATOR(pg_catalog.+) (delay_us OPERATOR(pg_catalog.*) interval '1 microsecond'),
         max_attempts, priority,
         case when flags OPERATOR(pg_catalog.<>) '' then flags::pg_catalog.jsonb end
    from spec
   where (select pg_catalog.count(*) from spec) OPERATOR(pg_catalog.=) pg_catalog.cardinality($1::pg_catalog.text[])
   order by ord
  returning id, run_at, created_at
)
select i.id, pg_catalog.encode(pg_catalog.timestamptz_send(i.run_at), 'hex') as run_at,
       pg_catalog.encode(pg_catalog.timestamptz_send(i.created_at), 'hex') as created_at
  from inserted as i
 where (select case
                 when pg_catalog.count(*) OPERATOR(pg_catalog.=) pg_catalog.cardinality($1::pg_catalog.text[]) then true
                 when (select pg_catalog.count(*) from spec) OPERATOR(pg_catalog.=) pg_catalog.cardinality($1::pg_catalog.text[])
                   then pg_catalog.concat('backfill: dropped ',
                          pg_catalog.cardinality($1::pg_catalog.text[]) OPERATOR(pg_catalog.-) pg_catalog.count(*))::boolean
                 when $8::boolean then pg_catalog.concat('backfill: names ', pg_catalog.count(*))::boolean
                 else true
               end
          from inserted);

-- name: InsertQueuedJobs :many
-- Jobs without a key, some of which have a queue. It adds the queues that are missing. A queue that
-- another transaction adds at this moment is not visible to it: then nothing is inserted.
with given as materialized (
  select u.ord, u.task, u.queue, u.payload, u.run_at, u.delay_us, u.max_attempts, u.priority, u.flags
    from rows from (pg_catalog.unnest($1::pg_catalog.text[]), pg_catalog.unnest($2::pg_catalog.text[]),
                    pg_catalog.unnest($3::pg_catalog.text[]), pg_catalog.unnest($4::pg_catalog.timestamptz[]),
                    pg_catalog.unnest($5::bigint[]), pg_catalog.unnest($6::smallint[]), pg_catalog.unnest($7::smallint[]),
                    pg_catalog.unnest($8::pg_catalog.text[]))
         with ordinality as u(task, queue, payload, run_at, delay_us, max_attempts, priority, flags, ord)
), added as (
  insert into graphile_worker._private_job_queues (queue_name)
  select distinct given.queue from given
   where given.queue OPERATOR(pg_catalog.<>) ''
     and not exists (select from graphile_worker._private_job_queues as s where s.queue_name OPERATOR(pg_catalog.=) given.queue)
   order by given.queue
  on conflict (queue_name) do nothing
  returning id, queue_name
), named as materialized (
  select s.id, s.queue_name from graphile_worker._private_job_queues as s
   where s.queue_name OPERATOR(pg_catalog.=) any($2::pg_catalog.text[])
  union all
  select added.id, added.queue_name from added
), spec as materialized (
  select given.ord, t.id as task_id, named.id as queue_id, given.payload, given.run_at, given.delay_us, given.max_attempts,
         given.priority, given.flags
    from given
    join graphile_worker._private_tasks as t on t.identifier OPERATOR(pg_catalog.=) given.task
    left join named on named.queue_name OPERATOR(pg_catalog.=) given.queue and given.queue OPERATOR(pg_catalog.<>) ''
   where given.queue OPERATOR(pg_catalog.=) '' or named.id is not null
), inserted as (
  insert into graphile_worker._private_jobs (job_queue_id, task_id, payload, run_at, max_attempts, priority, flags)
  select queue_id, task_id, payload::pg_catalog.json,
         case when run_at OPERATOR(pg_catalog.=) '-infinity' then pg_catalog.now() else run_at end
           OPERATOR(pg_catalog.+) (delay_us OPERATOR(pg_catalog.*) interval '1 microsecond'),
         max_attempts,
         priority, case when flags OPERATOR(pg_catalog.<>) '' then flags::pg_catalog.jsonb end
    from spec
   where (select pg_catalog.count(*) from spec) OPERATOR(pg_catalog.=) pg_catalog.cardinality($1::pg_catalog.text[])
   order by ord
  returning id, run_at, created_at
)
select i.id, pg_catalog.encode(pg_catalog.timestamptz_send(i.run_at), 'hex') as run_at,
       pg_catalog.encode(pg_catalog.timestamptz_send(i.created_at), 'hex') as created_at
  from inserted as i
 where (select case
                 when pg_catalog.count(*) OPERATOR(pg_catalog.=) pg_catalog.cardinality($1::pg_catalog.text[]) then true
                 when (select pg_catalog.count(*) from spec) OPERATOR(pg_catalog.=) pg_catalog.cardinality($1::pg_catalog.text[])
                   then pg_catalog.concat('backfill: dropped ',
                          pg_catalog.cardinality($1::pg_catalog.text[]) OPERATOR(pg_catalog.-) pg_catalog.count(*))::boolean
                 when $9::boolean then pg_catalog.concat('backfill: names ', pg_catalog.count(*))::boolean
                 else true
               end
          from inserted);

-- name: AddQueues :exec
insert into graphile_worker._private_job_queues (queue_name)
select distinct n.name from pg_catalog.unnest(@names::pg_catalog.text[]) as n(name)
 where not exists (select from graphile_worker._private_job_queues as s where s.queue_name OPERATOR(pg_catalog.=) n.name)
 order by n.name
on conflict (queue_name) do nothing;

-- name: LimitLockWaits :exec
-- Limits the waits for locks for the rest of the transaction, and how long it may be idle. A call
-- whose key another transaction holds must not keep a connection for as long as that transaction
-- lasts, and one whose process is cut off or stopped between two messages that each end in a Sync
-- not its names and keys.
select pg_catalog.set_config('lock_timeout', @wait::pg_catalog.text, true),
       pg_catalog.set_config('idle_in_transaction_session_timeout', '10s', true);

-- name: LockKeys :exec
-- Locks the jobs with these keys, so that no worker claims one between the next two statements.
select j.id from graphile_worker._private_jobs as j
 where j.key OPERATOR(pg_catalog.=) any(@keys::pg_catalog.text[])
 order by j.key for update;

-- name: SupersedeKeys :exec
-- A job that runs, or that will not be retried, gives up its key (contract section 1.5, add_jobs
-- step 3).
update graphile_worker._private_jobs as j
   set key = null, attempts = j.max_attempts, updated_at = pg_catalog.now()
 where j.key OPERATOR(pg_catalog.=) any(@keys::pg_catalog.text[]) and j.is_available is not true;

-- name: UpsertJobs :many
-- Key modes replace and preserve_run_at (contract section 1.5, add_jobs step 5); each key once. A
-- job that a worker took after LockKeys stays as it is and comes back as taken: send the
-- statements again. Jobs are inserted in the order of their keys, so that two transactions do not
-- wait for each other; those of queues in the order in which they were given, in which they will
-- run (R14, R25).
with upserted as (
  insert into graphile_worker._private_jobs as j (job_queue_id, task_id, payload, run_at, max_attempts, key, priority, flags)
  select s.id, t.id, u.payload::pg_catalog.json,
         case when u.run_at OPERATOR(pg_catalog.=) '-infinity' then pg_catalog.now() else u.run_at end
           OPERATOR(pg_catalog.+) (u.delay_us OPERATOR(pg_catalog.*) interval '1 microsecond'),
         u.max_attempts, u.key,
         u.priority, case when u.flags OPERATOR(pg_catalog.<>) '' then u.flags::pg_catalog.jsonb end
    from rows from (pg_catalog.unnest($1::pg_catalog.text[]), pg_catalog.unnest($2::pg_catalog.text[]),
                    pg_catalog.unnest($3::pg_catalog.text[]), pg_catalog.unnest($4::pg_catalog.timestamptz[]),
                    pg_catalog.unnest($5::bigint[]), pg_catalog.unnest($6::smallint[]), pg_catalog.unnest($7::smallint[]),
                    pg_catalog.unnest($8::pg_catalog.text[]), pg_catalog.unnest($9::pg_catalog.text[]))
         with ordinality as u(task, queue, payload, run_at, delay_us, max_attempts, priority, flags, key, ord)
    join graphile_worker._private_tasks as t on t.identifier OPERATOR(pg_catalog.=) u.task
    left join graphile_worker._private_job_queues as s on s.queue_name OPERATOR(pg_catalog.=) u.queue
         and u.queue OPERATOR(pg_catalog.<>) ''
   where u.queue OPERATOR(pg_catalog.=) '' or s.id is not null
   order by case when u.queue OPERATOR(pg_catalog.=) '' then 0 else u.ord end, u.key
  on conflict (key) do update
     set job_queue_id = case when j.locked_at is null then excluded.job_queue_id else j.job_queue_id end,
         task_id = case when j.locked_at is null then excluded.task_id else j.task_id end,
         max_attempts = case when j.locked_at is null then excluded.max_attempts else j.max_attempts end,
         priority = case when j.locked_at is null then excluded.priority else j.priority end,
         flags = case when j.locked_at is null then excluded.flags else j.flags end,
         revision = case when j.locked_at is null then j.revision OPERATOR(pg_catalog.+) 1 else j.revision end,
         attempts = case when j.locked_at is null then 0 else j.attempts end,
         last_error = case when j.locked_at is null then null else j.last_error end,
         updated_at = case when j.locked_at is null then pg_catalog.now() else j.updated_at end,
         run_at = case when j.locked_at is not null or $11::boolean and j.attempts OPERATOR(pg_catalog.=) 0 then j.run_at
                       else excluded.run_at end,
         payload = case when j.locked_at is not null then j.payload
                        when pg_catalog.json_typeof(j.payload) OPERATOR(pg_catalog.=) 'array'
                         and pg_catalog.json_typeof(excluded.payload) OPERATOR(pg_catalog.=) 'array'
                        then (j.payload::pg_catalog.jsonb OPERATOR(pg_catalog.||) excluded.payload::pg_catalog.jsonb)::pg_catalog.json
                        else excluded.payload end
  returning j.key, j.id, j.task_id, j.job_queue_id, j.payload, j.run_at, j.created_at, j.attempts, j.max_attempts, j.priority,
            j.revision, j.flags, j.locked_at is not null as taken
)
select u.key, u.id, t.identifier as task, coalesce(s.queue_name, '') as queue, u.payload,
       pg_catalog.encode(pg_catalog.timestamptz_send(u.run_at), 'hex') as run_at,
       pg_catalog.encode(pg_catalog.timestamptz_send(u.created_at), 'hex') as created_at,
       u.attempts, u.max_attempts, u.priority, u.revision, u.flags, u.taken
  from upserted as u
  join graphile_worker._private_tasks as t on t.id OPERATOR(pg_catalog.=) u.task_id
  left join graphile_worker._private_job_queues as s on s.id OPERATOR(pg_catalog.=) u.job_queue_id
 where (select case
                 when pg_catalog.count(*) OPERATOR(pg_catalog.=) pg_catalog.cardinality($9::pg_catalog.text[])
                   then case when $10::boolean and pg_catalog.bool_or(n.taken)
                             then pg_catalog.concat('backfill: taken ', pg_catalog.count(*))::boolean
                             else true end
                 when (select pg_catalog.count(*)
                         from rows from (pg_catalog.unnest($1::pg_catalog.text[]), pg_catalog.unnest($2::pg_catalog.text[])) as g(task, queue)
                        where exists (select from graphile_worker._private_tasks as e where e.identifier OPERATOR(pg_catalog.=) g.task)
                          and (g.queue OPERATOR(pg_catalog.=) ''
                               or exists (select from graphile_worker._private_job_queues as e
                                           where e.queue_name OPERATOR(pg_catalog.=) g.queue))
                      ) OPERATOR(pg_catalog.=) pg_catalog.cardinality($9::pg_catalog.text[])
                   then pg_catalog.concat('backfill: dropped ',
                          pg_catalog.cardinality($9::pg_catalog.text[]) OPERATOR(pg_catalog.-) pg_catalog.count(*))::boolean
                 when $10::boolean then pg_catalog.concat('backfill: names ', pg_catalog.count(*))::boolean
                 else true
               end
          from upserted as n);

-- name: DedupeJobs :many
-- Key mode unsafe_dedupe: an existing job stays as it is, whatever its state.
with upserted as (
  insert into graphile_worker._private_jobs as j (job_queue_id, task_id, payload, run_at, max_attempts, key, priority, flags)
  select s.id, t.id, u.payload::pg_catalog.json,
         case when u.run_at OPERATOR(pg_catalog.=) '-infinity' then pg_catalog.now() else u.run_at end
           OPERATOR(pg_catalog.+) (u.delay_us OPERATOR(pg_catalog.*) interval '1 microsecond'),
         u.max_attempts, u.key,
         u.priority, case when u.flags OPERATOR(pg_catalog.<>) '' then u.flags::pg_catalog.jsonb end
    from rows from (pg_catalog.unnest($1::pg_catalog.text[]), pg_catalog.unnest($2::pg_catalog.text[]),
                    pg_catalog.unnest($3::pg_catalog.text[]), pg_catalog.unnest($4::pg_catalog.timestamptz[]),
                    pg_catalog.unnest($5::bigint[]), pg_catalog.unnest($6::smallint[]), pg_catalog.unnest($7::smallint[]),
                    pg_catalog.unnest($8::pg_catalog.text[]), pg_catalog.unnest($9::pg_catalog.text[]))
         with ordinality as u(task, queue, payload, run_at, delay_us, max_attempts, priority, flags, key, ord)
    join graphile_worker._private_tasks as t on t.identifier OPERATOR(pg_catalog.=) u.task
    left join graphile_worker._private_job_queues as s on s.queue_name OPERATOR(pg_catalog.=) u.queue
         and u.queue OPERATOR(pg_catalog.<>) ''
   where u.queue OPERATOR(pg_catalog.=) '' or s.id is not null
   order by case when u.queue OPERATOR(pg_catalog.=) '' then 0 else u.ord end, u.key
  on conflict (key) do update set revision = j.revision OPERATOR(pg_catalog.+) 1, updated_at = pg_catalog.now()
  returning j.key, j.id, j.task_id, j.job_queue_id, j.payload, j.run_at, j.created_at, j.attempts, j.max_attempts, j.priority,
            j.revision, j.flags, false as taken
)
select u.key, u.id, coalesce(t.identifier, '') as task, coalesce(s.queue_name, '') as queue, u.payload,
       pg_catalog.encode(pg_catalog.timestamptz_send(u.run_at), 'hex') as run_at,
       pg_catalog.encode(pg_catalog.timestamptz_send(u.created_at), 'hex') as created_at,
       u.attempts, u.max_attempts, u.priority, u.revision, u.flags, u.taken
  from upserted as u
  left join graphile_worker._private_tasks as t on t.id OPERATOR(pg_catalog.=) u.task_id
  left join graphile_worker._private_job_queues as s on s.id OPERATOR(pg_catalog.=) u.job_queue_id
 where (select case
                 when pg_catalog.count(*) OPERATOR(pg_catalog.=) pg_catalog.cardinality($9::pg_catalog.text[]) then true
                 when (select pg_catalog.count(*)
                         from rows from (pg_catalog.unnest($1::pg_catalog.text[]), pg_catalog.unnest($2::pg_catalog.text[])) as g(task, queue)
                        where exists (select from graphile_worker._private_tasks as e where e.identifier OPERATOR(pg_catalog.=) g.task)
                          and (g.queue OPERATOR(pg_catalog.=) ''
                               or exists (select from graphile_worker._private_job_queues as e
                                           where e.queue_name OPERATOR(pg_catalog.=) g.queue))
                      ) OPERATOR(pg_catalog.=) pg_catalog.cardinality($9::pg_catalog.text[])
                   then pg_catalog.concat('backfill: dropped ',
                          pg_catalog.cardinality($9::pg_catalog.text[]) OPERATOR(pg_catalog.-) pg_catalog.count(*))::boolean
                 when $10::boolean then pg_catalog.concat('backfill: names ', pg_catalog.count(*))::boolean
                 else true
               end
          from upserted);
