select
  current_setting('server_version_num')::int as version,
  n.oid is not null as present,
  array(
    select case when c.relname <> 'migrations' or c.relkind in ('r', 'p') then c.relname::text else 'migrations (not a table)' end
    from pg_catalog.pg_class as c
    where c.relnamespace = n.oid and c.relname = any($2::text[])
    union
    select t.typname::text from pg_catalog.pg_type as t
    where t.typnamespace = n.oid and t.typname = any($2::text[]) and t.typrelid = 0 and t.typelem = 0
  ) as relations,
  exists (
    select from pg_catalog.pg_class as c
    where c.relnamespace = n.oid and c.relkind in ('r', 'p', 'v', 'm', 'f') and not c.relispartition and c.relname <> all($2::text[])
  ) as strangers,
  array(
    select distinct p.proname::text from pg_catalog.pg_proc as p
    where p.pronamespace = n.oid and p.proname = any($3::text[])
  ) as functions,
  coalesce((
    select case when i.indisvalid then 2 else 1 end
    from pg_catalog.pg_class as c
    join pg_catalog.pg_index as i on i.indexrelid = c.oid
    where c.relnamespace = n.oid and c.relname = $4
  ), 0) as index,
  coalesce((
    select bool_and(
      has_table_privilege(c.oid, 'select') and has_table_privilege(c.oid, 'insert')
      and (c.relname <> '_private_jobs' or has_table_privilege(c.oid, 'update'))
      and (not row_security_active(c.oid) or exists (
        select from pg_catalog.pg_policy as p
        cross join unnest(p.polroles) as r (oid)
        where p.polrelid = c.oid and p.polpermissive and case when r.oid = 0 then true else pg_has_role(r.oid, 'usage') end
      ))
    )
    from pg_catalog.pg_class as c
    where c.relnamespace = n.oid and c.relname in ('_private_jobs', '_private_job_queues', '_private_tasks')
  ), false) as writable,
  coalesce((
    select bool_or(has_function_privilege(p.oid, 'execute'))
    from pg_catalog.pg_proc as p
    where p.pronamespace = n.oid and p.proname = 'backfill_enqueue'
  ), false) as callable,
  current_user::text as role,
  array(
    select c.relname::text from pg_catalog.pg_class as c
    where c.relnamespace = n.oid and c.relforcerowsecurity and row_security_active(c.oid) and pg_has_role(c.relowner, 'usage')
      and c.relname in ('_private_jobs', '_private_job_queues', '_private_tasks', '_private_known_crontabs', 'backfill_workers', 'backfill_pauses',
                        'backfill_crashes', 'backfill_dlq', 'backfill_queue_pauses', 'backfill_cancels',
                        'backfill_audit', 'backfill_operations', 'backfill_operation_items', 'backfill_traces',
                        'backfill_counters', 'backfill_progress', 'backfill_history', 'backfill_history_tasks')
      and not exists (
        select from pg_catalog.pg_policy as p
        cross join unnest(p.polroles) as r (oid)
        where p.polrelid = c.oid and p.polpermissive and case when r.oid = 0 then true else pg_has_role(r.oid, 'usage') end
      )
    order by 1
  ) as forced,
  array(
    select distinct m.found[1]
    from pg_catalog.pg_proc as p
    cross join regexp_matches(p.prosrc, '("(?:[^"]|"")+"|[[:alpha:]_][[:alnum:]_$]*)[.]_private_', 'g') as m (found)
    where p.pronamespace = n.oid and p.proname = any($3::text[])
      and strpos(p.prosrc, '"' || replace(n.nspname, '"', '""') || '"._private_') = 0
    order by 1
  ) as qualifiers,
  coalesce((
    select string_agg(format(
      'select %L::text as sequence, %L::text as relation, last_value + is_called::int as next, '
      '(select coalesce(max(id), 0) from %I.%I) as highest from %I.%I',
      format('%I.%I', sn.nspname, s.relname), format('%I.%I', n.nspname, c.relname), n.nspname, c.relname, sn.nspname, s.relname
    ), ' union all ' order by c.relname)
    from pg_catalog.pg_class as c
    join pg_catalog.pg_attribute as a on a.attrelid = c.oid and a.attname = 'id'
    join pg_catalog.pg_depend as d
      on d.refclassid = 'pg_catalog.pg_class'::regclass and d.refobjid = c.oid and d.refobjsubid = a.attnum
      and d.classid = 'pg_catalog.pg_class'::regclass and d.deptype in ('a', 'i')
    join pg_catalog.pg_class as s on s.oid = d.objid
    join pg_catalog.pg_namespace as sn on sn.oid = s.relnamespace
    where c.relnamespace = n.oid and c.relname in ('_private_jobs', '_private_job_queues', '_private_tasks', 'backfill_dlq')
      and has_table_privilege(c.oid, 'select') and case when s.relkind = 'S' then has_sequence_privilege(s.oid, 'select') else false end
  ), '') as sequences
from (values (1)) as one
left join pg_catalog.pg_namespace as n on n.nspname = $1
