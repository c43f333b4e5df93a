package backfill_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/testutil/pgtest"
)

// Jobs of a task or a queue that is paused wait, also for workers that start later, of a task also in
// front of others in their queue; nothing else does. They run when the pause is over, whoever or
// whatever ends it.
func TestPause(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ queue, ends bool }{
		"a task, resumed":  {false, false},
		"a task, over":     {false, true},
		"a queue, resumed": {true, false},
		"a queue, over":    {true, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			client, err := backfill.NewClient(t.Context(), db.Pool())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(client.Close)
			sick, well := &backfill.Task[struct{}]{Name: "sick"}, &backfill.Task[struct{}]{Name: "well"}
			ran := make(chan string, 10)
			handle := func(task *backfill.Task[struct{}]) backfill.Binding {
				return backfill.Handle(task, func(context.Context, struct{}) error {
					ran <- task.Name
					return nil
				})
			}
			for range 2 {
				for _, task := range []*backfill.Task[struct{}]{sick, well} {
					queue := "q"
					if test.queue {
						queue = task.Name
					}
					if _, err := backfill.Enqueue(t.Context(), client, task, struct{}{}, backfill.Queue(queue)); err != nil {
						t.Fatal(err)
					}
				}
			}
			pause, resume := client.Pause, client.Resume
			if test.queue {
				pause, resume = client.PauseQueue, client.ResumeQueue
			}
			options := backfill.PauseOptions{By: "ada", Reason: "mails twice"}
			if test.ends {
				options.Until = time.Now().Add(4 * time.Second)
			}
			if err := pause(t.Context(), "sick", options); err != nil {
				t.Fatal(err)
			}
			pauses, err := client.Paused(t.Context())
			if err != nil || len(pauses) != 1 {
				t.Fatalf("paused are %+v, %v", pauses, err)
			}
			p := pauses[0]
			if p.Task+p.Queue != "sick" || (p.Queue != "") != test.queue || p.By != "ada" || p.Reason != "mails twice" ||
				p.Until.Sub(options.Until).Abs() > time.Microsecond || time.Since(p.At).Abs() > time.Minute {
				t.Fatalf("paused is %+v", p)
			}
			worker, err := client.NewWorker(backfill.NewRegistry(handle(sick), handle(well)))
			if err != nil {
				t.Fatal(err)
			}
			ctx, stop := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- worker.Run(ctx) }()
			defer func() {
				stop()
				if err := <-ended; err != nil {
					t.Error(err)
				}
			}()
			next := func(within time.Duration) string {
				select {
				case task := <-ran:
					return task
				case <-time.After(within):
					return "none"
				}
			}
			got := []string{next(time.Minute), next(time.Minute), next(time.Second)}
			if diff := cmp.Diff([]string{"well", "well", "none"}, got); diff != "" {
				t.Errorf("while it is paused (-want +got):\n%s", diff)
			}
			if !test.ends {
				if err := resume(t.Context(), "sick"); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff([]string{"sick", "sick"}, []string{next(time.Minute), next(time.Minute)}); diff != "" {
				t.Errorf("afterwards (-want +got):\n%s", diff)
			}
			if pauses, err := client.Paused(t.Context()); err != nil || len(pauses) != 0 {
				t.Errorf("paused are %+v, %v", pauses, err)
			}
		})
	}
}

// The list has tasks by name, and then queues by name, whether they exist or not; a second pause
// replaces the first.
func TestPausedInOrder(t *testing.T) {
	t.Parallel()
	client, err := backfill.NewClient(t.Context(), pgtest.New(t).Pool())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	for _, task := range []string{"b", "c"} {
		if _, err := backfill.Enqueue(t.Context(), client, &backfill.Task[struct{}]{Name: task}, struct{}{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, err := range []error{
		client.PauseQueue(t.Context(), "d", backfill.PauseOptions{By: "ada"}), client.PauseQueue(t.Context(), "a", backfill.PauseOptions{}),
		client.Pause(t.Context(), "c", backfill.PauseOptions{}), client.Pause(t.Context(), "b", backfill.PauseOptions{}),
		client.PauseQueue(t.Context(), "d", backfill.PauseOptions{By: "bob"}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	pauses, err := client.Paused(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range pauses {
		got = append(got, p.Task+"/"+p.Queue+"/"+p.By)
	}
	if diff := cmp.Diff([]string{"b//", "c//", "/a/", "/d/bob"}, got); diff != "" {
		t.Errorf("paused (-want +got):\n%s", diff)
	}
}

// Whatever cannot be paused or resumed is an error that says why.
func TestPauseOfNothing(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client, err := backfill.NewClient(t.Context(), db.Pool())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	if err := client.Pause(t.Context(), "typo", backfill.PauseOptions{}); !errors.Is(err, backfill.ErrUnknownTask) {
		t.Errorf("an unknown task: %v", err)
	}
	if err := client.Resume(t.Context(), "typo"); !errors.Is(err, backfill.ErrNotPaused) {
		t.Errorf("a task that is not paused: %v", err)
	}
	dbtest.Mentions(t, client.Pause(t.Context(), "", backfill.PauseOptions{By: "\x00", Until: time.Now().Add(-time.Hour)}),
		"task name is empty", "by ", "NUL", "until", "is over")
	dbtest.Mentions(t, client.Resume(t.Context(), "\xff"), "not valid UTF-8")
	if err := client.ResumeQueue(t.Context(), "typo"); !errors.Is(err, backfill.ErrNotPaused) || err.Error() != `resume queue "typo": it is not paused` {
		t.Errorf("a queue that is not paused: %v", err)
	}
	dbtest.Mentions(t, client.PauseQueue(t.Context(), "", backfill.PauseOptions{}), "queue name is empty")
	if err := (*backfill.Client)(nil).ResumeQueue(t.Context(), "q"); !errors.Is(err, backfill.ErrNoClient) {
		t.Errorf("without a client: %v", err)
	}
}

// What would not run for a pause or a forbidden flag keeps its time, also for a worker that runs what is scheduled.
func TestJobsThatMayNotRunStayScheduled(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	open, paused := &backfill.Task[struct{}]{Name: "open"}, &backfill.Task[struct{}]{Name: "paused"}
	nothing := func(context.Context, struct{}) error { return nil }
	registry := backfill.NewRegistry(backfill.Handle(open, nothing), backfill.Handle(paused, nothing))
	later := backfill.Delay(time.Hour)
	enqueue(t, client, open, struct{}{}, later)
	enqueue(t, client, open, struct{}{}, later, backfill.Queue("open"))
	enqueue(t, client, open, struct{}{}, later, backfill.Queue("paused"))
	enqueue(t, client, paused, struct{}{}, later)
	enqueue(t, client, open, struct{}{}, later, backfill.Flags("slow"))
	if err := errors.Join(client.PauseQueue(t.Context(), "paused", backfill.PauseOptions{}), client.Pause(t.Context(), "paused", backfill.PauseOptions{})); err != nil {
		t.Fatal(err)
	}
	if report := runOnce(t, client, registry, backfill.WithScheduled(), backfill.WithForbiddenFlags("slow")); report.Completed != 2 {
		t.Errorf("%+v, want 2 that ran", *report)
	}
	const scheduled = "select count(*)::int from graphile_worker._private_jobs where run_at > now() + interval '50 minutes'"
	if n := get[int](t, db.Pool(), scheduled); n != 3 {
		t.Errorf("%d jobs are scheduled as they were, want 3: %+v", n, jobRows(t, db))
	}
}
