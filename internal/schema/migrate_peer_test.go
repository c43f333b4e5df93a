package schema_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/schema"
	"github.com/backfillhq/go/migrations"
)

// nodeStep does what a Node process does for one revision, up to the commit.
func nodeStep(t *testing.T, tx dbtest.Execer, id int) {
	t.Helper()
	dbtest.Run(t, tx, fmt.Sprintf("insert into graphile_worker.migrations (id, breaking) values (%d, %t)", id, migrations.Breaking(id)))
	for _, file := range migrations.Wire() {
		if file.ID == id && id > 0 {
			// The objects of revisions 1 to 18 come all at once, but the ledger row by row.
			dbtest.Run(t, tx, withoutLedger(t, file.SQL))
		}
	}
	dbtest.Run(t, tx, "select pg_notify('worker:migrate', '{}')")
}

// recent makes a ledger look as if it had just been written to, however slow the test is.
const recent = "update graphile_worker.migrations set ts = now() + interval '1 hour'"

func withoutLedger(t *testing.T, sql string) string {
	t.Helper()
	before, rest, ok := strings.Cut(sql, "insert into graphile_worker.migrations")
	_, after, ok2 := strings.Cut(rest, ";\n")
	if !ok || !ok2 {
		t.Fatal("a wire file does not record itself")
	}
	return before + after
}

// startMigrate migrates in the background.
func startMigrate(t *testing.T, conn *pgx.Conn, opts schema.Options) <-chan error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- schema.Migrate(t.Context(), conn, opts) }()
	return done
}

