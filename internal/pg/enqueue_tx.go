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

	"github.com/backfillhq/go/internal/enqueue"
	"github.com/backfillhq/go/internal/sqlstate"
	"github.com/backfillhq/go/internal/wire"
)

// InsertTx inserts jobs in a transaction of the application's.
func (i *Inserter) InsertTx(ctx context.Context, tx pgx.Tx, specs []wire.Spec) ([]*wire.Job, error) {
	conn := connOf(tx)
	return i.insertIn(ctx, pgxSession{tx, conn}, conn, specs)
}

// InsertSQLTx inserts jobs in a database/sql transaction of the application's, whatever its driver.
func (i *Inserter) InsertSQLTx(ctx context.Context, tx *sql.Tx, specs []wire.Spec) ([]*wire.Job, error) {
	return i.insertIn(ctx, sqlSession{tx}, nil, specs)
}

// insertIn inserts jobs in a transaction that is not ours. It is never rolled back here, so a
// piece that is incomplete is sent again for the jobs that are missing; after an error nothing is,
// because the transaction has failed. conn is the transaction's; nil if that is not known.
func (i *Inserter) insertIn(ctx context.Context, s session, conn *pgx.Conn, specs []wire.Spec) ([]*wire.Job, error) {
	if err := ended(ctx); err != nil { // without harm to the transaction
		return nil, err
	}
	limited := i.limits.NewContext(ctx)
	defer limited.Leave()
	s = steppingSession{s, limited}
	if conn != nil && conn.Config().Tracer == nil { // as attempt.watch
		if err := limited.Watch(&interruption{conn: conn}); err != nil {
			return nil, err
		}
		defer limited.Unwatch()
	}
	statements := limited.Statements()
	access, role, err := i.accessIn(statements, s)
	if err != nil {
		return nil, rejectedIn(err, becauseIn(limited, err))
	}
	n := newInsertion(i.texts, specs, access)
	p := newPlan(specs, i.bounds)
	parts := [][]piece{p.pieces}
	if p.large {
		parts = slices.Collect(slices.Chunk(p.pieces, 1))
	}
	for _, pieces := range parts {
		if err := n.insertUntilComplete(statements, s, pieces); err != nil {
			return nil, rejectedIn(err, i.refusedIn(s, role, becauseIn(limited, err)))
		}
	}
	return n.result(), nil
}

// ended returns that ctx has ended, and why; nil if it has not.
func ended(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if err == nil || errors.Is(err, cause) {
		return err
	}
	return fmt.Errorf("%w: %w", cause, err)
}

// becauseIn is because for a transaction that is not ours.
func becauseIn(limited *enqueue.Context, err error) error {
	err = because(limited, err)
	if errors.Is(limited.Cause(), enqueue.ErrNoAnswer) {
		return fmt.Errorf("%w; another transaction may hold a key or a name of these jobs: roll back, and repeat the "+
			"transaction; nothing is enqueued unless it commits; a deadline in the context replaces this limit", err)
	}
	return err
}

// rejectedIn marks what explains an error if that is the server's. What explains it may not wrap
// it.
func rejectedIn(err, explained error) error {
	if sqlstate.Of(err) == "" && !errors.Is(err, errStillConflicting) {
		return explained
	}
	return &wire.RejectedError{Err: explained}
}

// steppingSession gives each list of statements the time of a step, and sends none when the context
// has ended.
type steppingSession struct {
	session
	limited *enqueue.Context
}

func (s steppingSession) run(ctx context.Context, statements []statement) error {
	if err := s.limited.Cause(); err != nil {
		return err
	}
	s.limited.Step()
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
func (i *Inserter) Begin(ctx context.Context, conn *pgxpool.Conn) (pgx.Tx, error) {
	limited := i.limits.NewContext(ctx)
	defer limited.Leave()
	tx, err := conn.Begin(limited)
	if err != nil {
		return nil, &wire.NotEnqueuedError{Err: because(limited, err)}
	}
	return tx, nil
}

// Commit commits a transaction. The type of an error says what became of its jobs.
func (i *Inserter) Commit(ctx context.Context, tx pgx.Tx) error {
	if err := ended(ctx); err != nil { // then pgx sends nothing
		return &wire.NotEnqueuedError{Err: err}
	}
	limited := i.limits.NewContext(ctx)
	defer limited.Leave()
	return CommitOutcome(because(limited, tx.Commit(limited)))
}

// Rollback ends a transaction, unless it has ended, so that its connection can go back to the pool.
func Rollback(ctx context.Context, tx pgx.Tx) {
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	_ = tx.Rollback(limited) // a connection that fails in it is closed, and the transaction with it
}
