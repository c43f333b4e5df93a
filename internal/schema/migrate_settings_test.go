package schema_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/schema"
	"github.com/backfillhq/go/migrations"
)

// Whatever the settings of an application's session are, a schema is installed, found complete,
// migrated and granted as in a plain session, and the settings are left as they are.
func TestMigrateUnderSettings(t *testing.T) {
	t.Parallel()
	for name, settings := range map[string][]string{
		"strangers first": {"search_path = evil, pg_catalog"},
		"empty path": {
			"search_path = ''", "default_transaction_isolation = serializable", "default_transaction_read_only = on",
			"datestyle = 'German'", "intervalstyle = 'sql_standard'", "array_nulls = off", "timezone = 'Africa/Monrovia'",
			"row_security = off", "check_function_bodies = off",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := dbtest.EmptyURL(t)
			admin := dbtest.Connect(t, url)
			dbtest.NeedSuperuser(t, admin)
			dbtest.Run(t, admin, dbtest.Strangers)
			role := unquoted(dbtest.NewRole(t, admin))
			database := dbtest.Get[string](t, admin, "select quote_ident(current_database())")
			for _, setting := range settings {
				dbtest.Run(t, admin, "alter database "+database+" set "+setting)
			}
			conn := dbtest.Connect(t, url)
			before := sessionSettings(t, conn)
			opts := schema.Options{}
			migrate(t, conn, opts)
			samePeerCatalog(t, admin, migrations.DefaultSchema)
			opts.Mode = schema.MigrateVerify
			migrate(t, conn, opts)
			opts.Mode = schema.MigrateAuto
			if _, err := schema.GrantRole(t.Context(), conn, role, schema.WorkerRole, opts); err != nil {
				t.Error(err)
			}
			if lacks, err := schema.GrantRole(t.Context(), conn, role, schema.WorkerRole, opts); err != nil || len(lacks) > 0 {
				t.Errorf("it still lacks %q, %v", lacks, err)
			}
			if diff := cmp.Diff(before, sessionSettings(t, conn)); diff != "" {
				t.Errorf("the session's settings (-before +after):\n%s", diff)
			}
			dbtest.Run(t, admin, "drop schema graphile_worker cascade")
			script, err := schema.FreshScript(migrations.DefaultSchema)
			if err != nil {
				t.Fatal(err)
			}
			dbtest.Run(t, admin, "set search_path = evil, pg_catalog")
			dbtest.Run(t, admin, script, pgx.QueryExecModeSimpleProtocol)
			dbtest.Run(t, admin, "set search_path = pg_catalog")
			samePeerCatalog(t, admin, migrations.DefaultSchema)
		})
	}
}

// sessionSettings are all settings of a session.
func sessionSettings(t *testing.T, conn *pgx.Conn) map[string]string {
	t.Helper()
	settings := map[string]string{}
	for _, row := range conn.PgConn().ExecParams(t.Context(), "show all", nil, nil, nil, nil).Read().Rows {
		if name := string(row[0]); !strings.HasPrefix(name, "plpgsql.") { // there once it has been called
			settings[name] = string(row[1])
		}
	}
	return settings
}
