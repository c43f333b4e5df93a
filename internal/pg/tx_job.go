package pg

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/backfillhq/go/internal/pg/query"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

const (
	guardTimeout  = 5 * time.Second  // of the guard's statement
	guardPatience = 5 * time.Second  // how long the guard is tried again while somebody has the row locked
	commitTimeout = 30 * time.Second // of COMMIT, which may wait for a standby
	guardPause    = 5 * time.Millisecond
	askPause      = 20 * time.Millisecond
	askPauseMost  = time.Second
)

// JobTx is the transaction of one job. COMMIT has one way in, Commit; whatever else happens ends
// in a rollback: Abort, the connection's end, or the server's own timeout.
type JobTx struct {
	Pgx pgx.Tx  // as the handler sees it; one of
	SQL *sql.Tx // these two

	*refusal

	owner *JobTransactions
	lease wire.Lease
	ctx   context.Context //nolint:containedctx // of the job, which the transaction belongs to
	over  jobTransaction

	watch    func() bool   // stops watching ctx
	returned chan struct{} // the handler has
	note     sync.Once     // closes it
}

// jobTransaction is a job's transaction over pgx, or over database/sql.
type jobTransaction interface {
	// take takes it from the handler, which has returned. It reports false if a goroutine of the
	// handler's is using it.
	take() bool
	// ready says what keeps it from being committed, as far as that can be known without the server.
	ready() error
	// caught returns the error that has aborted it, or ErrTxEnded; nil: neither is known.
	caught() error
	// guard sends the guard's statements once. record is what goes into the history; nil: nothing.
	guard(ctx context.Context, record *worker.Record) (guarded, error)
	// commit sends COMMIT. It reports whether what it returns is what became of the transaction.
	commit(ctx context.Context) (sure bool, err error)
	// abort rolls it back, unless it is over, and gives the connection back.
	abort()
	// kill ends it while somebody may be using it.
	kill()
}

// guarded is what the guard's statements have said.
type guarded struct {
	query.CompleteInTxRow

	requested bool // the end of the job
}

// refusal is why a transaction must not be committed.
type refusal struct {
	mu     sync.Mutex
	reason error // nil: none
}

// Fail notes why the transaction must not be committed, whatever follows. The first reason counts.
func (r *refusal) Fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.reason == nil {
		r.reason = err
	}
}

// Failed returns that reason; nil if there is none.
func (r *refusal) Failed() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.reason
}

func newJobTx(ctx context.Context, owner *JobTransactions, job TxJob, refusal *refusal, over jobTransaction) *JobTx {
	j := &JobTx{
		refusal: refusal, owner: owner, lease: job.Lease, ctx: ctx, over: over, returned: make(chan struct{}),
	}
	j.watch = context.AfterFunc(ctx, j.closeLate)
	return j
}

// Caught returns the error of the server's that has aborted the transaction, or ErrTxEnded, as far
// as they are known; else nil. Call it after the handler has returned.
func (j *JobTx) Caught() error {
	if !j.take() {
		return nil
	}
	return j.over.caught()
}

// take takes the transaction from the handler, which has returned.
func (j *JobTx) take() bool {
	j.note.Do(func() { j.watch(); close(j.returned) })
	return j.over.take()
}

// closeLate ends the transaction of a handler that goes on long after its context has ended. A
// COMMIT that is under way is left alone.
func (j *JobTx) closeLate() {
	select {
	case <-j.returned:
	case <-time.After(txPatience):
		j.over.kill()
	}
}

// Abort rolls the transaction back, unless it is over.
func (j *JobTx) Abort() {
	j.take()
	j.over.abort()
}

// Commit completes the job in its transaction, and commits it, with what goes into the history; nil:
// nothing. Without an error both are done. An
// error that wraps worker.ErrLeaseLost says that the lease had ended, ErrCommitUnknown that nobody
// knows what became of the transaction, and any other one that it was rolled back.
func (j *JobTx) Commit(record *worker.Record) (fate worker.Fate, err error) {
	defer j.Abort()
	if err := j.mayCommit(); err != nil {
		return fate, err
	}
	row, err := j.guard(record)
	if err != nil {
		return fate, err
	}
	if j.ctx.Err() != nil {
		return fate, context.Cause(j.ctx)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(j.ctx), commitTimeout)
	defer cancel()
	sure, err := j.over.commit(ctx)
	if !sure {
		err = j.settle(err, row)
	}
	if err != nil {
		return fate, fmt.Errorf("commit the job's transaction: %w", err)
	}
	return worker.Fate{Kind: worker.FateRecorded, Next: j.next()}, nil
}