func TestMigrateBesideNode(t *testing.T) {
	t.Parallel()
	url := dbtest.EmptyURL(t)
	node, conn, observer := dbtest.Connect(t, url), dbtest.Connect(t, url), dbtest.Connect(t, url)
	dbtest.Run(t, node, bootstrap)
	dbtest.Run(t, node, "begin")
	nodeStep(t, node, 1)
	done := startMigrate(t, conn, quiet())
	dbtest.WaitBlocked(t, observer, conn.PgConn().PID())
	dbtest.Run(t, node, "commit")
	for id := 2; id <= 20; id++ {
		select {
		case err := <-done:
			t.Fatalf("did not wait for revision %d: %v", id, err)
		default:
		}
		dbtest.Run(t, node, "begin")
		nodeStep(t, node, id)
		dbtest.Run(t, node, "commit")
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	samePeerCatalog(t, observer, migrations.DefaultSchema)
	if n := dbtest.Get[int](t, observer, "select count(*) from graphile_worker.backfill_migrations"); n == 0 {
		t.Error("our own tables are missing")
	}
}

func TestMigrateAfterNodeRolledBack(t *testing.T) {
	t.Parallel()
	url := dbtest.EmptyURL(t)
	node, conn, observer := dbtest.Connect(t, url), dbtest.Connect(t, url), dbtest.Connect(t, url)
	dbtest.Run(t, node, bootstrap+"; begin")
	nodeStep(t, node, 1)
	done := startMigrate(t, conn, quiet())
	dbtest.WaitBlocked(t, observer, conn.PgConn().PID())
	dbtest.Run(t, node, "rollback")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	samePeerCatalog(t, observer, migrations.DefaultSchema)
}

// TestMigrateBesideBootstrap meets a Node process that has made the schema and not committed it.
func TestMigrateBesideBootstrap(t *testing.T) {
	t.Parallel()
	url := dbtest.EmptyURL(t)
	node, conn, observer := dbtest.Connect(t, url), dbtest.Connect(t, url), dbtest.Connect(t, url)
	dbtest.Run(t, node, "begin;"+bootstrap)
	done := startMigrate(t, conn, quiet())
	dbtest.WaitBlocked(t, observer, conn.PgConn().PID())
	dbtest.Run(t, node, "commit")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	samePeerCatalog(t, observer, migrations.DefaultSchema)
}

func TestMigrateBesideStalledNode(t *testing.T) {
	t.Parallel()
	url := dbtest.EmptyURL(t)
	node, conn, observer := dbtest.Connect(t, url), dbtest.Connect(t, url), dbtest.Connect(t, url)
	dbtest.Run(t, node, "set application_name = 'stalled node';"+bootstrap)
	holder := fmt.Sprintf("pid %d (user", node.PgConn().PID())

	// It holds row 1.
	dbtest.Run(t, node, "begin")
	nodeStep(t, node, 1)
	err := schema.Migrate(t.Context(), conn, waiting(soon))
	isSchemaError(t, err, "in use at each of 5 tries", holder, `application "stalled node"`, "idle in transaction", "RowExclusiveLock on migrations", "pg_terminate_backend")

	// It has come to row 7, and holds row 8.
	dbtest.Run(t, node, "commit")
	for id := 2; id <= 7; id++ {
		nodeStep(t, node, id)
	}
	dbtest.Run(t, node, recent)
	dbtest.Run(t, node, "begin")
	nodeStep(t, node, 8)
	err = schema.Migrate(t.Context(), conn, waiting(soon))
	isSchemaError(t, err, "partial", "been at revision 7 for 400ms", holder, "RowExclusiveLock on migrations", "let that session finish, or end it; then run Graphile Worker 0.18's")

	// It is gone, and nobody else is at work.
	dbtest.Run(t, node, "rollback")
	err = schema.Migrate(t.Context(), conn, waiting(soon))
	isSchemaError(t, err, "partial", "revision 7", "nobody holds a lock on it: run Graphile Worker 0.18's", "choose another schema")
	if strings.Contains(err.Error(), "DROP") || strings.Contains(err.Error(), "another process") {
		t.Errorf("it says what nobody knows: %v", err)
	}
	if got := dbtest.Get[string](t, observer, "select max(id) || ' ' || count(*) from graphile_worker.migrations"); got != "7 7" {
		t.Errorf("ledger = %s, want it untouched", got)
	}
}

// TestMigrateBesideNodeUpgrade meets a Node process on its way from 18 to 20.
func TestMigrateBesideNodeUpgrade(t *testing.T) {
	t.Parallel()
	for _, mode := range []schema.Mode{schema.MigrateAuto, schema.MigrateBreaking} {
		t.Run(fmt.Sprintf("mode %d", mode), func(t *testing.T) {
			t.Parallel()
			url := dbtest.EmptyURL(t)
			node, conn, observer := dbtest.Connect(t, url), dbtest.Connect(t, url), dbtest.Connect(t, url)
			from := 18
			if mode == schema.MigrateAuto {
				from = 19
			}
			installWire(t, node, from)
			dbtest.Run(t, node, "begin")
			nodeStep(t, node, from+1)
			opts := quiet()
			opts.Mode = mode
			done := startMigrate(t, conn, opts)
			dbtest.WaitBlocked(t, observer, conn.PgConn().PID())
			dbtest.Run(t, node, "commit")
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			samePeerCatalog(t, observer, migrations.DefaultSchema)
		})
	}
}

// TestMigrateBesideOurselves waits for another process of ours that is stuck, and says so.
func TestMigrateBesideOurselves(t *testing.T) {
	t.Parallel()
	url := dbtest.EmptyURL(t)
	node, first, second, observer := dbtest.Connect(t, url), dbtest.Connect(t, url), dbtest.Connect(t, url), dbtest.Connect(t, url)
	dbtest.Run(t, node, bootstrap+"; begin")
	nodeStep(t, node, 1)
	done := startMigrate(t, first, waiting(time.Hour))
	dbtest.WaitBlocked(t, observer, first.PgConn().PID())
	err := schema.Migrate(t.Context(), second, waiting(soon))
	isSchemaError(t, err, fmt.Sprintf("pid %d (user", first.PgConn().PID()), "the lock of another backfill", "another process has been migrating it for 400ms")
	dbtest.Run(t, node, "rollback")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// TestMigrateObjectInTheWay gives up on a name that is taken by something else.
func TestMigrateObjectInTheWay(t *testing.T) {
	t.Parallel()
	conn := dbtest.Connect(t, dbtest.EmptyURL(t))
	dbtest.Run(t, conn, "create schema graphile_worker; create sequence graphile_worker.jobs_main_index")
	err := schema.Migrate(t.Context(), conn, quiet())
	isSchemaError(t, err, "not Graphile Worker's", "choose another schema", "jobs_main_index", "already exists")
	if dbtest.Get[bool](t, conn, "select to_regclass('graphile_worker.migrations') is not null") {
		t.Error("a table is there after a failed migration")
	}
}

// TestMigrateThatOthersFinish does not wait for the lock of another process once there is nothing
// left to do: ten processes that start at once wait for the first one only.
func TestMigrateThatOthersFinish(t *testing.T) {
	t.Parallel()
	url := dbtest.EmptyURL(t)
	holder, conn, other := dbtest.Connect(t, url), dbtest.Connect(t, url), dbtest.Connect(t, url)
	dbtest.Run(t, holder, "begin")
	dbtest.Run(t, holder, "select pg_advisory_xact_lock($1)", schema.MigrateLock(migrations.DefaultSchema))
	done := startMigrate(t, conn, waiting(time.Hour))
	dbtest.WaitBlocked(t, other, conn.PgConn().PID())
	script, err := schema.FreshScript(migrations.DefaultSchema)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.PgConn().Exec(t.Context(), script).ReadAll(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}
