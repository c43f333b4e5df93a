package infra_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"os/exec"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/testutil/pgtest"
)

// deadProcess returns the number of a process that has ended.
func deadProcess(t *testing.T) int {
	t.Helper()
	command := exec.CommandContext(t.Context(), "sleep", "0")
	if err := command.Run(); err != nil {
		t.Fatal(err)
	}
	return command.Process.Pid
}

// leave makes the row of a worker of this machine whose process is gone, and gives it the locks of
// a job that is waiting.
func leave(t *testing.T, db dbtest.Execer, id int64) (workerID string) {
	t.Helper()
	workerID = wire.NewWorkerID()
	dbtest.Run(t, db, `with dead as (
		insert into graphile_worker.backfill_workers (id, host, pid, beats, locked, machine, process_start)
		select $1, host, $2, 5, true, machine, process_start from graphile_worker.backfill_workers where machine <> '' limit 1
	), queue as (
		update graphile_worker._private_job_queues as q set locked_at = now(), locked_by = $1 || '.1'
		  from graphile_worker._private_jobs as j where j.id = $3 and q.id = j.job_queue_id
	)
	update graphile_worker._private_jobs set locked_at = now(), attempts = attempts + 1,
	       locked_by = $1 || '.1.1' || case when key is null then '' else 'k' end where id = $3`, workerID, deadProcess(t), id)
	return workerID
}

// A rescue whose session is ended after any of its statements, before the answer is there, is
// finished at the next look (X07): it is a condition and not an event. The handler sees the job as
// it was enqueued (X22).
func TestRescueIsInterrupted(t *testing.T) {
	t.Parallel()
	statements := []string{"SessionUnlocked", "DeclareDead", "LockRescue", "RescueFind", "HeldJobs", "RecordCrashes", "ReleaseHeld", "RescueQueues", "SettleWorkers"}
	sideBySide(t, statements, func(name string) string { return name }, func(t *testing.T, statement string) {
		t.Helper()
		db := pgtest.New(t)
		proxy := dbtest.NewProxy(t, db.URL)
		var log logbook
		defer log.show(t)
		seen := make(chan backfill.Job, 10)
		task := &backfill.Task[job]{Name: "note"}
		registry := backfill.NewRegistry(backfill.Handle(task, func(ctx context.Context, _ job) error {
			seen <- backfill.JobInfo(ctx)
			return nil
		}))
		w := start(t, open(t, proxy.URL, &log), registry)
		client := open(t, db.URL, &logbook{})
		enqueued, err := client.Enqueue(t.Context(), backfill.Request{
			Task: "note", Args: json.RawMessage(`{"fill": "ü",  "n" : 7}`), Queue: "q", Key: "k", Priority: -3, MaxAttempts: 7,
			Flags: []string{"f"}, RunAt: time.Now().Add(time.Hour),
		})
		if err != nil {
			t.Fatal(err)
		}
		admin := dbtest.Connect(t, db.URL)
		proxy.ArmAfter("-- name: "+statement+" ", dbtest.Kill)
		tx, err := admin.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		dead := leave(t, tx, enqueued[0].ID)
		dbtest.Run(t, tx, "update graphile_worker._private_jobs set run_at = now() - interval '1 minute'")
		if err := tx.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		got := receive(t, "the job", seen)
		if proxy.Met() == 0 {
			t.Error("the statement was not interrupted")
		}
		want := *enqueued[0]
		want.Attempt, want.RunAt = 1, got.RunAt
		if diff := cmp.Diff(want, got, cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == "._" }, cmp.Ignore())); diff != "" {
			t.Errorf("the job (-enqueued +as the handler has it):\n%s", diff)
		}
		within(t, 15*time.Second, "the row to say that nothing is left", func() bool {
			return dbtest.Get[bool](t, admin, "select rescued_at is not null from graphile_worker.backfill_workers where id = $1", dead)
		})
		within(t, 15*time.Second, "the job's end", func() bool {
			return dbtest.Get[int](t, admin, `select (select count(*) from graphile_worker._private_jobs)
				+ (select count(*) from graphile_worker._private_job_queues where locked_by is not null)`) == 0
		})
		w.lives()
	})
}

