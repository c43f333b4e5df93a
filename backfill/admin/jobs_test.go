package admin_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/backfill/admin"
	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/schema"
	"github.com/backfillhq/go/testutil/pgtest"
)

// found returns the ids of all jobs that a filter matches, page by page, in the order of the list.
func found(t *testing.T, a *admin.Admin, filter admin.JobFilter, page admin.JobPage) (ids []int64) {
	t.Helper()
	for pages := 0; ; pages++ {
		list, err := a.Jobs(t.Context(), filter, page)
		if err != nil {
			t.Fatal(err)
		}
		if len(list.Missing) > 0 || pages > 10_000 {
			t.Fatalf("missing %+v after %d pages", list.Missing, pages)
		}
		if _, err := json.Marshal(list); err != nil {
			t.Fatal(err)
		}
		for _, job := range list.Jobs {
			ids = append(ids, job.ID)
		}
		if page.After = list.Next; page.After == "" {
			return ids
		}
	}
}

func sorted(ids []int64) []int64 {
	ids = slices.Clone(ids)
	slices.Sort(ids)
	return slices.Compact(ids)
}

// filters are one for each field, and what it means in SQL.
var filters = map[string]struct {
	set func(*admin.JobFilter)
	sql string
}{
	"states": {func(f *admin.JobFilter) { f.States = []admin.JobState{admin.JobDue, admin.JobFailed} }, `
		not coalesce(locked_at >= now() - interval '4 hours', false) and (attempts >= max_attempts or run_at <= now())`},
	"running": {func(f *admin.JobFilter) { f.States = []admin.JobState{admin.JobRunning} }, `
		locked_at >= now() - interval '4 hours' and coalesce(locked_by, '') not like 'backfill-suspect.%'`},
	"ids":        {func(f *admin.JobFilter) { f.IDs = []int64{3, 5, 7, 11, 100, 101, 102, 103, 599, 9999} }, "id in (3, 5, 7, 11, 100, 101, 102, 103, 599)"},
	"tasks":      {func(f *admin.JobFilter) { f.Tasks = []string{"a", "b", "no such"} }, "task_id in (select id from graphile_worker._private_tasks where identifier in ('a', 'b'))"},
	"queues":     {func(f *admin.JobFilter) { f.Queues = []string{"q"} }, "job_queue_id in (select id from graphile_worker._private_job_queues where queue_name = 'q')"},
	"no queue":   {func(f *admin.JobFilter) { f.NoQueue = true }, "job_queue_id is null"},
	"keys":       {func(f *admin.JobFilter) { f.Keys = many("k", 300) }, "substr(key, 2)::int <= 300"},
	"locked":     {func(f *admin.JobFilter) { f.Locked = true }, "locked_at is not null"},
	"locked by":  {func(f *admin.JobFilter) { f.LockedBy = []string{"0123456789abcdef", "pool-1"} }, "locked_by in ('pool-1', '0123456789abcdef.3k')"},
	"priority":   {func(f *admin.JobFilter) { f.MinPriority, f.MaxPriority = new(-1), new(5) }, "priority between -1 and 5"},
	"attempts":   {func(f *admin.JobFilter) { f.MinAttempts, f.MaxAttempts = new(0), new(1) }, "attempts between 0 and 1"},
	"run at":     {func(f *admin.JobFilter) { f.RunAtFrom = at("1970-01-01"); f.RunAtBefore = at("9999-01-01") }, "run_at >= '1970-01-01Z' and run_at < '9999-01-01Z'"},
	"created":    {func(f *admin.JobFilter) { f.CreatedFrom = at("2000-01-01") }, "created_at >= '2000-01-01Z'"},
	"created to": {func(f *admin.JobFilter) { f.CreatedBefore = at("2000-01-01") }, "created_at < '2000-01-01Z'"},
	"error":      {func(f *admin.JobFilter) { f.ErrorContains = "timed" }, "last_error like '%timed%' and octet_length(payload::text) < 32000"},
	"payload":    {func(f *admin.JobFilter) { f.PayloadContains = json.RawMessage(`{"n": 1}`) }, `payload::text like '{"n"%'`},
	"up to":      {func(f *admin.JobFilter) { f.UpToID = 300 }, "id <= 300"},
}

func at(day string) time.Time {
	at, err := time.Parse(time.DateOnly, day)
	if err != nil {
		panic(err)
	}
	return at
}

