package pg_test

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
	"github.com/backfillhq/go/testutil/pgtest"
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
		Tasks: []string{"a"}, Concurrency: 20, Hurry: hurry, Execute: execute, Nudge: func(int) {}, Logger: slog.New(slog.DiscardHandler),
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
	return worker.New(store, killConfig(func(ctx context.Context, _ *wire.Job, _ *worker.Outcome) { <-ctx.Done() })).Run(ctx)
}

// The jobs of a worker process that was killed behind a transaction pooler run again within 40
// seconds, also those of queues. No lock tells of its death: its row says that it took none.
func TestKilledBehindAPooler(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	through := dbtest.Pooler(t, db.URL, "transaction", 6)
	dbtest.Run(t, db.Pool(), `select graphile_worker.add_job('a', queue_name := case when n % 2 = 0 then 'q' || n end) from generate_series(1, 10) as n`)
	victim := exec.CommandContext(t.Context(), os.Args[0]) //nolint:gosec // this program
	victim.Env = append(os.Environ(), victimOf+"="+through)
	victim.Stdout, victim.Stderr = t.Output(), t.Output()
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = victim.Process.Kill(); _ = victim.Wait() })
	locked := func() int {
		return dbtest.Get[int](t, db.Pool(), `select count(*)::int from graphile_worker._private_jobs as j
			join graphile_worker.backfill_workers as w on w.id = split_part(j.locked_by, '.', 1) where w.pid = $1 and w.beats > 0`, victim.Process.Pid)
	}
	dbtest.Until(t, func() bool { return locked() == 10 })

	ran, deaths, rescued := make(chan int64, 100), make(chan string, 100), make(chan *wire.Job, 100)
	config := killConfig(func(_ context.Context, job *wire.Job, outcome *worker.Outcome) {
		ran <- job.ID
		outcome.Kind = worker.OutcomeCompleted
	})
	config.Observe = func(e worker.Event) {
		if e.Kind == worker.EventDeath {
			deaths <- e.WorkerID
		}
		if e.Kind == worker.EventRescued {
			rescued <- e.Job
		}
	}
	settings := pg.SettingsOf(newPool(t, through, func(c *pgxpool.Config) {
		c.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec
	}), schemaName)
	store, err := pg.Open(t.Context(), settings)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- worker.New(store, config).Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	dbtest.Until(t, func() bool { // it sees the other's heart beat
		return dbtest.Get[int](t, db.Pool(), "select count(*)::int from graphile_worker.backfill_workers where beats > 2") == 2
	})
	if n := dbtest.Get[int](t, db.Pool(), `select (select count(*) from graphile_worker.backfill_workers where locked)
		+ (select count(*) from pg_locks where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database()))`); n > 0 {
		t.Errorf("%d session locks", n)
	}
	if err := victim.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	killed := time.Now()
	late := time.After(40 * time.Second)
	for range 10 {
		select {
		case <-ran:
		case <-late:
			t.Fatal("its jobs did not run within 40 seconds")
		}
	}
	t.Logf("with times %d times as short, all jobs had run %v after the kill", hurry, time.Since(killed))
	if len(deaths) != 1 || len(rescued) != 10 {
		t.Errorf("%d deaths, %d rescued jobs", len(deaths), len(rescued))
	}
	for len(rescued) > 0 {
		if job := <-rescued; job.Attempt != 1 {
			t.Errorf("rescued %+v", job)
		}
	}
}
