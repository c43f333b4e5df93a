package docs_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/docs/sqlc/orders"
	"github.com/backfillhq/go/internal/schema"
	"github.com/backfillhq/go/migrations"
	"github.com/backfillhq/go/testutil/pgtest"
)

// The sample's schema is the one that the migrations make.
func TestSampleSchemaIsCurrent(t *testing.T) {
	t.Parallel()
	want, err := schema.FreshScript(migrations.DefaultSchema)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(root, "docs/sqlc/backfill.sql"))
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Error("docs/sqlc/backfill.sql is not what backfill migrate --print writes: run go generate ./internal/docs")
	}
}

// The sample's queries say what they promise.
func TestSampleQueries(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool()
	schema, err := os.ReadFile(filepath.Join(root, "docs/sqlc/schema.sql"))
	if err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{
		string(schema),
		"insert into orders (customer, total) values ('waits', 1), ('tries again', 2), ('has failed', 3), ('runs', 4), ('has no job', 5)",
		`select graphile_worker.add_job('ship_order', json_build_object('order_id', id), job_key := 'order:' || id,
			run_at := '2040-01-01'::timestamptz + id * interval '1 day') from orders where id < 5 order by id`,
		"update graphile_worker._private_jobs set attempts = 1 where key = 'order:2'",
		"update graphile_worker._private_jobs set attempts = max_attempts, last_error = 'no stock' where key = 'order:3'",
		"update graphile_worker._private_jobs set attempts = 1, locked_at = now(), locked_by = 'w' where key = 'order:4'",
	} {
		if _, err := pool.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%v: %s", err, sql)
		}
	}
	queries := orders.New(pool)
	waiting, err := queries.OrdersWaiting(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	failed, err := queries.OrdersFailed(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	jobs, err := queries.JobsOfOrder(t.Context(), 3)
	if err != nil {
		t.Fatal(err)
	}
	var got [][2]any
	for _, row := range waiting {
		got = append(got, [2]any{row.Customer, row.Attempts})
	}
	for _, row := range failed {
		got = append(got, [2]any{row.Customer, row.LastError.String})
	}
	for _, row := range jobs {
		got = append(got, [2]any{row.Task, row.IsAvailable})
	}
	want := [][2]any{{"waits", int16(0)}, {"tries again", int16(1)}, {"has failed", "no stock"}, {"ship_order", false}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("orders that wait, that have failed, and jobs of the third (-want +got):\n%s", diff)
	}
}
