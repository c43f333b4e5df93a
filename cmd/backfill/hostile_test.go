package main

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/migrations"
	"github.com/backfillhq/go/testutil/pgtest"
)

// Names of schemas and roles are names, or refused before anything is sent. What --print writes
// does the same as the command, and neither changes anything else.
func TestHostileNames(t *testing.T) {
	t.Parallel()
	for _, name := range dbtest.Hostile() {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			db, printed := pgtest.Empty(t), pgtest.Empty(t)
			conn, other := connectTo(t, db.URL), connectTo(t, printed.URL)
			dbtest.Plant(t, conn)
			dbtest.Plant(t, other)
			role := "none_of_these"
			if migrations.CheckSchemaName(name) == nil { // a role's limits are the same
				role = name
			}
			before := dbtest.Dump(t, conn, role)
			for flag, value := range map[string]string{"--schema": name, "--enqueue-role": name, "--worker-role": name} {
				var out, errs bytes.Buffer
				code := run(t.Context(), []string{"backfill", "migrate", "--database-url", db.URL, "--schema", role, flag, value}, strings.NewReader(""), &out, &errs)
				if (code == 0) != (flag == "--schema" && role == name) || errs.Len() > 1000 || !utf8.Valid(errs.Bytes()) {
					t.Errorf("%s %.80q: exit code %d: %.300s", flag, name, code, &errs)
				}
				if flag != "--schema" && role == name && !strings.Contains(errs.String(), "there is no role") {
					t.Errorf("%s %.80q: %s", flag, name, &errs)
				}
			}
			if diff := cmp.Diff(before, dbtest.Dump(t, conn, role)); diff != "" {
				t.Errorf("%.80q: the database has changed (-before +after):\n%s", name, diff)
			}
			if role != name {
				return
			}
			script, _ := command(t, 0, "migrate", "--print", "--schema", name, "--worker-role", name)
			hostileRole(t, name, conn, other)
			execute(t, other, script)
			command(t, 0, "migrate", "--database-url", db.URL, "--schema", name, "--worker-role", name)
			if diff := cmp.Diff(catalog(t, conn, name), catalog(t, other, name)); diff != "" {
				t.Errorf("%.80q: the script makes something else (-command +script):\n%s", name, diff)
			}
			for _, after := range []string{dbtest.Dump(t, conn, name), dbtest.Dump(t, other, name)} {
				if diff := cmp.Diff(before, after); diff != "" {
					t.Errorf("%.80q: the database has changed (-before +after):\n%s", name, diff)
				}
			}
		})
	}
}

// hostileRole makes a role for as long as the test runs, which gives it rights in two databases.
func hostileRole(t *testing.T, name string, databases ...*pgx.Conn) {
	t.Helper()
	dbtest.NeedSuperuser(t, databases[0])
	quoted := migrations.QuoteIdentifier(name)
	dbtest.Run(t, databases[0], "create role "+quoted)
	t.Cleanup(func() {
		for _, conn := range databases {
			if _, err := conn.Exec(context.Background(), "drop owned by "+quoted+" cascade"); err != nil {
				t.Error(err)
			}
		}
		if _, err := databases[0].Exec(context.Background(), "drop role "+quoted); err != nil {
			t.Error(err)
		}
	})
}
