package pgtest_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/internal/devpg"
	"github.com/backfillhq/go/internal/needs"
	"github.com/backfillhq/go/testutil/pgtest"
)

// helperURL is the server on which a child of the test binary runs the tests
// that are named Helper…, which do nothing otherwise.
const helperURL = "PGTEST_HELPER_URL"

// unreachable is a server that nobody answers for.
const unreachable = "postgres://nobody@127.0.0.1:1/none"

// helperUse makes a child call UseServer with a function that returns this: an error, if it begins
// with "error: ".
const helperUse = "PGTEST_HELPER_USE"

func TestMain(m *testing.M) {
	if url := os.Getenv(helperURL); url != "" {
		if err := os.Setenv("DATABASE_URL", url); err != nil {
			panic(err)
		}
	}
	if result, ok := os.LookupEnv(helperUse); ok {
		pgtest.UseServer(func(ctx context.Context) (string, error) {
			fmt.Println("the function was called") //nolint:forbidigo // the parent reads it
			if _, ok := ctx.Deadline(); !ok {
				return "", errors.New("the context has no deadline")
			}
			if text, ok := strings.CutPrefix(result, "error: "); ok {
				return "", errors.New(text)
			}
			return result, nil
		})
	}
	os.Exit(m.Run())
}

// isHelper skips a test in the parent.
func isHelper(t *testing.T) {
	t.Helper()
	if os.Getenv(helperURL) == "" {
		t.Skip("it runs in a child of another test, which shows its result")
	}
}

// runHelper runs a helper test in another process, with a server.
func runHelper(t *testing.T, name, url string, env ...string) (output string, err error) {
	t.Helper()
	cmd := helper(t, name, url, env...)
	out, err := cmd.CombinedOutput()
	if !strings.Contains(string(out), "--- ") {
		t.Fatalf("no test was run: %v: %s", err, out)
	}
	return string(out), err
}

func helper(t *testing.T, name, url string, env ...string) *exec.Cmd {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, "-test.v", "-test.count=1", "-test.run=^"+name+"$")
	for _, entry := range os.Environ() {
		// What the tests run with is not what their children run with.
		if key, _, _ := strings.Cut(entry, "="); key != "DATABASE_URL" && !strings.HasPrefix(key, "BACKFILL_TEST_PG") {
			cmd.Env = append(cmd.Env, entry)
		}
	}
	if url != "" {
		cmd.Env = append(cmd.Env, helperURL+"="+url)
	}
	cmd.Env = append(cmd.Env, env...)
	return cmd
}

// foreign starts a server that is not pgtest's, of the same version, even when DATABASE_URL names
// one.
func foreign(t *testing.T) *pgx.Conn {
	t.Helper()
	text := value(t, connect(t, pgtest.Empty(t).URL), "select current_setting('server_version_num')::int / 10000 || ''")
	version, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return connect(t, major(t, version).URL)
}

// major starts a private server of a version, which is not fetched in a usual run of the tests.
func major(t *testing.T, version int) *devpg.Server {
	t.Helper()
	server, err := devpg.Start(t.Context(), devpg.Config{Major: version, Offline: !needs.All()})
	needs.That(t, err == nil, fmt.Sprintf("PostgreSQL %d, which BACKFILL_TEST_ALL=1 lets npm fetch: %v", version, err))
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	})
	return server
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(t.Context()) })
	return conn
}

func execute(t *testing.T, conn *pgx.Conn, sql string) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}

// value returns a single value as text.
func value(t *testing.T, conn *pgx.Conn, sql string) string {
	t.Helper()
	var text string
	if err := conn.QueryRow(t.Context(), sql).Scan(&text); err != nil {
		t.Fatal(err)
	}
	return text
}

// testDatabases lists the databases that pgtest has made on a server.
func testDatabases(t *testing.T, conn *pgx.Conn) (tests, templates []string) {
	t.Helper()
	rows, err := conn.Query(t.Context(), "select datname from pg_database where starts_with(datname, 'backfill_test_') order by 1")
	if err != nil {
		t.Fatal(err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if strings.HasPrefix(name, "backfill_test_template_") {
			templates = append(templates, name)
		} else {
			tests = append(tests, name)
		}
	}
	return tests, templates
}

// oldName is the name of a database that was made some time ago.
func oldName(age time.Duration) string {
	return fmt.Sprintf("backfill_test_%d_leftover", time.Now().Add(-age).Unix())
}
