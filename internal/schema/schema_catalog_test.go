package schema_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/schema"
	"github.com/backfillhq/go/migrations"
)

// nastyNames are legal names of schemas that careless quoting gets wrong.
var nastyNames = []string{
	"UPPER", "my-jobs", `a"b`, `""`, "with space", " ", "ünïcödé_表", "😀", "$$", "$body$", "$fn$", "$fn_0$", "$1", "it's",
	"a.b", `back\slash`, `\`, "new\nline", "semi;\ncolon", "-- comment", "/* comment", "select", "1st", "%s", "{}",
	"graphile_worker_2", "my graphile_worker", "graphile_worker.jobs", `"graphile_worker"`, "Graphile_Worker", "PG_upper",
	strings.Repeat("x", 63), strings.Repeat("é", 31),
}

func TestCatalogIsThePeers(t *testing.T) {
	t.Parallel()
	conn := dbtest.Installed(t)
	samePeerCatalog(t, conn, migrations.DefaultSchema)
}

func TestCatalogInAnySchema(t *testing.T) {
	t.Parallel()
	url := dbtest.EmptyURL(t)
	for _, name := range nastyNames {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, trace := dbtest.ConnectTraced(t, url)
			migrate(t, conn, schema.Options{Schema: name})
			samePeerCatalog(t, conn, name)
			callEveryFunction(t, conn, name)
			samePeerCatalog(t, conn, name)
			trace.Take()
			migrate(t, conn, schema.Options{Schema: name})
			if sent := trace.Take(); len(sent) != 2 {
				t.Errorf("statements of a second migration = %q, want two", sent)
			}
		})
	}
}

func TestBadSchemaNames(t *testing.T) {
	t.Parallel()
	conn := dbtest.Connect(t, dbtest.EmptyURL(t))
	for name, want := range map[string]string{
		strings.Repeat("x", 64):       "64 bytes",
		strings.Repeat("é", 32):       "64 bytes",
		"nul\x00":                     "NUL",
		"pg_jobs":                     "pg_",
		"broken\xff":                  "UTF-8",
		strings.Repeat("x", 63) + " ": "64 bytes",
	} {
		dbtest.Mentions(t, schema.Migrate(t.Context(), conn, schema.Options{Schema: name}), want)
		_, err := schema.CheckLedger(t.Context(), conn, name)
		dbtest.Mentions(t, err, want)
	}
	_, err := schema.CheckLedger(t.Context(), conn, "")
	dbtest.Mentions(t, err, "empty")
}

// ourObjectsSQL lists what is additive.
const ourObjectsSQL = `
	select c.relname || ' ' || c.relkind::text || ' ' || c.relrowsecurity || ' ' || coalesce(array_to_string(c.reloptions, ','), '')
	from pg_class c
	where c.relnamespace = 'graphile_worker'::regnamespace
		and (c.relname like 'backfill\_%' or c.reloptions is not null)
	order by 1`

func TestOurObjects(t *testing.T) {
	t.Parallel()
	conn := dbtest.Installed(t)
	got := lines(dbtest.Get[string](t, conn, "select string_agg(l, E'\\n' order by l collate \"C\") from ("+ourObjectsSQL+") as o (l)"))
	want := []string{
		"_private_job_queues r true fillfactor=50",
		"_private_jobs r true autovacuum_vacuum_scale_factor=0.01,vacuum_truncate=off",
		"backfill_audit r true ",
		"backfill_audit_at i false ",
		"backfill_audit_pkey i false ",
		"backfill_cancels r true ",
		"backfill_cancels_pkey i false ",
		"backfill_counters r true fillfactor=50",
		"backfill_counters_pkey i false ",
		"backfill_crashes r true ",
		"backfill_crashes_judged i false ",
		"backfill_crashes_pkey i false ",
		"backfill_dlq r true ",
		"backfill_dlq_failed_at i false ",
		"backfill_dlq_id_seq S false ",
		"backfill_dlq_key i false ",
		"backfill_dlq_original i false ",
		"backfill_dlq_pkey i false ",
		"backfill_dlq_requeued i false ",
		"backfill_history p true ",
		"backfill_history_job I false ",
		"backfill_history_rest r true ",
		"backfill_history_rest_job_id_idx i false ",
		"backfill_history_tasks r true ",
		"backfill_history_tasks_pkey i false ",
		"backfill_jobs_queue_idx i false ",
		"backfill_migrations r false ",
		"backfill_migrations_pkey i false ",
		"backfill_operation_items r true ",
		"backfill_operation_items_pkey i false ",
		"backfill_operations r true ",
		"backfill_operations_id_seq S false ",
		"backfill_operations_pkey i false ",
		"backfill_operations_running i false ",
		"backfill_operations_token i false ",
		"backfill_pauses r true ",
		"backfill_pauses_pkey i false ",
		"backfill_progress r true fillfactor=50",
		"backfill_progress_pkey i false ",
		"backfill_queue_pauses r true ",
		"backfill_queue_pauses_pkey i false ",
		"backfill_traces r true ",
		"backfill_traces_pkey i false ",
		"backfill_workers r true fillfactor=50",
		"backfill_workers_pkey i false ",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("our objects (-want +got):\n%s", diff)
	}
	const index = "CREATE INDEX backfill_jobs_queue_idx ON graphile_worker._private_jobs USING btree " +
		"(job_queue_id, priority, run_at, id) INCLUDE (task_id) WHERE (is_available AND (job_queue_id IS NOT NULL))"
	if got := dbtest.Get[string](t, conn, "select pg_get_indexdef('graphile_worker.backfill_jobs_queue_idx'::regclass)"); got != index {
		t.Errorf("index = %s, want %s", got, index)
	}
	ledger := dbtest.Get[string](t, conn, "select string_agg(id || ' ' || name, ',' order by id) from graphile_worker.backfill_migrations")
	if want := "1 workers,2 queue_index,3 enqueue,4 comments,5 enqueue_conflicts,6 sweeps,7 leases,8 pauses,9 crashes,10 dead_letters,11 queue_pauses,12 cancels,13 operations,14 history,15 traces,16 crontabs"; ledger != want {
		t.Errorf("our ledger = %s, want %s", ledger, want)
	}
}

// TestHeartbeatIsForPeople warns whoever computes with the column: it decides nothing.
func TestHeartbeatIsForPeople(t *testing.T) {
	t.Parallel()
	comment := dbtest.Get[string](t, dbtest.Installed(t), `
		select coalesce(col_description(attrelid, attnum), 'none') from pg_attribute
		where attrelid = 'graphile_worker.backfill_workers'::regclass and attname = 'heartbeat_at'`)
	if !strings.Contains(comment, "never by this time") {
		t.Errorf("comment on heartbeat_at: %s", comment)
	}
}

// Columns are added once, whatever the ledger says.
func TestColumnsAreAddedOnce(t *testing.T) {
	t.Parallel()
	conn := dbtest.Installed(t)
	const ledger = "select string_agg(id || ' ' || name, ',' order by id) from graphile_worker.backfill_migrations"
	want := dbtest.Get[string](t, conn, ledger)
	dbtest.Run(t, conn, "delete from graphile_worker.backfill_migrations where id >= 6")
	migrate(t, conn, schema.Options{})
	if got := dbtest.Get[string](t, conn, ledger); got != want {
		t.Errorf("our ledger = %s, want %s", got, want)
	}
}

// A table of ours that a later file makes is missing before, and has to be there afterwards.
func TestTablesOfLaterFiles(t *testing.T) {
	t.Parallel()
	conn := dbtest.Installed(t)
	dbtest.Run(t, conn, "drop table graphile_worker.backfill_pauses")
	dbtest.Mentions(t, schema.Migrate(t.Context(), conn, schema.Options{}), "backfill_pauses", "missing")
	dbtest.Run(t, conn, "delete from graphile_worker.backfill_migrations where id >= 8")
	migrate(t, conn, schema.Options{})
	dbtest.Run(t, conn, "select from graphile_worker.backfill_pauses")
}

// TestFilesByHand runs the files as a DBA does by hand: the result must be the same.
func TestFilesByHand(t *testing.T) {
	t.Parallel()
	conn, trace := dbtest.ConnectTraced(t, dbtest.EmptyURL(t))
	for _, file := range migrations.All() {
		if file.Transactional() {
			dbtest.Run(t, conn, "begin")
			dbtest.Run(t, conn, file.SQL)
			dbtest.Run(t, conn, "commit")
			continue
		}
		for _, statement := range file.Statements() {
			dbtest.Run(t, conn, statement)
		}
	}
	samePeerCatalog(t, conn, migrations.DefaultSchema)
	trace.Take()
	migrate(t, conn, schema.Options{})
	if sent := trace.Take(); len(sent) != 2 {
		t.Errorf("statements of a migration after the files = %q, want two", sent)
	}
}
