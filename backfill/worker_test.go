package backfill_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/testutil/pgtest"
)

// Functions and methods run with their args, the job in the context, and an Enqueuer that generated
// code finds.
func TestWorkerRunsHandlers(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	days := make(chan string, 1)
	w := start(t, client, NewRegistry(Handlers{Reports: &Reports{Tasks: NewClient(client)}, Counter: &Counter{days}}))
	mail := NewClient(client)
	if _, err := mail.EnqueueNightly(t.Context(), NightlyArgs{"1"}); err != nil { // enqueues two mails, by its receiver's client
		t.Fatal(err)
	}
	enqueue(t, client, TaskTally, NightlyArgs{"2"})
	if _, err := mail.EnqueueNotify(t.Context(), []NotifyArgs{{1}}); err != nil {
		t.Fatal(err)
	}
	if _, err := mail.EnqueueSendEmail(t.Context(), SendEmailArgs{UserID: 3}, backfill.Delay(0)); err != nil { // purges, by the context
		t.Fatal(err)
	}
	if day := receive(t, "the tally", days); day != "2" {
		t.Errorf("tallied %s", day)
	}
	w.awaitRecorded(5) // nightly, tally, notify, send_email, purge
	var left []string
	for _, row := range jobRows(t, db) {
		left = append(left, row.Key)
	}
	if diff := cmp.Diff([]string{"welcome:1", "welcome:2"}, left); diff != "" { // delayed
		t.Errorf("jobs that are left (-want +got):\n%s", diff)
	}
}

func TestJobInfo(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	var jobs []backfill.Job
	task := &backfill.Task[mailArgs]{Name: "send_email", Aliases: []string{"mail"}, Backoff: backfill.FixedBackoff(0)}
	registry := backfill.NewRegistry(backfill.Handle(task, func(ctx context.Context, _ mailArgs) error {
		jobs = append(jobs, backfill.JobInfo(ctx))
		if len(jobs) == 1 {
			return errBoom
		}
		return nil
	}))
	old := enqueue(t, client, task, mailArgs{UserID: 7}, backfill.Key("k"))
	job := enqueue(t, client, task, mailArgs{UserID: 7}, backfill.Key("k"), backfill.Queue("q"), backfill.PriorityFastHigh, backfill.MaxAttempts(9),
		backfill.Flags("b", "a"))
	if _, err := client.Enqueue(t.Context(), backfill.Request{Task: "mail"}); err != nil {
		t.Fatal(err)
	}
	runOnce(t, client, registry, backfill.WithConcurrency(1))
	want := backfill.Job{
		ID: job.ID, Task: "send_email", Args: raw(`{"user_id":7}`), Queue: "q", Key: "k", Priority: -10, Attempt: 1, MaxAttempts: 9, Revision: 1,
		RunAt: job.RunAt, CreatedAt: old.CreatedAt, Flags: []string{"a", "b"},
	}
	if len(jobs) != 3 {
		t.Fatalf("ran %+v", jobs)
	}
	if diff := cmp.Diff(want, jobs[0]); diff != "" {
		t.Errorf("first attempt (-want +got):\n%s", diff)
	}
	if jobs[1].Attempt+jobs[2].Attempt != 3 { // the second attempt of the first, and the first of the other, which is older
		t.Errorf("attempts %d and %d", jobs[1].Attempt, jobs[2].Attempt)
	}
	if alias := jobs[1].Task + jobs[2].Task; alias != "mailsend_email" && alias != "send_emailmail" {
		t.Errorf("ran %s", alias)
	}
}

// The context of Run gives jobs its values, and its end does not end them.
func TestContextsOfJobs(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	var order []string
	trace := func(name string) backfill.Middleware {
		return func(next backfill.HandlerFunc) backfill.HandlerFunc {
			return func(ctx context.Context, job *backfill.Job) error {
				order = append(order, name)
				defer func() { order = append(order, name) }()
				return next(ctx, job)
			}
		}
	}
	value := make(chan any, 1)
	task, registry := taskOf("send_email", func(ctx context.Context, _ mailArgs) error {
		order = append(order, "handler")
		value <- ctx.Value(runKey{})
		return nil
	})
	w := start(t, client, registry, backfill.WithMiddleware(trace("a"), trace("b")), backfill.WithMiddleware(trace("c")))
	enqueue(t, client, task, mailArgs{})
	if got := receive(t, "the handler", value); got != "of Run" {
		t.Errorf("the value of Run's context is %v", got)
	}
	w.awaitRecorded(1)
	if err := w.stop(); err != nil {
		t.Error(err)
	}
	if got := strings.Join(order, " "); got != "a b c handler c b a" {
		t.Errorf("middleware ran as %s", got)
	}
}

