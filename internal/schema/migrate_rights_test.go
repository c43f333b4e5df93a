package schema_test

import (
	"errors"
	"regexp"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/schema"
	"github.com/backfillhq/go/migrations"
)

// grant runs, as an administrator, exactly what the error says.
func grant(t *testing.T, admin *pgx.Conn, err error, want string) {
	t.Helper()
	schemaErr, ok := errors.AsType[*schema.StateError](err)
	if !ok {
		t.Fatalf("error is %T, want a *StateError: %v", err, err)
	}
	statements := regexp.MustCompile(`GRANT [^;]*;`).FindAllString(schemaErr.Remedy, -1)
	if len(statements) != 1 || statements[0] != want {
		t.Fatalf("remedy = %q, want one statement: %s", schemaErr.Remedy, want)
	}
	dbtest.Run(t, admin, statements[0])
}

func TestMigrateWithoutRightOnDatabase(t *testing.T) {
	t.Parallel()
	url := dbtest.EmptyURL(t)
	admin, conn := dbtest.Connect(t, url), dbtest.Connect(t, url)
	role := dbtest.NewRole(t, admin)
	dbtest.Run(t, conn, "set role "+role)
	err := schema.Migrate(t.Context(), conn, quiet())
	grant(t, admin, err, "GRANT CREATE ON DATABASE "+conn.Config().Database+" TO "+role+";")
	migrate(t, conn, schema.Options{})
	samePeerCatalog(t, conn, migrations.DefaultSchema)
}

func TestMigrateWithoutRightOnSchema(t *testing.T) {
	t.Parallel()
	url := dbtest.EmptyURL(t)
	admin, conn := dbtest.Connect(t, url), dbtest.Connect(t, url)
	role := dbtest.NewRole(t, admin)
	const name = `my "jobs"`
	quoted := migrations.QuoteIdentifier(name)
	dbtest.Run(t, admin, "create schema "+quoted)
	dbtest.Run(t, conn, "set role "+role)
	opts := quiet()
	opts.Schema = name
	grant(t, admin, schema.Migrate(t.Context(), conn, opts), "GRANT USAGE, CREATE ON SCHEMA "+quoted+" TO "+role+";")
	migrate(t, conn, opts)
	// What was granted is not among the peer's facts.
	dbtest.Run(t, admin, "revoke all on schema "+quoted+" from "+role)
	grant(t, admin, schema.Migrate(t.Context(), conn, opts), "GRANT USAGE ON SCHEMA "+quoted+" TO "+role+";")
	migrate(t, conn, opts)
}

// TestMigratePrepared is the documented way to do without rights on the database: an
// administrator makes the schema, and perhaps the ledger.
func TestMigratePrepared(t *testing.T) {
	t.Parallel()
	for name, sql := range map[string]string{
		"schema of the role":            `create schema graphile_worker authorization $role`,
		"schema and table":              bootstrap + `; alter schema graphile_worker owner to $role; alter table graphile_worker.migrations owner to $role`,
		"schema granted":                `create schema graphile_worker; grant usage, create on schema graphile_worker to $role`,
		"schema granted, table as well": bootstrap + `; grant usage, create on schema graphile_worker to $role; grant select, insert on graphile_worker.migrations to $role`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := dbtest.EmptyURL(t)
			admin, conn := dbtest.Connect(t, url), dbtest.Connect(t, url)
			role := dbtest.NewRole(t, admin)
			dbtest.Run(t, admin, regexp.MustCompile(`\$role`).ReplaceAllLiteralString(sql, role))
			dbtest.Run(t, conn, "set role "+role)
			migrate(t, conn, schema.Options{})
			migrate(t, conn, schema.Options{Mode: schema.MigrateVerify})
			dbtest.Run(t, conn, "select graphile_worker.add_job('a')")
		})
	}
}

func TestMigrateLedgerOfAnother(t *testing.T) {
	t.Parallel()
	url := dbtest.EmptyURL(t)
	admin, conn := dbtest.Connect(t, url), dbtest.Connect(t, url)
	role := dbtest.NewRole(t, admin)
	dbtest.Run(t, admin, bootstrap+"; grant usage, create on schema graphile_worker to "+role)
	dbtest.Run(t, conn, "set role "+role)
	grant(t, admin, schema.Migrate(t.Context(), conn, quiet()), `GRANT SELECT, INSERT ON graphile_worker.migrations TO `+role+";")
	migrate(t, conn, schema.Options{})
}

// TestMigrateTablesOfAnother is a Node installation of another role: only an owner can alter.
func TestMigrateTablesOfAnother(t *testing.T) {
	t.Parallel()
	url := dbtest.EmptyURL(t)
	admin, conn := dbtest.Connect(t, url), dbtest.Connect(t, url)
	role := dbtest.NewRole(t, admin)
	installWire(t, admin, 20)
	dbtest.Run(t, admin, "grant usage, create on schema graphile_worker to "+role)
	dbtest.Run(t, admin, "grant select, insert on graphile_worker.migrations to "+role)
	dbtest.Run(t, conn, "set role "+role)
	owner := dbtest.Get[string](t, admin, "select current_user::text")
	isSchemaError(t, schema.Migrate(t.Context(), conn, quiet()), "migrate once as role \""+owner+"\"", "must be owner")
}
