package dbtest

// Strangers makes a schema that has a function, an operator and a type in place of those that
// statements of ours could call by an unqualified name. All of them fail.
const Strangers = `
create schema evil;
create function evil.refuse() returns void language plpgsql as $$ begin raise exception 'a stranger was called'; end $$;
do $do$
declare
  f record;
  types constant oid[] := array(select pg_catalog.to_regtype(name)::oid from unnest(array['text', 'name', 'int2', 'int4', 'int8',
    'oid', 'float8', 'numeric', 'bool', 'timestamptz', 'interval', 'json', 'jsonb', 'text[]', 'int2[]', 'int8[]', 'anyarray',
    'anynonarray', 'anyelement', 'anycompatible', 'anycompatiblearray', 'unknown']) as name
    where pg_catalog.to_regtype(name) is not null); -- anycompatible is new in 13
begin
  for f in
    select p.proname, pg_catalog.pg_get_function_identity_arguments(p.oid) as args, p.proretset, p.prorettype::regtype as result
      from pg_catalog.pg_proc as p
     where p.pronamespace = 'pg_catalog'::regnamespace and p.proargtypes::oid[] <@ types and p.proallargtypes is null
       and (p.prorettype = any(types) or p.prorettype = 'void'::regtype or p.proname = 'pg_notify')
       and (p.proname !~ '_|^(int|text|bool|float|json)' or p.proname ~ '^(pg_notify|set_config|json_|jsonb_|bool_|has_|clock_|make_|array_|row_)')
  loop
    begin
      execute format('create function evil.%I(%s) returns %s %s language plpgsql as %L', f.proname, f.args,
        case when f.proretset then 'setof' else '' end, f.result, 'begin perform evil.refuse(); end');
    exception when others then null;
    end;
  end loop;
  for f in
    select o.oprname, o.oprleft::regtype as l, o.oprright::regtype as r, o.oprresult::regtype as result, o.oid
      from pg_catalog.pg_operator as o
     where o.oprnamespace = 'pg_catalog'::regnamespace and o.oprkind = 'b' and o.oprleft = any(types) and o.oprright = any(types)
       and o.oprresult = any(types)
    union all
    select name, 'bigint', 'interval', 'interval', 0 from unnest(array['*', '/']) as name
    union all
    select '||', 'text', 'bigint', 'text', 0
    union all
    select '=', 'text', 'unknown', 'boolean', 0
  loop
    begin
      execute format('create function evil.%I(%s, %s) returns %s language plpgsql as %L', 'operator_' || f.oid, f.l, f.r, f.result,
        'begin perform evil.refuse(); end');
      execute format('create operator evil.%s (leftarg = %s, rightarg = %s, function = evil.%I)', f.oprname, f.l, f.r, 'operator_' || f.oid);
    exception when others then null;
    end;
  end loop;
  for f in select unnest(array['text', 'json', 'jsonb', 'timestamptz', 'name', 'int8', 'int4', 'int2', 'bool', 'float8']) as typname loop
    execute format('create type evil.%I as enum (%L)', f.typname, 'stranger');
  end loop;
end $do$`