func TestEvents(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	task := &backfill.Task[mailArgs]{Name: "send_email", Backoff: backfill.FixedBackoff(time.Hour)}
	registry := backfill.NewRegistry(backfill.Handle(task, func(_ context.Context, args mailArgs) error {
		switch args.Template {
		case "fail":
			return errBoom
		case "permanent":
			return backfill.Permanent(errBoom)
		case "snooze":
			return backfill.Snooze(2 * time.Hour)
		}
		return nil
	}))
	w := start(t, client, registry)
	id := w.Health().WorkerID
	fine := enqueue(t, client, task, mailArgs{})
	failed := enqueue(t, client, task, mailArgs{Template: "fail"}, backfill.MaxAttempts(2))
	final := map[string]int64{
		"on the last attempt": enqueue(t, client, task, mailArgs{Template: "fail"}, backfill.MaxAttempts(1)).ID,
		"with Permanent":      enqueue(t, client, task, mailArgs{Template: "permanent"}).ID,
	}
	snoozed := enqueue(t, client, task, mailArgs{Template: "snooze"})
	w.await("started", 1, is(backfill.EventStarted))
	w.await("woken", 1, is(backfill.EventWoken))
	w.await("claimed a job", 1, func(e backfill.Event) bool { return e.Kind == backfill.EventClaimed && e.Count > 0 })
	w.await("start", 1, of(backfill.EventStart, fine.ID))
	if e := w.await("finished", 1, of(backfill.EventFinished, fine.ID)); e.WorkerID != id || e.Job.Attempt != 1 || e.Err != nil || e.Duration <= 0 {
		t.Errorf("finished: %+v", e)
	}
	if e := w.await("failed", 1, of(backfill.EventFailed, failed.ID)); !errors.Is(e.Err, errBoom) || e.Delay != time.Hour || e.Final || e.WorkerID != id {
		t.Errorf("failed: %+v", e)
	}
	for how, job := range final {
		if e := w.await("failed "+how, 1, of(backfill.EventFailed, job)); !errors.Is(e.Err, errBoom) || !e.Final || e.Delay != 0 {
			t.Errorf("failed %s: %+v", how, e)
		}
	}
	if e := w.await("snoozed", 1, of(backfill.EventSnoozed, snoozed.ID)); e.Delay != 2*time.Hour {
		t.Errorf("snoozed: %+v", e)
	}
	for _, kind := range []backfill.EventKind{backfill.EventCompleted, backfill.EventRecorded, backfill.EventReturned} {
		if e := w.await(string(kind), 1, is(kind)); e.Count < 1 {
			t.Errorf("%v: %+v", kind, e)
		}
	}
	if err := w.stop(); err != nil {
		t.Error(err)
	}
	events, _ := w.seen()
	if last := kinds(events[len(events)-2:]); count(events, backfill.EventDraining) != 1 || !strings.HasSuffix(last, "stopped") {
		t.Errorf("events %s", kinds(events))
	}
}

