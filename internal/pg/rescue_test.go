package pg_test

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// die marks a worker dead, as another that has watched it does.
func (r *rig) die() {
	r.t.Helper()
	beats := dbtest.Get[int64](r.t, r.pool, "select beats from graphile_worker.backfill_workers where id = $1", r.id)
	if dead, err := r.store.Declare(r.t.Context(), r.id, beats); err != nil || !dead {
		r.t.Fatalf("declared dead: %v, %v", dead, err)
	}
}

func (r *rig) rescue(ids ...string) worker.Rescued {
	r.t.Helper()
	rescued, err := r.store.Rescue(r.t.Context(), worker.RescueRequest{IDs: ids})
	if err != nil {
		r.t.Fatal(err)
	}
	return rescued
}

// What is not to be rescued does not stand in the way of what is, however much of it there is and
// wherever it stands (X10).
func TestRescueIsNotStarved(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	dbtest.Run(t, r.pool, `insert into graphile_worker._private_jobs (task_id, payload, locked_at, locked_by)
		select (select min(id) from graphile_worker._private_tasks), '{}', now(),
		       case i % 3 when 0 then 'node-' || i when 1 then 'pool-' || lpad(to_hex(i), 18, '0') else $1 || '.1.1' end
		  from generate_series(1, 10000) as i`, rigOn(t, r.pool, schemaName).id)
	victim := rigOn(t, r.pool, schemaName)
	id := victim.add("'a', queue_name := 'q'")
	victim.claimOne()
	victim.die()
	rescued := r.rescue(victim.id)
	if len(rescued.Jobs) != 1 || rescued.Jobs[0].ID != id || rescued.Queues != 1 || len(rescued.Settled) != 1 {
		t.Errorf("rescued %+v", rescued)
	}
	if n := dbtest.Get[int](t, r.pool, "select count(*)::int from graphile_worker._private_jobs where locked_by is not null"); n != 10_000 {
		t.Errorf("%d of the other 10,000 are locked still", n)
	}
}

// A rescued job is what it was before it was claimed, in each column (X22).
func TestRescueChangesNothingElse(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, job := range []string{
		`'a', '{"n": 1.50, "text": "ü"}', job_key := 'k', queue_name := 'q', priority := -3, max_attempts := 7, flags := array['f']`,
		`'b', '[1, 2]', max_attempts := 7`,
	} {
		id := r.add(job)
		const columns = "select (to_jsonb(j) - 'updated_at')::text from graphile_worker._private_jobs as j where id = $1"
		before := dbtest.Get[string](t, r.pool, columns, id)
		victim := rigOn(t, r.pool, schemaName)
		victim.claimOne()
		victim.die()
		r.rescue(victim.id)
		if diff := cmp.Diff(before, dbtest.Get[string](t, r.pool, columns, id)); diff != "" {
			t.Errorf("job %s after the rescue (-before +after):\n%s", job, diff)
		}
		dbtest.Run(t, r.pool, "delete from graphile_worker._private_jobs where id = $1", id)
	}
}

// Rows of thousands of workers that are long dead keep none from starting: a start deletes some of
// them, and the later ones the others (X12).
func TestStartAmongThousandsOfDead(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	dbtest.Run(t, r.pool, `insert into graphile_worker.backfill_workers (id, beats, dead_at, rescued_at)
		select 'pool-' || lpad(to_hex(i), 18, '0'), 1, now() - interval '2 days', now() - interval '2 days' from generate_series(1, 5000) as i`)
	left := func() int {
		return dbtest.Get[int](t, r.pool, "select count(*)::int from graphile_worker.backfill_workers where dead_at is not null")
	}
	for _, want := range []int{4000, 3000} {
		err := r.store.Register(r.quick(), worker.Registration{ID: wire.NewWorkerID(), Tasks: []string{"a", "b"}})
		if n := left(); err != nil || n != want {
			t.Errorf("after a start %d rows are left, want %d (%v)", n, want, err)
		}
	}
	if answer := r.beat(1); len(answer.Peers) != 2 {
		t.Errorf("a heartbeat reads %d rows of others, want those of the two that live", len(answer.Peers))
	}
}

