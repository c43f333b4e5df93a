-- The schema itself. Records nothing: 0018.sql makes the ledger.
--
-- Every file here names the schema graphile_worker; "backfill migrate --print" writes all of them
-- with any name. By hand, as the role that is to own everything:
--
--   for f in wire/*.sql own/*.sql; do
--     case $f in own/0002*) continue;; esac
--     psql -X -v ON_ERROR_STOP=1 --single-transaction -f "$f" || break
--   done
--   psql -X -v ON_ERROR_STOP=1 -f own/0002_queue_index.sql
--
-- Skip this file if an administrator has made the schema: PostgreSQL asks for the right to create
-- schemas in the database even if there is nothing left to create.

create schema if not exists graphile_worker;
