package interop_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/dbtest"
)

// What one does with the key of a job that the other runs, or has run.
func TestB5Keys(t *testing.T) {
	point(t)
	t.Parallel()
	t.Run("jobs", func(t *testing.T) {
		t.Parallel()
		inBothWays(t, func(f *fixture) {
			node := startPeer(f)
			testKeyOfFailedJob(f, node)
			testKeysOfGosJobs(f, node)
			testKeysOfNodesJobs(f, node)
		})
	})
	t.Run("race", func(t *testing.T) {
		t.Parallel()
		testRace(newFixture(t))
	})
}

// A keyed is the payload of the jobs with keys.
type keyed struct {
	Case  string `json:"case"`
	Fails bool   `json:"fails"`
}

var (
	hold = &backfill.Task[keyed]{Name: "hold"}
	next = &backfill.Task[keyed]{Name: "next"}
)

// testKeyOfFailedJob adds a job with the key of one that has failed for good on the other side,
// and lets the other side work again.
func testKeyOfFailedJob(f *fixture, node *peer) {
	const name = "failed"
	setup := fmt.Sprintf("select graphile_worker.add_job('hold', '%s', max_attempts => 1, job_key => '%s')",
		must(json.Marshal(keyed{name, true})), name)
	for mode, want := range map[backfill.KeyMode][]string{
		backfill.Replace:       {"failed: hold - 1/1 r0 late", "failed: next k 0/25 r0"},
		backfill.PreserveRunAt: {"failed: hold - 1/1 r0 late", "failed: next k 0/25 r0"},
		backfill.UnsafeDedupe:  {"failed: hold k 1/1 r1 late"},
	} {
		check := func(when string, want []string) {
			f.Helper()
			if diff := cmp.Diff(want, f.states(), cmpopts.EquateEmpty()); diff != "" {
				f.Errorf("%s, jobs after %s (-want +got):\n%s", mode, when, diff)
			}
			f.execute("update graphile_worker._private_jobs set run_at = now()")
		}
		f.reset(setup)
		f.workOnce(backfill.NewRegistry(backfill.Handle(hold, func(_ context.Context, args keyed) error { return args.end() })))
		node.add(next.Name, keyed{Case: name}, map[string]any{"jobKey": name, "jobKeyMode": mode})
		left := want[:1]
		if f.without {
			check("Node's add", want)
		} else { // a dead letter has no key to give up, in any mode
			check("Node's add", []string{"failed: next k 0/25 r0"})
			left = nil
		}
		f.workOnce(backfill.NewRegistry(backfill.Handle(hold, nothing[keyed]), backfill.Handle(next, nothing[keyed])))
		check("Go's work", left)

		f.reset(setup)
		f.workOnceInNode(node, bodies{hold.Name: `throw new Error("late")`}, nil)
		if _, err := backfill.Enqueue(f.Context(), f.client, next, keyed{Case: name}, backfill.Key(name), mode); err != nil {
			f.Fatal(err)
		}
		check("Go's add", want)
		f.workOnceInNode(node, bodies{hold.Name: "", next.Name: ""}, nil)
		check("Node's work", want[:1])
	}
}

// A keyCase is a job of the task hold, whose key is the name of the case, and what is done with
// the key while the job runs.
type keyCase struct {
	name          string
	mode          backfill.KeyMode // of a job of the task next that is added with the key; "": the key's job is removed
	fails         bool             // how the job ends
	during, after []string         // see states: before and after it ends
}

const remove = backfill.KeyMode("")

var keyCases = []keyCase{
	{"replace", backfill.Replace, false, []string{"hold - 5/5 r0 locked", "next k 0/25 r0"}, []string{"next k 0/25 r0"}},
	{
		"replace, fails", backfill.Replace, true,
		[]string{"hold - 5/5 r0 locked", "next k 0/25 r0"},
		[]string{"hold - 5/5 r0 late", "next k 0/25 r0"},
	},
	{"preserve", backfill.PreserveRunAt, false, []string{"hold - 5/5 r0 locked", "next k 0/25 r0"}, []string{"next k 0/25 r0"}},
	{"dedupe", backfill.UnsafeDedupe, false, []string{"hold k 1/5 r1 locked"}, nil},
	{"dedupe, fails", backfill.UnsafeDedupe, true, []string{"hold k 1/5 r1 locked"}, []string{"hold k 1/5 r1 late"}},
	{"remove", remove, false, []string{"hold - 5/5 r0 locked"}, nil},
	{"remove, fails", remove, true, []string{"hold - 5/5 r0 locked"}, []string{"hold - 5/5 r0 late"}},
}

// What runs in the end, and what is left of that.
var (
	keyRuns = []string{"dedupe, fails: hold", "preserve: next", "replace, fails: next", "replace: next"}
	keyLeft = []string{"remove, fails: hold - 5/5 r0 late", "replace, fails: hold - 5/5 r0 late"}
)

