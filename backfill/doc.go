// Package backfill is a code-first job queue on PostgreSQL. Its tables are those of Graphile
// Worker, so that Go, Node and Rust processes enqueue and work jobs in the same database.
//
// # Tasks
//
// A task is an ordinary function or method. Its args are an ordinary struct, encoded as JSON. A
// //backfill:task line above it holds its options. From these lines backfillgen (see
// cmd/backfillgen) writes the typed code for the package: a descriptor of each task, a Client with
// EnqueueSendEmail and EnqueueSendEmailMany, and NewRegistry.
//
//	// SendEmail renders a template and sends it to one user.
//	//
//	//backfill:task key="welcome:{UserID}" max_attempts=5 timeout=30s
//	func SendEmail(ctx context.Context, args SendEmailArgs) error
//
// This page documents what the generated code uses. You can also write a descriptor by hand:
//
//	var TaskSendEmail = &backfill.Task[SendEmailArgs]{
//		Name:        "send_email",
//		Key:         func(a SendEmailArgs) string { return "welcome:" + strconv.FormatInt(a.UserID, 10) },
//		MaxAttempts: 5,
//		Timeout:     30 * time.Second,
//	}
//
// # Enqueuing
//
// [Enqueue] and [EnqueueMany] take any [Enqueuer]: the [Client], or one that is bound to a
// transaction.
//
//	job, err := backfill.Enqueue(ctx, client, TaskSendEmail, args, backfill.Delay(time.Hour))
//	job, err := backfill.Enqueue(ctx, client.WithTx(tx), TaskSendEmail, args) // commits with tx
//
//	// In a handler:
//	job, err := backfill.Enqueue(ctx, backfill.FromContext(ctx), TaskSendEmail, args)
//
// Jobs of several tasks are inserted together, all or none, as a list of [Request]:
//
//	jobs, err := client.Enqueue(ctx, TaskSendEmail.Request(a), TaskResize.Request(b))
//
// The descriptor says which queue, key, priority and so on a job gets. An [EnqueueOption] changes
// that for one job: [Delay], [RunAt], [Queue], [Key], [MaxAttempts], [Flags], a [Priority], a
// [KeyMode].
//
// # Working
//
// A worker runs the tasks of a [Registry]. Each job runs at least once: a handler may run again
// after a crash, so it must be idempotent.
//
//	registry := backfill.NewRegistry(
//		backfill.Handle(TaskSendEmail, SendEmail),
//		backfill.Handle(TaskNightly, reports.Nightly),
//	)
//	err := backfill.Run(ctx, registry)
//
// What a handler returns decides how its job ends:
//
//   - nil: the job is done, and its row is deleted.
//   - any other error: it is tried again, with the task's [Backoff], until max_attempts is reached.
//   - [Permanent]: it is not tried again. [RetryIn]: it is tried again after this time.
//   - [Snooze]: it runs again later, and the attempt is not charged.
//   - a *[BatchError], if the args are a slice: only the failed elements are tried again.
//   - a panic counts as an error, a *[PanicError].
//
// context.Cause says why a handler's context was cancelled: [ErrTimeout] when the task's timeout is
// over, [ErrShutdown] when the worker stops and its drain timeout is over, [ErrLeaseLost] when
// somebody else took the job. If the cause is ErrShutdown, and the handler returns an error that
// wraps it or [context.Canceled], the job does not fail: it is given back, runs again on another
// worker, and is not charged an attempt. Any other error is a failure, and nil is a success.
//
// # Extending
//
// A [Middleware] is called around each job. An [Observer] is called for every event of a worker. A
// function of yours that panics cannot end the process, unless it does so in a goroutine of its
// own.
//
// # For generated code
//
// [GeneratedCodeVersion1], [Require], [BindTx] and [BindSQLTx] are for generated code only.
package backfill
