package pg_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// victimOf names the variable that makes this program a worker for a test that kills it.
const victimOf = "BACKFILL_TEST_VICTIM_OF"

func TestMain(m *testing.M) {
	if url := os.Getenv(victimOf); url != "" {
		slog.Error("the worker has ended by itself", slog.Any("error", runVictim(url)))
		os.Exit(1)
	}
	if url := os.Getenv(crasherOf); url != "" {
		slog.Error("the worker has ended by itself", slog.Any("error", runCrasher(url)))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// hurry makes heartbeats, and what follows from them, three times as fast. At their own pace all
// jobs had run 30 s after the kill.
const hurry = 3

func killConfig(execute func(context.Context, *wire.Job, *worker.Outcome)) worker.Config {
	return worker.Config{
		Tasks: []string{"a"}, Concurrency: 24, Hurry: hurry, Execute: execute, Nudge: func(int) {}, Logger: slog.New(slog.DiscardHandler),
	}
}

// runVictim is a worker whose jobs do not end.
func runVictim(url string) error {
	ctx := context.Background()
	config, err := pg.ParseURL(url)
	if err != nil {
		return err
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return err
	}
	store, err := pg.Open(ctx, pg.SettingsOf(pool, schemaName))
	if err != nil {
		return err
	}
	running := killConfig(sleeper)
	running.Observe = func(e worker.Event) {
		if e.Kind == worker.EventLeaseLost {
			fmt.Println(lostLine, e.Job.ID) //nolint:forbidigo // the test reads it
		}
	}
	return worker.New(store, running).Run(ctx)
}

// lostLine is what the victim writes for each lease that it finds lost.
const lostLine = "lost"

// sleeper is a handler that does not end until its process was stopped, or its lease was lost. Then
// it says whatever it can of the job: that it is done, at once; that it failed, or is to run later.
func sleeper(ctx context.Context, job *wire.Job, outcome *worker.Outcome) {
	const tick, asleep = 20 * time.Millisecond, 5 * time.Second
	for {
		before := time.Now()
		select {
		case <-ctx.Done():
		case <-time.After(tick):
		}
		switch slept := time.Since(before) > asleep; {
		case slept && job.ID%3 == 0:
			*outcome = worker.Outcome{Kind: worker.OutcomeCompleted}
			return
		case ctx.Err() != nil && job.ID%3 == 1:
			*outcome = worker.Outcome{Kind: worker.OutcomeFailed, Err: errors.New("by the victim"), Text: "by the victim"}
			return
		case ctx.Err() != nil:
			*outcome = worker.Outcome{Kind: worker.OutcomeSnoozed}
			return
		}
	}
}

// startVictim runs this program as a worker in a process of its own, until the end of the test.
func startVictim(t *testing.T, url string, output io.Writer) *os.Process {
	t.Helper()
	victim := exec.CommandContext(t.Context(), os.Args[0]) //nolint:gosec // this program
	victim.Env = append(os.Environ(), victimOf+"="+url)
	victim.Stdout, victim.Stderr = output, t.Output()
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = victim.Process.Kill(); _ = victim.Wait() })
	return victim.Process
}
