package backfill

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"time"

	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/trouble"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// executor runs the jobs of one worker: it finds the handler, calls it through the middleware, and
// says how the job ended.
type executor struct {
	routes   map[string]route // by every name that the worker takes jobs of
	enqueuer Enqueuer         // for the contexts of jobs
	logger   *slog.Logger
	random   func() float64  // from 0 to 1, for the jitter of backoffs
	flags    *forbiddenFlags // nil: none that change
	// histories is how long attempts are kept, by the names of tasks of which they are.
	histories map[string]time.Duration
	report    func(worker.Progress) // nil: nobody listens
	hidden    trouble.Log           // verdicts that middleware has hidden
	unbegun   trouble.Log           // transactions of jobs that could not be begun, or were lost

	// client and transactions are for transactional tasks; nil: there is no database.
	client       *Client
	transactions *pg.JobTransactions
}

type route struct {
	handler *handler
	run     HandlerFunc // the middleware around the handler
}

// newExecutor returns the executor of a registry without problems.
func (r *Registry) newExecutor(
	enqueuer Enqueuer, logger *slog.Logger, middleware ...Middleware,
) (*executor, error) {
	x := &executor{routes: make(map[string]route, len(r.names)), enqueuer: enqueuer, logger: logger, random: rand.Float64}
	x.hidden.Failing, x.hidden.Level = "middleware hides what the handler's error decides: it must wrap errors with %w", slog.LevelWarn
	x.unbegun.Failing, x.unbegun.Level = "transactional jobs have no connection, and are put off", slog.LevelWarn
	x.unbegun.Over = "transactional jobs have connections again"
	for _, h := range r.handlers {
		run := x.guard(h.run)
		if h.transactional {
			run = inTx(run)
		}
		wrapped, err := h.around(run, middleware)
		if err != nil {
			return nil, err // the same for every task, or the first of several
		}
		for _, name := range append([]string{h.name}, h.aliases...) {
			x.routes[name] = route{handler: h, run: x.guard(wrapped)}
		}
	}
	return x, nil
}

var (
	errNoHandler = errors.New("this worker has no handler for the task")
	errGoexit    = errors.New("handler ended its goroutine (runtime.Goexit)")
)

// endless is the failure of a handler that never returns. It is prepared for each job.
var endless = failure(errGoexit, 0)

// execute runs one job. It is worker.Config.Execute.
func (x *executor) execute(ctx context.Context, claimed *wire.Job, outcome *worker.Outcome) {
	route, ok := x.routes[claimed.Task]
	if !ok {
		*outcome = failure(errNoHandler, Backoff{}.delay(claimed.Attempt, x.random()))
		return
	}
	carried := newJobContext(ctx, claimed, x.enqueuer)
	carried.worker, carried.logger, carried.report = ctx, x.logger, x.report
	defer func() { outcome.Run = carried.job.Trace.ran(claimed) }()
	ctx = carried
	if x.histories[claimed.Task] > 0 {
		carried.kept = new(kept)
		defer func() { outcome.Log = carried.kept.text() }()
	}
	if limit := route.handler.timeout; limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, limit, ErrTimeout)
		defer cancel()
	}
	if later, ok := x.flags.putOff(claimed.Flags); ok {
		*outcome = later
		return
	}
	// This outcome counts if run never returns.
	*outcome = endless
	outcome.Delay = route.handler.backoff.delay(claimed.Attempt, x.random())
	if route.handler.transactional {
		x.transact(ctx, route, claimed, outcome)
		return
	}
	err := route.run(ctx, carried.job)
	x.warnOfHidden(ctx, claimed, carried.said.Load(), err)
	err = carried.kept.check(err)
	*outcome = x.outcome(ctx, route.handler, claimed, err)
	if outcome.Kind == worker.OutcomeCompleted {
		outcome.Output = carried.kept.result()
	}
}

// guard turns a panic into a *PanicError.
func (x *executor) guard(next HandlerFunc) HandlerFunc {
	return func(ctx context.Context, job *Job) (err error) {
		returned := false
		defer func() {
			value := recover()
			if value == nil {
				if !returned {
					err = errGoexit // or panic(nil), which GODEBUG=panicnil=1 hides
				}
				return
			}
			problem := &PanicError{Value: value, Stack: debug.Stack()}
			x.logger.LogAttrs(ctx, slog.LevelWarn, "handler panicked", slog.String("task", job.Task), slog.Int64("job_id", job.ID),
				slog.Int("attempt", job.Attempt), slog.String("error", errorText(problem)), slog.String("stack", string(problem.Stack)))
			err = problem
		}()
		err = next(ctx, job)
		returned = true
		return err
	}
}

// outcome says how a job ends whose handler returned err. It survives errors whose methods
// panic.
func (x *executor) outcome(ctx context.Context, h *handler, job *wire.Job, err error) (outcome worker.Outcome) {
	defer func() {
		if value := recover(); value != nil {
			err := fmt.Errorf("error of type %T, a method of which panicked: %w", err, &PanicError{Value: value, Stack: debug.Stack()})
			outcome = failure(err, h.backoff.delay(job.Attempt, x.random()))
		}
	}()
	verdict := verdictOf(ctx, err, attemptsLeft(job.Attempt, job.MaxAttempts))
	switch verdict.Kind {
	case VerdictCompleted:
		return worker.Outcome{Kind: worker.OutcomeCompleted}
	case VerdictSnooze:
		return worker.Outcome{Kind: worker.OutcomeSnoozed, Delay: verdict.Delay}
	case VerdictInterrupted:
		return worker.Outcome{Kind: worker.OutcomeReturned}
	case VerdictCanceled:
		return worker.Outcome{Kind: worker.OutcomeCanceled}
	case VerdictRetry, VerdictRetryIn, VerdictPermanent:
	}
	batch, isBatch := batchOf(err)
	err = explainTimeout(ctx, h, err)
	var payload []byte
	if isBatch && !h.transactional { // of which no element is done
		payload, err = shrink(job.Payload, batch, err)
	}
	if verdict.Kind == VerdictRetry {
		verdict.Delay = h.delay(x.logger, job, err, x.random())
	}
	outcome = failure(err, verdict.Delay)
	if verdict.Kind == VerdictPermanent {
		outcome.Kind = worker.OutcomeExhausted
	}
	outcome.Payload = payload
	return outcome
}

// failure is the outcome of a job that failed with err and is tried again after delay.
func failure(err error, delay time.Duration) worker.Outcome {
	return worker.Outcome{Kind: worker.OutcomeFailed, Err: tidy(err), Text: errorText(err), Delay: delay}
}

// explainTimeout names the task's timeout in an error that came of it.
func explainTimeout(ctx context.Context, h *handler, err error) error {
	if !errors.Is(context.Cause(ctx), ErrTimeout) {
		return err
	}
	for _, sign := range []error{context.DeadlineExceeded, context.Canceled, ErrTimeout} {
		if errors.Is(err, sign) {
			return fmt.Errorf("%w after %v: %w", ErrTimeout, h.timeout, err)
		}
	}
	return err
}
