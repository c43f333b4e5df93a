package admin_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/backfill/admin"
	"github.com/backfillhq/go/internal/dbtest"
)

// preview previews an operation that something matches.
func preview(ctx context.Context, t *testing.T, a *admin.Admin, bulk admin.Bulk) *admin.Preview {
	t.Helper()
	p, err := a.Preview(ctx, bulk)
	if err != nil || p.Token == "" {
		t.Fatalf("preview: %+v, %v", p, err)
	}
	return p
}

// do starts what was previewed, and carries it on to its end.
func do(ctx context.Context, t *testing.T, a *admin.Admin, p *admin.Preview) *admin.Operation {
	t.Helper()
	o, err := a.Start(ctx, p.Token, admin.ChangeOptions{Reason: "test"})
	if err == nil {
		o, err = a.CarryOperation(ctx, o.ID, nil)
	}
	if err != nil || o.State != admin.OperationDone {
		t.Fatalf("carry on: %+v, %v", o, err)
	}
	return o
}

// items are what became of the items of an operation, by id.
func items(t *testing.T, a *admin.Admin, id int64) map[int64]admin.OperationItem {
	t.Helper()
	all := map[int64]admin.OperationItem{}
	for behind := int64(0); ; {
		page, err := a.OperationItems(t.Context(), id, behind, nil, 1000)
		if err != nil || page.Missing != "" {
			t.Fatal(err, page)
		}
		for _, item := range page.Items {
			if _, there := all[item.ID]; there || item.ID <= behind {
				t.Errorf("item %d is there twice, or out of order", item.ID)
			}
			all[item.ID] = item
		}
		if behind = page.Next; behind == 0 {
			return all
		}
	}
}

// What matched at the preview is changed, once, and each has an outcome. What came later is out,
// what somebody has changed since is skipped, and so is what a worker has.
func TestOperation(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.run("select graphile_worker.add_job('mail', json_build_object('i', i), queue_name := 'q' || i % 3, job_key := 'k' || i) from generate_series(1, 250) as i")
	r.run("select graphile_worker.add_job('other') from generate_series(1, 5)")
	ctx := as(t, "ada", "operator")
	p := preview(ctx, t, r.admin, admin.Bulk{Action: admin.ActionDelete, Jobs: &admin.JobFilter{Tasks: []string{"mail"}}})
	if p.Operation.Matched != 250 || p.Operation.More || len(p.Items) != 20 || p.Operation.State != admin.OperationPreviewed {
		t.Errorf("the preview is %+v, with %d items", p.Operation, len(p.Items))
	}
	later := r.add("'mail'")
	replaced := r.add("'mail', job_key := 'k7'")
	running := p.Items[1].ID
	r.run("update graphile_worker._private_jobs set locked_at = now(), locked_by = 'node-7' where id = $1", running)
	gone := p.Items[2].ID
	r.run("delete from graphile_worker._private_jobs where id = $1", gone)

	o := do(ctx, t, r.admin, p)
	if o.Acted != 247 || o.Skipped != 2 || o.Principal != "ada" || o.Reason != "test" {
		t.Errorf("the operation is %+v", o)
	}
	if diff := cmp.Diff(map[admin.Skip]int{admin.SkipChanged: 1, admin.SkipForeign: 1}, o.SkippedBy); diff != "" {
		t.Errorf("skipped (-want +got):\n%s", diff)
	}
	all := items(t, r.admin, o.ID)
	if len(all) != 249 || all[replaced].Skip != admin.SkipChanged || all[running].Skip != admin.SkipForeign || all[running].Worker != "node-7" || all[p.Items[0].ID].Task != "mail" {
		t.Errorf("%d items; %+v, %+v", len(all), all[replaced], all[running])
	}
	left := dbtest.Get[[]int64](t, r.db.Pool(), "select array_agg(id order by id) from graphile_worker._private_jobs where task_id = (select id from graphile_worker._private_tasks where identifier = 'mail')")
	want := []int64{running, replaced, later}
	slices.Sort(want)
	if diff := cmp.Diff(want, left); diff != "" {
		t.Errorf("left of the task (-want +got):\n%s", diff)
	}
	if n := dbtest.Get[int](t, r.db.Pool(), "select count(*)::int from graphile_worker._private_jobs"); n != 8 {
		t.Errorf("%d jobs are left, want 8", n)
	}
	again, err := r.admin.Start(ctx, p.Token, admin.ChangeOptions{})
	if err != nil || again.State != admin.OperationDone || again.ID != o.ID {
		t.Errorf("started again: %+v, %v", again, err)
	}
	if diff := cmp.Diff([]string{fmt.Sprintf("ada delete operation %d : test", o.ID)}, r.records()); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
	list, err := r.admin.Operations(ctx, 0, 0)
	if err != nil || len(list.Operations) != 1 || list.Operations[0].Words != `task "mail"` {
		t.Errorf("operations: %+v, %v", list, err)
	}
}

