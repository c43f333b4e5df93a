package schema_test

import (
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/schema"
	"github.com/backfillhq/go/migrations"
)

func TestMigrateTenAtOnce(t *testing.T) {
	t.Parallel()
	url := dbtest.EmptyURL(t)
	heard := dbtest.Listen(t, url)
	errs := make(chan error)
	for i := range 10 {
		if i < 3 {
			go func() { errs <- migrateInProcess(t, url) }()
			continue
		}
		conn := dbtest.Connect(t, url)
		go func() { errs <- schema.Migrate(t.Context(), conn, quiet()) }()
	}
	for range 10 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	conn := dbtest.Connect(t, url)
	samePeerCatalog(t, conn, migrations.DefaultSchema)
	if got := heard.Take(t); len(got) != 0 {
		t.Errorf("notified %q, want nothing", got)
	}
	if n := dbtest.Get[int](t, conn, "select count(*) from pg_locks where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())"); n != 0 {
		t.Errorf("%d advisory locks are left", n)
	}
}

const processEnv = "BACKFILL_TEST_MIGRATE_URL"

// migrateInProcess migrates in another process.
func migrateInProcess(t *testing.T, url string) error {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestMigrateProcess$")
	cmd.Env = append(os.Environ(), processEnv+"="+url)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// TestMigrateProcess is the other process.
func TestMigrateProcess(t *testing.T) {
	t.Parallel()
	url := os.Getenv(processEnv)
	if url == "" {
		t.Skip("runs only on behalf of TestMigrateTenAtOnce")
	}
	migrate(t, dbtest.Connect(t, url), schema.Options{})
}

// TestMigrateSchemasAreIndependent holds up one schema and installs another.
func TestMigrateSchemasAreIndependent(t *testing.T) {
	t.Parallel()
	url := dbtest.EmptyURL(t)
	node, one, other, observer := dbtest.Connect(t, url), dbtest.Connect(t, url), dbtest.Connect(t, url), dbtest.Connect(t, url)
	dbtest.Run(t, node, bootstrap+"; begin; insert into graphile_worker.migrations values (1, now(), true)")
	done := make(chan error, 1)
	go func() { done <- schema.Migrate(t.Context(), one, quiet()) }()
	dbtest.WaitBlocked(t, observer, one.PgConn().PID())
	migrate(t, other, schema.Options{Schema: "other"})
	dbtest.Run(t, node, "rollback")
	if err := <-done; err != nil {
		t.Error(err)
	}
}
