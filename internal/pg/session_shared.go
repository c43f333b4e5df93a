package pg

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/backfillhq/go/internal/sqlstate"
)

var (
	errShared = errors.New("the connection leads through a pooler that shares each session among its clients " +
		"(transaction or statement pooling), and this needs a session of its own: connect to PostgreSQL directly, or " +
		"to a pooler in session mode (PgBouncer: pool_mode = session)")
	errNoTransactions = errors.New("the connection leads through a pooler that allows no transactions (statement " +
		"pooling), which a worker needs: use transaction or session pooling (PgBouncer: pool_mode = transaction), or " +
		"connect the worker to PostgreSQL directly; clients that only enqueue single jobs may keep using this pooler")
)

// probeRounds is how often two connections are compared. Poolers hand out the session that was
// returned last, or each in turn: the first two rounds tell that. More rounds tell busy ones.
const probeRounds = 4

// areShared reports whether a connection shares its session with others, before anything is changed
// in it. It only asks for the process id of the session, which changes nothing: a parameter that is
// set, a lock or a prepared statement would stay behind in a session of somebody else, and proves
// less, because a pooler without other clients gives it back to the same connection.
//
// Without a pooler the session's id is the one that PostgreSQL announced when the connection was
// made. A pooler announces an id of its own. Then two connections ask in turn: in session mode
// each always has the same session, and never the other's.
func (s *sessions) areShared(ctx context.Context, conn *pgx.Conn) (bool, error) {
	pid, err := sessionPID(ctx, conn)
	if err != nil {
		return false, err
	}
	if pid == strconv.FormatUint(uint64(conn.PgConn().PID()), 10) || s.unshared.Load() {
		return false, nil
	}
	if s.shared.Load() {
		return true, nil
	}
	other, err := s.connectProbe(ctx)
	shared := false
	if err == nil {
		defer closeConn(ctx, other)
		shared, err = compare(ctx, conn, other)
	}
	if err == nil && shared {
		err = checkTransactions(ctx, other)
	}
	if errors.Is(err, errNoTransactions) {
		return true, err
	}
	if err != nil {
		return false, fmt.Errorf("find out by a second connection whether the pooler shares sessions: %w", err)
	}
	s.unshared.Store(!shared)
	s.shared.Store(shared)
	return shared, nil
}

// connectProbe makes a connection that only asks for its session's process id: what the
// application's AfterConnect sets is not needed.
func (s *sessions) connectProbe(ctx context.Context) (*pgx.Conn, error) {
	config := s.settings.own(nil)
	config.AfterConnect = func(context.Context, *pgx.Conn) error { return nil }
	return connectOwn(ctx, config)
}

func compare(ctx context.Context, conn, other *pgx.Conn) (shared bool, err error) {
	var pids [2]string
	for range probeRounds {
		for i, c := range []*pgx.Conn{conn, conn, other, other} {
			pid, err := sessionPID(ctx, c)
			if err != nil {
				return false, err
			}
			own := &pids[i/2]
			if *own == "" {
				*own = pid
			}
			if pid != *own || pids[0] == pids[1] {
				return true, nil
			}
		}
	}
	return false, nil
}

// checkTransactions tells a pooler that shares sessions from transaction to transaction from one
// that does so from statement to statement, and ends a transaction that stays open. A session that
// the server ends meanwhile tells nothing.
func checkTransactions(ctx context.Context, conn *pgx.Conn) error {
	for _, statement := range []string{beginStated + engineTransaction, "rollback"} {
		if err := conn.PgConn().Exec(ctx, statement).Close(); err != nil {
			if said, ok := errors.AsType[*pgconn.PgError](err); ok && !sqlstate.EndsSession(said.Code) {
				return fmt.Errorf("%w (%w)", errNoTransactions, err)
			}
			return err
		}
	}
	return nil
}

func sessionPID(ctx context.Context, conn *pgx.Conn) (string, error) {
	row, err := lastRow(ctx, conn, "select pg_catalog.pg_backend_pid()", 1)
	if err != nil {
		return "", fmt.Errorf("ask for the session's process id: %w", err)
	}
	return row[0], nil
}
