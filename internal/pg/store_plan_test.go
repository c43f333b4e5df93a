package pg_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/pg/query"
	"github.com/backfillhq/go/testutil/pgtest"
)

// planned is what a plan does on the tables of jobs, dead letters, and requests.
type planned struct {
	Type     string    `json:"Node Type"`
	Relation string    `json:"Relation Name"`
	Rows     float64   `json:"Actual Rows"`
	Loops    float64   `json:"Actual Loops"`
	Plans    []planned `json:"Plans"`
}

func (p planned) walk(visit func(planned)) {
	visit(p)
	for _, child := range p.Plans {
		child.walk(visit)
	}
}

// R26: plans that were made and cached while the table was empty, and never analysed, do bounded
// work when it is full.
func TestPlansCachedOnAnEmptyTable(t *testing.T) {
	t.Parallel()
	for name, text := range pg.ClaimTexts() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			kind, flags, _ := strings.Cut(name, " ")
			types := "text, text, int[], smallint[], timestamptz[], int, bigint, bigint, smallint, int"
			values := "'pool-x', 'pool-x.1', '{1}', '{}', '{}', 500, 16000000, 0, -32768, 20"
			more := map[string][2]string{
				"front": {", int[]", ", '{1,2,3}'"}, "deep": {", int[], int, int", ", '{1,2,3}', 0, 1000"},
			}[kind]
			if flags != "" {
				more[0] += ", text[], bigint[]"
				more[1] += ", '{f}', '{1,2}'"
			}
			more[0] += ", int[], int" // for transactional tasks
			more[1] += ", '{1}', 3"
			if kind != "free" {
				more[0] += ", int[]"
				more[1] += ", '{1}'"
			}
			planChecker(t, text, "("+types+more[0]+")", "("+values+more[1]+")")(30_000)
		})
	}
	finishes := map[string]struct{ text, types, arguments string }{
		"complete": {query.CompleteJobs, "(bigint[], text[])", "('{1,2,3}', '{x,y,z}')"},
		"fail": {
			query.FailJobs, "(bigint[], text[], text[], bigint[], boolean[], text[], text[], text[], text[], text[], bigint[], bigint[], text[])",
			"('{1,2,3}', '{x,y,z}', '{e,e,e}', '{1,1,1}', '{t,t,f}', '{\"\",\"\",\"\"}', '{r,r,\"\"}', '{t,t,t}', '{q,q,q}', '{k,k,k}', " +
				"'{1,1,1}', '{1,1,1}', '{l,l,l}')",
		},
		"complete keyed": {query.CompleteKeyedJobs, "(bigint[], text[])", "('{1,2,3}', '{xk,yk,zk}')"},
		"bury":           {query.BuryJobs, "(bigint[], text[], text[], text[])", "('{1,2,3}', '{x,y,\"\"}', '{r,r,r}', '{v,v,v}')"},
		"expire":         {query.ExpireLetters, "(timestamptz, bigint, float8, int)", "('-infinity', 0, 1e8, 100)"},
		"drop requeued":  {query.DropRequeued, "(bigint, int)", "(0, 50)"},
		"release": {
			query.ReleaseJobs, "(bigint[], text[], bigint[], text[], text[], text[], text[], bigint[], bigint[], text[], text[])",
			"('{1,2,3}', '{x,y,z}', '{-1,-1,-1}', '{r,r,r}', '{t,t,t}', '{q,q,q}', '{k,k,k}', '{1,1,1}', '{1,1,1}', '{e,e,e}', '{l,l,l}')",
		},
		"complete recorded": {
			query.CompleteRecordedJobs, "(bigint[], text[], text[], text[], text[], bigint[], bigint[], text[], text[])",
			"('{1,2,3}', '{x,y,z}', '{t,t,t}', '{q,q,q}', '{k,k,k}', '{1,1,1}', '{1,1,1}', '{1,1,1}', '{l,l,l}')",
		},
		"progress": {
			query.WriteProgress, "(bigint[], text[], bigint[], bigint[], text[], bigint[], text[])",
			"('{1,2,3}', '{x,y,z}', '{1,1,1}', '{2,2,2}', '{n,n,n}', '{1,2,3}', '{x,y,z}')",
		},
		"drop progress":   {query.DropProgress, "(int)", "(100)"},
		"renew":           {query.RenewJobs, "(bigint[], text[], int[], text[])", "('{1,2,3}', '{x,y,z}', '{1,0,0}', '{x,y,z}')"},
		"holders":         {query.LeaseHolders, "(bigint[])", "('{1,2,3}')"},
		"end cancelled":   {query.EndCanceled, "(bigint[], text[])", "('{10,20,30}', '{x}')"},
		"requested":       {query.Requested, "(bigint[])", "('{10,20,30}')"},
		"standing":        {query.Standing, "(bigint, text)", "(10, 'x')"},
		"requested in tx": {query.RequestedInTx, "(bigint)", "(10)"},
		"look":            {query.LookAtLeases, "(bigint[])", "('{10,20,30}')"},
		"unbury":          {query.UnburyCanceled, "(bigint[])", "('{10,20,30}')"},
	}
	for name, f := range finishes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			planChecker(t, f.text, f.types, f.arguments)(100)
		})
	}
	// These go by the requests, of which there are 10,000: a look at the job of each, and no more.
	looks := map[string]struct{ text, types, arguments string }{
		"end all cancelled": {query.EndCanceled, "(bigint[], text[])", "(null, '{}')"},
		"endable":           {query.EndableJobs, "", ""},
	}
	for name, f := range looks {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			planChecker(t, f.text, f.types, f.arguments)(10_000)
		})
	}
}

