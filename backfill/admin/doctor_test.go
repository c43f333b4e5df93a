package admin_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"runtime/pprof"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/backfill/admin"
	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/testutil/pgtest"
)

// diagnose asks the doctor, and leaves out the settings of the servers of tests, which are fast and
// not safe.
func diagnose(t *testing.T, a *admin.Admin) (found []admin.Finding) {
	t.Helper()
	d, err := a.Doctor(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range d.Findings {
		if f.Code != admin.SettingUnsafe {
			found = append(found, f)
		}
	}
	if len(d.Missing) > 0 {
		t.Errorf("missing %+v", d.Missing)
	}
	return found
}

func (r *rig) healthy() {
	r.Helper()
	for _, f := range diagnose(r.T, r.admin) {
		r.Errorf("found %s: %s", f.Code, f.Text)
	}
}

// finds checks that there is one finding, and what it says.
func (r *rig) finds(code admin.FindingCode, parts ...string) admin.Finding {
	r.Helper()
	found := diagnose(r.T, r.admin)
	if len(found) != 1 || found[0].Code != code {
		r.Fatalf("found %+v, want one %s", found, code)
	}
	text := found[0].Text
	for _, remedy := range found[0].Remedies {
		text += "\n" + remedy.Text + "\n" + remedy.Command
	}
	for _, part := range parts {
		if !strings.Contains(text, part) {
			r.Errorf("%q is not in: %s", part, text)
		}
	}
	return found[0]
}

func TestDoctorFindsNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.healthy()
	r.work(2, "sync")
	stop := make(chan struct{})
	ended := make(chan struct{})
	go func() { // steady traffic
		defer close(ended)
		conn := dbtest.Connect(t, r.db.URL)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
			dbtest.Run(t, conn, `select graphile_worker.add_job('sync', '{"quick": true}', queue_name := 'q' || $1::int % 3, job_key := 'k' || $1)`, i)
		}
	}()
	for range 5 {
		r.healthy()
	}
	close(stop)
	<-ended
}

func TestDoctorFindsWhatWasChanged(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		sql   string
		code  admin.FindingCode
		parts []string
	}{
		"function": {
			`create or replace function graphile_worker.complete_jobs(job_ids bigint[]) returns setof graphile_worker._private_jobs language sql as
			'delete from graphile_worker._private_jobs where id = any(job_ids) returning *'`, admin.FunctionChanged, []string{"complete_jobs", "not what Graphile Worker"},
		},
		"no function": {"drop function graphile_worker.remove_job", admin.FunctionChanged, []string{"remove_job", "not there"}},
		"trigger": {
			`create function public.f() returns trigger language plpgsql as 'begin return new; end';
			create trigger audit before insert on graphile_worker._private_jobs for each row execute function public.f()`,
			admin.TriggerForeign,
			[]string{`"audit"`, "_private_jobs", "public.f", "drop trigger"},
		},
		"dangling task": {
			"select graphile_worker.add_job('sync'); delete from graphile_worker._private_tasks", admin.DanglingTask, []string{"task id", "no worker will ever"},
		},
		"dangling queue": {
			"select graphile_worker.add_job('sync', queue_name := 'q'); delete from graphile_worker._private_job_queues", admin.DanglingQueue, []string{"queue id", "no worker will ever"},
		},
		"failed keys": {
			`select graphile_worker.add_job('sync', job_key := 'key ' || i) from generate_series(1, 3) as i;
			update graphile_worker._private_jobs set attempts = max_attempts, last_error = 'x'`, admin.FailedKeys, []string{"3 keys", `"sync"`, `"key 1", "key 2", "key 3"`, "unsafe_dedupe"},
		},
		"nobody serves a task": {
			`select graphile_worker.add_job('sync', run_at := now() - interval '2 hours') from generate_series(1, 40)`,
			admin.TaskUnserved,
			[]string{"40 jobs", `"sync"`, "2 h 0 min"},
		},
		"a locked queue without a job": {
			`select graphile_worker.add_job('sync', queue_name := 'q', run_at := now() + interval '1 hour');
			update graphile_worker._private_job_queues set locked_by = 'pool-123456789abcdef012', locked_at = now() - interval '5 minutes'`,
			admin.QueueUnlocked,
			[]string{`"q"`, "pool-123456789abcdef012", "free this queue alone"},
		},
		"the end of a sequence": {
			`select setval('graphile_worker.job_queues_id_seq', 2147000000)`, admin.SequenceNearEnd, []string{"job_queues_id_seq", "483647"},
		},
		"dead rows": {
			`alter table graphile_worker._private_jobs set (autovacuum_enabled = off);
			insert into graphile_worker._private_jobs (task_id) select 1 from generate_series(1, 150000); delete from graphile_worker._private_jobs`,
			admin.VacuumBehind,
			[]string{"_private_jobs", "15000", "dead rows", "vacuum (analyze)"},
		},
		"names of queues": {
			`insert into graphile_worker._private_job_queues (queue_name) select 'user:' || i from generate_series(1, 25000) as i`, admin.QueueNames, []string{"25000 of 25000"},
		},
		"the Rust port": {
			`create table graphile_worker._private_workers (id text)`, admin.LedgerForeign, []string{"Rust", "_private_workers", "nothing of them is missing"},
		},
		"rows of the Rust port": {
			`create table graphile_worker._private_workers (id text); update graphile_worker.migrations set breaking = false where id = 19`,
			admin.LedgerForeign,
			[]string{"Rows 19 and 20 of graphile_worker.migrations are not Graphile Worker's", "The Rust port's", "version 0.16 do not refuse", "migrate --dry-run"},
		},
		"a row of somebody's": {
			`update graphile_worker.migrations set breaking = false where id = 19; delete from graphile_worker.migrations where id = 20`,
			admin.LedgerForeign,
			[]string{"Row 19 of graphile_worker.migrations is not Graphile Worker's", "Somebody else's"},
		},
		"a breaking revision": {
			`insert into graphile_worker.migrations (id, breaking) values (99, true)`, admin.SchemaUnusable, []string{"99", "breaking"},
		},
		"no schema": {`drop schema graphile_worker cascade`, admin.SchemaUnusable, []string{"has no jobs", "backfill migrate"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			if name == "dead rows" { // the statistics come later
				r.run("select graphile_worker.add_job('sync')")
			}
			execute(t, r.db, test.sql)
			if name == "dead rows" {
				dbtest.Until(t, func() bool {
					return dbtest.Get[int](t, r.db.Pool(), "select n_dead_tup::int from pg_stat_user_tables where relname = '_private_jobs'") >= 150_000
				})
			}
			r.finds(test.code, test.parts...)
		})
	}
}

