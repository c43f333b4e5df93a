package interop_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/backfill"
)

// Workers are killed while each runs a job of a queue and one without. Their locks are broken in every way there is, and the other
// side works everything. When a Go worker sweeps on its own is tested in internal/worker.
func TestB4Crash(t *testing.T) {
	point(t)
	t.Parallel()
	t.Run("Go is killed", testGoIsKilled)
	t.Run("Node is killed", testNodeIsKilled)
}

func testGoIsKilled(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	tasks := bodies{}
	for _, way := range []string{"swept", "forced", "declared dead"} {
		tasks[way] = ""
		f.enqueueFor(way, "first", "second", "free")
		f.killGo(way, "first", "free")
	}
	node := startPeer(f)
	node.work(tasks, map[string]any{"preset": map[string]any{"worker": map[string]any{
		"pollInterval": 20, "minResetLockedInterval": 20, "maxResetLockedInterval": 20,
	}}})
	node.record.await(t, "Node's sweep", 0, event("resetLocked:success"))
	from := node.record.len()
	node.record.await(t, "another sweep", from, event("resetLocked:success"))
	if left := f.lines("select distinct task_identifier from " + f.table("jobs") + " where locked_by is not null"); len(left) != len(tasks) {
		t.Errorf("of the fresh locks, Node's sweep left those of %s", left)
	}

	f.setLocksBack("swept")
	f.execute("select "+f.table("force_unlock_workers")+"($1)", f.lockedBy("forced"))
	f.unlockWorker("declared dead", 2)
	got := map[string]outcome{}
	for from := 0; len(got) < 3*len(tasks); {
		m, before := node.record.await(t, fmt.Sprint("jobs beside ", got), from, is("job"))
		from += len(before) + 1
		var l letter
		if err := json.Unmarshal(m.Job.Payload, &l); err != nil {
			t.Fatal(err)
		}
		got[m.Job.Task+" "+l.Text] = newOutcome(m.Job.Attempts, m.Job.RunAt)
	}
	want := map[string]outcome{
		"swept first": {Attempts: 2, Later: true}, "swept free": {Attempts: 2, Later: true}, "swept second": {Attempts: 1},
		"forced first": {Attempts: 2}, "forced free": {Attempts: 2}, "forced second": {Attempts: 1},
		"declared dead first": {Attempts: 1}, "declared dead free": {Attempts: 1}, "declared dead second": {Attempts: 1}, // R3
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("what Node worked (-want +got):\n%s", diff)
	}
	node.stop()
	f.wantNothingLeft()
}

// A Node worker that is killed leaves also jobs that it had only fetched.
func testNodeIsKilled(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ways := []string{"swept", "forced", "declared dead"}
	for _, way := range ways {
		f.enqueueFor(way, "first", "second", "free", "fetched")
		f.killNode(way)
	}
	if jobs, err := f.client.ReleaseStaleLocks(t.Context()); jobs != 0 || err != nil {
		t.Errorf("%d fresh locks are stale, %v", jobs, err)
	}

	f.setLocksBack("swept")
	if jobs, err := f.client.ReleaseStaleLocks(t.Context()); jobs != 3 || err != nil {
		t.Errorf("%d locks were stale, %v; want 3", jobs, err)
	}
	if jobs, err := f.client.ForceUnlock(t.Context(), f.lockedBy("forced")...); len(jobs) != 3 || err != nil {
		t.Errorf("%d jobs were unlocked by force, %v; want 3", len(jobs), err)
	}
	f.unlockWorker("declared dead", 3)
	want := map[string]outcome{}
	for _, way := range ways {
		charged := outcome{Attempts: 2, Later: way == "swept"}
		want[way+" first"], want[way+" free"], want[way+" fetched"], want[way+" second"] = charged, charged, charged, outcome{Attempts: 1}
	}
	if diff := cmp.Diff(want, f.runOnce(ways)); diff != "" {
		t.Errorf("what Go worked (-want +got):\n%s", diff)
	}
	f.wantNothingLeft()
}

// An outcome is a job as it ran in the end.
type outcome struct {
	Attempts int
	Later    bool // than it was due
}

func newOutcome(attempts int, runAt time.Time) outcome {
	return outcome{attempts, runAt.Sub(due) > time.Hour}
}

// enqueueFor enqueues jobs of a task. The first and the second are in a queue.
func (f *fixture) enqueueFor(name string, texts ...string) {
	f.Helper()
	for i, text := range texts {
		queue := ""
		if text == "first" || text == "second" {
			queue = name
		}
		descriptor := &backfill.Task[letter]{Name: name}
		runAt := backfill.RunAt(due.Add(time.Duration(i) * time.Second))
		if _, err := backfill.Enqueue(f.Context(), f.client, descriptor, letter{Text: text}, backfill.Queue(queue), runAt); err != nil {
			f.Fatal(err)
		}
	}
}

