package backfill_test

import (
	"context"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/worker"
	"github.com/backfillhq/go/testutil/pgtest"
)

// fill sets every field of a struct, of structs in it, and one element of each slice.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Unix(1, 0)))
			return
		}
		for _, field := range v.Fields() {
			fill(field)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case reflect.String:
		v.SetString("text")
	case reflect.Interface:
		v.Set(reflect.ValueOf(errBoom))
	case reflect.Bool:
		v.SetBool(true)
	default:
		v.SetInt(7)
	}
}

// unset returns the exported fields that are zero.
func unset(path string, v reflect.Value) (names []string) {
	switch {
	case v.Kind() == reflect.Slice && v.Len() > 0:
		return unset(path, v.Index(0))
	case v.Kind() == reflect.Struct && v.Type() != reflect.TypeFor[time.Time]():
		for field, value := range v.Fields() {
			if field.IsExported() {
				names = append(names, unset(path+"."+field.Name, value)...)
			}
		}
		return names
	case v.IsZero():
		return []string{path}
	}
	return nil
}

// What the engine says of its health, the public Health says.
func TestHealthIsWhole(t *testing.T) {
	t.Parallel()
	var engine worker.Health
	fill(reflect.ValueOf(&engine).Elem())
	if names := unset("Health", reflect.ValueOf(backfill.NewHealth(engine))); len(names) > 0 {
		t.Errorf("fields that are not set: %q", names)
	}
}

// A worker whose slots all hang takes no jobs, and says so. One that has a slot left does.
func TestReadyWhileJobsHang(t *testing.T) {
	t.Parallel()
	h := backfill.Health{State: backfill.StateRunning, Slots: 2, Running: 2, Overlong: []backfill.OverlongJob{{ID: 7, Task: "send_email"}}}
	if err := h.Ready(); err != nil {
		t.Errorf("with one of two slots: %v", err)
	}
	h.Overlong = append(h.Overlong, h.Overlong[0])
	wantError(t, h.Ready(), "all 2 slots have jobs that take longer than expected: job 7 of task send_email")
}

// Jobs that are stuck count like those that take too long, unless their slots were given to others.
func TestReadyWhileJobsAreStuck(t *testing.T) {
	t.Parallel()
	start := time.Unix(1e9, 0)
	h := backfill.Health{
		State: backfill.StateRunning, Slots: 2, Running: 2,
		Overlong:  []backfill.OverlongJob{{ID: 7, Task: "send_email", Since: start.Add(time.Minute)}},
		StuckJobs: []backfill.StuckJob{{ID: 8, Task: "send_email", Since: start, SlotGiven: true}},
	}
	if err := h.Ready(); err != nil {
		t.Errorf("one of two slots was given to others: %v", err)
	}
	h.ClaimFailures = 1
	wantError(t, h.Ready(), "the last 1 claims have failed")
	h.Running = 3
	if err := h.Ready(); err != nil {
		t.Errorf("full, with three handlers, after a claim that failed: %v", err)
	}
	h.StuckJobs = append(h.StuckJobs, backfill.StuckJob{ID: 9, Task: "send_text", Since: start.Add(time.Second)})
	wantError(t, h.Ready(), "all 2 slots have jobs that take longer than expected: job 9 of task send_text")
}

// A worker that is full claims nothing, so the claim that failed before says nothing for as long as
// its jobs run. Heartbeats go on, and say whether the database answers.
func TestReadyWhileFull(t *testing.T) {
	t.Parallel()
	h := backfill.Health{State: backfill.StateRunning, Slots: 2, Running: 2, ClaimFailures: 1}
	if err := h.Ready(); err != nil {
		t.Errorf("full, after a claim that failed: %v", err)
	}
	h.Silent = true
	wantError(t, h.Ready(), "no heartbeat was acknowledged")
	h.Silent, h.Running = false, 1
	wantError(t, h.Ready(), "the last 1 claims have failed")
}

// waitsForStack is where the handler of TestStack waits.
//
//go:noinline
func waitsForStack(done <-chan struct{}) { <-done }

// Stack returns where a handler is, and nothing of a job
// that the worker does not run.
func TestStack(t *testing.T) {
	t.Parallel()
	client := newClient(t, pgtest.New(t))
	task := &backfill.Task[struct{}]{Name: "waits"}
	started, done := make(chan struct{}), make(chan struct{})
	worker, err := client.NewWorker(backfill.NewRegistry(backfill.Handle(task, func(context.Context, struct{}) error {
		close(started)
		waitsForStack(done)
		return nil
	})))
	if err != nil {
		t.Fatal(err)
	}
	if text := (*backfill.Worker)(nil).Stack(1) + worker.Stack(1); text != "" {
		t.Errorf("of a worker that has not started: %s", text)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- worker.Run(ctx) }()
	job, err := backfill.Enqueue(t.Context(), client, task, struct{}{})
	if err != nil {
		t.Fatal(err)
	}
	<-started
	id := job.ID
	const head = "The handler is here:\n\ngithub.com/backfillhq/go/backfill_test.waitsForStack\n\t"
	for !strings.HasPrefix(worker.Stack(id), head) { // it is about to wait
		if t.Context().Err() != nil || worker.Stack(id) == "" {
			t.Fatalf("the stack is\n%s", worker.Stack(id))
		}
		runtime.Gosched()
	}
	if text := worker.Stack(id + 1); text != "" {
		t.Errorf("of another job:\n%s", text)
	}
	close(done)
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if text := worker.Stack(id); text != "" {
		t.Errorf("afterwards:\n%s", text)
	}
}
