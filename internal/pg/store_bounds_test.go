package pg_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/internal/dbtest"
)

// Jobs that are not due yet and that nobody here serves make no claims: the next time is that of a
// job that is served. Behind many others it is a time to look again.
func TestNextDueOfServedJobs(t *testing.T) {
	t.Parallel()
	const foreign = `select graphile_worker.add_job('foreign', run_at := now() + interval '5 minutes' + i * interval '1 second')
		from generate_series(1, $1) as i`
	between := func(t *testing.T, due, least, most time.Duration) {
		t.Helper()
		if due < least || due > most {
			t.Errorf("due in %v, want %v to %v", due, least, most)
		}
	}
	r := newRig(t)
	dbtest.Run(t, r.pool, foreign, 100)
	r.forbidden = []string{"f"}
	r.add("'a', run_at := now() + interval '1 minute', flags := array['f']")
	between(t, r.tryAll(10, 10).NextDue, 0, 0)
	r.forbidden = nil
	between(t, r.tryAll(10, 10).NextDue, 0, time.Minute)
	r.forbidden = []string{"f"}
	r.add("'b', run_at := now() + interval '1 hour', priority := 3")
	between(t, r.tryAll(10, 10).NextDue, 59*time.Minute, time.Hour)
	dbtest.Run(t, r.pool, foreign, 200)
	between(t, r.tryAll(10, 10).NextDue, 6*time.Minute, 9*time.Minute)
}

// However many priorities there are, a claim looks at a hundred of them; the next one goes on
// behind them, and nothing is left out.
func TestManyPriorities(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	dbtest.Run(t, r.pool, "select graphile_worker.add_job('foreign', priority := i) from generate_series(-500, 449) as i")
	free, queued := r.add("'a', priority := 449"), r.add("'a', priority := 450, queue_name := 'q'")
	want := map[int64]int{free: 10, queued: 10}
	for round := range 2 {
		if round > 0 {
			free = r.add("'a', priority := 32767")
			want = map[int64]int{free: 0}
		}
		for claims := 1; len(want) > 0; claims++ {
			claimed := r.try(20, 20)
			for _, job := range claimed.Jobs {
				if least := want[job.ID]; claims < least {
					t.Errorf("claim %d brought job %d: it looked at too many priorities", claims, job.ID)
				}
				delete(want, job.ID)
			}
			if len(want) > 0 && !claimed.More {
				if claimed.Again == 0 {
					t.Fatalf("claim %d ends the search", claims)
				}
				r.wait(claimed)
			}
			endings["complete"](r, claimed.Jobs...)
		}
	}
}

// Without the index on queues, or with one whose building was interrupted, claims use another text,
// and claim the same jobs in the same order.
func TestWithoutTheQueueIndex(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]string{
		"missing": "drop index graphile_worker.backfill_jobs_queue_idx",
		"invalid": "update pg_index set indisvalid = false where indexrelid = 'graphile_worker.backfill_jobs_queue_idx'::regclass",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			if got := r.store.NextClaim(); got != "front" {
				t.Errorf("with the index, the first claim has the %s text", got)
			}
			dbtest.Run(t, r.pool, change)
			r.store.ForgetTasks() // as after five seconds, or after an error
			r.addMany(500, "foreign", 3*time.Hour, 0, "", 0)
			r.addMany(500, "a", 3*time.Hour, 0, "blocked", 2)
			r.block()
			var want, got []int64
			for range 3 {
				want = append(want, r.add("'a', queue_name := 'q'"))
			}
			r.addMany(300, "a", 0, 0, "", 0)
			r.try(1, 0)
			if got := r.store.NextClaim(); got != "scan" && got != "free" {
				t.Errorf("without the index, a claim has the %s text", got)
			}
			for claims := 0; len(got) < len(want) && claims < 1000; claims++ {
				claimed := r.try(5, 5)
				if serialOf(claimed.Jobs) > 1 {
					t.Fatal("two jobs of a queue in one claim")
				}
				for _, job := range claimed.Jobs {
					if job.QueueID != 0 {
						got = append(got, job.ID)
					}
				}
				endings["complete"](r, claimed.Jobs...)
				r.wait(claimed)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("claimed of the queue (-want +got):\n%s", diff)
			}
		})
	}
}

// A claim that fails makes the next one look whether the index is still there.
func TestIndexDroppedUnderAWorker(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.try(1, 1)
	dbtest.Run(t, r.pool, "drop index graphile_worker.backfill_jobs_queue_idx")
	dbtest.Run(t, r.pool, "alter table graphile_worker.backfill_workers rename to elsewhere")
	if _, err := r.tryErr(1, 1); err == nil {
		t.Fatal("a claim without the table of workers succeeds")
	}
	dbtest.Run(t, r.pool, "alter table graphile_worker.elsewhere rename to backfill_workers")
	r.tryAll(1, 1)
	if got := r.store.NextClaim(); got == "front" || got == "deep" {
		t.Errorf("the next claim has the %s text", got)
	}
}
