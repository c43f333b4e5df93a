package pg_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

func (r *rig) letters() (n int) {
	r.t.Helper()
	return dbtest.Get[int](r.t, r.pool, "select count(*)::int from graphile_worker.backfill_dlq")
}

// sweepOnce sweeps all rows without a rest.
func (r *rig) sweepOnce() (dead []worker.DeadJob) {
	r.t.Helper()
	r.store.RestBy(func(time.Duration) bool { return true })
	return r.sweepAll()
}

// sweepAll sweeps all rows, in as many calls as it takes.
func (r *rig) sweepAll() (dead []worker.DeadJob) {
	r.t.Helper()
	dbtest.Run(r.t, r.pool, "update graphile_worker.backfill_workers set swept_at = null")
	for {
		swept, err := r.store.Sweep(r.t.Context(), r.id, false)
		if err != nil {
			r.t.Fatal(err)
		}
		if dead = append(dead, swept.Dead...); swept.Done {
			return dead
		}
	}
}

const failedLongAgo = `update graphile_worker._private_jobs set attempts = max_attempts, last_error = 'of Node',
	run_at = now() - interval '1 day', updated_at = now() - interval '1 day'`

// A defect of the first backfill (1): a job on its last attempt was taken for a dead one while it
// ran, and then succeeded as well. Graphile Worker charges attempts when it claims.
func TestLettersLeaveRunningJobs(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ids := []int64{r.add("'a', max_attempts := 1"), r.add("'a', max_attempts := 1"), r.add("'b', max_attempts := 1, queue_name := 'q'")}
	jobs := r.claim(3)
	wantIDs(t, "claimed", idsOf(jobs), ids...)
	dbtest.Run(t, r.pool, "update graphile_worker._private_jobs set last_error = 'before', updated_at = now() - interval '1 day', run_at = now() - interval '1 day'")
	dbtest.Run(t, r.pool, "update graphile_worker._private_jobs set locked_by = 'worker-of-node' where id = $1", ids[1])
	if dead := r.sweepOnce(); len(dead) > 0 || r.letters() > 0 {
		t.Errorf("dead letters of jobs that run: %+v", dead)
	}
	fates, err := r.store.Complete(r.quick(), leasesOf([]*wire.Job{jobs[0], jobs[2]}))
	if err != nil || fates[0].Kind != worker.FateRecorded || fates[1].Kind != worker.FateRecorded {
		t.Errorf("fates %v, %v", fates, err)
	}
	if n := dbtest.Get[int](t, r.pool, "select count(*)::int from graphile_worker._private_jobs"); n != 1 || r.letters() > 0 {
		t.Errorf("%d jobs and %d dead letters are left, want Node's job", n, r.letters())
	}
}

// Defects of the first backfill (2, 3): it took 100 exhausted jobs at its start and each minute,
// and deleted the others, or was outrun. Here every one is a dead letter, and none is deleted.
func TestLettersHaveNoBound(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const many = 25_000
	dbtest.Run(t, r.pool, `insert into graphile_worker._private_jobs (task_id, payload)
		select (select id from graphile_worker._private_tasks where identifier = 'a'), json_build_object('n', i) from generate_series(1, $1) as i`, many)
	dbtest.Run(t, r.pool, failedLongAgo)
	began, rested := time.Now(), time.Duration(0)
	r.store.RestBy(func(d time.Duration) bool {
		rested += d
		return true
	})
	dead := r.sweepAll()
	if worked := time.Since(began); rested > 10*worked {
		t.Errorf("it rests for %v after %v of work: no more than 10 times as long was to be", rested, worked)
	}
	told := make(map[int64]bool, many)
	for _, job := range dead {
		told[job.ID] = true
	}
	left := dbtest.Get[int](t, r.pool, "select count(*)::int from graphile_worker._private_jobs")
	payloads := dbtest.Get[int](t, r.pool, "select count(distinct (payload->>'n')::int)::int from graphile_worker.backfill_dlq")
	if len(dead) != many || len(told) != many || left != 0 || payloads != many || r.letters() != many {
		t.Errorf("told of %d (%d different), %d dead letters with %d payloads, and %d jobs left", len(dead), len(told), r.letters(), payloads, left)
	}
}

