package interop_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/backfill"
)

// What a keyed add can do to the job that has the key.
const (
	inserted    = "a new job, for there is none"
	overwritten = "the job, overwritten"
	moved       = "the job, overwritten except for run_at"
	bumped      = "the job, as it was"
	superseded  = "the job without its key, and a new one"
)

// keyTable is the table of contract section 4.2. A state is what is set in the row of the job that has the key.
var keyTable = []struct{ state, replace, preserve, dedupe string }{
	{"", inserted, inserted, inserted},
	{"attempts = 0", overwritten, moved, bumped},
	{"attempts = 3, last_error = 'oops'", overwritten, overwritten, bumped},
	{"attempts = 5, last_error = 'oops'", superseded, superseded, bumped},
	{"attempts = 1, locked_by = 'pool-x', locked_at = '2100-01-01'", superseded, superseded, bumped},
	{"attempts = 1, locked_by = 'pool-x', locked_at = '2000-01-01'", superseded, superseded, bumped},
}

// testRows enqueues the same in Node and in Go, and compares all that is left in the database.
func testRows(f *fixture) {
	twins := twins{fixture: f, node: startPeer(f)}
	testKeyTable(twins)
	testExtremes(twins)
	testAddJobs(twins, false)
	testAddJobs(twins, true)
	testLimits(twins)
	twins.node.stop()
	twins.node.wantNoComplaint()
}

func testKeyTable(twins twins) {
	request := backfill.Request{
		Task: "new", Args: json.RawMessage(`{"b":1,"a":[1,2]}`), RunAt: due, MaxAttempts: 6, Key: "k", Flags: []string{"b", "a", "b"},
	}
	for _, test := range keyTable {
		for mode, want := range map[backfill.KeyMode]string{
			backfill.Replace: test.replace, backfill.PreserveRunAt: test.preserve, backfill.UnsafeDedupe: test.dedupe,
		} {
			request.KeyMode = mode
			if got := twins.add(test.state, request).outcome(); got != want {
				twins.Errorf("%s where %q: %s, want %s", mode, test.state, got, want)
			}
		}
	}
}