func many(prefix string, n int) (texts []string) {
	for i := range n {
		texts = append(texts, fmt.Sprint(prefix, i+1))
	}
	return texts
}

// Each field means what it says, of rows of any kind, and two fields mean what both say (X33, X199).
func TestJobsByFilter(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	dbtest.Scatter(t, dbtest.Connect(t, r.db.URL))
	all := found(t, r.admin, admin.JobFilter{}, admin.JobPage{Size: 7})
	if len(all) != 600 || !slices.IsSortedFunc(all, func(a, b int64) int { return int(b - a) }) {
		t.Fatalf("%d jobs are listed, or not the newest first", len(all))
	}
	if oldest := found(t, r.admin, admin.JobFilter{}, admin.JobPage{Size: 100, Oldest: true}); !slices.Equal(oldest, sorted(all)) {
		t.Errorf("%d jobs are listed, the oldest first: %v", len(oldest), oldest)
	}
	of := map[string][]int64{}
	for name, one := range filters {
		var filter admin.JobFilter
		one.set(&filter)
		of[name] = sorted(found(t, r.admin, filter, admin.JobPage{Size: 100}))
		want := dbtest.Get[[]int64](t, r.db.Pool(), "select coalesce(array_agg(id order by id), '{}') from graphile_worker._private_jobs where "+one.sql)
		if diff := cmp.Diff(want, of[name]); diff != "" || len(want) == 0 || len(want) == 600 {
			t.Errorf("%s matches %d jobs, want %d (-want +got):\n%s", name, len(of[name]), len(want), diff)
		}
	}
	for one := range filters {
		for other := range filters {
			if one >= other {
				continue
			}
			var filter admin.JobFilter
			filters[one].set(&filter)
			filters[other].set(&filter)
			if filter.Check() != nil || one == "running" && other == "states" {
				continue // they cannot be put together
			}
			want := slices.DeleteFunc(slices.Clone(of[one]), func(id int64) bool { return !slices.Contains(of[other], id) })
			if got := sorted(found(t, r.admin, filter, admin.JobPage{Size: 1000})); !slices.Equal(got, want) {
				t.Errorf("%s and %s match %v, want %v", one, other, got, want)
			}
		}
	}
}

