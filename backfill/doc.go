// Package backfill is a job queue on PostgreSQL. Tasks are Go functions, and jobs are inserted in
// your transactions. It uses the tables of Graphile Worker, so Go and Node processes can enqueue
// and run jobs in the same database.
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
// NewRegistry. docs/directives.md has all options.
//
// # Enqueuing
//
// [Open] or [NewClient] makes a [Client], which installs the tables if necessary. The generated
// code enqueues through it:
//
//	client, err := backfill.Open(ctx, os.Getenv("DATABASE_URL"))
//	job, err := tasks.NewClient(client).EnqueueSendEmail(ctx, args, backfill.Delay(time.Hour))
//
// In a transaction of yours, so that the job exists once tx commits:
//
//	job, err := tasks.NewClient(client).WithTx(tx).EnqueueSendEmail(ctx, args)
//
// In [InTx], and in a handler, whose context carries an [Enqueuer]:
//
//	job, err := tasks.EnqueueSendEmail(ctx, args)
//
// [Client.Enqueue] inserts jobs of several tasks, all or none:
//
//	jobs, err := client.Enqueue(ctx, tasks.TaskSendEmail.Request(a), tasks.TaskResize.Request(b))
//
// The task sets each job's queue, key, priority and so on. An [EnqueueOption] overrides one of
// these for a call. Compare errors with [ErrInvalidRequest], [ErrRejected] and [ErrOutcomeUnknown].
//
// # Working
//
// A worker runs the tasks of a [Registry]: [Run] makes one, and so does [Client.NewWorker]. Each
// job runs at least once: a handler may run again after a crash, so it must be idempotent.
//
//	err := backfill.Run(ctx, tasks.NewRegistry(), backfill.WithClient(client))
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
// A panic counts as an error, a *[PanicError]. So do args that cannot be decoded, a *[DecodeError]:
// the handler is not called, and the job is retried like any other.
//
// [JobInfo] returns the job of a handler. context.Cause says why a handler's context was cancelled:
// [ErrTimeout] if the task's timeout is over, [ErrShutdown] if the worker stops and its drain
// timeout is over, [ErrLeaseLost] if the job was released or taken by another worker. After
// ErrShutdown, a handler that returns an error wrapping it or [context.Canceled] has not failed:
// the job is given back without charging the attempt, and runs again. Any other error is a failure,
// and nil is a success.
//
// # Transactional tasks
//
// A handler that takes a pgx.Tx as well writes to the database in the transaction that completes
// its job: what it writes, what it enqueues and the end of the job are committed together, or not
// at all. With [WithSQLDB] it may take a *sql.Tx instead. Such a task needs a Timeout, and may have
// an [Isolation]. docs/transactional-tasks.md has the rules.
//
// # Options
//
//   - of a client: [WithSchema], [WithMigrations], [WithEnqueueMiddleware], [WithSQLDB],
//     [WithLogger]
//   - of a worker: [WithConcurrency], [WithTxConnections], [WithDrainTimeout], [WithMiddleware],
//     [WithObserver], [WithProbes], [WithLogger], [WithListenURL], [WithoutListen],
//     [WithForbiddenFlags], [WithForbiddenFlagsFunc], [WithCrontab], [WithCrontabFile],
//     [WithoutDeadLetters], [WithDeadLetterRetention], [WithHistory], [WithTraces],
//     [WithStatementObserver]
//   - of [Run] and [RunOnce]: all of these, and [WithClient]; [WithScheduled] of RunOnce
//   - of one enqueue: [Delay], [RunAt], [Queue], [Key], [MaxAttempts], [Flags], a [Priority], a
//     [KeyMode]
//
// # Fleets
//
// Not every worker has to run every task. [Registry.Only] keeps some tasks, and drops what only the
// others need. Each worker has its own [WithConcurrency]. So slow tasks can have a worker of their
// own, in the same process or in another one, where fast tasks do not wait behind them. A job whose
// task no worker has waits. [MergeRegistries] joins the registries of several packages.
//
// # Extending
//
// A [Middleware] is called around each job: of all tasks with [WithMiddleware], of some with
// [Registry.Use]. [VerdictOf] tells it what an error decides. An [EnqueueMiddleware] is called
// around each enqueue. An [Observer] is called for every event of a worker. [Probes] answers the
// health probes of a platform. A panic in your functions does not end the process, unless it is in
// a goroutine that they started.
//
// # Operating
//
// [Client.Stats] counts the jobs of each task, and [Client.Job] returns one with its state.
// [Client.RescheduleJobs], [Client.CompleteJobs], [Client.FailJobs] and [Client.RemoveJob] change
// waiting and failed jobs. [Client.UnlockWorker] releases what a Node worker has locked.
// [Client.Pause] keeps the jobs of a task from starting, and [Client.Resume] ends that;
// [Client.PauseQueue] and [Client.ResumeQueue] do the same with a queue.
// [Client.Cleanup] deletes failed jobs and unused names. docs/production.md says when to call them.
//
// # Testing
//
// Package testutil has a Recorder, which takes the place of a client and can run what it has
// recorded. Package testutil/pgtest makes a database for each test, in which [RunOnce] runs the
// jobs that are due, and with [WithScheduled] the later ones too.
//
// # Without generated code
//
// You can write the descriptor of a task and the registry yourself:
//
//	var TaskSendEmail = &backfill.Task[SendEmailArgs]{
//		Name:        "send_email",
//		Key:         func(a SendEmailArgs) string { return fmt.Sprint("welcome:", a.UserID) },
//		MaxAttempts: 5,
//		Timeout:     30 * time.Second,
//	}
//
//	registry := backfill.NewRegistry(backfill.Handle(TaskSendEmail, SendEmail))
//	job, err := backfill.Enqueue(ctx, client, TaskSendEmail, args)
//
// [GeneratedCodeVersion1], [Require], [OrNoClient] and [TemplateText] are for generated code only.
package backfill
