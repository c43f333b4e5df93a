package admin_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/backfill/admin"
	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/schema"
)

func begin(t *testing.T, url string) pgx.Tx {
	t.Helper()
	tx, err := dbtest.Connect(t, url).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
	return tx
}

// A table that a session has locked as a whole is not taken for empty, by why or by the doctor.
func TestTablesAreLocked(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	id := r.add("'sync', queue_name := 'q'")
	for _, table := range []string{"_private_jobs", "_private_job_queues", "_private_tasks", "backfill_workers", "backfill_pauses", "backfill_dlq", "migrations"} {
		tx := begin(t, r.db.URL)
		dbtest.Run(t, tx, "lock table graphile_worker."+table)
		want := admin.NoWorker
		if strings.HasPrefix(table, "_private") || table == "backfill_workers" {
			want = admin.TableLocked
		}
		r.why(id, want)
		d, err := r.admin.Doctor(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range d.Findings {
			if f.Code != admin.SettingUnsafe {
				t.Errorf("%s: found %s: %s", table, f.Code, f.Text)
			}
		}
		_ = tx.Rollback(t.Context())
	}
}

// A lock that was taken in a savepoint is in no table of locks under the number that the row has.
func TestWhyItsRowIsLockedInASavepoint(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.work(3, "sync")
	for _, statement := range []string{
		"select from graphile_worker._private_jobs where id = $1::bigint for update",
		"select graphile_worker.reschedule_jobs(array[$1::bigint], priority := 3)",
	} {
		id := r.add("'sync', run_at := now() + interval '3 s'")
		tx := begin(t, r.db.URL)
		dbtest.Run(t, tx, "savepoint s")
		dbtest.Run(t, tx, statement, id)
		dbtest.Run(t, tx, "release savepoint s")
		dbtest.Until(t, func() bool {
			return dbtest.Get[bool](t, r.db.Pool(), "select run_at <= now() - interval '0.1 s' from graphile_worker._private_jobs where id = $1", id)
		})
		r.why(id, admin.Next, "idle in transaction", "If that is this one", "!within seconds")
		_ = tx.Rollback(t.Context())
	}
}

// Who cannot be taken now is not before anybody.
func TestWhyNobodyIsBefore(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	first := r.add("'sync', queue_name := 'q', priority := -5")
	r.work(1, "sync")
	r.running(first)
	r.run("select graphile_worker.add_job('nobody', priority := -3) from generate_series(1, 300)")
	r.run("select graphile_worker.add_job('sync', queue_name := 'q', priority := -3) from generate_series(1, 50)")
	r.why(r.add("'sync'"), admin.SlotsBusy)
}

// Times that no calendar has are told, and written as JSON.
func TestWhyAtStrangeTimes(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, at := range []string{"12000-01-01", "9999-12-31", "infinity"} {
		x := r.why(r.add("'sync', run_at := '"+at+"'"), admin.NotDue, "!106751")
		if _, err := json.Marshal(x); err != nil {
			t.Errorf("%s: %v", at, err)
		}
	}
	id := r.add("'sync'")
	r.run("update graphile_worker._private_jobs set locked_at = 'infinity', locked_by = 'pool-123456789abcdef012' where id = $1", id)
	x := r.why(id, admin.RunningElsewhere, "!0001-01-01")
	if _, err := json.Marshal(x); err != nil {
		t.Error(err)
	}
	paused := r.add("'sync', queue_name := 'p'")
	r.run("insert into graphile_worker.backfill_queue_pauses (queue_name, ends_at) values ('p', 'infinity')")
	r.why(paused, admin.Paused, "!0001-01-01")
}

// Ids overlap in all schemas: a job of another one hides nothing of this one's.
func TestWhyInTwoSchemas(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	if err := schema.Migrate(t.Context(), dbtest.Connect(t, r.db.URL), schema.Options{Schema: "second"}); err != nil {
		t.Fatal(err)
	}
	r.run("select second.add_job('sync') from generate_series(1, 5)")
	tx := begin(t, r.db.URL)
	id := dbtest.Get[int64](t, tx, "select id from graphile_worker.add_job('sync')")
	dbtest.Until(t, func() bool { return dbtest.Get[bool](t, tx, "select clock_timestamp() - now() > interval '0.5 s'") })
	x := r.why(id, admin.NotCommitted)
	if len(x.Then) != 1 || x.Then[0].Code != admin.OtherSchema || x.Then[0].Schemas[0] != "second" {
		t.Errorf("then %+v", x.Then)
	}
}

// The only worker was killed, so nobody declares it dead: it is named.
func TestWhyTheOnlyWorkerWasKilled(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.run("insert into graphile_worker.backfill_workers (id, tasks, heartbeat_at) values ('pool-123456789abcdef012', '{sync}', now() - interval '10 minutes')")
	r.why(r.add("'sync'"), admin.NoWorker, "pool-123456789abcdef012", "10 min 0 s ago")
	id := r.add("'sync'")
	r.run("update graphile_worker._private_jobs set locked_at = now(), locked_by = 'pool-123456789abcdef012.1.1' where id = $1", id)
	r.why(id, admin.RescuePending, "dead, or cut off", "None lives: start one")
}

// What a remedy changes is as it was when the answer was given, or is not changed.
func TestWhyTheRemedyIsLate(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	id := r.add("'sync', queue_name := 'it''s \\ \"x\"'")
	const lock = "update graphile_worker._private_job_queues set locked_by = 'pool-123456789abcdef012', locked_at = "
	r.run(lock + "now()")
	x := r.why(id, admin.QueueLocked)
	execute(t, r.db, x.Blocker.Remedies[0].Command)
	r.why(id, admin.NoWorker)
	r.run(lock + "now() - interval '1 s'")
	x = r.why(id, admin.QueueLocked)
	r.run(lock + "now()") // the same worker has taken another job of it
	execute(t, r.db, x.Blocker.Remedies[0].Command)
	r.why(id, admin.QueueLocked)
	r.run(lock + "now() - interval '5 hours'")
	r.why(id, admin.LockStale, "A lock counts for 4 hours", "!nobody frees")
}

// A revision that is not known, and a breaking change, ends the answer; one that is none is named.
func TestRevisionsThatAreNotKnown(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	id := r.add("'sync'")
	r.run("insert into graphile_worker.migrations (id) values (21)")
	r.healthy()
	r.why(id, admin.NoWorker, "revision 21")
	r.run("update graphile_worker.migrations set breaking = true where id = 21")
	r.why(id, admin.Unseen, "breaking", "21")
	r.finds(admin.SchemaUnusable, "21", "breaking")
}

// Many ask at once, over two connections: each has an answer.
func TestManyAskWhy(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	id := r.add("'sync'")
	r.work(1, "sync")
	r.running(id)
	ended := make(chan error)
	for range 6 {
		go func() {
			x, err := r.admin.Why(t.Context(), id)
			if err == nil && x.Blocker.Code != admin.Running {
				t.Errorf("code %s", x.Blocker.Code)
			}
			ended <- err
		}()
	}
	for range 6 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// Through a pooler in session mode, and on a connection that takes no writes, all is told that can
// be, and nothing is found.
func TestOtherConnections(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	id := r.add("'sync'")
	r.work(1, "sync")
	r.running(id)
	url := r.db.URL
	r.admin = openAdmin(t, dbtest.Pooler(t, url, "session", 5))
	r.healthy()
	dbtest.Until(t, func() bool { // a worker answers once in a second, and the doctor has asked
		return strings.Contains(r.why(id, admin.Running).Blocker.Text, "Its handler has run")
	})
	r.admin = openAdmin(t, dbtest.Pooler(t, url, "transaction", 2)+"&default_query_exec_mode=exec")
	r.why(id, admin.Running, "!Its handler has run")
	r.admin = openAdmin(t, url+"&default_transaction_read_only=on")
	x := r.why(id, admin.Running)
	if len(x.Missing) != 1 || !strings.Contains(x.Missing[0].Why, "default_transaction_read_only") {
		t.Errorf("missing %+v", x.Missing)
	}
	if d, err := r.admin.Doctor(t.Context()); err != nil || len(d.Missing) != 1 || len(d.Findings) > 0 && d.Findings[len(d.Findings)-1].Code != admin.SettingUnsafe {
		t.Errorf("%+v, %v", d, err)
	}
}
