package pg

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

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
	owner *JobTransactions
	lease wire.Lease
	ctx   context.Context //nolint:containedctx // of the job, which the transaction belongs to
	tx    pgx.Tx
	txn   *txSession

	watch    func() bool   // stops watching ctx
	returned chan struct{} // the handler has
	note     sync.Once     // closes it

	mu   sync.Mutex
	conn *pgxpool.Conn // nil: the transaction is over, and the connection may be somebody else's
}

func newJobTx(ctx context.Context, owner *JobTransactions, lease wire.Lease, conn *pgxpool.Conn, tx pgx.Tx) *JobTx {
	j := &JobTx{
		owner: owner, lease: lease, ctx: ctx, tx: tx, txn: &txSession{ctx: ctx, conn: conn.Conn()},
		conn: conn, returned: make(chan struct{}),
	}
	j.watch = context.AfterFunc(ctx, j.closeLate)
	return j
}

// Tx returns the transaction as the handler sees it.
func (j *JobTx) Tx() pgx.Tx { return &handlerTx{txn: j.txn, tx: j.tx, root: true} }

// Fail notes why the transaction must not be committed, whatever follows. The first reason counts.
func (j *JobTx) Fail(err error) { j.txn.fail(err) }

// Failed returns that reason; nil if there is none.
func (j *JobTx) Failed() error { return j.txn.failed() }

// Caught returns the error of the server's that has aborted the transaction; nil if it is not
// aborted. Call it after the handler has returned.
func (j *JobTx) Caught() error {
	if !j.end() {
		return nil
	}
	return j.txn.aborted()
}

// end takes the transaction from the handler, which has returned. It reports false if a goroutine
// of the handler's is using it.
func (j *JobTx) end() bool {
	j.note.Do(func() { j.watch(); close(j.returned) })
	return j.txn.end()
}

// closeLate closes the connection of a handler that goes on long after its context has ended. A
// COMMIT that is under way is left alone.
func (j *JobTx) closeLate() {
	select {
	case <-j.returned:
	case <-time.After(txPatience):
		j.kill()
	}
}

// kill closes the connection while somebody may be using it. The server is asked to end a statement
// that runs: it would not look at the connection before.
func (j *JobTx) kill() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.conn == nil {
		return
	}
	conn := j.txn.conn.PgConn()
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	_ = conn.CancelRequest(ctx) // the end of the connection says the rest
	_ = conn.Conn().Close()
}

// Abort rolls the transaction back, unless it is over.
func (j *JobTx) Abort() {
	if j.isOver() {
		return
	}
	if j.end() {
		Rollback(context.Background(), j.tx)
	} else {
		j.kill()
	}
	j.release()
}

func (j *JobTx) isOver() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.conn == nil
}

// release gives the connection back. What a handler may still have in its hands is closed, and one
// that a goroutine still uses is left alone until that has returned.
func (j *JobTx) release() {
	j.mu.Lock()
	defer j.mu.Unlock()
	conn := j.conn
	j.conn = nil
	done := func() {
		if j.txn.exposed.Load() {
			closeConn(context.Background(), conn.Conn())
		}
		conn.Release()
	}
	if j.txn.end() {
		done()
		return
	}
	go func() {
		j.txn.using.Lock()
		done()
	}()
}

// Commit completes the job in its transaction, and commits it. Without an error both are done. An
// error that wraps worker.ErrLeaseLost says that the lease had ended, ErrCommitUnknown that nobody
// knows what became of the transaction, and any other one that it was rolled back.
func (j *JobTx) Commit() (fate worker.Fate, err error) {
	defer j.Abort()
	if err := j.mayCommit(); err != nil {
		return fate, err
	}
	row, err := j.guard()
	if err != nil {
		return fate, err
	}
	if j.ctx.Err() != nil {
		return fate, context.Cause(j.ctx)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(j.ctx), commitTimeout)
	defer cancel()
	if err := j.tx.Commit(ctx); err != nil {
		if err = j.commitFailed(err, row); err != nil {
			return fate, fmt.Errorf("commit the job's transaction: %w", err)
		}
	}
	return worker.Fate{Kind: worker.FateRecorded, Next: j.next()}, nil
}

// mayCommit says what keeps the transaction from being committed.
func (j *JobTx) mayCommit() error {
	if !j.end() {
		j.txn.fail(errStillUsed)
		return j.txn.failed()
	}
	switch status := j.txn.conn.PgConn().TxStatus(); {
	case j.txn.failed() != nil:
		return j.txn.failed()
	case j.ctx.Err() != nil:
		return context.Cause(j.ctx)
	case j.txn.conn.IsClosed():
		return errConnectionLost
	case j.txn.conn.PgConn().IsBusy():
		return errRowsOpen
	case status == 'I':
		return ErrTxEnded
	case status == 'E':
		return j.txn.aborted()
	}
	return nil
}

