package schema

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/internal/sqlstate"
	"github.com/backfillhq/go/migrations"
)

// buildIndex builds our index while others use the table. Workers run without it, only slower: so
// what the server has against it is logged, and does not keep anybody from starting.
func (m *migrator) buildIndex(ctx context.Context) error {
	done, err := m.buildIndexAlone(ctx)
	switch {
	case sqlstate.Of(err) != "" && ctx.Err() == nil:
		m.logger.WarnContext(ctx, "index for queues was not built, queued jobs are claimed more slowly: start once as the owner of the tables",
			slog.String("schema", m.schema), slog.String("index", migrations.QueueIndex), slog.Any("error", err))
		return nil
	case err != nil:
		return wrapSchema(m.schema, "build index "+migrations.QueueIndex, err)
	case done:
		m.report.Index, m.report.Files = true, append(m.report.Files, indexFile().Path)
		m.logger.InfoContext(ctx, "index for queues built", slog.String("schema", m.schema), slog.String("index", migrations.QueueIndex))
	}
	return nil
}

const dropIndex = "drop index concurrently if exists graphile_worker." + migrations.QueueIndex

// buildIndexAlone reports false if another process builds it: waiting for that one would be of no
// use, and in a statement that waits for a lock it would be waited for by the build: a deadlock.
func (m *migrator) buildIndexAlone(ctx context.Context) (done bool, err error) {
	key := m.lockKey("index")
	var locked bool
	if err := m.conn.QueryRow(ctx, "select pg_try_advisory_lock($1)", pgx.QueryExecModeExec, key).Scan(&locked); err != nil {
		return false, fmt.Errorf("lock: %w", err)
	}
	if !locked {
		return false, nil
	}
	defer func() {
		err = errors.Join(err, m.cleanUp(ctx, "select pg_advisory_unlock($1)", key))
	}()
	restore, err := m.liftLimits(ctx)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, restore()) }()

	state, err := inspect(ctx, m.conn, m.schema)
	if err != nil || state.index == indexValid {
		return false, err
	}
	if state.index == indexInvalid {
		// An interrupted build leaves it: kept up to date by every write, used by no query.
		if _, err := m.conn.Exec(ctx, migrations.Render(dropIndex, m.schema)); err != nil {
			return false, fmt.Errorf("drop the invalid one: %w", err)
		}
	}
	for _, statement := range indexStatements(true) {
		if _, err := m.conn.Exec(ctx, migrations.Render(statement, m.schema)); err != nil {
			return false, err
		}
	}
	return true, nil
}

// liftLimits takes off time limits that are meant for an application's statements. There is no
// "set local" outside a transaction, so it returns what puts them back.
func (m *migrator) liftLimits(ctx context.Context) (restore func() error, err error) {
	var statement, lock string
	const read = "select current_setting('statement_timeout'), current_setting('lock_timeout')"
	if err := m.conn.QueryRow(ctx, read, pgx.QueryExecModeExec).Scan(&statement, &lock); err != nil {
		return nil, fmt.Errorf("read limits: %w", err)
	}
	if statement == "0" && lock == "0" {
		return func() error { return nil }, nil
	}
	const write = "select set_config('statement_timeout', $1, false), set_config('lock_timeout', $2, false)"
	if _, err := m.conn.Exec(ctx, write, pgx.QueryExecModeExec, "0", "0"); err != nil {
		return nil, fmt.Errorf("lift limits: %w", err)
	}
	return func() error { return m.cleanUp(ctx, write, statement, lock) }, nil
}

// cleanUp runs a statement even if the context is over, unless the connection is gone: then the
// server cleans up.
func (m *migrator) cleanUp(ctx context.Context, sql string, args ...any) error {
	if m.conn.IsClosed() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	_, err := m.conn.Exec(ctx, sql, append([]any{pgx.QueryExecModeExec}, args...)...)
	return err
}
