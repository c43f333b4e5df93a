package testutil_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/testutil"
)

// play is what the jobs of a scenario do, and what they saw.
type play struct {
	mu   sync.Mutex
	seen []string
}

type scene struct {
	Name string   `json:"name"`
	Do   []string `json:"do,omitempty"` // at attempt 1, 2, …; nothing more: success
}

var (
	taskScene = &backfill.Task[scene]{Name: "scene", Aliases: []string{"old_scene"}, Backoff: backfill.FixedBackoff(time.Hour)}
	taskBatch = &backfill.Task[[]int]{Name: "batch", Backoff: backfill.FixedBackoff(time.Minute)}
)

func (p *play) note(ctx context.Context, format string, args ...any) {
	job := backfill.JobInfo(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen = append(p.seen, fmt.Sprintf(format, args...)+fmt.Sprintf(" (%s, attempt %d of %d, revision %d, key %q, queue %q)",
		job.Task, job.Attempt, job.MaxAttempts, job.Revision, job.Key, job.Queue))
}

func (p *play) act(ctx context.Context, args scene) error {
	p.note(ctx, "%s", args.Name)
	var do string
	if attempt := backfill.JobInfo(ctx).Attempt; attempt <= len(args.Do) {
		do = args.Do[attempt-1]
	}
	again := taskScene.Request(scene{Name: args.Name + "'s child"}, backfill.Key(args.Name), backfill.Delay(30*time.Minute))
	switch do {
	case "fail":
		return errors.New("boom")
	case "permanent":
		return fmt.Errorf("a: %w", backfill.Permanent(errors.New("boom")))
	case "retry now":
		return backfill.RetryIn(0, errors.New("boom"))
	case "panic":
		panic("at the disco")
	case "snooze": // once
		if !p.first(args.Name) {
			return nil
		}
		return backfill.Snooze(2 * time.Hour)
	case "wait": // for something that does not happen
		return backfill.Snooze(time.Hour)
	case "dedupe itself":
		again.KeyMode = backfill.UnsafeDedupe
		fallthrough
	case "enqueue itself":
		_, err := backfill.FromContext(ctx).Enqueue(ctx, again)
		return err
	case "enqueue itself and fail":
		if _, err := backfill.FromContext(ctx).Enqueue(ctx, again); err != nil {
			return err
		}
		return errors.New("boom")
	}
	return nil
}

// first reports whether a scene is played for the first time.
func (p *play) first(name string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, seen := range p.seen {
		if strings.HasPrefix(seen, name+" ") {
			n++
		}
	}
	return n == 1
}

func (p *play) batch(ctx context.Context, numbers []int) error {
	p.note(ctx, "batch %v", numbers)
	failed := map[int]error{}
	for i, n := range numbers {
		if n > backfill.JobInfo(ctx).Attempt {
			failed[i] = errors.New("not yet")
		}
	}
	return &backfill.BatchError{Errs: failed}
}

func (p *play) registry() *backfill.Registry {
	return backfill.NewRegistry(backfill.Handle(taskScene, p.act), backfill.Handle(taskBatch, p.batch))
}

// scenes are the jobs of a scenario, as they are enqueued.
func scenes() []backfill.Request {
	do := func(name string, do ...string) scene { return scene{name, do} }
	old := taskScene.Request(do("alias"))
	old.Task = "old_scene"
	key := backfill.Key
	return []backfill.Request{
		taskScene.Request(do("plain")),
		taskScene.Request(do("urgent"), backfill.PriorityFastHigh),
		taskScene.Request(do("late"), backfill.Delay(3*time.Hour)),
		taskScene.Request(do("earlier"), backfill.Delay(time.Hour), backfill.PriorityBulkLowest),
		taskScene.Request(do("fails twice", "fail", "fail"), backfill.Queue("q")),
		taskScene.Request(do("in the same queue"), backfill.Queue("q")),
		taskScene.Request(do("fails for ever", "fail", "fail", "fail"), backfill.MaxAttempts(3)),
		taskScene.Request(do("permanent", "permanent")),
		taskScene.Request(do("permanent with key", "permanent"), key("permanent with key")),
		taskScene.Request(do("permanent, to be deduped", "permanent"), key("permanent, to be deduped")),
		taskScene.Request(do("at once", "retry now", "panic"), backfill.MaxAttempts(3)),
		taskScene.Request(do("snoozes", "snooze"), backfill.MaxAttempts(1)),
		taskScene.Request(do("waits", "wait")),
		taskScene.Request(do("itself", "enqueue itself"), key("itself")),
		taskScene.Request(do("fails itself", "enqueue itself and fail"), key("fails itself"), backfill.MaxAttempts(5)),
		taskScene.Request(do("dedupes", "dedupe itself"), key("dedupes")),
		taskScene.Request(do("keyed fails", "fail"), key("keyed fails")),
		old,
		{Task: "scene", Args: raw(`{"name": 7}`), MaxAttempts: 2},
		{Task: "nobody's"},
		taskScene.Request(do("flagged"), backfill.Flags("slow")),
		taskBatch.Request([]int{1, 5, 2, 3}, backfill.MaxAttempts(3)),
	}
}

// Jobs of a Recorder run as those of a database do: the same calls, the same report, and the same
// when more is enqueued afterwards.
func TestWorkRunsJobsAsAWorker(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]backfill.WorkerOption{
		"due":       {backfill.WithConcurrency(1)},
		"scheduled": {backfill.WithConcurrency(1), backfill.WithScheduled()},
		"flags":     {backfill.WithConcurrency(1), backfill.WithForbiddenFlags("slow")},
		"without":   {backfill.WithConcurrency(1), backfill.WithoutDeadLetters()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client, _ := newClient(t)
			rec := testutil.NewRecorder()
			wanted, got := &play{}, &play{}
			var reports [2]*backfill.Report
			after := []backfill.Request{ // meets what the first run has left
				taskScene.Request(scene{Name: "again"}, backfill.Key("keyed fails"), backfill.PreserveRunAt),
				taskScene.Request(scene{Name: "again"}, backfill.Key("permanent with key")),
				taskScene.Request(scene{Name: "again"}, backfill.Key("fails itself"), backfill.UnsafeDedupe),
				taskScene.Request(scene{Name: "again"}, backfill.Key("permanent, to be deduped"), backfill.UnsafeDedupe),
				taskScene.Request(scene{Name: "again"}, backfill.Key("itself")),
				taskScene.Request(scene{Name: "again"}, backfill.Key("dedupes")),
			}
			for _, requests := range [][]backfill.Request{scenes(), after} {
				mustEnqueue(t, client, requests...)
				mustEnqueue(t, rec, requests...)
				worker, err := client.NewWorker(wanted.registry(), opts...)
				if err != nil {
					t.Fatal(err)
				}
				if reports[0], err = worker.RunOnce(t.Context()); err != nil {
					t.Fatal(err)
				}
				reports[1] = rec.Work(t, got.registry(), append(opts, backfill.WithLogger(slog.New(slog.DiscardHandler)))...)
				// A worker claims several jobs at a time, and keyed ones are inserted in the order
				// of their keys.
				slices.Sort(wanted.seen)
				slices.Sort(got.seen)
				if diff := cmp.Diff(wanted.seen, got.seen); diff != "" {
					t.Errorf("calls (-worker +Work):\n%s", diff)
				}
				if diff := cmp.Diff(reports[0], reports[1]); diff != "" {
					t.Errorf("report (-worker +Work):\n%s", diff)
				}
			}
			if len(wanted.seen) < 20 {
				t.Errorf("only %d calls: the scenario does not do what it should", len(wanted.seen))
			}
		})
	}
}

