package schema_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/schema"
	"github.com/backfillhq/go/migrations"
)

// TestForeignFunctions renames a schema, whose functions go on using the old name. That is an error
// in every mode until somebody says that this schema is meant, by the command or its script.
func TestForeignFunctions(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ from, to string }{
		"plain":       {"graphile_worker", "jobs2"},
		"back":        {"jobs2", "graphile_worker"},
		"nasty":       {`it's "1"; $fn$`, "$function$ x"},
		"other nasty": {"$function$ x", "it's 1; $fn$"},
	} {
		for _, printed := range []bool{false, true} {
			t.Run(name+map[bool]string{true: " printed"}[printed], func(t *testing.T) {
				t.Parallel()
				conn := dbtest.Connect(t, dbtest.EmptyURL(t))
				migrate(t, conn, schema.Options{Schema: test.from})
				rename := "ALTER SCHEMA " + migrations.QuoteIdentifier(test.from) + " RENAME TO " + migrations.QuoteIdentifier(test.to)
				dbtest.Run(t, conn, rename)
				opts := quiet()
				opts.Schema = test.to
				for _, mode := range []schema.Mode{schema.MigrateAuto, schema.MigrateVerify, schema.MigrateBreaking} {
					opts.Mode = mode
					isSchemaError(t, schema.Migrate(t.Context(), conn, opts), "its functions use the tables of schema", "renamed, or copied", "run: backfill migrate",
						"ALTER SCHEMA "+migrations.QuoteIdentifier(test.to)+" RENAME TO "+migrations.QuoteIdentifier(test.from))
				}
				opts.Mode, opts.Repair = schema.MigrateAuto, true
				if printed {
					script, err := schema.MissingScript(t.Context(), conn, opts)
					if err != nil {
						t.Fatal(err)
					}
					dbtest.Run(t, conn, script)
				} else {
					migrate(t, conn, opts)
				}
				migrate(t, conn, schema.Options{Schema: test.to, Mode: schema.MigrateVerify})
				callEveryFunction(t, conn, test.to)
				samePeerCatalog(t, conn, test.to)
			})
		}
	}
}

// TestForeignFunctionsOfACopy replaces functions of a copy beside the original, which stays as it
// is.
func TestForeignFunctionsOfACopy(t *testing.T) {
	t.Parallel()
	conn := dbtest.Connect(t, dbtest.EmptyURL(t))
	migrate(t, conn, schema.Options{})
	dbtest.Run(t, conn, "alter schema graphile_worker rename to staging")
	migrate(t, conn, schema.Options{})
	isSchemaError(t, schema.Migrate(t.Context(), conn, schema.Options{Schema: "staging"}), `"graphile_worker"`)
	migrate(t, conn, schema.Options{Schema: "staging", Repair: true})
	dbtest.Run(t, conn, "select staging.add_job('a'); select staging.add_job('b')")
	if n := dbtest.Get[int](t, conn, "select count(*) from graphile_worker._private_jobs"); n != 0 {
		t.Errorf("%d jobs came into the original", n)
	}
	if n := dbtest.Get[int](t, conn, "select count(*) from staging._private_jobs"); n != 2 {
		t.Errorf("%d jobs in the copy, want 2", n)
	}
	migrate(t, conn, schema.Options{Mode: schema.MigrateVerify})
}

// notCarriedOver is a database to which rows came and sequences did not.
const notCarriedOver = `
	select graphile_worker.add_job('task ' || i, queue_name := 'queue ' || i) from generate_series(1, 3) as i;
	alter sequence graphile_worker.jobs_id_seq1 restart;
	alter sequence graphile_worker.tasks_id_seq restart;
	alter sequence graphile_worker.job_queues_id_seq restart`

