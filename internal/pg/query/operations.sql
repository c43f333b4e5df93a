-- Operations of many items, as operators preview and start them, and whoever carries them on (docs/design.md,
-- section 17). A batch is one transaction: it locks the operation's row, changes items, records what became of
-- each, and says how far it has come. So an item is changed once, whoever is killed.

-- name: OperationJobs :many
-- Jobs with ids in a range that match, or, if among is not null, those of these. The conditions are those of jobs.sql.
select j.id, coalesce(t.identifier, '')::text as task, coalesce(s.queue_name, '')::text as queue
  from (
select j.* from graphile_worker._private_jobs as j
 where j.id >= @least::bigint and j.id <= @most::bigint and (sqlc.narg('among')::bigint[] is null or j.id = any(sqlc.narg('among')::bigint[]))
   -- filter
   and (sqlc.narg('ids')::bigint[] is null or j.id = any(sqlc.narg('ids')::bigint[]))
   and (sqlc.narg('keys')::text[] is null or j.key = any(sqlc.narg('keys')::text[]))
   and (sqlc.narg('up_to_id')::bigint is null or j.id <= sqlc.narg('up_to_id')::bigint)
   and (sqlc.narg('tasks')::text[] is null or j.task_id = any(array(
          select t.id from graphile_worker._private_tasks as t where t.identifier = any(sqlc.narg('tasks')::text[]))))
   and (sqlc.narg('queues')::text[] is null or j.job_queue_id = any(array(
          select s.id from graphile_worker._private_job_queues as s where s.queue_name = any(sqlc.narg('queues')::text[]))))
   and (not @no_queue::boolean or j.job_queue_id is null)
   and (not @locked::boolean or j.locked_at is not null)
   and (sqlc.narg('states')::text[] is null or
        case when j.locked_at >= now() - interval '4 hours' and starts_with(j.locked_by, 'backfill-suspect.') then 'suspect'
             when j.locked_at >= now() - interval '4 hours' then 'running'
             when j.attempts >= j.max_attempts then 'failed'
             when j.run_at > now() then 'waiting'
             else 'due' end = any(sqlc.narg('states')::text[]))
   and (sqlc.narg('locked_by')::text[] is null or j.locked_by = any(sqlc.narg('locked_by')::text[])
        or split_part(j.locked_by, '.', 1) = any(sqlc.narg('locked_by')::text[]))
   and (sqlc.narg('min_priority')::smallint is null or j.priority >= sqlc.narg('min_priority')::smallint)
   and (sqlc.narg('max_priority')::smallint is null or j.priority <= sqlc.narg('max_priority')::smallint)
   and (sqlc.narg('min_attempts')::smallint is null or j.attempts >= sqlc.narg('min_attempts')::smallint)
   and (sqlc.narg('max_attempts')::smallint is null or j.attempts <= sqlc.narg('max_attempts')::smallint)
   and (sqlc.narg('run_at_from')::timestamptz is null or j.run_at >= sqlc.narg('run_at_from')::timestamptz)
   and (sqlc.narg('run_at_before')::timestamptz is null or j.run_at < sqlc.narg('run_at_before')::timestamptz)
   and (sqlc.narg('created_from')::timestamptz is null or j.created_at >= sqlc.narg('created_from')::timestamptz)
   and (sqlc.narg('created_before')::timestamptz is null or j.created_at < sqlc.narg('created_before')::timestamptz)
   and (sqlc.narg('error_contains')::text is null or strpos(left(j.last_error, 20000), sqlc.narg('error_contains')::text) > 0)
   and (sqlc.narg('payload_contains')::text is null or
        case when current_setting('server_encoding') <> 'UTF8' and strpos(j.payload::text, '\u') > 0 then false
             when regexp_replace(regexp_replace(j.payload::text, '\\\\', ' ', 'g'),
                                 '\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}', ' ', 'g')
                  ~ '\\u(0000|[dD][89a-fA-F])|[eE][+-]?[0-9]{5}|[0-9]{255}' then false
             else j.payload::jsonb @> sqlc.narg('payload_contains')::text::jsonb end)
   -- end of filter
 order by j.id limit @size::int
  ) as j
  left join graphile_worker._private_tasks as t on t.id = j.task_id
  left join graphile_worker._private_job_queues as s on s.id = j.job_queue_id
 order by j.id;

