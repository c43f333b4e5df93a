package pg_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/schema"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
	"github.com/backfillhq/go/testutil/pgtest"
)

// C7: rows that change between the claim's snapshot and its locks. The claim is made to stop in
// between, at an advisory lock in the part that runs first; meanwhile the rows change.
func TestRowsChangeBetweenSnapshotAndLock(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	later := r.add("'a', job_key := 'later'")
	touched := r.add("'a', job_key := 'touched'")
	r.add("'a', job_key := 'moved', queue_name := 'from'")
	head := r.add("'a', job_key := 'head', queue_name := 'steady'")
	r.add("'a', job_key := 'taken', queue_name := 'taken'")
	r.add("'a', job_key := 'late head', queue_name := 'late'")
	r.add("'a', job_key := 'foreign head', queue_name := 'foreign'")
	r.add("'a', job_key := 'locked head', queue_name := 'lone'")
	r.add("'a', job_key := 'foreign'")
	r.add("'a', job_key := 'queued'")
	gone := r.add("'a', job_key := 'gone'")
	r.add("'a', job_key := 'running', queue_name := 'to'")
	const takeByPeer = "update graphile_worker.%s set locked_at = now(), locked_by = 'pool-peer' where %s"
	dbtest.Run(t, r.pool, fmt.Sprintf(takeByPeer, "_private_jobs", "key = 'running'"))
	dbtest.Run(t, r.pool, fmt.Sprintf(takeByPeer, "_private_job_queues", "queue_name = 'to'"))

	r.store.RewriteClaims(func(text string) string {
		return strings.Replace(text, "where w.id = $1::text and w.dead_at is null",
			"where w.id = $1::text and w.dead_at is null and pg_advisory_xact_lock_shared(1)::text = ''", 1)
	})
	gate, err := r.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dbtest.Run(t, gate, "select pg_advisory_xact_lock(1)")
	claimed := make(chan worker.Claimed)
	go func() {
		defer close(claimed)
		answer, err := r.store.Claim(t.Context(), worker.ClaimRequest{WorkerID: r.id, Number: 1, Batch: 100, Serial: 100})
		if err != nil {
			t.Error(err)
		}
		claimed <- answer
	}()
	dbtest.Until(t, func() bool { return dbtest.SomeoneWaits(t, r.pool, "advisory") })
	dbtest.Run(t, r.pool, "select graphile_worker.reschedule_jobs(array[$1::bigint], run_at := now() + interval '1 day')", later)
	dbtest.Run(t, r.pool, "update graphile_worker._private_jobs set payload = '{\"new\": true}' where id = any($1)", []int64{touched, head})
	// All that is replaced stays due at the time of the claim: only what is different keeps it out.
	for _, changed := range []string{
		"'a', job_key := 'moved', queue_name := 'to'", "'a', job_key := 'queued', queue_name := 'to'",
		"'foreign', job_key := 'foreign'", "'foreign', job_key := 'foreign head', queue_name := 'foreign'",
	} {
		dbtest.Run(t, r.pool, "select graphile_worker.add_job("+changed+", run_at := now() - interval '1 hour')")
	}
	dbtest.Run(t, r.pool, `select graphile_worker.reschedule_jobs(array_agg(id), run_at := now() + interval '1 day')
		from graphile_worker._private_jobs where key = 'late head'`)
	dbtest.Run(t, r.pool, fmt.Sprintf(takeByPeer, "_private_jobs", "key = 'locked head'"))
	dbtest.Run(t, r.pool, fmt.Sprintf(takeByPeer, "_private_jobs", "key = 'taken'"))
	dbtest.Run(t, r.pool, fmt.Sprintf(takeByPeer, "_private_job_queues", "queue_name = 'taken'"))
	dbtest.Run(t, r.pool, "delete from graphile_worker._private_jobs where id = $1", gone)
	if err := gate.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	answer := <-claimed

	for _, job := range answer.Jobs {
		if (job.ID == touched || job.ID == head) && string(job.Payload) != `{"new": true}` {
			t.Errorf("job %d was claimed as it was before: %s", job.ID, job.Payload)
		}
	}
	// The moved job waits: its new queue runs another one.
	wantIDs(t, "claimed", idsOf(answer.Jobs), touched, head)
	if n := dbtest.Get[int](t, r.pool, `select count(*)::int from graphile_worker._private_job_queues where locked_by = 'pool-peer'`); n != 2 {
		t.Errorf("the peer holds %d queues, want its 2", n)
	}
	dbtest.Run(t, r.pool, "delete from graphile_worker._private_jobs where locked_by = 'pool-peer'")
	dbtest.Run(t, r.pool, "update graphile_worker._private_job_queues set locked_at = null, locked_by = null where locked_by = 'pool-peer'")
	r.wantConsistent()
}

