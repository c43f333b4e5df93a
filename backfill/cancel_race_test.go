package backfill_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/testutil/pgtest"
)

// cancelRace is a job that a worker has, and the transaction in which that worker ends it.
type cancelRace struct {
	*testing.T

	db  *pgtest.Database
	job *backfill.Job
	tx  pgx.Tx
}

func newCancelRace(t *testing.T, attempts int) *cancelRace {
	t.Helper()
	r := &cancelRace{T: t, db: pgtest.New(t)}
	task, _ := taskOf("t", func(context.Context, mailArgs) error { return nil })
	r.job = enqueue(t, newClient(t, r.db), task, mailArgs{})
	run(t, r.db, "update graphile_worker._private_jobs set attempts = $1, locked_by = $2, locked_at = now()",
		attempts, fmt.Sprint(wire.ClaimToken(wire.NewWorkerID(), 1), ".", attempts))
	var err error
	if r.tx, err = r.db.Pool().Begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	return r
}

// execute runs statements about the job in the worker's transaction, and commit ends it.
func (r *cancelRace) execute(statements ...string) {
	r.Helper()
	for _, sql := range statements {
		if _, err := r.tx.Exec(r.Context(), sql, r.job.ID); err != nil {
			r.Fatal(err)
		}
	}
}

func (r *cancelRace) commit() {
	r.Helper()
	if err := r.tx.Commit(r.Context()); err != nil {
		r.Fatal(err)
	}
}

// cancel begins to cancel the job, through a client of its own.
func (r *cancelRace) cancel() (*tracer, <-chan backfill.CancelOutcome) {
	r.Helper()
	trace := &tracer{}
	pool := poolOf(r.T, r.db.URL, func(config *pgxpool.Config) { config.ConnConfig.Tracer = trace })
	client, err := backfill.NewClient(r.Context(), pool, backfill.WithLogger(quiet))
	if err != nil {
		r.Fatal(err)
	}
	answer := make(chan backfill.CancelOutcome, 1)
	go func() {
		outcome, err := client.Cancel(r.Context(), r.job.ID, backfill.CancelOptions{})
		if err != nil {
			r.Error(err)
		}
		answer <- outcome
	}()
	return trace, answer
}

func (r *cancelRace) awaitRequest() {
	r.Helper()
	until(r.T, "the request", func() bool { return r.requests() > 0 })
}

func (r *cancelRace) requests() int {
	r.Helper()
	return get[int](r.T, r.db.Pool(), "select count(*)::int from graphile_worker.backfill_cancels")
}

// wantNoRequests checks that none is left.
func (r *cancelRace) wantNoRequests() {
	r.Helper()
	if n := r.requests(); n > 0 {
		r.Errorf("%d requests are left", n)
	}
}

// What a worker does to the row of a job, and to a request that it has met.
const (
	lockTheRow    = "select from graphile_worker._private_jobs where id = $1 for update"
	deleteTheJob  = "delete from graphile_worker._private_jobs where id = $1"
	meetTheCancel = "delete from graphile_worker.backfill_cancels where job_id = $1"
)

// A worker that ends the job because of the request deletes both. A cancel that looks while that is
// not committed does not store the request once more: it would come too late for it, and say so of
// the job.
func TestCancelThatIsMetWhileItLooks(t *testing.T) {
	t.Parallel()
	r := newCancelRace(t, 1)
	r.execute(lockTheRow)
	trace, answer := r.cancel()
	r.awaitRequest()
	r.execute(deleteTheJob, meetTheCancel)
	sent := trace.sent.Load()
	until(t, "the cancel has tried again", func() bool {
		return r.somebodyWaits() || trace.sent.Load() > sent+20 // a round has about eight statements
	})
	r.commit()
	if outcome := receive(t, "the outcome", answer); outcome.State != backfill.CancelDone {
		t.Errorf("outcome %+v", outcome)
	}
	r.wantNoRequests()
}