// execute runs statements in one transaction.
func execute(t *testing.T, db *pgtest.Database, sql string) {
	t.Helper()
	if _, err := dbtest.Connect(t, db.URL).PgConn().Exec(t.Context(), sql).ReadAll(); err != nil {
		t.Fatalf("%v: %s", err, sql)
	}
}

func TestDoctorFindsAnInterruptedBuild(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.run("drop index graphile_worker.backfill_jobs_queue_idx")
	reader := dbtest.Connect(t, r.db.URL)
	tx, err := reader.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dbtest.Run(t, tx, "select graphile_worker.add_job('sync')")
	builder := dbtest.Connect(t, r.db.URL)
	dbtest.Run(t, builder, "set statement_timeout = '1s'")
	_, err = builder.Exec(t.Context(), `create index concurrently backfill_jobs_queue_idx on graphile_worker._private_jobs (job_queue_id, priority, run_at, id)
		include (task_id) where is_available and job_queue_id is not null`)
	if err == nil {
		t.Fatal("it was built")
	}
	_ = tx.Rollback(t.Context())
	r.finds(admin.IndexBroken, "backfill_jobs_queue_idx", "not valid", "drop index concurrently", "backfill migrate")
}

func TestDoctorFindsOwnersAndRights(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	conn := dbtest.Connect(t, r.db.URL)
	role, owner := dbtest.NewRole(t, conn), dbtest.NewRole(t, conn)
	name := strings.ReplaceAll(strings.Trim(role, `"`), `""`, `"`)
	grant(t, conn, name)
	r.healthy()
	r.run("revoke update on graphile_worker._private_job_queues from " + role)
	f := r.finds(admin.RightMissing, "worker", "update", "_private_job_queues")
	if f.Object != name {
		t.Errorf("role %q, want %q", f.Object, name)
	}
	for _, remedy := range f.Remedies {
		execute(t, r.db, remedy.Command)
	}
	r.healthy()
	r.run("alter table graphile_worker._private_job_queues owner to " + owner)
	found := diagnose(t, r.admin)
	if !slices.ContainsFunc(found, func(f admin.Finding) bool { return f.Code == admin.OwnerDiffers && f.Object == "_private_job_queues" }) {
		t.Errorf("found %+v", found)
	}
	r.run("alter table graphile_worker._private_job_queues owner to current_user")
}

