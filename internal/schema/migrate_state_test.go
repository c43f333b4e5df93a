package schema_test

import (
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/schema"
	"github.com/backfillhq/go/migrations"
)

func TestMigrateFromNode(t *testing.T) {
	t.Parallel()
	const (
		note19 = `worker:migrate {"migrationNumber":19,"breaking":true}`
		note20 = `worker:migrate {"migrationNumber":20,"breaking":false}`
	)
	for _, test := range []struct {
		revision int
		mode     schema.Mode
		refused  []string
		notified []string
	}{
		{20, schema.MigrateAuto, nil, nil},
		{20, schema.MigrateBreaking, nil, nil},
		{20, schema.MigrateVerify, []string{"own/0001_workers.sql", "MigrateAuto"}, nil},
		{19, schema.MigrateAuto, nil, []string{note20}},
		{19, schema.MigrateVerify, []string{"wire/0020.sql", "MigrateAuto"}, nil},
		{18, schema.MigrateAuto, []string{"revision 18", "breaking revision 19", "MigrateBreaking"}, nil},
		{18, schema.MigrateVerify, []string{"revision 18", "MigrateBreaking"}, nil},
		{18, schema.MigrateBreaking, nil, []string{note19, note20}},
		{0, schema.MigrateVerify, []string{"not installed", "MigrateAuto"}, nil},
	} {
		t.Run(fmt.Sprintf("%d mode %d", test.revision, test.mode), func(t *testing.T) {
			t.Parallel()
			url := dbtest.EmptyURL(t)
			conn := dbtest.Connect(t, url)
			if test.revision > 0 {
				installWire(t, conn, test.revision)
				dbtest.Run(t, conn, "select graphile_worker.add_job('a')")
			}
			const fingerprint = `
				select count(*) || ' ' || coalesce(sum(length(prosrc)), 0) from pg_class full join pg_proc on false
				where coalesce(relnamespace, pronamespace) = to_regnamespace('graphile_worker')`
			before := dbtest.Get[string](t, conn, fingerprint)
			heard := dbtest.Listen(t, url)
			opts := quiet()
			opts.Mode = test.mode
			err := schema.Migrate(t.Context(), conn, opts)
			if diff := cmp.Diff(test.notified, heard.Take(t)); diff != "" {
				t.Errorf("notified (-want +got):\n%s", diff)
			}
			if test.refused == nil {
				if err != nil {
					t.Fatal(err)
				}
				samePeerCatalog(t, conn, migrations.DefaultSchema)
				if n := dbtest.Get[int](t, conn, "select count(*) from graphile_worker._private_jobs"); n != 1 {
					t.Errorf("%d jobs after migration, want 1", n)
				}
				return
			}
			isSchemaError(t, err, test.refused...)
			if after := dbtest.Get[string](t, conn, fingerprint); after != before {
				t.Errorf("something was changed: %s, then %s", before, after)
			}
		})
	}
}

func isSchemaError(t *testing.T, err error, parts ...string) {
	t.Helper()
	schemaErr, ok := errors.AsType[*schema.StateError](err)
	if !ok {
		t.Fatalf("error is %T, want a *StateError: %v", err, err)
	}
	dbtest.Mentions(t, err, append(parts, schemaErr.Schema, schemaErr.Found, schemaErr.Remedy)...)
}