func TestHealthAndTheWorkersRow(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	entered, release := make(chan bool), make(chan bool)
	task, registry := taskOf("send_email", func(context.Context, mailArgs) error {
		entered <- true
		<-release
		return nil
	})
	if h := newWorker(t, client, registry).Health(); h.State != backfill.StateNew || h.WorkerID != "" {
		t.Errorf("before it runs: %+v", h)
	}
	w := start(t, client, registry, backfill.WithConcurrency(1))
	h := w.Health()
	if h.State != backfill.StateRunning || !h.Listening || !strings.HasPrefix(h.WorkerID, "pool-") || h.Running != 0 {
		t.Errorf("running: %+v", h)
	}
	row := func() string {
		return get[string](t, db.Pool(), `select format('%s %s %s', host <> '', pid > 0, dead_at is null)
			from graphile_worker.backfill_workers where id = $1`, h.WorkerID)
	}
	if got := row(); got != "t t t" {
		t.Errorf("row: %s", got)
	}
	enqueue(t, client, task, mailArgs{})
	receive(t, "the handler", entered)
	if h := w.Health(); h.Running != 1 || h.Unrecorded != 1 || h.LastClaim.IsZero() {
		t.Errorf("with a job: %+v", h)
	}
	w.cancel()
	w.await("draining", 1, is(backfill.EventDraining))
	if h := w.Health(); h.State != backfill.StateDraining || h.Running != 1 {
		t.Errorf("draining: %+v", h)
	}
	close(release)
	if err := w.stop(); err != nil {
		t.Error(err)
	}
	if h := w.Health(); h.State != backfill.StateStopped || h.Running+h.Unrecorded+h.Buffered != 0 || h.Listening {
		t.Errorf("stopped: %+v", h)
	}
	if got := row(); got != "t t f" {
		t.Errorf("row of a worker that has stopped: %s", got)
	}
	if err := w.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "it has run already; make a new one") {
		t.Errorf("a second Run: %v", err)
	}
}

func TestRunOnceReports(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	task := &backfill.Task[mailArgs]{Name: "send_email", Backoff: backfill.FixedBackoff(time.Hour)}
	registry := backfill.NewRegistry(backfill.Handle(task, func(_ context.Context, args mailArgs) error {
		switch args.Template {
		case "fail":
			return errBoom
		case "forget":
			return backfill.Permanent(errBoom)
		case "snooze":
			return backfill.Snooze(time.Hour)
		}
		return nil
	}))
	for _, template := range []string{"", "", "", "fail", "fail", "forget", "snooze"} {
		enqueue(t, client, task, mailArgs{Template: template})
	}
	enqueue(t, client, task, mailArgs{Template: "fail"}, backfill.MaxAttempts(1))
	enqueue(t, client, task, mailArgs{}, backfill.Delay(time.Hour))
	enqueue(t, client, mailTaskOfOthers, mailArgs{})
	report := runOnce(t, client, registry)
	if diff := cmp.Diff(&backfill.Report{Completed: 3, Failed: 4, Exhausted: 2, Snoozed: 1}, report); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
	wantJobs(t, db, 5)
	if letters := letterRows(t, db); len(letters) != 2 {
		t.Errorf("dead letters %+v, want 2", letters)
	}
	if diff := cmp.Diff(&backfill.Report{}, runOnce(t, client, registry)); diff != "" {
		t.Errorf("second report (-want +got):\n%s", diff)
	}
}

// A worker that runs on waits for the time of its jobs.
func TestRunRefusesWithScheduled(t *testing.T) {
	t.Parallel()
	client := newClient(t, pgtest.New(t))
	_, registry := taskOf("send_email", ignore)
	err := backfill.Run(t.Context(), registry, backfill.WithClient(client), backfill.WithScheduled())
	wantError(t, err, "WithScheduled is for RunOnce")
}

// More jobs than one statement makes due, and some that nobody runs, come to an end.
func TestRunOnceWithScheduled(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	task, registry := taskOf("send_email", ignore)
	if _, err := backfill.EnqueueMany(t.Context(), client, task, make([]mailArgs, 11_000), backfill.Delay(time.Hour)); err != nil {
		t.Fatal(err)
	}
	enqueue(t, client, task, mailArgs{}, backfill.Delay(time.Hour), backfill.Flags("slow"))
	enqueue(t, client, mailTaskOfOthers, mailArgs{}, backfill.Delay(time.Hour))
	endless := enqueue(t, client, task, mailArgs{})
	exec(t, db.Pool(), "update graphile_worker._private_jobs set run_at = 'infinity' where id = $1", endless.ID)
	report := runOnce(t, client, registry, backfill.WithScheduled(), backfill.WithForbiddenFlags("slow"))
	if report.Completed != 11_000 {
		t.Errorf("report: %+v", report)
	}
	wantJobs(t, db, 3)
}

var mailTaskOfOthers = &backfill.Task[mailArgs]{Name: "task_of_others"}

