package pgstore_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/internal/engine/pgstore"
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
	conn := installed(t)
	samePeerCatalog(t, conn, migrations.DefaultSchema)
}

func TestCatalogInAnySchema(t *testing.T) {
	t.Parallel()
	url := emptyDatabase(t)
	for _, schema := range nastyNames {
		t.Run(schema, func(t *testing.T) {
			t.Parallel()
			conn, trace := connectTraced(t, url)
			migrate(t, conn, pgstore.MigrateOptions{Schema: schema})
			samePeerCatalog(t, conn, schema)
			callEveryFunction(t, conn, schema)
			samePeerCatalog(t, conn, schema)
			trace.take()
			migrate(t, conn, pgstore.MigrateOptions{Schema: schema})
			if sent := trace.take(); len(sent) != 1 {
				t.Errorf("statements of a second migration = %q, want one", sent)
			}
		})
	}
}

func TestBadSchemaNames(t *testing.T) {
	t.Parallel()
	conn := connect(t, emptyDatabase(t))
	for name, want := range map[string]string{
		strings.Repeat("x", 64):       "64 bytes",
		strings.Repeat("é", 32):       "64 bytes",
		"nul\x00":                     "NUL",
		"pg_jobs":                     "pg_",
		"broken\xff":                  "UTF-8",
		strings.Repeat("x", 63) + " ": "64 bytes",
	} {
		mentions(t, pgstore.Migrate(t.Context(), conn, pgstore.MigrateOptions{Schema: name}), want)
		_, err := pgstore.CheckLedger(t.Context(), conn, name)
		mentions(t, err, want)
	}
	_, err := pgstore.CheckLedger(t.Context(), conn, "")
	mentions(t, err, "empty")
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
	conn := installed(t)
	got := lines(get[string](t, conn, "select string_agg(l, E'\\n' order by l collate \"C\") from ("+ourObjectsSQL+") as o (l)"))
	want := []string{
		"_private_job_queues r true fillfactor=50",
		"_private_jobs r true autovacuum_vacuum_scale_factor=0.01,vacuum_truncate=off",
		"backfill_jobs_queue_idx i false ",
		"backfill_migrations r false ",
		"backfill_migrations_pkey i false ",
		"backfill_workers r true fillfactor=50",
		"backfill_workers_pkey i false ",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("our objects (-want +got):\n%s", diff)
	}
	const index = "CREATE INDEX backfill_jobs_queue_idx ON graphile_worker._private_jobs USING btree " +
		"(job_queue_id, priority, run_at, id) INCLUDE (task_id) WHERE (is_available AND (job_queue_id IS NOT NULL))"
	if got := get[string](t, conn, "select pg_get_indexdef('graphile_worker.backfill_jobs_queue_idx'::regclass)"); got != index {
		t.Errorf("index = %s, want %s", got, index)
	}
	ledger := get[string](t, conn, "select string_agg(id || ' ' || name, ',' order by id) from graphile_worker.backfill_migrations")
	if want := "1 workers,2 queue_index,3 enqueue"; ledger != want {
		t.Errorf("our ledger = %s, want %s", ledger, want)
	}
}

// TestFilesByHand runs the files as a DBA does, who has no runner: the result must be the same.
func TestFilesByHand(t *testing.T) {
	t.Parallel()
	conn, trace := connectTraced(t, emptyDatabase(t))
	for _, file := range migrations.All() {
		if file.Transactional() {
			run(t, conn, "begin")
			run(t, conn, file.SQL)
			run(t, conn, "commit")
			continue
		}
		for _, statement := range file.Statements() {
			run(t, conn, statement)
		}
	}
	samePeerCatalog(t, conn, migrations.DefaultSchema)
	trace.take()
	migrate(t, conn, pgstore.MigrateOptions{})
	if sent := trace.take(); len(sent) != 1 {
		t.Errorf("statements of a migration after the files = %q, want one", sent)
	}
}