// R4, R5: a worker is declared dead while its claim is in flight. The tombstone waits for the
// claim, so that whoever releases the worker's jobs next sees them.
func TestTombstoneWaitsForAClaimInFlight(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.add("'a'")
	r.store.RewriteClaims(func(text string) string {
		return strings.Replace(text, "select aux.alive,", "select pg_advisory_xact_lock_shared(2)::text = '' and aux.alive,", 1)
	})
	gate, err := r.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dbtest.Run(t, gate, "select pg_advisory_xact_lock(2)")
	claimed, retired := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(claimed)
		if _, err := r.store.Claim(t.Context(), worker.ClaimRequest{WorkerID: r.id, Number: 1, Batch: 1}); err != nil {
			t.Error(err)
		}
	}()
	dbtest.Until(t, func() bool { return dbtest.SomeoneWaits(t, r.pool, "advisory") })
	go func() {
		defer close(retired)
		if err := r.store.Retire(t.Context(), r.id, false); err != nil {
			t.Error(err)
		}
	}()
	dbtest.Until(t, func() bool { // it waits for the row, not for nothing
		select {
		case <-retired:
			t.Fatal("the tombstone did not wait for the claim")
		default:
		}
		return dbtest.SomeoneWaits(t, r.pool, "transactionid", "tuple")
	})
	if err := gate.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-claimed
	<-retired
	if claimed := r.try(1, 0); claimed.Alive {
		t.Error("a retired worker claims")
	}
}

// R4: a tombstone stays for a day, in which a claim that was in flight must find it, and until
// nothing is locked by its worker. Whoever starts then deletes it.
func TestTombstonesStayForADay(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	dbtest.Run(t, r.pool, `insert into graphile_worker.backfill_workers (id, host, pid, dead_at, rescued_at) values
		('recent', '', 1, now() - interval '23 hours', now()), ('old', '', 1, now() - interval '25 hours', now()),
		('not settled', '', 1, now() - interval '25 hours', null)`)
	r.id = wire.NewWorkerID()
	r.register()
	dead := dbtest.Get[[]string](t, r.pool, "select coalesce(array_agg(id order by id), '{}') from graphile_worker.backfill_workers where dead_at is not null")
	if diff := cmp.Diff([]string{"not settled", "recent"}, dead); diff != "" {
		t.Errorf("tombstones (-want +got):\n%s", diff)
	}
	if n := dbtest.Get[int](t, r.pool, "select count(*)::int from graphile_worker.backfill_workers where dead_at is null"); n != 2 {
		t.Errorf("%d workers live, want 2", n)
	}
}

// A transaction that adds the names of tasks in another order than a worker that starts is no
// deadlock: the worker waits for it with empty hands.
func TestWorkerStartsBesideATransactionThatAddsItsTasks(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool()
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dbtest.Run(t, tx, "select graphile_worker.add_job('b')")
	started := make(chan *rig)
	go func() {
		defer close(started)
		started <- rigOn(t, pool, "graphile_worker") // its tasks are a and b
	}()
	dbtest.Until(t, func() bool { return dbtest.SomeoneWaits(t, pool, "transactionid", "tuple") })
	dbtest.Run(t, tx, "select graphile_worker.add_job('a')")
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	r, ok := <-started
	if !ok {
		return // it has said why
	}
	if jobs := r.claim(2); len(jobs) != 2 {
		t.Errorf("claimed %d jobs, want those of both tasks", len(jobs))
	}
}

