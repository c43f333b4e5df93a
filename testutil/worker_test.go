package testutil_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/testutil"
	"github.com/backfillhq/go/testutil/pgtest"
)

// After a test nothing of it runs: handlers are cancelled, their jobs are given back, and what is
// left is named.
func TestStartEndsWithTheTest(t *testing.T) {
	t.Parallel()
	client := openClient(t)
	var cause error
	returned := make(chan struct{})
	registry := backfill.NewRegistry(backfill.Handle(taskStep, func(ctx context.Context, _ string) error {
		defer close(returned)
		<-ctx.Done()
		cause = context.Cause(ctx)
		return ctx.Err()
	}))
	var running, later *backfill.Job
	tb := try(t, func(tb *trial) {
		w := testutil.Start(tb, client, registry, backfill.WithDrainTimeout(0))
		running, later = enqueueStep(t, client, "now"), enqueueStep(t, client, "later", backfill.Delay(time.Hour))
		testutil.WaitFor(tb, w, running, testutil.Running)
	})
	tb.passes()
	select {
	case <-returned:
	default:
		t.Fatal("the handler still runs")
	}
	if cause == nil || cause.Error() != backfill.ErrShutdown.Error() {
		t.Errorf("the handler's context ended with %v", cause)
	}
	mustContain(t, tb.logged(), "left when the test ended:", `due: "now"`, `due at `, `: "later"`)
	for _, job := range []*backfill.Job{running, later} {
		if status, err := client.Job(t.Context(), job.ID); err != nil || status.LockedBy != "" || status.Attempt != 0 {
			t.Errorf("job %d was not given back: %+v, %v", job.ID, status, err)
		}
	}
}

// A handler that ignores its context fails the test, which says where it is.
func TestStartNamesHandlersThatGoOn(t *testing.T) {
	t.Parallel()
	client := openClient(t)
	leave, left := make(chan struct{}), make(chan struct{})
	registry := backfill.NewRegistry(backfill.Handle(taskStep, func(context.Context, string) error {
		defer close(left)
		<-leave
		return nil
	}))
	tb := try(t, func(tb *trial) {
		w := testutil.Start(tb, client, registry, backfill.WithDrainTimeout(0))
		testutil.WaitFor(tb, w, enqueueStep(t, client, ""), testutil.Running)
	})
	close(leave)
	<-left
	mustContain(t, tb.failed(), `the handler of job 1 of task "step" has not, although its context has been cancelled`,
		"TestStartNamesHandlersThatGoOn")
}

// A worker that cannot start fails the test.
func TestStartFails(t *testing.T) {
	t.Parallel()
	client := openClient(t)
	tb := try(t, func(tb *trial) { testutil.Start(tb, client, steps(), backfill.WithConcurrency(0)) })
	mustContain(t, tb.failed(), "testutil: Start: new worker: WithConcurrency: 0 is out of range")
	tb = try(t, func(tb *trial) { testutil.Start(tb, client, steps(), backfill.WithScheduled()) })
	mustContain(t, tb.failed(), "testutil: Start: the worker has stopped: run worker: WithScheduled is for RunOnce")
}

// Tests in one database with schemas of their own do not see each other, although notifications are
// the database's.
func TestSchemasDoNotSeeEachOther(t *testing.T) {
	t.Parallel()
	pool := pgtest.Empty(t, pgtest.WithPoolSize(8)).Pool()
	names := []string{"one", "two", "three"}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client, err := backfill.NewClient(t.Context(), pool, backfill.WithSchema(name), backfill.WithMigrations(backfill.MigrateAuto))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(client.Close)
			var ran []string
			registry := backfill.NewRegistry(backfill.Handle(taskStep, func(_ context.Context, do string) error {
				ran = append(ran, do)
				return nil
			}))
			w := testutil.Start(t, client, registry, backfill.WithConcurrency(1))
			waits := enqueueStep(t, client, "waits in "+name, backfill.Delay(time.Hour))
			for range 10 {
				testutil.WaitFor(t, w, enqueueStep(t, client, "of "+name), testutil.Succeeded)
			}
			if got := testutil.RequireEnqueued(t, client, taskStep, "waits in "+name); got.ID != waits.ID {
				t.Errorf("found job %d, want %d", got.ID, waits.ID)
			}
			for _, other := range names {
				if other == name {
					continue
				}
				tb := try(t, func(tb *trial) { testutil.RequireEnqueued(tb, w, taskStep, "waits in "+other) })
				mustContain(t, tb.failed(), "no such job of task")
				tb = try(t, func(tb *trial) { testutil.RequireEnqueued(tb, w, taskStep, "of "+other) })
				mustContain(t, tb.failed(), "no such job of task")
			}
			if err := w.Stop(); err != nil {
				t.Error(err)
			}
			if all := strings.Join(ran, ","); all != strings.TrimSuffix(strings.Repeat("of "+name+",", 10), ",") {
				t.Errorf("ran: %s", all)
			}
		})
	}
}
