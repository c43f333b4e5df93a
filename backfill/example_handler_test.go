package backfill_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/backfill"
)

// OrderArgs is the payload of the handlers in these examples.
type OrderArgs struct {
	OrderID int64 `json:"order_id"`
}

// A handler for an order that is gone: another attempt would not help.
func ExamplePermanent() {
	handler := func(_ context.Context, args OrderArgs) error {
		return backfill.Permanent(fmt.Errorf("there is no order %d", args.OrderID))
	}
	err := handler(context.Background(), OrderArgs{OrderID: 7})
	fmt.Println(err)
	fmt.Println(backfill.VerdictOf(context.Background(), err).Final)
	// Output:
	// there is no order 7
	// true
}

// A handler that an API has told when to come back.
func ExampleRetryIn() {
	handler := func(context.Context, OrderArgs) error {
		retryAfter := 30 * time.Second // from the response
		return backfill.RetryIn(retryAfter, errors.New("too many requests"))
	}
	verdict := backfill.VerdictOf(context.Background(), handler(context.Background(), OrderArgs{OrderID: 7}))
	fmt.Println(verdict.Kind, verdict.Delay)
	// Output: retry_in 30s
}

// A handler that waits for something else, as often as it takes: no attempt is charged.
func ExampleSnooze() {
	paid := func(OrderArgs) bool { return false }
	handler := func(_ context.Context, args OrderArgs) error {
		if !paid(args) {
			return backfill.Snooze(time.Minute)
		}
		return nil // send it
	}
	verdict := backfill.VerdictOf(context.Background(), handler(context.Background(), OrderArgs{OrderID: 7}))
	fmt.Println(verdict.Kind, verdict.Delay, verdict.Failed())
	// Output: snooze 1m0s false
}

// A handler of a batch task: the job is retried with the second order only.
func ExampleBatchError() {
	handler := func(_ context.Context, orders []OrderArgs) error {
		failed := map[int]error{}
		for i, order := range orders {
			if order.OrderID == 0 {
				failed[i] = errors.New("it has no id")
			}
		}
		return &backfill.BatchError{Errs: failed}
	}
	verdict := backfill.VerdictOf(context.Background(), handler(context.Background(), []OrderArgs{{OrderID: 7}, {}}))
	fmt.Println(verdict.Kind, verdict.Failed())
	// Output: retry true
}

// An order and its job: both are committed, or neither. With generated code, the call is
// tasks.EnqueueWelcome(ctx, args).
func ExampleInTx() {
	ctx := context.Background()
	var client *backfill.Client // from Open
	err := backfill.InTx(ctx, client, func(ctx context.Context, tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "insert into users (id, name) values ($1, $2)", 7, "Ada"); err != nil {
			return err
		}
		_, err := backfill.Enqueue(ctx, backfill.FromContext(ctx), TaskWelcome, WelcomeArgs{UserID: 7, Name: "Ada"})
		return err
	})
	if errors.Is(err, backfill.ErrOutcomeUnknown) {
		fmt.Println("look whether the user is there")
	}
}

// Middleware that says how long each job took, and how it ended.
func ExampleMiddleware() {
	timed := func(next backfill.HandlerFunc) backfill.HandlerFunc {
		return func(ctx context.Context, job *backfill.Job) error {
			began := time.Now()
			err := next(ctx, job)
			fmt.Println(job.Task, backfill.VerdictOf(ctx, err).Kind, time.Since(began))
			return err
		}
	}
	registry := backfill.NewRegistry(backfill.Handle(TaskWelcome, Welcome))
	if err := backfill.Run(context.Background(), registry, backfill.WithMiddleware(timed)); err != nil {
		fmt.Println(err)
	}
}
