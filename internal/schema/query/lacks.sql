select u.ord::int
from rows from (unnest($3::text[]), unnest($4::text[]), unnest($5::text[])) with ordinality as u (kind, name, privileges, ord)
left join pg_catalog.pg_namespace as n on n.nspname = $1
left join pg_catalog.pg_class as c on c.relnamespace = n.oid and c.relname = u.name
left join pg_catalog.pg_proc as f on f.pronamespace = n.oid and f.proname = u.name
where not coalesce(
  case u.kind
    when 'policy' then exists (
      select from pg_catalog.pg_policy as p
      where p.polrelid = c.oid and p.polname = $6 and (p.polcmd = '*' or u.privileges = 'select' and p.polcmd = 'r') and p.polpermissive
        and p.polroles = array[(select r.oid from pg_catalog.pg_roles as r where r.rolname = $2)]
    )
    else (
      select bool_and(
        case u.kind
          when 'schema' then has_schema_privilege($2, n.oid, p.privilege)
          when 'table' then has_table_privilege($2, c.oid, p.privilege)
          else has_function_privilege($2, f.oid, p.privilege)
        end
      )
      from unnest(string_to_array(u.privileges, ', ')) as p (privilege)
    )
  end, false)
order by u.ord
