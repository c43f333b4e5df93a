package backfill_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/testutil/pgtest"
)

// The jobs of a worker that is gone are released, whether it was one of ours or a Node worker;
// others keep theirs.
func TestUnlockDeadWorkers(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	for _, args := range []mailArgs{{UserID: 1}, {UserID: 2}, {UserID: 3}} {
		enqueue(t, client, mailTask, args, backfill.Queue(args.Template+"q"+string(rune('0'+args.UserID))))
	}
	lock := func(user int, job, queue string) {
		exec(t, db.Pool(), `update graphile_worker._private_jobs set attempts = 1, locked_at = now(), locked_by = $2
			where (payload->>'user_id')::int = $1`, user, job)
		exec(t, db.Pool(), `update graphile_worker._private_job_queues set locked_at = now(), locked_by = $2 where queue_name = 'q' || $1::int`, user, queue)
	}
	exec(t, db.Pool(), "insert into graphile_worker.backfill_workers (id) values ('pool-1'), ('pool-12')")
	lock(1, "pool-1.a.1", "pool-1.a")
	lock(2, "pool-12.a.1", "pool-12.a")
	lock(3, "pool-3", "pool-3")
	unlock := func(id string) int {
		jobs, err := client.UnlockWorker(t.Context(), id)
		if err != nil {
			t.Error(err)
		}
		return jobs
	}
	if n := unlock("pool-1"); n != 1 {
		t.Errorf("%d jobs of ours were unlocked", n)
	}
	if n := unlock("pool-3"); n != 1 {
		t.Errorf("%d jobs of a Node worker were unlocked", n)
	}
	if n := unlock("pool-1"); n != 0 { // it is known, and has nothing left
		t.Errorf("%d jobs of ours were unlocked again", n)
	}
	type state struct {
		Attempts int
		Locked   bool
	}
	var got []state
	for _, row := range jobRows(t, db) {
		got = append(got, state{row.Attempts, row.Locked})
	}
	if diff := cmp.Diff([]state{{0, false}, {1, true}, {1, false}}, got); diff != "" { // Node's attempts are its own affair
		t.Errorf("jobs (-want +got):\n%s", diff)
	}
	locked := get[string](t, db.Pool(), "select string_agg(queue_name, ' ') from graphile_worker._private_job_queues where locked_at is not null")
	dead := get[string](t, db.Pool(), "select string_agg(id, ' ') from graphile_worker.backfill_workers where dead_at is not null")
	if locked != "q2" || dead != "pool-1" {
		t.Errorf("locked queues %q, dead workers %q", locked, dead)
	}
	_, err := client.UnlockWorker(t.Context(), "")
	wantError(t, err, "the id is empty")
}

