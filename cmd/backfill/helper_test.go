package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/backfillhq/go/internal/needs"
	"github.com/backfillhq/go/testutil/pgtest"
)

// command runs backfill and returns what it wrote.
func command(t *testing.T, wantCode int, arguments ...string) (stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	if code := run(t.Context(), append([]string{"backfill"}, arguments...), strings.NewReader(""), &out, &errs); code != wantCode {
		t.Fatalf("backfill %q: exit code %d, want %d\n%s%s", arguments, code, wantCode, out.String(), errs.String())
	}
	return out.String(), errs.String()
}

// says fails the test unless the text has all of these parts.
func says(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%q is not in:\n%s", part, text)
		}
	}
}

func connectTo(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

// execute runs statements over the simple protocol.
func execute(t *testing.T, conn *pgx.Conn, sql string) {
	t.Helper()
	if _, err := conn.PgConn().Exec(t.Context(), sql).ReadAll(); err != nil {
		t.Fatalf("%v:\n%s", err, sql)
	}
}

// list returns the only column of a query's rows.
func list(t *testing.T, conn *pgx.Conn, sql string, args ...any) []string {
	t.Helper()
	rows, err := conn.Query(t.Context(), sql, args...)
	if err != nil {
		t.Fatal(err)
	}
	values, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatalf("%v:\n%s", err, sql)
	}
	return values
}

// hear returns the next notification's payload. The limit only ends a test that has failed already.
func hear(t *testing.T, conn *pgx.Conn) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	notification, err := conn.WaitForNotification(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return notification.Payload
}

// login is a role that may connect, and nothing else.
type login struct {
	name string
	url  string // connects as the role
}

// newLogin makes a role, with a name that has to be quoted everywhere.
func newLogin(t *testing.T, db *pgtest.Database) login {
	t.Helper()
	admin := connectTo(t, db.URL)
	var may bool
	if err := admin.QueryRow(t.Context(), "select rolsuper or rolcreaterole from pg_roles where rolname = current_user").Scan(&may); err != nil {
		t.Fatal(err)
	}
	needs.That(t, may, "role that may create roles: ALTER ROLE … CREATEROLE")
	u, err := url.Parse(db.URL)
	needs.That(t, err == nil && u.Scheme != "", "URL of the test's server")
	role := login{name: `b, "é" ` + rand.Text()}
	password := "p@/" + rand.Text()
	quoted := pgx.Identifier{role.name}.Sanitize()
	execute(t, admin, "create role "+quoted+" login password '"+password+"'")
	t.Cleanup(func() {
		awaitGone(t, admin, role.name)
		// Who made the role without being a superuser has to be a member to clear up behind it.
		for _, sql := range []string{"grant " + quoted + " to current_user", "drop owned by " + quoted + " cascade", "drop role " + quoted} {
			if _, err := admin.Exec(context.Background(), sql); err != nil {
				t.Error(err)
			}
		}
	})
	u.User = url.UserPassword(role.name, password)
	role.url = u.String()
	return role
}

// awaitGone waits until the server has noticed that a role's connections are closed: nobody else can end them for the database
// to be dropped.
func awaitGone(t *testing.T, admin *pgx.Conn, role string) {
	t.Helper()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for range 2000 {
		var there bool
		err := admin.QueryRow(context.Background(), "select exists (select from pg_stat_activity where usename = $1)", role).Scan(&there)
		if err != nil || !there {
			return
		}
		<-ticker.C
	}
	t.Errorf("role %q is still connected", role)
}

// refused fails the test unless the server refuses every statement for lack of rights.
func refused(t *testing.T, conn *pgx.Conn, statements ...string) {
	t.Helper()
	for _, sql := range statements {
		_, err := conn.Exec(t.Context(), sql)
		var pgErr *pgconn.PgError
		if !errors.As(err, &pgErr) || pgErr.Code != "42501" {
			t.Errorf("%s: %v, want a refusal (42501)", sql, err)
		}
	}
}

// cleanUpAfter takes a role's rights away again in another database, where they would keep the role from being dropped.
func cleanUpAfter(t *testing.T, db *pgtest.Database, role login) {
	t.Helper()
	admin := connectTo(t, db.URL)
	t.Cleanup(func() {
		quoted := pgx.Identifier{role.name}.Sanitize()
		for _, sql := range []string{"grant " + quoted + " to current_user", "drop owned by " + quoted + " cascade"} {
			if _, err := admin.Exec(context.Background(), sql); err != nil {
				t.Error(err)
			}
		}
	})
}
