package infra_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/testutil/pgtest"
)

// hostileSettings are what an operator sets for a role or a database, with every application in
// mind but this one.
var hostileSettings = map[string][]string{
	"statement_timeout 1 ms":        {"statement_timeout = '1ms'"},
	"statement_timeout 100 ms":      {"statement_timeout = '100ms'"},
	"lock_timeout":                  {"lock_timeout = '1ms'"},
	"idle_in_transaction":           {"idle_in_transaction_session_timeout = '1ms'"},
	"idle_session":                  {"idle_session_timeout = '2s'"},
	"transaction_timeout":           {"transaction_timeout = '100ms'"},
	"serializable":                  {"default_transaction_isolation = serializable", "default_transaction_deferrable = on"},
	"repeatable read":               {"default_transaction_isolation = 'repeatable read'"},
	"search_path, empty":            {"search_path = ''"},
	"search_path, strangers":        {"search_path = evil, pg_catalog"},
	"TimeZone":                      {"timezone = 'Africa/Monrovia'"},
	"DateStyle, IntervalStyle":      {"datestyle = 'German'", "intervalstyle = 'sql_standard'"},
	"row_security":                  {"row_security = off"},
	"session_replication_role":      {"session_replication_role = replica"},
	"standard_conforming_strings":   {"standard_conforming_strings = off", "backslash_quote = on", "escape_string_warning = on"},
	"backslash_quote":               {"backslash_quote = off", "bytea_output = escape", "xmloption = document"},
	"array_nulls":                   {"array_nulls = off", "transform_null_equals = on", "extra_float_digits = -15"},
	"plans, no indexes":             {"enable_indexscan = off", "enable_indexonlyscan = off", "enable_bitmapscan = off", "enable_nestloop = off", "jit = off"},
	"plans, nothing else":           {"enable_hashjoin = off", "enable_mergejoin = off", "enable_sort = off", "enable_material = off", "enable_hashagg = off", "jit = off"},
	"plans, custom, jit":            {"plan_cache_mode = force_custom_plan", "jit = on", "jit_above_cost = 0", "from_collapse_limit = 1", "geqo_threshold = 2"},
	"memory":                        {"work_mem = '64kB'", "temp_buffers = '800kB'", "max_parallel_workers_per_gather = 8", "parallel_setup_cost = 0"},
	"client_encoding":               {"client_encoding = 'LATIN1'"},
	"client_min_messages, lc":       {"client_min_messages = debug5", "lc_messages = 'C'", "log_statement = 'none'"},
	"synchronous_commit":            {"synchronous_commit = off", "commit_delay = 1000"},
	"constraint exclusion, cursors": {"constraint_exclusion = on", "cursor_tuple_fraction = 0.01", "default_statistics_target = 1"},
	"default_tablespace":            {"default_tablespace = 'pg_default'", "temp_tablespaces = ''", "default_table_access_method = 'heap'"},
	"check_function_bodies":         {"check_function_bodies = off", "tcp_user_timeout = 100", "tcp_keepalives_idle = 1"},
}

// tooShort begins the names of settings with which a worker goes on, but may not get through its
// start: whatever takes longer than a millisecond is ended and tried again.
const tooShort = "statement_timeout 1 ms"

// ofTheApplication are settings that end an application's own statements, and those of its enqueues
// with them, as the application has asked for.
func ofTheApplication(err error) bool {
	says := func(code string) bool { return strings.Contains(err.Error(), code) }
	return says("57014") || says("55P03") || slices.ContainsFunc([]string{"57P01", "57P05", "25P03", "25P04", "08P01", "unexpected EOF"}, says)
}

// clash are settings that cannot be had together with others.
var clash = []string{"statement_timeout 1 ms", "repeatable read", "search_path, empty", "standard_conforming_strings", "transaction_timeout"}

func settingsTogether() (all []string) {
	for _, name := range slices.Sorted(maps.Keys(hostileSettings)) {
		if !slices.Contains(clash, name) {
			all = append(all, hostileSettings[name]...)
		}
	}
	return all
}

// set gives later sessions settings, except those that the server does not know.
func set(t *testing.T, admin *pgx.Conn, whose string, settings []string) {
	t.Helper()
	for _, setting := range settings {
		name, _, _ := strings.Cut(setting, " = ")
		if dbtest.Get[bool](t, admin, "select exists (select from pg_settings where lower(name) = lower($1))", name) {
			dbtest.Run(t, admin, "alter "+whose+" set "+setting)
		}
	}
}