// R4: a transaction of an application has the row of a dead worker's job, because it enqueues its
// key again. The job stays locked, and so does its queue: two leases of one queue would follow,
// because the worker may live.
func TestUnlockLeavesTheQueueOfAJobThatItCannotHave(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	first := r.add("'a', queue_name := 'q', job_key := 'k'")
	r.add("'a', queue_name := 'q'")
	job := r.claimOne()
	tx, err := r.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	spec := wire.Spec{Task: "a", Payload: []byte("{}"), MaxAttempts: 25, Key: "k", RunAt: time.Now().Add(time.Hour)}
	if _, err := pg.NewInserter(r.pool, schemaName, schema.WritesTables).InsertTx(t.Context(), tx, []wire.Spec{spec}); err != nil {
		t.Fatal(err)
	}
	admin, other := pg.NewAdmin(r.pool, schemaName), rigOn(t, r.pool, schemaName)
	for range 2 {
		jobs, queues, _, err := admin.Unlock(t.Context(), r.id)
		if err != nil || jobs+queues != 0 {
			t.Errorf("unlocked %d jobs and %d queues, %v; want none", jobs, queues, err)
		}
		wantIDs(t, "claimed from the queue", idsOf(other.claim(2)))
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if settled := endings["complete"](r, job); len(settled.Lost) > 0 {
		t.Errorf("the worker that lives has lost job %d", first)
	}
	if len(other.claim(2)) != 1 {
		t.Error("the queue's next job was not claimed")
	}
}

// R16: unlocking waits for no row that somebody holds, and releases the others.
func TestUnlockWaitsForNothing(t *testing.T) {
	t.Parallel()
	for what, hold := range map[string]string{
		"job":   "select from graphile_worker._private_jobs where id = (select min(id) from graphile_worker._private_jobs) for update",
		"queue": "select from graphile_worker._private_job_queues where queue_name = 'held' for update",
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.add("'a', queue_name := 'held'")
			r.add("'a', queue_name := 'free'")
			r.claim(2)
			tx, err := r.pool.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			dbtest.Run(t, tx, hold)
			admin := pg.NewAdmin(r.pool, schemaName)
			wantJobs := map[string]int{"job": 1, "queue": 2}[what]
			if jobs, queues, _, err := admin.Unlock(r.quick(), r.id); err != nil || jobs != wantJobs || queues != 1 {
				t.Errorf("unlocked %d jobs and %d queues (%v), want %d and 1", jobs, queues, err, wantJobs)
			}
			if err := tx.Rollback(t.Context()); err != nil {
				t.Fatal(err)
			}
			if jobs, queues, _, err := admin.Unlock(r.quick(), r.id); err != nil || jobs != 2-wantJobs || queues != 1 {
				t.Errorf("then unlocked %d jobs and %d queues (%v), want the rest", jobs, queues, err)
			}
		})
	}
}

// R3: a job that was removed or superseded while its worker died stays exhausted, also on its last
// attempt, where only the key can tell, and so does one whose attempts somebody has changed. The
// others get their attempt back, but for those that have only one: they may have started (R9).
func TestUnlockRefunds(t *testing.T) {
	t.Parallel()
	for _, maxAttempts := range []int{25, 1} {
		r := newRig(t)
		for _, key := range []string{"removed", "superseded", "changed", "kept", ""} {
			r.add(fmt.Sprintf("'a', json_build_object('is', '%s'), job_key := nullif('%s', ''), max_attempts := %d", key, key, maxAttempts))
		}
		if jobs := r.claim(5); len(jobs) != 5 {
			t.Fatalf("claimed %d jobs", len(jobs))
		}
		dbtest.Run(t, r.pool, "select graphile_worker.remove_job('removed')")
		dbtest.Run(t, r.pool, "select graphile_worker.add_job('b', job_key := 'superseded')")
		dbtest.Run(t, r.pool, "update graphile_worker._private_jobs set attempts = 9 where key = 'changed'")
		if jobs, _, _, err := pg.NewAdmin(r.pool, schemaName).Unlock(t.Context(), r.id); jobs != 5 || err != nil {
			t.Errorf("unlocked %d jobs, %v", jobs, err)
		}
		got := dbtest.Get[string](t, r.pool, `select string_agg(concat(j.payload->>'is', ':', j.attempts, j.last_error), ' ' order by j.id)
			from graphile_worker._private_jobs as j where j.payload->>'is' is not null`)
		letters := dbtest.Get[string](t, r.pool, `select coalesce(string_agg(concat(payload->>'is', ':', attempts, ' ', failure_reason, ' ', last_error), ', ' order by id), '')
			from graphile_worker.backfill_dlq`)
		want, dead := "removed:25 superseded:25 changed:9 kept:0 :0", ""
		if maxAttempts == 1 {
			crashed := "1 crashed " + worker.ErrCrashed.Error()
			want, dead = "removed:1 superseded:1 changed:9", "kept:"+crashed+", :"+crashed
		}
		if got != want || letters != dead {
			t.Errorf("attempts are %s, want %s; dead letters are %q, want %q", got, want, letters, dead)
		}
	}
}

