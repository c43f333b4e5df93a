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
-- Parameters have numbers where sqlc would give them an order that nobody can foresee: tasks,
-- queues (not for InsertJobs), payloads, run_ats, delays_us, max_attempts, priorities, flags,
-- keys (of keyed jobs), whole, and preserve_run_at (of UpsertJobs).

-- name: InsertJob :one
-- One job without key and queue. No row: the task has no id yet (AddTasks), or a trigger dropped
-- it. The parameters are in the order of InsertJobs.
insert into graphile_worker._private_jobs (task_id, payload, run_at, max_attempts, priority, flags)
select t.id, $2::json, coalesce($3::timestamptz, now()) + $4::bigint * interval '1 microsecond', $5::smallint, $6::smallint,
       nullif($7::text, '')::jsonb
  from graphile_worker._private_tasks as t
 where t.identifier = $1::text
returning id, run_at, created_at;

-- name: InsertJobs :many
-- Jobs without key and queue, in the order of the arrays. Nothing is inserted unless every task has
-- an id.
with spec as materialized (
  select u.ord, t.id as task_id, u.payload, u.run_at, u.delay_us, u.max_attempts, u.priority, u.flags
    from rows from (unnest($1::text[]), unnest($2::text[]), unnest($3::timestamptz[]), unnest($4::bigint[]),
                    unnest($5::smallint[]), unnest($6::smallint[]), unnest($7::text[]))
         with ordinality as u(task, payload, run_at, delay_us, max_attempts, priority, flags, ord)
    join graphile_worker._private_tasks as t on t.identifier = u.task
), inserted as (
  insert into graphile_worker._private_jobs (task_id, payload, run_at, max_attempts, priority, flags)
  select task_id, payload::json, coalesce(run_at, now()) + delay_us * interval '1 microsecond', max_attempts, priority,
         nullif(flags, '')::jsonb
    from spec
   where (select count(*) from spec) = cardinality($1::text[])
   order by ord
  returning id, run_at, created_at
)
select i.id, i.run_at, i.created_at
  from inserted as i
 where (select case
                 when count(*) = cardinality($1::text[]) then true
                 when (select count(*) from spec) = cardinality($1::text[])
                   then ('backfill: dropped ' || cardinality($1::text[]) - count(*))::boolean
                 when $8::boolean then ('backfill: names ' || count(*))::boolean
                 else true
               end
          from inserted);

-- name: InsertQueuedJobs :many
-- Jobs without a key, some of which have a queue. It adds the queues that are missing. A queue that
-- another transaction adds at this moment is not visible to it: then nothing is inserted.
with given as materialized (
  select u.ord, u.task, u.queue, u.payload, u.run_at, u.delay_us, u.max_attempts, u.priority, u.flags
    from rows from (unnest($1::text[]), unnest($2::text[]), unnest($3::text[]), unnest($4::timestamptz[]),
                    unnest($5::bigint[]), unnest($6::smallint[]), unnest($7::smallint[]),
                    unnest($8::text[]))
         with ordinality as u(task, queue, payload, run_at, delay_us, max_attempts, priority, flags, ord)
), added as (
  insert into graphile_worker._private_job_queues (queue_name)
  select distinct given.queue from given
   where given.queue <> ''
     and not exists (select from graphile_worker._private_job_queues as s where s.queue_name = given.queue)
   order by given.queue
  on conflict (queue_name) do nothing
  returning id, queue_name
), named as materialized (
  select s.id, s.queue_name from graphile_worker._private_job_queues as s where s.queue_name = any($2::text[])
  union all
  select added.id, added.queue_name from added
), spec as materialized (
  select given.ord, t.id as task_id, named.id as queue_id, given.payload, given.run_at, given.delay_us, given.max_attempts,
         given.priority, given.flags
    from given
    join graphile_worker._private_tasks as t on t.identifier = given.task
    left join named on named.queue_name = given.queue and given.queue <> ''
   where given.queue = '' or named.id is not null
), inserted as (
  insert into graphile_worker._private_jobs (job_queue_id, task_id, payload, run_at, max_attempts, priority, flags)
  select queue_id, task_id, payload::json, coalesce(run_at, now()) + delay_us * interval '1 microsecond', max_attempts,
         priority, nullif(flags, '')::jsonb
    from spec
   where (select count(*) from spec) = cardinality($1::text[])
   order by ord
  returning id, run_at, created_at
)
select i.id, i.run_at, i.created_at
  from inserted as i
 where (select case
                 when count(*) = cardinality($1::text[]) then true
                 when (select count(*) from spec) = cardinality($1::text[])
                   then ('backfill: dropped ' || cardinality($1::text[]) - count(*))::boolean
                 when $9::boolean then ('backfill: names ' || count(*))::boolean
                 else true
               end
          from inserted);

