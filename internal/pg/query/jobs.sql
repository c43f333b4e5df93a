-- Lists of jobs for operators (docs/design.md, section 17). As in why.sql, each statement is one fact.
--
-- A condition whose parameter is null is not asked for. The statements that select jobs have the same conditions
-- behind "-- filter", which a test compares. A payload is cast to jsonb only if that cannot fail: in PostgreSQL 12 to
-- 15 nothing tells otherwise. What is searched is bounded by ids, which JobsBelow and JobsAbove find.

-- name: JobsNewest :many
-- A page of jobs with ids in a range, those with the greatest ids first.
select j.id, coalesce(t.identifier, '')::text as task, (t.id is null)::boolean as task_gone, coalesce(s.queue_name, '')::text as queue,
       (j.job_queue_id is not null and s.id is null)::boolean as queue_gone, coalesce(j.key, '')::text as key, j.priority, j.run_at,
       j.attempts, j.max_attempts, j.created_at, j.updated_at, j.locked_at, coalesce(j.locked_by, '')::text as locked_by, j.revision,
       coalesce((select array_agg(f order by f) from jsonb_object_keys(case jsonb_typeof(j.flags) when 'object' then j.flags else '{}' end) as f),
                '{}')::text[] as flags,
       case when j.locked_at >= now() - interval '4 hours' and starts_with(j.locked_by, 'backfill-suspect.') then 'suspect'
            when j.locked_at >= now() - interval '4 hours' then 'running'
            when j.attempts >= j.max_attempts then 'failed'
            when j.run_at > now() then 'waiting'
            else 'due' end::text as state,
       coalesce(left(j.last_error, 20000), '')::text as last_error, coalesce(length(j.last_error) > 20000, false)::boolean as error_cut,
       octet_length(j.payload::text)::bigint as payload_bytes,
       case when octet_length(j.payload::text) <= @payload_limit::bigint then j.payload::text else '' end::text as payload
  from (
select j.* from graphile_worker._private_jobs as j
 where j.id >= @least::bigint and j.id <= @most::bigint and (sqlc.narg('but')::bigint[] is null or j.id <> all(sqlc.narg('but')::bigint[]))
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
 order by j.id desc limit @size::int
  ) as j
  left join graphile_worker._private_tasks as t on t.id = j.task_id
  left join graphile_worker._private_job_queues as s on s.id = j.job_queue_id
 order by j.id desc;

-- name: JobsOldest :many
-- The same, those with the smallest ids first.
select j.id, coalesce(t.identifier, '')::text as task, (t.id is null)::boolean as task_gone, coalesce(s.queue_name, '')::text as queue,
       (j.job_queue_id is not null and s.id is null)::boolean as queue_gone, coalesce(j.key, '')::text as key, j.priority, j.run_at,
       j.attempts, j.max_attempts, j.created_at, j.updated_at, j.locked_at, coalesce(j.locked_by, '')::text as locked_by, j.revision,
       coalesce((select array_agg(f order by f) from jsonb_object_keys(case jsonb_typeof(j.flags) when 'object' then j.flags else '{}' end) as f),
                '{}')::text[] as flags,
       case when j.locked_at >= now() - interval '4 hours' and starts_with(j.locked_by, 'backfill-suspect.') then 'suspect'
            when j.locked_at >= now() - interval '4 hours' then 'running'
            when j.attempts >= j.max_attempts then 'failed'
            when j.run_at > now() then 'waiting'
            else 'due' end::text as state,
       coalesce(left(j.last_error, 20000), '')::text as last_error, coalesce(length(j.last_error) > 20000, false)::boolean as error_cut,
       octet_length(j.payload::text)::bigint as payload_bytes,
       case when octet_length(j.payload::text) <= @payload_limit::bigint then j.payload::text else '' end::text as payload
  from (
select j.* from graphile_worker._private_jobs as j
 where j.id >= @least::bigint and j.id <= @most::bigint and (sqlc.narg('but')::bigint[] is null or j.id <> all(sqlc.narg('but')::bigint[]))
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

-- name: JobsBelow :one
-- How many jobs there are in a range of ids, up to so many, and the smallest id of those that are next to its upper end.
select coalesce(min(n.id), 0)::bigint as bound, count(*)::bigint as jobs
  from (select j.id from graphile_worker._private_jobs as j where j.id >= @least::bigint and j.id <= @most::bigint
         order by j.id desc limit @size::int) as n;

-- name: JobsAbove :one
-- The same from its lower end, with the greatest id.
select coalesce(max(n.id), 0)::bigint as bound, count(*)::bigint as jobs
  from (select j.id from graphile_worker._private_jobs as j where j.id >= @least::bigint and j.id <= @most::bigint
         order by j.id limit @size::int) as n;
