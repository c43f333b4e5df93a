// Package backfill is a code-first job queue on PostgreSQL. It uses the tables of Graphile Worker,
// so Go and Node processes can enqueue and run jobs in the same database.
//
// # Tasks
//
// A task is an ordinary function or method. Its args are an ordinary struct, encoded as JSON. Its
// options are in a //backfill:task comment:
//
//	// SendEmail renders a template and sends it to one user.
//	//
//	//backfill:task key="welcome:{UserID}" max_attempts=5 timeout=30s
//	func SendEmail(ctx context.Context, args SendEmailArgs) error
//
// From these comments backfillgen (see cmd/backfillgen) generates typed code for the package: a
// descriptor of each task, a Client with EnqueueSendEmail and EnqueueSendEmailMany, and
// NewRegistry. This page documents what the generated code uses. You can also write a descriptor by
// hand:
//
//	var TaskSendEmail = &backfill.Task[SendEmailArgs]{
//		Name:        "send_email",
//		Key:         func(a SendEmailArgs) string { return fmt.Sprint("welcome:", a.UserID) },
//		MaxAttempts: 5,
//		Timeout:     30 * time.Second,
//	}
//
// # Enqueuing
//
// [Enqueue] and [EnqueueMany] insert jobs of one task through an [Enqueuer], such as a [Client]:
//
//	job, err := backfill.Enqueue(ctx, client, TaskSendEmail, args, backfill.Delay(time.Hour))
//
// In a transaction, so that the job exists once tx commits:
//
//	job, err := backfill.Enqueue(ctx, client.WithTx(tx), TaskSendEmail, args)
//
// In a handler, whose context carries an Enqueuer:
//
//	job, err := backfill.Enqueue(ctx, backfill.FromContext(ctx), TaskSendEmail, args)
//
// [Client.Enqueue] inserts jobs of several tasks, all or none:
//
//	jobs, err := client.Enqueue(ctx, TaskSendEmail.Request(a), TaskResize.Request(b))
//
// Compare errors with [ErrInvalidRequest], [ErrRejected] and [ErrOutcomeUnknown]. [Client.Job]
// returns a job with its state, and [Client.Stats] says how many there are.
//
// The descriptor sets each job's queue, key, priority and so on. An [EnqueueOption] overrides one
// of these for a call.
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
//   - any other error: it is retried after the task's [Backoff], until max_attempts is reached.
//   - [Permanent]: it is not retried.
//   - [RetryIn]: it is retried after this time, until max_attempts is reached.
//   - [Snooze]: it runs again later, and the attempt is not charged.
//   - a *[BatchError], if the args are a slice: it is retried with the failed elements only.
//
// A panic counts as an error, a *[PanicError]. So do args that cannot be decoded: the handler is
// not called, and the job is retried like any other.
//
// context.Cause says why a handler's context was cancelled: [ErrTimeout] if the task's timeout is
// over, [ErrShutdown] if the worker stops and its drain timeout is over, [ErrLeaseLost] if the job
// was released or taken by another worker. After ErrShutdown, a handler that returns an error
// wrapping it or [context.Canceled] has not failed: the job is given back without charging the
// attempt, and runs again. Any other error is a failure, and nil is a success.
//
// # Fleets
//
// All workers of one program need not run the same tasks. [Registry.Only] makes a registry of some
// of them, with nothing that the others need, and each worker has its own [WithConcurrency]: so
// slow tasks get a worker of their own, in the same process or in another, and keep no fast ones
// waiting. Jobs whose task no worker has wait.
//
// # Extending
//
// A [Middleware] is called around each job: of all tasks with [WithMiddleware], of some with
// [Registry.Use]. [VerdictOf] tells it what an error decides. An [EnqueueMiddleware] is called
// around each enqueue. An [Observer] is called for every event of a worker. [Probes] answers the
// health probes of a platform. A panic in your functions does not end the process, unless it is in
// a goroutine that they started.
//
// # Testing
//
// Package testutil has a Recorder, which takes the place of a client and also runs what it has
// recorded, and a context with a job, for handlers that are called directly. With a database of its
// own, which package testutil/pgtest makes, a test runs what is due with [RunOnce], and what is
// scheduled for later, too, with [WithScheduled].
//
// # For generated code
//
// [GeneratedCodeVersion1], [Require] and [OrNoClient] are for generated code only.
package backfill