// Dead letters that arrive, or fail again, between preview and start are left, and each that is
// requeued comes back with its own payload, key, queue and priority.
func TestOperationOfLetters(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const add = `insert into graphile_worker.backfill_dlq (original_job_id, task_identifier, payload, queue_name, job_key, priority, max_attempts, attempts, failure_reason,
		original_created_at, original_run_at, failed_at)
		select i, 'mail', json_build_object('i', i), 'q' || i % 7, 'k' || i, i % 100, 1 + i % 20, 1, 'exhausted', now(), now(), now() - interval '1 hour' + i * interval '1 ms'
		  from generate_series($1::int, $2::int) as i`
	r.run(add, 1, 1000)
	held := r.add("'mail', job_key := 'k5'")
	ctx := as(t, "ada")
	p := preview(ctx, t, r.admin, admin.Bulk{Action: admin.ActionRequeue, DeadLetters: &admin.LetterFilter{Tasks: []string{"mail"}}, Notes: "cured"})
	if p.Operation.Matched != 1000 || p.Operation.SkippedBy[admin.SkipKeyHeld] != 1 {
		t.Errorf("the preview is %+v", p.Operation)
	}
	r.run(add, 1001, 1500)
	r.run("update graphile_worker.backfill_dlq set failed_at = now() where id = 9")
	o := do(ctx, t, r.admin, p)
	if o.Acted != 998 || o.Skipped != 1 {
		t.Errorf("the operation is %+v", o)
	}
	all := items(t, r.admin, o.ID)
	if all[5].Skip != admin.SkipKeyHeld || all[5].JobID != held {
		t.Errorf("dead letter 5: %+v", all[5])
	}
	wrong := dbtest.Get[int](t, r.db.Pool(), `select count(*)::int from graphile_worker.backfill_dlq as d
		join graphile_worker._private_jobs as j on j.id = d.requeued_job_id join graphile_worker._private_job_queues as s on s.id = j.job_queue_id
		where d.payload::text <> j.payload::text or d.job_key <> j.key or d.queue_name <> s.queue_name or d.priority <> j.priority
		   or d.max_attempts <> j.max_attempts or d.notes <> 'cured'`)
	requeued := dbtest.Get[int](t, r.db.Pool(), "select count(*)::int from graphile_worker.backfill_dlq where requeued_job_id is not null and id <= 1000")
	if wrong != 0 || requeued != 998 {
		t.Errorf("%d were requeued, %d of them as something else", requeued, wrong)
	}
	for id, item := range all {
		if job := dbtest.Get[int64](t, r.db.Pool(), "select coalesce(requeued_job_id, 0) from graphile_worker.backfill_dlq where id = $1", id); item.Skip == "" && job != item.JobID {
			t.Errorf("dead letter %d was requeued as job %d, and the item says %d", id, job, item.JobID)
		}
	}
	if n := dbtest.Get[int](t, r.db.Pool(), "select count(*)::int from graphile_worker.backfill_dlq where requeued_job_id is null"); n != 502 {
		t.Errorf("%d are left, want 502", n)
	}
	p = preview(ctx, t, r.admin, admin.Bulk{Action: admin.ActionDelete, DeadLetters: &admin.LetterFilter{IDs: []int64{1001, 1002, 1, 77777}}})
	o = do(ctx, t, r.admin, p)
	if o.Acted != 2 || o.SkippedBy[admin.SkipGone] != 1 || o.SkippedBy[admin.SkipRequeued] != 1 {
		t.Errorf("by number: %+v", o)
	}
}

