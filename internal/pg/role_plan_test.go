package pg_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/pg/query"
	"github.com/backfillhq/go/internal/schema"
	"github.com/backfillhq/go/testutil/pgtest"
)

// filters are conditions that no index answers: row level security changes the order in which they
// are checked.
var filters = regexp.MustCompile(`Filter: .*`)

// R26: row level security does not change the plans of a worker that does not own the tables.
func TestWorkerRolePlans(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	owner, worker := dbtest.Connect(t, db.URL), dbtest.Connect(t, db.URL)
	role := dbtest.NewRole(t, dbtest.Connect(t, db.URL))
	name := strings.ReplaceAll(strings.Trim(role, `"`), `""`, `"`)
	if _, err := schema.GrantRole(t.Context(), owner, name, schema.WorkerRole, schema.Options{Schema: schemaName}); err != nil {
		t.Fatal(err)
	}
	for _, conn := range []*pgx.Conn{owner, worker} {
		if _, err := conn.PgConn().Exec(t.Context(), pg.EngineSession).ReadAll(); err != nil {
			t.Fatal(err)
		}
	}
	dbtest.Run(t, worker, "set role "+role)
	if !dbtest.Get[bool](t, worker, "select row_security_active('graphile_worker._private_jobs')") {
		t.Fatal("the worker's role owns the table: the test shows nothing")
	}
	texts := map[string]string{
		"complete": query.CompleteJobs, "fail": query.FailJobs, "release": query.ReleaseJobs, "renew": query.RenewJobs, "holders": query.LeaseHolders,
		"complete keyed": query.CompleteKeyedJobs, "bury": query.BuryJobs, "end cancelled": query.EndCanceled, "endable": query.EndableJobs, "standing": query.Standing, "look": query.LookAtLeases, "queues": query.FreeQueues, "insert": query.InsertJob, "inserts": query.InsertJobs, "queued": query.InsertQueuedJobs,
		"lock keys": query.LockKeys, "supersede": query.SupersedeKeys, "upsert": query.UpsertJobs,
	}
	for name, text := range pg.ClaimTexts() {
		texts["claim "+name] = text
	}
	for name, text := range texts {
		var plans [2]string
		for i, conn := range []*pgx.Conn{owner, worker} {
			dbtest.Run(t, conn, "prepare it as "+text)
			parameters := dbtest.Get[int](t, conn, "select cardinality(parameter_types) from pg_prepared_statements where name = 'it'")
			explain := "explain (costs off) execute it"
			if parameters > 0 {
				explain += " (" + strings.TrimPrefix(strings.Repeat(", null", parameters), ", ") + ")"
			}
			rows, err := conn.Query(t.Context(), explain, pgx.QueryExecModeSimpleProtocol)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			plans[i] = filters.ReplaceAllString(strings.Join(lines, "\n"), "Filter")
			dbtest.Run(t, conn, "deallocate it")
		}
		if diff := cmp.Diff(strings.Split(plans[0], "\n"), strings.Split(plans[1], "\n")); diff != "" {
			t.Errorf("%s: plan (-owner +worker):\n%s", name, diff)
		}
		if !strings.Contains(plans[0], "_private_jobs") && !strings.Contains(plans[0], "_private_job_queues") {
			t.Errorf("%s: not a plan: %s", name, plans[0])
		}
	}
}
