package pg

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/internal/sqlstate"
	"github.com/backfillhq/go/internal/wire"
)

// InsertTx inserts jobs in a transaction of the application's.
func (i *Inserter) InsertTx(ctx context.Context, tx pgx.Tx, specs []wire.Spec) ([]*wire.Job, error) {
	return i.insertIn(ctx, pgxSession{tx, tx.Conn()}, specs)
}

// InsertSQLTx inserts jobs in a database/sql transaction of the application's, whatever its driver.
func (i *Inserter) InsertSQLTx(ctx context.Context, tx *sql.Tx, specs []wire.Spec) ([]*wire.Job, error) {
	return i.insertIn(ctx, sqlSession{tx}, specs)
}

// errTxNoAnswer is the end of a transaction whose caller set no deadline.
var errTxNoAnswer = fmt.Errorf("%w, or another transaction holds a key or a name of these jobs: roll back, and repeat the "+
	"transaction; nothing is enqueued unless it commits; a deadline in the context replaces this limit", errNoAnswer)

// insertIn inserts jobs in a transaction that is not ours. It is never rolled back here, so a
// piece that is incomplete is sent again for the jobs that are missing; after an error nothing is,
// because the transaction has failed.
func (i *Inserter) insertIn(ctx context.Context, s session, specs []wire.Spec) ([]*wire.Job, error) {
	if err := ctx.Err(); err != nil { // without harm to the transaction
		return nil, err
	}
	limited, end := context.WithCancelCause(ctx)
	defer end(nil)
	limit := newLimit(limited, func(error) { end(errTxNoAnswer) })
	defer limit.stop()
	s = limitedSession{s, limit}
	access, role, err := i.accessIn(limited, s)
	if err != nil {
		return nil, rejectedIn(err, because(limited, err))
	}
	n := newInsertion(i.texts, specs, access)
	p := newPlan(specs, i.bounds)
	parts := [][]piece{p.pieces}
	if p.large {
		parts = slices.Collect(slices.Chunk(p.pieces, 1))
	}
	for _, pieces := range parts {
		if err := n.insertUntilComplete(limited, s, pieces); err != nil {
			return nil, rejectedIn(err, i.refusedIn(s, role, because(limited, err)))
		}
	}
	return n.result(), nil
}

// rejectedIn marks what explains an error if that is the server's. What explains it may not wrap
// it.
func rejectedIn(err, explained error) error {
	if sqlstate.Of(err) == "" && !errors.Is(err, errStillConflicting) {
		return explained
	}
	return &wire.RejectedError{Err: explained}
}

// limitedSession gives each list of statements the time of a step.
type limitedSession struct {
	session
	limit *limit
}

func (s limitedSession) run(ctx context.Context, statements []statement) error {
	s.limit.step()
	return s.session.run(ctx, statements)
}

func (n *insertion) insertUntilComplete(ctx context.Context, s session, pieces []piece) error {
	names := slices.ContainsFunc(pieces, func(p piece) bool { return p.keyed })
	for try := range insertTries {
		if try > 0 && !wait(ctx, time.Duration(try)*time.Millisecond) {
			return context.Cause(ctx)
		}
		var list []statement
		if names || try > 0 {
			list = n.addNames()
		}
		missing := false
		for _, p := range pieces {
			p.specs = slices.DeleteFunc(slices.Clone(p.specs), func(i int) bool { return n.jobs[i] != nil })
			if len(p.specs) > 0 {
				missing = true
				list = append(list, n.insertPiece(p)...)
			}
		}
		if !missing {
			return nil
		}
		if err := s.run(ctx, list); err != nil {
			return err
		}
	}
	return stillConflicting(nil)
}

// notCommitted marks an error before the commit of a transaction was sent, unless its meaning is
// known.
func notCommitted(err error) error {
	if _, known := errors.AsType[*wire.NotEnqueuedError](err); known || isRefusal(err) {
		return err
	}
	return &wire.NotEnqueuedError{Err: err}
}

// Begin begins a transaction on a client's connection. An error says that nothing was enqueued.
func Begin(ctx context.Context, conn *pgxpool.Conn) (pgx.Tx, error) {
	limited, end := context.WithCancelCause(ctx)
	defer end(nil)
	defer newLimit(limited, end).stop()
	tx, err := conn.Begin(limited)
	if err != nil {
		return nil, &wire.NotEnqueuedError{Err: because(limited, err)}
	}
	return tx, nil
}

// Commit commits a transaction. The type of an error says what became of its jobs.
func Commit(ctx context.Context, tx pgx.Tx) error {
	if ctx.Err() != nil { // then pgx sends nothing
		return &wire.NotEnqueuedError{Err: context.Cause(ctx)}
	}
	limited, end := context.WithCancelCause(ctx)
	defer end(nil)
	defer newLimit(limited, end).stop()
	return CommitOutcome(because(limited, tx.Commit(limited)))
}

// Rollback ends a transaction, unless it has ended, so that its connection can go back to the pool.
func Rollback(ctx context.Context, tx pgx.Tx) {
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	_ = tx.Rollback(limited) // a connection that fails in it is closed, and the transaction with it
}