// Whatever is set for the role or the database, jobs go round: they are enqueued, claimed, failed,
// tried again, rescued, and scheduled. With each setting alone, and with all together, on direct
// connections and through a transaction pooler.
func TestWorkUnderSettings(t *testing.T) {
	t.Parallel()
	long(t)
	type circumstance struct {
		name     string
		settings []string
		ofRole   bool
		pooled   bool
	}
	var all []circumstance
	for _, name := range slices.Sorted(maps.Keys(hostileSettings)) {
		all = append(all, circumstance{name, hostileSettings[name], false, false}, circumstance{name + ", pooled", hostileSettings[name], false, true})
	}
	for _, pooled := range []bool{false, true} {
		all = append(all, circumstance{fmt.Sprint("all together, pooled: ", pooled), settingsTogether(), false, pooled})
		all = append(all, circumstance{fmt.Sprint("all together for the role, pooled: ", pooled), settingsTogether(), true, pooled})
	}
	sideBySide(t, all, func(c circumstance) string { return c.name }, func(t *testing.T, c circumstance) {
		t.Helper()
		db := pgtest.New(t)
		admin := dbtest.Connect(t, db.URL) // a plain session, from before
		dbtest.NeedSuperuser(t, admin)
		url, whose := db.URL, "database "+dbtest.Get[string](t, admin, "select quote_ident(current_database())")
		if c.ofRole {
			role := newLogin(t, db.URL)
			dbtest.Run(t, admin, "alter role "+role.quoted()+" superuser")
			url, whose = role.url, "role "+role.quoted()+" in "+whose
		}
		if slices.Contains(c.settings, "search_path = evil, pg_catalog") {
			dbtest.Run(t, admin, dbtest.Strangers)
		}
		apply := func() { set(t, admin, whose, c.settings) }
		if !strings.HasPrefix(c.name, tooShort) {
			apply()
			apply = nil
		}
		if c.pooled {
			url = with(t, dbtest.Pooler(t, url, "transaction", 8), "default_query_exec_mode", "exec")
		}
		goRound(t, admin, url, c.pooled, apply)
	})
}

// goRound lets jobs of every kind go round. later, if there is one, is called once a worker runs:
// then all sessions are ended.
func goRound(t *testing.T, admin *pgx.Conn, url string, pooled bool, later func()) {
	t.Helper()
	dbtest.Run(t, admin, "insert into graphile_worker._private_known_crontabs values ('note', now() - interval '1 hour', now() - interval '2 minutes')")
	var log logbook
	defer log.show(t)
	client := open(t, url, &log)
	var failed, ticks atomic.Int64
	j := newJournal()
	task := &backfill.Task[job]{Name: "note"}
	registry := backfill.NewRegistry(backfill.Handle(task, func(ctx context.Context, args job) error {
		info := backfill.JobInfo(ctx)
		if info.Cron != nil {
			ticks.Add(1)
			return nil
		}
		if strings.HasPrefix(args.Fill, "fails é €") && info.Attempt == 1 {
			failed.Add(1)
			return backfill.RetryIn(10*time.Millisecond, errors.New(`broken: é € \ ' "`))
		}
		j.mu.Lock()
		defer j.mu.Unlock()
		j.ran[args.N]++
		return nil
	}, backfill.Cron("* * * * * ?fill=10m")))
	w := start(t, client, registry)
	if later != nil {
		later()
		dbtest.Run(t, admin, "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()")
	}
	refused := 0
	enqueue := func(fill string, opts ...backfill.EnqueueOption) {
		t.Helper()
		within(t, 20*time.Second, "an enqueue", func() bool {
			err := j.enqueue(t.Context(), client, task, fill, opts...)
			if err != nil && !ofTheApplication(err) {
				t.Fatalf("enqueue: %v", err)
			}
			refused += map[bool]int{true: 1}[err != nil]
			return err == nil
		})
	}
	for range 3 {
		enqueue("fails é €")
		enqueue("", backfill.Queue("q"))
		enqueue(`\ ' "`, backfill.Key("k"), backfill.Queue("q"), backfill.Delay(10*time.Millisecond))
	}
	id := dbtest.Get[int64](t, admin, `select id from graphile_worker.add_job('note', '{"n":1000}', queue_name := 'q', run_at := now() + interval '1 day')`)
	tx, err := admin.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dead := leave(t, tx, id)
	dbtest.Run(t, tx, "update graphile_worker._private_jobs set run_at = now() where id = $1", id)
	if pooled { // behind a pooler nobody knows of its process' end for 30 s
		dbtest.Run(t, tx, "update graphile_worker.backfill_workers set dead_at = now() where id = $1", dead)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	within(t, 20*time.Second, "all jobs", func() bool {
		w.lives()
		return dbtest.Get[int](t, admin, "select count(*)::int from graphile_worker._private_jobs where id <= $1", id) == 0
	})
	within(t, 20*time.Second, "the ticks", func() bool { return ticks.Load() >= 2 })
	j.mu.Lock()
	defer j.mu.Unlock()
	if failed.Load() != 3 || j.ran[1000] != 1 {
		t.Errorf("%d failures, want 3; the rescued job has run %d times", failed.Load(), j.ran[1000])
	}
	lines := log.from(slog.LevelWarn)
	for _, text := range lines {
		expected := strings.HasPrefix(text, "job ended outcome=failed") || strings.Contains(text, "dead") || strings.Contains(text, "owner="+dead)
		if later == nil && !expected {
			t.Errorf("logged: %s", text)
		}
	}
	if len(lines) > 30 {
		t.Errorf("%d lines", len(lines))
	}
	if refused > 0 {
		t.Logf("%d enqueues were refused, as the application's settings ask for", refused)
	}
}