// With WithScheduled, what is due runs first, and then the rest in the order of its times, which
// retries and what handlers enqueue take part in.
func TestScheduledJobsRunInTheirOrder(t *testing.T) {
	t.Parallel()
	run := func(t *testing.T, e backfill.Enqueuer, work func(*backfill.Registry) *backfill.Report) (names []string) {
		t.Helper()
		task := &backfill.Task[string]{Name: "step", Backoff: backfill.FixedBackoff(90 * time.Minute)}
		registry := backfill.NewRegistry(backfill.Handle(task, func(ctx context.Context, name string) error {
			job := backfill.JobInfo(ctx)
			names = append(names, fmt.Sprint(name, " ", job.Attempt))
			if job.RunAt.After(time.Now().Add(time.Minute)) {
				t.Errorf("%s runs at %v before its time, %v", name, time.Now(), job.RunAt)
			}
			switch name {
			case "fails":
				if job.Attempt < 3 {
					return errors.New("boom")
				}
			case "enqueues":
				_, err := backfill.FromContext(ctx).Enqueue(ctx, task.Request("child", backfill.Delay(30*time.Minute)))
				return err
			}
			return nil
		}))
		mustEnqueue(t, e,
			task.Request("far", backfill.RunAt(time.Now().AddDate(100, 0, 0))), task.Request("4h", backfill.Delay(4*time.Hour), backfill.PriorityFastHigh),
			task.Request("1h", backfill.Delay(time.Hour), backfill.PriorityBulkLowest), task.Request("fails", backfill.MaxAttempts(3)),
			task.Request("enqueues"), task.Request("1h, in a queue", backfill.Delay(time.Hour+2*time.Second), backfill.Queue("q")))
		report := work(registry)
		if report.Completed != 7 || report.Failed != 2 || report.Exhausted != 0 {
			t.Errorf("report: %+v", report)
		}
		return names
	}
	client, _ := newClient(t)
	got := map[string][]string{
		"worker": run(t, client, func(registry *backfill.Registry) *backfill.Report {
			report, err := backfill.RunOnce(t.Context(), registry, backfill.WithClient(client), backfill.WithConcurrency(1), backfill.WithScheduled())
			if err != nil {
				t.Fatal(err)
			}
			return report
		}),
	}
	rec := testutil.NewRecorder()
	got["Work"] = run(t, rec, func(registry *backfill.Registry) *backfill.Report {
		return rec.Work(t, registry, backfill.WithScheduled())
	})
	// The retry of 90 minutes counts from when the first attempt ran, and the second from when the
	// first retry did.
	want := []string{"fails 1", "enqueues 1", "child 1", "1h 1", "1h, in a queue 1", "fails 2", "fails 3", "4h 1", "far 1"}
	if diff := cmp.Diff(map[string][]string{"worker": want, "Work": want}, got); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
}