// For every pair of fields, what is changed is what both are true of (X33).
func TestOperationFiltersAreConjunctive(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ctx := as(t, "ada")
	fields := map[string]struct {
		set func(*admin.JobFilter)
		sql string
	}{
		"ids":      {func(f *admin.JobFilter) { f.IDs = []int64{1, 2, 3, 4, 5, 6} }, "j.id <= 6"},
		"tasks":    {func(f *admin.JobFilter) { f.Tasks = []string{"a"} }, "t.identifier = 'a'"},
		"queues":   {func(f *admin.JobFilter) { f.Queues = []string{"q0"} }, "s.queue_name = 'q0'"},
		"keys":     {func(f *admin.JobFilter) { f.Keys = []string{"k1", "k2", "k7"} }, "j.key in ('k1', 'k2', 'k7')"},
		"states":   {func(f *admin.JobFilter) { f.States = []admin.JobState{admin.JobFailed} }, "j.attempts >= j.max_attempts"},
		"priority": {func(f *admin.JobFilter) { f.MinPriority = new(3) }, "j.priority >= 3"},
		"attempts": {func(f *admin.JobFilter) { f.MaxAttempts = new(2) }, "j.attempts <= 2"},
		"error":    {func(f *admin.JobFilter) { f.ErrorContains = "declined" }, "strpos(j.last_error, 'declined') > 0"},
		"up_to_id": {func(f *admin.JobFilter) { f.UpToID = 9 }, "j.id <= 9"},
	}
	const from = ` from graphile_worker._private_jobs as j join graphile_worker._private_tasks as t on t.id = j.task_id
		left join graphile_worker._private_job_queues as s on s.id = j.job_queue_id`
	for _, one := range slices.Sorted(maps.Keys(fields)) {
		for _, other := range slices.Sorted(maps.Keys(fields)) {
			if one > other || one == "up_to_id" && other == one {
				continue
			}
			r.run("truncate graphile_worker._private_jobs restart identity")
			r.run(`select graphile_worker.add_job(case when i % 2 = 0 then 'a' else 'b' end, queue_name := case when i % 3 = 0 then 'q0' end, job_key := 'k' || i, priority := i % 5)
				from generate_series(1, 12) as i`)
			r.run("update graphile_worker._private_jobs set attempts = id % 4, max_attempts = 3, last_error = case when id % 3 < 2 then 'card declined' end")
			var filter admin.JobFilter
			fields[one].set(&filter)
			fields[other].set(&filter)
			both := " where (" + fields[one].sql + ") and (" + fields[other].sql + ")"
			want := dbtest.Get[[]int64](t, r.db.Pool(), "select coalesce(array_agg(j.id order by j.id), '{}')"+from+" where j.id not in (select j.id"+from+both+")")
			p, err := r.admin.Preview(ctx, admin.Bulk{Action: admin.ActionDelete, Jobs: &filter})
			if err != nil {
				t.Fatal(one, other, err)
			}
			if p.Token != "" {
				do(ctx, t, r.admin, p)
			}
			left := dbtest.Get[[]int64](t, r.db.Pool(), "select coalesce(array_agg(id order by id), '{}') from graphile_worker._private_jobs")
			if diff := cmp.Diff(want, left); diff != "" {
				t.Errorf("%s and %s: left (-want +got):\n%s", one, other, diff)
			}
		}
	}
}