// hand is something that is done to the row of the only job, which runs.
type hand struct {
	what, sql string
	lost      bool // the worker's lease is gone then
}

// Whatever is done by hand to the row of a job while its handler runs, the worker goes on and the
// slot is free (X19). A lease that was lost is said.
func TestHandsOnARunningJob(t *testing.T) {
	t.Parallel()
	const jobs = "graphile_worker._private_jobs"
	hands := []hand{
		{"delete", "delete from " + jobs, true},
		{"truncate", "truncate " + jobs, true},
		{"unlock by hand", "update " + jobs + " set locked_at = null, locked_by = null, run_at = now() + interval '1 hour'", true},
		{"lock by another", "update " + jobs + " set locked_by = 'node'", true},
		{"force unlock", "select graphile_worker.force_unlock_workers(array(select locked_by from " + jobs + "))", true},
		{"reschedule", "select graphile_worker.reschedule_jobs(array(select id from " + jobs + "), run_at := now() + interval '1 hour')", false},
		{"complete", "select graphile_worker.complete_jobs(array(select id from " + jobs + "))", false},
		{"fail", "select graphile_worker.permanently_fail_jobs(array(select id from " + jobs + "))", false},
		{"remove", "select graphile_worker.remove_job('k')", false},
		{"replace", "select graphile_worker.add_job('note', '{\"n\":3}', job_key := 'k')", false},
		{"edit", "update " + jobs + " set payload = '[]', priority = 5, attempts = 20, max_attempts = 21", false},
		{"delete the queue", "update " + jobs + " set job_queue_id = null; delete from graphile_worker._private_job_queues", false},
	}
	sideBySide(t, hands, func(h hand) string { return h.what }, func(t *testing.T, hand hand) {
		t.Helper()
		db := pgtest.New(t)
		var log logbook
		defer log.show(t)
		inside, release := make(chan int, 10), make(chan struct{})
		task := &backfill.Task[job]{Name: "note"}
		registry := backfill.NewRegistry(backfill.Handle(task, func(_ context.Context, args job) error {
			inside <- args.N
			if args.N == 1 {
				<-release
			}
			return nil
		}))
		client := open(t, db.URL, &log)
		w := start(t, client, registry, backfill.WithConcurrency(1))
		enqueue := func(n int, opts ...backfill.EnqueueOption) {
			t.Helper()
			if _, err := backfill.Enqueue(t.Context(), client, task, job{N: n}, opts...); err != nil {
				t.Fatal(err)
			}
		}
		enqueue(1, backfill.Queue("q"), backfill.Key("k"))
		receive(t, "the job", inside)
		admin := dbtest.Connect(t, db.URL)
		if _, err := admin.PgConn().Exec(t.Context(), hand.sql).ReadAll(); err != nil {
			t.Fatal(err)
		}
		close(release)
		enqueue(2)
		for receive(t, "the next job in the only slot", inside) != 2 {
		}
		enqueue(4, backfill.Queue("q"))
		for receive(t, "the next job of the queue", inside) != 4 {
		}
		within(t, 10*time.Second, "the worker to hold nothing", func() bool { return w.Health().Unrecorded == 0 })
		w.lives()
		if hand.lost {
			within(t, 10*time.Second, "a line about the lost lease", func() bool { return len(log.with("leases lost", "note 1")) == 1 })
		}
		lines := log.from(slog.LevelWarn)
		if want := map[bool]int{true: 1}[hand.lost]; len(lines) != want {
			t.Errorf("%d lines, want %d: %q", len(lines), want, lines)
		}
	})
}

