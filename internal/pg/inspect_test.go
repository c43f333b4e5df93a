package pg_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/pg"
)

// A table with more pages than the bound is estimated from a part of it, and the estimate comes
// close.
func TestCountIsBounded(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	dbtest.Run(t, r.pool, `select graphile_worker.add_jobs(array(
		select row(case when i % 4 = 0 then 'a' else 'b' end, '{}', null, null, 25, null, 0, null)::graphile_worker.job_spec
		from generate_series(1, 40000) as i))`)
	dbtest.Run(t, r.pool, "update graphile_worker._private_jobs set attempts = max_attempts where id % 2 = 0")
	admin := pg.NewAdmin(r.pool, schemaName)
	exact, whole, err := admin.Count(t.Context())
	if err != nil || !whole {
		t.Fatalf("exact %v: %v", whole, err)
	}
	want := []pg.TaskCount{{Task: "a", Failed: 10_000}, {Task: "b", Due: 20_000, Failed: 10_000}}
	if diff := cmp.Diff(want, exact); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
	pages := dbtest.Get[int64](t, r.pool, `select pg_relation_size('graphile_worker._private_jobs') / current_setting('block_size')::bigint`)
	estimates, whole, err := pg.CountPages(t.Context(), admin, pages/4)
	if err != nil || whole || len(estimates) != 2 {
		t.Fatalf("exact %v: %v, %v", whole, estimates, err)
	}
	// Every page is taken with a probability of 1/4: 60 % are 7 standard deviations of some 400 pages.
	near := func(what string, got, want int64) {
		if got < want*4/10 || got > want*16/10 {
			t.Errorf("%s: %d, want an estimate of %d", what, got, want)
		}
	}
	near("due", estimates[1].Due, 20_000)
	near("failed", estimates[0].Failed+estimates[1].Failed, 20_000)
}