// An empty filter never means all, and what an action does not support is refused.
func TestOperationRefuses(t *testing.T) {
	t.Parallel()
	a := openAdmin(t, "postgres://127.0.0.1:1/nowhere")
	some, letters := &admin.JobFilter{Tasks: []string{"a"}}, &admin.LetterFilter{IDs: []int64{1}}
	for want, bulk := range map[string]admin.Bulk{
		"want jobs or dead_letters":  {Action: admin.ActionDelete},
		"and one of them":            {Action: admin.ActionDelete, Jobs: some, DeadLetters: letters},
		"the filter is empty":        {Action: admin.ActionDelete, Jobs: &admin.JobFilter{}},
		"the filter is empty:":       {Action: admin.ActionDelete, Jobs: &admin.JobFilter{UpToID: 7}},
		"all beside a filter":        {Action: admin.ActionDelete, Jobs: some, All: true},
		"an empty list":              {Action: admin.ActionDelete, Jobs: &admin.JobFilter{IDs: []int64{}}},
		"want retry, cancel":         {Action: admin.ActionRequeue, Jobs: some},
		"want requeue or delete":     {Action: admin.ActionRetry, DeadLetters: letters},
		"reschedule is not set":      {Action: admin.ActionReschedule, Jobs: some},
		"nothing to change":          {Action: admin.ActionReschedule, Jobs: some, Reschedule: &admin.Reschedule{}},
		"reschedule is set":          {Action: admin.ActionDelete, Jobs: some, Reschedule: &admin.Reschedule{Priority: new(1)}},
		"notes are for dead letters": {Action: admin.ActionDelete, DeadLetters: letters, Notes: "x"},
		"per_second is":              {Action: admin.ActionDelete, Jobs: some, PerSecond: -1},
		"payload_contains cannot":    {Action: admin.ActionDelete, Jobs: &admin.JobFilter{PayloadContains: json.RawMessage(`{"a":1}`)}},
		"requeued is for lists":      {Action: admin.ActionDelete, DeadLetters: &admin.LetterFilter{IDs: []int64{1}, Requeued: true}},
	} {
		_, err := a.Preview(t.Context(), bulk)
		dbtest.Mentions(t, err, want)
		if !errors.Is(err, admin.ErrInvalid) {
			t.Errorf("%v is not ErrInvalid", err)
		}
	}
}

// changesOfJobs counts how often each job is changed.
const changesOfJobs = `create table public.changes (id bigint);
	create function note_change() returns trigger language plpgsql as $$ begin insert into public.changes values (old.id); return coalesce(new, old); end $$;
	create trigger note_change after update or delete on graphile_worker._private_jobs for each row execute function note_change()`

// twice is how many jobs were changed more than once.
func (r *rig) twice() int {
	r.Helper()
	return dbtest.Get[int](r.T, r.db.Pool(), "select count(*)::int from (select from public.changes group by id having count(*) > 1) as c")
}

