package pg_test

import (
	"context"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/schema"
	"github.com/backfillhq/go/internal/worker"
	"github.com/backfillhq/go/testutil/pgtest"
)

// A worker whose policies let it read, and not lock or delete, finds no jobs, or cannot record
// their outcomes: it says so, as one that sees no rows does. A policy of a reader of the same name
// is the usual way to get there.
func TestPoliciesThatOnlyRead(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	admin := dbtest.Connect(t, db.URL)
	role := dbtest.NewRole(t, admin)
	name := strings.ReplaceAll(strings.Trim(role, `"`), `""`, `"`)
	grant := func() {
		t.Helper()
		if _, err := schema.GrantRole(t.Context(), admin, name, schema.WorkerRole, schema.Options{Schema: schemaName}); err != nil {
			t.Fatal(err)
		}
	}
	grant()
	pool := newPool(t, db.URL, func(config *pgxpool.Config) {
		config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
			_, err := conn.Exec(ctx, "set role "+role)
			return err
		}
	})
	for _, test := range []struct {
		table    string
		commands []string // that policies are left for
		hidden   bool
	}{
		{"_private_jobs", []string{"all"}, false},
		{"_private_jobs", []string{"select"}, true},
		{"_private_jobs", []string{"update", "delete"}, true},
		{"_private_jobs", []string{"select", "update"}, true},
		{"_private_jobs", []string{"select", "update", "delete"}, false},
		{"_private_job_queues", []string{"select"}, true},
		{"_private_job_queues", []string{"select", "update"}, false},
		{"_private_tasks", []string{"select"}, false},
		{"backfill_pauses", []string{"select"}, false},
		{"backfill_queue_pauses", []string{"select"}, false},
		{"backfill_queue_pauses", []string{"update"}, true},
		{"backfill_cancels", []string{"select"}, true},
		{"backfill_cancels", []string{"select", "update", "delete"}, false},
		{"backfill_history", []string{"select"}, true},
		{"backfill_history", []string{"select", "insert"}, false},
		{"backfill_history_tasks", nil, true},
		{"backfill_history_tasks", []string{"select"}, false},
		{"backfill_dlq", nil, true},
		{"backfill_dlq", []string{"select", "update", "delete"}, true},
		{"backfill_dlq", []string{"select", "insert", "update", "delete"}, false},
	} {
		grant()
		r := rigOn(t, pool, schemaName)
		table := "graphile_worker." + test.table
		policy := dbtest.Get[string](t, admin, "select polname::text from pg_policy where polrelid = $1::regclass", table)
		dbtest.Run(t, admin, "drop policy "+pgx.Identifier{policy}.Sanitize()+" on "+table)
		for _, command := range test.commands {
			all := map[bool]string{true: " with check (true)", false: " using (true)"}[command == "insert"]
			dbtest.Run(t, admin, "create policy backfill_"+command+" on "+table+" for "+command+" to "+role+all)
		}
		r.store.ForgetTasks()
		_, err := r.store.Claim(r.quick(), worker.ClaimRequest{WorkerID: r.id, Number: 1, Batch: 1, Serial: 1})
		if test.hidden {
			dbtest.Mentions(t, err, "hides the rows of "+test.table+" from role")
		} else if err != nil {
			t.Errorf("%s for %q: %v", test.table, test.commands, err)
		}
		for _, command := range test.commands {
			dbtest.Run(t, admin, "drop policy backfill_"+command+" on "+table)
		}
	}
}