// mayCommit says what keeps the transaction from being committed.
func (j *JobTx) mayCommit() error {
	if !j.take() {
		j.Fail(errStillUsed)
	}
	switch failed := j.Failed(); {
	case failed != nil:
		return failed
	case j.ctx.Err() != nil:
		return context.Cause(j.ctx)
	}
	return j.over.ready()
}

// guard deletes the job's row by (id, token) and frees its queue, in the transaction (R1, R7), and
// asks whether somebody has requested the end of the job. It never waits for a row: it is tried
// again for a while, because whoever has the row locked may be waiting for this transaction. A
// request that is stored later waits for the end of this transaction, and finds the job gone.
func (j *JobTx) guard(record *worker.Record) (guarded, error) {
	for until := time.Now().Add(guardPatience); ; {
		ctx, cancel := context.WithTimeout(j.ctx, guardTimeout)
		row, err := j.over.guard(ctx, record)
		cancel()
		switch {
		case err != nil && j.ctx.Err() != nil:
			return row, fmt.Errorf("%w: %w", context.Cause(j.ctx), err)
		case err != nil:
			return row, fmt.Errorf("complete the job in its transaction: %w", err)
		case !row.Known:
			return row, ErrTxEnded
		case row.Ended && row.requested:
			return row, worker.ErrCanceled
		case row.Ended:
			return row, nil
		case !row.Locked:
			return row, j.lost()
		case time.Now().After(until):
			return row, errRowLocked
		}
		if !wait(j.ctx, guardPause) {
			return row, context.Cause(j.ctx)
		}
	}
}

// lost is for a guard that does not see the job as ours.
func (j *JobTx) lost() error {
	j.over.abort()
	if err := j.owner.Standing(j.ctx, j.lease); err == nil || errors.Is(err, worker.ErrCanceled) {
		return errElsewhere
	}
	return worker.ErrLeaseLost
}

// ErrCommitUnknown says that nobody knows whether a transaction was committed.
var ErrCommitUnknown = errors.New("the answer to COMMIT was lost, and the database does not say what became of it")

// settle asks for the job's row what became of a transaction whose COMMIT has ended with err. It
// returns nil if it was committed (R35).
func (j *JobTx) settle(err error, guard guarded) error {
	var gaveUp <-chan time.Time
	ended := j.ctx.Done()
	pause, lost := askPause, time.Now()
	for {
		state, askErr := j.askState(guard.Xid)
		switch {
		case askErr != nil:
		case !state.There && !state.Aborted: // it was the transaction that has deleted the row
			return nil
		case !state.Held: // it was rolled back, and somebody has ended the lease since then
			return fmt.Errorf("%w: %w", worker.ErrLeaseLost, err)
		case state.Free:
			return err
		case time.Since(lost) > time.Second:
			j.owner.endSession(guard.Pid, guard.Began, false)
		}
		select {
		case <-ended:
			ended, gaveUp = nil, time.After(txPatience)
		case <-gaveUp:
			return fmt.Errorf("%w: %w", ErrCommitUnknown, err)
		case <-time.After(pause):
			pause = min(2*pause, askPauseMost)
		}
	}
}

func (j *JobTx) askState(xid int64) (query.LeaseStateRow, error) {
	ctx, cancel := context.WithTimeout(context.Background(), settledTimeout)
	defer cancel()
	return j.owner.store.queries.LeaseState(ctx, query.LeaseStateParams{
		ID: j.lease.ID, Token: pgtype.Text{String: j.lease.Token, Valid: true}, Xid: xid,
	})
}

// endSession ends the session of a transaction that began at a time, which is idle, or busy too.
func (t *JobTransactions) endSession(pid int32, began int64, busy bool) {
	ctx, cancel := context.WithTimeout(context.Background(), settledTimeout)
	defer cancel()
	_ = t.store.queries.EndLostSession(ctx, query.EndLostSessionParams{ // else the server ends it later
		Pid: pgtype.Int4{Int32: pid, Valid: true}, Busy: busy, Began: began,
	})
}

// next says whose job is first in line in the queue that the commit has freed. It is not asked for
// in the transaction: a serializable one is refused for what it has read.
func (j *JobTx) next() worker.NextInQueue {
	if j.lease.QueueID == 0 || j.owner.inside != nil {
		return worker.NextNone
	}
	ctx, cancel := context.WithTimeout(context.Background(), settledTimeout)
	defer cancel()
	task, err := j.owner.store.queries.NextInQueue(ctx, j.lease.QueueID)
	if err != nil {
		return worker.NextOwn // a claim finds out
	}
	return j.owner.store.next(task)
}
