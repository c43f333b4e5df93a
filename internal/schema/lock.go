package schema

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/internal/sqlstate"
)

// A statement that waits for a lock on a table holds up every later statement whose lock conflicts
// with it: behind our ALTER TABLE that waits for a pg_dump, no job is enqueued or claimed. So our
// statements wait for lockTimeout only. Then the transaction (or its savepoint) is rolled back,
// which lets the others through, and it is tried again after a pause.
const (
	lockTimeout = 50 * time.Millisecond
	lockPause   = 500 * time.Millisecond
)

// A process that is cut off or stopped between two statements would keep its locks until the server
// finds out, which takes hours, and the queue with them. So the server ends a transaction of ours
// that is idle for longer than idleLimit, which the pauses between tries never are.
const idleLimit = 5 * time.Second

// answerTimeout bounds what takes moments, unless the server does not answer; filesTimeout bounds
// the run of all files, which takes moments too, but on a server that has much to do more of them.
const answerTimeout, filesTimeout = 10 * time.Second, time.Minute

// localSettings are those of the session that our statements depend on, for a transaction: names
// mean what they mean here, whatever an application's search_path puts in front of them.
const localSettings = "select pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true)"

// reading runs statements that only read, in a transaction with our settings. A statement_timeout
// of milliseconds is meant for an application's statements; these end with their context.
func reading(ctx context.Context, conn *pgx.Conn, read func() error) error {
	text := fmt.Sprintf("begin isolation level read committed, read only; %s; set local idle_in_transaction_session_timeout = %d; "+
		"set local statement_timeout = 0", localSettings, idleLimit.Milliseconds())
	_, err := conn.PgConn().Exec(ctx, text).ReadAll()
	if err == nil {
		err = read()
	}
	_, ended := conn.PgConn().Exec(ctx, "commit").ReadAll() // Rolls back after an error.
	return cmp.Or(err, ended)
}

// answered runs something that takes moments.
func answered(ctx context.Context, limit time.Duration, run func(context.Context) error) error {
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := run(limited)
	if err != nil && limited.Err() != nil && ctx.Err() == nil {
		err = fmt.Errorf("no answer within %v: the server does not respond, or a session has locked its tables against "+
			"reads, as VACUUM FULL and LOCK TABLE do: %w", limit, err)
	}
	return err
}

// patience bounds how long others may keep us waiting.
type patience time.Duration

// pause is the time between two tries.
func (p patience) pause() time.Duration { return min(lockPause, time.Duration(p)/10) }

// tries is how many tries fit, at least one.
func (p patience) tries() int {
	return max(1, int(math.Ceil(float64(p)/float64(p.pause()+lockTimeout))))
}

// retry runs try until it does not fail for a lock, the tries are used up, or ctx ends.
func (p patience) retry(ctx context.Context, try func() error) error {
	for tries := 1; ; tries++ {
		err := try()
		if sqlstate.Of(err) != sqlstate.LockNotAvailable {
			return err
		}
		if tries == p.tries() {
			return &lockError{fmt.Sprintf("its tables were in use at each of %d tries", tries), err}
		}
		if !pause(ctx, p.pause()) {
			return fmt.Errorf("wait for a lock: %w", context.Cause(ctx))
		}
	}
}

// limited runs a statement in its own transaction, which waits for locks no longer than
// lockTimeout.
func limited(ctx context.Context, conn *pgx.Conn, statement string) error {
	text := fmt.Sprintf("begin isolation level read committed, read write; %s; "+
		"set local lock_timeout = %d; set local client_min_messages = warning; %s; commit",
		localSettings, lockTimeout.Milliseconds(), statement)
	_, err := conn.PgConn().Exec(ctx, text).ReadAll()
	if err != nil {
		_, _ = conn.PgConn().Exec(ctx, "rollback").ReadAll() // The first error says more.
	}
	return err
}

// lockError is a lock that could not be had.
type lockError struct {
	found string
	err   error
}

// lockedOutError says that another process of ours was migrating for as long as lockOut waits.
type lockedOutError struct{ err error }

func (e *lockedOutError) Error() string { return e.err.Error() }
func (e *lockedOutError) Unwrap() error { return e.err }

// keptOut reports whether to look again what there is to do, because another process of ours was
// doing it. since is when we first waited for one.
func (m *migrator) keptOut(since *time.Time, began time.Time, err error) (again bool, explained error) {
	locked, ok := errors.AsType[*lockedOutError](err)
	if !ok {
		return false, err
	}
	if since.IsZero() {
		*since = began
	}
	if time.Since(*since) < m.Patience {
		return true, nil
	}
	return false, &lockError{fmt.Sprintf("another process has been migrating it for %v", m.Patience), locked.err}
}

func (e *lockError) Error() string { return e.found + ": " + e.err.Error() }
func (e *lockError) Unwrap() error { return e.err }

// alone runs step in a transaction, at a time when no other process of ours does the same for this
// schema. The lock that ensures this is kept from the first try to the last. Otherwise each of the
// processes of a fleet would make the tables' users wait at each of its tries.
func (m *migrator) alone(ctx context.Context, step func(ctx context.Context, tx pgx.Tx) error) error {
	var tx pgx.Tx
	err := answered(ctx, answerTimeout, func(ctx context.Context) (err error) {
		tx, err = m.conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadWrite})
		return err
	})
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
		defer cancel()
		_ = tx.Rollback(ctx) // Without effect after a commit; a lost connection rolls back by itself.
	}()
	if err := m.lockOut(ctx, tx); err != nil {
		return err
	}
	err = patience(m.Patience).retry(ctx, func() error {
		return answered(ctx, filesTimeout, func(ctx context.Context) error {
			return pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error { // A savepoint: rolling back to it gives the locks back.
				return step(ctx, tx)
			})
		})
	})
	if err != nil {
		return err
	}
	if err := answered(ctx, answerTimeout, tx.Commit); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

// lockOut keeps our other processes out until the end of the transaction. Only they wait for this
// lock. It waits for at most a second, because the process that has the lock may do what we were
// going to do: then we need it no more. The other limits replace an application's own.
func (m *migrator) lockOut(ctx context.Context, tx pgx.Tx) error {
	const settings = localSettings + "; " +
		"set local lock_timeout = %d; set local statement_timeout = 0; set local idle_in_transaction_session_timeout = %d"
	ctx, cancel := context.WithTimeout(ctx, m.Patience+answerTimeout)
	defer cancel()
	if _, err := tx.Exec(ctx, fmt.Sprintf(settings, min(m.Patience, time.Second).Milliseconds(), idleLimit.Milliseconds())); err != nil {
		return fmt.Errorf("set limits: %w", err)
	}
	_, err := tx.Exec(ctx, "select pg_advisory_xact_lock($1)", pgx.QueryExecModeExec, m.lockKey("migrate"))
	if sqlstate.Of(err) == sqlstate.LockNotAvailable {
		return &lockedOutError{err}
	}
	if err != nil {
		return fmt.Errorf("lock: %w", err)
	}
	if _, err := tx.Exec(ctx, fmt.Sprintf("set local lock_timeout = %d", lockTimeout.Milliseconds())); err != nil {
		return fmt.Errorf("set limits: %w", err)
	}
	return nil
}

// lockText says why there was no lock.
func lockText(err error) string {
	if lock, ok := errors.AsType[*lockError](err); ok {
		return lock.found
	}
	return "its tables are in use"
}