// Any text can be a Node worker's id. It is no token of ours, and its jobs have no attempt to
// refund.
func TestUnlockIDsOfAnyShape(t *testing.T) {
	t.Parallel()
	for _, lockedBy := range []string{"host", "host.example", "host.example.7", "host.1f.7x", "host.1f.7", "host.1f.12345678901", "host."} {
		r := newRig(t)
		id := r.add("'a'")
		dbtest.Run(t, r.pool, "update graphile_worker._private_jobs set attempts = 7, locked_at = now(), locked_by = $1", lockedBy)
		if jobs, _, _, err := pg.NewAdmin(r.pool, schemaName).Unlock(t.Context(), lockedBy); jobs != 1 || err != nil {
			t.Errorf("%s: unlocked %d jobs, %v", lockedBy, jobs, err)
		}
		if attempts := dbtest.Get[int](t, r.pool, "select attempts::int from graphile_worker._private_jobs where id = $1", id); attempts != 7 {
			t.Errorf("%s: %d attempts, want 7", lockedBy, attempts)
		}
	}
}

// Node's GC_JOB_QUEUES takes no lock of ours: the name of a queue goes while a keyed enqueue waits
// for the row of its key. The job must not be without its queue then, beside the others of it.
func TestKeyedJobKeepsItsQueue(t *testing.T) {
	t.Parallel()
	for name, access := range map[string]schema.Access{"statements": schema.WritesTables, "function": schema.CallsFunction} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.add("'a', job_key := 'k'")
			dbtest.Run(t, r.pool, "insert into graphile_worker._private_job_queues (queue_name) values ('q')")
			tx, err := r.pool.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			dbtest.Run(t, tx, "select from graphile_worker._private_jobs for update")
			inserted := make(chan error, 1)
			go func() {
				spec := wire.Spec{Task: "a", Payload: []byte("{}"), MaxAttempts: 25, Key: "k", Queue: "q"}
				inserter := pg.NewInserter(r.pool, schemaName, access)
				for { // each try waits for the row for 50 ms
					_, _, err := inserter.InsertAll(t.Context(), []wire.Spec{spec}, nil)
					if _, blocked := errors.AsType[*wire.BlockedError](err); !blocked {
						inserted <- err
						return
					}
				}
			}()
			dbtest.Until(t, func() bool { return dbtest.SomeoneWaits(t, r.pool, "transactionid", "tuple") })
			dbtest.Run(t, r.pool, "delete from graphile_worker._private_job_queues")
			if err := tx.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := <-inserted; err != nil {
				t.Fatal(err)
			}
			if queue := dbtest.Get[string](t, r.pool, "select coalesce(queue_name, '') from graphile_worker.jobs where key = 'k'"); queue != "q" {
				t.Errorf("the job has the queue %q, want q", queue)
			}
		})
	}
}

// UnlockWorker frees the suspects that a worker has left, and no others: by a job's lock or a
// queue's.
func TestUnlockSuspects(t *testing.T) {
	t.Parallel()
	const cohort, another = "backfill-suspect.0123456789abcdef01", "backfill-suspect.0123456789abcdef02"
	for _, lockedBy := range []string{cohort, cohort + ".0", cohort + ".17k"} {
		r := newRig(t)
		queued, keyed := r.add("'a', queue_name := 'q'"), r.add("'a', job_key := 'k'")
		kept := r.add("'a', queue_name := 'p'")
		dbtest.Run(t, r.pool, `update graphile_worker._private_jobs as j set locked_at = now(), locked_by = v.locked_by
			from (values ($1::bigint, $2), ($3, $4), ($5, $6)) as v(id, locked_by) where j.id = v.id`,
			queued, cohort+".0", keyed, cohort+".3k", kept, another+".0")
		dbtest.Run(t, r.pool, `update graphile_worker._private_job_queues set locked_at = now(), locked_by = case queue_name when 'q' then $1 else $2 end`,
			cohort, another)
		admin := pg.NewAdmin(r.pool, schemaName)
		jobs, queues, _, err := admin.Unlock(t.Context(), lockedBy)
		if err != nil || jobs != 2 || queues != 1 {
			t.Errorf("%s: unlocked %d jobs and %d queues, %v", lockedBy, jobs, queues, err)
		}
		wantIDs(t, "claimed", idsOf(r.claim(3)), queued, keyed)
		if _, _, _, err := admin.Unlock(t.Context(), lockedBy); !errors.Is(err, pg.ErrNotLocked) {
			t.Errorf("%s: unlocked again: %v", lockedBy, err)
		}
	}
}
