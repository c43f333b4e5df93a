package pg

import (
	"context"
	"errors"
	"fmt"

	"github.com/backfillhq/go/internal/pg/query"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// Inside claims and ends jobs in a transaction of a test's, by the statements of workers. Nothing
// is seen outside of it, and nothing is left of it when the test rolls it back.
type Inside struct {
	tx    AppTx
	texts *texts
}

// Inside returns what claims and ends jobs in a transaction.
func (a *Admin) Inside(tx AppTx) *Inside { return &Inside{tx, a.texts} }

// ask sends one statement.
func (i *Inside) ask(ctx context.Context, text string, read func(rows) error, args ...any) error {
	return i.tx.session().run(ctx, []statement{{text: i.texts.render(text), args: args, read: read}})
}

// Claim claims a job, which need not be due.
func (i *Inside) Claim(ctx context.Context, id int64) (job *wire.Job, err error) {
	token := ""
	err = i.ask(ctx, query.LockJob, func(rows rows) error {
		if rows.Next() {
			return rows.Scan(&token)
		}
		return nil
	}, id, wire.ClaimToken(wire.NewWorkerID(), 1))
	if err == nil && token == "" {
		err = errors.New("it is running, has no attempt left, or its queue is held")
	}
	if err == nil {
		err = i.ask(ctx, query.JobByID, func(rows rows) error {
			if !rows.Next() {
				return ErrJobNotFound
			}
			var ignored string
			job, err = scanJob(rows, &ignored, &ignored, &ignored, &ignored, &ignored)
			return err
		}, id)
	}
	if err != nil {
		return nil, fmt.Errorf("claim job %d: %w", id, err)
	}
	job.Token = token
	return job, nil
}

// End records how a job has ended, and reports whether it has failed for good.
func (i *Inside) End(ctx context.Context, ended worker.Ended) (dead bool, err error) {
	ids, tokens := columns([]wire.Lease{ended.Lease})
	none, noTimes := []string{}, []int64{} // nothing of a test's transaction goes into the history
	found := false
	one := func(rows rows) error {
		found = rows.Next()
		return nil
	}
	switch delays := []int64{ended.Delay.Microseconds()}; ended.Kind {
	case worker.OutcomeCompleted:
		text := query.CompleteJobs
		if ended.Keyed() {
			text = query.CompleteKeyedJobs
		}
		err = i.ask(ctx, text, func(rows rows) error {
			var done int
			var places, canceled, queues, tasks ignored
			err := readRow(rows, &done, &places, &canceled, &queues, &tasks)
			found = done == 1
			return err
		}, ids, tokens)
	case worker.OutcomeFailed, worker.OutcomeExhausted:
		err = i.ask(ctx, query.FailJobs, func(rows rows) error {
			var row query.FailJobsRow
			err := readRow(rows, &row.Ord, &row.Superseded, &row.Retry, &row.DueUs, &row.NextTask)
			found, dead = err == nil, !row.Retry && !row.Superseded
			return err
		}, ids, tokens, []string{ended.Text}, delays, []bool{ended.Kind == worker.OutcomeExhausted}, []string{string(ended.Payload)},
			[]string{string(ended.Reason)}, none, none, none, noTimes, noTimes, none)
	case worker.OutcomeReturned, worker.OutcomeCanceled:
		delays[0] = -1
		fallthrough
	case worker.OutcomeSnoozed:
		err = i.ask(ctx, query.ReleaseJobs, one, ids, tokens, delays, []string{keptOutcome(ended.Kind)}, none, none, none, noTimes, noTimes, []string{""}, none)
	}
	if err == nil && !found {
		err = errors.New("its row is not there, or not as it was claimed: has something in the transaction changed it?")
	}
	if err != nil {
		return false, fmt.Errorf("record the end of job %d: %w", ended.ID, err)
	}
	return dead, nil
}

// ignored scans anything.
type ignored struct{}

func (*ignored) Scan(any) error { return nil }

// Transactions returns what runs transactional jobs in savepoints of the transaction.
func (i *Inside) Transactions() *JobTransactions {
	return &JobTransactions{inside: i, store: &Store{claims: claims{texts: i.texts}}}
}

// begin is JobTransactions.Begin.
func (i *Inside) begin(ctx context.Context, owner *JobTransactions, job TxJob) (*JobTx, error) {
	if i.tx.SQL != nil {
		return i.beginSQL(ctx, owner, job)
	}
	savepoint, err := i.tx.Pgx.Begin(ctx)
	if err == nil {
		_, err = savepoint.Exec(ctx, i.texts.inline(query.NoteTx, literal(insideIdle), literal(job.Token)))
	}
	if err != nil {
		return nil, fmt.Errorf("begin the job's transaction, a savepoint: %w", err)
	}
	txn := &txSession{refusal: &refusal{}, ctx: ctx, conn: connOf(i.tx.Pgx)}
	over := &insidePgx{pgxTransaction: pgxTransaction{texts: i.texts, lease: job.Lease, tx: savepoint, txn: txn}}
	j := newJobTx(ctx, owner, job, txn.refusal, over)
	j.Pgx = &handlerTx{txn: txn, tx: savepoint, root: true}
	return j, nil
}

// insideIdle is idle_in_transaction_session_timeout: the transaction is the test's, which may wait.
const insideIdle = "0"

// insidePgx is a job's transaction that is a savepoint.
type insidePgx struct {
	pgxTransaction

	ended bool
}

// commit releases the savepoint. What the server says of that is so.
func (t *insidePgx) commit(ctx context.Context) (sure bool, err error) {
	err = t.tx.Commit(ctx)
	t.ended = err == nil
	return true, err
}

func (t *insidePgx) abort() {
	if !t.ended && t.take() {
		Rollback(context.Background(), t.tx)
		t.ended = true
	}
}

// kill leaves the test its connection: the wrapper refuses what a handler does too late.
func (t *insidePgx) kill() {}

// insideSavepoint names the savepoint where pgx does not.
const insideSavepoint = "backfill_job"

func (i *Inside) beginSQL(ctx context.Context, owner *JobTransactions, job TxJob) (*JobTx, error) {
	s := &insideSQL{sqlTransaction: &sqlTransaction{refusal: &refusal{}, owner: owner, job: job, ctx: ctx, tx: i.tx.SQL}}
	var text string
	var number int64
	err := s.run(ctx, statement{text: "savepoint " + insideSavepoint}, statement{
		text: s.text(query.NoteTx), args: []any{insideIdle, job.Token},
		read: func(rows rows) error { return readRow(rows, &text, &text, &text, &number, &number) },
	})
	if err != nil {
		return nil, fmt.Errorf("begin the job's transaction, a savepoint: %w", err)
	}
	j := newJobTx(ctx, owner, job, s.refusal, s)
	j.SQL = s.tx
	return j, nil
}

// insideSQL is insidePgx for database/sql, where the handler gets the test's own transaction.
type insideSQL struct {
	*sqlTransaction

	ended bool
}

func (s *insideSQL) commit(ctx context.Context) (sure bool, err error) {
	err = s.run(ctx, statement{text: "release savepoint " + insideSavepoint})
	s.ended = err == nil
	return true, err
}

func (s *insideSQL) abort() {
	if s.ended {
		return
	}
	s.ended = true
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	_ = s.run(ctx, statement{text: "rollback to savepoint " + insideSavepoint}, // fails where the handler has ended the transaction
		statement{text: "release savepoint " + insideSavepoint})
}

func (s *insideSQL) kill() {}
