package testutil_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/testutil"
)

// SendEmailArgs is the payload of the task send_email.
type SendEmailArgs struct {
	UserID   int64  `json:"user_id"`
	Template string `json:"template"`
}

// TaskSendEmail, Client and what follows are as backfillgen writes them.
var TaskSendEmail = &backfill.Task[SendEmailArgs]{
	Name:  "send_email",
	Queue: func(a SendEmailArgs) string { return fmt.Sprintf("user:%d", a.UserID) },
}

// Client enqueues the tasks of this package.
type Client struct{ enqueuer backfill.Enqueuer }

// NewClient returns a client that enqueues with e.
func NewClient(e backfill.Enqueuer) Client { return Client{enqueuer: e} }

// WithTx returns a client whose jobs are inserted in tx.
func (c Client) WithTx(tx pgx.Tx) Client { return NewClient(c.enqueuer.WithTx(tx)) }

// EnqueueSendEmail enqueues a job of the task send_email.
func (c Client) EnqueueSendEmail(ctx context.Context, args SendEmailArgs, opts ...backfill.EnqueueOption) (*backfill.Job, error) {
	return backfill.Enqueue(ctx, c.enqueuer, TaskSendEmail, args, opts...)
}

// SignUp is the code under test.
type SignUp struct{ Tasks Client }

// Confirm welcomes a user, in the transaction that makes the account, and asks a day later how things are.
func (s *SignUp) Confirm(ctx context.Context, tx pgx.Tx, userID int64) error {
	if _, err := s.Tasks.WithTx(tx).EnqueueSendEmail(ctx, SendEmailArgs{userID, "welcome"}); err != nil {
		return fmt.Errorf("confirm user %d: %w", userID, err)
	}
	_, err := s.Tasks.EnqueueSendEmail(ctx, SendEmailArgs{userID, "feedback"}, backfill.Delay(24*time.Hour))
	return err
}

// A service gets a Recorder through the client that backfillgen wrote.
func Example() {
	t := new(testing.T) // the one of your test
	rec := testutil.NewRecorder()
	service := &SignUp{Tasks: NewClient(rec)}

	if err := service.Confirm(context.Background(), struct{ pgx.Tx }{}, 7); err != nil {
		t.Fatal(err)
	}
	for _, job := range testutil.Enqueued(t, rec, TaskSendEmail) {
		fmt.Println(job.Args.Template, "to", job.Queue, "after", job.Delay, "in a transaction:", job.InTx)
	}
	// Output:
	// welcome to user:7 after 0s in a transaction: true
	// feedback to user:7 after 24h0m0s in a transaction: false
}
