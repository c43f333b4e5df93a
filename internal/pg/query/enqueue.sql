-- Enqueuing. The rows are those of the contract's add_job (section 4); what differs is the way: keyless jobs by one insert,
-- keyed ones by statements that repair the lost-row race of section 4.4, and no notification inside the transaction (R17).

-- name: InsertJob :one
-- One job without key and queue. No row: the task has no id yet (AddTasks). Parameters as in InsertJobs, in its order.
insert into graphile_worker._private_jobs (task_id, payload, run_at, max_attempts, priority, flags)
select t.id, $2::json, coalesce($3::timestamptz, now()) + $4::bigint * interval '1 microsecond', $5::smallint, $6::smallint,
       nullif($7::text, '')::jsonb
  from graphile_worker._private_tasks as t
 where t.identifier = $1::text
returning id, run_at, created_at;

-- name: InsertJobs :many
-- Any number of jobs without key and queue, in the order of the arrays. Nothing is inserted unless every task has an id.
with spec as materialized (
  select u.ord, t.id as task_id, u.payload, u.run_at, u.delay_us, u.max_attempts, u.priority, u.flags
    from rows from (unnest(@tasks::text[]), unnest(@payloads::text[]), unnest(@run_ats::timestamptz[]), unnest(@delays_us::bigint[]),
                    unnest(@max_attempts::smallint[]), unnest(@priorities::smallint[]), unnest(@flags::text[]))
         with ordinality as u(task, payload, run_at, delay_us, max_attempts, priority, flags, ord)
    join graphile_worker._private_tasks as t on t.identifier = u.task
)
insert into graphile_worker._private_jobs (task_id, payload, run_at, max_attempts, priority, flags)
select task_id, payload::json, coalesce(run_at, now()) + delay_us * interval '1 microsecond', max_attempts, priority,
       nullif(flags, '')::jsonb
  from spec
 where (select count(*) from spec) = cardinality(@tasks::text[])
 order by ord
returning id, run_at, created_at;

-- name: InsertQueuedJobs :many
-- The same for jobs of which some have a queue. A queue's name that somebody else is inserting at this moment is missing here:
-- then nothing is inserted, and the statement is to be sent again.
with given as materialized (
  select u.ord, u.task, u.queue, u.payload, u.run_at, u.delay_us, u.max_attempts, u.priority, u.flags
    from rows from (unnest(@tasks::text[]), unnest(@queues::text[]), unnest(@payloads::text[]), unnest(@run_ats::timestamptz[]),
                    unnest(@delays_us::bigint[]), unnest(@max_attempts::smallint[]), unnest(@priorities::smallint[]),
                    unnest(@flags::text[]))
         with ordinality as u(task, queue, payload, run_at, delay_us, max_attempts, priority, flags, ord)
), added as (
  insert into graphile_worker._private_job_queues (queue_name)
  select distinct given.queue from given
   where given.queue <> ''
     and not exists (select from graphile_worker._private_job_queues as s where s.queue_name = given.queue)
   order by given.queue
  on conflict do nothing
  returning id, queue_name
), named as materialized (
  select s.id, s.queue_name from graphile_worker._private_job_queues as s where s.queue_name = any(@queues::text[])
  union all
  select added.id, added.queue_name from added
), spec as materialized (
  select given.ord, t.id as task_id, named.id as queue_id, given.payload, given.run_at, given.delay_us, given.max_attempts,
         given.priority, given.flags
    from given
    join graphile_worker._private_tasks as t on t.identifier = given.task
    left join named on named.queue_name = given.queue and given.queue <> ''
   where given.queue = '' or named.id is not null
)
insert into graphile_worker._private_jobs (job_queue_id, task_id, payload, run_at, max_attempts, priority, flags)
select queue_id, task_id, payload::json, coalesce(run_at, now()) + delay_us * interval '1 microsecond', max_attempts, priority,
       nullif(flags, '')::jsonb
  from spec
 where (select count(*) from spec) = cardinality(@tasks::text[])
 order by ord
returning id, run_at, created_at;

-- name: AddQueues :exec
insert into graphile_worker._private_job_queues (queue_name)
select distinct n.name from unnest(@names::text[]) as n(name)
 where not exists (select from graphile_worker._private_job_queues as s where s.queue_name = n.name)
 order by n.name
on conflict do nothing;

-- name: LockKeys :exec
-- Locks the jobs with these keys, so that no worker claims one between the next two statements.
select j.id from graphile_worker._private_jobs as j where j.key = any(@keys::text[]) order by j.key for update;

-- name: SupersedeKeys :exec
-- A job that runs, or that will not be retried, gives up its key (contract section 1.5, add_jobs step 3).
update graphile_worker._private_jobs as j
   set key = null, attempts = j.max_attempts, updated_at = now()
 where j.key = any(@keys::text[]) and j.is_available is not true;

