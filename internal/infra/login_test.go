package infra_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/needs"
)

// with adds parameters to a connection string.
func with(t *testing.T, databaseURL string, parameters ...string) string {
	t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	query := u.Query()
	for i := 0; i < len(parameters); i += 2 {
		query.Set(parameters[i], parameters[i+1])
	}
	u.RawQuery = query.Encode()
	return u.String()
}

// login is a role that may connect, and nothing else.
type login struct{ name, url string }

func (l login) quoted() string { return pgx.Identifier{l.name}.Sanitize() }

// newLogin makes a role of the test's own for a database.
func newLogin(t *testing.T, databaseURL string) login {
	t.Helper()
	admin := dbtest.Connect(t, databaseURL)
	dbtest.NeedSuperuser(t, admin)
	u, err := url.Parse(databaseURL)
	needs.That(t, err == nil && u.Host != "", "URL with one host for the test server")
	role := login{name: "infra_" + strings.ToLower(rand.Text())}
	password := rand.Text()
	dbtest.Run(t, admin, fmt.Sprintf("create role %s login password '%s'", role.quoted(), password))
	t.Cleanup(func() {
		ctx := context.Background()
		for _, sql := range []string{
			"select pg_terminate_backend(pid) from pg_stat_activity where usename = '" + role.name + "'",
			"drop owned by " + role.quoted() + " cascade", "drop role " + role.quoted(),
		} {
			if _, err := admin.Exec(ctx, sql); err != nil {
				t.Error(err)
			}
		}
	})
	u.User = url.UserPassword(role.name, password)
	role.url = u.String()
	return role
}
