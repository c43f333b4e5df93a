// Package backfill is a code-first job queue on PostgreSQL. Its tables are those of Graphile Worker, so that Go, Node and Rust
// processes enqueue and work jobs in the same database.
//
// # Tasks
//
// A task is an ordinary function or method, and its args are an ordinary struct, encoded as JSON. A line above it says what its
// jobs are given, and backfillgen (see cmd/backfillgen) writes the typed code for its package: a descriptor, a Client with
// EnqueueSendEmail and EnqueueSendEmailMany, and NewRegistry.
//
//	// SendEmail renders a template and sends it to one user.
//	//
//	//backfill:task key="welcome:{UserID}" max_attempts=5 timeout=30s
//	func SendEmail(ctx context.Context, args SendEmailArgs) error
//
// This page shows what stands behind that. A descriptor can be written by hand, too:
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
// [Enqueue] and [EnqueueMany] take any [Enqueuer]: the [Client], or one that is bound to a transaction.
//
//	job, err := backfill.Enqueue(ctx, client, TaskSendEmail, SendEmailArgs{UserID: 7}, backfill.Delay(time.Hour))
//	job, err := backfill.Enqueue(ctx, client.WithTx(tx), TaskSendEmail, args) // joins the caller's transaction
//	job, err := backfill.Enqueue(ctx, backfill.FromContext(ctx), TaskSendEmail, args) // in a handler
//
// Jobs of several tasks go into one round trip, all or none, as a list of [Request]:
//
//	jobs, err := client.Enqueue(ctx, TaskSendEmail.Request(a), TaskResize.Request(b))
//
// What a job is given beyond its args comes from the descriptor, and can be changed for one job by an [EnqueueOption]: [Delay],
// [RunAt], [Queue], [Key], [MaxAttempts], [Flags], a [Priority], a [KeyMode].
//
// # Working
//
// A worker runs the tasks of a [Registry], each job at least once: a handler may run again after a crash, and must bear it.
//
//	registry := backfill.NewRegistry(backfill.Handle(TaskSendEmail, SendEmail), backfill.Handle(TaskNightly, reports.Nightly))
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
// The context of a handler ends with a cause (context.Cause): [ErrTimeout] when the task's timeout is over, [ErrShutdown] when
// the worker must stop, [ErrLeaseLost] when the job was taken away. A handler that
// returns because of a shutdown fails nothing: its job is given back and runs again elsewhere, and the attempt is not charged.
//
// # Extending
//
// There are two seams: a [Middleware] is called around each job, and an [Observer] sees what the worker does.
package backfill
