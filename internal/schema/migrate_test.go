package schema_test

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/schema"
	"github.com/backfillhq/go/migrations"
)

func TestMigrateFreshThenNothing(t *testing.T) {
	t.Parallel()
	url := dbtest.EmptyURL(t)
	heard := dbtest.Listen(t, url)
	conn, trace := dbtest.ConnectTraced(t, url)
	migrate(t, conn, schema.Options{})
	if got := heard.Take(t); len(got) != 0 {
		t.Errorf("a fresh installation notified %q: it would stop workers of other schemas", got)
	}
	trace.Take()
	for _, mode := range []schema.Mode{schema.MigrateAuto, schema.MigrateVerify, schema.MigrateBreaking} {
		log := &logger{}
		migrate(t, conn, schema.Options{Mode: mode, Logger: slog.New(log)})
		if sent := trace.Take(); len(sent) != 2 || !strings.HasPrefix(sent[0], "select") || !strings.HasPrefix(sent[1], "select") {
			t.Errorf("mode %d on a current schema sent %q, want two queries", mode, sent)
		}
		if warnings := log.take(); len(warnings) != 0 {
			t.Errorf("mode %d on a current schema warned %q", mode, warnings)
		}
	}
	if got := dbtest.Get[bool](t, conn, "select bool_and(breaking = (id in (1, 3, 11, 13, 14, 16, 19))) from graphile_worker.migrations"); !got {
		t.Error("breaking flags differ from the peer's")
	}
	ledger, err := schema.CheckLedger(t.Context(), conn, migrations.DefaultSchema)
	if want := (schema.Ledger{Highest: 20, Breaking: 19}); err != nil || ledger != want {
		t.Errorf("CheckLedger = %v, %v, want %v", ledger, err, want)
	}
}

func TestMigrateLeavesSessionAlone(t *testing.T) {
	t.Parallel()
	url := dbtest.EmptyURL(t)
	conn := dbtest.Connect(t, url)
	dbtest.Run(t, conn, "set statement_timeout = '29s'; set lock_timeout = '28s'; set default_transaction_read_only = on")
	dbtest.Run(t, conn, "set default_transaction_isolation = 'serializable'; do 'begin end'") // PL/pgSQL has settings.
	const session = `
		select string_agg(name || '=' || setting, ' ' order by name) || (select count(*) from pg_prepared_statements)
			|| (select count(*) from pg_locks where pid = pg_backend_pid() and locktype = 'advisory')
		from pg_settings`
	simple := func() string {
		rows, err := conn.PgConn().Exec(t.Context(), session).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		return string(rows[0].Rows[0][0])
	}
	before := simple()
	migrate(t, conn, schema.Options{})
	// The concurrent build needs session settings and a session lock.
	admin := dbtest.Connect(t, url)
	dbtest.Run(t, admin, "drop index graphile_worker.backfill_jobs_queue_idx; select graphile_worker.add_job('a')")
	migrate(t, conn, schema.Options{})
	dbtest.Run(t, admin, "drop table graphile_worker._private_tasks cascade")
	if err := schema.Migrate(t.Context(), conn, quiet()); err == nil {
		t.Error("no error for a partial schema")
	}
	if diff := cmp.Diff(strings.Fields(before), strings.Fields(simple())); diff != "" {
		t.Errorf("session (-before +after):\n%s", diff)
	}
}

func TestMigrateInTransaction(t *testing.T) {
	t.Parallel()
	conn := dbtest.Connect(t, dbtest.EmptyURL(t))
	dbtest.Run(t, conn, "begin")
	dbtest.Mentions(t, schema.Migrate(t.Context(), conn, quiet()), "in a transaction")
}

// TestMigrateFailureLeavesNothing runs out of rights half-way.
func TestMigrateFailureLeavesNothing(t *testing.T) {
	t.Parallel()
	conn := dbtest.Connect(t, dbtest.EmptyURL(t))
	dbtest.NeedSuperuser(t, conn) // For the event trigger.
	dbtest.Run(t, conn, `
		create function public.refuse() returns event_trigger language plpgsql as $$
		begin
			if exists (select from pg_event_trigger_ddl_commands() where object_identity like '%backfill_workers%') then
				raise exception 'refused';
			end if;
		end $$;
		create event trigger refuse on ddl_command_end execute function public.refuse()`)
	dbtest.Mentions(t, schema.Migrate(t.Context(), conn, quiet()), "own/0001_workers.sql", "refused", "graphile_worker")
	if dbtest.Get[bool](t, conn, "select to_regnamespace('graphile_worker') is not null") {
		t.Error("the schema is there after a failed migration")
	}
	dbtest.Run(t, conn, "drop event trigger refuse")
	migrate(t, conn, schema.Options{})
}