// guard deletes the job's row by (id, token) and frees its queue, in the transaction (R1, R7). It
// never waits for a row: it is tried again for a while, because whoever has the row locked may be
// waiting for this transaction.
func (j *JobTx) guard() (query.CompleteInTxRow, error) {
	for until := time.Now().Add(guardPatience); ; {
		ctx, cancel := context.WithTimeout(j.ctx, guardTimeout)
		row, err := j.tryGuard(ctx)
		cancel()
		switch {
		case err != nil && j.ctx.Err() != nil:
			return row, fmt.Errorf("%w: %w", context.Cause(j.ctx), err)
		case err != nil:
			return row, fmt.Errorf("complete the job in its transaction: %w", err)
		case !row.Known:
			return row, ErrTxEnded
		case row.Ended:
			return row, nil
		case !row.Locked:
			return row, worker.ErrLeaseLost
		case time.Now().After(until):
			return row, errRowLocked
		}
		if !wait(j.ctx, guardPause) {
			return row, context.Cause(j.ctx)
		}
	}
}

// tryGuard sends the guard once. It is one message, whose statements are looked at one after the
// other: a role that the handler has taken may not even see our tables, so that they could not be
// prepared.
func (j *JobTx) tryGuard(ctx context.Context) (row query.CompleteInTxRow, err error) {
	texts := j.owner.store.claims.texts
	about := func(text string) string {
		return ";\n" + texts.inline(text, strconv.FormatInt(j.lease.ID, 10), literal(j.lease.Token))
	}
	message := texts.render(query.PrepareGuard)
	if j.lease.Keyed() {
		message += about(query.ClearLettersInTx)
	}
	values, err := lastRow(ctx, j.txn.conn, message+about(query.CompleteInTx))
	if err != nil {
		return row, err
	}
	pid, err := strconv.ParseInt(values[3], 10, 32)
	if err != nil {
		return row, err
	}
	row = query.CompleteInTxRow{Ended: values[0] == "t", Locked: values[1] == "t", Known: values[2] == "t", Pid: int32(pid)}
	row.Began, err = strconv.ParseInt(values[4], 10, 64)
	return row, err
}

// ErrCommitUnknown says that nobody knows whether a transaction was committed.
var ErrCommitUnknown = errors.New("the answer to COMMIT was lost, and the database does not say what became of it")

// commitFailed returns nil if the transaction was committed all the same (R35). What the server has
// refused was not, unless it has ended the session: a commit that waits for a standby has happened
// here.
func (j *JobTx) commitFailed(err error, guarded query.CompleteInTxRow) error {
	said, ok := errors.AsType[*pgconn.PgError](err)
	if ok && said.SeverityUnlocalized == "ERROR" || errors.Is(err, pgx.ErrTxCommitRollback) {
		return err
	}
	var gaveUp <-chan time.Time
	ended := j.ctx.Done()
	pause, lost := askPause, time.Now()
	for {
		state, askErr := j.askState()
		switch {
		case askErr != nil:
		case !state.There: // nobody but the transaction could have deleted the row while it had it locked
			return nil
		case !state.Held: // it was rolled back, and somebody has ended the lease since then
			return fmt.Errorf("%w: %w", worker.ErrLeaseLost, err)
		case state.Free:
			return err
		case time.Since(lost) > time.Second:
			j.endLostSession(guarded)
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

func (j *JobTx) askState() (query.LeaseStateRow, error) {
	ctx, cancel := context.WithTimeout(context.Background(), settledTimeout)
	defer cancel()
	return j.owner.store.queries.LeaseState(ctx, query.LeaseStateParams{
		ID: j.lease.ID, Token: pgtype.Text{String: j.lease.Token, Valid: true},
	})
}

func (j *JobTx) endLostSession(guarded query.CompleteInTxRow) {
	ctx, cancel := context.WithTimeout(context.Background(), settledTimeout)
	defer cancel()
	_ = j.owner.store.queries.EndLostSession(ctx, query.EndLostSessionParams{ // else the server ends it later
		Pid: pgtype.Int4{Int32: guarded.Pid, Valid: true}, Began: guarded.Began,
	})
}

// next says whose job is first in line in the queue that the commit has freed. It is not asked for
// in the transaction: a serializable one is refused for what it has read.
func (j *JobTx) next() worker.NextInQueue {
	if j.lease.QueueID == 0 {
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