// 50 leases that are lost at once are 50 outcomes and one line (X16). The worker's other jobs go
// on, and it leaves no goroutine behind.
func TestManyLeasesAreLostAtOnce(t *testing.T) { //nolint:paralleltest // it counts goroutines
	db := pgtest.New(t)
	var log logbook
	defer log.show(t)
	client := open(t, db.URL, &log)
	admin := dbtest.Connect(t, db.URL)
	before := runtime.NumGoroutine()
	inside, release := make(chan int, 200), make(chan struct{})
	task := &backfill.Task[job]{Name: "note"}
	registry := backfill.NewRegistry(backfill.Handle(task, func(_ context.Context, args job) error {
		inside <- args.N
		if args.N < 60 {
			<-release
		}
		return nil
	}))
	var mu sync.Mutex
	events := map[backfill.EventKind]int{}
	w := start(t, client, registry, backfill.WithConcurrency(61), backfill.WithObserver(func(e backfill.Event) {
		mu.Lock()
		defer mu.Unlock()
		if e.Kind == backfill.EventLeaseLost {
			e.Count = 1
		}
		events[e.Kind] += e.Count
	}))
	var args []job
	for n := range 60 {
		args = append(args, job{N: n})
	}
	if _, err := backfill.EnqueueMany(t.Context(), client, task, args); err != nil {
		t.Fatal(err)
	}
	for range 60 {
		receive(t, "a job", inside)
	}
	dbtest.Run(t, admin, "delete from graphile_worker._private_jobs where (payload->>'n')::int < 50")
	close(release)
	if _, err := backfill.Enqueue(t.Context(), client, task, job{N: 99}); err != nil {
		t.Fatal(err)
	}
	receive(t, "another job", inside)
	count := func(kind backfill.EventKind) int {
		mu.Lock()
		defer mu.Unlock()
		return events[kind]
	}
	within(t, hang, "the outcomes", func() bool { return count(backfill.EventLeaseLost) == 50 && count(backfill.EventCompleted) == 11 })
	within(t, hang, "the line", func() bool { return len(log.with("leases lost", "count=50")) == 1 })
	w.stop()
	if lines := log.from(slog.LevelWarn); len(lines) != 1 {
		t.Errorf("%d lines: %q", len(lines), lines)
	}
	within(t, 10*time.Second, "its goroutines to end", func() bool { return runtime.NumGoroutine() <= before+2 }) // the client's notifier may have begun
}

// fleet is workers with jobs that take long.
type fleet struct {
	*testing.T

	db      *pgtest.Database
	admin   *pgx.Conn
	logs    []*logbook
	workers []*running
	release chan struct{}

	mu   sync.Mutex
	runs map[int]int
}

// newFleet starts workers of 4 slots, all of which are taken. The first connects by another URL, if
// there is one.
func newFleet(t *testing.T, db *pgtest.Database, workers int, firstURL string) *fleet {
	t.Helper()
	f := &fleet{T: t, db: db, admin: dbtest.Connect(t, db.URL), release: make(chan struct{}), runs: map[int]int{}}
	task := &backfill.Task[job]{Name: "note"}
	registry := backfill.NewRegistry(backfill.Handle(task, func(_ context.Context, args job) error {
		f.mu.Lock()
		f.runs[args.N]++
		f.mu.Unlock()
		<-f.release
		return nil
	}))
	free := sync.OnceFunc(func() { close(f.release) })
	t.Cleanup(free) // before the workers stop
	for i := range workers {
		log, url := &logbook{}, db.URL
		if i == 0 && firstURL != "" {
			url = firstURL
		}
		f.logs = append(f.logs, log)
		f.workers = append(f.workers, start(t, open(t, url, log), registry, backfill.WithConcurrency(4)))
	}
	t.Cleanup(func() {
		for _, log := range f.logs {
			log.show(t)
		}
	})
	t.Cleanup(free)
	client := open(t, db.URL, &logbook{})
	for n := range 4 * workers {
		if _, err := backfill.Enqueue(t.Context(), client, task, job{N: n}); err != nil {
			t.Fatal(err)
		}
	}
	within(t, hang, "all slots to be taken", func() bool { return f.started() == 4*workers })
	// Everybody has seen everybody's heart beat.
	within(t, hang, "heartbeats", func() bool {
		return dbtest.Get[int](t, f.admin, "select count(*)::int from graphile_worker.backfill_workers where beats > 1 and locked") == workers
	})
	return f
}

