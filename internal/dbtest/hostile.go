package dbtest

import (
	"strings"
	"testing"
)

// canary is a table that attacks in Hostile would drop or change.
const canary = `create table public.canary (id int); insert into public.canary select generate_series(1, 3)`

// Hostile are texts that do harm where they are taken for more than text: as SQL, as a format, as
// part of a path or a line.
func Hostile() []string {
	return []string{
		`'; drop table public.canary; --`,
		`"; drop table public.canary; --`,
		`'); drop table public.canary; --`,
		`"."_private_jobs"; drop table public.canary; --`,
		`\'; drop table public.canary; --`,
		`$$; drop table public.canary; $$`,
		`$backfill$; drop table public.canary; $backfill$`,
		`*/ drop table public.canary; /*`,
		`' || (delete from public.canary) || '`,
		`{a,"b",NULL,\"}`, `NULL`, `$1`, `:name ? @p`, `graphile_worker`, `%s%d%v%!(EXTRA)%n`,
		"a\n; drop table public.canary", "\x1b[2J\x1b]0;title\x07", "tab\tand\rreturn",
		"\u02bc; drop table public.canary; --", "\uff07; drop table public.canary; --", "\u202etxet", "\ufeffa", "\u00a0",
		"NUL\x00; drop table public.canary", "\xbf'; drop table public.canary; --", "\xed\xa0\x80", "../../etc/passwd", "`id`$(id)",
		strings.Repeat("x", 10_000), strings.Repeat("'", 10_000), strings.Repeat("é", 63), strings.Repeat("q", 128), " ", "",
	}
}

// Plant makes the table that hostile texts are after.
func Plant(t *testing.T, db Execer) {
	t.Helper()
	Run(t, db, canary)
}

// Dump is what a database has apart from one schema: relations, functions, types, triggers, roles,
// settings, and what is in the table of Plant.
func Dump(t *testing.T, db Execer, except string) string {
	t.Helper()
	return Get[string](t, db, `select string_agg(line, E'\n' order by line) from (
		select format('relation %s %s %s', c.relkind, n.nspname, c.relname) as line
		  from pg_class as c join pg_namespace as n on n.oid = c.relnamespace where n.nspname <> $1 and n.nspname !~ '^pg_(toast|temp)'
		union all select format('function %s %s %s', n.nspname, p.proname, md5(p.prosrc))
		  from pg_proc as p join pg_namespace as n on n.oid = p.pronamespace where n.nspname <> $1
		union all select format('type %s %s', n.nspname, t.typname)
		  from pg_type as t join pg_namespace as n on n.oid = t.typnamespace where n.nspname <> $1 and n.nspname !~ '^pg_(toast|temp)'
		union all select format('schema %s', nspname) from pg_namespace where nspname <> $1 and nspname !~ '^pg_(toast|temp)'
		union all select format('trigger %s %s', tgname, tgrelid::regclass) from pg_trigger
		union all select format('setting %s', setconfig) from pg_db_role_setting as s join pg_database as d on d.oid = s.setdatabase where d.datname = current_database()
		union all select format('canary %s', id) from public.canary) as x`, except)
}
