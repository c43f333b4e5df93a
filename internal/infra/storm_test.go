package infra_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/testutil/pgtest"
)

// All sessions of the database are ended, again and again for 10 seconds, while work goes on:
// nothing that was acknowledged is lost, enqueues that fail say how, the log stays small, and
// afterwards all is as before.
func TestTerminationStorm(t *testing.T) {
	t.Parallel()
	long(t)
	db := pgtest.New(t)
	var log logbook
	defer log.show(t)
	client := open(t, db.URL, &log)
	j := newJournal()
	task, registry := j.work()
	w := start(t, client, registry, backfill.WithConcurrency(8))
	stop := j.produce(t, 4, 5*time.Millisecond, func(ctx context.Context) error { return j.enqueue(ctx, client, task, "", backfill.Queue("q")) })
	defer stop()
	quietly := j.produce(t, 2, 5*time.Millisecond, func(ctx context.Context) error { return j.enqueue(ctx, client, task, "") })
	defer quietly()

	admin := dbtest.Connect(t, db.URL)
	ended := 0
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(150 * time.Millisecond) {
		ended += dbtest.Get[int](t, admin, `select count(pg_terminate_backend(pid))::int from pg_stat_activity
			where datname = current_database() and pid <> pg_backend_pid()`)
		w.lives()
	}
	_, before, _ := j.counts()
	took := within(t, 10*time.Second, "work after the storm", func() bool { _, ran, _ := j.counts(); return ran > before+20 })
	stop()
	quietly()
	within(t, hang, "all jobs", func() bool {
		return len(j.lost()) == 0 && dbtest.Get[int](t, admin, "select count(*)::int from graphile_worker._private_jobs") == 0
	})
	for _, err := range j.refusals() {
		if errors.Is(err, backfill.ErrInvalidRequest) || errors.Is(err, backfill.ErrClosed) {
			t.Errorf("an enqueue failed with: %v", err)
		}
	}
	within(t, 15*time.Second, "the listener", func() bool { return w.Health().Listening && w.Health().Ready() == nil })
	lines := log.from(slog.LevelWarn)
	acked, ran, refused := j.counts()
	t.Logf("%d sessions ended; %d jobs acknowledged, %d have run, %d enqueues failed; %d lines; the first 20 jobs after %v",
		ended, acked, ran, refused, len(lines), took)
	if len(lines) > 120 { // a line a second for each kind of trouble is the most
		t.Errorf("%d lines at WARN and above in 10 seconds", len(lines))
	}
	if acked < 20 || ended < 20 {
		t.Error("there was no storm, or no work in it")
	}
}

// 10 workers with mixed work and no trouble: not one line at WARN or above (X32). What others are
// faster at, keys that replace what is running, and rows that are gone are no warnings.
func TestCleanWorkWarnsOfNothing(t *testing.T) {
	t.Parallel()
	long(t)
	db := pgtest.New(t)
	var log logbook
	defer log.show(t)
	client := open(t, db.URL, &log)
	j := newJournal()
	task, registry := j.work(backfill.Cron("* * * * * ?fill=10m"))
	var workers []*running
	for range 10 {
		workers = append(workers, start(t, client, registry, backfill.WithConcurrency(4)))
	}
	keys := []string{"a", "b", "c"}
	var stops []func()
	for _, enqueue := range []func(ctx context.Context, n int) error{
		func(ctx context.Context, _ int) error { return j.enqueue(ctx, client, task, "") },
		func(ctx context.Context, _ int) error { return j.enqueue(ctx, client, task, "", backfill.Queue("q")) },
		func(ctx context.Context, n int) error { // replaced ones need not run: they are not in the journal
			_, err := backfill.Enqueue(ctx, client, task, job{N: -1}, backfill.Key(keys[n%3]), backfill.Queue(keys[n%2]))
			return err
		},
		func(ctx context.Context, n int) error {
			_, err := backfill.Enqueue(ctx, client, task, job{N: -1}, backfill.Key(keys[n%3]), backfill.PreserveRunAt)
			return err
		},
		func(ctx context.Context, n int) error {
			_, err := client.RemoveJob(ctx, keys[n%3])
			return err
		},
		func(ctx context.Context, _ int) error {
			return j.enqueue(ctx, client, task, "", backfill.Delay(200*time.Millisecond))
		},
	} {
		n := 0
		stops = append(stops, j.produce(t, 1, 10*time.Millisecond, func(ctx context.Context) error {
			n++
			err := enqueue(ctx, n)
			if err != nil && ctx.Err() == nil {
				t.Errorf("enqueue: %v", err)
			}
			return err
		}))
	}
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end) && len(log.from(slog.LevelWarn)) == 0; {
		time.Sleep(100 * time.Millisecond)
	}
	for _, stop := range stops {
		stop()
	}
	within(t, hang, "all jobs", func() bool { return len(j.lost()) == 0 })
	for _, w := range workers {
		w.stop()
	}
	if lines := log.from(slog.LevelWarn); len(lines) > 0 {
		t.Errorf("%d lines, the first: %s", len(lines), lines[0])
	}
	acked, ran, _ := j.counts()
	t.Logf("%d jobs acknowledged, %d have run", acked, ran)
	if ran < 100 {
		t.Error("there was no work")
	}
}
