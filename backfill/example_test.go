package backfill_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/testutil/pgtest"
)

// WelcomeArgs is the payload of the task welcome.
type WelcomeArgs struct {
	UserID int64  `json:"user_id"`
	Name   string `json:"name"`
}

// TaskWelcome describes the task: its name on the wire, and what its jobs are given.
var TaskWelcome = &backfill.Task[WelcomeArgs]{
	Name:        "welcome",
	Queue:       func(a WelcomeArgs) string { return "user:" + strconv.FormatInt(a.UserID, 10) }, // one at a time per user
	MaxAttempts: 5,
	Timeout:     30 * time.Second,
}

// Welcome handles it. A job runs at least once, so a handler must be idempotent.
func Welcome(ctx context.Context, args WelcomeArgs) error {
	log.Printf("welcome, %s (attempt %d)", args.Name, backfill.JobInfo(ctx).Attempt)
	return nil
}

// The main function of a process that enqueues and works.
func Example() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	client, err := backfill.Open(ctx, os.Getenv("DATABASE_URL")) // installs the schema
	if err != nil {
		log.Print(err)
		return
	}
	defer client.Close()
	if _, err := backfill.Enqueue(ctx, client, TaskWelcome, WelcomeArgs{UserID: 7, Name: "Ada"}); err != nil {
		log.Print(err)
		return
	}
	registry := backfill.NewRegistry(backfill.Handle(TaskWelcome, Welcome))
	if err := backfill.Run(ctx, registry, backfill.WithClient(client)); err != nil { // until Ctrl-C, then drains
		log.Print(err)
	}
}

// The README's test: enqueue, run what is due, look at the report.
func TestWelcome(t *testing.T) {
	t.Parallel()
	client, err := backfill.Open(t.Context(), pgtest.New(t).URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	if _, err := backfill.Enqueue(t.Context(), client, TaskWelcome, WelcomeArgs{UserID: 7, Name: "Ada"}); err != nil {
		t.Fatal(err)
	}
	var welcomed []string
	registry := backfill.NewRegistry(backfill.Handle(TaskWelcome, func(_ context.Context, args WelcomeArgs) error {
		welcomed = append(welcomed, fmt.Sprint(args.UserID, " ", args.Name))
		return nil
	}))
	report, err := backfill.RunOnce(t.Context(), registry, backfill.WithClient(client))
	if err != nil {
		t.Fatal(err)
	}
	if report.Completed != 1 || len(welcomed) != 1 || welcomed[0] != "7 Ada" {
		t.Errorf("report %+v, welcomed %v", report, welcomed)
	}
}
