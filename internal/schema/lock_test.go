package schema_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/schema"
	"github.com/backfillhq/go/migrations"
)

// What other sessions hold: a pg_dump reads, and a transaction has enqueued.
const (
	dumping   = "begin; lock table graphile_worker._private_jobs in access share mode"
	enqueuing = "begin; lock table graphile_worker._private_jobs in row exclusive mode"
)

// fewTries shortens a printed script's tries, which take a minute.
func fewTries(script string) string { return strings.ReplaceAll(script, "1..60 loop", "1..2 loop") }

// lockUser does something that needs a lock on the table of jobs.
type lockUser struct {
	hold string // What keeps it from getting the lock.
	run  func(ctx context.Context, conn *pgx.Conn, role string, opts schema.Options) error
	// prepare makes the state in which it needs the lock.
	prepare func(t *testing.T, conn *pgx.Conn)
}

// lockUsers are all of them: rights and migrations, by us and by printed scripts.
func lockUsers() map[string]lockUser {
	complete := func(t *testing.T, conn *pgx.Conn) { t.Helper(); migrate(t, conn, schema.Options{}) }
	late := func(t *testing.T, conn *pgx.Conn) {
		t.Helper()
		complete(t, conn)
		dbtest.Run(t, conn, "select graphile_worker.add_job('a'); alter sequence graphile_worker.jobs_id_seq1 restart")
	}
	apply := func(ctx context.Context, conn *pgx.Conn, _ string, opts schema.Options) error {
		return schema.Migrate(ctx, conn, opts)
	}
	return map[string]lockUser{
		"policies": {dumping, func(ctx context.Context, conn *pgx.Conn, role string, opts schema.Options) error {
			_, err := schema.GrantRole(ctx, conn, role, schema.WorkerRole, opts)
			return err
		}, complete},
		"printed policies": {dumping, func(ctx context.Context, conn *pgx.Conn, role string, opts schema.Options) error {
			script := schema.RoleScript(migrations.DefaultSchema, role, schema.WorkerRole)
			if opts.Patience == soon {
				script = fewTries(script)
			}
			_, err := conn.PgConn().Exec(ctx, script).ReadAll()
			return err
		}, complete},
		"sequences": {enqueuing, apply, late},
		"printed sequences": {enqueuing, func(ctx context.Context, conn *pgx.Conn, _ string, opts schema.Options) error {
			script, err := schema.MissingScript(ctx, conn, schema.Options{Schema: migrations.DefaultSchema})
			if err != nil {
				return err
			}
			if opts.Patience == soon {
				script = fewTries(script)
			}
			_, err = conn.PgConn().Exec(ctx, script).ReadAll()
			return err
		}, late},
	}
}

// unquoted is the name of a role that [dbtest.NewRole] returns as SQL text.
func unquoted(identifier string) string {
	return strings.ReplaceAll(identifier[1:len(identifier)-1], `""`, `"`)
}

// TestLocksLetOthersThrough has each of them wait for a lock. An enqueue that comes later gets
// through while the lock is still held, and the next try is seen as well.
func TestLocksLetOthersThrough(t *testing.T) {
	t.Parallel()
	for name, user := range lockUsers() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := dbtest.EmptyURL(t)
			holder, conn, client, observer := dbtest.Connect(t, url), dbtest.Connect(t, url), dbtest.Connect(t, url), dbtest.Connect(t, url)
			user.prepare(t, conn)
			role := unquoted(dbtest.NewRole(t, observer))
			dbtest.Run(t, holder, user.hold)
			// A client gives up before a statement of ours that waits for ever would let it through.
			dbtest.Run(t, client, "set lock_timeout = '5s'")
			done := make(chan error, 1)
			go func() { done <- user.run(t.Context(), conn, role, schema.Options{Patience: time.Hour}) }()
			for range 2 {
				dbtest.WaitBlocked(t, observer, conn.PgConn().PID())
				dbtest.Run(t, client, enqueuing+"; rollback")
			}
			select {
			case err := <-done:
				t.Fatalf("it did not wait for the lock: %v", err)
			default:
			}
			dbtest.Run(t, holder, "rollback")
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			migrate(t, observer, schema.Options{Mode: schema.MigrateVerify})
		})
	}
}

