package main

import (
	"net/url"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/internal/needs"
	"github.com/backfillhq/go/migrations"
	"github.com/backfillhq/go/testutil/pgtest"
)

// catalogSQL lists everything that there is in a schema, ours and Graphile Worker's, with definitions and rights.
const catalogSQL = `
with n as (select oid, nspname, nspacl from pg_namespace where nspname = $1)
select line from (
  select 'schema ' || nspname || coalesce(' ' || nspacl::text, '') from n
  union all
  select concat_ws(' ', 'relation', c.relname, c.relkind, c.relrowsecurity, c.reloptions, c.relacl)
    from pg_class c join n on c.relnamespace = n.oid
  union all
  select concat_ws(' ', 'column', c.relname, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity,
         pg_get_expr(d.adbin, d.adrelid))
    from pg_class c join n on c.relnamespace = n.oid join pg_attribute a on a.attrelid = c.oid and a.attnum > 0
    left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
  union all
  select concat_ws(' ', 'constraint', k.conrelid::regclass, k.conname, pg_get_constraintdef(k.oid))
    from pg_constraint k join n on k.connamespace = n.oid
  union all
  select pg_get_indexdef(i.indexrelid) || ' ' || i.indisvalid from pg_index i join pg_class c on c.oid = i.indexrelid join n on c.relnamespace = n.oid
  union all
  select 'view ' || pg_get_viewdef(c.oid) from pg_class c join n on c.relnamespace = n.oid where c.relkind = 'v'
  union all
  select concat_ws(' ', pg_get_functiondef(p.oid), p.proacl) from pg_proc p join n on p.pronamespace = n.oid
  union all
  select concat_ws(' ', 'policy', c.relname, p.polname, p.polcmd, p.polroles::regrole[], pg_get_expr(p.polqual, c.oid), pg_get_expr(p.polwithcheck, c.oid))
    from pg_policy p join pg_class c on c.oid = p.polrelid join n on c.relnamespace = n.oid
) as l (line) order by line collate "C"`

// catalog returns a schema's objects and what its ledgers say.
func catalog(t *testing.T, conn *pgx.Conn, schema string) []string {
	t.Helper()
	ledgers := migrations.Render(`select concat_ws(' ', id, breaking) from graphile_worker.migrations
		union all select concat_ws(' ', 'own', id, name) from graphile_worker.backfill_migrations order by 1`, schema)
	return slices.Concat(list(t, conn, catalogSQL, schema), list(t, conn, ledgers))
}

// The ways to run what --print writes.
var runners = map[string]func(t *testing.T, databaseURL, sql string){
	"simple protocol": func(t *testing.T, databaseURL, sql string) {
		t.Helper()
		execute(t, connectTo(t, databaseURL), sql)
	},
	"psql": func(t *testing.T, databaseURL, sql string) {
		t.Helper()
		needs.Program(t, "psql")
		cmd := exec.CommandContext(t.Context(), "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", "-", databaseURL)
		cmd.Stdin = strings.NewReader(sql)
		if output, err := cmd.CombinedOutput(); err != nil || strings.Contains(string(output), "NOTICE") {
			t.Fatalf("psql: %v: %s", err, output)
		}
	},
}

func TestPrintIsMigrate(t *testing.T) {
	t.Parallel()
	for _, schema := range []string{"graphile_worker", "it's \"1\";\n\\q :x $fn$ é --", "/*graphile_worker.jobs"} {
		theirs := pgtest.Empty(t)
		stdout, _ := command(t, 0, "migrate", "--database-url", theirs.URL, "--schema", schema)
		says(t, stdout, "is installed", "revision 20", "ran wire/0018.sql", "ran own/0001_workers.sql", "ran own/0002_queue_index.sql")
		want := catalog(t, connectTo(t, theirs.URL), schema)
		if len(want) < 100 {
			t.Fatalf("the catalog has %d lines only", len(want))
		}
		printed, _ := command(t, 0, "migrate", "--print", "--schema", schema)
		for name, runScript := range runners {
			t.Run(name+" "+schema, func(t *testing.T) {
				t.Parallel()
				db := pgtest.Empty(t)
				runScript(t, db.URL, printed)
				if diff := cmp.Diff(want, catalog(t, connectTo(t, db.URL), schema)); diff != "" {
					t.Errorf("catalog (-migrate +print):\n%s", diff)
				}
				stdout, _ := command(t, 0, "migrate", "--verify", "--database-url", db.URL, "--schema", schema)
				says(t, stdout, "up to date")
			})
		}
	}
}

