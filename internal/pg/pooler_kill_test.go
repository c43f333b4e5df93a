package pg_test

import (
	"context"
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

// The jobs of a worker process that was killed behind a transaction pooler run again within 40
// seconds, also those of queues. No lock tells of its death: its row says that it took none.
func TestKilledBehindAPooler(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	through := dbtest.Pooler(t, db.URL, "transaction", 6)
	dbtest.Run(t, db.Pool(), `select graphile_worker.add_job('a', queue_name := case when n % 2 = 0 then 'q' || n end) from generate_series(1, 10) as n`)
	victim := startVictim(t, through, t.Output())
	locked := func() int {
		return dbtest.Get[int](t, db.Pool(), `select count(*)::int from graphile_worker._private_jobs as j
			join graphile_worker.backfill_workers as w on w.id = split_part(j.locked_by, '.', 1) where w.pid = $1 and w.beats > 0`, victim.Pid)
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
	if err := victim.Kill(); err != nil {
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