-- name: SeenNow :one
-- The moment that a preview is of, and the greatest id of a job, or -1.
select clock_timestamp()::timestamptz as seen_at,
       (select coalesce(max(j.id), -1) from graphile_worker._private_jobs as j)::bigint as last_job;

-- name: AddOperation :one
insert into graphile_worker.backfill_operations
  (token, place, action, filter, change, up_to, seen_at, principal, roles, restricted, per_second, matched, more)
values (@token, @place, @action, (@filter::text)::jsonb, (@change::text)::jsonb, @up_to, @seen_at::timestamptz, @principal, @roles::text[],
        @restricted, @per_second, @matched, @more)
returning id, created_at;

-- name: Operations :many
-- The newest first, behind an id.
select o.id, o.place, o.action, o.filter::text as filter, o.change::text as change, o.up_to, o.seen_at, o.principal, o.roles, o.restricted,
       o.reason, o.state, o.per_second, o.matched, o.more, o.created_at, o.started_at, o.ended_at, o.carried_at, o.after_at, o.after,
       o.acted, o.skipped, o.error, (o.created_at < now() - interval '1 hour')::boolean as expired
  from graphile_worker.backfill_operations as o
 where (sqlc.narg('id')::bigint is null or o.id = sqlc.narg('id')::bigint)
   and (sqlc.narg('token')::text is null or o.token = sqlc.narg('token')::text)
   and (sqlc.narg('behind')::bigint is null or o.id < sqlc.narg('behind')::bigint)
   and (sqlc.narg('id')::bigint is not null or sqlc.narg('token')::text is not null or o.state <> 'previewed')
 order by o.id desc limit @size::int;

-- name: LockOperation :many
select o.state, (o.created_at < now() - interval '1 hour')::boolean as expired from graphile_worker.backfill_operations as o
 where o.id = @id for update;

-- name: StartOperation :exec
-- Starts what was previewed, or stopped. Whoever starts it answers for the rest of it.
update graphile_worker.backfill_operations as o
   set state = 'running', started_at = coalesce(o.started_at, clock_timestamp()), ended_at = null, due_at = greatest(o.due_at, clock_timestamp()), error = '',
       reason = @reason, principal = @principal, roles = @roles::text[], restricted = @restricted
 where o.id = @id;

-- name: EndOperation :exec
update graphile_worker.backfill_operations as o
   set state = @state, ended_at = clock_timestamp(), error = @error where o.id = @id;

-- name: RunningOperations :many
-- What can be carried on, what waits for longest first, and in how many seconds its next batch is due.
select o.id, greatest(extract(epoch from o.due_at - clock_timestamp()), 0)::float8 as due_in
  from graphile_worker.backfill_operations as o
 where o.state = 'running' and (not o.restricted or @restricted::boolean) and (sqlc.narg('id')::bigint is null or o.id = sqlc.narg('id')::bigint)
 order by o.due_at, o.id limit 100;

-- name: TakeOperation :many
-- An operation whose next batch is due, if nobody else does it at this moment.
select o.id from graphile_worker.backfill_operations as o
 where o.id = @id and o.state = 'running' and o.due_at <= clock_timestamp() and (not o.restricted or @restricted::boolean)
   for update skip locked;

-- name: NoteBatch :exec
-- items were changed, or looked at, of which the next batch is due later.
update graphile_worker.backfill_operations as o
   set after_at = @after_at::timestamptz, after = @after, acted = o.acted + @acted::bigint, skipped = o.skipped + @skipped::bigint,
       carried_at = clock_timestamp(),
       due_at = clock_timestamp() + coalesce((@items::bigint) / nullif(o.per_second, 0), 0) * interval '1 second'
 where o.id = @id;

-- name: AddItems :exec
insert into graphile_worker.backfill_operation_items (operation_id, item_id, task, queue, skip, worker, job_id, detail)
select @operation_id::bigint, u.item_id, u.task, u.queue, u.skip, u.worker, nullif(u.job_id, 0), u.detail
  from rows from (unnest(@ids::bigint[]), unnest(@tasks::text[]), unnest(@queues::text[]), unnest(@skips::text[]), unnest(@workers::text[]),
                  unnest(@job_ids::bigint[]), unnest(@details::text[])) as u(item_id, task, queue, skip, worker, job_id, detail);