// Work goes through the middleware, tells observers, logs failures to the test, and survives
// whatever a handler does.
func TestWork(t *testing.T) {
	t.Parallel()
	rec := testutil.NewRecorder()
	mustEnqueue(t, rec, TaskSendEmail.Request(SendEmailArgs{1, "fine"}), TaskSendEmail.Request(SendEmailArgs{2, "exit"}))
	mustEnqueue(t, rec.WithTx(struct{ pgx.Tx }{}), TaskSendEmail.Request(SendEmailArgs{3, "secret"}))
	var calls, events []string
	note := func(next backfill.HandlerFunc) backfill.HandlerFunc {
		return func(ctx context.Context, job *backfill.Job) error {
			err := next(ctx, job)
			calls = append(calls, fmt.Sprint(job.ID, " ", backfill.VerdictOf(ctx, err).Kind))
			return err
		}
	}
	registry := backfill.NewRegistry(backfill.Handle(TaskSendEmail, func(ctx context.Context, args SendEmailArgs) error {
		switch args.UserID {
		case 2:
			runtime.Goexit() // as FailNow does
		case 3:
			return backfill.Permanent(errors.New("boom"))
		}
		if args.UserID == 4 {
			return backfill.Snooze(time.Hour)
		}
		_, err := backfill.FromContext(ctx).Enqueue(ctx, TaskSendEmail.Request(SendEmailArgs{4, "child"}))
		return err
	}))
	tb := &failing{TB: t}
	report := rec.Work(tb, registry, backfill.WithMiddleware(note), backfill.WithObserver(func(e backfill.Event) {
		events = append(events, fmt.Sprint(e.Kind, " ", e.Job.ID, " ", e.Final))
	}))
	if report.Completed != 1 || report.Failed != 2 || report.Exhausted != 1 || report.Snoozed != 1 {
		t.Errorf("report: %+v", report)
	}
	if diff := cmp.Diff([]string{"1 completed", "3 permanent", "4 snooze"}, calls); diff != "" {
		t.Errorf("middleware (-want +got):\n%s", diff)
	}
	for _, want := range []string{"start 1 false", "finished 1 false", "failed 2 false", "failed 3 true", "dead 3 false", "snoozed 4 false"} {
		if !slices.Contains(events, want) {
			t.Errorf("no event %q in %q", want, events)
		}
	}
	if log := tb.log.String(); !strings.Contains(log, "job_id=3 attempt=1 final=true error=boom") || strings.Contains(log, "secret") {
		t.Errorf("log: %s", log)
	}
}

