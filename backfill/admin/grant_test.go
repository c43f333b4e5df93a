package admin_test

import (
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/internal/schema"
)

// grant gives a role the rights of workers.
func grant(t *testing.T, conn *pgx.Conn, role string) {
	t.Helper()
	if _, err := schema.GrantRole(t.Context(), conn, role, schema.WorkerRole, schema.Options{}); err != nil {
		t.Fatal(err)
	}
}