// A fleet shares the work, and every job runs once; Only divides it.
func TestTwoWorkersShareTheWork(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	var mu sync.Mutex
	runs, by := map[int64]int{}, map[string]int{}
	both := make(chan bool)
	met := sync.OnceFunc(func() { close(both) })
	task := &backfill.Task[mailArgs]{Name: "send_email"}
	handler := func(name string) *backfill.Registry {
		return backfill.NewRegistry(backfill.Handle(task, func(ctx context.Context, _ mailArgs) error {
			mu.Lock()
			runs[backfill.JobInfo(ctx).ID]++
			by[name]++
			if len(by) == 2 {
				met()
			}
			mu.Unlock()
			select { // until the other worker has one, too
			case <-both:
			case <-time.After(hang):
				return fmt.Errorf("%s worked alone", name)
			}
			return nil
		}))
	}
	jobs := make([]mailArgs, 500)
	first := start(t, client, handler("first"), backfill.WithConcurrency(5))
	second := start(t, client, handler("second"), backfill.WithConcurrency(5))
	if _, err := backfill.EnqueueMany(t.Context(), client, task, jobs); err != nil {
		t.Fatal(err)
	}
	until(t, "all jobs to be done", func() bool { return get[int](t, db.Pool(), "select count(*) from graphile_worker._private_jobs") == 0 })
	for _, w := range []*running{first, second} {
		if err := w.stop(); err != nil {
			t.Error(err)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if len(runs) != len(jobs) || by["first"]+by["second"] != len(jobs) {
		t.Errorf("%d jobs in %v runs, want each of %d once", len(runs), by, len(jobs))
	}
}

// Neither payloads nor passwords are logged, whatever happens to a job.
func TestLogsKeepSecrets(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	var book logBook
	client := newClient(t, db, backfill.WithLogger(book.logger()))
	task := &backfill.Task[mailArgs]{Name: "send_email", Backoff: backfill.FixedBackoff(time.Hour)}
	registry := backfill.NewRegistry(backfill.Handle(task, func(_ context.Context, args mailArgs) error {
		switch args.UserID {
		case 1:
			return errBoom
		case 2:
			panic("oops")
		case 3:
			return backfill.Snooze(time.Hour)
		case 4:
			return backfill.Permanent(errBoom)
		}
		return nil
	}))
	w := start(t, client, registry)
	for id := range 5 {
		enqueue(t, client, task, mailArgs{UserID: int64(id), Template: secret}, backfill.Key(fmt.Sprint(id)))
	}
	if _, err := client.Enqueue(t.Context(), backfill.Request{Task: "send_email", Args: raw(`{"user_id":"s3cr3t"}`)}); err != nil {
		t.Fatal(err)
	}
	w.await("failed", 4, is(backfill.EventFailed))
	w.await("snoozed", 1, is(backfill.EventSnoozed))
	w.await("finished", 1, is(backfill.EventFinished))
	exec(t, connect(t, db), `delete from graphile_worker.backfill_workers`) // an error of the engine, too
	enqueue(t, client, task, mailArgs{UserID: 9, Template: secret})
	w.await("fenced", 1, is(backfill.EventFenced))
	w.await("finished", 2, is(backfill.EventFinished))
	if err := w.stop(); err != nil {
		t.Error(err)
	}
	book.want(t, "worker started", "error=boom", "handler panicked", "declared dead", "$.user_id: cannot use string as int64", "worker stopped")
	wantSecret(t, secret, book.String())
	if password := db.Pool().Config().ConnConfig.Password; password != "" {
		wantSecret(t, password, book.String())
	}
}

// RunOnce also works what its handlers enqueue, though nobody listens.
func TestRunOnceWorksChains(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	type link struct{ Left int }
	task := &backfill.Task[link]{Name: "chain"}
	registry := backfill.NewRegistry(backfill.Handle(task, func(ctx context.Context, args link) error {
		if args.Left == 0 {
			return nil
		}
		_, err := backfill.Enqueue(ctx, backfill.FromContext(ctx), task, link{args.Left - 1})
		return err
	}))
	enqueue(t, client, task, link{5})
	if report := runOnce(t, client, registry); report.Completed != 6 {
		t.Errorf("completed %d jobs of the chain, want 6", report.Completed)
	}
}
