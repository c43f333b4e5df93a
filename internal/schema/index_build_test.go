package schema_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/needs"
	"github.com/backfillhq/go/internal/schema"
)

// withoutIndex is a schema with a job, without our index.
func withoutIndex(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn := dbtest.Connect(t, url)
	migrate(t, conn, schema.Options{})
	dbtest.Run(t, conn, "drop index graphile_worker.backfill_jobs_queue_idx; select graphile_worker.add_job('a')")
	return conn
}

// build starts a build whose connections have this role, "" for the server's own.
func build(t *testing.T, url, role string, log *logger) *schema.IndexBuild {
	t.Helper()
	connect := func(ctx context.Context) (*pgx.Conn, error) {
		config, err := pgx.ParseConfig(url)
		if err != nil {
			return nil, err
		}
		config.RuntimeParams["application_name"] = "builder"
		conn, err := pgx.ConnectConfig(ctx, config)
		if err == nil && role != "" {
			_, err = conn.Exec(ctx, "set role "+role)
		}
		return conn, err
	}
	b := schema.StartIndexBuild(connect, schema.Options{Logger: slog.New(log)})
	t.Cleanup(b.Close)
	return b
}

// building waits until a build waits for transactions.
func building(t *testing.T, observer *pgx.Conn) {
	t.Helper()
	dbtest.Until(t, func() bool {
		return dbtest.Get[bool](t, observer, `select exists (select from pg_stat_activity
			where datname = current_database() and application_name = 'builder'
				and query like '%create index concurrently%' and cardinality(pg_blocking_pids(pid)) > 0)`)
	})
}

// idle is a transaction with a snapshot, as a report or a forgotten session has it.
const idle = "begin isolation level repeatable read; select count(*) from pg_class"

// TestIndexBuild ends when the transactions of others have ended, of two builders one builds, and
// neither leaves a session behind.
func TestIndexBuild(t *testing.T) {
	t.Parallel()
	url := dbtest.EmptyURL(t)
	observer, other := withoutIndex(t, url), dbtest.Connect(t, url)
	dbtest.Run(t, other, idle)
	log := &logger{}
	first, second := build(t, url, "", log), build(t, url, "", log)
	building(t, observer)
	if got := indexState(t, observer); got == "valid" {
		t.Fatal("the build did not wait for the transaction")
	}
	dbtest.Run(t, other, "commit")
	dbtest.Until(t, func() bool { return indexState(t, observer) == "valid" })
	first.Close()
	second.Close()
	if warnings := log.take(); len(warnings) > 0 {
		t.Errorf("warnings = %q", warnings)
	}
	dbtest.Until(t, func() bool {
		return dbtest.Get[int](t, observer, "select count(*) from pg_stat_activity where datname = current_database() and application_name = 'builder'") == 0
	})
}

// TestIndexBuildClosed cancels a build. The index that it leaves behind is dropped at once, or
// logged and built anew by the next build.
func TestIndexBuildClosed(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ hold, left string }{
		"beside a reader of other tables": {idle, "missing"},
		"beside a reader of the jobs":     {idle + "; select count(*) from graphile_worker._private_jobs", "invalid"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := dbtest.EmptyURL(t)
			observer, other := withoutIndex(t, url), dbtest.Connect(t, url)
			dbtest.Run(t, other, test.hold)
			log := &logger{}
			b := build(t, url, "", log)
			building(t, observer)
			b.Close()
			if got := indexState(t, observer); got != test.left {
				t.Errorf("the index is %s, want it %s", got, test.left)
			}
			warnings := strings.Join(log.take(), "\n")
			if got := strings.Contains(warnings, "left it invalid") && strings.Contains(warnings, "run: backfill migrate"); got != (test.left == "invalid") {
				t.Errorf("warnings = %q", warnings)
			}
			if n := dbtest.Get[int](t, observer, "select count(*) from pg_stat_activity where datname = current_database() and query like '%index%' and state = 'active' and pid <> pg_backend_pid()"); n > 0 {
				t.Errorf("%d sessions still build", n)
			}
			dbtest.Run(t, other, "commit")
			build(t, url, "", log)
			dbtest.Until(t, func() bool { return indexState(t, observer) == "valid" })
		})
	}
}

// TestIndexBuildRefused gives up at once where no later try can succeed, and says what to do.
func TestIndexBuildRefused(t *testing.T) {
	t.Parallel()
	url := dbtest.EmptyURL(t)
	observer := withoutIndex(t, url)
	role := dbtest.NewRole(t, observer)
	dbtest.Run(t, observer, "grant usage on schema graphile_worker to "+role)
	log := &logger{}
	b := build(t, url, role, log)
	var warnings []string
	dbtest.Until(t, func() bool { warnings = append(warnings, log.take()...); return len(warnings) > 0 })
	b.Close()
	if len(warnings) != 1 || !strings.Contains(warnings[0], "as the owner of the tables, run: backfill migrate") {
		t.Errorf("warnings = %q, want one that names the owner", warnings)
	}
	if got := indexState(t, observer); got != "missing" {
		t.Errorf("the index is %s", got)
	}
}

// TestIndexBuildPooled does not build through a pooler. Its sessions are shared, so the parameters
// that a build sets, and its lock, would stay for others.
func TestIndexBuildPooled(t *testing.T) {
	t.Parallel()
	program, err := exec.LookPath("pgbouncer")
	needs.That(t, err == nil, "pgbouncer")
	url := dbtest.EmptyURL(t)
	observer := withoutIndex(t, url)
	log := &logger{}
	build(t, pooled(t, program, observer.Config()), "", log)
	var warnings []string
	dbtest.Until(t, func() bool { warnings = append(warnings, log.take()...); return len(warnings) > 0 })
	if !strings.Contains(warnings[0], "run: backfill migrate") {
		t.Errorf("warnings = %q", warnings)
	}
	if got := indexState(t, observer); got != "missing" {
		t.Errorf("the index is %s", got)
	}
	if n := dbtest.Get[int](t, observer, "select count(*) from pg_locks where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())"); n != 0 {
		t.Errorf("%d advisory locks are left on the pooler's sessions", n)
	}
}

// pooled starts a pgbouncer in transaction mode before a server, and returns its URL.
func pooled(t *testing.T, program string, server *pgx.ConnConfig) string {
	t.Helper()
	dir := t.TempDir()
	const settings = `[databases]
* = host=%s port=%d user=%s password=%s
[pgbouncer]
listen_addr =
unix_socket_dir = %s
listen_port = 6432
auth_type = any
pool_mode = transaction
ignore_startup_parameters = extra_float_digits
`
	text := fmt.Sprintf(settings, server.Host, server.Port, server.User, server.Password, dir)
	if err := os.WriteFile(filepath.Join(dir, "pgbouncer.ini"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), program, filepath.Join(dir, "pgbouncer.ini"))
	if os.Geteuid() == 0 {
		command.Args = slices.Insert(command.Args, 1, "-u", "nobody") // it refuses to run as root
		for _, name := range []string{filepath.Dir(dir), dir} {
			if err := os.Chmod(name, 0o777); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = command.Process.Kill(); _ = command.Wait() })
	url := fmt.Sprintf("postgres:///%s?host=%s&port=6432&user=%s", server.Database, dir, server.User)
	dbtest.Until(t, func() bool {
		conn, err := pgx.Connect(t.Context(), url)
		if err == nil {
			_ = conn.Close(t.Context())
		}
		return err == nil
	})
	return url
}