func TestMigrateAhead(t *testing.T) {
	t.Parallel()
	conn, trace := dbtest.ConnectTraced(t, dbtest.EmptyURL(t))
	migrate(t, conn, schema.Options{})
	dbtest.Run(t, conn, "insert into graphile_worker.migrations values (21, now(), false)")
	for _, mode := range []schema.Mode{schema.MigrateAuto, schema.MigrateVerify} {
		log := &logger{}
		migrate(t, conn, schema.Options{Mode: mode, Logger: slog.New(log)})
		if warnings := log.take(); len(warnings) != 1 || !strings.Contains(warnings[0], "newer") {
			t.Errorf("warnings = %q, want that the schema is newer", warnings)
		}
	}
	dbtest.Run(t, conn, "insert into graphile_worker.migrations values (22, now(), true), (23, now(), false)")
	trace.Take()
	for _, mode := range []schema.Mode{schema.MigrateAuto, schema.MigrateVerify, schema.MigrateBreaking} {
		opts := quiet()
		opts.Mode = mode
		err := schema.Migrate(t.Context(), conn, opts)
		breaking, ok := errors.AsType[*schema.BreakingError](err)
		if !ok {
			t.Fatalf("error is %T, want a *BreakingError: %v", err, err)
		}
		want := &schema.BreakingError{Schema: "graphile_worker", Revision: 23, Breaking: 22, Supported: 20}
		if diff := cmp.Diff(want, breaking); diff != "" {
			t.Errorf("error (-want +got):\n%s", diff)
		}
		dbtest.Mentions(t, err, "23", "22", "20", "upgrade backfill")
		if sent := trace.Take(); len(sent) != 1 {
			t.Errorf("sent %q, want one query", sent)
		}
	}
	ledger, err := schema.CheckLedger(t.Context(), conn, "graphile_worker")
	if _, ok := errors.AsType[*schema.BreakingError](err); !ok || ledger.Highest != 23 || ledger.Breaking != 22 {
		t.Errorf("CheckLedger = %v, %v", ledger, err)
	}
}

// TestMigrateForeign is a schema of graphile_worker_rs, whose own revisions 19 and 20 break
// nothing.
func TestMigrateForeign(t *testing.T) {
	t.Parallel()
	conn := dbtest.Connect(t, dbtest.EmptyURL(t))
	installWire(t, conn, 20)
	dbtest.Run(t, conn, "update graphile_worker.migrations set breaking = false where id = 19")
	log := &logger{}
	migrate(t, conn, schema.Options{Logger: slog.New(log)})
	if warnings := log.take(); len(warnings) != 1 || !strings.Contains(warnings[0], "revision 19") {
		t.Errorf("warnings = %q, want one about revision 19", warnings)
	}
}

func TestMigrateUnusable(t *testing.T) {
	t.Parallel()
	const drop = `DROP SCHEMA "graphile_worker" CASCADE`
	for _, test := range []struct {
		name, sql string
		complete  bool // Whether the schema is installed before.
		want      []string
	}{
		{
			"older", bootstrap + "; insert into graphile_worker.migrations select i, now() - interval '1 day', true from generate_series(1, 11) i",
			false,
			[]string{"revision 11", "Graphile Worker 0.18"},
		},
		{
			"too old for breaking", "create schema graphile_worker; create table graphile_worker.migrations (id int primary key, ts timestamptz);" +
				"insert into graphile_worker.migrations values (5)",
			false,
			[]string{"lacks a column", "Graphile Worker 0.18"},
		},
		{
			"not a ledger", "create schema graphile_worker; create table graphile_worker.migrations (id uuid, name text)",
			false,
			[]string{"not Graphile Worker's", "choose another schema"},
		},
		{
			"ledger of great numbers", "create schema graphile_worker; create table graphile_worker.migrations (id bigint, ts timestamptz, breaking boolean);" +
				"insert into graphile_worker.migrations values (20260101120000, now(), false)",
			false,
			[]string{"not Graphile Worker's", "choose another schema", "out of range"},
		},
		{"a table missing", "drop table graphile_worker._private_known_crontabs", true, []string{"revision 20", "_private_known_crontabs is missing", drop}},
		{
			"tables missing", "drop table graphile_worker._private_jobs, graphile_worker._private_tasks cascade", true,
			[]string{"_private_jobs, _private_tasks, jobs, add_job, ", "are missing", drop},
		},
		{"view missing", "drop view graphile_worker.jobs", true, []string{"jobs is missing"}},
		{"type missing", "drop type graphile_worker.job_spec cascade", true, []string{"job_spec, add_jobs are missing"}},
		{"function missing", "drop function graphile_worker.remove_job", true, []string{"remove_job is missing"}},
		{
			"rows without objects", bootstrap + "; insert into graphile_worker.migrations select i, now(), i in (1, 3, 11, 13, 14, 16, 19) from generate_series(1, 20) i",
			false,
			[]string{"revision 20", "_private_jobs", "force_unlock_workers are missing", drop},
		},
		{
			"ledger missing", "drop table graphile_worker.migrations", true,
			[]string{"_private_jobs", "there is no table", `"graphile_worker".migrations`, "restore that table", drop},
		},
		{"ledger empty", "delete from graphile_worker.migrations", true, []string{"_private_jobs", "no migration is recorded", "restore the rows", drop}},
		{"both ledgers missing", "drop table graphile_worker.migrations, graphile_worker.backfill_migrations", true, []string{"there is no table"}},
		{"our table missing", "drop table graphile_worker.backfill_workers", true, []string{"backfill_workers is missing", "backfill_*"}},
		{"our ledger missing", "drop table graphile_worker.backfill_migrations", true, []string{"backfill_workers is there", "backfill_*"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			conn, trace := dbtest.ConnectTraced(t, dbtest.EmptyURL(t))
			if test.complete {
				migrate(t, conn, schema.Options{})
			}
			dbtest.Run(t, conn, test.sql)
			for _, mode := range []schema.Mode{schema.MigrateAuto, schema.MigrateVerify, schema.MigrateBreaking} {
				opts := quiet()
				opts.Mode = mode
				trace.Take()
				isSchemaError(t, schema.Migrate(t.Context(), conn, opts), test.want...)
				for _, sql := range trace.Take() {
					if !strings.HasPrefix(sql, "select") {
						t.Errorf("mode %d sent %q", mode, sql)
					}
				}
			}
		})
	}
}

