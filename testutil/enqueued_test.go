package testutil_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/testutil"
)

// Args and the request's fields, of one task, whatever else was enqueued between.
func TestEnqueued(t *testing.T) {
	t.Parallel()
	rec := testutil.NewRecorder()
	at := time.Date(2040, 1, 2, 3, 4, 5, 0, time.UTC)
	mustEnqueue(t, rec,
		TaskSendEmail.Request(SendEmailArgs{7, "a"}, backfill.Key("k"), backfill.UnsafeDedupe, backfill.RunAt(at), backfill.PriorityFastHigh,
			backfill.MaxAttempts(3), backfill.Flags("f")),
		taskPurge.Request(backfill.NoArgs{}))
	mustEnqueue(t, rec.WithTx(struct{ pgx.Tx }{}),
		TaskSendEmail.Request(SendEmailArgs{8, "b"}, backfill.Key("k"), backfill.Queue("q"), backfill.Delay(time.Hour)))
	want := []testutil.Recorded[SendEmailArgs]{
		{
			Request: backfill.Request{
				Task: "send_email", Args: raw(`{"user_id":7,"template":"a"}`), Queue: "user:7", Key: "k", KeyMode: backfill.UnsafeDedupe,
				Priority: -10, MaxAttempts: 3, RunAt: at, Flags: []string{"f"},
			},
			Args: SendEmailArgs{7, "a"},
		},
		{
			Request: backfill.Request{Task: "send_email", Args: raw(`{"user_id":8,"template":"b"}`), Queue: "q", Key: "k", Delay: time.Hour},
			Args:    SendEmailArgs{8, "b"}, InTx: true,
		},
	}
	if diff := cmp.Diff(want, testutil.Enqueued(t, rec, TaskSendEmail), ignoreProblems); diff != "" {
		t.Errorf("send_email (-want +got):\n%s", diff)
	}
	purges := []testutil.Recorded[backfill.NoArgs]{{Request: backfill.Request{Task: "purge", Args: raw("{}")}}}
	if diff := cmp.Diff(purges, testutil.Enqueued(t, rec, taskPurge), ignoreProblems); diff != "" {
		t.Errorf("purge (-want +got):\n%s", diff)
	}
	if got := testutil.Enqueued(t, rec, taskNotify); got != nil {
		t.Errorf("notify, of which there is none: %v", got)
	}
}

// record is what a handler was called with, by the name of the task.
type record struct {
	mu   sync.Mutex
	args map[string][]any
}

func handler[T any](r *record, task *backfill.Task[T]) backfill.Binding {
	return backfill.Handle(task, func(_ context.Context, args T) error {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.args[task.Name] = append(r.args[task.Name], args)
		return nil
	})
}

func enqueued[T any](t *testing.T, rec *testutil.Recorder, task *backfill.Task[T]) (args []any) {
	t.Helper()
	for _, job := range testutil.Enqueued(t, rec, task) {
		args = append(args, job.Args)
	}
	return args
}

// odd has fields that are not after encoding what they were before.
type odd struct {
	At     time.Time `json:"at"`
	Secret string    `json:"-"`
	Any    any       `json:"any"`
	Names  []string  `json:"names"`
	Data   []byte    `json:"data,omitempty"`
}

