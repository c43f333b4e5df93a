package testutil_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/testutil"
)

// Only what is due runs, and what stays is listed with the reason (X100).
func TestDrainRunsWhatIsDue(t *testing.T) {
	t.Parallel()
	client, db := newClient(t)
	ctx := t.Context()
	paused := &backfill.Task[string]{Name: "paused"}
	mustEnqueue(t, client,
		taskStep.Request("due"), taskStep.Request("waits", backfill.Delay(time.Hour)), taskStep.Request("snoozes"),
		taskStep.Request("fails"), taskStep.Request("flagged", backfill.Flags("slow"), backfill.Queue("q")),
		taskStep.Request("behind", backfill.Queue("q")), taskStep.Request("of a paused queue", backfill.Queue("stopped")),
		paused.Request("paused"), backfill.Request{Task: "nobody's"}, taskStep.Request("exhausted", backfill.MaxAttempts(1)),
		taskStep.Request("for ever"))
	if err := client.Pause(ctx, "paused", backfill.PauseOptions{By: "me", Reason: "it harms"}); err != nil {
		t.Fatal(err)
	}
	if err := client.PauseQueue(ctx, "stopped", backfill.PauseOptions{By: "you", Reason: "so"}); err != nil {
		t.Fatal(err)
	}
	execute(t, db, `update graphile_worker._private_jobs set run_at = 'infinity' where payload::text = '"for ever"'`)
	step := doing(map[string]func(context.Context) error{
		"snoozes":   func(context.Context) error { return backfill.Snooze(2 * time.Hour) },
		"fails":     func(context.Context) error { return errors.New("boom") },
		"exhausted": func(context.Context) error { return errors.New("boom") },
	})
	registry := backfill.NewRegistry(step, backfill.Handle(paused, func(context.Context, string) error { return nil }))
	drained := testutil.Drain(t, client, registry, backfill.WithForbiddenFlags("slow"), backfill.WithoutDeadLetters(),
		testutil.ExpectFailure(func(_ *backfill.Job, err error) bool { return err.Error() == "boom" }))
	left := map[string]string{}
	for _, job := range drained.Left {
		left[strings.Trim(string(job.Args), `"`)] = fmt.Sprintf("%s %s", job.Why, job.Detail)
	}
	want := map[string]string{
		"waits": "waiting ", "snoozes": "waiting ", "fails": "waiting boom", "flagged": `forbidden flags ["slow"]`,
		"of a paused queue": "paused queue stopped, by you: so", "paused": "paused task paused, by me: it harms", "{}": "unserved ",
		"exhausted": "exhausted boom", "for ever": "waiting ",
	}
	if diff := cmp.Diff(want, left); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
	ran := names(drained)
	slices.Sort(ran)
	if diff := cmp.Diff([]string{"behind", "due", "exhausted", "fails", "snoozes"}, ran); diff != "" {
		t.Errorf("ran (-want +got):\n%s", diff)
	}
	if drained.Ended != 2 || drained.Completed != 2 || drained.Failed != 2 || drained.Snoozed != 1 {
		t.Errorf("%d have ended, %+v", drained.Ended, drained.Report)
	}
	if age := time.Since(drained.Now); age < -time.Minute || age > time.Minute {
		t.Errorf("the time of a database that nobody moves is %v", drained.Now)
	}
}

