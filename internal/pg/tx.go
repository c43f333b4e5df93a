package pg

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/internal/pg/query"
	"github.com/backfillhq/go/internal/sqlstate"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

const (
	// txTries is how often a transaction is begun whose connection turns out to be dead.
	txTries = 3
	// txIdle is how long the session of a transaction may outlive the job's limit: then the server
	// ends it, if nobody here does.
	txIdle = 5 * time.Second
	// txPatience is how long a handler may use its transaction after its context has ended. Then the
	// connection is closed, so that the server rolls back.
	txPatience = 5 * time.Second
)

// JobTransactions are the transactions of a worker's transactional jobs (R22). Their sessions are
// the application's: they are made as those of its pool are, and have none of the settings of ours.
type JobTransactions struct {
	store       *Store
	connections int32
	inside      *Inside // they are savepoints of a test's transaction; nil: they are not

	mu     sync.Mutex
	pool   *pgxpool.Pool // nil: no job has needed one yet
	closed bool
}

// Transactions returns what runs the transactions of transactional jobs, over so many connections.
// Close closes them.
func (s *Store) Transactions(connections int) *JobTransactions {
	s.txs = &JobTransactions{store: s, connections: int32(connections)} //nolint:gosec // an option with a bound
	return s.txs
}

// TxJob is what a job's transaction is begun for.
type TxJob struct {
	wire.Lease

	Isolation string        // an isolation level of PostgreSQL's
	Limit     time.Duration // how long the job may take
	DB        *sql.DB       // where its transaction comes from; nil: connections of ours
}

// Begin begins the transaction of a job, whose context is ctx. End it with Commit or Abort.
func (t *JobTransactions) Begin(ctx context.Context, job TxJob) (*JobTx, error) {
	if t.inside != nil {
		return t.inside.begin(ctx, t, job)
	}
	if job.DB != nil {
		return t.beginSQL(ctx, job)
	}
	pool, err := t.open()
	if err != nil {
		return nil, err
	}
	for try := 1; ; try++ {
		conn, err := pool.Acquire(ctx)
		if err != nil {
			return nil, fmt.Errorf("connect for the job's transaction: %w", explainReconnect(pool.Config().ConnConfig, err))
		}
		tx, err := conn.Conn().BeginTx(ctx, pgx.TxOptions{BeginQuery: t.begin(job)})
		if err == nil {
			return newPgxTx(ctx, t, job, conn, tx), nil
		}
		dead := conn.Conn().IsClosed()
		conn.Release()
		if !dead || try == txTries || ctx.Err() != nil {
			return nil, fmt.Errorf("begin the job's transaction: %w", err)
		}
	}
}

// begin returns the statements that begin a transaction: one message, so that the session is never
// idle in it without the limit. Whatever takes parameters would need a second one.
func (t *JobTransactions) begin(job TxJob) string {
	return "begin isolation level " + job.Isolation + ";\n" +
		t.store.claims.texts.inline(query.NoteTx, literal(job.idle()), literal(job.Token))
}

// idle is the setting that ends the session of a transaction that nobody ends, in milliseconds.
func (j TxJob) idle() string {
	return strconv.FormatInt((j.Limit + txIdle).Milliseconds(), 10)
}

// recordInTx are the parameters of RecordInTx, in their order.
func recordInTx(lease wire.Lease, record *worker.Record) []any {
	return []any{
		lease.ID, record.Task, record.Queue, record.Key, lease.Token, record.Took.Seconds(), string(record.Output), record.Log,
	}
}

// quote quotes any text, whatever the session makes of backslashes in other literals.
func quote(text string) string {
	return "E" + literal(strings.ReplaceAll(text, `\`, `\\`))
}

// literal quotes a number or a token, which have no backslashes.
func literal(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }

// open returns the pool.
func (t *JobTransactions) open() (*pgxpool.Pool, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, errors.New("begin the job's transaction: the worker has stopped")
	}
	if t.pool != nil {
		return t.pool, nil
	}
	config := t.store.settings.config.Copy()
	config.MinConns, config.MinIdleConns, config.MaxConns = 0, 0, t.connections
	limitConnecting(config.ConnConfig)
	before := config.BeforeConnect
	config.BeforeConnect = func(ctx context.Context, c *pgx.ConnConfig) error {
		if t.store.sessions.shared.Load() && !unnamed(c) { // as the worker's own connections
			c.DefaultQueryExecMode = pgx.QueryExecModeExec
		}
		if before == nil {
			return nil
		}
		return before(ctx, c)
	}
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		return nil, fmt.Errorf("open connections for transactional jobs: %w", err)
	}
	t.pool = pool
	return pool, nil
}

// close closes the connections; t may be nil.
func (t *JobTransactions) close() {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	if t.pool != nil {
		ClosePool(t.pool)
	}
}

// Standing says why a job is not to be run once more: worker.ErrLeaseLost or worker.ErrCanceled. An
// error that is neither says that nobody knows. Call it when the job's transaction is over: as long
// as that has a session, there may be no other one behind a pooler.
func (t *JobTransactions) Standing(ctx context.Context, lease wire.Lease) error {
	if t.inside != nil {
		return nil // nobody else sees it
	}
	ctx, cancel := context.WithTimeout(ctx, settledTimeout)
	defer cancel()
	row, err := t.store.queries.Standing(ctx, query.StandingParams{ID: lease.ID, Token: lease.Token})
	switch {
	case err != nil:
		return fmt.Errorf("ask for the job's lease: %w", err)
	case !row.Held:
		return worker.ErrLeaseLost
	case row.Requested:
		return worker.ErrCanceled
	}
	return nil
}

// IsConflict reports whether the server has ended a transaction because of others that ran beside
// it, so that it may succeed when it is run again.
func IsConflict(err error) bool {
	state := sqlstate.Of(err)
	return state == sqlstate.SerializationFailure || state == sqlstate.DeadlockDetected || errors.Is(err, errRowLocked)
}

// IsConnectionLost reports whether a transaction was rolled back because its connection has ended,
// or the server was ending sessions: nothing is wrong with what it held.
func IsConnectionLost(err error) bool {
	return errors.Is(err, errConnectionLost) && !errors.Is(err, ErrCommitUnknown)
}

// IsEcho reports whether an error only says that an earlier one has aborted the transaction.
func IsEcho(err error) bool { return sqlstate.Of(err) == sqlstate.InFailedTransaction }