-- name: ItemsMissing :many
-- Which of these ids no item of an operation has.
select u.id::bigint as id from unnest(@ids::bigint[]) as u(id)
 where not exists (select from graphile_worker.backfill_operation_items as i where i.operation_id = @operation_id and i.item_id = u.id)
 group by u.id order by u.id;

-- name: OperationItems :many
-- A page of what became of items, by id.
select i.item_id, i.at, i.task, i.queue, i.skip, i.worker, coalesce(i.job_id, 0)::bigint as job_id, i.detail
  from graphile_worker.backfill_operation_items as i
 where i.operation_id = @operation_id and i.item_id > @after::bigint
   and (sqlc.narg('skips')::text[] is null or i.skip = any(sqlc.narg('skips')::text[]))
 order by i.item_id limit @size::int;

-- name: SkippedBy :many
-- Why items were left as they were, of the first 100,000 that were.
select i.skip, count(*)::bigint as items
  from (select i.skip from graphile_worker.backfill_operation_items as i
         where i.operation_id = @operation_id and i.skip <> '' limit 100000) as i
 group by i.skip order by i.skip;

-- name: ExpireItems :execrows
-- Items of an operation that ended long ago, some at a time.
with old as materialized (
  select i.operation_id, i.item_id from graphile_worker.backfill_operation_items as i
   where i.operation_id = any(array(
     select o.id from graphile_worker.backfill_operations as o
      where o.state in ('done', 'stopped') and o.ended_at < now() - make_interval(secs => @seconds::float8)))
   limit 10000
)
delete from graphile_worker.backfill_operation_items as i using old where i.operation_id = old.operation_id and i.item_id = old.item_id;

-- name: ExpireOperations :execrows
-- Without items, and previews that nobody has started.
delete from graphile_worker.backfill_operations as o
 where o.id = any(array(
   select o.id from graphile_worker.backfill_operations as o
    where (o.state = 'previewed' and o.created_at < now() - interval '1 day'
           or o.state in ('done', 'stopped') and o.ended_at < now() - make_interval(secs => @seconds::float8))
      and not exists (select from graphile_worker.backfill_operation_items as i where i.operation_id = o.id)
    order by o.id limit 1000 for update skip locked));

-- name: ExpireRecords :execrows
delete from graphile_worker.backfill_audit as a
 where a.id = any(array(
   select a.id from graphile_worker.backfill_audit as a
    where a.at < now() - make_interval(secs => @seconds::float8) order by a.at, a.id limit 1000 for update skip locked));

-- name: AddRecord :execrows
-- No row: there is one with the id.
insert into graphile_worker.backfill_audit (id, principal, action, target_kind, target_id, task, queue, reason, operation_id, detail)
values (@id, @principal, @action, @target_kind, @target_id, @task, @queue, @reason, sqlc.narg('operation_id')::bigint, (@detail::text)::jsonb)
on conflict (id) do nothing;

-- name: Records :many
-- A page of records, the newest first.
select a.id, a.at, a.principal, a.action, a.target_kind, a.target_id, a.task, a.queue, a.reason, coalesce(a.operation_id, 0)::bigint as operation_id,
       a.detail::text as detail
  from graphile_worker.backfill_audit as a
 where (sqlc.narg('id')::text is null or a.id = sqlc.narg('id')::text)
   and (sqlc.narg('behind_at')::timestamptz is null or (a.at, a.id) < (sqlc.narg('behind_at')::timestamptz, sqlc.narg('behind')::text))
   and (sqlc.narg('principals')::text[] is null or a.principal = any(sqlc.narg('principals')::text[]))
   and (sqlc.narg('actions')::text[] is null or a.action = any(sqlc.narg('actions')::text[]))
   and (sqlc.narg('target_kind')::text is null or a.target_kind = sqlc.narg('target_kind')::text)
   and (sqlc.narg('target_id')::text is null or a.target_id = sqlc.narg('target_id')::text)
   and (sqlc.narg('at_from')::timestamptz is null or a.at >= sqlc.narg('at_from')::timestamptz)
   and (sqlc.narg('at_before')::timestamptz is null or a.at < sqlc.narg('at_before')::timestamptz)
 order by a.at desc, a.id desc limit @size::int;