// A transaction that holds back vacuum is found, if there is something to remove.
func TestDoctorFindsWhoHoldsRows(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	conn := dbtest.Connect(t, r.db.URL)
	dbtest.Run(t, conn, "set application_name = 'reports'")
	tx, err := conn.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err != nil {
		t.Fatal(err)
	}
	dbtest.Run(t, tx, "select count(*) from graphile_worker._private_jobs")
	r.run("select graphile_worker.add_job('sync')")
	r.run("insert into graphile_worker._private_jobs (task_id) select 1 from generate_series(1, 200000)")
	r.run("delete from graphile_worker._private_jobs")
	dbtest.Until(t, func() bool {
		return dbtest.Get[bool](t, r.db.Pool(), `select n_dead_tup > 150000 and (select clock_timestamp() - xact_start > '6 s' from pg_stat_activity where pid = $1)
			from pg_stat_user_tables where relname = '_private_jobs'`, conn.PgConn().PID())
	})
	f := r.finds(admin.SnapshotHeld, "reports", "pg_terminate_backend(")
	if f.Sessions[0].PID != int(conn.PgConn().PID()) {
		t.Errorf("session %+v", f.Sessions[0])
	}
	_ = tx.Rollback(t.Context())
}

func TestDoctorFindsAPooler(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	through := dbtest.Pooler(t, r.db.URL, "transaction", 2)
	r.admin = openAdmin(t, through+"&default_query_exec_mode=exec")
	r.finds(admin.ListenFails, "pooler", "WithListenURL")
}

func TestDoctorFindsSettings(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	execute(t, r.db, "alter database "+r.db.Pool().Config().ConnConfig.Database+" set synchronous_commit = off")
	d, err := openAdmin(t, r.db.URL).Doctor(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(d.Findings, func(f admin.Finding) bool { return f.Code == admin.SettingUnsafe && f.Object == "synchronous_commit" }) {
		t.Errorf("found %+v", d.Findings)
	}
}

// What is somebody else's, or goes on at this moment, is no finding.
func TestDoctorFindsNothingOfOthers(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"jobs", "s", `we"ird.name`} {
		db := pgtest.New(t, pgtest.WithSchema(name))
		(&rig{T: t, db: db, admin: openAdmin(t, db.URL, admin.WithSchema(name))}).healthy()
	}
	r := newRig(t)
	role := dbtest.NewRole(t, dbtest.Connect(t, r.db.URL))
	r.run("grant all on schema graphile_worker to " + role)
	execute(t, r.db, `do $$ begin for i in 1..60 loop
		execute 'create view graphile_worker.report' || i || ' as select 1 as x';
		execute 'alter view graphile_worker.report' || i || ' owner to `+role+`'; end loop; end $$;
		create sequence graphile_worker.mine maxvalue 10; select setval('graphile_worker.mine', 9);
		create function graphile_worker.add_job(a int) returns int language sql as 'select 1'`)
	r.healthy()

	tx := begin(t, r.db.URL)
	dbtest.Run(t, tx, "select graphile_worker.add_job('sync')")
	builder := dbtest.Connect(t, r.db.URL)
	ended := make(chan error, 1)
	go func() {
		_, err := builder.Exec(t.Context(), "create index concurrently by_creation on graphile_worker._private_jobs (created_at)")
		ended <- err
	}()
	dbtest.Until(t, func() bool {
		return dbtest.Get[bool](t, r.db.Pool(), "select exists (select from pg_index where not indisvalid)")
	})
	r.healthy()
	_ = tx.Rollback(t.Context())
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// An index that has kept its size is found by what it holds for nothing.
func TestDoctorFindsABloatedIndex(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.admin.SpareBytes(4 << 20)
	r.run("select graphile_worker.add_job('sync')")
	r.run("insert into graphile_worker._private_jobs (task_id, key) select 1, i || repeat('x', 100) from generate_series(1, 40000) as i")
	r.run("analyze graphile_worker._private_jobs")
	r.healthy()
	r.run("delete from graphile_worker._private_jobs")
	dbtest.Until(t, func() bool { // up to PostgreSQL 14 statistics come later, also after those of a vacuum
		r.run("vacuum analyze graphile_worker._private_jobs")
		return dbtest.Get[bool](t, r.db.Pool(), "select n_live_tup = 0 and n_dead_tup = 0 from pg_stat_user_tables where relname = '_private_jobs'")
	})
	f := r.finds(admin.IndexBloated, "jobs_key_key", "reindex index concurrently")
	r.run(f.Remedies[0].Command)
	r.healthy()
}

// Beyond the first rows the doctor looks when it is told to.
func TestDoctorDeep(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.run("select graphile_worker.add_job('sync', priority := 100)")
	r.run("insert into graphile_worker._private_jobs (task_id, run_at) select id, now() + interval '1 hour' from graphile_worker._private_tasks, generate_series(1, 200000)")
	r.run("update graphile_worker._private_jobs set task_id = 4711, run_at = now() + interval '1 hour' where priority = 100")
	r.healthy()
	d, err := r.admin.Doctor(t.Context(), admin.DoctorOptions{Deep: true})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(d.Findings, func(f admin.Finding) bool { return f.Code == admin.DanglingTask && f.Object == "4711" && f.Count == 1 }) {
		t.Errorf("found %+v", d.Findings)
	}
}

// What jobs leave behind is found by task; what a library starts for all is not.
func TestDoctorFindsLeaks(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	forgotten := make(chan struct{})
	t.Cleanup(func() { close(forgotten) })
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(server.Close)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100}}
	t.Cleanup(client.CloseIdleConnections)
	call := func(ctx context.Context, _ args) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL, nil)
		if err != nil {
			return err
		}
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		return response.Body.Close()
	}
	leak := func(_ context.Context, _ args) error {
		go func() {
			never := make(chan struct{})
			select {
			case <-never:
			case <-forgotten:
			}
		}()
		return nil
	}
	w, err := r.client.NewWorker(backfill.NewRegistry(
		backfill.Handle(&backfill.Task[args]{Name: "leak"}, leak), backfill.Handle(&backfill.Task[args]{Name: "call"}, call),
	), backfill.WithConcurrency(80), backfill.WithLogger(quiet))
	if err != nil {
		t.Fatal(err)
	}
	runWorker(t, w)
	r.run("select graphile_worker.add_job('call') from generate_series(1, 200)")
	r.done()
	r.healthy()
	r.run("select graphile_worker.add_job('leak') from generate_series(1, 60)")
	r.done()
	if leaksAreCertain() {
		r.healthy() // they would end, if somebody closed the channel
		return
	}
	f := r.finds(admin.GoroutinesLeak, "60 jobs of the task \"leak\"", "60 goroutines", "worker pool-")
	if f.Count != 60 || !strings.Contains(f.Stack, "TestDoctorFindsLeaks") {
		t.Errorf("found %+v", f)
	}
}

