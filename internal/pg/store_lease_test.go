package pg_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// R1: attempts of a locked job change under its owner's hands (C1), which must not cost it the
// lease. R3: what was removed or superseded while it ran is never tried again.
func TestPeersChangeARunningJob(t *testing.T) {
	t.Parallel()
	changes := map[string]string{
		"re-added":       "select graphile_worker.add_job('a', '{\"new\":true}', job_key := 'k', run_at := now() + interval '1 day')",
		"removed":        "select graphile_worker.remove_job('k')",
		"deduplicated":   "select graphile_worker.add_job('a', job_key := 'k', job_key_mode := 'unsafe_dedupe')",
		"not changed":    "select 1",
		"re-added twice": "select graphile_worker.add_job('a', job_key := 'k'), graphile_worker.add_job('a', job_key := 'k', run_at := now() + interval '1 day')",
	}
	keepsKey := map[string]bool{"deduplicated": true, "not changed": true}
	for change, sql := range changes {
		for ending, end := range endings {
			for _, maxAttempts := range []int{25, 1} {
				t.Run(fmt.Sprintf("%s, %s, max_attempts %d", change, ending, maxAttempts), func(t *testing.T) {
					t.Parallel()
					r := newRig(t)
					id := r.add(fmt.Sprintf("'a', job_key := 'k', queue_name := 'q', max_attempts := %d", maxAttempts))
					job := r.claimOne()
					dbtest.Run(t, r.pool, sql)
					if settled := end(r, job); len(settled.Lost) != 0 || len(settled.Busy) != 0 {
						t.Fatalf("the owner was refused: %+v", settled)
					}
					var want *row // nobody will run it again: gone
					switch {
					case ending == "complete" || !keepsKey[change]:
					case ending == "fail":
						want = &row{Attempts: 1, MaxAttempts: maxAttempts, LastError: "broken"}
					default:
						want = &row{Attempts: 0, MaxAttempts: maxAttempts}
					}
					r.wantRow(id, want)
					if n := r.lockedQueues(); n != 0 {
						t.Errorf("%d queues stayed locked", n)
					}
				})
			}
		}
	}
}

// R3 for jobs without a key, on their last attempt and before: plain give-backs refund.
func TestGivingBackRefundsTheAttempt(t *testing.T) {
	t.Parallel()
	for _, maxAttempts := range []int{1, 25} {
		r := newRig(t)
		id := r.add(fmt.Sprintf("'a', max_attempts := %d", maxAttempts))
		for range 3 {
			endings["return"](r, r.claimOne())
			r.wantRow(id, &row{Attempts: 0, MaxAttempts: maxAttempts})
		}
	}
}

// A give-back keeps the job's place; a snooze asks for a later one (R14).
func TestGivingBackKeepsThePlace(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	first := r.add("'a', run_at := now() - interval '1 hour'")
	r.add("'a'")
	job := r.claim(1)[0]
	endings["return"](r, job)
	if again := r.claim(1)[0]; again.ID != first || !again.RunAt.Equal(job.RunAt) {
		t.Errorf("claimed job %d of %v next, want %d of %v", again.ID, again.RunAt, first, job.RunAt)
	}
}

// R2: the lease of an earlier claim is worth nothing, also when job, worker and attempt are equal
// (C2).
func TestEqualTripleByForceUnlockAndReplace(t *testing.T) {
	t.Parallel()
	for ending, end := range endings {
		t.Run(ending, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			id := r.add("'a', '{\"n\":1}', job_key := 'k', queue_name := 'q'")
			old := r.claimOne()
			dbtest.Run(t, r.pool, "select graphile_worker.force_unlock_workers(array[$1, $2])", old.Token, old.Claim())
			r.add("'a', '{\"n\":2}', job_key := 'k', queue_name := 'q'") // replaces: attempts are 0 again
			fresh := r.claimOne()
			if fresh.ID != id || fresh.Attempt != old.Attempt || fresh.Token == old.Token {
				t.Fatalf("want the same job and attempt with another token: %+v after %+v", fresh.Lease, old.Lease)
			}
			settled := end(r, old)
			wantIDs(t, "lost", settled.Lost, id)
			r.wantRow(id, &row{Attempts: 1, MaxAttempts: 25, Locked: true})
			r.wantConsistent()
			if settled := end(r, fresh); len(settled.Lost) != 0 {
				t.Errorf("the owner was refused: %+v", settled)
			}
		})
	}
}

