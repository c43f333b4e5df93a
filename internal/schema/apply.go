package schema

import (
	"context"
	"fmt"
	"hash/fnv"
	"log/slog"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/migrations"
)

// apply does in one transaction what is still to be done once no other process of ours is at it.
func (m *migrator) apply(ctx context.Context) error {
	tx, err := m.conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadWrite})
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
		defer cancel()
		_ = tx.Rollback(ctx) // Without effect after a commit; a lost connection rolls back by itself.
	}()
	p, err := m.lock(ctx, tx)
	if err != nil || p.empty() {
		return err
	}
	for _, file := range p.files {
		if err := m.applyFile(ctx, tx, file, p.fresh); err != nil {
			return fmt.Errorf("%s: %w", file.Path, err)
		}
	}
	ran := p.paths()
	if p.index == indexMissing {
		built, err := m.indexEmptyTable(ctx, tx)
		if err != nil {
			return fmt.Errorf("create index %s: %w", migrations.QueueIndex, err)
		}
		ran = append(ran, built...)
	}
	if err := tx.Commit(ctx); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	m.report.Files = append(m.report.Files, ran...)
	m.logger.InfoContext(ctx, "schema migrated",
		slog.String("schema", m.schema), slog.String("files", strings.Join(ran, " ")))
	return nil
}

// lock keeps our other processes out until the end of the transaction, and plans once more: they
// may have done everything in the meantime.
func (m *migrator) lock(ctx context.Context, tx pgx.Tx) (plan, error) {
	// Whoever holds what we need for as long as this is not going to let go of it. A limit for
	// statements that is meant for an application does not fit.
	limits := fmt.Sprintf("set local lock_timeout = %d; set local statement_timeout = 0", m.standstill.Milliseconds())
	if _, err := tx.Exec(ctx, limits); err != nil {
		return plan{}, fmt.Errorf("set limits: %w", err)
	}
	if _, err := tx.Exec(ctx, "select pg_advisory_xact_lock($1)", pgx.QueryExecModeExec, m.lockKey("migrate")); err != nil {
		return plan{}, fmt.Errorf("lock: %w", err)
	}
	state, err := inspectIncomplete(ctx, tx, m.schema)
	if err != nil {
		return plan{}, fmt.Errorf("inspect: %w", err)
	}
	return m.plan(state)
}

// lockKey returns the key of an advisory lock of ours, which is different for each schema.
func (m *migrator) lockKey(purpose string) int64 {
	h := fnv.New64a()
	_, _ = fmt.Fprintf(h, "backfill %s %s", purpose, m.schema) // A hash never fails.
	return int64(h.Sum64())
}

// applyFile runs a file and, as Graphile Worker does, tells the workers of the schema about a new
// revision. Nobody can work on a new schema; but channels belong to the whole database, and a
// breaking revision stops whoever hears of it: so a new schema is not announced.
func (m *migrator) applyFile(ctx context.Context, tx pgx.Tx, file migrations.Migration, fresh bool) error {
	if _, err := tx.Exec(ctx, migrations.Render(file.SQL, m.schema)); err != nil {
		return err
	}
	if fresh || !file.Wire() {
		return nil
	}
	_, err := tx.Exec(ctx, "select pg_notify('worker:migrate', $1)", pgx.QueryExecModeExec, migrateNotification(file.ID))
	return err
}

// migrateNotification is the payload that tells of a revision, in the words of the contract (section 3).
func migrateNotification(revision int) string {
	return fmt.Sprintf(`{"migrationNumber":%d,"breaking":%t}`, revision, migrations.Breaking(revision))
}

// indexEmptyTable builds our index at once if there are no jobs, which disturbs nobody. It returns the files that it has run.
func (m *migrator) indexEmptyTable(ctx context.Context, tx pgx.Tx) ([]string, error) {
	var empty bool
	const sql = "select not exists (select from graphile_worker._private_jobs)"
	if err := tx.QueryRow(ctx, migrations.Render(sql, m.schema), pgx.QueryExecModeExec).Scan(&empty); err != nil || !empty {
		return nil, err
	}
	for _, statement := range indexStatements(false) {
		if _, err := tx.Exec(ctx, migrations.Render(statement, m.schema)); err != nil {
			return nil, err
		}
	}
	return []string{indexFile().Path}, nil
}

// indexFile is the file that builds our index.
func indexFile() migrations.Migration {
	own := migrations.Own()
	return own[slices.IndexFunc(own, func(m migrations.Migration) bool { return !m.Transactional() })]
}

// indexStatements returns that file's statements, which build the index concurrently or at once.
func indexStatements(concurrently bool) []string {
	statements := indexFile().Statements()
	if !concurrently {
		for i, statement := range statements {
			statements[i] = strings.Replace(statement, " concurrently ", " ", 1)
		}
	}
	return statements
}
