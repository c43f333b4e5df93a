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

// Jobs of a task that is paused wait, also for workers that start later and in front of others in
// their queue; nothing else does. They run when the pause is over, whoever or whatever ends it.
func TestPause(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*backfill.Client) error{
		"resumed": func(c *backfill.Client) error { return c.Resume(t.Context(), "sick") },
		"over":    func(*backfill.Client) error { return nil },
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
					if _, err := backfill.Enqueue(t.Context(), client, task, struct{}{}, backfill.Queue("q")); err != nil {
						t.Fatal(err)
					}
				}
			}
			options := backfill.PauseOptions{By: "ada", Reason: "mails twice"}
			if name == "over" {
				options.Until = time.Now().Add(4 * time.Second)
			}
			if err := client.Pause(t.Context(), "sick", options); err != nil {
				t.Fatal(err)
			}
			pauses, err := client.Paused(t.Context())
			if err != nil || len(pauses) != 1 || pauses[0].Task != "sick" || pauses[0].By != "ada" || pauses[0].Reason != "mails twice" ||
				pauses[0].Until.Sub(options.Until).Abs() > time.Microsecond || time.Since(pauses[0].At).Abs() > time.Minute {
				t.Fatalf("paused are %+v, %v", pauses, err)
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
			if err := end(client); err != nil {
				t.Fatal(err)
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
}