// The same by our own give-back, on the same worker: the second claim has another token.
func TestEqualTripleByGiveBack(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	id := r.add("'a'")
	old := r.claimOne()
	endings["return"](r, old)
	fresh := r.claimOne()
	wantIDs(t, "lost", endings["complete"](r, old).Lost, id)
	if settled := endings["complete"](r, fresh); len(settled.Lost) != 0 {
		t.Errorf("the owner was refused: %+v", settled)
	}
}

// R7: somebody deletes the running job of a queue; whoever held it frees the queue, and nobody
// else's.
func TestForeignDeleteOfARunningQueuedJob(t *testing.T) {
	t.Parallel()
	for ending, end := range endings {
		t.Run(ending, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			id := r.add("'a', queue_name := 'q'")
			next := r.add("'a', queue_name := 'q'")
			job := r.claimOne()
			dbtest.Run(t, r.pool, "delete from graphile_worker._private_jobs where id = $1", id)
			wantIDs(t, "lost", end(r, job).Lost, id)
			if got := r.claimOne(); got.ID != next { // the queue is free
				t.Errorf("claimed %d, want %d", got.ID, next)
			}
			end(r, job) // too late: the queue belongs to another claim now
			r.wantConsistent()
			if n := r.lockedQueues(); n != 1 {
				t.Errorf("%d queues are locked, want the one that runs", n)
			}
		})
	}
}

// R2: a queue that was unlocked by force belongs to the claim that has taken it since, also while
// the job of the earlier one is still held by its owner: it ends its job, and leaves the queue
// alone.
func TestFinishLeavesAQueueThatAnotherClaimHas(t *testing.T) {
	t.Parallel()
	for ending, end := range endings {
		t.Run(ending, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.add("'a', queue_name := 'q'")
			r.add("'a', queue_name := 'q'")
			first := r.claimOne()
			dbtest.Run(t, r.pool, "select graphile_worker.force_unlock_workers(array[$1])", first.Claim())
			second := rigOn(t, r.pool, schemaName).claimOne()
			if settled := end(r, first); len(settled.Lost)+len(settled.Busy) != 0 {
				t.Errorf("the owner of the first job was refused: %+v", settled)
			}
			holder := dbtest.Get[string](t, r.pool, "select coalesce(locked_by, '') from graphile_worker._private_job_queues")
			if holder != second.Claim() {
				t.Errorf("the queue is locked by %q, want the second claim, %q", holder, second.Claim())
			}
		})
	}
}

// R16: an application's transaction holds the row of one running job; all others are recorded, and
// nothing waits.
func TestApplicationHoldsARunningKeyDuringAFlush(t *testing.T) {
	t.Parallel()
	for ending, end := range endings {
		t.Run(ending, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			held := r.add("'a', job_key := 'k', queue_name := 'q'")
			free := r.add("'a'")
			jobs := r.claim(2)
			tx, err := r.pool.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			dbtest.Run(t, tx, "select graphile_worker.add_job('a', job_key := 'k')")
			settled := end(r, jobs...)
			wantIDs(t, "busy", settled.Busy, held)
			wantIDs(t, "lost", settled.Lost)
			if got := r.row(free); got != nil && got.Locked {
				t.Error("the other job is still locked")
			}
			if err := tx.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			for _, job := range jobs {
				if job.ID != held {
					continue
				}
				if settled := end(r, job); len(settled.Busy)+len(settled.Lost) != 0 {
					t.Errorf("after the commit: %+v", settled)
				}
			}
			r.wantConsistent()
		})
	}
}

