package backfill_test

import (
	"context"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/testutil/pgtest"
)

// Open does not wait for the index on a table with jobs. The client builds it when the transactions
// of others let it.
func TestOpenLeavesTheIndexToTheClient(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn, report := connect(t, db), connect(t, db)
	statement(t, conn, "select graphile_worker.add_job('a', queue_name := 'q')")
	statement(t, conn, "drop index graphile_worker.backfill_jobs_queue_idx")
	statement(t, report, "begin isolation level repeatable read")
	statement(t, report, "select count(*) from graphile_worker._private_jobs")
	var log logBook
	ctx, cancel := context.WithTimeout(t.Context(), hang)
	defer cancel()
	client, err := backfill.Open(ctx, db.URL, backfill.WithLogger(log.logger()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	valid := func() bool {
		return get[bool](t, conn, `select coalesce((select indisvalid from pg_index where indexrelid = to_regclass('graphile_worker.backfill_jobs_queue_idx')), false)`)
	}
	until(t, "a build that waits", func() bool {
		return get[bool](t, conn, `select exists (select from pg_stat_activity
			where datname = current_database() and query like '%create index concurrently%' and cardinality(pg_blocking_pids(pid)) > 0)`)
	})
	if valid() {
		t.Error("the index is valid before the transaction has ended")
	}
	statement(t, report, "commit")
	until(t, "a valid index", valid)
	until(t, "the log lines", func() bool {
		text := log.String()
		return strings.Contains(text, "index for queues is being built") && strings.Contains(text, "index for queues is built")
	})
}

// statement runs a statement of any kind.
func statement(t *testing.T, conn *pgx.Conn, sql string) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%v: %s", err, sql)
	}
}

// A client that verifies builds nothing.
func TestOpenVerifiesTheIndex(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := connect(t, db)
	statement(t, conn, "select graphile_worker.add_job('a', queue_name := 'q')")
	statement(t, conn, "drop index graphile_worker.backfill_jobs_queue_idx")
	var log logBook
	client, err := backfill.Open(t.Context(), db.URL, backfill.WithLogger(log.logger()), backfill.WithMigrations(backfill.MigrateVerify))
	if err != nil {
		t.Fatal(err)
	}
	client.Close()
	log.want(t, "index is missing or invalid", "run: backfill migrate")
}