// Defects of the first backfill (4, 5): locks of queues were taken for stale after 5 minutes, and
// those of jobs after 30. A job may take as long as it likes: the sweep for dead letters frees
// nothing.
func TestLettersFreeNoLongJobs(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.add("'a', max_attempts := 1, queue_name := 'q'")
	job := r.claim(1)[0]
	for _, table := range []string{"_private_jobs", "_private_job_queues"} {
		dbtest.Run(t, r.pool, "update graphile_worker."+table+" set locked_at = now() - interval '3 hours 59 minutes'")
	}
	r.add("'a', queue_name := 'q'")
	r.sweepOnce()
	if next := r.claim(1); len(next) > 0 {
		t.Errorf("job %d of the queue runs beside the first one", next[0].ID)
	}
	if fates, err := r.store.Renew(r.quick(), leasesOf([]*wire.Job{job})); err != nil || fates[0].Kind != worker.FateRecorded {
		t.Errorf("fates %v, %v", fates, err)
	}
}

// A defect of the first backfill (8): dead letters without a key that were sent back stayed for
// ever.
func TestLettersWithoutAKeyAreCleaned(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	dbtest.Run(t, r.pool, `insert into graphile_worker.backfill_dlq (original_job_id, task_identifier, payload, priority, max_attempts, attempts,
		failure_reason, original_created_at, original_run_at, requeued_job_id)
		select -i, 'a', '{}', 0, 25, 25, 'exhausted', now(), now(), case when i % 2 = 0 then 1000000 + i end from generate_series(1, 5000) as i`)
	held := r.add("'a'")
	dbtest.Run(t, r.pool, "update graphile_worker.backfill_dlq set requeued_job_id = $1 where original_job_id = -4", held)
	r.sweepOnce()
	if n := r.letters(); n != 2501 {
		t.Errorf("%d dead letters are left, want those that were not sent back, and one whose job waits", n)
	}
}

// What a dead letter holds is what the wire holds, byte for byte, whatever it is (R19).
func TestLettersHoldWhatJobsHold(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	payload := `{"a": "\u0000",  "b" : 1e400, "a": "` + strings.Repeat("x", 100_000) + `"}`
	first := r.add("'a', $1::json, $2, job_key := $3, priority := -7, flags := array['f']", payload, strings.Repeat("q", 128), strings.Repeat("ü", 512))
	second := r.add("'b'")
	jobs := r.claim(2)
	wantIDs(t, "claimed", idsOf(jobs), first, second)
	dbtest.Run(t, r.pool, "update graphile_worker._private_jobs set run_at = 'infinity', created_at = '-infinity'")
	outcome := worker.Outcome{Kind: worker.OutcomeExhausted, Text: "no", Reason: worker.ReasonPermanent}
	fates, err := r.store.Fail(r.quick(), ended(jobs, outcome))
	if err != nil || fates[0].Kind != worker.FateExhausted || fates[1].Kind != worker.FateExhausted {
		t.Fatalf("fates %v, %v", fates, err)
	}
	got := dbtest.Get[string](t, r.pool, `select concat_ws(' ', payload::text = $2, queue_name = repeat('q', 128), job_key = repeat('ü', 512),
		priority, attempts, max_attempts, flags, original_run_at, original_created_at, failure_count, requeued_count, last_requeued_at is null)
		from graphile_worker.backfill_dlq where original_job_id = $1`, first, payload)
	if want := `t t t -7 1 25 {"f": true} infinity -infinity 1 0 t`; got != want {
		t.Errorf("the dead letter has %s, want %s", got, want)
	}
	if n := dbtest.Get[int](t, r.pool, "select count(*)::int from graphile_worker.backfill_dlq where original_job_id = $1 and job_key is null and queue_name is null", second); n != 1 {
		t.Error("no key and no queue are not null")
	}
}

// One dead letter that the server refuses leaves its job in its row, says so, and keeps no other
// one (R19): in the statement that fails jobs, and in the sweep.
func TestRefusedLettersKeepNoOther(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var ids []int64
	for range 9 {
		ids = append(ids, r.add("'a'"))
	}
	dbtest.Run(t, r.pool, failedLongAgo)
	dbtest.Run(t, r.pool, fmt.Sprintf("alter table graphile_worker.backfill_dlq add constraint refuse check (original_job_id <> %d)", ids[4]))
	r.store.RestBy(func(time.Duration) bool { return true })
	swept, err := r.store.Sweep(r.quick(), r.id, false)
	if dbtest.Mentions(t, err, fmt.Sprint("job ", ids[4]), "refuse"); len(swept.Dead) != 8 || !swept.Done {
		t.Errorf("swept %+v", swept)
	}
	dbtest.Run(t, r.pool, "alter table graphile_worker.backfill_dlq drop constraint refuse")
	if dead := r.sweepOnce(); len(dead) != 1 || dead[0].ID != ids[4] {
		t.Errorf("then swept %+v", dead)
	}
}

