package backfill_test

import (
	"context"
	"testing"
	"time"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/testutil/pgtest"
)

// awaited is an enqueue that is expected to give up. All of a test run at once: each takes as long
// as its limit.
type awaited struct {
	name, want string
	done       chan error
}

// await begins an enqueue.
func await(ctx context.Context, name, want string, tx transaction, request backfill.Request) awaited {
	a := awaited{name, want, make(chan error, 1)}
	go func() {
		_, err := tx.enqueuer.Enqueue(ctx, request)
		a.done <- err
	}()
	return a
}

// wantErrors fails the test for enqueues that wait for ever, or end with another error.
func wantErrors(t *testing.T, all []awaited) {
	t.Helper()
	late := time.After(hang)
	for _, a := range all {
		select {
		case err := <-a.done:
			t.Log(a.name)
			wantError(t, err, "in transaction: enqueue: ")
			wantError(t, err, a.want)
		case <-late:
			t.Fatalf("%s has not returned", a.name)
		}
	}
}

// A transaction whose server does not answer gives its caller back after the deadline, and after a
// limit of ours where there is none.
func TestTransactionOfADeadServer(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	var all []awaited
	for kind, begin := range transactions() {
		for name, request := range map[string]backfill.Request{"plain": {Task: "t"}, "keyed": {Task: "t", Key: "k", Queue: "q"}} {
			dead := func() transaction {
				proxy := dbtest.NewProxy(t, db.URL)
				tx := begin(t, &pgtest.Database{URL: proxy.URL}, client)
				proxy.Arm(1, dbtest.Freeze)
				t.Cleanup(func() { proxy.Disarm() })
				return tx
			}
			tx := dead()
			short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			all = append(all,
				await(short, kind+" "+name+" with a deadline", context.DeadlineExceeded.Error(), tx, request),
				await(context.Background(), kind+" "+name, "another transaction may hold a key", dead(), request))
		}
	}
	wantErrors(t, all)
	wantJobs(t, db, 0)
}

// The same error ends the wait for a key that another transaction holds.
func TestTransactionThatWaitsForAKey(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	request := backfill.Request{Task: "t", Key: "k"}
	if _, err := client.Enqueue(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	holder := transactions()["pgx"](t, db, client)
	if _, err := holder.enqueuer.Enqueue(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	const want = "; another transaction may hold a key or a name of these jobs: roll back, and repeat the transaction; " +
		"nothing is enqueued unless it commits"
	ctx, cancel := context.WithCancel(context.Background()) // no deadline
	var all []awaited
	for kind, begin := range transactions() {
		tx := begin(t, db, client)
		defer func() { _ = tx.rollback() }()
		all = append(all, await(ctx, kind, want, tx, request))
	}
	defer cancel() // first, or the others would wait if this fails
	wantErrors(t, all)
	if err := holder.commit(); err != nil {
		t.Error(err)
	}
	wantJobs(t, db, 1)
}
