package pg_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/pg"
)

// Contract section 5.6, by the database's clock: older than 4 hours, and no younger; more than one
// batch; a job that is not due yet keeps its time; and R16.
func TestSweep(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const stale, fresh = "now() - interval '4 hours 1 second'", "now() - interval '3 hours 59 minutes'"
	dbtest.Run(t, r.pool, `select graphile_worker.add_job('a', queue_name := 'stale' || i, run_at := now() - interval '5 hours') from generate_series(1, 2100) as i`)
	dbtest.Run(t, r.pool, "update graphile_worker._private_jobs set attempts = 1, locked_by = 'pool-node', locked_at = "+stale)
	dbtest.Run(t, r.pool, "update graphile_worker._private_job_queues set locked_by = 'pool-node', locked_at = "+stale)
	held := dbtest.Get[int64](t, r.pool, "select max(id) from graphile_worker._private_jobs")
	heldQueue := dbtest.Get[int32](t, r.pool, "select min(id) from graphile_worker._private_job_queues")
	tomorrow := r.add("'a', run_at := now() + interval '1 day'")
	dbtest.Run(t, r.pool, "update graphile_worker._private_jobs set attempts = 1, locked_by = 'pool-node', locked_at = "+stale+" where id = $1", tomorrow)
	young := r.add("'a', queue_name := 'young'")
	dbtest.Run(t, r.pool, "update graphile_worker._private_jobs set attempts = 1, locked_by = 'pool-x', locked_at = "+fresh+" where id = $1", young)
	dbtest.Run(t, r.pool, "update graphile_worker._private_job_queues set locked_by = 'pool-x', locked_at = "+fresh+" where queue_name = 'young'")

	tx, err := r.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dbtest.Run(t, tx, "select from graphile_worker._private_jobs where id = $1 for update", held)
	dbtest.Run(t, tx, "select from graphile_worker._private_job_queues where id = $1 for update", heldQueue)
	if swept := r.sweep(); swept.Jobs != 2100 || swept.Queues != 2099 {
		t.Errorf("swept %+v, want all but the job and the queue that are held", swept)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	jobs, queues, err := pg.NewAdmin(r.pool, schemaName).Sweep(r.quick())
	if err != nil || jobs != 1 || queues != 1 {
		t.Errorf("then swept %d jobs and %d queues (%v), want one of each", jobs, queues, err)
	}
	if n := r.lockedQueues(); n != 1 {
		t.Errorf("%d queues are locked, want the young one", n)
	}
	const due = "select run_at > now() + interval '23 hours' from graphile_worker._private_jobs where id = $1"
	if !dbtest.Get[bool](t, r.pool, due, tomorrow) {
		t.Error("a job of tomorrow is due today")
	}
	r.wantRow(young, &row{Attempts: 1, MaxAttempts: 25, Locked: true})
	r.wantRow(held, &row{Attempts: 1, MaxAttempts: 25})
}

// A sweep goes on behind its first page of rows, of jobs and of queues.
func TestSweepOfManyRows(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.addMany(10_500, "a", time.Hour, 0, "q", 10_500)
	for _, table := range []string{"_private_jobs", "_private_job_queues"} {
		dbtest.Run(t, r.pool, "update graphile_worker."+table+` set locked_by = 'pool-node', locked_at = now() - interval '5 hours'
			where id in (select min(id) from graphile_worker.`+table+` union all select max(id) from graphile_worker.`+table+")")
	}
	dbtest.Run(t, r.pool, `update graphile_worker._private_jobs set locked_by = 'somebody', locked_at = now() - interval '1 hour'
		where id in (2, 3, (select max(id) - 1 from graphile_worker._private_jobs))`)
	r.store.RestBy(func(time.Duration) bool { return true })
	swept := r.sweep()
	if !swept.Done || swept.Jobs != 2 || swept.Queues != 2 || len(swept.Locks) != 1 || swept.Locks[0].Jobs != 3 {
		t.Errorf("swept %+v, want 2 jobs and queues, and 3 locks of an owner", swept)
	}
}

// Locks are told by owner, whatever is in the columns.
func TestSweepTellsOfLocks(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	other := rigOn(t, r.pool, schemaName)
	id := r.add("'a', queue_name := 'q'")
	other.claimOne()
	for i, at := range []string{"'infinity'", "now() + interval '1 hour'", "null", "now() - interval '2 hours'"} {
		dbtest.Run(t, r.pool, "update graphile_worker._private_jobs set locked_by = $2, locked_at = "+at+" where id = $1",
			r.add("'a'"), fmt.Sprint("worker.of.node.", i))
	}
	for i := range 20 {
		dbtest.Run(t, r.pool, "update graphile_worker._private_jobs set locked_by = $2, locked_at = now() - interval '3 hours' where id = $1",
			r.add("'a'"), fmt.Sprint("many.", i))
	}
	swept := r.sweep()
	if len(swept.Locks) != 20 || swept.Locks[0].Owner != "many.0" || swept.Locks[0].Oldest.Round(time.Hour) != 3*time.Hour {
		t.Errorf("locks: %+v, want the 20 oldest", swept.Locks)
	}
	dbtest.Run(t, r.pool, "delete from graphile_worker._private_jobs where locked_by like 'many.%'")
	dbtest.Run(t, r.pool, "update graphile_worker._private_jobs set locked_at = now() - interval '1 hour' where id = $1", id)
	var owners []string
	for _, l := range r.sweep().Locks {
		owners = append(owners, l.Owner)
		if l.Owner == other.id && (l.Host == "" || l.Pid != os.Getpid() || l.Jobs != 1 || l.Queues != 1) {
			t.Errorf("the other worker's locks are %+v", l)
		}
		if l.Owner != other.id && l.Pid != 0 {
			t.Errorf("a Node worker's locks are %+v", l)
		}
	}
	want := []string{"worker.of.node.3", other.id, "worker.of.node.0", "worker.of.node.1", "worker.of.node.2"}
	if diff := cmp.Diff(want, owners); diff != "" {
		t.Errorf("owners (-want +got):\n%s", diff)
	}
}

// For the workers whose turn it is not, a sweep is one statement. One that starts sends two more,
// however many rows there are. An operator's does not ask.
func TestOneWorkerSweeps(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.addMany(20_001, "a", time.Hour, 0, "", 0)
	dbtest.Run(t, r.pool, "update graphile_worker._private_jobs set locked_by = 'node', locked_at = now() - interval '1 hour' where id in (1, 20001)")
	r.store.RestBy(func(time.Duration) bool { return true })
	if swept := r.sweep(); !swept.Turn || swept.Locks[0].Jobs != 2 {
		t.Errorf("the only worker swept %+v, want locks of 2 jobs", swept)
	}
	statements := new(dbtest.Statements)
	settings := pg.SettingsOf(r.pool, schemaName)
	settings.Tracer = statements
	other := rigWith(t, r.pool, settings)
	for starting, want := range map[bool]int{false: 1, true: 4} { // with the owners of locks
		statements.Take()
		swept, err := other.store.Sweep(t.Context(), other.id, starting)
		if sent := statements.Take(); err != nil || swept.Turn || len(sent) != want {
			t.Errorf("another worker swept %+v (%v) with %d statements, want %d", swept, err, len(sent), want)
		}
		if starting && (!swept.Done || len(swept.Locks) != 1 || swept.Locks[0].Jobs != 1) {
			t.Errorf("at its start another worker swept %+v, want the lock of the first page", swept)
		}
	}
	dbtest.Run(t, r.pool, "update graphile_worker._private_jobs set locked_at = now() - interval '5 hours' where id = 20001")
	if jobs, _, err := pg.NewAdmin(r.pool, schemaName).Sweep(r.quick()); err != nil || jobs != 1 {
		t.Errorf("an operator swept %d jobs (%v), want 1", jobs, err)
	}
}

// Of workers that ask at the same instant one sweeps.
func TestTurnsAreTakenOneByOne(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	tx, err := r.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dbtest.Run(t, tx, "select pg_advisory_xact_lock(hashtextextended('backfill sweep ' || $1, 0))", schemaName)
	if r.sweep().Turn {
		t.Error("it sweeps while another one takes the turn")
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !r.sweep().Turn {
		t.Error("it does not sweep afterwards")
	}
}

// A sweep whose time is over during a page has not failed: the next one goes on with that page.
func TestSweepIsOutOfTime(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.addMany(10_001, "a", time.Hour, 0, "", 0)
	dbtest.Run(t, r.pool, "update graphile_worker._private_jobs set locked_by = 'x', locked_at = now() - interval '5 hours' where id in (1, 10001)")
	ctx, cancel := context.WithCancel(t.Context())
	r.store.RestBy(func(time.Duration) bool {
		cancel()
		return true
	})
	swept, err := r.store.Sweep(ctx, r.id, false)
	if err != nil || !swept.Turn || swept.Done || swept.Jobs != 1 {
		t.Errorf("swept %+v (%v), want the job of the first page, and no error", swept, err)
	}
	r.store.RestBy(func(time.Duration) bool { return true })
	if swept := r.sweep(); !swept.Done || swept.Jobs != 1 {
		t.Errorf("then swept %+v, want the job of the second page", swept)
	}
}

// A worker's sweep pauses between pages, 10 times as long as a page took, and goes on where it
// stopped. An operator's does not pause.
func TestSweepPauses(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.addMany(20_001, "a", time.Hour, 0, "", 0)
	dbtest.Run(t, r.pool, "update graphile_worker._private_jobs set locked_by = 'x', locked_at = now() - interval '5 hours' where id in (1, 10001, 20001)")
	dbtest.Run(t, r.pool, "update graphile_worker._private_jobs set locked_by = 'somebody', locked_at = now() - interval '1 hour' where id in (2, 10002)")
	r.store.RewriteSweeps(func(text string) string {
		return strings.Replace(text, "from page left join", "from pg_sleep(0.02), page left join", 1)
	})
	var rests []time.Duration
	left := 1
	r.store.RestBy(func(d time.Duration) bool {
		rests = append(rests, d)
		left--
		return left >= 0
	})
	if swept := r.sweep(); swept.Done || swept.Jobs != 2 || swept.Locks != nil {
		t.Errorf("in two pages swept %+v, want 2 jobs", swept)
	}
	left = 100
	if swept := r.sweep(); !swept.Done || swept.Jobs != 1 || len(swept.Locks) != 1 || swept.Locks[0].Jobs != 2 {
		t.Errorf("then swept %+v, want the rest, with the locks of all", swept)
	}
	if len(rests) != 3 || slices.Min(rests) < 200*time.Millisecond {
		t.Errorf("paused for %v between 4 pages that took at least 20 ms each", rests)
	}
	if jobs, _, err := pg.NewAdmin(r.pool, schemaName).Sweep(t.Context()); err != nil || jobs != 0 || len(rests) != 3 {
		t.Errorf("an operator swept %d jobs (%v) with %d pauses", jobs, err, len(rests)-3)
	}
}

// A sweep that ends for an error is continued by the next one.
func TestSweepGoesOn(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.addMany(10_001, "a", time.Hour, 0, "", 0)
	dbtest.Run(t, r.pool, `update graphile_worker._private_jobs set locked_by = 'pool-node', locked_at = now() - interval '5 hours'
		where id in (1, 10001)`)
	r.store.RewriteSweeps(func(text string) string { // the second page ends the first sweep
		return strings.Replace(text, "page.seen,", "page.seen + case when $1::bigint > 0 "+
			"and (select last_value from graphile_worker.jobs_id_seq1) < 20000 then ('no table ' || page.seen)::regclass::int else 0 end as seen,", 1)
	})
	swept, err := r.store.Sweep(t.Context(), r.id, false)
	if err == nil || swept.Jobs != 1 {
		t.Fatalf("swept %+v (%v), want 1 job and an error", swept, err)
	}
	dbtest.Run(t, r.pool, "select setval('graphile_worker.jobs_id_seq1', 20001)")
	dbtest.Run(t, r.pool, "update graphile_worker._private_jobs set locked_by = 'pool-node', locked_at = now() - interval '5 hours' where id = 2")
	for _, want := range []string{"second", "first"} {
		if swept := r.sweep(); swept.Jobs != 1 {
			t.Errorf("then swept %+v, want the job of the %s page", swept, want)
		}
	}
}
