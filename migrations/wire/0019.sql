-- A marker, and breaking: from here on locked_by names a pool, not a worker.
--
-- By hand on a database in use: stop the Graphile Worker 0.16 workers first; afterwards
--   notify "worker:migrate", '{"migrationNumber":19,"breaking":true}';
-- stops those that were forgotten.

insert into graphile_worker.migrations (id, breaking)
values (19, true);
