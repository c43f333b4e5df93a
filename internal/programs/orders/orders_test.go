package orders_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/programs/orders"
	"github.com/backfillhq/go/testutil"
	"github.com/backfillhq/go/testutil/pgtest"
)

// Placing an order enqueues its receipt, once, in the transaction of the order. A Recorder takes the
// jobs; the orders are in a database.
func TestPlace(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool()
	if _, err := pool.Exec(t.Context(), orders.Schema); err != nil {
		t.Fatal(err)
	}
	rec := testutil.NewRecorder()
	ada := orders.Order{ID: "1", Customer: "ada@example.com", Quantity: 2}
	for i, want := range []bool{true, false} {
		placed, err := place(t.Context(), pool, rec, ada)
		if err != nil || placed != want {
			t.Errorf("call %d returns %v, %v; want %v", i+1, placed, err, want)
		}
	}
	jobs := testutil.Enqueued(t, rec, orders.TaskSendReceipt)
	if len(jobs) != 1 {
		t.Fatalf("%d jobs, want 1", len(jobs))
	}
	if want := (orders.ReceiptArgs{OrderID: "1", Customer: "ada@example.com", Quantity: 2}); jobs[0].Args != want {
		t.Errorf("the args are %+v, want %+v", jobs[0].Args, want)
	}
	if jobs[0].Queue != "customer:ada@example.com" || !jobs[0].InTx {
		t.Errorf("queue %q, in the transaction: %v", jobs[0].Queue, jobs[0].InTx)
	}
	if _, err := place(t.Context(), pool, rec, orders.Order{ID: "2", Customer: "bob@example.com", Quantity: 1000}); !errors.Is(err, orders.ErrSoldOut) {
		t.Errorf("1000 of 98 are sold: %v", err)
	}
	rec.FailWith(backfill.ErrRejected)
	if _, err := place(t.Context(), pool, rec, orders.Order{ID: "3", Customer: "bob@example.com", Quantity: 1}); !errors.Is(err, backfill.ErrRejected) {
		t.Errorf("the job was refused, and Place returns %v", err)
	}
	var placed int
	if err := pool.QueryRow(t.Context(), "select count(*) from shop.orders").Scan(&placed); err != nil || placed != 1 {
		t.Errorf("%d orders, %v; want 1", placed, err)
	}
}

func place(ctx context.Context, pool *pgxpool.Pool, rec *testutil.Recorder, order orders.Order) (placed bool, err error) {
	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) (err error) {
		placed, err = orders.Place(backfill.NewContext(ctx, rec.WithTx(tx)), tx, order)
		return err
	})
	return placed, err
}

// A mail API that fails, and then wants to be left alone, gets the receipt in the end, and can tell
// that it is the same one. Nothing of this needs a database.
func TestReceiptIsRetried(t *testing.T) {
	t.Parallel()
	answers := []int{http.StatusBadGateway, http.StatusTooManyRequests, http.StatusOK}
	var keys, bodies []string
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		keys, bodies = append(keys, r.Header.Get("Idempotency-Key")), append(bodies, string(body))
		w.WriteHeader(answers[len(keys)-1])
	}))
	defer api.Close()
	rec := testutil.NewRecorder()
	receipt := orders.ReceiptArgs{OrderID: "1", Customer: "ada@example.com", Quantity: 2}
	if _, err := orders.NewClient(rec).EnqueueSendReceipt(t.Context(), receipt); err != nil {
		t.Fatal(err)
	}
	registry := orders.NewRegistry(orders.Handlers{Receipts: &orders.Receipts{URL: api.URL}})
	report := rec.Work(t, registry, backfill.WithScheduled()) // the retry, too; a snoozed job waits for the next run
	if report.Completed != 0 || report.Failed != 1 || report.Snoozed != 1 {
		t.Errorf("the first report is %+v", report)
	}
	if report = rec.Work(t, registry, backfill.WithScheduled()); report.Completed != 1 {
		t.Errorf("the second report is %+v", report)
	}
	if len(keys) != 3 || keys[0] == "" || keys[1] != keys[0] || keys[2] != keys[0] {
		t.Errorf("the idempotency keys are %q", keys)
	}
	if want := `{"text":"Thank you for order 1 of 2.","to":"ada@example.com"}`; len(bodies) != 3 || bodies[2] != want {
		t.Errorf("the bodies are %q, want %q", bodies, want)
	}
}

// A receipt that the mail API refuses is not tried again.
func TestReceiptIsRefused(t *testing.T) {
	t.Parallel()
	api := httptest.NewServer(http.NotFoundHandler())
	defer api.Close()
	ctx := testutil.WithJob(t.Context(), backfill.Job{ID: 7})
	err := (&orders.Receipts{URL: api.URL}).SendReceipt(ctx, orders.ReceiptArgs{OrderID: "1", Customer: "ada@example.com"})
	if verdict := backfill.VerdictOf(ctx, err); verdict.Kind != backfill.VerdictPermanent {
		t.Errorf("%v is %s", err, verdict.Kind)
	}
}