// testExtremes adds a job with nothing, jobs with as much as there can be, and arrays, which are merged with an array.
func testExtremes(twins twins) {
	long := strings.Repeat
	for _, request := range []backfill.Request{
		{Task: "new"},
		{Task: "new", Key: "k"},
		{Task: "new", Queue: "old queue", Key: "k", KeyMode: backfill.Replace},
		{Task: "new", Args: json.RawMessage(`[2,{"c":3,"b":4}]`), Key: "k"},
		{Task: "new", Args: json.RawMessage(`[]`), Key: "k", KeyMode: backfill.PreserveRunAt},
		{Task: "new", Args: json.RawMessage(`[2]`), Key: "k", KeyMode: backfill.UnsafeDedupe},
		{Task: "new", Args: json.RawMessage(`[2]`), Key: "another"},
		{Task: long("𝕊", 128), Queue: long("é", 128), Key: long("𝕊", 512), Priority: 32767, MaxAttempts: 32767},
		{Task: "new", Priority: -32768, MaxAttempts: 1, Flags: []string{`"ü\`}, RunAt: time.Date(1000, 1, 1, 0, 0, 0, 0, time.UTC)},
	} {
		twins.add(`payload = '[1, {"a":1,"a":2}]'`, request)
	}
}

// testAddJobs adds jobs with all kinds of keys in one call.
func testAddJobs(twins twins, preserve bool) {
	const old = `
		select graphile_worker.add_job('old', '{"old":1}', 'old queue', '2030-01-01', 5, job_key) from
			unnest('{a waiting,b tried,c exhausted,d running}'::text[]) as job_key;
		update graphile_worker._private_jobs set attempts = 1, last_error = 'oops' where key = 'b tried';
		update graphile_worker._private_jobs set attempts = 5, last_error = 'oops' where key = 'c exhausted';
		update graphile_worker._private_jobs set locked_by = 'pool-x', locked_at = '2100-01-01' where key = 'd running'`
	mode := backfill.Replace
	if preserve {
		mode = backfill.PreserveRunAt
	}
	var requests []backfill.Request
	var specs []map[string]any
	for _, key := range []string{"a waiting", "b tried", "c exhausted", "d running", "e new", ""} {
		request := backfill.Request{
			Task: "new " + key, Args: json.RawMessage(`{"new":1}`), Queue: "queue", Key: key, RunAt: due, Priority: 3,
		}
		spec := taskSpec(request)
		spec["identifier"], spec["payload"] = request.Task, request.Args
		if key != "" {
			request.KeyMode = mode
		}
		requests, specs = append(requests, request), append(specs, spec)
	}
	got := twins.compare(old, requests, func() (id int64) {
		twins.node.do(map[string]any{"request": "addJobs", "specs": specs, "preserveRunAt": preserve, "options": twins.node.options})
		return 0
	})
	if len(got.Rows) != 8 {
		twins.Errorf("%d jobs, want 8: of 6 requests 2 overwrite one of 4", len(got.Rows))
	}
}

// testLimits sends what neither may accept (contract section 4.3).
func testLimits(twins twins) {
	f, node := twins.fixture, twins.node
	f.reset(oldJob("payload = '[]'"))
	before := f.leftovers(0)
	long := func(n int) string { return strings.Repeat("é", n) }
	for _, test := range []struct {
		request    backfill.Request
		node, inGo string // of the error
	}{
		{backfill.Request{Task: long(129)}, "tasks_identifier_check", "task name has 129 characters"},
		{backfill.Request{Task: "new", Queue: long(129)}, "job_queues_queue_name_check", "queue has 129 characters"},
		{backfill.Request{Task: "new", Key: long(513)}, "jobs_key_check", "key has 513 characters"},
		{backfill.Request{Task: "new", MaxAttempts: -1}, "jobs_max_attempts_check", "max_attempts is -1"},
		{backfill.Request{Task: "new", MaxAttempts: 32768}, "smallint out of range", "max_attempts is 32768"},
		{backfill.Request{Task: "new", Key: "k", KeyMode: "nonsense"}, "Invalid job_key_mode value", "unknown key mode"},
		{backfill.Request{Task: "new", Key: "k", Args: json.RawMessage(`["\u0000"]`)}, "unsupported Unicode escape", `args contain \u0000`},
	} {
		reply := node.try(map[string]any{
			"request": "add", "task": test.request.Task, "payload": test.request.Args, "spec": taskSpec(test.request),
			"options": node.options,
		})
		if !strings.Contains(reply.Error, test.node) {
			f.Errorf("Node says %q, want %q", reply.Error, test.node)
		}
		if _, err := f.client.Enqueue(f.Context(), test.request); err == nil || !strings.Contains(err.Error(), test.inGo) {
			f.Errorf("Go says %v, want %q", err, test.inGo)
		}
	}
	if diff := cmp.Diff(before, f.leftovers(0)); diff != "" {
		f.Errorf("what was refused left something (-before +after):\n%s", diff)
	}
}

// twins do the same in Node and in Go.
type twins struct {
	*fixture

	node *peer
}

// add adds a job beside one that has the key k, if it has a state, and returns what both leave.
func (w twins) add(state string, request backfill.Request) leftovers {
	w.Helper()
	return w.compare(oldJob(state), []backfill.Request{request}, func() (id int64) {
		return w.node.add(request.Task, request.Args, taskSpec(request)).ID
	})
}

// compare adds jobs in Node and in Go, each time after a set-up, and returns what both leave.
func (w twins) compare(setup string, requests []backfill.Request, addInNode func() (id int64)) leftovers {
	w.Helper()
	w.reset(setup)
	left := w.leftovers(addInNode())
	w.reset(setup)
	jobs, err := w.client.Enqueue(w.Context(), requests...)
	if err != nil {
		w.Fatal(err)
	}
	var id int64
	if len(jobs) == 1 {
		id = jobs[0].ID
	}
	if diff := cmp.Diff(left, w.leftovers(id)); diff != "" {
		w.Errorf("%.500s after %s (-Node +Go):\n%s", must(json.Marshal(requests)), setup, diff)
	}
	return left
}

// taskSpec is a request as Graphile Worker's TaskSpec, without task and payload.
func taskSpec(r backfill.Request) map[string]any {
	spec := map[string]any{}
	for option, value := range map[string]any{
		"queueName": r.Queue, "jobKey": r.Key, "jobKeyMode": r.KeyMode,
		"priority": r.Priority, "maxAttempts": r.MaxAttempts, "runAt": r.RunAt,
	} {
		if !reflect.ValueOf(value).IsZero() {
			spec[option] = value
		}
	}
	if len(r.Flags) > 0 {
		spec["flags"] = r.Flags
	}
	return spec
}

// oldJob adds a job with the key k.
func oldJob(state string) string {
	if state == "" {
		return ""
	}
	return `select graphile_worker.add_job('old', '{"old":1}', 'old queue', '2030-01-01 00:00:00.000001Z', 5, 'k', 7, '{old}');
		update graphile_worker._private_jobs set ` + state
}

// reset makes the set-up all that there is, and old.
func (f *fixture) reset(setup string) {
	f.Helper()
	f.execute(`delete from graphile_worker.backfill_dlq; delete from graphile_worker._private_jobs; delete from graphile_worker._private_job_queues;
		delete from graphile_worker._private_tasks; ` + setup + `;
		update graphile_worker._private_jobs set created_at = '2000-01-01', updated_at = '2000-01-01'`)
}

// execute runs a statement; or several, if they have no args.
func (f *fixture) execute(sql string, args ...any) {
	f.Helper()
	args = append([]any{pgx.QueryExecModeSimpleProtocol}, args...)
	if _, err := f.db.Pool().Exec(f.Context(), sql, args...); err != nil {
		f.Fatal(err)
	}
}

// leftovers are all that enqueuing leaves, without what differs each time.
type leftovers struct {
	Rows     []row
	Names    []string
	Returned int // the place of the job that was returned; 0 if it is not known
}

// A row is a row of the table of jobs.
type row struct {
	Queue       *string
	Task        string
	Payload     string
	Priority    int
	RunAt       *time.Time // nil: when it was enqueued
	Attempts    int
	MaxAttempts int
	LastError   *string
	Created     bool // since the set-up
	Updated     bool
	Key         *string
	LockedAt    *time.Time
	LockedBy    *string
	Revision    int
	Flags       *string
	IsAvailable bool
}

func (f *fixture) leftovers(returned int64) (left leftovers) {
	f.Helper()
	rows, err := f.db.Pool().Query(f.Context(), `
		select q.queue_name, t.identifier, j.payload::text, j.priority, nullif(j.run_at, j.updated_at), j.attempts, j.max_attempts,
			j.last_error, j.created_at <> '2000-01-01', j.updated_at <> '2000-01-01', j.key, j.locked_at, j.locked_by, j.revision,
			j.flags::text, j.is_available
		from graphile_worker._private_jobs j
		join graphile_worker._private_tasks t on t.id = j.task_id
		left join graphile_worker._private_job_queues q on q.id = j.job_queue_id
		order by j.id`)
	if err != nil {
		f.Fatal(err)
	}
	if left.Rows, err = pgx.CollectRows(rows, pgx.RowToStructByPos[row]); err != nil {
		f.Fatal(err)
	}
	left.Names = f.lines(`select 'task ' || identifier from graphile_worker._private_tasks
		union all select 'queue ' || queue_name from graphile_worker._private_job_queues order by 1`)
	const place = "select case when $1 > 0 then count(*) else 0 end from graphile_worker._private_jobs where id <= $1::bigint"
	if err := f.db.Pool().QueryRow(f.Context(), place, returned).Scan(&left.Returned); err != nil {
		f.Fatal(err)
	}
	return left
}

// outcome says what has become of the job with the key k.
func (l leftovers) outcome() string {
	last := l.Rows[len(l.Rows)-1]
	switch {
	case len(l.Rows) == 2 && l.Rows[0].Key == nil && *last.Key == "k" && l.Returned == 2:
		return superseded
	case len(l.Rows) > 1 || *last.Key != "k" || l.Returned != 1:
		return "something else"
	case last.Revision == 0:
		return inserted
	case last.Task == "old":
		return bumped
	case last.RunAt.Equal(due):
		return overwritten
	}
	return moved
}
