package pg

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/internal/enqueue"
	"github.com/backfillhq/go/internal/sqlstate"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/migrations"
)

// because adds to an error that the end of limited led to why it ended. A driver may have asked the
// server to cancel the statement then. If our own limit ended it, a driver's own error is not part
// of the chain: it says that the caller canceled. That nothing was enqueued stays part of it.
func because(limited *enqueue.Context, err error) error {
	if err == nil {
		return nil
	}
	if unsent, ok := errors.AsType[*wire.NotEnqueuedError](err); ok {
		return &wire.NotEnqueuedError{Err: because(limited, unsent.Err)}
	}
	cause, state := limited.Cause(), sqlstate.Of(err)
	switch {
	case cause == nil, errors.Is(err, cause), state != "" && state != sqlstate.QueryCanceled:
		return err
	case state == "" && errors.Is(cause, enqueue.ErrNoAnswer):
		return fmt.Errorf("%w (%v)", cause, err) //nolint:errorlint // on purpose
	default:
		return fmt.Errorf("%w: %w", cause, err)
	}
}

// Acquire takes a connection from the pool. Its errors say that nothing was enqueued.
func (i *Inserter) Acquire(ctx context.Context) (*pgxpool.Conn, error) {
	limited := i.limits.NewContext(ctx)
	defer limited.Leave()
	return i.acquire(limited)
}

func (i *Inserter) acquire(limited *enqueue.Context) (*pgxpool.Conn, error) {
	began := time.Now()
	conn, err := i.pool.Acquire(limited)
	if err == nil {
		return conn, nil
	}
	if errors.Is(limited.Cause(), enqueue.ErrNoAnswer) {
		err = context.DeadlineExceeded
	} else {
		err = because(limited, err)
	}
	if stat := i.pool.Stat(); limited.Err() != nil && stat.AcquiredConns() >= stat.MaxConns() {
		err = fmt.Errorf("all %d connections of the pool have been in use for %v: code that has a transaction should "+
			"enqueue in it (WithTx, or the context of InTx), because a call without it needs a connection more: %w",
			stat.MaxConns(), time.Since(began).Round(time.Millisecond), err)
	} else {
		err = fmt.Errorf("get a connection: %w", err)
	}
	return nil, &wire.NotEnqueuedError{Err: err}
}

// Release gives a connection back to the pool. One that is alive and of no use is closed: it is
// read-only, so it leads to a standby or to a server that was the primary once; or the statements
// that pgx has prepared on it are gone, as after DISCARD ALL. One that pgx has closed, because the
// server did not answer, keeps its place in the pool for 15 s while pgx waits for the server:
// closeTimeout is enough for that.
func (i *Inserter) Release(ctx context.Context, conn *pgxpool.Conn, err error) {
	if sqlstate.Of(err) == sqlstate.ReadOnlyTransaction || isForgotten(err) {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		_ = conn.Conn().Close(closing) // the pool drops it in any case
		cancel()
	}
	if conn.Conn().IsClosed() {
		socket := conn.Conn().PgConn().Conn()
		time.AfterFunc(closeTimeout, func() { _ = socket.Close() })
	}
	conn.Release()
}

// isForgotten reports whether a prepared statement is not what pgx believes it to be.
func isForgotten(err error) bool {
	switch sqlstate.Of(err) {
	case sqlstate.UndefinedStatement, sqlstate.DuplicateStatement, sqlstate.FeatureNotSupported:
		return true
	default:
		return false
	}
}

// isRefusal reports whether an error is the server's and ended the transaction, so that nothing was
// inserted. A fatal error ends the connection instead, perhaps after the commit.
func isRefusal(err error) bool {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	_, unsent := errors.AsType[*wire.NotEnqueuedError](err)
	return ok && !unsent && pgErr.SeverityUnlocalized == "ERROR"
}

