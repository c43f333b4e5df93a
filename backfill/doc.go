// Package backfill is a code-first job queue on PostgreSQL. Its tables are those of Graphile Worker, so that Go, Node and Rust
// processes enqueue and work jobs in the same database.
//
// # Tasks
//
// A task is an ordinary function with a directive in its comment. Its args are an ordinary struct, encoded as JSON.
//
//	// SendEmail renders a template and sends it to one user.
//	//
//	//backfill:task timeout=30s max_attempts=5 key="welcome:{UserID}"
//	func SendEmail(ctx context.Context, args SendEmailArgs) error
//
// From it backfillgen writes a descriptor (a [Task] value), typed functions to enqueue, and NewRegistry, which binds every
// descriptor to its handler. What it writes is thin: all behaviour is in this package, and everything can be written by hand.
//
// # Enqueuing
//
// The generated client takes any [Enqueuer]: the Client of this package, one that is bound to a transaction, or the recorder of
// package testutil.
//
//	mail := tasks.NewClient(client)
//	job, err := mail.EnqueueSendEmail(ctx, tasks.SendEmailArgs{UserID: 7}, backfill.Delay(time.Hour))
//	job, err := mail.WithTx(tx).EnqueueSendEmail(ctx, args) // joins the caller's transaction
//
// Inside a handler there is a shorter form, which uses the Enqueuer of the context: tasks.EnqueueSendEmail(ctx, args). Jobs of
// several tasks go into one round trip, all or none, as a list of [Request]:
//
//	jobs, err := client.Enqueue(ctx, tasks.TaskSendEmail.Request(a), tasks.TaskResize.Request(b))
//
// What a job is given beyond its args comes from the descriptor, and can be changed for one job by an [EnqueueOption]: [Delay],
// [RunAt], [Queue], [Key], [MaxAttempts], [Flags], a [Priority], a [KeyMode].
//
// # Working
//
// A worker runs the tasks of a [Registry], each job at least once: a handler may run again after a crash, and must bear it.
//
//	err := backfill.Run(ctx, tasks.NewRegistry(tasks.Handlers{Mailer: mailer}))
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
// the worker must stop, [ErrLeaseLost] when the job was taken away, [ErrCanceled] when somebody canceled it. A handler that
// returns because of a shutdown fails nothing: its job is given back and runs again elsewhere, and the attempt is not charged.
//
// # Extending
//
// There are two seams: a [Middleware] is called around each job, and an [Observer] sees what the worker does.
package backfill
