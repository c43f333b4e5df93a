package schema

import (
	"context"
	"fmt"
	"hash/fnv"
	"log/slog"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/internal/sqlstate"
	"github.com/backfillhq/go/migrations"
)

// apply takes all missing steps in one transaction.
func (m *migrator) apply(ctx context.Context) error {
	var ran []string
	err := m.alone(ctx, func(ctx context.Context, tx pgx.Tx) (err error) {
		ran, err = m.applyMissing(ctx, tx)
		return err
	})
	if err != nil || len(ran) == 0 {
		return err
	}
	m.Report.Files = append(m.Report.Files, ran...)
	m.Logger.InfoContext(ctx, "schema migrated",
		slog.String("schema", m.Schema), slog.String("files", strings.Join(ran, " ")))
	return nil
}

// applyMissing plans once more, because another process may have done everything in the meantime,
// and returns the names of the steps that it took.
func (m *migrator) applyMissing(ctx context.Context, tx pgx.Tx) (ran []string, err error) {
	state, err := inspectIncomplete(ctx, tx, m.Schema)
	if err != nil {
		return nil, fmt.Errorf("inspect: %w", err)
	}
	p, err := m.plan(state)
	if err != nil || p.empty() {
		return nil, err
	}
	if len(p.foreign) > 0 {
		statements, err := replacements(ctx, tx, m.Schema, p.foreign)
		if err == nil {
			_, err = tx.Exec(ctx, strings.Join(statements, ";\n"))
		}
		if err != nil {
			return nil, fmt.Errorf("replace functions: %w", err)
		}
		ran = append(ran, "replacement of functions of "+strings.Join(p.foreign, ", "))
	}
	for _, file := range p.files {
		if err := m.applyFile(ctx, tx, file, p.fresh); err != nil {
			return nil, fmt.Errorf("%s: %w", file.Path, err)
		}
	}
	ran = append(ran, p.paths()...)
	if p.index == indexMissing {
		var built []string
		err := pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) (err error) {
			built, err = m.indexEmptyTable(ctx, tx)
			return err
		})
		// An open transaction that has enqueued has the table. The index can be built later.
		if err != nil && sqlstate.Of(err) != sqlstate.LockNotAvailable {
			return nil, fmt.Errorf("create index %s: %w", migrations.QueueIndex, err)
		}
		ran = append(ran, built...)
	}
	return ran, nil
}

// lockKey returns the key of an advisory lock of ours, which is different for each schema.
func (m *migrator) lockKey(purpose string) int64 {
	h := fnv.New64a()
	_, _ = fmt.Fprintf(h, "backfill %s %s", purpose, m.Schema) // A hash never fails.
	return int64(h.Sum64())
}

// applyFile runs a file and, as Graphile Worker does, tells the workers of the schema about a new
// revision. A new schema is not announced: it has no workers, but those of the database's other
// schemas hear the channel too, and would stop for a breaking revision.
func (m *migrator) applyFile(ctx context.Context, tx pgx.Tx, file migrations.Migration, fresh bool) error {
	if _, err := tx.Exec(ctx, migrations.Render(file.SQL, m.Schema)); err != nil {
		return err
	}
	if fresh || !file.Wire() {
		return nil
	}
	_, err := tx.Exec(ctx, "select pg_notify('worker:migrate', $1)", pgx.QueryExecModeExec, migrateNotification(file.ID))
	return err
}

// migrateNotification is the payload that announces a revision, as the contract has it (section 3).
func migrateNotification(revision int) string {
	return fmt.Sprintf(`{"migrationNumber":%d,"breaking":%t}`, revision, migrations.Breaking(revision))
}

// smallTable is the size up to which a table is scanned in an instant, in bytes.
const smallTable = 1 << 20

// indexEmptyTable builds our index inside the transaction if there are no jobs and the table is
// small: vacuum never shortens it, so a table without rows may still take minutes to scan, and
// nobody can enqueue during that scan. It returns the files that it ran.
func (m *migrator) indexEmptyTable(ctx context.Context, tx pgx.Tx) ([]string, error) {
	var empty bool
	sql := migrations.Render(`
		select case when pg_relation_size(c.oid) < $2 then not exists (select from graphile_worker._private_jobs) else false end
		from pg_catalog.pg_class as c
		join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
		where n.nspname = $1 and c.relname = '_private_jobs'`, m.Schema)
	err := tx.QueryRow(ctx, sql, pgx.QueryExecModeExec, m.Schema, smallTable).Scan(&empty)
	if err != nil || !empty {
		return nil, err
	}
	for _, statement := range indexStatements(false) {
		if _, err := tx.Exec(ctx, migrations.Render(statement, m.Schema)); err != nil {
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

// indexStatements returns that file's statements, with or without "concurrently".
func indexStatements(concurrently bool) []string {
	statements := indexFile().Statements()
	if !concurrently {
		for i, statement := range statements {
			statements[i] = strings.Replace(statement, " concurrently ", " ", 1)
		}
	}
	return statements
}