// outcome returns the error of a call that is not sent again. Its type says whether jobs were
// inserted.
func (a *attempt) outcome(err error) error {
	if _, unsent := errors.AsType[*wire.NotEnqueuedError](err); unsent {
		return err
	}
	wrapped := fmt.Errorf("insert jobs: %w", a.explain(err, a.role()))
	if sqlstate.Of(err) == sqlstate.LockNotAvailable && isRefusal(err) {
		return &wire.BlockedError{Err: wrapped}
	}
	if isRefusal(err) { // what explains it may not wrap it
		return &wire.RejectedError{Err: wrapped}
	}
	return CommitOutcome(wrapped)
}

// CommitOutcome gives the error of a commit its meaning for the jobs of the transaction.
func CommitOutcome(err error) error {
	switch {
	case err == nil:
		return nil
	case isRefusal(err):
		return &wire.RejectedError{Err: err}
	case errors.Is(err, pgx.ErrTxCommitRollback):
		return &wire.NotEnqueuedError{Err: err}
	default:
		return &wire.UnknownError{Err: err}
	}
}

// What the statements of query/enqueue.sql raise.
const (
	raisedDropped = "dropped"
	raisedNames   = "names"
	raisedTaken   = "taken"
)

var raisedText = regexp.MustCompile(`backfill: (dropped|names|taken) (\d+)`)

// raised returns what one of our statements raised, and its number; "" if the error is another one.
func raised(err error) (kind, number string) {
	if sqlstate.Of(err) != sqlstate.InvalidText {
		return "", ""
	}
	match := raisedText.FindStringSubmatch(err.Error())
	if match == nil {
		return "", ""
	}
	return match[1], match[2]
}

// errStillConflicting is the error of a call that insertTries have not got through.
var errStillConflicting = fmt.Errorf("insert jobs: still conflicting with other sessions after %d tries; in a transaction that "+
	"is REPEATABLE READ or SERIALIZABLE, repeat the transaction, otherwise the call", insertTries)

func stillConflicting(err error) error {
	if err != nil && sqlstate.Of(err) != sqlstate.InvalidText {
		return fmt.Errorf("%w: %w", errStillConflicting, err)
	}
	return errStillConflicting
}

// explain adds to an error of the server what to do about it. role is the one that was refused; ""
// if that is not known.
func (i *Inserter) explain(err error, role string) error {
	table := migrations.QuoteIdentifier(i.texts.schema) + "._private_jobs"
	switch sqlstate.Of(err) {
	case sqlstate.InsufficientRights:
		return i.explainRights(err, role)
	case sqlstate.InvalidText:
		if kind, number := raised(err); kind == raisedDropped {
			return &droppedError{table: table, number: number}
		}
	case sqlstate.ReadOnlyTransaction:
		return fmt.Errorf("%w; a new connection is read-only as well: connect to the primary "+
			"(target_session_attrs=read-write, if the URL has several hosts)", err)
	case sqlstate.UniqueViolation:
		return i.explainSequence(err)
	}
	return err
}

// droppedError says that a trigger of the application's has dropped rows without an error.
type droppedError struct{ table, number string }

func (e *droppedError) Error() string {
	return fmt.Sprintf("a trigger on %s dropped jobs of this call (%s, without an error), so none was inserted", e.table, e.number)
}

// primaryKeys are the constraints that a sequence behind its table violates.
var primaryKeys = map[string]string{
	"jobs_pkey1": "_private_jobs", "job_queues_pkey1": "_private_job_queues", "tasks_pkey": "_private_tasks",
}

// explainSequence explains an id that is given twice.
func (i *Inserter) explainSequence(err error) error {
	for constraint, table := range primaryKeys {
		if !strings.Contains(err.Error(), `"`+constraint+`"`) {
			continue
		}
		name := migrations.QuoteIdentifier(i.texts.schema) + "." + table
		literal := "'" + strings.ReplaceAll(name, "'", "''") + "'"
		return fmt.Errorf("%w; the sequence of %s.id is behind its table, as after a restore or a replication that left "+
			"sequences out: run: select setval(pg_get_serial_sequence(%s, 'id'), max(id)) from %s;", err, name, literal, name)
	}
	return err
}