// What a worker that was declared dead has taken back stays taken back when its row is deleted, a
// day later: of a worker without a row, it would be evidence.
func TestEvidenceThatWasTakenBackStaysSo(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	job := r.add("'a'")
	zombie := rigOn(t, r.pool, schemaName)
	zombie.claimOne()
	zombie.die()
	r.rescue(zombie.id)
	fresh := worker.Registration{ID: wire.NewWorkerID(), Former: zombie.id, Tasks: []string{"a"}}
	if err := zombie.store.Register(t.Context(), fresh); err != nil {
		t.Fatal(err)
	}
	dbtest.Run(t, r.pool, "update graphile_worker.backfill_workers set dead_at = dead_at - interval '25 hours' where id = $1", zombie.id)
	for range 2 { // the row goes when nothing is to be taken back any more
		rigOn(t, r.pool, schemaName)
	}
	if n := dbtest.Get[int](t, r.pool, "select count(*)::int from graphile_worker.backfill_workers where id = $1", zombie.id); n != 0 {
		t.Error("the row of the old worker is still there")
	}
	victim := rigOn(t, r.pool, schemaName)
	victim.claimOne()
	victim.die()
	if rescued := r.rescue(victim.id); len(rescued.Jobs) != 1 || rescued.Jobs[0].ID != job {
		t.Errorf("after its first crash that counts, rescued %+v", rescued)
	}
}

// A trial waits for nobody who has locked what is known of suspects (R16).
func TestTrialDoesNotWaitForLocks(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var jobs []int64
	for range 2 {
		jobs = append(jobs, r.add("'a'"))
	}
	for range 2 {
		victim := rigOn(t, r.pool, schemaName)
		victim.claim(2)
		victim.die()
		r.rescue(victim.id)
	}
	found, err := r.store.Suspects(t.Context(), nil)
	if err != nil || len(found.Jobs) != 2 {
		t.Fatalf("suspects are %+v, %v", found, err)
	}
	tx, err := r.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	dbtest.Run(t, tx, "select from graphile_worker.backfill_crashes for update")
	claimed, err := r.store.Try(r.quick(), worker.TryRequest{
		WorkerID: r.id, Number: 1, Cohort: found.Cohorts[found.Jobs[0].Cohort], Jobs: jobs[:1], Bytes: 1000,
	})
	if err != nil || len(claimed.Jobs) != 1 {
		t.Errorf("tried %+v, %v", claimed, err)
	}
}

// A conviction counts for an hour, in which three of a task pause it, whatever has become of the job.
func TestConvictionsAreForgottenAfterAnHour(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	dbtest.Run(t, r.pool, `insert into graphile_worker.backfill_crashes (job_id, worker_id, token, began, judged_at, convicted)
		select n, 'pool-0', '', now() - interval '3 hours', now() - n * interval '50 minutes', 'a' from generate_series(1, 2) as n`)
	swept, err := r.store.Sweep(t.Context(), r.id, false)
	if err != nil || !swept.Done {
		t.Fatalf("swept %+v, %v", swept, err)
	}
	if left := dbtest.Get[int64](t, r.pool, "select coalesce(sum(job_id), 0)::bigint from graphile_worker.backfill_crashes"); left != 1 {
		t.Errorf("left are convictions of jobs that add up to %d, want the one of 50 minutes ago", left)
	}
}

// A job whose row a trigger keeps as it is was not convicted: what is known of it stays, and the next
// rescue convicts it.
func TestConvictionThatATriggerKeepsOff(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.add("'a'")
	job := r.claimOne()
	dbtest.Run(t, r.pool, `insert into graphile_worker.backfill_crashes (job_id, worker_id, token, began, tried, judged_at, age, alone)
		select $1, case when n < 3 then 'pool-' || n else $2 end, $3, now(), n = 3, case when n < 3 then now() end,
		       case when n < 3 then interval '1 second' end, n < 3 from generate_series(1, 3) as n`, job.ID, r.id, job.Token)
	dbtest.Run(t, r.pool, "update graphile_worker.backfill_workers set dead_at = now() where id = $1", r.id)
	dbtest.Run(t, r.pool, `create function keep() returns trigger language plpgsql as $$ begin return null; end $$;
		create trigger keep before update or delete on graphile_worker._private_jobs for each row execute function keep()`)
	if rescued, err := r.store.Rescue(t.Context(), worker.RescueRequest{IDs: []string{r.id}}); err != nil || len(rescued.Dead)+len(rescued.Settled) > 0 {
		t.Errorf("rescued %+v, %v", rescued, err)
	}
	dbtest.Run(t, r.pool, "drop function keep cascade")
	rescued, err := r.store.Rescue(t.Context(), worker.RescueRequest{IDs: []string{r.id}})
	if err != nil || len(rescued.Dead) != 1 || rescued.Dead[0].Err != worker.ErrConvicted || len(rescued.Settled) != 1 { //nolint:errorlint // it is that one
		t.Errorf("then rescued %+v, %v", rescued, err)
	}
}
