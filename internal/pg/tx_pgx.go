package pg

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/internal/pg/query"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// pgxTransaction is a job's transaction over a connection of ours.
type pgxTransaction struct {
	texts *texts
	lease wire.Lease
	tx    pgx.Tx
	txn   *txSession

	mu   sync.Mutex
	conn *pgxpool.Conn // nil: the transaction is over, and the connection may be somebody else's
}

func newPgxTx(ctx context.Context, owner *JobTransactions, job TxJob, conn *pgxpool.Conn, tx pgx.Tx) *JobTx {
	txn := &txSession{refusal: &refusal{}, ctx: ctx, conn: conn.Conn()}
	j := newJobTx(ctx, owner, job, txn.refusal, &pgxTransaction{
		texts: owner.store.claims.texts, lease: job.Lease, tx: tx, txn: txn, conn: conn,
	})
	j.Pgx = &handlerTx{txn: txn, tx: tx, root: true}
	return j
}

func (t *pgxTransaction) take() bool { return t.txn.end() }

func (t *pgxTransaction) caught() error { return t.txn.aborted() }

func (t *pgxTransaction) ready() error {
	switch status := t.txn.conn.PgConn().TxStatus(); {
	case t.txn.conn.IsClosed():
		return errConnectionLost
	case t.txn.conn.PgConn().IsBusy():
		return errRowsOpen
	case status == 'I':
		return ErrTxEnded
	case status == 'E':
		return t.txn.aborted()
	}
	return nil
}

// guard sends one message, whose statements are looked at one after the other: a role that the
// handler has taken may not even see our tables, so that they could not be prepared.
func (t *pgxTransaction) guard(ctx context.Context, record *worker.Record) (row guarded, err error) {
	about := func(text string) string {
		return ";\n" + t.texts.inline(text, strconv.FormatInt(t.lease.ID, 10), literal(t.lease.Token))
	}
	message := t.texts.render(query.PrepareGuard)
	if t.lease.Keyed() {
		message += about(query.ClearLettersInTx)
	}
	message += about(query.CompleteInTx) + ";\n" + t.texts.inline(query.RequestedInTx, strconv.FormatInt(t.lease.ID, 10))
	columns := []int{6, 1}
	if record != nil {
		var literals []string
		for _, value := range recordInTx(t.lease, record) {
			literals = append(literals, quote(fmt.Sprint(value)))
		}
		message, columns = message+";\n"+t.texts.inline(query.RecordInTx, literals...), append(columns, 1)
	}
	rows, err := lastRows(ctx, t.txn.conn, message, columns...)
	if err != nil {
		return row, t.lost(err)
	}
	values := rows[0]
	pid, err := strconv.ParseInt(values[3], 10, 32)
	if err != nil {
		return row, err
	}
	row.Ended, row.Locked, row.Known, row.Pid = values[0] == "t", values[1] == "t", values[2] == "t", int32(pid)
	row.requested = rows[1][0] == "t"
	if row.Began, err = strconv.ParseInt(values[4], 10, 64); err != nil {
		return row, err
	}
	row.Xid, err = strconv.ParseInt(values[5], 10, 64)
	return row, err
}

// commit is sure of what the server has refused, unless it has ended the session: a commit that
// waits for a standby has happened here.
func (t *pgxTransaction) commit(ctx context.Context) (sure bool, err error) {
	err = t.tx.Commit(ctx)
	said, ok := errors.AsType[*pgconn.PgError](err)
	return err == nil || ok && said.SeverityUnlocalized == "ERROR" || errors.Is(err, pgx.ErrTxCommitRollback), t.lost(err)
}

// lost marks an error with which the connection has ended.
func (t *pgxTransaction) lost(err error) error {
	if err != nil && t.txn.conn.IsClosed() {
		return fmt.Errorf("%w: %w", errConnectionLost, err)
	}
	return err
}

// kill closes the connection. The server is asked to end a statement that runs: it would not look
// at the connection before.
func (t *pgxTransaction) kill() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.conn == nil {
		return
	}
	conn := t.txn.conn.PgConn()
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	_ = conn.CancelRequest(ctx) // the end of the connection says the rest
	_ = conn.Conn().Close()
}

func (t *pgxTransaction) abort() {
	if t.isOver() {
		return
	}
	if t.take() {
		Rollback(context.Background(), t.tx)
	} else {
		t.kill()
	}
	t.release()
}

func (t *pgxTransaction) isOver() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.conn == nil
}

// release gives the connection back. What a handler may still have in its hands is closed, and one
// that a goroutine still uses is left alone until that has returned.
func (t *pgxTransaction) release() {
	t.mu.Lock()
	defer t.mu.Unlock()
	conn := t.conn
	t.conn = nil
	done := func() {
		if t.txn.exposed.Load() {
			closeConn(context.Background(), conn.Conn())
		}
		conn.Release()
	}
	if t.take() {
		done()
		return
	}
	go func() {
		t.txn.using.Lock()
		done()
	}()
}