// One seed makes one order, in which jobs of a queue keep their places, and priorities theirs.
func TestDrainOrder(t *testing.T) {
	t.Parallel()
	run := func(seed uint64) (order []string, runs []string) {
		client, _ := newClient(t)
		var requests []backfill.Request
		for i := range 8 {
			requests = append(requests, taskStep.Request(fmt.Sprint("free ", i)), taskStep.Request(fmt.Sprint("in a queue ", i), backfill.Queue("q")),
				taskStep.Request(fmt.Sprint("later ", i), backfill.PriorityBulkLowest))
		}
		mustEnqueue(t, client, requests...)
		does := map[string]func(context.Context) error{}
		for i := range 8 { // and so do the jobs that they enqueue, and their retries
			does[fmt.Sprint("free ", i)] = func(ctx context.Context) error {
				if backfill.JobInfo(ctx).Attempt == 1 {
					_, err := backfill.Enqueue(ctx, backfill.FromContext(ctx), taskStep, fmt.Sprint("child ", i))
					return errors.Join(err, errors.New("boom"))
				}
				return nil
			}
		}
		registry := backfill.NewRegistry(backfill.Handle(&backfill.Task[string]{Name: "step"}, func(ctx context.Context, name string) error {
			if do := does[name]; do != nil {
				return do(ctx)
			}
			return nil
		}))
		boom := testutil.ExpectFailure(func(*backfill.Job, error) bool { return true })
		drained := testutil.DrainUntil(t, client, registry, time.Minute, testutil.Seed(seed), boom)
		if drained.Seed != seed || len(drained.Left) > 0 {
			t.Errorf("seed %d, left %v", drained.Seed, drained.Left)
		}
		first := drained.Runs[0].At
		for _, run := range drained.Runs {
			runs = append(runs, fmt.Sprint(string(run.Job.Args), " at ", run.At.Sub(first)))
		}
		return names(drained), runs
	}
	one, runs := run(1)
	again, runsAgain := run(1)
	other, _ := run(2)
	if diff := cmp.Diff(runs, runsAgain); diff != "" {
		t.Errorf("one seed, two orders or times (-first +second):\n%s", diff)
	}
	if slices.Equal(one, other) {
		t.Errorf("two seeds, one order: %q", one)
	}
	for _, order := range [][]string{one, again, other} {
		if len(order) != 40 {
			t.Errorf("%d runs", len(order))
		}
		queue := slices.DeleteFunc(slices.Clone(order), func(name string) bool { return !strings.HasPrefix(name, "in a queue") })
		if !slices.IsSorted(queue) {
			t.Errorf("order in the queue: %q", queue)
		}
		free := slices.DeleteFunc(slices.Clone(order), func(name string) bool { return !strings.HasPrefix(name, "free") })
		if slices.IsSorted(free[:8]) {
			t.Errorf("free jobs run in the order of their ids: %q", free)
		}
		if first := slices.IndexFunc(order, func(name string) bool { return strings.HasPrefix(name, "later") }); first < 9 {
			t.Errorf("jobs that come later run at %d: %q", first, order)
		}
	}
}

// Errors of handlers fail the test, with all that is known of them (X98).
func TestDrainFailsTheTest(t *testing.T) {
	t.Parallel()
	client, _ := newClient(t)
	registry := backfill.NewRegistry(doing(map[string]func(context.Context) error{
		"fails":     func(context.Context) error { return errors.New("boom") },
		"permanent": func(context.Context) error { return backfill.Permanent(errors.New("no such user")) },
		"panics":    func(context.Context) error { panicInAHandler(); return nil },
		"exits":     func(context.Context) error { runtime.Goexit(); return nil },
	}))
	enqueue := func() {
		t.Helper()
		mustEnqueue(t, client, taskStep.Request("fails"), taskStep.Request("permanent"), taskStep.Request("panics"), taskStep.Request("fine"),
			taskStep.Request("exits", backfill.MaxAttempts(1)))
	}
	enqueue()
	said, logged := tryDrain(t, client, registry)
	wantAll(t, said, `of task "step" failed, attempt 1 of 25, it is tried again in 1h0m0s: boom`, `payload: "fails"`,
		"it is not tried again: ", "no such user", `payload: "permanent"`, "at the disco", "stack:", "panicInAHandler", "runtime.Goexit")
	wantAll(t, logged, "testutil.Seed(")
	if got := strings.Count(said, "payload: "); got != 4 {
		t.Errorf("%d failures are said: %s", got, said)
	}

	enqueue()
	var panicked *backfill.PanicError
	isBoom := func(job *backfill.Job, err error) bool { return job.Task == "step" && err.Error() == "boom" }
	said, _ = tryDrain(t, client, registry, testutil.ExpectFailure(isBoom),
		testutil.ExpectFailure(func(_ *backfill.Job, err error) bool { return errors.As(err, &panicked) }))
	if strings.Contains(said, "boom") || strings.Contains(said, "disco") || !strings.Contains(said, "no such user") {
		t.Errorf("some failures are expected, and others not: %s", said)
	}
	mustEnqueue(t, client, taskStep.Request("fine"))
	said, _ = tryDrain(t, client, registry, testutil.ExpectFailure(isBoom))
	wantAll(t, said, "no failure is one that ExpectFailure 1 of 1 expects")
	mustEnqueue(t, client, taskStep.Request("fails")) // one failure can be what several expect
	each := func(*backfill.Job, error) bool { return true }
	if said, _ = tryDrain(t, client, registry, testutil.ExpectFailure(each), testutil.ExpectFailure(isBoom)); said != "" {
		t.Errorf("a failure that two expect is one of the first alone: %s", said)
	}
	mustEnqueue(t, client, taskStep.Request("fine"))
	if said, logged = tryDrain(t, client, registry); said+logged != "" {
		t.Errorf("nothing failed: %s%s", said, logged)
	}
}

