package schema_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/schema"
	"github.com/backfillhq/go/testutil/pgtest"
)

// job is what the tests look at of a row of _private_jobs.
type job struct {
	ID          int64
	Task, Queue *string
	Payload     string
	Priority    int16
	RunAt       string // "past", "future": see oldRunAt and newRunAt.
	Attempts    int16
	MaxAttempts int16
	LastError   *string
	Key         *string
	LockedBy    *string
	Revision    int
	Flags       *string
	Touched     bool // Whether updated_at moved.
}

const (
	oldRunAt = "2030-01-01 00:00:00+00"
	newRunAt = "2040-02-02 00:00:00.123456+00"
	oldTouch = "2000-01-01 00:00:00+00"
)

func jobs(t *testing.T, conn *pgx.Conn) []job {
	t.Helper()
	rows, err := conn.Query(t.Context(), `
		select j.id, t.identifier, q.queue_name, j.payload::text, j.priority,
			case j.run_at when '`+oldRunAt+`' then 'old' when '`+newRunAt+`' then 'new' else 'other' end,
			j.attempts, j.max_attempts, j.last_error, j.key, j.locked_by, j.revision, j.flags::text, j.updated_at <> '`+oldTouch+`'
		from graphile_worker._private_jobs j
		left join graphile_worker._private_tasks t on t.id = j.task_id
		left join graphile_worker._private_job_queues q on q.id = j.job_queue_id
		order by j.id`)
	if err != nil {
		t.Fatal(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[job])
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestJobKeys is the table of section 4.2: what a keyed add does to the job that has the key.
func TestJobKeys(t *testing.T) {
	t.Parallel()
	const (
		none        = ""
		fresh       = "attempts = 0"
		retried     = "attempts = 3, last_error = 'oops'"
		exhausted   = "attempts = 5, last_error = 'oops'"
		locked      = "attempts = 1, locked_at = now(), locked_by = 'pool-x'"
		staleLocked = "attempts = 1, locked_at = now() - interval '9 hours', locked_by = 'pool-x'"
	)
	old := job{
		ID: 1, Task: new("old task"), Queue: new("old queue"), Payload: `{"old": 1}`, Priority: 7, RunAt: "old",
		MaxAttempts: 5, Key: new("k"), Flags: new(`{"old": true}`),
	}
	added := job{
		ID: 2, Task: new("new task"), Payload: `{"new" : [1, 1],"new":2}`, RunAt: "new", MaxAttempts: 25, Key: new("k"), Touched: true,
	}
	overwritten := added
	overwritten.ID, overwritten.Revision = 1, 1
	kept := overwritten
	kept.RunAt = "old"
	// with returns the old job after the state was set, and then the add.
	with := func(attempts int16, lastError, lockedBy *string) job {
		j := old
		j.Attempts, j.LastError, j.LockedBy = attempts, lastError, lockedBy
		return j
	}
	detached := func(j job) job {
		j.Key, j.Attempts, j.Touched = nil, j.MaxAttempts, true
		return j
	}
	bumped := func(j job) job {
		j.Revision, j.Touched = 1, true
		return j
	}
	first := added
	first.ID = 1
	for _, test := range []struct {
		state, mode string
		want        []job
		returned    int64
		notified    int
	}{
		{none, "replace", []job{first}, 1, 1},
		{none, "preserve_run_at", []job{first}, 1, 1},
		{none, "unsafe_dedupe", []job{first}, 1, 1},
		{fresh, "replace", []job{overwritten}, 1, 1},
		{fresh, "preserve_run_at", []job{kept}, 1, 1},
		{fresh, "unsafe_dedupe", []job{bumped(old)}, 1, 0},
		{retried, "replace", []job{overwritten}, 1, 1},
		{retried, "preserve_run_at", []job{overwritten}, 1, 1},
		{retried, "unsafe_dedupe", []job{bumped(with(3, new("oops"), nil))}, 1, 0},
		{exhausted, "replace", []job{detached(with(5, new("oops"), nil)), added}, 2, 1},
		{exhausted, "preserve_run_at", []job{detached(with(5, new("oops"), nil)), added}, 2, 1},
		{exhausted, "unsafe_dedupe", []job{bumped(with(5, new("oops"), nil))}, 1, 0},
		{locked, "replace", []job{detached(with(1, nil, new("pool-x"))), added}, 2, 1},
		{locked, "preserve_run_at", []job{detached(with(1, nil, new("pool-x"))), added}, 2, 1},
		{locked, "unsafe_dedupe", []job{bumped(with(1, nil, new("pool-x")))}, 1, 0},
		{staleLocked, "replace", []job{detached(with(1, nil, new("pool-x"))), added}, 2, 1},
		{staleLocked, "unsafe_dedupe", []job{bumped(with(1, nil, new("pool-x")))}, 1, 0},
	} {
		t.Run(fmt.Sprintf("%s on %q", test.mode, test.state), func(t *testing.T) {
			t.Parallel()
			url := pgtest.New(t).URL
			conn := dbtest.Connect(t, url)
			if test.state != none {
				dbtest.Run(t, conn, `select graphile_worker.add_job('old task', '{"old": 1}', 'old queue', '`+oldRunAt+`', 5, 'k', 7, '{old,old}')`)
				dbtest.Run(t, conn, `update graphile_worker._private_jobs set updated_at = '`+oldTouch+`', `+test.state)
			}
			heard := dbtest.Listen(t, url)
			id := dbtest.Get[int64](t, conn, `select id from graphile_worker.add_job('new task', '{"new" : [1, 1],"new":2}',
				run_at => '`+newRunAt+`', job_key => 'k', job_key_mode => '`+test.mode+`')`)
			if id != test.returned {
				t.Errorf("returned job %d, want %d", id, test.returned)
			}
			if diff := cmp.Diff(test.want, jobs(t, conn)); diff != "" {
				t.Errorf("jobs (-want +got):\n%s", diff)
			}
			if got := heard.Take(t); len(got) != test.notified {
				t.Errorf("notified %q, want %d", got, test.notified)
			}
		})
	}
}

func TestJobKeyModes(t *testing.T) {
	t.Parallel()
	conn := dbtest.Installed(t)
	for _, test := range []struct{ args, want string }{
		{"job_key => 'k', job_key_mode => 'nonsense'", "GWBKM"},
		{"job_key => 'k', job_key_mode => ''", "GWBKM"},
		{"job_key_mode => 'nonsense'", ""},
		{"job_key_mode => null", ""},
		{"job_key => 'k', job_key_mode => null", ""},
	} {
		_, err := conn.Exec(t.Context(), "select graphile_worker.add_job('a', "+test.args+")")
		if got := sqlState(err); got != test.want {
			t.Errorf("add_job with %s: SQLSTATE %q, want %q: %v", test.args, got, test.want, err)
		}
		if test.want == "GWBKM" {
			dbtest.Mentions(t, err, "Invalid job_key_mode value, expected 'replace', 'preserve_run_at' or 'unsafe_dedupe'.")
		}
	}
}

func TestArrayPayloadsMerge(t *testing.T) {
	t.Parallel()
	conn := dbtest.Installed(t)
	for _, test := range []struct{ old, add, want string }{
		{`[1, {"a":1,"a":2}]`, `[ 2 ]`, `[1, {"a": 2}, 2]`},
		{`[]`, `[]`, `[]`},
		{`[1]`, `{"x" : 1}`, `{"x" : 1}`},
		{`{"x":1}`, `[ 1]`, `[ 1]`},
		{`{"x":1}`, `null`, `null`},
		{`"s"`, `"\u0000"`, `"\u0000"`},
	} {
		key := test.old + test.add
		dbtest.Run(t, conn, "select graphile_worker.add_job('a', $1::text::json, job_key => $2)", test.old, key)
		got := dbtest.Get[string](t, conn, "select payload::text from graphile_worker.add_job('a', $1::text::json, job_key => $2)", test.add, key)
		if got != test.want {
			t.Errorf("%s after %s = %s, want %s", test.add, test.old, got, test.want)
		}
	}
	dbtest.Run(t, conn, `select graphile_worker.add_job('a', '[1]', job_key => 'nul')`)
	_, err := conn.Exec(t.Context(), `select graphile_worker.add_job('a', '["\u0000"]', job_key => 'nul')`)
	if got := sqlState(err); got != "22P05" {
		t.Errorf("merge of \\u0000: SQLSTATE %q, want 22P05: %v", got, err)
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	conn := dbtest.Installed(t)
	long := func(n int) string { return "'" + strings.Repeat("é", n) + "'" }
	for _, test := range []struct{ call, state, object string }{
		{"add_job(" + long(128) + ")", "", ""},
		{"add_job(" + long(129) + ")", "23514", "tasks_identifier_check"},
		{"add_job('')", "", ""},
		{"add_job(null)", "23502", "identifier"},
		{"add_job(null, job_key => 'd', job_key_mode => 'unsafe_dedupe')", "23502", "identifier"},
		{"add_job('a', queue_name => '')", "", ""},
		{"add_job('a', queue_name => " + long(128) + ")", "", ""},
		{"add_job('a', queue_name => " + long(129) + ")", "23514", "job_queues_queue_name_check"},
		{"add_job('a', job_key => " + long(512) + ")", "", ""},
		{"add_job('a', job_key => " + long(513) + ")", "23514", "jobs_key_check"},
		{"add_job('a', job_key => '')", "23514", "jobs_key_check"},
		{"add_job('a', max_attempts => 1)", "", ""},
		{"add_job('a', max_attempts => 0)", "23514", "jobs_max_attempts_check"},
		{"add_job('a', max_attempts => 32768)", "22003", ""},
		{"add_job('a', priority => -32768)", "", ""},
		{"add_job('a', priority => -32769)", "22003", ""},
		{"add_job('a', priority => 32768, job_key => 'p', job_key_mode => 'unsafe_dedupe')", "22003", ""},
		{"add_job('a', flags => array['x', null])", "22023", ""},
		{"add_jobs(array[('a',null,null,null,null,'twice',null,null)::graphile_worker.job_spec," +
			"('a',null,null,null,null,'twice',null,null)::graphile_worker.job_spec])", "21000", ""},
		{"reschedule_jobs(array(select id from graphile_worker._private_jobs), max_attempts => 0)", "23514", "jobs_max_attempts_check"},
	} {
		_, err := conn.Exec(t.Context(), "select graphile_worker."+test.call)
		if got := sqlState(err); got != test.state {
			t.Errorf("%s: SQLSTATE %q, want %q: %v", test.call, got, test.state, err)
		}
		if test.object != "" {
			dbtest.Mentions(t, err, test.object)
		}
	}
	if got := dbtest.Get[int](t, conn, "select count(*) from graphile_worker._private_tasks where length(identifier) > 128"); got != 0 {
		t.Errorf("%d tasks of failed calls are left", got)
	}
}

func TestDefaultsAndOrder(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t).URL
	conn := dbtest.Connect(t, url)
	got := dbtest.Get[string](t, conn, `select concat_ws(' ', payload, priority, max_attempts, attempts, revision, is_available,
		flags is null, job_queue_id is null, run_at = now(), created_at = now(), updated_at = now(), key is null) from graphile_worker.add_job('a')`)
	if want := "{} 0 25 0 0 t t t t t t t"; got != want {
		t.Errorf("defaults = %s, want %s", got, want)
	}
	for call, want := range map[string]string{
		"add_job('a', flags => '{}')":                                                  "-",
		"add_job('a', flags => '{b,a,b}')":                                             `{"a": true, "b": true}`,
		"add_job('a', '[1,  2]', flags => '{a}')":                                      `{"a": true}`,
		"add_job('a', job_key => 'd', flags => '{}', job_key_mode => 'unsafe_dedupe')": "-",
	} {
		if got := dbtest.Get[string](t, conn, "select coalesce(flags::text, '-') from graphile_worker."+call); got != want {
			t.Errorf("flags of %s = %s, want %s", call, got, want)
		}
	}
	const bulk = `
		select array_agg(payload::text::int order by o) from (
			select payload, row_number() over () as o from graphile_worker.add_jobs(array(
				select json_populate_record(null::graphile_worker.job_spec,
					json_build_object('identifier', 'task' || i % 7, 'payload', i, 'queue_name', nullif('q' || i % 3, 'q0')))
				from generate_series(1, 5000) as i order by i))) as added`
	order := dbtest.Get[[]int](t, conn, bulk)
	if len(order) != 5000 || !slices.IsSorted(order) {
		t.Errorf("add_jobs returned %d rows, sorted: %t", len(order), slices.IsSorted(order))
	}
	byID := dbtest.Get[[]int](t, conn, "select array_agg(payload::text::int order by id) from graphile_worker._private_jobs where json_typeof(payload) = 'number'")
	if !slices.IsSorted(byID) {
		t.Error("IDs do not follow the order of the specs")
	}
}

// TestIdentityValues is what revision 20 is about: known names cost no identity value.
func TestIdentityValues(t *testing.T) {
	t.Parallel()
	conn := dbtest.Connect(t, dbtest.EmptyURL(t))
	add := func() {
		dbtest.Run(t, conn, "select graphile_worker.add_job('a', queue_name => 'q')")
		dbtest.Run(t, conn, "select graphile_worker.add_job('a', queue_name => 'q', job_key => 'k', job_key_mode => 'unsafe_dedupe')")
	}
	const values = "select (select last_value from graphile_worker.tasks_id_seq) || ' ' || (select last_value from graphile_worker.job_queues_id_seq)"
	installWire(t, conn, 19)
	add()
	add()
	if got := dbtest.Get[string](t, conn, values); got != "4 4" {
		t.Errorf("at revision 19: values %s, want 4 4: each call consumes one", got)
	}
	migrate(t, conn, schema.Options{})
	add()
	add()
	if got := dbtest.Get[string](t, conn, values); got != "4 4" {
		t.Errorf("at revision 20: values %s, want 4 4: none is consumed", got)
	}
}

// TestLockedBetweenSteps pins the known race of section 4.4: the caller sees a null ID.
func TestLockedBetweenSteps(t *testing.T) {
	t.Parallel()
	url := dbtest.EmptyURL(t)
	adder, worker, observer := dbtest.Connect(t, url), dbtest.Connect(t, url), dbtest.Connect(t, url)
	migrate(t, adder, schema.Options{})
	dbtest.Run(t, adder, "select graphile_worker.add_job('a', job_key => 'k')")
	dbtest.Run(t, worker, "begin; update graphile_worker._private_jobs set locked_at = now(), locked_by = 'pool-x'")
	null := make(chan bool, 1)
	go func() {
		var isNull bool
		err := adder.QueryRow(t.Context(), "select id is null from graphile_worker.add_job('a', job_key => 'k')").Scan(&isNull)
		null <- err == nil && isNull
	}()
	dbtest.WaitBlocked(t, observer, adder.PgConn().PID())
	dbtest.Run(t, worker, "commit")
	select {
	case isNull := <-null:
		if !isNull {
			t.Error("add_job on a job that was locked in between returned a row")
		}
	case <-time.After(30 * time.Second):
		t.Fatal("add_job did not return")
	}
}