func (r *cancelRace) somebodyWaits() bool {
	r.Helper()
	return get[bool](r.T, r.db.Pool(), "select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock')")
}

// While a worker meets a request, somebody else cancels the job, too: what that one stores, for a
// job that is gone, does not make the first request look as if it came too late.
func TestCancelThatIsMetWhileAnotherComes(t *testing.T) {
	t.Parallel()
	r := newCancelRace(t, 1)
	r.execute(lockTheRow)
	_, answer := r.cancel()
	r.awaitRequest()
	r.execute(deleteTheJob, meetTheCancel)
	other := make(chan error, 1)
	go func() {
		_, err := r.db.Pool().Exec(t.Context(), "insert into graphile_worker.backfill_cancels (job_id) values ($1)", r.job.ID)
		other <- err
	}()
	until(t, "the other cancel", r.somebodyWaits)
	r.commit()
	if outcome := receive(t, "the outcome", answer); outcome.State != backfill.CancelDone {
		t.Errorf("outcome %+v", outcome)
	}
	if err := receive(t, "the other request", other); err != nil {
		t.Error(err)
	}
}

// A job whose end is being committed for so long that a cancel does not wait for it may still
// succeed: the outcome says so. Of the request nothing is left once that is known, and who stored
// it looks no more.
func TestCancelOfAJobThatIsBeingCommitted(t *testing.T) {
	t.Parallel()
	r := newCancelRace(t, 1)
	r.execute(deleteTheJob)
	client := newClient(t, r.db)
	outcome := cancelJob(t, client, r.job.ID)
	if outcome.State != backfill.CancelRequested || outcome.Worker != "" || !strings.Contains(outcome.Detail, "may still succeed") {
		t.Errorf("outcome %+v", outcome)
	}
	r.commit()
	run(t, r.db, "update graphile_worker.backfill_cancels set requested_at = requested_at - interval '10 seconds'")
	if outcome := cancelJob(t, client, r.job.ID); outcome.State != backfill.CancelTooLate {
		t.Errorf("outcome %+v", outcome)
	}
	r.wantNoRequests()
}

// A job whose last attempt fails while a cancel looks, in a statement that has not seen the
// request, is free, has no attempts left, and has a request. It is cancelled: a worker would delete
// it later, whatever was answered.
func TestCancelOfAJobThatFailsWhileItLooks(t *testing.T) {
	t.Parallel()
	r := newCancelRace(t, 25)
	r.execute("update graphile_worker._private_jobs set last_error = 'no', locked_by = null, locked_at = null where id = $1")
	_, answer := r.cancel()
	r.awaitRequest()
	r.commit()
	if outcome := receive(t, "the outcome", answer); outcome.State != backfill.CancelDone {
		t.Errorf("outcome %+v", outcome)
	}
	wantJobs(t, r.db, 0)
	r.wantNoRequests()
}

// Several callers cancel one job that succeeds meanwhile. None is told that it was cancelled,
// although the request is gone when the second one looks: the first one has withdrawn it, and no
// worker has met it.
func TestCancelsThatComeTooLateTogether(t *testing.T) {
	t.Parallel()
	r := newCancelRace(t, 1)
	r.execute(deleteTheJob)
	const callers = 4
	var answers []<-chan backfill.CancelOutcome
	for range callers {
		trace, answer := r.cancel()
		answers = append(answers, answer)
		until(t, "the cancel has stored its request, or seen that of another", func() bool {
			return trace.sent.Load() > 10 // a round has about eight statements
		})
	}
	r.commit()
	states := map[backfill.CancelState]int{}
	for _, answer := range answers {
		states[receive(t, "the outcome", answer).State]++
	}
	if states[backfill.CancelTooLate] == 0 || states[backfill.CancelTooLate]+states[backfill.CancelUnknown] != callers {
		t.Errorf("outcomes %v", states)
	}
	r.wantNoRequests()
}