// killNode starts a Node process for a task, and kills it when it runs two jobs.
func (f *fixture) killNode(name string) {
	f.Helper()
	node := startPeer(f)
	node.work(bodies{name: "await tell(helpers); await released"}, map[string]any{"preset": map[string]any{"worker": map[string]any{
		"concurrentJobs": 2, "localQueue": map[string]any{"size": 10},
	}}})
	from := 0
	for range 2 {
		_, before := node.record.await(f.T, "two jobs", from, is("job"))
		from += len(before) + 1
	}
	if err := node.cmd.Process.Kill(); err != nil {
		f.Fatal(err)
	}
	_ = node.record.awaitEnd(f.T) // killed
}

const (
	processURL  = "BACKFILL_TEST_WORKER_URL"
	processTask = "BACKFILL_TEST_WORKER_TASK"
)

// killGo starts another process of this program as a worker of a task, and kills it when it runs these jobs.
func (f *fixture) killGo(name string, running ...string) {
	f.Helper()
	program, err := os.Executable()
	if err != nil {
		f.Fatal(err)
	}
	cmd := exec.Command(program, "-test.run=^TestWorkerProcess$", "-test.timeout=5m")
	cmd.Env = append(os.Environ(), processURL+"="+f.db.URL, processTask+"="+name)
	cmd.Stderr = f.Output()
	if _, err := cmd.StdinPipe(); err != nil { // which closes when we die
		f.Fatal(err)
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		f.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		f.Fatal(err)
	}
	var said []string
	for lines := bufio.NewScanner(output); len(said) < len(running) && lines.Scan(); {
		said = append(said, lines.Text())
	}
	cmd.Process.Kill()
	_ = cmd.Wait() // killed
	slices.Sort(said)
	if diff := cmp.Diff(running, said); diff != "" {
		f.Fatalf("what the process said (-want +got):\n%s", diff)
	}
}

// TestWorkerProcess is the other process: a worker that says what it runs, and never ends a job.
func TestWorkerProcess(t *testing.T) {
	t.Parallel()
	url := os.Getenv(processURL)
	if url == "" {
		t.Skip("runs only on behalf of TestB4Crash")
	}
	client, err := backfill.Open(t.Context(), url, backfill.WithMigrations(backfill.MigrateVerify))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	stuck := &backfill.Task[letter]{Name: os.Getenv(processTask)}
	registry := backfill.NewRegistry(backfill.Handle(stuck, func(ctx context.Context, l letter) error {
		fmt.Fprintln(os.Stdout, l.Text)
		<-ctx.Done()
		return ctx.Err()
	}))
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer cancel()
		_, _ = io.Copy(io.Discard, os.Stdin) // until our parent is gone
	}()
	if err := backfill.Run(ctx, registry, backfill.WithClient(client), backfill.WithDrainTimeout(0)); err != nil {
		t.Error(err)
	}
}

// setLocksBack makes the locks of a task's jobs and of its queue stale.
func (f *fixture) setLocksBack(name string) {
	f.Helper()
	f.execute("update "+f.table("_private_job_queues")+" set locked_at = locked_at - interval '5 hours' where queue_name = $1", name)
	f.execute(`update `+f.table("_private_jobs")+` set locked_at = locked_at - interval '5 hours'
		where task_id = (select id from `+f.table("_private_tasks")+` where identifier = $1)`, name)
}

// lockedBy returns what locked_by of a task's jobs and of its queue is.
func (f *fixture) lockedBy(name string) []string {
	f.Helper()
	values := f.lines(fmt.Sprintf(`
		select locked_by from %s where task_identifier = '%s' and locked_by is not null
		union select locked_by from %s where queue_name = '%[2]s' and locked_by is not null`,
		f.table("jobs"), name, f.table("_private_job_queues")))
	if len(values) == 0 {
		f.Fatalf("nothing of %s is locked", name)
	}
	return values
}

// unlockWorker unlocks the worker that has locked a task's jobs, as an operator does.
func (f *fixture) unlockWorker(name string, want int) {
	f.Helper()
	worker, _, _ := strings.Cut(f.lockedBy(name)[0], ".")
	if jobs, err := f.client.UnlockWorker(f.Context(), worker); jobs != want || err != nil {
		f.Errorf("%d jobs of %s were unlocked, %v; want %d", jobs, worker, err, want)
	}
}

// runOnce works everything that is ready, and returns what it was.
func (f *fixture) runOnce(tasks []string) map[string]outcome {
	f.Helper()
	var mu sync.Mutex
	outcomes := map[string]outcome{}
	note := func(ctx context.Context, l letter) error {
		mu.Lock()
		defer mu.Unlock()
		job := backfill.JobInfo(ctx)
		outcomes[job.Task+" "+l.Text] = newOutcome(job.Attempt, job.RunAt)
		return nil
	}
	bindings := make([]backfill.Binding, len(tasks))
	for i, name := range tasks {
		bindings[i] = backfill.Handle(&backfill.Task[letter]{Name: name}, note)
	}
	ctx, cancel := context.WithTimeout(f.Context(), hang)
	defer cancel()
	if _, err := backfill.RunOnce(ctx, backfill.NewRegistry(bindings...), backfill.WithClient(f.client)); err != nil {
		f.Fatal(err)
	}
	return outcomes
}
