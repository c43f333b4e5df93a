package pg

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/internal/pg/query"
	"github.com/backfillhq/go/internal/sqlstate"
	"github.com/backfillhq/go/internal/worker"
)

// sqlTransaction is a job's transaction on database/sql. A *sql.Tx cannot be wrapped, so what the
// handler does with it is found out from the server: by the guard, and by the job's row.
type sqlTransaction struct {
	*refusal

	owner *JobTransactions
	job   TxJob
	tx    *sql.Tx
	pid   int32 // of the session
	began int64 // of the transaction, in microseconds

	ctx    context.Context //nolint:containedctx // of the job
	own    context.Context //nolint:containedctx // database/sql rolls back when it ends
	cancel context.CancelCauseFunc
	watch  func() bool // stops ending own with ctx
}

// errNotCommitted is for a driver that has no error for a COMMIT that was none.
var errNotCommitted = errors.New("the driver says that it has committed, and the database has rolled back")

// beginSQL is Begin for transactions of the application's *sql.DB.
func (t *JobTransactions) beginSQL(ctx context.Context, job TxJob) (*JobTx, error) {
	for try := 1; ; try++ {
		s := &sqlTransaction{refusal: &refusal{}, owner: t, job: job, ctx: ctx}
		err := s.begin()
		if err == nil {
			j := newJobTx(ctx, t, job, s.refusal, s)
			j.SQL = s.tx
			return j, nil
		}
		s.abort()
		// Not every driver notices that a connection of its pool is dead before it uses it.
		state := sqlstate.Of(err)
		dead := state == "" || sqlstate.EndsSession(state)
		if !dead || try == txTries || ctx.Err() != nil {
			return nil, fmt.Errorf("begin the job's transaction: %w", err)
		}
	}
}

var sqlLevels = map[string]sql.IsolationLevel{
	"read committed":  sql.LevelReadCommitted,
	"repeatable read": sql.LevelRepeatableRead,
	"serializable":    sql.LevelSerializable,
}

func (s *sqlTransaction) begin() error {
	s.own, s.cancel = context.WithCancelCause(context.WithoutCancel(s.ctx))
	s.watch = context.AfterFunc(s.ctx, func() { s.cancel(context.Cause(s.ctx)) })
	begun, ok := apart(s.ctx, closeTimeout, func() (*sql.Tx, error) { // one that comes late is rolled back with own
		return s.job.DB.BeginTx(s.own, &sql.TxOptions{Isolation: sqlLevels[s.job.Isolation]})
	})
	if err := begun.failed(s.ctx, ok); err != nil {
		return err
	}
	s.tx = begun.value
	var ignored string
	var pid int32
	var began int64
	err := s.run(s.ctx, statement{text: s.text(query.NoteTx), args: []any{s.job.idle(), s.job.Token}, read: func(rows rows) error {
		return readRow(rows, &ignored, &ignored, &ignored, &pid, &began)
	}})
	if err == nil {
		s.pid, s.began = pid, began
	}
	return err
}

func (s *sqlTransaction) text(sql string) string { return s.owner.store.claims.texts.render(sql) }

// run sends statements. It returns soon after the end of ctx, also where the driver does not. What
// they read may only be used if there is no error: they may still be under way.
func (s *sqlTransaction) run(ctx context.Context, statements ...statement) error {
	return s.call(ctx, func() error { return sqlSession{s.tx}.runAll(ctx, statements) })
}

// call calls the driver, which may wait for the server, or for a goroutine of the handler's that
// uses the transaction.
func (s *sqlTransaction) call(ctx context.Context, do func() error) error {
	end, ok := apart(ctx, closeTimeout, func() (struct{}, error) { return struct{}{}, do() })
	return end.failed(ctx, ok)
}

// readRow reads the one row of a statement.
func readRow(rows rows, dest ...any) error {
	if !rows.Next() {
		return errors.Join(rows.Err(), sql.ErrNoRows)
	}
	return rows.Scan(dest...)
}

func (s *sqlTransaction) take() bool { return true }

func (s *sqlTransaction) ready() error { return nil }

// caught asks the server, because nobody here has seen what the handler did.
func (s *sqlTransaction) caught() error {
	ctx, cancel := context.WithTimeout(s.ctx, settledTimeout)
	defer cancel()
	var job string
	err := s.run(ctx, statement{text: s.text(query.NotedTx), read: func(rows rows) error { return readRow(rows, &job) }})
	switch {
	case ctx.Err() != nil:
		return nil
	case errors.Is(err, sql.ErrTxDone), err == nil && job != s.job.Token:
		return ErrTxEnded
	case IsEcho(err):
		return errAborted
	}
	return nil
}