// testKeysOfGosJobs: Go runs the jobs, Node adds, SQL removes, and in the end Node runs what there
// is to run.
func testKeysOfGosJobs(f *fixture, node *peer) {
	f.addHeld()
	started, release, ended := make(chan bool), make(chan bool), make(chan error, 1)
	worker, err := f.client.NewWorker(backfill.NewRegistry(backfill.Handle(hold, func(_ context.Context, args keyed) error {
		started <- true
		<-release
		return args.end()
	})), backfill.WithConcurrency(len(keyCases)))
	if err != nil {
		f.Fatal(err)
	}
	ctx, cancel := context.WithCancel(f.Context())
	defer cancel()
	go func() { ended <- worker.Run(ctx) }()
	for range keyCases {
		select {
		case <-started:
		case <-time.After(hang):
			f.Fatal("Go does not run all jobs")
		}
	}

	for _, c := range keyCases {
		if c.mode == remove {
			f.execute("select graphile_worker.remove_job('" + c.name + "')")
			continue
		}
		spec := map[string]any{"jobKey": c.name, "jobKeyMode": c.mode, "queueName": "queue of " + c.name}
		node.add(next.Name, keyed{Case: c.name}, spec)
	}
	f.wantStates("while Go's jobs run", func(c keyCase) []string { return c.during })
	close(release)
	cancel()
	if err := <-ended; err != nil {
		f.Fatal(err)
	}
	f.wantStates("after Go's jobs", func(c keyCase) []string { return gone(c.after) })

	f.execute("update graphile_worker._private_jobs set run_at = now()")
	var runs []string
	for _, m := range f.workOnceInNode(node, bodies{hold.Name: "", next.Name: ""}, nil) {
		runs = append(runs, m.Job.keyed(f).Case+": "+m.Job.Task)
	}
	f.wantKeysEnd(runs, gone(keyLeft))
}

// gone leaves out the jobs that were superseded or removed while they ran: Go deletes them also if
// they fail, where Node leaves their rows for good.
func gone(states []string) []string {
	return slices.DeleteFunc(slices.Clone(states), func(state string) bool { return strings.Contains(state, "hold - 5/5") })
}

// testKeysOfNodesJobs: Node runs the jobs, Go adds and removes, and in the end Go runs what there
// is to run. Node is stopped.
func testKeysOfNodesJobs(f *fixture, node *peer) {
	f.addHeld()
	from := node.record.len()
	node.work(bodies{hold.Name: `
		await tell(helpers);
		await released;
		if (payload.fails) throw new Error("late");
	`}, map[string]any{"concurrency": len(keyCases), "pollInterval": 50})
	for range keyCases {
		_, before := node.record.await(f.T, "Node to run all jobs", from, is("job"))
		from += len(before) + 1
	}

	for _, c := range keyCases {
		if c.mode == remove {
			job, err := f.client.RemoveJob(f.Context(), c.name)
			if err != nil || job == nil || job.Key != "" || job.Attempt != job.MaxAttempts {
				f.Errorf("RemoveJob of %q, which Node runs, = %+v, %v", c.name, job, err)
			}
			continue
		}
		_, err := backfill.Enqueue(f.Context(), f.client, next, keyed{Case: c.name},
			backfill.Key(c.name), c.mode, backfill.Queue("queue of "+c.name))
		if err != nil {
			f.Fatal(err)
		}
	}
	f.wantStates("while Node's jobs run", func(c keyCase) []string { return c.during })
	node.do(map[string]any{"request": "release"})
	node.stop()
	f.wantStates("after Node's jobs", func(c keyCase) []string { return c.after })

	f.execute("update graphile_worker._private_jobs set run_at = now()")
	var mu sync.Mutex
	var runs []string
	run := func(ctx context.Context, args keyed) error {
		mu.Lock()
		defer mu.Unlock()
		runs = append(runs, args.Case+": "+backfill.JobInfo(ctx).Task)
		return nil
	}
	f.workOnce(backfill.NewRegistry(backfill.Handle(hold, run), backfill.Handle(next, run)))
	f.wantKeysEnd(runs, keyLeft)
}

func (k keyed) end() error {
	if k.Fails {
		return errors.New("late")
	}
	return nil
}

func (j *nodeJob) keyed(f *fixture) (k keyed) {
	f.Helper()
	if err := json.Unmarshal(j.Payload, &k); err != nil {
		f.Fatal(err)
	}
	return k
}

// addHeld adds the jobs of the cases, each in a queue of its own.
func (f *fixture) addHeld() {
	f.Helper()
	f.reset("")
	for _, c := range keyCases {
		f.execute(fmt.Sprintf("select graphile_worker.add_job('hold', '%s', 'queue of %[2]s', '2024-01-01', 5, '%[2]s')",
			must(json.Marshal(keyed{c.name, c.fails})), c.name))
	}
}

