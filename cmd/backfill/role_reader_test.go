package main

import (
	"context"
	"testing"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/testutil/pgtest"
)

// A reader's role sees everything, through the client's questions too, and changes nothing.
func TestReaderRole(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	role := newLogin(t, db)
	stdout, _ := command(t, 1, "migrate", "--verify", "--database-url", db.URL, "--reader-role", role.name)
	says(t, stdout, "is up to date")
	stdout, _ = command(t, 0, "migrate", "--database-url", db.URL, "--reader-role", role.name)
	says(t, stdout, "was given its rights", "create policy", "for select")
	stdout, _ = command(t, 0, "migrate", "--verify", "--database-url", db.URL, "--reader-role", role.name)
	says(t, stdout, "has its rights")

	admin, err := backfill.Open(t.Context(), db.URL, quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(admin.Close)
	task, _ := newTask(t, "report", func(context.Context, noteArgs) error { return nil })
	id, err := backfill.Enqueue(t.Context(), admin, task, noteArgs{1}, backfill.Queue("q"))
	if err != nil {
		t.Fatal(err)
	}
	client := open(t, role)
	if job, err := client.Job(t.Context(), id.ID); err != nil || job.Queue != "q" {
		t.Errorf("the job is %+v, %v", job, err)
	}
	if stats, err := client.Stats(t.Context()); err != nil || len(stats.Tasks) != 1 {
		t.Errorf("the stats are %+v, %v", stats, err)
	}
	if pauses, err := client.Paused(t.Context()); err != nil || len(pauses) != 0 {
		t.Errorf("paused are %+v, %v", pauses, err)
	}
	conn := connectTo(t, role.url)
	execute(t, conn, "select from graphile_worker.jobs")
	for _, table := range []string{
		"_private_jobs", "_private_job_queues", "_private_tasks", "_private_known_crontabs", "backfill_workers", "backfill_pauses", "backfill_crashes", "backfill_dlq",
		"backfill_queue_pauses", "backfill_cancels", "backfill_audit", "backfill_operations", "backfill_operation_items",
		"backfill_traces", "backfill_counters", "backfill_progress", "backfill_history", "backfill_history_tasks",
	} {
		execute(t, conn, "select from graphile_worker."+table)
		refused(t, conn, "delete from graphile_worker."+table, "truncate graphile_worker."+table,
			"select from graphile_worker."+table+" for update")
	}
	refused(t, conn, "insert into graphile_worker._private_tasks (identifier) values ('x')",
		"update graphile_worker._private_jobs set attempts = 0", "insert into graphile_worker.backfill_pauses (task) values ('report')")
	if err := client.Pause(t.Context(), "report", backfill.PauseOptions{}); err == nil {
		t.Error("a reader paused a task")
	}
	if _, err := backfill.Enqueue(t.Context(), client, task, noteArgs{2}); err == nil {
		t.Error("a reader enqueued")
	}
}