// With a database, --print writes what is missing there.
func TestPrintWhatIsMissing(t *testing.T) {
	t.Parallel()
	for name, runScript := range runners {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fresh, old := pgtest.New(t), pgtest.Empty(t)
			conn := connectTo(t, old.URL)
			for _, file := range migrations.Wire() {
				if file.ID <= 19 {
					execute(t, conn, migrations.Render(file.SQL, migrations.DefaultSchema))
				}
			}
			execute(t, conn, "select graphile_worker.add_job('a'); listen \"worker:migrate\"")
			printed, _ := command(t, 0, "migrate", "--print", "--database-url", old.URL)
			transaction, index, _ := strings.Cut(printed, "\ncommit;\n") // the index is built concurrently
			runScript(t, old.URL, transaction+"\ncommit;\n")
			for statement := range strings.SplitSeq(index, ";\n") {
				runScript(t, old.URL, statement+";")
			}
			if diff := cmp.Diff(catalog(t, connectTo(t, fresh.URL), "graphile_worker"), catalog(t, conn, "graphile_worker")); diff != "" {
				t.Errorf("catalog (-migrate +print):\n%s", diff)
			}
			if heard := hear(t, conn); heard != `{"migrationNumber":20,"breaking":false}` {
				t.Errorf("workers were told %s", heard)
			}
			printed, _ = command(t, 0, "migrate", "--print", "--database-url", old.URL)
			if printed != "-- schema \"graphile_worker\" is up to date: there is nothing to run\n" {
				t.Errorf("on a schema that is up to date: %s", printed)
			}
		})
	}
}

func TestVerify(t *testing.T) {
	t.Parallel()
	db := pgtest.Empty(t)
	_, stderr := command(t, 1, "migrate", "--verify", "--database-url", db.URL, "--schema", "my jobs")
	says(t, stderr, "not installed", "backfill migrate --schema 'my jobs'")
	conn := connectTo(t, db.URL)
	for _, file := range migrations.Wire() {
		if file.ID <= 18 {
			execute(t, conn, migrations.Render(file.SQL, migrations.DefaultSchema))
		}
	}
	_, stderr = command(t, 1, "migrate", "--verify", "--database-url", db.URL)
	says(t, stderr, "breaking revision 19", "backfill migrate --breaking")
	_, stderr = command(t, 1, "migrate", "--database-url", db.URL)
	says(t, stderr, "breaking revision 19")
	stdout, _ := command(t, 0, "migrate", "--breaking", "--database-url", db.URL)
	says(t, stdout, "is migrated", "18 → 20", "ran wire/0019.sql", "ran own/0001_workers.sql")
	stdout, _ = command(t, 0, "migrate", "--verify", "--database-url", db.URL)
	says(t, stdout, "up to date")
	execute(t, conn, "drop index graphile_worker.backfill_jobs_queue_idx")
	_, stderr = command(t, 1, "migrate", "--verify", "--database-url", db.URL)
	says(t, stderr, "lacks its index", "without --verify")
	stdout, _ = command(t, 0, "migrate", "--database-url", db.URL)
	says(t, stdout, "is repaired", "ran own/0002_queue_index.sql")
	command(t, 0, "migrate", "--verify", "--database-url", db.URL)
}

// The password of a URL is shown to nobody.
func TestPasswordIsNotShown(t *testing.T) {
	t.Parallel()
	u := url.URL{Scheme: "postgres", User: url.UserPassword("nobody", "s3cr3t"), Host: "127.0.0.1:1", Path: "db"}
	for code, arguments := range map[int][][]string{
		0: {{"migrate", "--database-url", u.String(), "--help"}},
		1: {{"migrate", "--database-url", u.String()}, {"migrate", "--print", "--database-url", u.String()}, {"migrate", "--database-url", u.String() + "?sslmode=x"}},
		2: {
			{"migrate", u.String()},
			{u.String()},
			{"migrate", "--database=" + u.String()},
			{"migrate", "--verify=" + u.String()},
			{"migrate", "--" + u.String()},
			{"--" + u.String()},
			{"help", u.String()},
			{"help", "--" + u.String()},
			{"help", "migrate", "--" + u.String()},
			{"migrate", "help", u.String()},
			{"migrate", "help", "--" + u.String()},
		},
	} {
		for _, some := range arguments {
			stdout, stderr := command(t, code, some...)
			if strings.Contains(stdout+stderr, "s3cr3t") {
				t.Errorf("backfill %q shows the password:\n%s%s", some, stdout, stderr)
			}
		}
	}
}

func TestUsage(t *testing.T) {
	t.Parallel()
	for want, arguments := range map[string][]string{
		"unknown command: want migrate, ": {"work"},
		"choose one":                      {"migrate", "--verify", "--print"},
		"leave --breaking":                {"migrate", "--verify", "--breaking"},
		"not defined: -nope":              {"migrate", "--nope"},
		"name is empty":                   {"migrate", "--database-url", "postgres://127.0.0.1:1/nowhere", "--schema", ""},
		"pg_":                             {"migrate", "--print", "--schema", "pg_x"},
	} {
		_, stderr := command(t, 2, arguments...)
		says(t, stderr, want)
	}
	stdout, _ := command(t, 0, "help", "migrate")
	says(t, stdout, "--print", "DATABASE_URL", "Exit codes", "neither --print nor --breaking")
}
