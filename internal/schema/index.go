package schema

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/internal/sqlstate"
	"github.com/backfillhq/go/migrations"
)

// buildIndex builds our index while others use the table. Workers run without it, but more slowly,
// so a refusal of the server is logged and does not keep anybody from starting.
func (m *migrator) buildIndex(ctx context.Context) error {
	var done bool
	err := m.checkBuilder(ctx)
	if err == nil {
		done, err = m.buildIndexAlone(ctx)
	}
	final, _ := errors.AsType[*finalError](err)
	switch {
	case (final != nil || sqlstate.Of(err) != "") && ctx.Err() == nil:
		m.warnOfIndex(ctx, "the build failed", err)
		return nil
	case err != nil:
		return wrapSchema(m.Schema, "build index "+migrations.QueueIndex, err)
	case !done:
		m.warnOfIndex(ctx, "another process is building it", nil)
	default:
		m.Report.Index = true
	}
	return nil
}

// warnOfIndex says why there is no valid index, and what to do. The error may be nil.
func (m *migrator) warnOfIndex(ctx context.Context, reason string, err error) {
	args := []any{
		slog.String("schema", m.Schema), slog.String("index", migrations.QueueIndex), slog.String("reason", reason),
		slog.String("remedy", "as the owner of the tables, run: "+command(m.Schema)),
	}
	if err != nil {
		args = append(args, slog.Any("error", err))
	}
	m.Logger.WarnContext(ctx, "queued jobs are claimed more slowly, because their index is missing or invalid", args...)
}

const dropIndex = "drop index concurrently if exists graphile_worker." + migrations.QueueIndex

// buildIndexAlone reports false if another process builds the index. To wait for that one would be
// a deadlock: a build waits for all older snapshots, and a statement that waits for a lock has one.
func (m *migrator) buildIndexAlone(ctx context.Context) (done bool, err error) {
	key := m.lockKey("index")
	var locked bool
	if err := m.conn.QueryRow(ctx, "select pg_catalog.pg_try_advisory_lock($1)", pgx.QueryExecModeExec, key).Scan(&locked); err != nil {
		return false, fmt.Errorf("lock: %w", err)
	}
	if !locked {
		return false, nil
	}
	defer func() {
		err = errors.Join(err, m.cleanUp(ctx, "select pg_catalog.pg_advisory_unlock($1)", key))
	}()
	restore, err := m.liftLimits(ctx)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, restore()) }()

	state, err := m.inspect(ctx)
	if err != nil || state.index == indexValid {
		return state != nil, err
	}
	if state.index == indexInvalid {
		if busy, err := m.beingBuilt(ctx); busy || err != nil {
			return false, err
		}
	}
	m.Logger.InfoContext(ctx, "index for queues is being built, which ends when transactions that are open now have ended",
		slog.String("schema", m.Schema), slog.String("index", migrations.QueueIndex))
	if err := m.rebuild(ctx, state.index == indexInvalid); err != nil {
		return false, errors.Join(err, m.dropLeftover(ctx))
	}
	m.Report.Files = append(m.Report.Files, indexFile().Path)
	m.Logger.InfoContext(ctx, "index for queues is built", slog.String("schema", m.Schema), slog.String("index", migrations.QueueIndex))
	return true, nil
}

// rebuild runs the statements that build the index. An interrupted build leaves one behind that
// every write keeps up to date, and no query uses.
func (m *migrator) rebuild(ctx context.Context, leftover bool) error {
	if leftover {
		if err := m.interruptible(ctx, migrations.Render(dropIndex, m.Schema)); err != nil {
			return fmt.Errorf("drop the invalid one: %w", err)
		}
	}
	for _, statement := range indexStatements(true) {
		if err := m.interruptible(ctx, migrations.Render(statement, m.Schema)); err != nil {
			return err
		}
	}
	return nil
}

// beingBuilt reports whether a session has the lock of a build, or of a vacuum, on the jobs. An
// administrator who builds the index by a printed script does not have our lock.
func (m *migrator) beingBuilt(ctx context.Context) (busy bool, err error) {
	const sql = `
		select exists (
			select from pg_catalog.pg_locks as l
			join pg_catalog.pg_class as c on c.oid = l.relation
			join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
			join pg_catalog.pg_database as d on d.oid = l.database and d.datname = current_database()
			where n.nspname = $1 and c.relname = $2
				and l.mode = 'ShareUpdateExclusiveLock' and l.granted and l.pid <> pg_backend_pid()
		)`
	err = reading(ctx, m.conn, func() error {
		return m.conn.QueryRow(ctx, sql, pgx.QueryExecModeExec, m.Schema, jobsTable).Scan(&busy)
	})
	if err != nil {
		return false, fmt.Errorf("look for another build: %w", err)
	}
	return busy, nil
}

// interruptible runs a statement. When ctx ends it asks the server to cancel it, which leaves the
// connection usable. pgx would close the connection, and the server might go on.
func (m *migrator) interruptible(ctx context.Context, sql string) error {
	running, abandon := context.WithCancel(context.WithoutCancel(ctx))
	defer abandon()
	done := make(chan error, 1)
	go func() {
		_, err := m.conn.Exec(running, sql)
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	limit, cancel := context.WithTimeout(running, cleanupTimeout)
	defer cancel()
	if err := m.conn.PgConn().CancelRequest(limit); err != nil {
		abandon() // The server cannot be reached.
	}
	stop := context.AfterFunc(limit, abandon)
	defer stop()
	if err := <-done; err == nil {
		return nil // It was faster.
	}
	return context.Cause(ctx)
}

// dropLeftover drops the index that a failed build has left. It does not wait for those who use the
// table: the next build can drop it too.
func (m *migrator) dropLeftover(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	err := patience(leftoverPatience).retry(ctx, func() error {
		return limited(ctx, m.conn, migrations.Render("drop index if exists graphile_worker."+migrations.QueueIndex, m.Schema))
	})
	if err != nil {
		m.warnOfIndex(ctx, "an interrupted build left it invalid; until it is built anew, inserts may have to maintain it", err)
	}
	return nil
}

const leftoverPatience = time.Second

// liftLimits removes time limits that are meant for an application's statements. There is no
// "set local" outside a transaction, so it returns a function that restores them.
func (m *migrator) liftLimits(ctx context.Context) (restore func() error, err error) {
	var statement, lock string
	const read = "select pg_catalog.current_setting('statement_timeout'), pg_catalog.current_setting('lock_timeout')"
	if err := m.conn.QueryRow(ctx, read, pgx.QueryExecModeExec).Scan(&statement, &lock); err != nil {
		return nil, fmt.Errorf("read limits: %w", err)
	}
	if statement == "0" && lock == "0" {
		return func() error { return nil }, nil
	}
	const write = "select pg_catalog.set_config('statement_timeout', $1, false), pg_catalog.set_config('lock_timeout', $2, false)"
	if _, err := m.conn.Exec(ctx, write, pgx.QueryExecModeExec, "0", "0"); err != nil {
		return nil, fmt.Errorf("lift limits: %w", err)
	}
	return func() error { return m.cleanUp(ctx, write, statement, lock) }, nil
}

// cleanUp runs a statement even if ctx has ended, unless the connection is closed: then the server
// cleans up.
func (m *migrator) cleanUp(ctx context.Context, sql string, args ...any) error {
	if m.conn.IsClosed() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	_, err := m.conn.Exec(ctx, sql, append([]any{pgx.QueryExecModeExec}, args...)...)
	return err
}