// Mistakes, and work without an end, fail the test.
func TestWorkFailsTheTest(t *testing.T) {
	t.Parallel()
	ignore := func(context.Context, SendEmailArgs) error { return nil }
	for name, test := range map[string]struct {
		registry *backfill.Registry
		option   backfill.WorkerOption
		want     string
	}{
		"no registry":   {nil, nil, "testutil: work: registry is nil"},
		"a requirement": {backfill.NewRegistry(backfill.Require("Handlers.Mailer", false), backfill.Handle(TaskSendEmail, ignore)), nil, "Handlers.Mailer is required"},
		"an option":     {backfill.NewRegistry(backfill.Handle(TaskSendEmail, ignore)), backfill.WithConcurrency(0), "WithConcurrency: 0 is out of range"},
		"no end": {backfill.NewRegistry(backfill.Handle(TaskSendEmail, func(context.Context, SendEmailArgs) error {
			return backfill.Snooze(0)
		})), nil, "does a task enqueue itself, or snooze for 0 seconds, for ever?"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rec := testutil.NewRecorder()
			mustEnqueue(t, rec, TaskSendEmail.Request(SendEmailArgs{1, "a"}))
			tb := &failing{TB: t}
			var wg sync.WaitGroup
			wg.Go(func() { rec.Work(tb, test.registry, test.option) }) // which Fatalf ends
			wg.Wait()
			if !strings.Contains(tb.fatal, test.want) || !tb.helper {
				t.Errorf("fatal %q, want %q", tb.fatal, test.want)
			}
		})
	}
}

// Retries, snoozes and what handlers enqueue, without a database.
func ExampleRecorder_Work() {
	t := new(testing.T) // the one of your test
	registry := backfill.NewRegistry(backfill.Handle(TaskSendEmail, func(ctx context.Context, args SendEmailArgs) error {
		if attempt := backfill.JobInfo(ctx).Attempt; attempt < 3 {
			return fmt.Errorf("the server is down, attempt %d", attempt)
		}
		fmt.Println("sent", args.Template)
		return nil
	}))
	rec := testutil.NewRecorder()
	if _, err := NewClient(rec).EnqueueSendEmail(context.Background(), SendEmailArgs{7, "welcome"}); err != nil {
		t.Fatal(err)
	}
	report := rec.Work(t, registry, backfill.WithScheduled(), backfill.WithLogger(slog.New(slog.DiscardHandler)))
	fmt.Println(report.Completed, "completed,", report.Failed, "attempts failed")
	// Output:
	// sent welcome
	// 1 completed, 2 attempts failed
}