func panicInAHandler() { panic("at the disco") }

// A drain that finds no end stops, and says who feeds it (X96).
func TestDrainHasAnEnd(t *testing.T) {
	t.Parallel()
	parent := &backfill.Task[string]{Name: "parent"}
	for name, c := range map[string]struct {
		does func(context.Context) error
		want []string
	}{
		"itself": {func(ctx context.Context) error {
			_, err := backfill.Enqueue(ctx, backfill.FromContext(ctx), taskStep, "itself")
			return err
		}, []string{"jobs have run 50 times", "step ran 50 times, and step has enqueued 49 of its jobs"}},
		"two": {func(ctx context.Context) error {
			_, err := backfill.Enqueue(ctx, backfill.FromContext(ctx), parent, "again")
			return err
		}, []string{"jobs have run 50 times", "step ran 26 times, and parent has enqueued 24 of its jobs", "parent ran 24 times, and step has enqueued 25 of"}},
		"fails": {
			func(context.Context) error { return backfill.RetryIn(0, errors.New("boom")) },
			[]string{"of task step has run 20 times, the last time failed", "boom", "10 more runs failed"},
		},
		"many":    {nil, []string{"jobs have run 50 times"}},
		"snoozes": {func(context.Context) error { return backfill.Snooze(0) }, []string{"of task step has run 20 times, the last time snoozed"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client, db := newClient(t)
			registry := backfill.NewRegistry(doing(map[string]func(context.Context) error{name: c.does}),
				backfill.Handle(parent, func(ctx context.Context, _ string) error {
					_, err := backfill.Enqueue(ctx, backfill.FromContext(ctx), taskStep, name)
					return err
				}))
			mustEnqueue(t, client, taskStep.Request(name, backfill.MaxAttempts(1000)), taskStep.Request("another", backfill.PriorityBulkLowest))
			if name == "many" { // claimed together, and given back when the drain stops
				mustEnqueue(t, client, slices.Repeat([]backfill.Request{taskStep.Request(name)}, 80)...)
			}
			said, logged := tryDrain(t, client, registry, testutil.MaxRuns(20, 50))
			wantAll(t, said, c.want...)
			wantAll(t, logged, "testutil.Seed(")
			var locked int
			if err := db.Pool().QueryRow(t.Context(), "select count(*) from graphile_worker._private_jobs where locked_by is not null").Scan(&locked); err != nil || locked > 0 {
				t.Errorf("the drain has left %d locked jobs, %v", locked, err)
			}
		})
	}
}