// R7, R16: renewal moves the lock times of job and queue, reports what is lost, and waits for
// nothing: neither for the row of a job nor for that of a queue, each of which is renewed without
// the other.
func TestRenew(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	queued := r.add("'a', queue_name := 'q'")
	blocked := r.add("'a', queue_name := 'held'")
	lost := r.add("'a'")
	held := r.add("'a', job_key := 'k'")
	jobs := r.claim(4)
	dbtest.Run(t, r.pool, "update graphile_worker._private_jobs set locked_at = now() - interval '3 hours'")
	dbtest.Run(t, r.pool, "update graphile_worker._private_job_queues set locked_at = now() - interval '3 hours'")
	dbtest.Run(t, r.pool, "update graphile_worker._private_jobs set locked_at = null, locked_by = null where id = $1", lost)
	tx, err := r.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dbtest.Run(t, tx, "select from graphile_worker._private_jobs where id = $1 for update", held)
	dbtest.Run(t, tx, "select from graphile_worker._private_job_queues where queue_name = 'held' for update")
	renewed := r.settled(jobs)(r.store.Renew(r.quick(), leasesOf(jobs)))
	wantIDs(t, "lost", renewed.Lost, lost)
	wantIDs(t, "busy", renewed.Busy, held)
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	const fresh = " from graphile_worker.%s where locked_at > now() - interval '1 minute'"
	wantIDs(t, "renewed", dbtest.Get[[]int64](t, r.pool, "select array_agg(id)"+fmt.Sprintf(fresh, "_private_jobs")), queued, blocked)
	if name := dbtest.Get[string](t, r.pool, "select string_agg(queue_name, ' ')"+fmt.Sprintf(fresh, "_private_job_queues")); name != "q" {
		t.Errorf("renewed the queues %s, want q", name)
	}
}

// A failure is recorded as the contract has it (section 6.2): the text, the time, and nothing else.
func TestFail(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	id := r.add("'a', '{\"keep\": 1}', queue_name := 'q', run_at := now() + interval '1 second' - interval '1 second'")
	job := r.claimOne()
	settled := r.settled([]*wire.Job{job})(r.store.Fail(t.Context(), []worker.Ended{{Lease: job.Lease, Outcome: worker.Outcome{Kind: worker.OutcomeFailed, Text: "it broke", Delay: time.Hour}}}))
	r.wantRow(id, &row{Attempts: 1, MaxAttempts: 25, LastError: "it broke"})
	if settled.NextDue < 59*time.Minute || settled.NextDue > time.Hour {
		t.Errorf("due in %v, want an hour", settled.NextDue)
	}
	if got := dbtest.Get[string](t, r.pool, "select payload::text from graphile_worker._private_jobs"); got != `{"keep": 1}` {
		t.Errorf("payload is %s", got)
	}
	if n := r.lockedQueues(); n != 0 {
		t.Error("the queue stayed locked")
	}
}

func TestFailPermanentlyAndPartially(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	dead := r.add("'a'")
	partial := r.add("'b', '[1,2,3]'")
	last := r.add("'b', max_attempts := 1")
	jobs := r.claim(3)
	var failures []worker.Ended
	for _, job := range jobs {
		f := worker.Ended{Lease: job.Lease, Outcome: worker.Outcome{Kind: worker.OutcomeFailed, Text: "x", Delay: time.Minute}}
		switch job.ID {
		case dead:
			f.Kind = worker.OutcomeExhausted
		case partial:
			f.Payload = []byte("[2]")
		}
		failures = append(failures, f)
	}
	settled := r.settled(jobs)(r.store.Fail(t.Context(), failures))
	wantIDs(t, "exhausted", settled.Exhausted, dead, last)
	r.wantRow(dead, &row{Attempts: 25, MaxAttempts: 25, LastError: "x"})
	if got := dbtest.Get[string](t, r.pool, "select payload::text from graphile_worker._private_jobs where id = $1", partial); got != "[2]" {
		t.Errorf("payload is %s, want the failed element", got)
	}
}
