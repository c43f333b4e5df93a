package pg_test

import (
	"errors"
	"testing"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/worker"
)

// A job's row that is gone after a COMMIT without an answer was deleted by its transaction, unless
// the server knows that this was rolled back: then somebody else has ended the job.
func TestRowThatIsGoneAfterCommit(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	lost := errors.New("the answer was lost")
	for _, committed := range []bool{true, false} {
		id := r.add("'a'")
		lease := r.claim(1)[0].Lease
		tx, err := r.pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		xid := dbtest.Get[int64](t, tx, "select txid_current()::bigint")
		if committed {
			err = tx.Commit(t.Context())
		} else {
			err = tx.Rollback(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := r.store.Settle(t.Context(), lease, xid, lost); committed == false && !errors.Is(err, lost) {
			t.Errorf("while the row is there: %v", err)
		}
		dbtest.Run(t, r.pool, "delete from graphile_worker._private_jobs where id = $1", id)
		switch err := r.store.Settle(t.Context(), lease, xid, lost); {
		case committed && err != nil:
			t.Errorf("it was committed: %v", err)
		case !committed && !errors.Is(err, worker.ErrLeaseLost):
			t.Errorf("it was rolled back: %v", err)
		}
		if err := r.store.Settle(t.Context(), lease, xid+1_000_000, lost); err != nil {
			t.Errorf("of a transaction that the server does not know of: %v", err)
		}
	}
}
