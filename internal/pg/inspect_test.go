package pg_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/pg"
)

// A table with more pages than the bound is estimated from a part of it, and the estimate comes
// close. Each job has a page of its own.
func TestCountIsBounded(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	dbtest.Run(t, r.pool, "alter table graphile_worker._private_jobs set (fillfactor = 10)")
	dbtest.Run(t, r.pool, `insert into graphile_worker._private_jobs (task_id, payload, attempts)
		select t.id, json_build_object('padding', repeat('.', 900)), case when i % 4 > 1 then 25 else 0 end
		from generate_series(1, 16000) as i
		join graphile_worker._private_tasks as t on t.identifier = case when i % 4 = 2 then 'a' else 'b' end`)
	admin := pg.NewAdmin(r.pool, schemaName)
	pages := dbtest.Get[int64](t, r.pool, `select pg_relation_size('graphile_worker._private_jobs') / current_setting('block_size')::bigint`)
	exact, whole, err := pg.CountPages(t.Context(), admin, pages)
	if err != nil || !whole {
		t.Fatalf("exact %v: %v", whole, err)
	}
	want := []pg.TaskCount{{Task: "a", Failed: 4_000}, {Task: "b", Due: 8_000, Failed: 4_000}}
	if diff := cmp.Diff(want, exact); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
	estimates, whole, err := admin.Count(t.Context())
	if err != nil || whole || len(estimates) != 2 {
		t.Fatalf("of %d pages, exact %v: %v, %v", pages, whole, estimates, err)
	}
	// Every page is taken with a probability of about 1/2: 10 % are 6 standard deviations of 4,000.
	near := func(what string, got, want int64) {
		if got < want*9/10 || got > want*11/10 {
			t.Errorf("%s: %d, want an estimate of %d", what, got, want)
		}
	}
	near("failed jobs of a", estimates[0].Failed, 4_000)
	near("due jobs of b", estimates[1].Due, 8_000)
	near("failed jobs of b", estimates[1].Failed, 4_000)
}