// A drain is alone on its tables.
func TestDrainRefusesOthers(t *testing.T) {
	t.Parallel()
	client, db := newClient(t)
	mustEnqueue(t, client, taskStep.Request("a", backfill.Queue("q")), taskStep.Request("b"))
	registry := backfill.NewRegistry(doing(nil))
	drain := func() string {
		said, _ := tryDrain(t, client, registry)
		return said
	}
	execute(t, db, `update graphile_worker._private_jobs set locked_by = 'node-1', locked_at = now() where id = 1`)
	wantAll(t, drain(), "somebody else works on these tables", "job 1 of task step is locked by node-1 since")
	execute(t, db, `update graphile_worker._private_jobs set locked_by = null, locked_at = null`)
	execute(t, db, `update graphile_worker._private_job_queues set locked_by = 'node-1', locked_at = now()`)
	wantAll(t, drain(), "queue q is locked by node-1 since")
	execute(t, db, `update graphile_worker._private_job_queues set locked_by = null, locked_at = null`)

	started, stop := make(chan string, 1), make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	other, err := client.NewWorker(backfill.NewRegistry(backfill.Handle(&backfill.Task[string]{Name: "other"}, func(context.Context, string) error { return nil })),
		backfill.WithObserver(func(e backfill.Event) {
			if e.Kind == backfill.EventStarted {
				started <- e.WorkerID
			}
		}))
	if err != nil {
		t.Fatal(err)
	}
	go func() { stop <- other.Run(ctx) }()
	id := <-started
	wantAll(t, drain(), "worker "+id, "process ")
	for locked := false; !locked; time.Sleep(10 * time.Millisecond) { // soon after the start its heartbeats hold a lock
		if err := db.Pool().QueryRow(t.Context(), "select locked from graphile_worker.backfill_workers where id = $1", id).Scan(&locked); err != nil {
			t.Fatal(err)
		}
	}
	execute(t, db, "update graphile_worker.backfill_workers set heartbeat_at = '2000-01-01'") // a worker whose row is old, and whose lock is held
	wantAll(t, drain(), "worker "+id)
	cancel()
	if err := <-stop; err != nil {
		t.Fatal(err)
	}
	execute(t, db, `insert into graphile_worker.backfill_workers (id, heartbeat_at) values ('pool-000000000000000000', '2000-01-01')`) // died long ago
	if said := drain(); said != "" {
		t.Errorf("the drain is alone: %s", said)
	}
	drained := testutil.Drain(t, client, registry)
	if len(drained.Left) > 0 || len(drained.Runs) > 0 {
		t.Errorf("the drain before has left %v", drained.Left)
	}
	mustEnqueue(t, client, taskStep.Request("joins"))
	joins := backfill.NewRegistry(doing(map[string]func(context.Context) error{"joins": func(context.Context) error {
		execute(t, db, `insert into graphile_worker.backfill_workers (id) values ('pool-111111111111111111')`)
		return nil
	}}))
	said, _ := tryDrain(t, client, joins)
	wantAll(t, said, "worker pool-111111111111111111")
}

// The stored bytes are what a handler gets (X93).
func TestDrainDecodesWhatIsStored(t *testing.T) {
	t.Parallel()
	client, db := newClient(t)
	type args struct {
		At     time.Time `json:"at"`
		hidden string
	}
	task := &backfill.Task[args]{Name: "args"}
	var got args
	registry := backfill.NewRegistry(backfill.Handle(task, func(_ context.Context, a args) error { got = a; return nil }))
	now := time.Now() // with a monotonic reading
	mustEnqueue(t, client, task.Request(args{At: now, hidden: "x"}))
	testutil.Drain(t, client, registry)
	if got.hidden != "" || got.At == now || !got.At.Equal(now) {
		t.Errorf("the handler got %+v, which is not what JSON says", got)
	}
	for _, request := range []backfill.Request{
		(&backfill.Task[float64]{Name: "args"}).Request(math.NaN()), (&backfill.Task[func()]{Name: "args"}).Request(func() {}),
	} {
		if _, err := client.Enqueue(t.Context(), request); err == nil {
			t.Errorf("%+v was enqueued", request)
		}
	}
	execute(t, db, `select graphile_worker.add_job('args', '{"at": 7}')`)
	said, _ := tryDrain(t, client, registry)
	wantAll(t, said, `of task "args" failed`, `payload: {"at": 7}`, "decode args of task args: $.at: ")
}

