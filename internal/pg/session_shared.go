package pg

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5"
)

var errShared = errors.New("the connection leads through a pooler that shares each session among its clients " +
	"(transaction or statement pooling); a worker changes session parameters and listens for notifications, so it " +
	"needs sessions of its own: connect it to PostgreSQL directly, or to a pooler in session mode (PgBouncer: " +
	"pool_mode = session); clients that only enqueue may keep using this pooler")

// probeRounds is how often two connections are compared. Poolers hand out the session that was
// returned last, or each in turn: the first two rounds tell that. More rounds tell busy ones.
const probeRounds = 4

// checkShared makes sure that a connection has its session to itself, before anything is changed
// in it. It only asks for the process id of the session, which changes nothing: a parameter that is
// set, a lock or a prepared statement would stay behind in a session of somebody else, and proves
// less, because a pooler without other clients gives it back to the same connection.
//
// Without a pooler the session's id is the one that PostgreSQL announced when the connection was
// made. A pooler announces an id of its own. Then two connections ask in turn: in session mode
// each always has the same session, and never the other's.
func (s *sessions) checkShared(ctx context.Context, conn *pgx.Conn) error {
	pid, err := sessionPID(ctx, conn)
	if err != nil {
		return err
	}
	if pid == strconv.FormatUint(uint64(conn.PgConn().PID()), 10) || s.unshared.Load() {
		return nil
	}
	other, err := s.connectProbe(ctx)
	if err == nil {
		defer closeConn(ctx, other)
		err = s.compare(ctx, conn, other)
	}
	if err != nil && !errors.Is(err, errShared) {
		return fmt.Errorf("find out by a second connection whether the pooler shares sessions: %w", err)
	}
	s.unshared.Store(err == nil)
	return err
}

// connectProbe makes a connection that only asks for its session's process id: what the
// application's AfterConnect sets is not needed.
func (s *sessions) connectProbe(ctx context.Context) (*pgx.Conn, error) {
	config := s.settings.own(nil)
	config.AfterConnect = func(context.Context, *pgx.Conn) error { return nil }
	return connectOwn(ctx, config)
}

func (s *sessions) compare(ctx context.Context, conn, other *pgx.Conn) error {
	var pids [2]string
	for range probeRounds {
		for i, c := range []*pgx.Conn{conn, conn, other, other} {
			pid, err := sessionPID(ctx, c)
			if err != nil {
				return err
			}
			own := &pids[i/2]
			if *own == "" {
				*own = pid
			}
			if pid != *own || pids[0] == pids[1] {
				return errShared
			}
		}
	}
	return nil
}

func sessionPID(ctx context.Context, conn *pgx.Conn) (string, error) {
	row, err := lastRow(ctx, conn, "select pg_catalog.pg_backend_pid()")
	if err != nil {
		return "", fmt.Errorf("ask for the session's process id: %w", err)
	}
	return row[0], nil
}
