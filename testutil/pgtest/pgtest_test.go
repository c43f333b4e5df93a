package pgtest_test

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/testutil/pgtest"
)

func TestNewHasTheSchema(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := connect(t, db.URL)
	execute(t, conn, "select graphile_worker.add_job('greet')")
	if got := value(t, conn, "select count(*)::text from graphile_worker._private_jobs"); got != "1" {
		t.Errorf("%s jobs, want 1", got)
	}
}

func TestWithSchema(t *testing.T) {
	t.Parallel()
	conn := connect(t, pgtest.New(t, pgtest.WithSchema("Other schema")).URL)
	execute(t, conn, `select "Other schema".add_job('greet')`)
	if got := value(t, conn, "select count(*)::text from pg_namespace where nspname = 'graphile_worker'"); got != "0" {
		t.Error("the default schema is there as well")
	}
}

func TestEmptyIsEmpty(t *testing.T) {
	t.Parallel()
	conn := connect(t, pgtest.Empty(t).URL)
	if got := value(t, conn, "select count(*)::text from pg_namespace where nspname = 'graphile_worker'"); got != "0" {
		t.Error("the schema is there")
	}
}

func TestDatabasesAreSeparate(t *testing.T) {
	t.Parallel()
	one, two := pgtest.New(t), pgtest.New(t)
	if one.URL == two.URL {
		t.Fatal("it is one database")
	}
	execute(t, connect(t, one.URL), "select graphile_worker.add_job('greet')")
	if got := value(t, connect(t, two.URL), "select count(*)::text from graphile_worker._private_jobs"); got != "0" {
		t.Errorf("%s jobs, want 0", got)
	}
}

