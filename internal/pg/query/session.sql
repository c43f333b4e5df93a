-- name: Notify :exec
select pg_notify(@channel::text, @payload::text);

-- name: Ping :one
-- Notifies, and tells whether the server takes writes, and its time.
select current_setting('transaction_read_only')::boolean as read_only,
       (extract(epoch from clock_timestamp()) * 1000000)::bigint as now_us
  from pg_notify(@channel::text, @payload::text);