// TestLocksHeldForGood says who holds them, and leaves everything as it was.
func TestLocksHeldForGood(t *testing.T) {
	t.Parallel()
	for name, user := range lockUsers() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := dbtest.EmptyURL(t)
			holder, conn := dbtest.Connect(t, url), dbtest.Connect(t, url)
			user.prepare(t, conn)
			role := unquoted(dbtest.NewRole(t, dbtest.Connect(t, url)))
			dbtest.Run(t, holder, "set application_name = 'nightly dump'; "+user.hold)
			before := readCatalog(t, conn, migrations.DefaultSchema)
			err := user.run(t.Context(), conn, role, schema.Options{Patience: soon})
			if refusal, ok := errors.AsType[*pgconn.PgError](err); ok && strings.HasPrefix(name, "printed") {
				err = errors.New(refusal.Message + "; " + refusal.Detail + "; " + refusal.Hint)
			} else {
				isSchemaError(t, err)
			}
			dbtest.Mentions(t, err, "tables were in use at each of", "nightly dump", "on _private_jobs", "pg_terminate_backend")
			dbtest.Run(t, conn, "rollback") // A script leaves its transaction open, as psql would.
			if after := readCatalog(t, conn, migrations.DefaultSchema); after != before && !strings.Contains(name, "policies") {
				t.Errorf("something was changed:\n%s", after)
			}
		})
	}
}

// TestLocksIndexCanWait migrates a schema of Node's beside a transaction that has enqueued: only
// the index needs a lock that this transaction refuses.
func TestLocksIndexCanWait(t *testing.T) {
	t.Parallel()
	url := dbtest.EmptyURL(t)
	holder, conn := dbtest.Connect(t, url), dbtest.Connect(t, url)
	installWire(t, conn, 20)
	dbtest.Run(t, holder, enqueuing)
	var report schema.Report
	migrate(t, conn, schema.Options{LeaveIndex: true, Report: &report})
	if report.Index || indexState(t, conn) != "missing" {
		t.Errorf("the index is %s", indexState(t, conn))
	}
	dbtest.Run(t, holder, "rollback")
	migrate(t, conn, schema.Options{})
	if got := indexState(t, conn); got != "valid" {
		t.Errorf("the index is %s", got)
	}
}

// TestLocksEndWithTheirHolder cuts an installer off while it holds locks, as a network does, or a
// SIGSTOP. The server ends its transaction, and others go on.
func TestLocksEndWithTheirHolder(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"sequences", "printed sequences"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := dbtest.EmptyURL(t)
			proxy := dbtest.NewProxy(t, url)
			client, conn := dbtest.Connect(t, url), dbtest.Connect(t, proxy.URL)
			user := lockUsers()[name]
			user.prepare(t, client)
			done := make(chan error, 1)
			if name == "sequences" {
				proxy.ArmAfter("lock table", dbtest.Freeze)
				go func() { done <- user.run(t.Context(), conn, "", schema.Options{}) }()
				dbtest.Until(t, func() bool { return proxy.Met() == 'C' })
			} else {
				script, err := schema.MissingScript(t.Context(), conn, schema.Options{Schema: migrations.DefaultSchema})
				if err != nil {
					t.Fatal(err)
				}
				dbtest.Run(t, conn, strings.TrimSuffix(strings.TrimSpace(script), "commit;"), pgx.QueryExecModeSimpleProtocol)
				done <- errors.New("it is not committed")
			}
			dbtest.Run(t, client, "set lock_timeout = '20s'")
			dbtest.Run(t, client, enqueuing+"; rollback", pgx.QueryExecModeSimpleProtocol)
			if err := <-done; err == nil {
				t.Error("it does not know that it was cut off")
			}
		})
	}
}

// TestMigrateIsAnswered has a table locked against reads. The wait for it ends, although the caller
// has no deadline.
func TestMigrateIsAnswered(t *testing.T) {
	t.Parallel()
	for _, table := range []string{"migrations", "_private_jobs"} {
		t.Run(table, func(t *testing.T) {
			t.Parallel()
			url := dbtest.EmptyURL(t)
			conn, holder := dbtest.Connect(t, url), dbtest.Connect(t, url)
			migrate(t, conn, schema.Options{})
			dbtest.Run(t, holder, "begin; lock table graphile_worker."+table+" in access exclusive mode", pgx.QueryExecModeSimpleProtocol)
			err := schema.Migrate(context.Background(), conn, schema.Options{Patience: time.Second})
			dbtest.Mentions(t, err, "no answer within 11s", "VACUUM FULL")
		})
	}
}