// guard sends its statements one after the other, so each is prepared after those before it.
func (s *sqlTransaction) guard(ctx context.Context, record *worker.Record) (guarded, error) {
	var row, none guarded
	about := []any{s.job.ID, s.job.Token}
	statements := []statement{{text: s.text(query.PrepareGuard)}}
	if s.job.Keyed() {
		statements = append(statements, statement{text: s.text(query.ClearLettersInTx), args: about})
	}
	statements = append(statements, statement{text: s.text(query.CompleteInTx), args: about, read: func(rows rows) error {
		return readRow(rows, &row.Ended, &row.Locked, &row.Known, &row.Pid, &row.Began, &row.Xid)
	}}, statement{text: s.text(query.RequestedInTx), args: []any{s.job.ID}, read: func(rows rows) error {
		return readRow(rows, &row.requested)
	}})
	if record != nil {
		statements = append(statements, statement{text: s.text(query.RecordInTx), args: recordInTx(s.job.Lease, record)})
	}
	switch err := s.run(ctx, statements...); {
	case err == nil:
		return row, nil
	case errors.Is(err, sql.ErrTxDone) && s.ctx.Err() == nil: // it ends with ctx, too
		return none, ErrTxEnded
	case IsEcho(err):
		return none, fmt.Errorf("%w: %w", err, errAborted)
	default:
		return none, err
	}
}

// commit is never sure. Drivers differ in what they say about a COMMIT that was none, and the
// severity of an error is not known: the row is asked for.
func (s *sqlTransaction) commit(ctx context.Context) (sure bool, err error) {
	if !s.watch() {
		return true, context.Cause(s.ctx)
	}
	defer context.AfterFunc(ctx, func() { s.cancel(context.Cause(ctx)) })()
	err = s.call(ctx, s.tx.Commit)
	if ctx.Err() != nil {
		s.kill() // it may wait for a goroutine, and would be sent later
	}
	if err == nil {
		err = errNotCommitted // if the row is there
	}
	return false, err
}

// abort leaves a driver alone that does not roll back in time: what it has in its hands is ended.
func (s *sqlTransaction) abort() {
	if s.tx != nil {
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		_ = s.call(ctx, s.tx.Rollback) // of no effect behind a commit
		if ctx.Err() != nil {
			s.kill()
		}
	}
	s.watch()
	s.cancel(nil)
}

func (s *sqlTransaction) kill() {
	if s.pid != 0 {
		s.owner.endSession(s.pid, s.began, true)
	}
}

// whichDatabase says which database of which server a session is in. Servers start at different
// times, to the microsecond.
const whichDatabase = `select pg_catalog.current_database()::pg_catalog.text,
	(extract(epoch from pg_catalog.pg_postmaster_start_time()) OPERATOR(pg_catalog.*) 1000000)::pg_catalog.int8`

// CheckSameDatabase checks that db leads to the database of a client's pool.
func CheckSameDatabase(ctx context.Context, pool *pgxpool.Pool, db *sql.DB) error {
	type place struct {
		database string
		started  int64
	}
	ctx, cancel := context.WithTimeout(ctx, ConnectTimeout)
	defer cancel()
	var ours place
	if err := pool.QueryRow(ctx, whichDatabase).Scan(&ours.database, &ours.started); err != nil {
		return fmt.Errorf("ask which database the client is in: %w", err)
	}
	asked, ok := apart(ctx, closeTimeout, func() (theirs place, err error) {
		err = db.QueryRowContext(ctx, whichDatabase).Scan(&theirs.database, &theirs.started)
		return theirs, err
	})
	switch err := asked.failed(ctx, ok); {
	case err != nil:
		return fmt.Errorf("ask which database the *sql.DB leads to: %w", err)
	case asked.value.database != ours.database:
		return fmt.Errorf("the *sql.DB leads to database %q, and the client to %q: a job and what its handler writes must be in one",
			asked.value.database, ours.database)
	case asked.value != ours:
		return fmt.Errorf("the *sql.DB leads to another server than the client, which has a database %q too: "+
			"a job and what its handler writes must be in one", ours.database)
	}
	return nil
}