// Each row can be shown, and explained, and nothing of a list fails for it.
func TestEachJobIsShown(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	dbtest.Scatter(t, dbtest.Connect(t, r.db.URL))
	for id := int64(1); id <= 600; id += 3 {
		job, err := r.admin.Job(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(job)
		if err != nil || job.Redacted && strings.Contains(string(text), "hunter22") { // it may be in the error of another
			t.Errorf("job %d: %v: %s", id, err, text)
		}
		if job.Payload == nil || !json.Valid(job.Payload) {
			t.Errorf("job %d has the payload %.100s", id, job.Payload)
		}
		if job.State == "" {
			t.Errorf("job %d has no state", id)
		}
	}
	if _, err := r.admin.Job(t.Context(), 9999); !errors.Is(err, admin.ErrNotFound) {
		t.Errorf("a job that is not there: %v", err)
	}
	list, err := r.admin.Jobs(t.Context(), admin.JobFilter{}, admin.JobPage{Size: 600})
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(list)
	if err != nil || strings.Contains(string(text), `"password":"hunter22"`) || len(text) > 600*6_000 {
		t.Errorf("the list has %d bytes, %v", len(text), err)
	}
	for _, ask := range []func(context.Context) (any, error){
		func(ctx context.Context) (any, error) { return r.admin.Counts(ctx) },
		func(ctx context.Context) (any, error) { return r.admin.Tasks(ctx) },
		func(ctx context.Context) (any, error) { return r.admin.Locks(ctx) },
		func(ctx context.Context) (any, error) { return r.admin.Workers(ctx) },
		func(ctx context.Context) (any, error) { return r.admin.Pauses(ctx) },
		func(ctx context.Context) (any, error) { return r.admin.LetterStats(ctx) },
		func(ctx context.Context) (any, error) {
			return r.admin.Queues(ctx, admin.QueueFilter{}, admin.NamePage{})
		},
		func(ctx context.Context) (any, error) { return r.admin.Crontabs(ctx, admin.NamePage{}) },
		func(ctx context.Context) (any, error) {
			return r.admin.Letters(ctx, admin.LetterFilter{}, admin.LetterPage{})
		},
	} {
		answer, err := ask(t.Context())
		if err != nil {
			t.Error(err)
		}
		text, err := json.Marshal(answer)
		if err != nil || strings.Contains(string(text), `"missing"`) {
			t.Errorf("%T: %s, %v", answer, text, err)
		}
	}
}

// Jobs that come and go between pages move no page that follows.
func TestJobsWhileTheyChange(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.run("select graphile_worker.add_job('sync') from generate_series(1, 30)")
	list, err := r.admin.Jobs(t.Context(), admin.JobFilter{}, admin.JobPage{Size: 10})
	if err != nil {
		t.Fatal(err)
	}
	r.run("select graphile_worker.add_job('sync') from generate_series(1, 30)")
	r.run("delete from graphile_worker._private_jobs where id between 19 and 22")
	rest := found(t, r.admin, admin.JobFilter{}, admin.JobPage{Size: 10, After: list.Next})
	if len(rest) != 18 || rest[0] != 18 || rest[17] != 1 {
		t.Errorf("the pages that follow have %v", rest)
	}
	for _, after := range []string{"x", "o1z", "n", "n!", list.Next + "."} {
		if _, err := r.admin.Jobs(t.Context(), admin.JobFilter{}, admin.JobPage{After: after}); !errors.Is(err, admin.ErrInvalid) {
			t.Errorf("the page %q: %v", after, err)
		}
	}
	if _, err := r.admin.Jobs(t.Context(), admin.JobFilter{}, admin.JobPage{Size: 1001}); !errors.Is(err, admin.ErrInvalid) {
		t.Errorf("a page that is too large: %v", err)
	}
}

// A list reads a bounded number of rows, and says where to go on. Jobs that run are found wherever they are.
func TestJobsAmongMany(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	running := r.add("'sync'")
	r.work(1, "sync")
	r.running(running)
	failed := r.add("'other', max_attempts := 1")
	r.run("update graphile_worker._private_jobs set attempts = 1 where id = $1", failed)
	r.run(`insert into graphile_worker._private_jobs (task_id, run_at)
	       select (select id from graphile_worker._private_tasks where identifier = 'other'), '2100-01-01' from generate_series(1, 240000)`)
	list, err := r.admin.Jobs(t.Context(), admin.JobFilter{States: []admin.JobState{admin.JobFailed}}, admin.JobPage{})
	if err != nil {
		t.Fatal(err)
	}
	if len(list.Jobs) != 0 || !list.Partial || list.Next == "" || list.Searched == 0 || list.Searched > 220_000 {
		t.Errorf("%d jobs, partial %v after %d, next %q", len(list.Jobs), list.Partial, list.Searched, list.Next)
	}
	if ids := found(t, r.admin, admin.JobFilter{States: []admin.JobState{admin.JobFailed}}, admin.JobPage{After: list.Next}); !slices.Equal(ids, []int64{failed}) {
		t.Errorf("the jobs that failed are %v", ids)
	}
	list, err = r.admin.Jobs(t.Context(), admin.JobFilter{States: []admin.JobState{admin.JobRunning}}, admin.JobPage{})
	if err != nil {
		t.Fatal(err)
	}
	if len(list.Jobs) != 1 || list.Jobs[0].ID != running || !list.Partial {
		t.Errorf("the jobs that run are %+v", list)
	}
	if ids := found(t, r.admin, admin.JobFilter{States: []admin.JobState{admin.JobRunning}}, admin.JobPage{Size: 1}); !slices.Equal(ids, []int64{running}) {
		t.Errorf("page by page, the jobs that run are %v", ids)
	}
	locks, err := r.admin.Locks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(locks.Locks) != 1 || locks.Locks[0].Holder != admin.HolderLives || len(locks.Locks[0].Jobs) != 1 || !locks.Partial {
		t.Errorf("the locks are %+v", locks)
	}
	counts, err := r.admin.Counts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if w := counts.Waiting; w.Exact || w.N < 160_000 || w.N > 320_000 || !strings.HasPrefix(w.String(), "≈ ") {
		t.Errorf("the jobs that wait are %s, of 240,000", w)
	}
}

// Small tables are counted one by one.
func TestCounts(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.add("'sync', run_at := now() + interval '1 day'")
	r.run("select graphile_worker.add_job('sync', queue_name := 'q') from generate_series(1, 3)")
	counts, err := r.admin.Counts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	one, three, four, none := admin.Count{N: 1, Exact: true}, admin.Count{N: 3, Exact: true}, admin.Count{N: 4, Exact: true}, admin.Count{Exact: true}
	want := admin.States{Waiting: one, Due: three, Running: none, Suspect: none, Failed: none, Total: four}
	if diff := cmp.Diff(want, counts.States); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
	r.work(1, "served")
	tasks, err := r.admin.Tasks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(tasks.Tasks) != 2 || tasks.Tasks[0].Task != "served" || *tasks.Tasks[0].Workers != 1 || tasks.Tasks[1].States.Due != three || *tasks.Tasks[1].Workers != 0 {
		t.Errorf("tasks %+v", tasks)
	}
	queue, err := r.admin.Queue(t.Context(), "q")
	if err != nil || queue.Jobs == nil || *queue.Jobs != three {
		t.Errorf("queue %+v, %v", queue, err)
	}
	if _, err := r.admin.Queue(t.Context(), "none"); !errors.Is(err, admin.ErrNotFound) {
		t.Errorf("a queue that is not there: %v", err)
	}
}

func TestCountInWords(t *testing.T) {
	t.Parallel()
	for want, count := range map[string]admin.Count{
		"0": {Exact: true}, "1,234,567": {N: 1234567, Exact: true}, "more than 10,000": {N: 10000, More: true}, "few, if any": {},
		"≈ 1.23 million": {N: 1234567}, "≈ 12,000": {N: 12345}, "≈ 7": {N: 7}, "≈ 1 million": {N: 999_999}, "≈ 2 billion": {N: 2_000_000_000}, "-1,000": {N: -1000, Exact: true},
	} {
		if got := count.String(); got != want {
			t.Errorf("%+v is %q, want %q", count, got, want)
		}
	}
}

// Whoever may read some tasks or queues is not told of the others, by any answer (X122, X127).
func TestReadsOfAPrincipal(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	mine := r.add(`'mine', '{"canary": "canary1"}'`)
	theirs := r.add(`'theirs', '{"password": "canary2"}', queue_name := 'hidden queue'`)
	r.run("update graphile_worker._private_jobs set last_error = 'canary1 and more', attempts = 1")
	r.run("select graphile_worker.add_job('theirs') from generate_series(1, 300)")
	r.work(1, "served", "theirs")
	r.run("insert into graphile_worker.backfill_pauses (task) select identifier from graphile_worker._private_tasks where identifier in ('mine', 'theirs')")
	r.run(`insert into graphile_worker.backfill_dlq (original_job_id, task_identifier, payload, priority, max_attempts, failure_reason, last_error, original_created_at, original_run_at, attempts)
	       values (7001, 'mine', '{"a":"canary3"}', 0, 1, 'exhausted', 'canary3', now(), now(), 1), (7002, 'theirs', '{"a":"canary4"}', 0, 1, 'exhausted', 'canary4', now(), now(), 1)`)
	as := openAdmin(t, r.db.URL, admin.WithAuthorize(func(_ context.Context, p admin.Principal, action admin.Action, target admin.Target) bool {
		return p.Name == "ada" && action == admin.ActionRead && target.Task != "theirs" && target.Queue != "hidden queue" && target.Kind != admin.KindDatabase
	}))
	ctx := admin.As(t.Context(), admin.Principal{Name: "ada"})
	answers := 0
	check := func(answer any, err error) {
		t.Helper()
		text, problem := json.Marshal(answer)
		if err != nil || problem != nil {
			t.Errorf("%T: %v, %v", answer, err, problem)
		}
		for _, secret := range []string{"theirs", "hidden queue", "canary1", "canary2", "canary3", "canary4", fmt.Sprintf(`"id":%d,`, theirs)} {
			if strings.Contains(string(text), secret) {
				t.Errorf("%q is in %s", secret, text)
			}
		}
		answers++
	}
	list, err := as.Jobs(ctx, admin.JobFilter{}, admin.JobPage{})
	if check(list, err); err == nil && (len(list.Jobs) != 1 || list.Jobs[0].ID != mine || list.Searched != 0) {
		t.Errorf("jobs %+v", list)
	}
	job, err := as.Job(ctx, mine)
	if check(job, err); err == nil && (string(job.Payload) != `{"canary": "[redacted]"}` || job.LastError != "[redacted] and more") {
		t.Errorf("job %+v", job)
	}
	why, err := as.Why(ctx, mine)
	check(why, err)
	counts, err := as.Counts(ctx)
	if check(counts, err); err == nil && counts.Total != (admin.Count{N: 1, Exact: true}) {
		t.Errorf("counts %+v", counts)
	}
	tasks, err := as.Tasks(ctx)
	check(tasks, err)
	queues, err := as.Queues(ctx, admin.QueueFilter{}, admin.NamePage{})
	check(queues, err)
	workers, err := as.Workers(ctx)
	check(workers, err)
	locks, err := as.Locks(ctx)
	check(locks, err)
	pauses, err := as.Pauses(ctx)
	if check(pauses, err); err == nil && len(pauses.Pauses) != 1 {
		t.Errorf("pauses %+v", pauses)
	}
	letters, err := as.Letters(ctx, admin.LetterFilter{}, admin.LetterPage{})
	if check(letters, err); err == nil && len(letters.Letters) != 1 {
		t.Errorf("letters %+v", letters)
	}
	stats, err := as.LetterStats(ctx)
	if check(stats, err); err == nil && stats.Total.N != 1 {
		t.Errorf("stats %+v", stats)
	}
	for what, err := range map[string]error{
		"job": second(as.Job(ctx, theirs)), "why": second(as.Why(ctx, theirs)), "queue": second(as.Queue(ctx, "hidden queue")),
		"letter": second(as.Letter(ctx, dbtest.Get[int64](t, r.db.Pool(), "select id from graphile_worker.backfill_dlq where original_job_id = 7002"))),
		"doctor": second(as.Doctor(ctx)), "nobody": second(as.Job(t.Context(), mine)),
	} {
		if !errors.Is(err, admin.ErrNotFound) {
			t.Errorf("%s: %v, want ErrNotFound", what, err)
		}
	}
	// What is hidden cannot be found by searching for it.
	for _, filter := range []admin.JobFilter{{ErrorContains: "canary1"}, {PayloadContains: json.RawMessage(`{"canary":"canary1"}`)}} {
		if list, err := as.Jobs(ctx, filter, admin.JobPage{}); err != nil || len(list.Jobs) > 0 {
			t.Errorf("%s finds %+v, %v", &filter, list, err)
		}
	}
	if ids := found(t, r.admin, admin.JobFilter{PayloadContains: json.RawMessage(`{"password":"canary2"}`)}, admin.JobPage{}); len(ids) > 0 {
		t.Errorf("a hidden value finds %v", ids)
	}
}

func second[T any](_ T, err error) error { return err }

// What a role may not read is missing, and never absent.
func TestReadsOfARole(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	id := r.add("'sync', queue_name := 'q'")
	conn := dbtest.Connect(t, r.db.URL)
	role := dbtest.NewRole(t, conn)
	as := openAdmin(t, asRole(t, r.db.URL, role))
	missing := func(want string) {
		t.Helper()
		jobs, err := as.Jobs(t.Context(), admin.JobFilter{}, admin.JobPage{})
		if err != nil || len(jobs.Jobs) > 0 || len(jobs.Missing) == 0 || !strings.Contains(jobs.Missing[0].Why, want) {
			t.Errorf("jobs %+v, %v, want %q to be missing", jobs, err, want)
		}
		counts, err := as.Counts(t.Context())
		if err != nil || len(counts.Missing) == 0 || !strings.Contains(counts.Missing[0].Why, want) {
			t.Errorf("counts %+v, %v, want %q to be missing", counts, err, want)
		}
	}
	missing("the right to select")
	if _, err := as.Job(t.Context(), id); err == nil || errors.Is(err, admin.ErrNotFound) || !strings.Contains(err.Error(), "the right to select") {
		t.Errorf("a job that cannot be read: %v", err)
	}
	r.run("grant usage on schema graphile_worker to " + role)
	r.run("grant select on all tables in schema graphile_worker to " + role)
	missing("row level security")
	if _, err := schema.GrantRole(t.Context(), conn, strings.ReplaceAll(strings.Trim(role, `"`), `""`, `"`), schema.ReaderRole, schema.Options{}); err != nil {
		t.Fatal(err)
	}
	if ids := found(t, as, admin.JobFilter{}, admin.JobPage{}); !slices.Equal(ids, []int64{id}) {
		t.Errorf("a reader sees %v", ids)
	}
	empty := openAdmin(t, pgtest.Empty(t).URL)
	jobs, err := empty.Jobs(t.Context(), admin.JobFilter{}, admin.JobPage{})
	if err != nil || len(jobs.Missing) != 1 || !strings.Contains(jobs.Missing[0].Why, "has no table") {
		t.Errorf("without tables: %+v, %v", jobs, err)
	}
}
