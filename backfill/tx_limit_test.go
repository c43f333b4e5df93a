package backfill_test

import (
	"context"
	"testing"
	"time"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/testutil/pgtest"
)

// returns fails the test if an enqueue waits for ever.
func returns(ctx context.Context, t *testing.T, tx transaction, request backfill.Request) error {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		_, err := tx.enqueuer.Enqueue(ctx, request)
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-time.After(hang):
		t.Fatal("the enqueue has not returned")
		return nil
	}
}

// A transaction whose server does not answer gives its caller back after the deadline, and after a
// limit of ours where there is none.
func TestTransactionOfADeadServer(t *testing.T) {
	t.Parallel()
	for kind, begin := range transactions() {
		for name, request := range map[string]backfill.Request{"plain": {Task: "t"}, "keyed": {Task: "t", Key: "k", Queue: "q"}} {
			t.Run(kind+" "+name, func(t *testing.T) {
				t.Parallel()
				db := pgtest.New(t)
				client := newClient(t, db)
				for _, limited := range []bool{true, false} {
					proxy := dbtest.NewProxy(t, db.URL)
					tx := begin(t, &pgtest.Database{URL: proxy.URL}, client)
					proxy.Arm(1, dbtest.Freeze)
					ctx, want := context.Background(), "did not answer within 10s, or another transaction holds a key"
					if limited {
						short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
						defer cancel()
						ctx, want = short, context.DeadlineExceeded.Error()
					}
					err := returns(ctx, t, tx, request)
					wantError(t, err, "in transaction: enqueue: ")
					wantError(t, err, want)
					proxy.Disarm()
				}
				wantJobs(t, db, 0)
			})
		}
	}
}

// The same error ends the wait for a key that another transaction holds.
func TestTransactionThatWaitsForAKey(t *testing.T) {
	t.Parallel()
	for kind, begin := range transactions() {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			client := newClient(t, db)
			request := backfill.Request{Task: "t", Key: "k"}
			if _, err := client.Enqueue(t.Context(), request); err != nil {
				t.Fatal(err)
			}
			holder := begin(t, db, client)
			if _, err := holder.enqueuer.Enqueue(t.Context(), request); err != nil {
				t.Fatal(err)
			}
			tx := begin(t, db, client)
			err := returns(context.Background(), t, tx, request)
			wantError(t, err, "or another transaction holds a key or a name of these jobs: roll back, and repeat the transaction")
			wantError(t, err, "nothing is enqueued unless it commits")
			_ = tx.rollback()
			if err := holder.commit(); err != nil {
				t.Error(err)
			}
			wantJobs(t, db, 1)
		})
	}
}
