-- The schedule: the wire's known_crontabs protocol (contract section 7).

-- name: KnownCrontabs :many
select identifier, known_since, last_execution from graphile_worker._private_known_crontabs where identifier = any(@identifiers::text[]);

-- name: AddCrontabs :exec
insert into graphile_worker._private_known_crontabs (identifier, known_since)
select u.identifier, @start::timestamptz from unnest(@identifiers::text[]) as u(identifier)
 order by u.identifier
on conflict (identifier) do nothing;

-- name: TickCrontabs :many
-- The identifiers that have not executed this tick or a later one, and the server's time. Whoever gets one here enqueues its job in the same transaction.
insert into graphile_worker._private_known_crontabs as k (identifier, known_since, last_execution)
select u.identifier, @tick::timestamptz, @tick::timestamptz from unnest(@identifiers::text[]) with ordinality as u(identifier, ord)
 order by u.ord
on conflict (identifier) do update set last_execution = excluded.last_execution
 where k.last_execution is null or k.last_execution < excluded.last_execution
returning k.identifier, now()::timestamptz as at;