// A rescue, and an operator, end a job whose dead letter the server refuses in its row: it would
// stay locked else (R19).
func TestRefusedLettersKeepNothingLocked(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*rig) error{
		"rescue": func(r *rig) error {
			dbtest.Run(r.t, r.pool, "update graphile_worker.backfill_workers set dead_at = now() where id = $1", r.id)
			rescued, err := r.store.Rescue(r.quick(), worker.RescueRequest{IDs: []string{r.id}})
			if len(rescued.Dead) != 3 || len(rescued.Settled) != 1 {
				r.t.Errorf("rescued %+v", rescued)
			}
			return err
		},
		"unlock": func(r *rig) error {
			jobs, _, dead, err := pg.NewAdmin(r.pool, schemaName).Unlock(r.quick(), r.id)
			if jobs != 3 || len(dead) > 0 {
				r.t.Errorf("unlocked %d jobs, of which dead letters: %+v", jobs, dead)
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			for range 3 {
				r.add("'a', max_attempts := 1")
			}
			bad := r.claim(3)[1].ID
			dbtest.Run(t, r.pool, fmt.Sprintf("alter table graphile_worker.backfill_dlq add constraint refuse check (original_job_id <> %d)", bad))
			if err := end(r); err != nil {
				t.Error(err)
			}
			if left := dbtest.Get[string](t, r.pool, `select concat_ws(' ', attempts, locked_by is null, last_error)
				from graphile_worker._private_jobs where id = $1`, bad); left != "1 t "+worker.ErrCrashed.Error() {
				t.Errorf("the job is left as %s", left)
			}
			if locked := dbtest.Get[int](t, r.pool, "select count(*)::int from graphile_worker._private_jobs where locked_by is not null"); locked > 0 {
				t.Errorf("%d jobs are locked", locked)
			}
		})
	}
}

// The grace of an hour counts from the latest time at which a job can have failed (R27).
func TestLettersWaitForAnHour(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const delay = "exp(10) * interval '1 second'"
	var want []int64
	for _, row := range []struct {
		updated, runAt string
		swept          bool
	}{
		{"now() - interval '61 minutes'", "now() - interval '61 minutes' + " + delay, true},
		{"now() - interval '61 minutes'", "now() - interval '59 minutes' + " + delay, false},
		{"now() - interval '59 minutes'", "now() - interval '61 minutes' + " + delay, false},
		{"now() - interval '61 minutes'", "now() + interval '1 minute' + " + delay, true}, // rescheduled
		{"now() - interval '61 minutes'", "'infinity'", true},
		{"now() - interval '61 minutes'", "'-infinity'", true},
		{"'infinity'", "now() - interval '1 day'", false},
	} {
		id := r.add("'a'")
		dbtest.Run(t, r.pool, "update graphile_worker._private_jobs set attempts = 25, last_error = '', updated_at = "+row.updated+", run_at = "+row.runAt+" where id = $1", id)
		if row.swept {
			want = append(want, id)
		}
	}
	var got []int64
	for _, job := range r.sweepOnce() {
		got = append(got, job.ID)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("swept (-want +got):\n%s", diff)
	}
}

// Old dead letters go in small steps, each of which is kept: one that takes too long, or that the
// server refuses, makes the next ones smaller, and undoes nothing.
func TestExpiryKeepsItsProgress(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		trouble string
		left    int
		fails   bool
	}{
		"none": {"return old;", 0, false},
		"a statement of more than 250 takes too long": {`
			perform set_config('test.n', (coalesce(nullif(current_setting('test.n', true), ''), '0')::int + 1)::text, true);
			if current_setting('test.n')::int > 250 then raise exception 'canceled' using errcode = 'query_canceled'; end if;
			return old;`, 0, false},
		"a refused one": {"if old.id = 2500 then raise exception 'refused' using errcode = 'check_violation'; end if; return old;", 1, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			dbtest.Run(t, r.pool, `insert into graphile_worker.backfill_dlq (original_job_id, task_identifier, payload, priority, max_attempts, attempts,
				failure_reason, original_created_at, original_run_at, failed_at)
				select i, 'a', '{}', 0, 25, 25, 'exhausted', now(), now(), now() - interval '2 days' from generate_series(1, 5000) as i`)
			dbtest.Run(t, r.pool, "create function trouble() returns trigger language plpgsql as $$ begin "+test.trouble+" end $$")
			dbtest.Run(t, r.pool, "create trigger trouble before delete on graphile_worker.backfill_dlq for each row execute function trouble()")
			r.store.RestBy(func(time.Duration) bool { return true })
			expired, err := r.store.Expire(t.Context(), 24*time.Hour)
			if (err != nil) != test.fails || !expired.Done || expired.Letters != 5000-test.left || r.letters() != test.left {
				t.Errorf("expired %+v, %v, and %d are left", expired, err, r.letters())
			}
		})
	}
}