func TestNotificationsDoNotCross(t *testing.T) {
	t.Parallel()
	one, two := pgtest.Empty(t), pgtest.Empty(t)
	listener := connect(t, one.URL)
	execute(t, listener, `listen "jobs:insert"`)
	execute(t, connect(t, two.URL), `notify "jobs:insert", 'of two'`)
	// The server delivers in order: had the first one crossed, it came first.
	execute(t, connect(t, one.URL), `notify "jobs:insert", 'of one'`)
	got, err := listener.WaitForNotification(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got.Payload != "of one" {
		t.Errorf("heard %q", got.Payload)
	}
}

func TestPool(t *testing.T) {
	t.Parallel()
	db := pgtest.Empty(t, nil, pgtest.WithPoolSize(2))
	if first, second := db.Pool(), db.Pool(); first != second {
		t.Error("there are two pools")
	}
	if got := db.Pool().Config().MaxConns; got != 2 {
		t.Errorf("it has %d connections, want 2", got)
	}
	if err := db.Pool().Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

// failing is a test whose failure is expected.
type failing struct {
	testing.TB

	fatal string
}

func (f *failing) Fatalf(format string, args ...any) {
	f.fatal = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func TestPoolSizeOutOfRange(t *testing.T) {
	t.Parallel()
	for _, size := range []int{-1, 0, 10_001, 1<<32 + 3} {
		tb := &failing{TB: t}
		var wg sync.WaitGroup
		wg.Go(func() { pgtest.New(tb, pgtest.WithPoolSize(size)) }) // which Fatalf ends
		wg.Wait()
		if want := fmt.Sprintf("pgtest: WithPoolSize: %d is out of range: want 1 to 10000", size); tb.fatal != want {
			t.Errorf("%d: %s", size, tb.fatal)
		}
	}
}

func TestPoolIsClosedAfterTheTest(t *testing.T) { //nolint:tparallel // see below
	t.Parallel()
	var db *pgtest.Database
	t.Run("test", func(t *testing.T) {
		db = pgtest.Empty(t)
		if err := db.Pool().Ping(t.Context()); err != nil {
			t.Error(err)
		}
	})
	if err := db.Pool().Ping(t.Context()); err == nil {
		t.Error("it is open")
	}
}

// The child's tests do what tests do; the parent looks at the server.
func TestHelperUse(t *testing.T) {
	t.Parallel()
	isHelper(t)
	for _, name := range []string{"one", "two", "three"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			if _, err := db.Pool().Exec(t.Context(), "select graphile_worker.add_job('greet')"); err != nil {
				t.Error(err)
			}
			// This one stays connected when the database is dropped.
			if _, err := pgx.Connect(t.Context(), db.URL); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestForeignServer(t *testing.T) {
	t.Parallel()
	admin := foreign(t)
	execute(t, admin, "create database "+oldName(25*time.Hour))
	fresh := oldName(23 * time.Hour)
	execute(t, admin, "create database "+fresh)
	execute(t, admin, "create database backfill_test_template_old")
	execute(t, admin, "comment on database backfill_test_template_old is 'backfill test template, used 2001-01-01T00:00:00Z'")
	execute(t, admin, "create database mine")

	// Several test binaries at once agree on one template.
	var group sync.WaitGroup
	for range 3 {
		group.Go(func() {
			if out, err := runHelper(t, "TestHelperUse", admin.Config().ConnString()); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	group.Wait()
	tests, templates := testDatabases(t, admin)
	if !slices.Equal(tests, []string{fresh}) {
		t.Errorf("left: %v, want %s alone", tests, fresh)
	}
	if len(templates) != 1 || templates[0] == "backfill_test_template_old" {
		t.Errorf("templates: %v, want a new one", templates)
	}
	if got := value(t, admin, "select count(*)::text from pg_database where datname = 'mine'"); got != "1" {
		t.Error("a database that is not ours was dropped")
	}
}

// PostgreSQL 12 cannot drop databases by force.
func TestForeignServerOfOldestMajor(t *testing.T) {
	t.Parallel()
	server := major(t, 12)
	if out, err := runHelper(t, "TestHelperUse", server.URL); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if tests, _ := testDatabases(t, connect(t, server.URL)); len(tests) != 0 {
		t.Errorf("left: %v", tests)
	}
}

func TestForeignServerWithoutCreateDB(t *testing.T) {
	t.Parallel()
	admin := foreign(t)
	execute(t, admin, `create role "Some one" login password 'secret'`)
	url := strings.Replace(admin.Config().ConnString(), "postgres:"+admin.Config().Password+"@", "Some%20one:secret@", 1)
	out, err := runHelper(t, "TestHelperUse", url)
	if err == nil || !strings.Contains(out, `ALTER ROLE "Some one" CREATEDB;`) {
		t.Fatalf("the error does not name the statement: %v: %s", err, out)
	}
	if strings.Contains(out, "secret") {
		t.Errorf("the password is in the error: %s", out)
	}
	// The statement is the right one.
	execute(t, admin, `ALTER ROLE "Some one" CREATEDB;`)
	if out, err := runHelper(t, "TestHelperUse", url); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func TestMajorKnob(t *testing.T) {
	t.Parallel()
	major(t, 16) // which the knob would fetch
	out, err := runHelper(t, "TestHelperMajor", unreachable, "BACKFILL_TEST_PG_MAJOR=16")
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func TestHelperMajor(t *testing.T) {
	t.Parallel()
	isHelper(t)
	got := value(t, connect(t, pgtest.New(t).URL), "select current_setting('server_version')")
	if !strings.HasPrefix(got, "16.") {
		t.Errorf("it is PostgreSQL %s", got)
	}
}

func TestWithDatabase(t *testing.T) {
	t.Parallel()
	for conn, want := range map[string]string{
		"postgres://u:p@h:1/a?sslmode=disable":           "postgres://u:p@h:1/db?sslmode=disable",
		"postgresql://h":                                 "postgresql://h/db",
		"postgres:///":                                   "postgres:///db",
		"postgres://u@a:1,b:2/x?dbname=y&sslmode=prefer": "postgres://u@a:1,b:2/db?sslmode=prefer",
		"host=h dbname=a":                                "host=h dbname=a dbname=db",
	} {
		if got := pgtest.WithDatabase(conn, "db"); got != want {
			t.Errorf("%s: got %s, want %s", conn, got, want)
		}
	}
}
