package docs_test

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/testutil/pgtest"
)

// ofThisRun is what an answer has of the moment and the machine.
var ofThisRun = regexp.MustCompile(`pool-[0-9a-f]{18}|on \S+, pid \d+|\d\d:\d\d:\d\d UTC|\([0-9.]+ s\)|heartbeat [0-9.]+ s ago`)

// Both pages show what the commands write.
func TestOperatorPages(t *testing.T) {
	t.Parallel()
	bin := t.TempDir()
	if output, err := exec.CommandContext(t.Context(), "go", "build", "-o", bin, root+"/cmd/backfill").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	for page, stage := range map[string]func(*testing.T, *pgxpool.Pool){"why.md": holdQueue, "doctor.md": addTrigger, "operating.md": declineCard} {
		t.Run(page, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			stage(t, db.Pool())
			text, err := os.ReadFile(filepath.Join(root, "docs", page))
			if err != nil {
				t.Fatal(err)
			}
			for _, b := range readPage(t, string(text)) {
				if b.language != "console" {
					continue
				}
				for _, c := range commands(t, b) {
					cmd := exec.CommandContext(t.Context(), "sh", "-c", c.line)
					cmd.Env = append(os.Environ(), "PATH="+bin+string(filepath.ListSeparator)+os.Getenv("PATH"), "DATABASE_URL="+db.URL)
					output, _ := cmd.CombinedOutput() // the doctor's has settings of the test's server, too
					want, _, _ := strings.Cut(c.want, "backfill: 1 finding")
					if got := ofThisRun.ReplaceAllString(string(output), "…"); !strings.Contains(got, ofThisRun.ReplaceAllString(want, "…")) {
						t.Errorf("%s writes\n%sthe page has\n%s", c.line, got, want)
					}
				}
			}
		})
	}
}

// declineCard makes a job that has failed for good, among others.
func declineCard(t *testing.T, db *pgxpool.Pool) {
	t.Helper()
	dbtest.Run(t, db, "select graphile_worker.add_job('charge')")
	dbtest.Run(t, db, `select graphile_worker.add_job('charge', '{"secret": "4242"}', queue_name := 'user:7', run_at := '2026-11-29T08:00:00Z')`)
	dbtest.Run(t, db, "update graphile_worker._private_jobs set attempts = 25, last_error = 'card 4242 declined' where id = 2")
}

// holdQueue starts a worker that runs job 1 of a queue, before 17 others of it.
func holdQueue(t *testing.T, db *pgxpool.Pool) {
	t.Helper()
	client, err := backfill.NewClient(t.Context(), db, backfill.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	release := make(chan struct{})
	task := &backfill.Task[struct{}]{Name: "sync"}
	worker, err := client.NewWorker(backfill.NewRegistry(backfill.Handle(task, func(context.Context, struct{}) error { <-release; return nil })))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- worker.Run(ctx) }()
	t.Cleanup(func() {
		close(release)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	dbtest.Run(t, db, "select graphile_worker.add_job('sync', queue_name := 'user:7')")
	dbtest.Until(t, func() bool {
		return dbtest.Get[bool](t, db, "select exists (select from graphile_worker.backfill_workers where running = '{1}')")
	})
	for range 17 {
		dbtest.Run(t, db, "select graphile_worker.add_job('sync', queue_name := 'user:7')")
	}
}

func addTrigger(t *testing.T, db *pgxpool.Pool) {
	t.Helper()
	dbtest.Run(t, db, "create function public.f() returns trigger language plpgsql as 'begin return new; end'")
	dbtest.Run(t, db, "create trigger audit before insert on graphile_worker._private_jobs for each row execute function public.f()")
}
