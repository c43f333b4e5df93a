package main

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/cmd/backfill/internal/bench"
	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/testutil/pgtest"
)

// scratchSchemas are the schemas of bench that are there.
func scratchSchemas(t *testing.T, db *pgtest.Database) []string {
	t.Helper()
	return list(t, connectTo(t, db.URL), "select nspname::text from pg_namespace where nspname like 'backfill_bench%' order by 1")
}

func TestBench(t *testing.T) {
	t.Parallel()
	db := pgtest.Empty(t)
	for name, made := range map[string]string{ // by whom and when; "": by nobody that is known
		"backfill_bench_old":     "bench, made 2026-01-01T00:00:00Z",
		"backfill_bench_young":   "bench, made " + dbtest.Get[string](t, db.Pool(), `select to_char(now() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')`),
		"backfill_bench_foreign": "",
	} {
		dbtest.Run(t, db.Pool(), "create schema "+name)
		if made != "" {
			dbtest.Run(t, db.Pool(), "comment on schema "+name+" is 'scratch schema of backfill "+made+": it may be dropped'")
		}
	}
	out, errs := command(t, 0, "bench", "--for", "1s", "--json", "--database-url", db.URL)
	says(t, errs, "database  ", "dropping the schema backfill_bench_old, which a run has left ")
	var r bench.Report
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatal(err)
	}
	if len(r.Enqueue) != 3 || r.Work.PerSecond <= 0 || r.Latency.P50 <= 0 || r.Latency.P50 > r.Latency.P99 || r.Server.RoundTrip <= 0 ||
		r.Server.Version == "" || r.Server.Settings["fsync"] == "" || r.Server.Settings["synchronous_commit"] == "" {
		t.Errorf("report %+v", r)
	}
	var enqueued int64
	for _, rate := range r.Enqueue {
		enqueued += rate.Jobs
		if rate.PerSecond <= 0 {
			t.Errorf("rate %+v", rate)
		}
	}
	if r.Work.Jobs > enqueued {
		t.Errorf("%d jobs were done, %d were enqueued", r.Work.Jobs, enqueued)
	}
	if left := scratchSchemas(t, db); strings.Join(left, " ") != "backfill_bench_foreign backfill_bench_young" {
		t.Errorf("left: %q", left)
	}
}

func TestBenchThatIsStopped(t *testing.T) {
	t.Parallel()
	db := pgtest.Empty(t)
	ctx, stop := context.WithCancel(t.Context())
	var out, errs bytes.Buffer
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{"backfill", "bench", "--for", "10m", "--database-url", db.URL}, strings.NewReader(""), &out, &errs)
	}()
	dbtest.Until(t, func() bool {
		return dbtest.Get[bool](t, db.Pool(), "select exists (select from pg_class where relname = '_private_jobs')")
	})
	stop()
	if code := <-ended; code != exitProblem {
		t.Errorf("exit code %d", code)
	}
	says(t, errs.String(), "it was stopped before all was measured")
	if left := scratchSchemas(t, db); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// A database in which workers are alive is not measured unless somebody says so.
func TestBenchBesideWorkers(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client, err := backfill.NewClient(t.Context(), db.Pool(), backfill.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	task := &backfill.Task[backfill.NoArgs]{Name: "live"}
	worker, err := client.NewWorker(backfill.NewRegistry(backfill.Handle(task, func(context.Context, backfill.NoArgs) error { return nil })))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- worker.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	dbtest.Until(t, func() bool { return worker.Health().Listening })
	_, errs := command(t, exitUnconfirmed, "bench", "--for", "1s", "--database-url", db.URL)
	says(t, errs, `in use    Go workers of the schema "graphile_worker" that are alive: 1`, "sessions that listen as workers do", "pass --yes")
	if left := scratchSchemas(t, db); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	out, errs := command(t, 0, "bench", "--for", "1s", "--yes", "--database-url", db.URL)
	says(t, errs, "in use    Go workers")
	says(t, out, "server    PostgreSQL", "synchronous_commit", "enqueue one by one, 10 callers", "enqueue 100 at a time", "50 slots", "p99")
}

// Workers of other databases of the server are told.
func TestBenchBesideOtherDatabases(t *testing.T) {
	t.Parallel()
	dbtest.Run(t, connectTo(t, pgtest.Empty(t).URL), `listen "jobs:insert"`)
	_, errs := command(t, 0, "bench", "--for", "1s", "--database-url", pgtest.Empty(t).URL)
	says(t, errs, "sessions of other databases of this server that listen as workers do: ")
}

// A role that may not make schemas is told what it takes.
func TestBenchWithoutRights(t *testing.T) {
	t.Parallel()
	db := pgtest.Empty(t)
	role := newLogin(t, db)
	_, errs := command(t, exitProblem, "bench", "--for", "1s", "--database-url", role.url)
	says(t, errs, "grant create on database")
}

func TestBenchUsage(t *testing.T) {
	t.Parallel()
	for _, arguments := range [][]string{
		{"x"}, {"--no-such-flag"}, {"--for", "1ms"}, {"--for", "11m"}, {"--slots", "0"}, {"--callers", "1001"}, {"--batch", "-1"}, {"--schema", "s"},
	} {
		command(t, exitUsage, append([]string{"bench", "--database-url", "postgres://127.0.0.1:1/x"}, arguments...)...)
	}
}
