package backfill_test

import (
	"context"
	"strings"
	"testing"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/testutil/pgtest"
)

// A worker that starts alone sweeps at once, and says who holds locks. So does one that starts
// after it, even if it is not its turn to sweep for all: the first may have been killed.
func TestSweepAtStart(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	for user, lock := range [][2]string{{"gone", "5 hours"}, {"killed", "2 hours"}} {
		enqueue(t, newClient(t, db), mailTask, mailArgs{UserID: int64(user)})
		exec(t, db.Pool(), `update graphile_worker._private_jobs set attempts = max_attempts, locked_by = $2, locked_at = now() - $3::text::interval
			where (payload->>'user_id')::int = $1`, user, lock[0], lock[1])
	}
	const turns = "select count(*)::int from graphile_worker.backfill_workers where swept_at is not null"
	for _, released := range []int{1, 0} {
		log := new(logBook)
		_, registry := taskOf("other", func(context.Context, mailArgs) error { return nil })
		w := start(t, newClient(t, db, backfill.WithLogger(log.logger())), registry)
		if n := w.await("a sweep", 1, is(backfill.EventSwept)).Count; n != released {
			t.Errorf("released %d jobs, want %d", n, released)
		}
		until(t, "a line about locks", func() bool { return strings.Contains(log.String(), "another worker holds locks") })
		log.want(t, "owner=killed")
		if n := get[int](t, db.Pool(), turns); n != 1 {
			t.Errorf("%d workers have swept for all", n)
		}
	}
}
