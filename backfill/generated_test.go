package backfill_test

// This file has the shape of what backfillgen writes for the tasks of tasks_test.go. It is written
// by hand, because backfillgen leaves test files alone; its own tests compile what it writes
// against this package.

import (
	"context"
	"database/sql"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/backfill"
)

// If this does not compile, backfillgen is newer than the backfill module.
const _ = backfill.GeneratedCodeVersion1

// TaskNightly describes the task "nightly", handled by [Reports.Nightly].
var TaskNightly = &backfill.Task[NightlyArgs]{
	Name:    "nightly",
	Timeout: 10 * time.Minute,
	Backoff: backfill.FixedBackoff(time.Minute),
}

// TaskNotify describes the task "notify", handled by [Notify].
var TaskNotify = &backfill.Task[[]NotifyArgs]{
	Name:    "notify",
	Key:     func([]NotifyArgs) string { return "notify" },
	Backoff: backfill.ExponentialBackoff(time.Second, 10*time.Minute, 2),
}

// TaskPurge describes the task "purge", handled by [purge].
var TaskPurge = &backfill.Task[backfill.NoArgs]{
	Name:     "purge",
	Priority: backfill.PriorityBulkLowest,
	Backoff:  backfill.ConservativeBackoff(),
}

// TaskSendEmail describes the task "send_email", handled by [SendEmail].
var TaskSendEmail = &backfill.Task[SendEmailArgs]{
	Name:        "send_email",
	Queue:       func(a SendEmailArgs) string { return "user:" + strconv.FormatInt(a.UserID, 10) },
	Key:         func(a SendEmailArgs) string { return "welcome:" + strconv.FormatInt(a.UserID, 10) },
	KeyMode:     backfill.PreserveRunAt,
	Priority:    backfill.Priority(-7),
	MaxAttempts: 5,
	Delay:       5 * time.Minute,
	Timeout:     30 * time.Second,
	Flags:       []string{"mail"},
	Aliases:     []string{"email"},
	Backoff:     backfill.GraphileBackoff(),
}

// TaskTally describes the task "tally", handled by [Counter.Tally].
var TaskTally = &backfill.Task[NightlyArgs]{Name: "tally"}

// Client enqueues the tasks of this package.
type Client struct{ enqueuer backfill.Enqueuer }

// NewClient returns a client that enqueues with e.
func NewClient(e backfill.Enqueuer) Client { return Client{enqueuer: e} }

// WithTx returns a client whose jobs are inserted in tx: they exist once it commits.
func (c Client) WithTx(tx pgx.Tx) Client {
	return NewClient(backfill.OrNoClient(c.enqueuer).WithTx(tx))
}

// WithSQLTx returns a client whose jobs are inserted in tx: they exist once it commits.
func (c Client) WithSQLTx(tx *sql.Tx) Client {
	return NewClient(backfill.OrNoClient(c.enqueuer).WithSQLTx(tx))
}

// Enqueue enqueues jobs of several tasks, all or none.
func (c Client) Enqueue(ctx context.Context, requests ...backfill.Request) ([]*backfill.Job, error) {
	return backfill.OrNoClient(c.enqueuer).Enqueue(ctx, requests...)
}

// EnqueueNightly enqueues [Reports.Nightly].
func (c Client) EnqueueNightly(ctx context.Context, args NightlyArgs, opts ...backfill.EnqueueOption) (*backfill.Job, error) {
	return backfill.Enqueue(ctx, c.enqueuer, TaskNightly, args, opts...)
}

// EnqueueNightlyMany enqueues one job for each of args.
func (c Client) EnqueueNightlyMany(ctx context.Context, args []NightlyArgs, opts ...backfill.EnqueueOption) ([]*backfill.Job, error) {
	return backfill.EnqueueMany(ctx, c.enqueuer, TaskNightly, args, opts...)
}

// EnqueueNotify enqueues [Notify]: one job of many elements.
func (c Client) EnqueueNotify(ctx context.Context, args []NotifyArgs, opts ...backfill.EnqueueOption) (*backfill.Job, error) {
	return backfill.Enqueue(ctx, c.enqueuer, TaskNotify, args, opts...)
}

// EnqueuePurge enqueues [purge].
func (c Client) EnqueuePurge(ctx context.Context, opts ...backfill.EnqueueOption) (*backfill.Job, error) {
	return backfill.Enqueue(ctx, c.enqueuer, TaskPurge, backfill.NoArgs{}, opts...)
}

// EnqueueSendEmail enqueues [SendEmail]: SendEmail renders a template and sends it to one user.
func (c Client) EnqueueSendEmail(ctx context.Context, args SendEmailArgs, opts ...backfill.EnqueueOption) (*backfill.Job, error) {
	return backfill.Enqueue(ctx, c.enqueuer, TaskSendEmail, args, opts...)
}

// EnqueueSendEmailMany enqueues one job for each of args.
func (c Client) EnqueueSendEmailMany(ctx context.Context, args []SendEmailArgs, opts ...backfill.EnqueueOption) ([]*backfill.Job, error) {
	return backfill.EnqueueMany(ctx, c.enqueuer, TaskSendEmail, args, opts...)
}

// EnqueueNightly is for handlers: it enqueues with the Enqueuer that ctx carries. Elsewhere use
// [Client].
func EnqueueNightly(ctx context.Context, args NightlyArgs, opts ...backfill.EnqueueOption) (*backfill.Job, error) {
	return NewClient(backfill.FromContext(ctx)).EnqueueNightly(ctx, args, opts...)
}

// EnqueuePurge is for handlers: it enqueues with the Enqueuer that ctx carries. Elsewhere use
// [Client].
func EnqueuePurge(ctx context.Context, opts ...backfill.EnqueueOption) (*backfill.Job, error) {
	return NewClient(backfill.FromContext(ctx)).EnqueuePurge(ctx, opts...)
}

// EnqueueSendEmail is for handlers: it enqueues with the Enqueuer that ctx carries. Elsewhere use
// [Client].
func EnqueueSendEmail(ctx context.Context, args SendEmailArgs, opts ...backfill.EnqueueOption) (*backfill.Job, error) {
	return NewClient(backfill.FromContext(ctx)).EnqueueSendEmail(ctx, args, opts...)
}

// Handlers holds the receivers of task methods. Every field is required, unless Only drops its
// tasks.
type Handlers struct {
	Counter *Counter
	Reports *Reports
}

// NewRegistry binds every task of this package to its handler.
func NewRegistry(h Handlers) *backfill.Registry {
	return backfill.NewRegistry(
		backfill.Require("Handlers.Counter", h.Counter != nil, TaskTally.Name),
		backfill.Require("Handlers.Reports", h.Reports != nil, TaskNightly.Name),
		backfill.Handle(TaskNightly, h.Reports.Nightly),
		backfill.Handle(TaskNotify, Notify),
		backfill.Handle(TaskPurge, func(ctx context.Context, _ backfill.NoArgs) error { return purge(ctx) }),
		backfill.Handle(TaskSendEmail, SendEmail, backfill.BackoffFunc(SendEmailBackoff)),
		backfill.Handle(TaskTally, func(ctx context.Context, args NightlyArgs) error { return h.Counter.Tally(ctx, args) }),
	)
}