func TestSequences(t *testing.T) {
	t.Parallel()
	for name, repair := range map[string]func(t *testing.T, conn *pgx.Conn, err error){
		"migrate": func(t *testing.T, conn *pgx.Conn, _ error) { t.Helper(); migrate(t, conn, schema.Options{}) },
		"what the error says": func(t *testing.T, conn *pgx.Conn, err error) {
			t.Helper()
			for _, statement := range regexp.MustCompile(`select setval[^;]*;`).FindAllString(err.Error(), -1) {
				dbtest.Run(t, conn, statement)
			}
		},
		"printed": func(t *testing.T, conn *pgx.Conn, _ error) {
			t.Helper()
			script, err := schema.MissingScript(t.Context(), conn, schema.Options{Schema: migrations.DefaultSchema})
			if err != nil {
				t.Fatal(err)
			}
			dbtest.Run(t, conn, script)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := dbtest.Installed(t)
			dbtest.Run(t, conn, notCarriedOver)
			opts := quiet()
			opts.Mode = schema.MigrateVerify
			err := schema.Migrate(t.Context(), conn, opts)
			isSchemaError(t, err, "graphile_worker.jobs_id_seq1 is at 1, but graphile_worker._private_jobs has id 3",
				"select setval('graphile_worker.tasks_id_seq', (select max(id) from graphile_worker._private_tasks));", "job_queues_id_seq")
			repair(t, conn, err)
			if err := schema.Migrate(t.Context(), conn, opts); err != nil {
				t.Errorf("after the repair: %v", err)
			}
			dbtest.Run(t, conn, "select graphile_worker.add_job('new task', queue_name := 'new queue')")
			if id := dbtest.Get[int](t, conn, "select max(id)::int from graphile_worker._private_jobs"); id != 4 {
				t.Errorf("the next job has id %d, want 4", id)
			}
		})
	}
}

// TestSequencesInOrder complains about none of these: one that was set to its next value, one that
// is ahead because jobs were deleted, one that the role cannot see.
func TestSequencesInOrder(t *testing.T) {
	t.Parallel()
	conn := dbtest.Installed(t)
	dbtest.Run(t, conn, notCarriedOver)
	dbtest.Run(t, conn, "alter sequence graphile_worker.jobs_id_seq1 restart with 4; select setval('graphile_worker.tasks_id_seq', 4, false)")
	dbtest.Run(t, conn, "select setval('graphile_worker.job_queues_id_seq', 1000)")
	migrate(t, conn, schema.Options{Mode: schema.MigrateVerify})
	dbtest.Run(t, conn, "alter sequence graphile_worker.jobs_id_seq1 restart")
	role := dbtest.NewRole(t, conn)
	if _, err := schema.GrantRole(t.Context(), conn, unquoted(role), schema.WorkerRole, schema.Options{}); err != nil {
		t.Fatal(err)
	}
	dbtest.Run(t, conn, "set role "+role)
	migrate(t, conn, schema.Options{Mode: schema.MigrateVerify})
}

// TestForcedRowSecurity runs what the error says, either way, as the owner.
func TestForcedRowSecurity(t *testing.T) {
	t.Parallel()
	for _, way := range []string{"policies", "no force"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			url := dbtest.EmptyURL(t)
			admin, conn := dbtest.Connect(t, url), dbtest.Connect(t, url)
			role := dbtest.NewRole(t, admin)
			dbtest.Run(t, admin, "create schema graphile_worker authorization "+role)
			dbtest.Run(t, conn, "set role "+role)
			migrate(t, conn, schema.Options{})
			dbtest.Run(t, conn, "alter table graphile_worker._private_jobs force row level security; alter table graphile_worker._private_tasks force row level security")
			err := schema.Migrate(t.Context(), conn, quiet())
			isSchemaError(t, err, "row level security is forced on _private_jobs, _private_tasks", unquoted(role), "backfill migrate --worker-role", "NO FORCE ROW LEVEL SECURITY")
			if way == "policies" {
				migrate(t, conn, schema.Options{Granting: true})
				if _, err := schema.GrantRole(t.Context(), conn, unquoted(role), schema.WorkerRole, schema.Options{}); err != nil {
					t.Fatal(err)
				}
			} else {
				dbtest.Run(t, conn, strings.Join(regexp.MustCompile(`ALTER TABLE [^;]*;`).FindAllString(err.Error(), -1), " "))
			}
			var report schema.Report
			migrate(t, conn, schema.Options{Mode: schema.MigrateVerify, Report: &report})
			if report.Access != schema.WritesTables {
				t.Error("the owner may not write its tables")
			}
			dbtest.Run(t, conn, "select graphile_worker.add_job('a')")
		})
	}
}
