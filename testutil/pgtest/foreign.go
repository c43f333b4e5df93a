package pgtest

import (
	"context"
	"crypto/rand"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/internal/seam"
)

const (
	namePrefix     = seam.TestDatabases
	templatePrefix = namePrefix + "template_"

	// leftoverAge is how old a test's database must be to be taken for a leftover.
	leftoverAge = 24 * time.Hour
	dropTimeout = time.Minute
)

// newName names a database that nobody else has; its age can be read from it.
func newName() string {
	return namePrefix + strconv.FormatInt(time.Now().Unix(), 10) + "_" + strings.ToLower(rand.Text()[:12])
}

// nameTime is when a database was made, by its name.
func nameTime(name string) (time.Time, bool) {
	seconds, _, _ := strings.Cut(strings.TrimPrefix(name, namePrefix), "_")
	n, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil || !strings.HasPrefix(name, namePrefix) {
		return time.Time{}, false
	}
	return time.Unix(n, 0), true
}

// checkForeign looks at a server that is not ours: whether we may use it, and
// what killed tests left there.
func (s *server) checkForeign(ctx context.Context) error {
	return s.do(ctx, func(conn *pgx.Conn) error {
		var allowed bool
		err := conn.QueryRow(ctx, "select rolname, rolcreatedb or rolsuper from pg_roles where rolname = current_user").Scan(&s.role, &allowed)
		if err != nil {
			return fmt.Errorf("look at our role: %w", err)
		}
		if !allowed {
			return fmt.Errorf("role %s may not create databases, and every test needs one. Run this as a superuser:\n"+
				"  ALTER ROLE %s CREATEDB;\nor unset DATABASE_URL and the PG* variables, to have a private server", s.role, quoted(s.role))
		}
		if err := reapDatabases(ctx, conn); err != nil {
			return err
		}
		return reapTemplates(ctx, conn)
	})
}

// reapDatabases drops what tests that were killed more than a day ago left.
func reapDatabases(ctx context.Context, conn *pgx.Conn) error {
	rows, err := conn.Query(ctx, `
		select datname from pg_database
		where starts_with(datname, $1) and pg_has_role(datdba, 'usage')`, namePrefix)
	if err != nil {
		return fmt.Errorf("list leftover databases: %w", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("list leftover databases: %w", err)
	}
	for _, name := range names {
		if made, ok := nameTime(name); ok && time.Since(made) > leftoverAge {
			if err := dropDatabase(ctx, conn, name); err != nil {
				return err
			}
		}
	}
	return nil
}

// cleanUp drops the database of a test that has ended.
func (s *server) cleanUp(tb testing.TB, name string) {
	tb.Helper()
	// The test's own context is cancelled by now.
	ctx, cancel := context.WithTimeout(context.Background(), dropTimeout)
	defer cancel()
	if err := s.do(ctx, func(conn *pgx.Conn) error { return dropDatabase(ctx, conn, name) }); err != nil {
		tb.Errorf("pgtest: %v", err)
	}
}

// dropDatabase drops a database, whoever is connected to it. It does nothing if another test binary
// was faster.
func dropDatabase(ctx context.Context, conn *pgx.Conn, name string) error {
	var version int
	if err := conn.QueryRow(ctx, "select current_setting('server_version_num')::int").Scan(&version); err != nil {
		return fmt.Errorf("drop database %s: %w", name, err)
	}
	statement := "drop database if exists " + quoted(name)
	if version >= 130000 {
		statement += " with (force)"
	} else if _, err := conn.Exec(ctx, "select pg_terminate_backend(pid) from pg_stat_activity where datname = $1", name); err != nil {
		return fmt.Errorf("drop database %s: end its connections: %w", name, err)
	}
	if _, err := conn.Exec(ctx, statement); err != nil {
		return fmt.Errorf("drop database %s: %w", name, err)
	}
	return nil
}
