//go:build unix

package pg_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
	"github.com/backfillhq/go/testutil/pgtest"
)

// A worker process that is stopped by SIGSTOP while it holds jobs, and goes on when these have
// ended elsewhere, wait for another attempt, or run: whatever its handlers say, it changes nothing,
// finds that its leases are lost, and goes on under a new id.
func TestStoppedProcessChangesNothing(t *testing.T) {
	t.Parallel()
	const jobs = 24
	db := pgtest.New(t)
	dbtest.Run(t, db.Pool(), `select graphile_worker.add_job('a', queue_name := case when n / 4 % 2 = 0 then 'q' || n end)
		from generate_series(1, $1::int) as n`, jobs)
	said, output := io.Pipe()
	t.Cleanup(func() { _ = output.Close() })
	lost := make(chan int64, 100*jobs)
	go func() {
		for lines := bufio.NewScanner(said); lines.Scan(); {
			var id int64
			if _, err := fmt.Sscanf(lines.Text(), lostLine+" %d", &id); err == nil {
				lost <- id
			}
		}
	}()
	victim := startVictim(t, db.URL, output)
	held := func(what string) int {
		return dbtest.Get[int](t, db.Pool(), `select count(*)::int from graphile_worker._private_jobs as j
			join graphile_worker.backfill_workers as w on w.id = split_part(j.locked_by, '.', 1) where w.pid `+what+` $1`, victim.Pid)
	}
	dbtest.Until(t, func() bool { return held("=") == jobs })

	release := make(chan struct{})
	config := killConfig(func(_ context.Context, job *wire.Job, outcome *worker.Outcome) {
		switch job.ID % 4 {
		case 0:
			*outcome = worker.Outcome{Kind: worker.OutcomeCompleted}
		case 1:
			*outcome = worker.Outcome{Kind: worker.OutcomeFailed, Err: errors.New("no"), Text: "no", Delay: time.Hour}
		case 2:
			*outcome = worker.Outcome{Kind: worker.OutcomeSnoozed, Delay: time.Hour}
		default:
			<-release
			*outcome = worker.Outcome{Kind: worker.OutcomeCompleted}
		}
	})
	store, err := pg.Open(t.Context(), pg.SettingsOf(db.Pool(), schemaName))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	other := worker.New(store, config)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- other.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	dbtest.Until(t, func() bool { // it sees the victim's heart beat
		return dbtest.Get[int](t, db.Pool(), "select count(*)::int from graphile_worker.backfill_workers where beats > 2") == 2
	})
	signal(t, victim, syscall.SIGSTOP)
	stopped := time.Now()
	dbtest.Until(t, func() bool {
		s := other.Health().Stats
		return s.Completed == jobs/4 && s.Failed == jobs/4 && s.Snoozed == jobs/4 && held("<>") == jobs/4
	})
	t.Logf("with times %d times as short, its jobs had run elsewhere %v after SIGSTOP", hurry, time.Since(stopped))
	rows := func() string {
		return dbtest.Get[string](t, db.Pool(), `select jsonb_pretty(jsonb_build_object(
			'jobs', (select jsonb_agg(to_jsonb(j) order by j.id) from graphile_worker._private_jobs as j),
			'queues', (select jsonb_agg(to_jsonb(q) order by q.id) from graphile_worker._private_job_queues as q)))`)
	}
	before := rows()

	signal(t, victim, syscall.SIGCONT)
	seen := map[int64]bool{}
	for late := time.Now().Add(30 * time.Second); len(seen) < jobs && time.Now().Before(late); {
		select {
		case id := <-lost:
			seen[id] = true
		case <-time.After(time.Until(late)):
			t.Errorf("30 s after SIGCONT the process knows of %d lost leases, want %d", len(seen), jobs)
		}
	}
	dbtest.Until(t, func() bool {
		return dbtest.Get[int](t, db.Pool(), "select count(*)::int from graphile_worker.backfill_workers where pid = $1 and dead_at is null and beats > 0",
			victim.Pid) == 1
	})
	if diff := cmp.Diff(before, rows()); diff != "" {
		t.Errorf("the process that was stopped has changed (-before +after):\n%s", diff)
	}
	if n := dbtest.Get[int](t, db.Pool(), `select count(*)::int from graphile_worker.backfill_workers
		where pid = $1 and dead_at is not null and stopping_at is not null`, victim.Pid); n != 1 {
		t.Errorf("%d rows say that it was declared dead and lives, want 1", n)
	}
	close(release)
	dbtest.Until(t, func() bool { return other.Health().Stats.Completed == jobs/2 })
	if s := other.Health().Stats; s.Lost > 0 {
		t.Errorf("the other worker's outcomes: %+v", s)
	}
}

func signal(t *testing.T, process *os.Process, s syscall.Signal) {
	t.Helper()
	if err := process.Signal(s); err != nil {
		t.Fatal(err)
	}
}
