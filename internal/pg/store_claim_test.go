package pg_test

import (
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/testutil/pgtest"
)

// What a claim returns, and what it writes (contract sections 5.2 and 5.7).
func TestClaim(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	id := r.add(`'a', '{"n": 1}', queue_name := 'q', run_at := '2020-01-02 03:04:05.678901Z', max_attempts := 7, job_key := 'k',
		priority := -3, flags := array['y', 'x']`)
	before := dbtest.Get[time.Time](t, r.pool, "select updated_at from graphile_worker._private_jobs")
	job := r.claimOne()
	want := &wire.Job{
		Lease: wire.Lease{ID: id, QueueID: job.QueueID, Token: r.id + ".1.1k"},
		Task:  "a", Payload: []byte(`{"n": 1}`), Queue: "q", Key: "k", Priority: -3, Attempt: 1, MaxAttempts: 7,
		RunAt: time.Date(2020, 1, 2, 3, 4, 5, 678901000, time.UTC), CreatedAt: before, Flags: []string{"x", "y"},
	}
	if diff := cmp.Diff(want, job); diff != "" {
		t.Errorf("claimed job (-want +got):\n%s", diff)
	}
	if got := dbtest.Get[time.Time](t, r.pool, "select updated_at from graphile_worker._private_jobs"); !got.Equal(before) {
		t.Error("claiming changed updated_at")
	}
	if got := dbtest.Get[string](t, r.pool, "select locked_by from graphile_worker._private_job_queues"); got != job.Claim() {
		t.Errorf("the queue is locked by %q, want %q", got, job.Claim())
	}
	r.wantConsistent()
}

// Jobs that are not for this claim: not due, no attempts left, locked, of other tasks, behind their
// queue's head.
func TestClaimPassesOver(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.add("'a', run_at := now() + interval '1 hour'")
	r.add("'foreign'")
	r.add("'foreign', queue_name := 'foreign first'")
	behind := r.add("'a', queue_name := 'foreign first'")
	dbtest.Run(t, r.pool, "select graphile_worker.permanently_fail_jobs(array[$1::bigint])", r.add("'a'"))
	head := r.add("'a', queue_name := 'q', priority := -1")
	r.add("'a', queue_name := 'q'")
	wantIDs(t, "claimed", idsOf(r.claim(10)), behind, head)
	r.claimNone()
}

