package pg_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/bits"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/needs"
	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
	"github.com/backfillhq/go/testutil/pgtest"
)

// crasherOf names the variable that makes this program a worker that its jobs can kill.
const crasherOf = "BACKFILL_TEST_CRASHER_OF"

// crashHurry makes times short: a trial lasts 1 s and twice the age, which is counted in real time.
const crashHurry = 10

// crashArgs is the payload of the jobs of a crasher.
type crashArgs struct {
	Kill  string // how the job ends its process; "": it does not
	Takes time.Duration
}

func runCrasher(url string) error {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, url)
	if err != nil {
		return err
	}
	store, err := pg.Open(ctx, pg.SettingsOf(pool, schemaName))
	if err != nil {
		return err
	}
	return worker.New(store, worker.Config{
		Tasks: []string{"a"}, Concurrency: 100, Hurry: crashHurry, Nudge: func(int) {},
		Logger:  slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
		Execute: crash,
	}).Run(ctx)
}

func crash(ctx context.Context, job *wire.Job, outcome *worker.Outcome) {
	var args crashArgs
	if err := json.Unmarshal(job.Payload, &args); err != nil {
		outcome.Kind, outcome.Text = worker.OutcomeFailed, err.Error()
		return
	}
	select {
	case <-ctx.Done():
	case <-time.After(args.Takes):
	}
	switch args.Kill {
	case "SIGKILL":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	case "exit":
		os.Exit(3)
	case "map":
		m := map[int]int{}
		for range 8 {
			go func() {
				for i := 0; ; i++ {
					m[i%10] = i
				}
			}()
		}
	case "memory":
		limit := syscall.Rlimit{Cur: 1 << 30, Max: 1 << 30}
		_ = syscall.Setrlimit(syscall.RLIMIT_AS, &limit)
		for hoard := [][]byte{}; ; {
			hoard = append(hoard, make([]byte, 64<<20))
			_ = hoard
		}
	default:
		outcome.Kind = worker.OutcomeCompleted
		return
	}
	<-ctx.Done() // the process ends
}

// crashers are worker processes that somebody starts again whenever they end, until the test does.
type crashers struct {
	deaths atomic.Int64
}

func supervise(t *testing.T, url string, n int) *crashers {
	t.Helper()
	c := &crashers{}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	for range n {
		running.Go(func() {
			for ctx.Err() == nil {
				process := exec.CommandContext(ctx, os.Args[0]) //nolint:gosec // this program
				process.Env = append(os.Environ(), crasherOf+"="+url, "GOTRACEBACK=none")
				var said strings.Builder
				process.Stdout, process.Stderr = &said, &said
				err := process.Run()
				if ctx.Err() == nil {
					c.deaths.Add(1)
					t.Logf("a worker ended: %v\n%.300s", err, said.String())
				}
			}
		})
	}
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return c
}

// A job that kills its worker is found among those that die with it, however it kills, and however
// long the others take: it ends as failed for good, and all others are done, though they were held
// at its crashes. The bound on crashes is the model's (package conviction).
func TestPoisonIsConvicted(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		kill                string
		others              int
		takes, killsAfter   time.Duration
		queued, keyed, last bool // last: the poison has one attempt left
		workers             int
		long                bool // BACKFILL_TEST_ALL
	}{
		{kill: "SIGKILL", others: 500, takes: 5 * time.Millisecond, killsAfter: 5 * time.Millisecond, workers: 2, long: true},
		{kill: "SIGKILL", others: 100, takes: 8 * time.Second, killsAfter: time.Second, workers: 2, long: true},
		{kill: "exit", others: 20, takes: 50 * time.Millisecond, killsAfter: 5 * time.Millisecond, queued: true, last: true, workers: 5},
		{kill: "map", others: 20, takes: 50 * time.Millisecond, keyed: true, workers: 2, long: true},
		{kill: "memory", others: 20, takes: 50 * time.Millisecond, workers: 2, long: true},
	} {
		t.Run(fmt.Sprintf("%s among %d of %s", test.kill, test.others, test.takes), func(t *testing.T) {
			t.Parallel()
			if test.long && !needs.All() {
				t.Skip("for BACKFILL_TEST_ALL=1: it takes more than 5 seconds")
			}
			db := pgtest.New(t)
			args := func(args crashArgs) string {
				payload, err := json.Marshal(args)
				if err != nil {
					t.Fatal(err)
				}
				return string(payload)
			}
			const add = "select id from graphile_worker.add_job('a', $1::json, nullif($2, ''), job_key := nullif($3, ''))"
			innocent := func(n int) {
				for range n {
					dbtest.Run(t, db.Pool(), add, args(crashArgs{Takes: test.takes}), "", "")
				}
			}
			innocent(test.others / 2)
			queue, key := "", ""
			if test.queued {
				queue = "q"
			}
			if test.keyed {
				key = "k"
			}
			poison := dbtest.Get[int64](t, db.Pool(), add, args(crashArgs{Kill: test.kill, Takes: test.killsAfter}), queue, key)
			if test.last {
				dbtest.Run(t, db.Pool(), "update graphile_worker._private_jobs set attempts = max_attempts - 1 where id = $1", poison)
			}
			dbtest.Run(t, db.Pool(), add, args(crashArgs{}), queue, "") // behind it
			innocent(test.others - test.others/2)
			workers := supervise(t, db.URL, test.workers)

			dbtest.UntilWithin(t, 3*time.Minute, func() bool {
				return dbtest.Get[int](t, db.Pool(), "select count(*)::int from graphile_worker._private_jobs where id <> $1 or attempts < max_attempts", poison) == 0
			})
			said := dbtest.Get[string](t, db.Pool(), `select concat_ws(' ', attempts = max_attempts, locked_by is null, last_error)
				from graphile_worker._private_jobs where id = $1`, poison)
			if !strings.HasPrefix(said, "t t "+worker.ErrConvicted.Error()) {
				t.Errorf("the poison ended as %q", said)
			}
			most := int64(2 + bits.Len(uint(test.others+1)) + 3)
			t.Logf("%d crashes, at most %d", workers.deaths.Load(), most)
			if n := workers.deaths.Load(); n < 5 || n > most {
				t.Errorf("%d crashes, want 5 to %d", n, most)
			}
			if n := dbtest.Get[int](t, db.Pool(), "select count(*)::int from graphile_worker._private_job_queues where locked_by is not null"); n > 0 {
				t.Errorf("%d queues are locked", n)
			}
		})
	}
}