// TestMigrateFunctionMissing runs what the error says.
func TestMigrateFunctionMissing(t *testing.T) {
	t.Parallel()
	conn := dbtest.Installed(t)
	dbtest.Run(t, conn, "drop function graphile_worker.backfill_enqueue")
	err := schema.Migrate(t.Context(), conn, quiet())
	isSchemaError(t, err, "backfill_enqueue is missing", "and then: backfill migrate")
	dbtest.Run(t, conn, regexp.MustCompile("DELETE [^;]*;").FindString(err.Error()))
	migrate(t, conn, schema.Options{})
}

// TestMigrateTaken is a schema of somebody else's: nothing tells its owner to drop it.
func TestMigrateTaken(t *testing.T) {
	t.Parallel()
	const create = "create schema if not exists graphile_worker; "
	for _, test := range []struct {
		name, schema, sql string
		complete          bool // Whether the schema is installed before.
		want              string
	}{
		{"table in public", "public", "create table public.jobs (id int)", false, "taken by something else: jobs is there"},
		{"table", migrations.DefaultSchema, create + "create table graphile_worker.jobs (id int)", false, "taken by something else: jobs is there"},
		{"type", migrations.DefaultSchema, create + "create type graphile_worker.job_spec as enum ()", false, "taken by something else: job_spec is there"},
		{"sequence", migrations.DefaultSchema, create + "create sequence graphile_worker.jobs_id_seq1", false, "taken by something else: jobs_id_seq1 is there"},
		{
			"view of migrations", migrations.DefaultSchema, create + "create view graphile_worker.migrations as select 1 as id, now() as ts, false as breaking", false,
			"taken by something else: migrations (not a table) is there",
		},
		{
			"migrations", migrations.DefaultSchema, create + "create table graphile_worker.migrations as select i as id, now() - interval '1 day' as ts, false as breaking from generate_series(1, 2) as i",
			false, "if it is not Graphile Worker's, choose another schema",
		},
		{"tables beside ours", migrations.DefaultSchema, "drop view graphile_worker.jobs; create table graphile_worker.theirs ()", true, "jobs is missing"},
		{"tables beside ours without a ledger", migrations.DefaultSchema, "drop table graphile_worker.migrations; create table graphile_worker.theirs ()", true, "restore that table"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			conn := dbtest.Connect(t, dbtest.EmptyURL(t))
			if test.complete {
				migrate(t, conn, schema.Options{})
			}
			dbtest.Run(t, conn, test.sql)
			opts := quiet()
			opts.Schema = test.schema
			_, err := schema.MissingScript(t.Context(), conn, opts)
			errs := []error{err}
			for _, mode := range []schema.Mode{schema.MigrateAuto, schema.MigrateVerify} {
				opts.Mode = mode
				errs = append(errs, schema.Migrate(t.Context(), conn, opts))
			}
			for _, err := range errs {
				isSchemaError(t, err, test.want)
				if strings.Contains(err.Error(), "DROP") {
					t.Errorf("the error drops what is not ours: %v", err)
				}
			}
		})
	}
}
