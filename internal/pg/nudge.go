package pg

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/backfillhq/go/internal/sqlstate"
)

// nudge sends a notification by a transaction whose commit nobody waits for: nothing is lost when
// a notification is (R17). Behind a pooler the session is somebody else's in the next moment, so
// everything is in one statement, and nothing of it outlives it. Names are qualified because the
// search_path is the application's. Commits that notify wait for each other, for which the
// application's lock_timeout is not meant.
const nudge = "select pg_catalog.set_config('synchronous_commit', 'off', true), pg_catalog.set_config('lock_timeout', '0', true), " +
	"pg_catalog.pg_notify($1, $2)"

// nudgeTimeout limits a notification, and nudgeConnectTimeout the connection that it may need.
const nudgeTimeout, nudgeConnectTimeout = 3 * time.Second, 10 * time.Second

// Nudges sends the notifications that wake workers, on a connection of its own (R17). It connects
// when it is first needed, and changes nothing in its session.
type Nudges struct {
	settings Settings

	mu   sync.Mutex
	conn *pgx.Conn
	mode pgx.QueryExecMode
	ends time.Time // of the connection's life
}

// NewNudges returns a sender that connects with the settings of a client.
func NewNudges(settings Settings) *Nudges {
	return &Nudges{settings: settings}
}

// Send tells every worker of the database that jobs were inserted. A connection that was lost since
// the last time, or is of no use any more, is replaced.
func (n *Nudges) Send(ctx context.Context, jobs int) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	used := n.conn != nil
	err := n.send(ctx, jobs)
	if err != nil && used && n.conn != nil && n.conn.IsClosed() {
		err = n.send(ctx, jobs)
	}
	return err
}

func (n *Nudges) send(ctx context.Context, jobs int) error {
	if n.conn != nil && time.Now().After(n.ends) {
		closeConn(ctx, n.conn)
	}
	if n.conn == nil || n.conn.IsClosed() {
		connecting, cancel := context.WithTimeout(ctx, nudgeConnectTimeout)
		err := n.connect(connecting)
		cancel()
		if err != nil {
			return fmt.Errorf("connect to notify workers: %w", err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, nudgeTimeout)
	defer cancel()
	if _, err := n.conn.Exec(ctx, nudge, n.mode, channelJobs, notification(jobs)); err != nil {
		return fmt.Errorf("notify workers: %w", explainFullQueue(err))
	}
	return nil
}

// explainFullQueue adds who keeps the server's queue of notifications full: a session that listens,
// and whose transaction does not end.
func explainFullQueue(err error) error {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || pgErr.Code != sqlstate.ProgramLimitExceeded || pgErr.Detail == "" {
		return err
	}
	return fmt.Errorf("%w: %s End that session's transaction", err, pgErr.Detail)
}

func (n *Nudges) connect(ctx context.Context) error {
	var pid string
	conn, err := connectOwn(ctx, n.settings.own(func(ctx context.Context, conn *pgx.Conn) (err error) {
		pid, err = sessionPID(ctx, conn)
		return err
	}))
	if err != nil {
		return err
	}
	n.conn, n.ends = conn, time.Now().Add(n.settings.lifetime())
	n.mode = nudgeMode(conn, pid == strconv.FormatUint(uint64(conn.PgConn().PID()), 10))
	return nil
}

// nudgeMode is how a connection sends nudges. The server plans a prepared statement once, which
// matters with a thousand nudges a second. Unnamed statements work behind every pooler. A pool that
// must not use the extended protocol says so.
func nudgeMode(conn *pgx.Conn, direct bool) pgx.QueryExecMode {
	mode := conn.Config().DefaultQueryExecMode
	if mode == pgx.QueryExecModeSimpleProtocol || direct && mode == pgx.QueryExecModeCacheStatement {
		return mode
	}
	return pgx.QueryExecModeExec
}

// notification is the payload that tells of jobs, in the words of the contract (section 3).
func notification(jobs int) string {
	return `{"r":` + strconv.FormatFloat(rand.Float64(), 'f', -1, 64) + `,"count":` + strconv.Itoa(jobs) + `}`
}

// Close closes the connection.
func (n *Nudges) Close(ctx context.Context) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.conn != nil {
		closeConn(ctx, n.conn)
		n.conn = nil
	}
}