// What Enqueued returns is what a worker gives its handlers, with a database in between.
func TestEnqueuedDecodesAsAWorker(t *testing.T) {
	t.Parallel()
	inOrder := func(odd) string { return "odd" }
	taskOdd, taskList := &backfill.Task[odd]{Name: "odd", Queue: inOrder}, &backfill.Task[[]odd]{Name: "list"}
	taskMap, taskPointer := &backfill.Task[map[string]int]{Name: "map"}, &backfill.Task[*odd]{Name: "pointer"}
	client, _ := newClient(t)
	rec := testutil.NewRecorder()
	for _, e := range []backfill.Enqueuer{client, rec} {
		mustEnqueue(t, e,
			taskOdd.Request(odd{At: time.Date(2040, 1, 2, 3, 4, 5, 6, time.FixedZone("", 3600)), Secret: "s", Any: 1, Data: []byte{1}}),
			backfill.Request{Task: "odd", Queue: "odd"},
			backfill.Request{Task: "odd", Queue: "odd", Args: raw(` {"NAMES": ["a", "\u00e9"], "unknown": 1, "names": ["b"]}`)},
			backfill.Request{Task: "odd", Queue: "odd", Args: raw("null")},
			taskList.Request([]odd{{Secret: "s"}, {Any: odd{}}}),
			taskMap.Request(nil), taskPointer.Request(nil),
			backfill.Request{Task: "purge", Args: raw(`["not looked at"]`)})
	}
	handled := &record{args: map[string][]any{}}
	registry := backfill.NewRegistry(handler(handled, taskOdd), handler(handled, taskList), handler(handled, taskMap), handler(handled, taskPointer),
		handler(handled, taskPurge))
	report, err := backfill.RunOnce(t.Context(), registry, backfill.WithClient(client))
	if err != nil || report.Completed != 8 {
		t.Fatalf("%+v, %v", report, err)
	}
	got := map[string][]any{
		"odd": enqueued(t, rec, taskOdd), "list": enqueued(t, rec, taskList), "map": enqueued(t, rec, taskMap),
		"pointer": enqueued(t, rec, taskPointer), "purge": enqueued(t, rec, taskPurge),
	}
	if diff := cmp.Diff(handled.args, got); diff != "" {
		t.Errorf("args (-worker +Enqueued):\n%s", diff)
	}
}

// failing is a test whose failure is expected.
type failing struct {
	testing.TB

	helper bool
	fatal  string
	log    bytes.Buffer
}

func (f *failing) Output() io.Writer { return &f.log }

func (f *failing) Helper() { f.helper = true }

func (f *failing) Fatalf(format string, args ...any) {
	f.fatal = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

// fatal records the request and returns with what Enqueued fails the test.
func fatal[T any](t *testing.T, task *backfill.Task[T], request backfill.Request) string {
	t.Helper()
	rec := testutil.NewRecorder()
	mustEnqueue(t, rec, backfill.Request{Task: "other"}, request)
	tb := &failing{TB: t}
	var wg sync.WaitGroup
	wg.Go(func() { testutil.Enqueued(tb, rec, task) }) // which Fatalf ends
	wg.Wait()
	if !tb.helper {
		t.Error("the failure is reported inside Enqueued: it is no helper")
	}
	return tb.fatal
}

// Args that a worker cannot decode fail the test, with what is needed to find them.
func TestEnqueuedFailsTheTest(t *testing.T) {
	t.Parallel()
	taskList := &backfill.Task[[]SendEmailArgs]{Name: "list"}
	wrongType := backfill.Request{Task: "send_email", Args: raw(`{"user_id":"seven"}`)}
	noArray := backfill.Request{Task: "list"} // whose args are {}
	for _, want := range []string{
		`testutil: request 1: args of task "send_email" do not decode into testutil_test.SendEmailArgs: `, "string", "user_id", "int64",
		`: {"user_id":"seven"}`,
	} {
		if got := fatal(t, TaskSendEmail, wrongType); !strings.Contains(got, want) {
			t.Errorf("wrong type: %s: want %s", got, want)
		}
	}
	if got := fatal(t, taskList, noArray); !strings.Contains(got, "into []testutil_test.SendEmailArgs") {
		t.Errorf("no array: %s", got)
	}
	if got := fatal[SendEmailArgs](t, nil, wrongType); got != "testutil: Enqueued: the Recorder or the task is nil" {
		t.Errorf("no task: %s", got)
	}
	client, _ := newClient(t)
	mustEnqueue(t, client, wrongType, noArray)
	report, err := backfill.RunOnce(t.Context(), backfill.NewRegistry(
		backfill.Handle(TaskSendEmail, func(context.Context, SendEmailArgs) error { return nil }),
		backfill.Handle(taskList, func(context.Context, []SendEmailArgs) error { return nil })), backfill.WithClient(client))
	if err != nil || report.Failed != 2 || report.Completed != 0 {
		t.Errorf("a worker disagrees: %+v, %v", report, err)
	}
}
