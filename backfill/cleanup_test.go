package backfill_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/testutil/pgtest"
)

// Names that only failed jobs had go with them.
func TestCleanup(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	_, registry := taskOf("served", ignore)
	start(t, client, registry)
	addJob(t, db, "select id from graphile_worker.add_job('failed', queue_name := 'failed')")
	exec(t, db.Pool(), "update graphile_worker._private_jobs set attempts = max_attempts")
	addJob(t, db, adminFree)
	report, err := client.Cleanup(t.Context(), backfill.CleanupOptions{FailedJobs: true, TaskNames: true, KeepTasks: []string{"served"}, QueueNames: true})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&backfill.CleanupReport{FailedJobs: 1, TaskNames: 1, QueueNames: 1}, report); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
	if got := get[string](t, db.Pool(), "select string_agg(identifier, ' ' order by id) from graphile_worker._private_tasks"); got != "served t" {
		t.Errorf("left the task names %s", got)
	}
	if _, err := client.Cleanup(t.Context(), backfill.CleanupOptions{}); err == nil {
		t.Error("no error of a cleanup of nothing")
	}
	if _, err := client.Cleanup(t.Context(), backfill.CleanupOptions{TaskNames: true, KeepTasks: []string{"a\x00"}}); err == nil {
		t.Error("no error of a name that cannot be")
	}
}