// R14: each claim of a queue takes the least (priority, run_at, id); a job that failed lets the
// others pass.
func TestOrderOfAQueue(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	third := r.add("'a', queue_name := 'q', run_at := '2020-01-02'")
	second := r.add("'a', queue_name := 'q', run_at := '2020-01-01'")
	first := r.add("'b', queue_name := 'q', run_at := '2021-01-01', priority := -1")
	tied := dbtest.Get[[]int64](t, r.pool, `select array_agg(id order by id) from graphile_worker.add_jobs(array(
		select row('a', '{}', 'q', '2022-01-01', 25, null, 0, null)::graphile_worker.job_spec from generate_series(1, 20)))`)
	want := append([]int64{first, second, third}, tied...)
	var got []int64
	for range want {
		job := r.claimOne()
		got = append(got, job.ID)
		r.claimNone() // one at a time
		endings["fail"](r, job)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
}

// The order of a batch is (priority, run_at, id), free and queued jobs alike.
func TestOrderOfABatch(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	dbtest.Run(t, r.pool, `select graphile_worker.add_job('a', queue_name := case when i % 3 = 0 then 'q' || i end,
		run_at := now() - interval '1 day' - (i * 7919 % 100) * interval '1 minute', priority := i % 4) from generate_series(1, 100) as i`)
	jobs := r.try(100, 100).Jobs
	if len(jobs) != 100 || !slices.IsSortedFunc(jobs, wire.CompareJobs) {
		t.Errorf("%d jobs, sorted: %v", len(jobs), slices.IsSortedFunc(jobs, wire.CompareJobs))
	}
	r.wantConsistent()
}

// R5: a worker whose row is dead, or gone, claims nothing, whichever text it claims with.
func TestDeadWorkersClaimNothing(t *testing.T) {
	t.Parallel()
	kills := map[string]string{
		"dead": "update graphile_worker.backfill_workers set dead_at = now()",
		"gone": "delete from graphile_worker.backfill_workers",
	}
	ahead := map[string]string{ // what the claim before meets
		"free":  "select 1",
		"front": "select graphile_worker.add_job('foreign', queue_name := 'q')",
		"deep":  "select graphile_worker.add_job('foreign', queue_name := 'q') from generate_series(1, 400)",
	}
	for text, clog := range ahead {
		for name, kill := range kills {
			t.Run(text+", "+name, func(t *testing.T) {
				t.Parallel()
				r := newRig(t)
				dbtest.Run(t, r.pool, clog)
				if !r.try(1, 1).Alive {
					t.Error("a living worker is told that it is dead")
				}
				dbtest.Until(t, func() bool { return r.store.NextClaim() == text }) // a full claim that took long is not repeated at once
				r.add("'a'")
				if text != "free" {
					r.add("'a', queue_name := 'mine'")
				}
				dbtest.Run(t, r.pool, kill)
				if claimed := r.try(5, 5); claimed.Alive || len(claimed.Jobs) != 0 || claimed.More {
					t.Errorf("a dead worker got %+v", claimed)
				}
				if n := dbtest.Get[int](t, r.pool, "select count(*)::int from graphile_worker._private_jobs where locked_by is not null"); n != 0 {
					t.Errorf("a dead worker has locked %d jobs", n)
				}
				r.wantConsistent()
				r.id = wire.NewWorkerID()
				r.register()
				if len(r.claim(2)) == 0 {
					t.Error("a living worker got nothing")
				}
			})
		}
	}
}

// R23: at most Serial jobs come from queues, and the claim says that it held some back.
func TestSerialLimit(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	dbtest.Run(t, r.pool, "select graphile_worker.add_job('a', queue_name := 'q' || i) from generate_series(1, 5) as i")
	free := r.add("'a'")
	claimed := r.try(20, 0)
	wantIDs(t, "without room for queues", idsOf(claimed.Jobs), free)
	if !claimed.MoreSerial {
		t.Error("the claim does not say that it held queues back")
	}
	claimed = r.try(20, 2)
	if len(claimed.Jobs) != 2 || !claimed.MoreSerial {
		t.Errorf("with room for 2: %d jobs, held back: %v", len(claimed.Jobs), claimed.MoreSerial)
	}
	claimed = r.try(20, 20)
	if len(claimed.Jobs) != 3 || claimed.MoreSerial {
		t.Errorf("with room for all: %d jobs, held back: %v", len(claimed.Jobs), claimed.MoreSerial)
	}
	r.add("'a', queue_name := 'q1'") // behind a running job
	if claimed = r.try(20, 20); len(claimed.Jobs) != 0 || claimed.MoreSerial {
		t.Errorf("with all queues running: %d jobs, held back: %v", len(claimed.Jobs), claimed.MoreSerial)
	}
}

// A claim that finds open queues whose rows somebody locks for a moment, as a Node worker's fetch
// does, says so.
func TestContended(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.add("'a', queue_name := 'q'")
	tx, err := r.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dbtest.Run(t, tx, "select from graphile_worker._private_job_queues for update")
	if claimed := r.try(10, 10); !claimed.Contended || len(claimed.Jobs) != 0 {
		t.Errorf("while the queue's row is locked: %+v", claimed)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.claimOne()
	r.add("'a', queue_name := 'q'")
	if claimed := r.try(10, 10); claimed.Contended {
		t.Error("a queue whose job runs is not contended")
	}
}

// A claim whose jobs a trigger keeps as they are must not be repeated at once.
func TestKeptByTrigger(t *testing.T) {
	t.Parallel()
	for _, jobs := range []int{1, 10} { // a batch that is not full, and a full one
		t.Run(strconv.Itoa(jobs), func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			for range jobs {
				r.add("'a'")
			}
			dbtest.Run(t, r.pool, `create function keep() returns trigger language plpgsql as 'begin return null; end';
				create trigger keep before update on graphile_worker._private_jobs for each row execute function keep()`)
			if claimed := r.try(10, 10); len(claimed.Jobs) != 0 || claimed.More || !claimed.Contended {
				t.Errorf("while the trigger keeps them: %+v", claimed)
			}
			dbtest.Run(t, r.pool, "drop trigger keep on graphile_worker._private_jobs")
			for got := 0; got < jobs; {
				got += len(r.try(10, 10).Jobs)
			}
		})
	}
}

// R14, C7: while an application holds the row of a queue's head, the queue waits; its second job
// must not pass.
func TestLockedHeadHoldsItsQueue(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	head := r.add("'a', queue_name := 'q', job_key := 'k'")
	r.add("'a', queue_name := 'q'")
	tx, err := r.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dbtest.Run(t, tx, "select from graphile_worker._private_jobs where id = $1 for update", head)
	r.claimNone()
	r.wantConsistent()
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantIDs(t, "claimed", idsOf(r.claim(1)), head)
}

// The claim tells when the next job will be due.
func TestNextDue(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	if due := r.try(10, 10).NextDue; due != 0 {
		t.Errorf("on an empty table: %v", due)
	}
	r.add("'a', run_at := now() + interval '10 minutes'")
	r.add("'b', run_at := now() + interval '5 minutes', priority := 7, queue_name := 'q'")
	if due := r.try(10, 10).NextDue; due < 4*time.Minute || due > 5*time.Minute {
		t.Errorf("due in %v, want about 5 minutes", due)
	}
}

// R26: a database whose transactions are serializable by default fails no claim and no finish.
func TestSerializableByDefault(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	dbtest.Run(t, db.Pool(), "select graphile_worker.add_job('a', queue_name := 'q' || i % 50) from generate_series(1, 400) as i")
	dbtest.Run(t, db.Pool(), fmt.Sprintf("alter database %s set default_transaction_isolation = serializable",
		dbtest.Get[string](t, db.Pool(), "select quote_ident(current_database())")))
	workTogether(t, db, 3, 400)
}

// Promise 3, and R2: several workers on the same queues; no job twice, never two of a queue, each
// queue in order.
func TestSeveralWorkers(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	dbtest.Run(t, db.Pool(), `select graphile_worker.add_job('a', queue_name := case when i % 3 > 0 then 'q' || i % 40 end, priority := i % 2)
		from generate_series(1, 1500) as i`)
	workTogether(t, db, 4, 1500)
}

// workTogether lets workers claim and complete until all jobs are done, and checks what each of
// them saw.
func workTogether(t *testing.T, db *pgtest.Database, workers, jobs int) {
	t.Helper()
	var mu sync.Mutex
	done := map[int64]bool{}
	inFlight := map[int32]bool{}
	last := map[int32]*wire.Job{}
	begin := func(batch []*wire.Job) {
		mu.Lock()
		defer mu.Unlock()
		for _, job := range batch {
			if done[job.ID] {
				t.Errorf("job %d was claimed twice", job.ID)
			}
			done[job.ID] = true
			if job.QueueID == 0 {
				continue
			}
			if inFlight[job.QueueID] {
				t.Errorf("two jobs of queue %d are in flight", job.QueueID)
			}
			inFlight[job.QueueID] = true
			if previous := last[job.QueueID]; previous != nil && wire.CompareJobs(previous, job) > 0 {
				t.Errorf("queue %d: job %d ran before job %d", job.QueueID, previous.ID, job.ID)
			}
			last[job.QueueID] = job
		}
	}
	end := func(batch []*wire.Job) int {
		mu.Lock()
		defer mu.Unlock()
		for _, job := range batch {
			delete(inFlight, job.QueueID)
		}
		return len(done)
	}
	var wait sync.WaitGroup
	for range workers {
		r := rigOn(t, db.Pool(), "graphile_worker")
		wait.Go(func() {
			for ended := 0; ended < jobs && !t.Failed(); {
				batch := r.try(20, 20).Jobs
				begin(batch)
				ended = end(batch) // before the statement: another worker may claim right after it
				for len(batch) > 0 {
					// Busy: another claim looked at the row before it knew that it is taken, and holds it until it
					// ends.
					busy := endings["complete"](r, batch...).Busy
					batch = slices.DeleteFunc(batch, func(job *wire.Job) bool { return !slices.Contains(busy, job.ID) })
				}
			}
		})
	}
	wait.Wait()
	if n := dbtest.Get[int](t, db.Pool(), "select count(*)::int from graphile_worker._private_jobs"); n != 0 || len(done) != jobs {
		t.Errorf("%d of %d jobs ran, %d are left", len(done), jobs, n)
	}
}

// The whole life of a job in a schema whose name needs quoting.
func TestNastySchemaName(t *testing.T) {
	t.Parallel()
	const schema = `Odd "name" $$ 'of' graphile_worker ünd`
	db := pgtest.New(t, pgtest.WithSchema(schema))
	r := rigOn(t, db.Pool(), schema)
	quoted := `"Odd ""name"" $$ 'of' graphile_worker ünd"`
	dbtest.Run(t, db.Pool(), "select "+quoted+".add_job('a', queue_name := 'q') from generate_series(1, 2)")
	for ending, end := range endings {
		job := r.claimOne()
		if settled := end(r, job); len(settled.Lost) != 0 {
			t.Errorf("%s: %+v", ending, settled)
		}
		dbtest.Run(t, db.Pool(), "update "+quoted+"._private_jobs set run_at = now()")
		dbtest.Run(t, db.Pool(), "select "+quoted+".add_job('a', queue_name := 'q')")
	}
	if err := r.store.Retire(t.Context(), r.id, false); err != nil {
		t.Error(err)
	}
}
