select coalesce(string_agg(line, '; ' order by line), '')
from (
  select format(
    'pid %s (user %s, application "%s", %s) holds %s',
    a.pid, coalesce(a.usename, '?'), coalesce(a.application_name, ''), coalesce(a.state, 'state not visible'),
    string_agg(distinct coalesce(l.mode || ' on ' || c.relname, 'the lock of another backfill'), ', ')
  ) as line
  from pg_catalog.pg_locks as l
  join pg_catalog.pg_stat_activity as a on a.pid = l.pid
  join pg_catalog.pg_database as d on d.oid = l.database and d.datname = current_database()
  left join pg_catalog.pg_class as c
    on c.oid = l.relation
    and c.relkind in ('r', 'v')
    and c.relnamespace = (select n.oid from pg_catalog.pg_namespace as n where n.nspname = $1)
  where l.granted
    and l.pid <> pg_backend_pid()
    and (
      c.oid is not null
      or l.locktype = 'advisory' and l.objsubid = 1
        and (l.classid::bigint << 32) | l.objid::bigint = $2
    )
  group by a.pid, a.usename, a.application_name, a.state
) as holders