-- name: AddQueues :exec
insert into graphile_worker._private_job_queues (queue_name)
select distinct n.name from unnest(@names::text[]) as n(name)
 where not exists (select from graphile_worker._private_job_queues as s where s.queue_name = n.name)
 order by n.name
on conflict (queue_name) do nothing;

-- name: LimitLockWaits :exec
-- Limits the waits for locks for the rest of the transaction. A call whose key another transaction
-- holds must not keep a connection for as long as that transaction lasts.
select set_config('lock_timeout', @wait::text, true);

-- name: LockKeys :exec
-- Locks the jobs with these keys, so that no worker claims one between the next two statements.
select j.id from graphile_worker._private_jobs as j where j.key = any(@keys::text[]) order by j.key for update;

-- name: SupersedeKeys :exec
-- A job that runs, or that will not be retried, gives up its key (contract section 1.5, add_jobs
-- step 3).
update graphile_worker._private_jobs as j
   set key = null, attempts = j.max_attempts, updated_at = now()
 where j.key = any(@keys::text[]) and j.is_available is not true;

-- name: UpsertJobs :many
-- Key modes replace and preserve_run_at (contract section 1.5, add_jobs step 5); each key once. A
-- job that a worker took after LockKeys stays as it is and comes back as taken: send the
-- statements again. Jobs are inserted in the order of their keys, so that two transactions do not
-- wait for each other; those of queues in the order in which they were given, in which they will
-- run (R14, R25).
with upserted as (
  insert into graphile_worker._private_jobs as j (job_queue_id, task_id, payload, run_at, max_attempts, key, priority, flags)
  select s.id, t.id, u.payload::json, coalesce(u.run_at, now()) + u.delay_us * interval '1 microsecond', u.max_attempts, u.key,
         u.priority, nullif(u.flags, '')::jsonb
    from rows from (unnest($1::text[]), unnest($2::text[]), unnest($3::text[]), unnest($4::timestamptz[]),
                    unnest($5::bigint[]), unnest($6::smallint[]), unnest($7::smallint[]),
                    unnest($8::text[]), unnest($9::text[]))
         with ordinality as u(task, queue, payload, run_at, delay_us, max_attempts, priority, flags, key, ord)
    join graphile_worker._private_tasks as t on t.identifier = u.task
    left join graphile_worker._private_job_queues as s on s.queue_name = u.queue and u.queue <> ''
   where u.queue = '' or s.id is not null
   order by case when u.queue = '' then 0 else u.ord end, u.key
  on conflict (key) do update
     set job_queue_id = case when j.locked_at is null then excluded.job_queue_id else j.job_queue_id end,
         task_id = case when j.locked_at is null then excluded.task_id else j.task_id end,
         max_attempts = case when j.locked_at is null then excluded.max_attempts else j.max_attempts end,
         priority = case when j.locked_at is null then excluded.priority else j.priority end,
         flags = case when j.locked_at is null then excluded.flags else j.flags end,
         revision = case when j.locked_at is null then j.revision + 1 else j.revision end,
         attempts = case when j.locked_at is null then 0 else j.attempts end,
         last_error = case when j.locked_at is null then null else j.last_error end,
         updated_at = case when j.locked_at is null then now() else j.updated_at end,
         run_at = case when j.locked_at is not null or $11::boolean and j.attempts = 0 then j.run_at
                       else excluded.run_at end,
         payload = case when j.locked_at is not null then j.payload
                        when json_typeof(j.payload) = 'array' and json_typeof(excluded.payload) = 'array'
                        then (j.payload::jsonb || excluded.payload::jsonb)::json else excluded.payload end
  returning j.key, j.id, j.task_id, j.job_queue_id, j.payload, j.run_at, j.created_at, j.attempts, j.max_attempts, j.priority,
            j.revision, j.flags, j.locked_at is not null as taken
)
select u.key, u.id, t.identifier as task, coalesce(s.queue_name, '') as queue, u.payload, u.run_at, u.created_at, u.attempts, u.max_attempts,
       u.priority, u.revision, u.flags, u.taken
  from upserted as u
  join graphile_worker._private_tasks as t on t.id = u.task_id
  left join graphile_worker._private_job_queues as s on s.id = u.job_queue_id
 where (select case
                 when count(*) = cardinality($9::text[])
                   then case when $10::boolean and bool_or(n.taken) then ('backfill: taken ' || count(*))::boolean
                             else true end
                 when (select count(*)
                         from rows from (unnest($1::text[]), unnest($2::text[])) as g(task, queue)
                        where exists (select from graphile_worker._private_tasks as e where e.identifier = g.task)
                          and (g.queue = ''
                               or exists (select from graphile_worker._private_job_queues as e where e.queue_name = g.queue))
                      ) = cardinality($9::text[])
                   then ('backfill: dropped ' || cardinality($9::text[]) - count(*))::boolean
                 when $10::boolean then ('backfill: names ' || count(*))::boolean
                 else true
               end
          from upserted as n);

