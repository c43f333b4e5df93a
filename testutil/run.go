package testutil

import (
	"log/slog"
	"testing"
	"time"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/seam"
	"github.com/backfillhq/go/internal/worker"
)

// Result is what has become of a job that [Run] has run.
type Result struct {
	_ [0]func() // fields may be added

	Job   backfill.Job  // as the handler got it
	State State         // Succeeded, Failed, Snoozed or Dead; "" if it was given back, because the test's context has ended
	Err   error         // of the handler, or of what kept its transaction from being committed
	Delay time.Duration // until it runs again
}

// Run runs one job in the test's own transaction, which the test rolls back: it enqueues the job
// there, claims it, calls its handler, and records how it ended, by the code and the statements of
// workers.
//
//	tx, err := pool.Begin(t.Context())
//	defer tx.Rollback(context.Background())
//	inTx := client.WithTx(tx)
//	result := testutil.Run(t, inTx, tasks.NewRegistry(handlers), tasks.TaskChargeCard.Request(args))
//	testutil.RequireEnqueued(t, inTx, tasks.TaskSendReceipt, receipt)
//
// Pass what the client's WithTx or WithSQLTx returns. A handler that takes a pgx.Tx gets a
// savepoint of the transaction, wrapped as in a worker: it cannot commit, the guard is its last
// statement, and what it has written is gone if it fails. One that takes a *sql.Tx gets the test's
// own, in a savepoint, so if it commits, the test's transaction ends. Plain handlers run too; what
// they write over connections of their own is not in the transaction. What handlers enqueue through
// their context is, and does not run: look for it with [RequireEnqueued].
//
// The job runs at once, whatever its RunAt. Middleware, timeouts, panics, verdicts, retries after
// conflicts and dead letters are those of a worker. The isolation level is that of the test's
// transaction, and observers are not called. Mistakes fail the test; a handler that fails does not:
// it is in the result, and in the test's log.
func Run(
	tb testing.TB, in backfill.Enqueuer, registry *backfill.Registry, job backfill.Request, opts ...backfill.WorkerOption,
) Result {
	tb.Helper()
	logger := slog.New(slog.NewTextHandler(tb.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	ran, err := seam.RunInside(tb.Context(), registry, in, opts, job, logger)
	if err != nil {
		tb.Fatalf("testutil: Run: %v", err)
		return Result{}
	}
	result := Result{Job: *ran.Job.(*backfill.Job), Err: ran.Outcome.Err} //nolint:forcetypeassert // as the seam says
	switch ran.Outcome.Kind {
	case worker.OutcomeCompleted:
		result.State = Succeeded
	case worker.OutcomeFailed, worker.OutcomeExhausted:
		result.State, result.Delay = Failed, ran.Outcome.Delay
		if ran.Dead {
			result.State, result.Delay = Dead, 0
		}
		tb.Logf("testutil: job of task %q failed: %v", job.Task, ran.Outcome.Err)
	case worker.OutcomeSnoozed:
		result.State, result.Delay = Snoozed, ran.Outcome.Delay
	case worker.OutcomeReturned, worker.OutcomeCanceled: // nobody else sees the job
	}
	return result
}
