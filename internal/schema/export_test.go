package schema

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// PlanOf returns what [Migrate] would run in the state that a transaction sees.
func PlanOf(ctx context.Context, tx pgx.Tx, schema string, mode Mode) ([]string, error) {
	state, err := inspectIncomplete(ctx, tx, schema)
	if err != nil {
		return nil, err
	}
	m := newMigrator(nil, Options{Schema: schema, Mode: mode})
	p, err := m.plan(state)
	return p.paths(), err
}

// MigrateLock is the advisory lock of a schema's migrations.
func MigrateLock(schema string) int64 {
	return newMigrator(nil, Options{Schema: schema}).lockKey("migrate")
}