// An operator passes what the tables show. The queue goes with the job, the attempt is refunded,
// and workers whose ids only look alike keep theirs: a Node worker's id can be any text.
func TestUnlockWorkerByWhatTheTablesShow(t *testing.T) {
	t.Parallel()
	const ours, gone, node = "pool-0123456789abcdef01", "pool-0123456789abcdef02", "pool-0123456789abcdef03"
	for what, test := range map[string]struct {
		job, queue string // their locked_by
		pass       string
		attempts   int
	}{
		"id":                    {ours + ".1.1", ours + ".1", ours, 0},
		"job":                   {ours + ".1.1", ours + ".1", ours + ".1.1", 0},
		"keyed job":             {ours + ".1f.1k", ours + ".1f", ours + ".1f.1k", 0},
		"queue":                 {ours + ".1.1", ours + ".1", ours + ".1", 0},
		"another claim":         {ours + ".1.1", ours + ".1", ours + ".a.1", 0},
		"row gone, id":          {gone + ".1.1", gone + ".1", gone, 0},
		"row gone, job":         {gone + ".1.1", gone + ".1", gone + ".1.1", 0},
		"row gone, queue":       {gone + ".1.1", gone + ".1", gone + ".1", 0},
		"odd id, job":           {"pool-odd.1.1", "pool-odd.1", "pool-odd.1.1", 0},
		"Node":                  {node, node, node, 1},
		"Node, any text":        {"my.node", "my.node", "my.node", 1},
		"Node, like a token":    {"my.1.1", "my.1.1", "my.1.1", 1},
		"Node, like a queue's":  {"my.1", "my.1", "my.1", 1},
		"registered with a dot": {"odd.1.1.1", "odd.1.1", "odd.1.1.1", 0},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			client := newClient(t, db)
			exec(t, db.Pool(), "insert into graphile_worker.backfill_workers (id) values ($1), ('pool-odd'), ('odd.1')", ours)
			lock := func(name, job, queue string) {
				enqueue(t, client, mailTask, mailArgs{Template: name}, backfill.Queue(name), backfill.Key(name))
				exec(t, db.Pool(), `update graphile_worker._private_jobs set attempts = 1, locked_at = now(), locked_by = $2
					where key = $1`, name, job)
				exec(t, db.Pool(), `update graphile_worker._private_job_queues set locked_at = now(), locked_by = $2
					where queue_name = $1`, name, queue)
			}
			lock("it", test.job, test.queue)
			for i, other := range []string{"my", "my.1.1.1", "my.node.1.1", ours + "0.1.1", ours + ".x", "odd", "pool", "%"} {
				if other != test.pass {
					lock("other"+string(rune('a'+i)), other, other)
				}
			}
			others := len(jobRows(t, db)) - 1
			jobs, err := client.UnlockWorker(t.Context(), test.pass)
			if jobs != 1 || err != nil {
				t.Errorf("unlocked %d jobs, %v", jobs, err)
			}
			for _, row := range jobRows(t, db) {
				if mine := row.Key == "it"; row.Locked == mine || mine && row.Attempts != test.attempts {
					t.Errorf("left %+v", row)
				}
			}
			locked := get[int](t, db.Pool(), "select count(*)::int from graphile_worker._private_job_queues where locked_by is not null")
			if locked != others {
				t.Errorf("%d queues are locked, want the %d others", locked, others)
			}
		})
	}
}

func TestUnlockSaysThatNothingMatched(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	exec(t, db.Pool(), "insert into graphile_worker.backfill_workers (id) values ('pool-idle')")
	exec(t, db.Pool(), `insert into graphile_worker._private_job_queues (queue_name, locked_at, locked_by)
		values ('a', now(), 'node'), ('b', now(), 'node')`)
	for _, id := range []string{"nobody", "pool-0123456789abcdef01", "pool-0123456789abcdef01.1.1", "nod", "node.1", "%"} {
		if jobs, err := client.UnlockWorker(t.Context(), id); jobs != 0 || !errors.Is(err, backfill.ErrNotLocked) {
			t.Errorf("unlock worker %s: %d, %v", id, jobs, err)
		}
		if jobs, err := client.ForceUnlock(t.Context(), id); len(jobs) != 0 || !errors.Is(err, backfill.ErrNotLocked) {
			t.Errorf("force unlock %s: %v, %v", id, jobs, err)
		}
	}
	if jobs, err := client.UnlockWorker(t.Context(), "pool-idle"); jobs != 0 || err != nil {
		t.Errorf("a worker that has locked nothing: %d, %v", jobs, err)
	}
	if jobs, err := client.ForceUnlock(t.Context(), "nobody", "node"); len(jobs) != 0 || err != nil { // of queues only
		t.Errorf("force unlock of queues: %v, %v", jobs, err)
	}
	if jobs, err := client.ForceUnlock(t.Context()); jobs != nil || err != nil {
		t.Errorf("force unlock of nothing: %v, %v", jobs, err)
	}
}

// A worker that lives all the same loses what it runs, and goes on under a new id.
func TestUnlockFencesALivingWorker(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	inside, causes := make(chan int, 2), make(chan error, 1)
	var runs atomic.Int64
	task, registry := taskOf("send_email", func(ctx context.Context, _ mailArgs) error {
		inside <- backfill.JobInfo(ctx).Attempt
		if runs.Add(1) == 1 {
			<-ctx.Done()
			causes <- context.Cause(ctx)
			return errBoom // is not recorded
		}
		return nil
	})
	w := start(t, client, registry)
	old := w.Health().WorkerID
	job := enqueue(t, client, task, mailArgs{}, backfill.Queue("q"))
	receive(t, "the first run", inside)
	unlocked, err := client.UnlockWorker(t.Context(), old)
	if err != nil {
		t.Error(err)
	}
	if e := w.await("fenced", 1, is(backfill.EventFenced)); e.WorkerID != old {
		t.Errorf("fenced: %+v", e)
	}
	if err := receive(t, "the cause", causes); !errors.Is(err, backfill.ErrLeaseLost) {
		t.Errorf("cause %v", err)
	}
	// Either UnlockWorker has released the job, or the worker, which had heard of its death before.
	lost := of(backfill.EventLeaseLost, job.ID)
	w.await("the lease to end", 1, func(e backfill.Event) bool {
		return unlocked == 1 && lost(e) || unlocked == 0 && e.Kind == backfill.EventReturned && e.Count == 1
	})
	if attempt := receive(t, "the second run", inside); attempt != 1 {
		t.Errorf("the second run is attempt %d", attempt)
	}
	w.awaitRecorded(1)
	if id := w.Health().WorkerID; id == old {
		t.Error("the worker kept its id")
	}
	wantJobs(t, db, 0)
	if n := get[int](t, db.Pool(), "select count(*) from graphile_worker.backfill_workers where dead_at is null"); n != 1 {
		t.Errorf("%d workers live", n)
	}
}

