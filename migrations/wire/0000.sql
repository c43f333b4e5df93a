-- The schema itself. Records nothing: the ledger is made by 0018.sql.
--
-- Every file here names the schema graphile_worker; the runner puts the configured name in
-- its place. By hand, as the role that is to own everything:
--
--   for f in wire/0000.sql wire/0018.sql wire/0019.sql wire/0020.sql own/0001_workers.sql own/0003_enqueue.sql; do
--     psql -X -v ON_ERROR_STOP=1 --single-transaction -f "$f" || break
--   done
--   psql -X -v ON_ERROR_STOP=1 -f own/0002_queue_index.sql
--
-- "backfill migrate --print" writes all of it, with any name.
--
-- Skip this file when an administrator has made the schema: PostgreSQL asks for the right to
-- create schemas in the database even if there is nothing left to create.

create schema if not exists graphile_worker;
