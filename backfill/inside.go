package backfill

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/backfillhq/go/internal/seam"
	"github.com/backfillhq/go/internal/worker"
)

// runInside is for testutil, which runs jobs in a test's own transaction.
func runInside(ctx context.Context, registry, enqueuer, opts, request any, logger *slog.Logger) (*seam.Ran, error) {
	e, ok := enqueuer.(*txEnqueuer)
	if !ok {
		return nil, fmt.Errorf("cannot run a job in a %T: pass what the client's WithTx or WithSQLTx returns for the test's transaction", enqueuer)
	}
	w, err := assemble("run", registry.(*Registry), e, guardLogger(logger), opts.([]WorkerOption))
	if err != nil {
		return nil, err
	}
	if err := e.suits(w.executor, request.(Request).Task); err != nil {
		return nil, err
	}
	jobs, err := e.Enqueue(ctx, request.(Request))
	if err != nil {
		return nil, err
	}
	inside := e.client.admin.Inside(e.tx)
	claimed, err := inside.Claim(ctx, jobs[0].ID)
	if err != nil {
		return nil, err
	}
	w.executor.client, w.executor.transactions = e.client, inside.Transactions()
	ran := &seam.Ran{Job: newJob(claimed)}
	returned := make(chan struct{})
	go func() { // as a worker does: runtime.Goexit ends the job, not the test
		defer close(returned)
		w.executor.execute(ctx, claimed, &ran.Outcome)
	}()
	<-returned
	if ran.Outcome.Committed != nil {
		return ran, nil
	}
	ended := worker.Ended{Lease: claimed.Lease, Outcome: ran.Outcome}
	if w.config.deadLetters {
		ended.Reason = worker.ReasonExhausted
		if ended.Kind == worker.OutcomeExhausted {
			ended.Reason = worker.ReasonPermanent
		}
	}
	ran.Dead, err = inside.End(context.WithoutCancel(ctx), ended)
	return ran, err
}

// suits checks that a task's handler can have its transaction in this one.
func (e *txEnqueuer) suits(x *executor, task string) error {
	route, ok := x.routes[task]
	switch {
	case !ok:
		return fmt.Errorf("the registry has no handler for the task %s", shortQuote(task))
	case e.tx.Pgx == nil && e.tx.SQL == nil:
		return errors.New("the transaction is nil")
	case route.handler.onSQL && e.tx.SQL == nil:
		return fmt.Errorf("the handler of the task %s takes a *sql.Tx: pass what the client's WithSQLTx returns", shortQuote(task))
	case route.handler.transactional && !route.handler.onSQL && e.tx.Pgx == nil:
		return fmt.Errorf("the handler of the task %s takes a pgx.Tx: pass what the client's WithTx returns", shortQuote(task))
	}
	return nil
}