// What handlers enqueue, in every way, has run or is listed (X103).
func TestDrainAccountsForAll(t *testing.T) {
	t.Parallel()
	client, db := newClient(t)
	tick := &backfill.Task[backfill.NoArgs]{Name: "tick"}
	inTx := &backfill.Task[string]{Name: "in_tx", Timeout: time.Minute}
	var enqueued []int64
	from := func(ctx context.Context, e backfill.Enqueuer, requests ...backfill.Request) error {
		jobs, err := e.Enqueue(ctx, requests...)
		for _, job := range jobs {
			enqueued = append(enqueued, job.ID)
		}
		return err
	}
	chain := func(ctx context.Context) error {
		client := backfill.FromContext(ctx)
		if err := from(ctx, client, taskStep.Request("plain"), taskStep.Request("by key", backfill.Key("k")), taskStep.Request("by key", backfill.Key("k")),
			taskStep.Request("scheduled", backfill.Delay(48*time.Hour)), taskStep.Request("soon", backfill.Delay(time.Hour)), inTx.Request("commits")); err != nil {
			return err
		}
		for _, commit := range []bool{true, false} {
			tx, err := db.Pool().Begin(ctx)
			if err != nil {
				return err
			}
			name := map[bool]string{true: "in tx", false: "rolled back"}[commit]
			before := slices.Clone(enqueued)
			err = from(ctx, client.WithTx(tx), taskStep.Request(name))
			if commit {
				err = errors.Join(err, tx.Commit(ctx))
			} else {
				err = errors.Join(err, tx.Rollback(ctx))
				enqueued = before
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	ticks := 0
	registry := backfill.NewRegistry(doing(map[string]func(context.Context) error{"chain": chain}),
		backfill.Handle(tick, func(ctx context.Context, _ backfill.NoArgs) error {
			ticks++
			enqueued = append(enqueued, backfill.JobInfo(ctx).ID)
			if ticks == 2 {
				return from(ctx, backfill.FromContext(ctx), taskStep.Request("chain"))
			}
			return nil
		}, backfill.Cron("0 */6 * * *")),
		backfill.Handle(inTx, func(ctx context.Context, _ pgx.Tx, _ string) error {
			return from(ctx, backfill.FromContext(ctx), taskStep.Request("from a transaction"), taskStep.Request("much later", backfill.Delay(72*time.Hour)))
		}))
	if err := from(t.Context(), client, taskStep.Request("chain"), taskStep.Request("old", backfill.RunAt(time.Now().AddDate(0, 0, -1)))); err != nil {
		t.Fatal(err)
	}
	drained := testutil.DrainUntil(t, client, registry, 24*time.Hour)
	slices.Sort(enqueued)
	all := slices.Compact(enqueued)
	if ticks != 4 || drained.Ended+len(drained.Left) != len(all) {
		t.Errorf("%d jobs were enqueued: %d have ended, and %d are left: %v; %d ticks", len(all), drained.Ended, len(drained.Left), drained.Left, ticks)
	}
	for _, job := range drained.Left {
		if job.Why != testutil.LeftWaiting || !job.RunAt.After(drained.Now) {
			t.Errorf("left: %v", job)
		}
	}
	if len(drained.Left) != 4 || slices.Contains(names(drained), "rolled back") {
		t.Errorf("left: %v, ran: %q", drained.Left, names(drained))
	}
}

// A job that a handler cancels does not run, also when the drain has claimed it already, and
// neither does the rest of one that cancels itself.
func TestDrainOfCancelledJobs(t *testing.T) {
	t.Parallel()
	client, _ := newClient(t)
	var victim *backfill.Job
	var canceled []backfill.CancelState
	cancel := func(ctx context.Context, id int64) error {
		outcome, err := client.Cancel(context.WithoutCancel(ctx), id, backfill.CancelOptions{})
		canceled = append(canceled, outcome.State)
		return err
	}
	registry := backfill.NewRegistry(doing(map[string]func(context.Context) error{
		"cancels": func(ctx context.Context) error { return cancel(ctx, victim.ID) },
		"victim":  func(context.Context) error { t.Error("a cancelled job runs"); return nil },
		"itself": func(ctx context.Context) error {
			return errors.Join(cancel(ctx, backfill.JobInfo(ctx).ID), errors.New("cut"))
		},
	}))
	jobs, err := client.Enqueue(t.Context(), taskStep.Request("cancels"), taskStep.Request("victim", backfill.PriorityBulkLowest), taskStep.Request("itself"))
	if err != nil {
		t.Fatal(err)
	}
	victim = jobs[1]
	drained := testutil.Drain(t, client, registry, testutil.ExpectFailure(func(_ *backfill.Job, err error) bool { return err.Error() == "cut" }))
	if drained.Canceled != 2 || drained.Completed != 1 || drained.Failed != 0 || drained.Ended != 2 || len(drained.Left) > 0 {
		t.Errorf("drained %+v", drained)
	}
	if len(canceled) != 2 || canceled[0] != backfill.CancelRequested || canceled[1] != backfill.CancelRequested {
		t.Errorf("outcomes %v", canceled)
	}
}