-- name: UpsertJobs :many
-- Key modes replace and preserve_run_at (contract section 1.5, add_jobs step 5). Each key once. No row for a key: a worker took
-- the job after all, or somebody deleted the name of its task or queue; send the statements again. Keys are inserted in their order, so that two transactions do not wait for each
-- other; but jobs of queues in the order in which they were given, because it is the order in which they will run (R14, R25).
with upserted as (
  insert into graphile_worker._private_jobs as j (job_queue_id, task_id, payload, run_at, max_attempts, key, priority, flags)
  select s.id, t.id, u.payload::json, coalesce(u.run_at, now()) + u.delay_us * interval '1 microsecond', u.max_attempts, u.key,
         u.priority, nullif(u.flags, '')::jsonb
    from rows from (unnest(@tasks::text[]), unnest(@queues::text[]), unnest(@payloads::text[]), unnest(@run_ats::timestamptz[]),
                    unnest(@delays_us::bigint[]), unnest(@max_attempts::smallint[]), unnest(@priorities::smallint[]),
                    unnest(@flags::text[]), unnest(@keys::text[]))
         with ordinality as u(task, queue, payload, run_at, delay_us, max_attempts, priority, flags, key, ord)
    join graphile_worker._private_tasks as t on t.identifier = u.task
    left join graphile_worker._private_job_queues as s on s.queue_name = u.queue and u.queue <> ''
   where u.queue = '' or s.id is not null
   order by case when u.queue = '' then 0 else u.ord end, u.key
  on conflict (key) do update
     set job_queue_id = excluded.job_queue_id, task_id = excluded.task_id, max_attempts = excluded.max_attempts,
         priority = excluded.priority, flags = excluded.flags, revision = j.revision + 1, attempts = 0, last_error = null,
         updated_at = now(),
         run_at = case when @preserve_run_at::boolean and j.attempts = 0 then j.run_at else excluded.run_at end,
         payload = case when json_typeof(j.payload) = 'array' and json_typeof(excluded.payload) = 'array'
                        then (j.payload::jsonb || excluded.payload::jsonb)::json else excluded.payload end
   where j.locked_at is null
  returning j.key, j.id, j.task_id, j.job_queue_id, j.payload, j.run_at, j.created_at, j.attempts, j.max_attempts, j.priority,
            j.revision, j.flags
)
select u.key, u.id, t.identifier as task, coalesce(s.queue_name, '') as queue, u.payload, u.run_at, u.created_at, u.attempts, u.max_attempts,
       u.priority, u.revision, u.flags
  from upserted as u
  join graphile_worker._private_tasks as t on t.id = u.task_id
  left join graphile_worker._private_job_queues as s on s.id = u.job_queue_id;

-- name: DedupeJobs :many
-- Key mode unsafe_dedupe: an existing job stays as it is, whatever its state.
with upserted as (
  insert into graphile_worker._private_jobs as j (job_queue_id, task_id, payload, run_at, max_attempts, key, priority, flags)
  select s.id, t.id, u.payload::json, coalesce(u.run_at, now()) + u.delay_us * interval '1 microsecond', u.max_attempts, u.key,
         u.priority, nullif(u.flags, '')::jsonb
    from rows from (unnest(@tasks::text[]), unnest(@queues::text[]), unnest(@payloads::text[]), unnest(@run_ats::timestamptz[]),
                    unnest(@delays_us::bigint[]), unnest(@max_attempts::smallint[]), unnest(@priorities::smallint[]),
                    unnest(@flags::text[]), unnest(@keys::text[]))
         with ordinality as u(task, queue, payload, run_at, delay_us, max_attempts, priority, flags, key, ord)
    join graphile_worker._private_tasks as t on t.identifier = u.task
    left join graphile_worker._private_job_queues as s on s.queue_name = u.queue and u.queue <> ''
   where u.queue = '' or s.id is not null
   order by case when u.queue = '' then 0 else u.ord end, u.key
  on conflict (key) do update set revision = j.revision + 1, updated_at = now()
  returning j.key, j.id, j.task_id, j.job_queue_id, j.payload, j.run_at, j.created_at, j.attempts, j.max_attempts, j.priority,
            j.revision, j.flags
)
select u.key, u.id, coalesce(t.identifier, '') as task, coalesce(s.queue_name, '') as queue, u.payload, u.run_at, u.created_at, u.attempts,
       u.max_attempts, u.priority, u.revision, u.flags
  from upserted as u
  left join graphile_worker._private_tasks as t on t.id = u.task_id
  left join graphile_worker._private_job_queues as s on s.id = u.job_queue_id;