// planChecker prepares a statement on an empty table, lets its plan be cached, fills the table, and
// returns a function that runs the statement and checks that no scan of the jobs returned more rows
// than most.
func planChecker(t *testing.T, text, types, arguments string) func(most float64) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), pgtest.New(t).URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(t.Context()) })
	// Filling the table can take a busy machine more than the session's 10 s.
	if _, err := conn.PgConn().Exec(t.Context(), pg.EngineSession+"; set statement_timeout = 0").ReadAll(); err != nil {
		t.Fatal(err)
	}
	dbtest.Run(t, conn, "alter table graphile_worker._private_jobs set (autovacuum_enabled = off)")
	dbtest.Run(t, conn, "insert into graphile_worker._private_tasks (identifier) values ('a')")
	dbtest.Run(t, conn, "insert into graphile_worker.backfill_workers (id) values ('pool-x')")
	dbtest.Run(t, conn, "prepare claim "+types+" as "+text)
	for range 7 { // PostgreSQL would make custom plans for five
		dbtest.Run(t, conn, "execute claim "+arguments)
	}
	dbtest.Run(t, conn, `insert into graphile_worker._private_job_queues (queue_name) select 'q' || i from generate_series(1, 5000) as i`)
	dbtest.Run(t, conn, `insert into graphile_worker._private_jobs (task_id, job_queue_id, priority)
		select 1, case when i % 2 = 0 then i % 5000 + 1 end, i % 3 from generate_series(1, 100000) as i`)
	dbtest.Run(t, conn, `insert into graphile_worker.backfill_dlq (original_job_id, task_identifier, payload, priority, job_key, max_attempts, attempts,
		failure_reason, original_created_at, original_run_at, requeued_job_id)
		select -i, 'a', '{}', 0, 'k' || i, 25, 25, 'exhausted', now(), now(), case when i % 2 = 0 then i end from generate_series(1, 20000) as i`)
	dbtest.Run(t, conn, "insert into graphile_worker.backfill_cancels (job_id) select 10 * i from generate_series(1, 10000) as i")
	return func(most float64) {
		t.Helper()
		var document string
		rows, err := conn.Query(t.Context(), "explain (analyze, format json, timing off) execute claim "+arguments, pgx.QueryExecModeSimpleProtocol)
		if err != nil {
			t.Fatal(err)
		}
		if document, err = pgx.CollectExactlyOneRow(rows, pgx.RowTo[string]); err != nil {
			t.Fatal(err)
		}
		var plans []struct{ Plan planned }
		if err := json.Unmarshal([]byte(document), &plans); err != nil {
			t.Fatal(err)
		}
		plans[0].Plan.walk(func(p planned) {
			if p.Relation != "_private_jobs" && p.Relation != "backfill_dlq" && p.Relation != "backfill_cancels" {
				return
			}
			if p.Relation != "backfill_cancels" && (p.Type == "Seq Scan" || strings.HasPrefix(p.Type, "Bitmap")) {
				t.Errorf("the plan has a %s on %s", p.Type, p.Relation)
			}
			if p.Rows*p.Loops > most {
				t.Errorf("a %s on %s returned %v rows, want at most %v", p.Type, p.Relation, fmt.Sprint(p.Rows*p.Loops), most)
			}
		})
	}
}
