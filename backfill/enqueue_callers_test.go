package backfill_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/testutil/pgtest"
)

// Callers beyond the connections fold into batches; each gets its own jobs, and every job is there
// once.
func TestManyCallersAtOnce(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	trace := &tracer{}
	pool := poolOf(t, db.URL, func(config *pgxpool.Config) { config.MaxConns, config.ConnConfig.Tracer = 4, trace })
	client, err := backfill.NewClient(t.Context(), pool, backfill.WithLogger(quiet))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	const callers, calls = 50, 10
	var wait sync.WaitGroup
	for caller := range callers {
		wait.Go(func() {
			for call := range calls {
				one, other := fmt.Sprintf(`"%d.%d"`, caller, call), fmt.Sprintf(`"%d.%d+"`, caller, call)
				requests := []backfill.Request{{Task: "t", Args: raw(one)}, {Task: "t", Args: raw(other), Queue: "q"}}
				switch call % 3 {
				case 1:
					requests = requests[:1]
				case 2:
					requests[0].Key, requests[1].Queue = one, ""
				}
				jobs, err := client.Enqueue(context.Background(), requests...)
				if err != nil {
					t.Errorf("caller %d: %v", caller, err)
					return
				}
				if len(jobs) != len(requests) || string(jobs[0].Args) != one || len(jobs) == 2 && string(jobs[1].Args) != other {
					t.Errorf("caller %d got the jobs of others: %+v, want %v", caller, *jobs[0], requests)
				}
			}
		})
	}
	wait.Wait()
	var payloads []string
	for _, row := range jobRows(t, db) {
		payloads = append(payloads, row.Payload)
	}
	want := callers * (4*2 + 3 + 3*2)
	if all := len(payloads); all != want || len(slices.Compact(slices.Sorted(slices.Values(payloads)))) != want {
		t.Errorf("%d jobs, want %d different ones", all, want)
	}
	if sent := trace.sent.Load(); sent > callers*calls {
		t.Errorf("%d round trips for %d calls", sent, callers*calls)
	}
}

// A caller whose context ends leaves, and learns whether its jobs may be there.
func TestCallersThatLeave(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	enqueue(t, client, mailTask, mailArgs{}) // the name is known from here on
	holder := connect(t, db)
	tx, err := holder.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "lock table graphile_worker._private_jobs in share mode"); err != nil {
		t.Fatal(err)
	}
	waiting := func() int {
		return get[int](t, tx, "select count(*) from pg_locks where not granted and database = (select oid from pg_database where datname = current_database())")
	}
	errs := make(chan error, 4)
	ctx, cancel := context.WithCancel(t.Context())
	for i := range 4 { // as many as insert on their own
		callerCtx := t.Context()
		if i == 3 {
			callerCtx = ctx
		}
		go func() {
			_, err := backfill.Enqueue(callerCtx, client, mailTask, mailArgs{UserID: 1})
			errs <- err
		}()
	}
	until(t, "all connections to be busy", func() bool { return waiting() == 4 })

	gone, leave := context.WithCancel(t.Context())
	leave()
	_, err = backfill.Enqueue(gone, client, mailTask, mailArgs{UserID: 2})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("while it waited for a turn: %v", err)
	}
	wantError(t, err, "the jobs were not enqueued")
	cancel()
	if err := receive(t, "the caller that left", errs); !errors.Is(err, context.Canceled) {
		t.Errorf("while its statement ran: %v", err)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := receive(t, "a caller", errs); err != nil {
			t.Error(err)
		}
	}
	got := get[int](t, db.Pool(), "select count(*) from graphile_worker._private_jobs where payload->>'user_id' = '2'")
	if got != 0 {
		t.Error("a job was enqueued for a caller that had been told otherwise")
	}
	if _, err := backfill.Enqueue(gone, client, mailTask, mailArgs{UserID: 2}); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
}

// A keyed enqueue that waits, for a transaction of the application's own, keeps up no others: not
// the one that the transaction's owner makes before it commits.
func TestKeyedEnqueueBesideOneThatWaits(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	request := func(key string) backfill.Request { return backfill.Request{Task: "t", Key: key} }
	if _, err := client.Enqueue(t.Context(), request("a")); err != nil {
		t.Fatal(err)
	}
	tx, err := connect(t, db).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.WithTx(tx).Enqueue(t.Context(), request("a")); err != nil {
		t.Fatal(err)
	}
	waited := make(chan error)
	for range 2 { // the second waits for the first
		go func() {
			_, err := client.Enqueue(context.Background(), request("a"))
			waited <- err
		}()
	}
	until(t, "a caller waits for the row", func() bool {
		return get[bool](t, db.Pool(), `select exists (select from pg_stat_activity
			where datname = current_database() and wait_event_type = 'Lock' and wait_event in ('transactionid', 'tuple'))`)
	})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, err := client.Enqueue(ctx, request("b"), request("c")); err != nil {
		t.Errorf("enqueue other keys: %v", err)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := <-waited; err != nil {
			t.Error(err)
		}
	}
	wantJobs(t, db, 3)
}