// TestMain is also the process that carries operations on, to be killed.
func TestMain(m *testing.M) {
	if url := os.Getenv("BACKFILL_TEST_CARRY"); url != "" {
		a, err := admin.Open(url)
		if err == nil {
			err = a.Carry(context.Background())
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// Processes that carry an operation on are killed, again and again, while others go on with it, and
// somebody locks rows: each job is changed once, and each has one outcome.
func TestOperationOutlivesWhoCarriesItOn(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const jobs = 6000
	r.run(changesOfJobs)
	r.run("select graphile_worker.add_job('mail') from generate_series(1, $1)", jobs)
	ctx := as(t, "ada")
	p := preview(ctx, t, r.admin, admin.Bulk{
		Action: admin.ActionReschedule, Jobs: &admin.JobFilter{Tasks: []string{"mail"}}, Reschedule: &admin.Reschedule{Priority: new(7)},
	})
	o, err := r.admin.Start(ctx, p.Token, admin.ChangeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	moved := func() int64 {
		o, err := r.admin.Operation(t.Context(), o.ID)
		if err != nil {
			t.Fatal(err)
		}
		return o.Acted + o.Skipped
	}
	for range 4 {
		before := moved()
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), "BACKFILL_TEST_CARRY="+r.db.URL)
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		dbtest.Until(t, func() bool { return moved() > before })
		_ = child.Process.Kill()
		_ = child.Wait()
	}
	if n := moved(); n >= jobs {
		t.Logf("all were done before the last process was killed")
	}
	var group sync.WaitGroup
	for range 2 {
		a := openAdmin(t, r.db.URL)
		group.Go(func() {
			if _, err := a.CarryOperation(ctx, o.ID, nil); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	o, err = r.admin.Operation(t.Context(), o.ID)
	if err != nil || o.State != admin.OperationDone || o.Acted != jobs || o.Skipped != 0 {
		t.Errorf("the operation is %+v, %v", o, err)
	}
	if n := len(items(t, r.admin, o.ID)); n != jobs {
		t.Errorf("%d items, want %d", n, jobs)
	}
	if n := r.twice(); n > 0 {
		t.Errorf("%d jobs were changed twice", n)
	}
	if n := dbtest.Get[int](t, r.db.Pool(), "select count(*)::int from graphile_worker._private_jobs where priority = 7"); n != jobs {
		t.Errorf("%d jobs were changed, want %d", n, jobs)
	}
}

// Workers claim the jobs that are being deleted: each job either runs, or is deleted.
func TestOperationBesideWorkers(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const jobs = 2000
	var mu sync.Mutex
	ran := map[int64]int{}
	task := &backfill.Task[args]{Name: "sync"}
	registry := backfill.NewRegistry(backfill.Handle(task, func(ctx context.Context, _ args) error {
		job := backfill.JobInfo(ctx)
		mu.Lock()
		defer mu.Unlock()
		ran[job.ID]++
		return nil
	}))
	r.run("select graphile_worker.add_job('sync', '{}', queue_name := case when i % 5 = 0 then 'q' || i % 4 end) from generate_series(1, $1) as i", jobs)
	ctx := as(t, "ada")
	p := preview(ctx, t, r.admin, admin.Bulk{Action: admin.ActionDelete, Jobs: &admin.JobFilter{Tasks: []string{"sync"}}})
	w, err := r.client.NewWorker(registry, backfill.WithConcurrency(4), backfill.WithLogger(quiet))
	if err != nil {
		t.Fatal(err)
	}
	working, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(working) }()
	o := do(ctx, t, r.admin, p)
	dbtest.Until(t, func() bool {
		return dbtest.Get[bool](t, r.db.Pool(), "select not exists (select from graphile_worker._private_jobs)")
	})
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	for id, item := range items(t, r.admin, o.ID) {
		if item.Skip == "" && ran[id] > 0 {
			t.Errorf("job %d was deleted, and has run", id)
		}
		if item.Skip != "" && ran[id] != 1 {
			t.Errorf("job %d was skipped (%s), and has run %d times", id, item.Skip, ran[id])
		}
	}
	if deleted := int(o.Acted); len(ran)+deleted != jobs {
		t.Errorf("%d have run, and %d were deleted: want %d in all", len(ran), deleted, jobs)
	}
	t.Logf("%d have run, %d were deleted, %v skipped", len(ran), o.Acted, o.SkippedBy)
}

// An operation is stopped, is nobody's meanwhile, and goes on where it was; it is no faster than it
// may be.
func TestOperationStopsAndGoesOn(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.run(changesOfJobs)
	r.run("select graphile_worker.add_job('mail') from generate_series(1, 60)")
	ctx := as(t, "ada")
	p := preview(ctx, t, r.admin, admin.Bulk{Action: admin.ActionDelete, Jobs: &admin.JobFilter{}, All: true, PerSecond: 20})
	o, err := r.admin.Start(ctx, p.Token, admin.ChangeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	done := 0
	stopped, err := r.admin.CarryOperation(ctx, o.ID, func(admin.OperationItem) {
		if done++; done == 20 {
			if _, err := r.admin.StopOperation(as(t, "eve"), o.ID, admin.ChangeOptions{Reason: "too fast"}); err != nil {
				t.Error(err)
			}
		}
	})
	if err != nil || stopped.State != admin.OperationStopped || stopped.Acted != 20 {
		t.Fatalf("stopped: %+v, %v", stopped, err)
	}
	if again, err := r.admin.CarryOperation(ctx, o.ID, nil); err != nil || again.Acted != 20 {
		t.Errorf("carried on while it is stopped: %+v, %v", again, err)
	}
	if _, err := r.admin.ResumeOperation(as(t, "eve"), o.ID, admin.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	o, err = r.admin.CarryOperation(ctx, o.ID, nil)
	if err != nil || o.State != admin.OperationDone || o.Acted != 60 || o.Principal != "eve" {
		t.Errorf("done: %+v, %v", o, err)
	}
	if took := time.Since(began); took < 2*time.Second {
		t.Errorf("60 items at 20 in a second took %v", took)
	}
	if n := r.twice(); n > 0 {
		t.Errorf("%d jobs were changed twice", n)
	}
	want := []string{
		fmt.Sprintf("ada delete operation %d : ", o.ID), fmt.Sprintf("eve stop operation %d : too fast", o.ID), fmt.Sprintf("eve delete operation %d : ", o.ID),
	}
	if diff := cmp.Diff(want, r.records()); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
	if _, err := r.admin.ResumeOperation(ctx, o.ID, admin.ChangeOptions{}); !errors.Is(err, admin.ErrInvalid) {
		t.Errorf("one that is done: %v", err)
	}
	for _, id := range []int64{o.ID + 100} {
		if _, err := r.admin.Operation(ctx, id); !errors.Is(err, admin.ErrNotFound) {
			t.Errorf("one that is not there: %v", err)
		}
	}
}

// Two operators at once: each job is deleted by one of them.
func TestOperationsAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const jobs = 1000
	r.run("select graphile_worker.add_job('mail') from generate_series(1, $1)", jobs)
	var acted, skipped [2]int64
	var group sync.WaitGroup
	for i := range 2 {
		a, ctx := openAdmin(t, r.db.URL), as(t, fmt.Sprint("operator ", i))
		p := preview(ctx, t, a, admin.Bulk{Action: admin.ActionDelete, Jobs: &admin.JobFilter{Tasks: []string{"mail"}}})
		group.Go(func() {
			o := do(ctx, t, a, p)
			acted[i], skipped[i] = o.Acted, o.Skipped
		})
	}
	group.Wait()
	if acted[0]+acted[1] != jobs {
		t.Errorf("%v were deleted, %v skipped, of %d", acted, skipped, jobs)
	}
}

// Whoever carries an operation on asks for the principal who has started it; who asks nobody leaves
// it alone, unless he resumes it. Items that a principal may not see are not counted, and not told of.
func TestOperationByWhoMay(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.run("select graphile_worker.add_job(task) from unnest(array['mine', 'mine', 'read', 'hidden', 'hidden', 'hidden']) as task")
	a := openAdmin(t, r.db.URL, admin.WithAuthorize(func(_ context.Context, p admin.Principal, action admin.Action, target admin.Target) bool {
		return p.Name == "ada" && slices.Contains(p.Roles, "mailer") &&
			(target.Kind == admin.KindOperation || target.Task == "mine" || target.Task == "read" && action == admin.ActionRead)
	}))
	ctx := as(t, "ada", "mailer")
	p := preview(ctx, t, a, admin.Bulk{Action: admin.ActionDelete, Jobs: &admin.JobFilter{States: []admin.JobState{admin.JobDue}}})
	if p.Operation.Matched != 3 || p.Operation.SkippedBy[admin.SkipForbidden] != 1 {
		t.Errorf("the preview is %+v", p.Operation)
	}
	for _, item := range p.Items {
		if item.Task == "hidden" {
			t.Errorf("the preview shows %+v", item)
		}
	}
	if _, err := a.Start(as(t, "eve"), p.Token, admin.ChangeOptions{}); !errors.Is(err, admin.ErrForbidden) {
		t.Errorf("somebody else's preview: %v", err)
	}
	o, err := a.Start(ctx, p.Token, admin.ChangeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	limited, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond) // nothing can be waited for: nothing happens
	_ = r.admin.Carry(limited)
	cancel()
	if o, err := a.Operation(ctx, o.ID); err != nil || o.Acted+o.Skipped > 0 {
		t.Errorf("who asks nobody has carried it on: %+v, %v", o, err)
	}
	if o, err = a.CarryOperation(ctx, o.ID, nil); err != nil || o.Acted != 2 || o.SkippedBy[admin.SkipForbidden] != 1 || o.Skipped != 1 {
		t.Errorf("the operation is %+v, %v", o, err)
	}
	left := dbtest.Get[string](t, r.db.Pool(), "select string_agg(identifier, ' ' order by j.id) from graphile_worker._private_jobs as j join graphile_worker._private_tasks as t on t.id = task_id")
	if left != "read hidden hidden hidden" {
		t.Errorf("left are %s", left)
	}
	for id, item := range items(t, r.admin, o.ID) {
		if item.Task == "hidden" {
			t.Errorf("item %d is %+v", id, item)
		}
	}
}

// A preview that is older than an hour is not started, nor a token that is none.
func TestOperationOfAnOldPreview(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.add("'mail'")
	p := preview(t.Context(), t, r.admin, admin.Bulk{Action: admin.ActionDelete, Jobs: &admin.JobFilter{}, All: true})
	r.run("update graphile_worker.backfill_operations set created_at = now() - interval '61 minutes'")
	for _, token := range []string{p.Token, "none", ""} {
		if _, err := r.admin.Start(t.Context(), token, admin.ChangeOptions{}); !errors.Is(err, admin.ErrExpired) {
			t.Errorf("token %q: %v", token, err)
		}
	}
	if kept := dbtest.Get[string](t, r.db.Pool(), "select string_agg(o::text, ' ') from graphile_worker.backfill_operations as o"); strings.Contains(kept, p.Token) {
		t.Error("the token is stored")
	}
}

// What is older than its retention goes, and nothing else.
func TestOperationsAreKept(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.run("select graphile_worker.add_job('mail') from generate_series(1, 3)")
	ctx := as(t, "ada")
	bulk := admin.Bulk{Action: admin.ActionDelete, Jobs: &admin.JobFilter{IDs: []int64{1, 2}}}
	old := do(ctx, t, r.admin, preview(ctx, t, r.admin, bulk))
	r.run("update graphile_worker.backfill_operations set ended_at = now() - interval '31 days'; ")
	r.run("update graphile_worker.backfill_audit set at = now() - interval '399 days'")
	bulk.Jobs.IDs = []int64{3}
	recent := do(ctx, t, r.admin, preview(ctx, t, r.admin, bulk))
	if list, err := r.admin.Operations(ctx, 0, 0); err != nil || len(list.Operations) != 1 || list.Operations[0].ID != recent.ID {
		t.Errorf("operation %d is kept: %+v, %v", old.ID, list, err)
	}
	if n := dbtest.Get[int](t, r.db.Pool(), "select count(*)::int from graphile_worker.backfill_operation_items"); n != 1 {
		t.Errorf("%d items are kept", n)
	}
	if records := r.records(); len(records) != 2 {
		t.Errorf("kept are the records %q", records)
	}
	r.run("update graphile_worker.backfill_audit set at = now() - interval '401 days' where operation_id = $1", old.ID)
	r.add("'mail'")
	preview(ctx, t, r.admin, admin.Bulk{Action: admin.ActionDelete, Jobs: &admin.JobFilter{}, All: true})
	if records := r.records(); len(records) != 1 {
		t.Errorf("kept are the records %q", records)
	}
}