// What ends soon after its job is no leak, however much of it there is at each moment.
func TestDoctorFindsNoLeakInWhatEnds(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var briefly atomic.Int64
	w, err := r.client.NewWorker(backfill.NewRegistry(backfill.Handle(&backfill.Task[args]{Name: "brief"}, func(context.Context, args) error {
		briefly.Add(1)
		go func() {
			defer briefly.Add(-1)
			<-time.After(300 * time.Millisecond)
		}()
		return nil
	})), backfill.WithConcurrency(20), backfill.WithLogger(quiet))
	if err != nil {
		t.Fatal(err)
	}
	runWorker(t, w)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			_, _ = r.db.Pool().Exec(ctx, "select graphile_worker.add_job('brief') from generate_series(1, 100)")
			select {
			case <-ctx.Done():
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	dbtest.Until(t, func() bool { // so that there is much of it
		return briefly.Load() > 100
	})
	for range 3 {
		r.healthy()
	}
	cancel()
	<-ended
}

// leaksAreCertain reports whether this version of Go knows which goroutines can never end.
func leaksAreCertain() bool { return pprof.Lookup("goroutineleak") != nil }

// From Go 1.27 on, a goroutine that nobody can wake is found for certain.
func TestDoctorFindsCertainLeaks(t *testing.T) {
	t.Parallel()
	if !leaksAreCertain() {
		t.Skip("this version of Go cannot tell")
	}
	r := newRig(t)
	w, err := r.client.NewWorker(backfill.NewRegistry(backfill.Handle(&backfill.Task[args]{Name: "leak"}, func(context.Context, args) error {
		go func() { <-make(chan struct{}) }()
		return nil
	})), backfill.WithLogger(quiet))
	if err != nil {
		t.Fatal(err)
	}
	runWorker(t, w)
	r.run("select graphile_worker.add_job('leak') from generate_series(1, 20)")
	r.done()
	r.finds(admin.GoroutinesLeak, "20 goroutines", "can never end")
}

// done waits until there is no job.
func (r *rig) done() {
	r.Helper()
	dbtest.Until(r.T, func() bool {
		return dbtest.Get[int](r.T, r.db.Pool(), "select count(*)::int from graphile_worker._private_jobs") == 0
	})
}

// runWorker runs a worker until the test ends.
func runWorker(t *testing.T, w *backfill.Worker) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