-- name: DedupeJobs :many
-- Key mode unsafe_dedupe: an existing job stays as it is, whatever its state.
with upserted as (
  insert into graphile_worker._private_jobs as j (job_queue_id, task_id, payload, run_at, max_attempts, key, priority, flags)
  select s.id, t.id, u.payload::json, coalesce(u.run_at, now()) + u.delay_us * interval '1 microsecond', u.max_attempts, u.key,
         u.priority, nullif(u.flags, '')::jsonb
    from rows from (unnest($1::text[]), unnest($2::text[]), unnest($3::text[]), unnest($4::timestamptz[]),
                    unnest($5::bigint[]), unnest($6::smallint[]), unnest($7::smallint[]),
                    unnest($8::text[]), unnest($9::text[]))
         with ordinality as u(task, queue, payload, run_at, delay_us, max_attempts, priority, flags, key, ord)
    join graphile_worker._private_tasks as t on t.identifier = u.task
    left join graphile_worker._private_job_queues as s on s.queue_name = u.queue and u.queue <> ''
   where u.queue = '' or s.id is not null
   order by case when u.queue = '' then 0 else u.ord end, u.key
  on conflict (key) do update set revision = j.revision + 1, updated_at = now()
  returning j.key, j.id, j.task_id, j.job_queue_id, j.payload, j.run_at, j.created_at, j.attempts, j.max_attempts, j.priority,
            j.revision, j.flags, false as taken
)
select u.key, u.id, coalesce(t.identifier, '') as task, coalesce(s.queue_name, '') as queue, u.payload, u.run_at, u.created_at, u.attempts,
       u.max_attempts, u.priority, u.revision, u.flags, u.taken
  from upserted as u
  left join graphile_worker._private_tasks as t on t.id = u.task_id
  left join graphile_worker._private_job_queues as s on s.id = u.job_queue_id
 where (select case
                 when count(*) = cardinality($9::text[]) then true
                 when (select count(*)
                         from rows from (unnest($1::text[]), unnest($2::text[])) as g(task, queue)
                        where exists (select from graphile_worker._private_tasks as e where e.identifier = g.task)
                          and (g.queue = ''
                               or exists (select from graphile_worker._private_job_queues as e where e.queue_name = g.queue))
                      ) = cardinality($9::text[])
                   then ('backfill: dropped ' || cardinality($9::text[]) - count(*))::boolean
                 when $10::boolean then ('backfill: names ' || count(*))::boolean
                 else true
               end
          from upserted);