func (f *fleet) started() (jobs int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.runs)
}

// settles checks, once nothing is in the way any more, that all go on under their ids, that no job
// ran twice, and that nobody was declared dead.
func (f *fleet) settles(ids []string) {
	f.Helper()
	for _, w := range f.workers {
		within(f.T, 20*time.Second, "all to be ready", func() bool { return w.Health().Ready() == nil && w.Health().Listening })
	}
	if diff := cmp.Diff(ids, f.ids()); diff != "" {
		f.Errorf("ids of the workers (-before +after):\n%s", diff)
	}
	close(f.release)
	f.release = make(chan struct{}) // for the clean-up
	within(f.T, hang, "all outcomes", func() bool {
		return dbtest.Get[int](f.T, f.admin, "select count(*)::int from graphile_worker._private_jobs") == 0
	})
	f.mu.Lock()
	defer f.mu.Unlock()
	for n, runs := range f.runs {
		if runs != 1 {
			f.Errorf("job %d ran %d times", n, runs)
		}
	}
	for i, log := range f.logs {
		if lines := slices.Concat(log.with("worker is dead"), log.with("released jobs"), log.with("declared dead")); len(lines) > 0 {
			f.Errorf("worker %d: %q", i, lines)
		}
	}
}

func (f *fleet) ids() (ids []string) {
	for _, w := range f.workers {
		ids = append(ids, w.Health().WorkerID)
	}
	return ids
}

// What looks like the death of a whole fleet is none.
func TestFleetsThatLive(t *testing.T) {
	t.Parallel()
	long(t)
	sideBySide(t, []string{"all sessions are ended", "the table of workers is locked"}, func(what string) string { return what },
		func(t *testing.T, what string) {
			t.Helper()
			if what == "all sessions are ended" {
				sessionsOfAFleetEnd(t)
			} else {
				heartbeatsOfAFleetAreHeldUp(t)
			}
		})
}

// All sessions are ended, and with them all session locks, while 20 jobs run. One worker comes back
// after 20 seconds only: nobody takes its free lock for a death, because nobody has seen its heart
// beat since (X31).
func sessionsOfAFleetEnd(t *testing.T) {
	t.Helper()
	db := pgtest.New(t)
	balancer, through := dbtest.NewBalancer(t, db.URL)
	f := newFleet(t, db, 5, through)
	ids := f.ids()
	balancer.Swallow(true)
	balancer.Cut()
	for range 20 {
		dbtest.Run(t, f.admin, "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()")
		time.Sleep(100 * time.Millisecond)
	}
	time.Sleep(18 * time.Second) // a worker that was seen, and whose lock is free, has 15 s
	balancer.Swallow(false)
	f.settles(ids)
	for i, log := range f.logs {
		if n := len(log.from(slog.LevelWarn)); n > 25 {
			t.Errorf("worker %d logged %d lines", i, n)
		}
	}
}

// No heartbeat is written for longer than a death takes, because the table is locked: afterwards
// all work on without a restart, nobody has lost anything, and each says so once (X18).
func heartbeatsOfAFleetAreHeldUp(t *testing.T) {
	t.Helper()
	f := newFleet(t, pgtest.New(t), 3, "")
	ids := f.ids()
	tx, err := f.admin.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dbtest.Run(t, tx, "lock table graphile_worker.backfill_workers in exclusive mode")
	time.Sleep(32 * time.Second)
	for i, w := range f.workers {
		if !w.Health().Silent {
			t.Errorf("worker %d is not silent", i)
		}
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.settles(ids)
	for i, log := range f.logs {
		for _, text := range []string{"heartbeats are not acknowledged", "heartbeats are acknowledged again", "heartbeats succeed again"} {
			if n := len(log.with(text)); n != 1 {
				t.Errorf("worker %d: %d lines say %q", i, n, text)
			}
		}
	}
}
