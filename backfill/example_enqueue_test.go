package backfill_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/backfillhq/go/backfill"
)

// Middleware that adds to the args of each job who enqueued it.
func ExampleWithEnqueueMiddleware() {
	type callerKey struct{} // in the contexts of web requests
	stamp := func(next backfill.EnqueueFunc) backfill.EnqueueFunc {
		return func(ctx context.Context, requests []backfill.Request) ([]*backfill.Job, error) {
			caller, _ := ctx.Value(callerKey{}).(string)
			for i := range requests {
				var args map[string]json.RawMessage
				if caller != "" && json.Unmarshal(requests[i].Args, &args) == nil && args != nil {
					args["_caller"], _ = json.Marshal(caller)
					requests[i].Args, _ = json.Marshal(args)
				}
			}
			return next(ctx, requests)
		}
	}
	client, err := backfill.Open(context.Background(), os.Getenv("DATABASE_URL"), backfill.WithEnqueueMiddleware(stamp))
	if err != nil {
		log.Print(err)
		return
	}
	defer client.Close()
}

// What to do after an error of an enqueue.
func ExampleClient_Enqueue() {
	var client *backfill.Client // from Open
	_, err := client.Enqueue(context.Background(), TaskWelcome.Request(WelcomeArgs{UserID: 7, Name: "Ada"}))
	switch {
	case err == nil:
		fmt.Println("committed")
	case errors.Is(err, backfill.ErrInvalidRequest):
		fmt.Println("a mistake of ours")
	case errors.Is(err, backfill.ErrOutcomeUnknown):
		fmt.Println("enqueue again only if it may run twice")
	default:
		fmt.Println("not enqueued:", err)
	}
	// Output: not enqueued: enqueue: no client: put one into the context with backfill.NewContext, or use the generated NewClient
}

// A gauge for each task.
func ExampleStats() {
	var client *backfill.Client // from Open
	for range time.Tick(15 * time.Second) {
		stats, err := client.Stats(context.Background())
		if err != nil {
			log.Print(err)
			return
		}
		for _, task := range stats.Tasks {
			fmt.Println(task.Task, task.Waiting, task.Due, task.Running, task.Failed)
		}
	}
}