// kill ends all connections of a database but this one. It returns how many they were.
func kill(t *testing.T, db querier, which string) int {
	t.Helper()
	return get[int](t, db, `select count(pg_terminate_backend(pid)) from pg_stat_activity
		where datname = current_database() and pid <> pg_backend_pid() and `+which)
}

// Connections that are lost come back, and jobs run.
func TestLostConnections(t *testing.T) {
	t.Parallel()
	for name, which := range map[string]string{"listener": "query like '%listen %'", "all": "true"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			client := newClient(t, db)
			inside, release := make(chan bool, 10), make(chan bool)
			_, registry := taskOf("send_email", func(context.Context, mailArgs) error {
				inside <- true
				<-release
				return nil
			})
			peer := connect(t, db)
			add := func() { get[int64](t, peer, "select id from graphile_worker.add_job('send_email', queue_name := 'q')") }
			w := start(t, client, registry)
			add()
			receive(t, "a job", inside)
			if n := kill(t, peer, which); n == 0 {
				t.Fatal("nothing was ended")
			}
			if e := w.await("disrupted", 1, is(backfill.EventDisrupted)); e.Err == nil {
				t.Errorf("disrupted: %+v", e)
			}
			w.await("listening", 2, is(backfill.EventListening))
			close(release) // is recorded through a new connection
			w.awaitRecorded(1)
			for range 3 {
				add()
			}
			w.awaitRecorded(4)
			until(t, "it to listen", func() bool { return w.Health().Listening })
		})
	}
}

// A client whose connections were lost enqueues and notifies again.
func TestClientsLostConnections(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	task, registry := taskOf("send_email", ignore)
	w := start(t, client, registry)
	peer := connect(t, db)
	enqueue(t, client, task, mailArgs{})
	w.awaitRecorded(1)
	kill(t, peer, "true")
	w.await("listening", 2, is(backfill.EventListening))
	db.Pool().Reset() // the application's own affair
	enqueue(t, client, task, mailArgs{})
	w.awaitRecorded(2)
	withoutPoll(t, w, func() *backfill.Job { return enqueue(t, client, task, mailArgs{}) })
}

// A migration of this schema that breaks us ends Run; one of another schema does not.
func TestBreakingMigrationEndsRun(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	task, registry := taskOf("send_email", ignore)
	w := start(t, client, registry)
	notify := func() {
		get[any](t, db.Pool(), `select pg_notify('worker:migrate', '{"migrationNumber":21,"breaking":true}')::text`)
	}
	notify()
	exec(t, db.Pool(), "insert into graphile_worker.migrations (id, breaking) values (21, false)")
	notify()
	enqueue(t, client, task, mailArgs{})
	w.awaitRecorded(1)

	exec(t, db.Pool(), "insert into graphile_worker.migrations (id, breaking) values (22, true)")
	notify()
	err := w.wait()
	if !errors.Is(err, backfill.ErrBreakingMigration) {
		t.Errorf("Run returned %v", err)
	}
	wantError(t, err, "found revision 22, with breaking revision 22")
	w.err = nil
	if h := w.Health(); h.State != backfill.StateStopped {
		t.Errorf("%+v", h)
	}
	if n := get[int](t, db.Pool(), "select count(*) from graphile_worker.backfill_workers where dead_at is null"); n != 0 {
		t.Errorf("%d workers live", n)
	}
}