// states has a line for each job: its case, its task, k if it has the key, its attempts and
// max_attempts, its revision, whether it is locked, its last error.
func (f *fixture) states() []string {
	f.Helper()
	return f.lines(`
		select payload ->> 'case' || ': ' || concat_ws(' ', t.identifier,
			case when key is null then '-' when key = payload ->> 'case' then 'k' end,
			attempts || '/' || max_attempts, 'r' || revision, case when locked_at is not null then 'locked' end, last_error)
		from graphile_worker._private_jobs j join graphile_worker._private_tasks t on t.id = j.task_id order by 1`)
}

func (f *fixture) wantStates(when string, of func(keyCase) []string) {
	f.Helper()
	var want []string
	for _, c := range keyCases {
		for _, state := range of(c) {
			want = append(want, c.name+": "+state)
		}
	}
	slices.Sort(want)
	got := f.states()
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		f.Errorf("jobs %s (-want +got):\n%s", when, diff)
	}
}

// wantKeysEnd checks what has run, and what is left. No queue is locked.
func (f *fixture) wantKeysEnd(runs, left []string) {
	f.Helper()
	slices.Sort(runs)
	if diff := cmp.Diff(keyRuns, runs); diff != "" {
		f.Errorf("runs of the other side (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(left, f.states(), cmpopts.EquateEmpty()); diff != "" {
		f.Errorf("jobs in the end (-want +got):\n%s", diff)
	}
	if locked := f.lines("select queue_name from graphile_worker._private_job_queues where not is_available"); len(locked) > 0 {
		f.Errorf("the queues %s are locked", locked)
	}
}

// testRace adds jobs with one key while Node and Go run them: a worker may take the job in the
// middle of an add (contract section 4.4). Of each job, what the last add left there must run.
func testRace(f *fixture) {
	const adders, adds = 3, 100 // adds of each adder, at least
	task := &backfill.Task[int64]{Name: "race"}
	node := startPeer(f)
	node.work(bodies{task.Name: ""}, map[string]any{"concurrency": 2, "pollInterval": 100})
	ran := newRecord[backfill.Job]()
	registry := backfill.NewRegistry(backfill.Handle(task, func(ctx context.Context, _ int64) error {
		ran.add(backfill.JobInfo(ctx))
		return nil
	}))
	worker, err := f.client.NewWorker(registry, backfill.WithConcurrency(2))
	if err != nil {
		f.Fatal(err)
	}
	ctx, cancel := context.WithCancel(f.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- worker.Run(ctx) }()
	bothRan := func() bool {
		said, _, _ := node.record.seen()
		return ran.len() > 0 && slices.ContainsFunc(said, is("job"))
	}

	adding, stop := context.WithTimeout(f.Context(), hang)
	defer stop()
	var number atomic.Int64
	acknowledged := newRecord[*backfill.Job]()
	var group sync.WaitGroup
	for range adders {
		group.Go(func() {
			for i := 0; i < adds || !bothRan(); i++ {
				job, err := backfill.Enqueue(adding, f.client, task, number.Add(1), backfill.Key("k"))
				if err != nil {
					f.Error(err)
					return
				}
				acknowledged.add(job)
			}
		})
	}
	group.Wait()
	// Node leaves a job locked that it claims while it stops.
	dbtest.Until(f.T, func() bool {
		return dbtest.Get[bool](f.T, f.db.Pool(), "select not exists (select from "+f.table("_private_jobs")+" where is_available)")
	})
	node.stop()
	cancel()
	if err := <-ended; err != nil {
		f.Fatal(err)
	}
	f.workOnce(registry)
	f.wantNothingLeft()
	wantLastRan(f, node, ran, acknowledged)
}

// wantLastRan checks that of each job that was acknowledged the last revision has run.
func wantLastRan(f *fixture, node *peer, inGo *record[backfill.Job], acknowledged *record[*backfill.Job]) {
	f.Helper()
	type run struct {
		id   int64
		args string
	}
	runs := map[run]bool{}
	jobs, _, _ := inGo.seen()
	for _, job := range jobs {
		runs[run{job.ID, string(job.Args)}] = true
	}
	said, _, _ := node.record.seen()
	for _, m := range said {
		if m.Type == "job" {
			runs[run{m.Job.ID, string(m.Job.Payload)}] = true
		}
	}
	last := map[int64]*backfill.Job{}
	adds, _, _ := acknowledged.seen()
	for _, job := range adds {
		if last[job.ID] == nil || last[job.ID].Revision < job.Revision {
			last[job.ID] = job
		}
	}
	for id, job := range last {
		if !runs[run{id, string(job.Args)}] {
			f.Errorf("job %d has not run with %s, its revision %d, which was acknowledged", id, job.Args, job.Revision)
		}
	}
	f.Logf("%d adds, %d jobs, %d runs, %d of them in Go", len(adds), len(last), len(runs), len(jobs))
}
