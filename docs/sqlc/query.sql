-- name: OrdersWaiting :many
-- Orders whose job waits, for its time or for another try.
select o.id, o.customer, j.run_at, j.attempts
  from orders as o
  join graphile_worker.jobs as j on j.key = 'order:' || o.id
 where j.locked_at is null and j.attempts < j.max_attempts
 order by j.run_at, o.id;

-- name: OrdersFailed :many
-- Orders whose job has used its last attempt: somebody has to look.
select o.id, o.customer, j.id as job_id, j.attempts, j.last_error
  from orders as o
  join graphile_worker.jobs as j on j.key = 'order:' || o.id
 where j.locked_at is null and j.attempts >= j.max_attempts
 order by o.id;

-- name: JobsOfOrder :many
-- All jobs with this order in their payload, which the view graphile_worker.jobs leaves out.
select j.id, t.identifier as task, j.run_at, j.is_available
  from graphile_worker._private_jobs as j
  join graphile_worker._private_tasks as t on t.id = j.task_id
 where (j.payload ->> 'order_id')::bigint = @order_id::bigint
 order by j.id;
