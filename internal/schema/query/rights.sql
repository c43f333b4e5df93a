select current_user::text, i.installed, w.writes,
  coalesce((
    select pg_catalog.pg_get_userbyid(c.relowner)::text from pg_catalog.pg_class as c
    where c.relnamespace = n.oid and c.relname = '_private_jobs' and not pg_has_role(c.relowner, 'usage')
  ), ''),
  array(
    select format('GRANT CREATE ON DATABASE %I TO %I;', current_database(), current_user)
    where n.oid is null and not has_database_privilege(current_database(), 'create')
    union all
    select format('GRANT %s ON SCHEMA %I TO %I;', string_agg(p.name, ', ' order by p.name desc), n.nspname, current_user)
    from (values ('USAGE', true), ('CREATE', w.writes)) as p (name, needed)
    where p.needed and not has_schema_privilege(n.oid, p.name)
    having count(*) > 0
    union all
    select format('GRANT %s ON %I.%I TO %I;', l.needed, n.nspname, c.relname, current_user)
    from pg_catalog.pg_class as c, (select case when w.writes then 'SELECT, INSERT' else 'SELECT' end as needed) as l
    where c.relnamespace = n.oid and c.relname in ('migrations', 'backfill_migrations')
      and not (has_table_privilege(c.oid, 'select') and (not w.writes or has_table_privilege(c.oid, 'insert')))
    order by 1
  )
from (values (1)) as one
left join pg_catalog.pg_namespace as n on n.nspname = $1
cross join lateral (
  select exists (
    select from pg_catalog.pg_class as c where c.relnamespace = n.oid and c.relname = 'backfill_migrations'
  ) as installed
) as i
cross join lateral (select $2 or not i.installed and $3 as writes) as w
