package pg_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/wire"
)

// addMany inserts n jobs of a task: free ones, or of queues of this name and a number below queues.
func (r *rig) addMany(n int, task string, ago time.Duration, priority int, queue string, queues int) {
	r.t.Helper()
	dbtest.Run(r.t, r.pool, "insert into graphile_worker._private_tasks (identifier) values ($1) on conflict do nothing", task)
	dbtest.Run(r.t, r.pool, `insert into graphile_worker._private_job_queues (queue_name)
		select $1::text || i from generate_series(0, $2::int - 1) as i on conflict do nothing`, queue, queues)
	dbtest.Run(r.t, r.pool, `insert into graphile_worker._private_jobs (task_id, job_queue_id, run_at, priority)
		select t.id, s.id, now() - $3::interval + i * interval '1 microsecond', $4
		  from generate_series(1, $1::int) as i
		  join graphile_worker._private_tasks as t on t.identifier = $2
		  left join graphile_worker._private_job_queues as s on $6::int > 0 and s.queue_name = $5::text || i % greatest($6::int, 1)`,
		n, task, ago, priority, queue, queues)
}

// block locks the queues whose names begin with "blocked".
func (r *rig) block() {
	r.t.Helper()
	dbtest.Run(r.t, r.pool, "update graphile_worker._private_job_queues set locked_at = now(), locked_by = 'pool-other' where queue_name like 'blocked%'")
}

// claimsUntil claims and completes batches, and returns which claim brought the job.
func (r *rig) claimsUntil(id int64, batch, serial, most int) int {
	r.t.Helper()
	for claim := 1; claim <= most; claim++ {
		jobs := r.try(batch, serial).Jobs
		found := false
		for _, job := range jobs {
			found = found || job.ID == id
		}
		if found {
			return claim
		}
		if len(jobs) > 0 {
			endings["complete"](r, jobs...)
		}
	}
	return most + 1
}

// A queue that is first in line gets its job started before the free jobs behind it, no matter what
// is ahead of it, while every claim has more free jobs than it can take.
func TestQueueFirstInLine(t *testing.T) {
	t.Parallel()
	const long, short = 3 * time.Hour, time.Hour
	for name, test := range map[string]struct {
		clog     func(r *rig)
		priority int // of the queue's job and the free ones
		within   int // claims
	}{
		"nothing":         {func(*rig) {}, 0, 1},
		"foreign tasks":   {func(r *rig) { r.addMany(3000, "foreign", long, 0, "", 0) }, 0, 2},
		"a blocked queue": {func(r *rig) { r.addMany(3000, "a", long, 0, "blocked", 1) }, 0, 2},
		"blocked queues":  {func(r *rig) { r.addMany(3000, "a", long, 0, "blocked", 1500) }, 0, 5},
		"a paused queue": {func(r *rig) {
			r.addMany(3000, "a", long, 0, "one", 1)
			r.pause("", "one0")
		}, 0, 2},
		"foreign queues": {func(r *rig) { r.addMany(3000, "foreign", long, 0, "foreign", 1500) }, 0, 5},
		"other priorities": {func(r *rig) {
			r.addMany(3000, "foreign", long, -5, "", 0)
			r.addMany(3000, "a", long, -3, "blocked", 1)
		}, 0, 2},
		"all of them": {func(r *rig) {
			r.addMany(3000, "foreign", long, 0, "", 0)
			r.addMany(3000, "a", long, 0, "blocked", 700)
			r.addMany(3000, "foreign", long, -1, "foreign", 700)
		}, 0, 5},
		"a worse priority": {func(r *rig) { r.addMany(3000, "foreign", long, 3, "", 0) }, 3, 2},
		"all at one time": {func(r *rig) {
			r.addMany(3000, "foreign", long, 0, "", 0)
			dbtest.Run(r.t, r.pool, "update graphile_worker._private_jobs set run_at = now() - interval '2 hours'")
		}, 0, 2},
		"an open queue that always has a job": {func(r *rig) {
			r.addMany(30, "a", long, 0, "busy", 1)
			r.addMany(3000, "a", long-time.Minute, 0, "blocked", 1)
		}, 0, 35}, // those 30 are ahead of it
	} {
		for _, serial := range []int{1, 20} {
			t.Run(fmt.Sprintf("%s, room for %d", name, serial), func(t *testing.T) {
				t.Parallel()
				r := newRig(t)
				test.clog(r)
				r.block()
				first := r.add("'a', queue_name := 'q', priority := $1, run_at := now() - interval '2 hours'", test.priority)
				r.addMany(5000, "a", short, test.priority, "", 0)
				if got := r.claimsUntil(first, 20, serial, 100); got > test.within {
					t.Errorf("claim %d brought the queue's job, want one of the first %d", got, test.within)
				}
			})
		}
	}
}

// Queues that a search by number has found, and that had to wait for room, come next: the search
// does not have to go through all the others again for each.
func TestQueuesFoundBySearchComeNext(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.addMany(4000, "a", 3*time.Hour, 0, "blocked", 2000)
	r.block()
	var want []int64
	for i := range 8 {
		want = append(want, r.add("'a', queue_name := $1, run_at := now() - interval '2 hours'", fmt.Sprint("open", i)))
	}
	r.addMany(5000, "a", time.Hour, 0, "", 0)
	first := r.claimsUntil(want[0], 20, 1, 50)
	for i, id := range want[1:] {
		if got := r.claimsUntil(id, 20, 1, 50); got != 1 {
			t.Errorf("claim %d after the first queue's (claim %d) brought queue %d, want the next claim", got, first, i+1)
		}
	}
}

// The same with a single free slot, which free jobs would take again and again.
func TestQueueFirstInLineWithOneSlot(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.addMany(3000, "foreign", 3*time.Hour, 0, "", 0)
	first := r.add("'a', queue_name := 'q', run_at := now() - interval '2 hours'")
	r.addMany(1000, "a", time.Hour, 0, "", 0)
	if got := r.claimsUntil(first, 1, 1, 50); got > 2 {
		t.Errorf("claim %d brought the queue's job, want the second", got)
	}
}

// While an application holds the first jobs of some queues, the others go on, even if there is room
// for one job only.
func TestLockedHeadsStopNoOtherQueue(t *testing.T) {
	t.Parallel()
	for _, locked := range []int{1, 50, 450} {
		t.Run(fmt.Sprint(locked), func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.addMany(locked, "a", 2*time.Hour, 0, "locked", locked)
			tx, err := r.pool.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			dbtest.Run(t, tx, "select from graphile_worker._private_jobs for update")
			var want []int64
			for i := range 5 {
				want = append(want, r.add(fmt.Sprintf("'a', queue_name := 'open%d'", i)))
			}
			var got []int64
			for range want {
				for claims := 0; ; claims++ {
					if jobs := r.try(1, 1).Jobs; len(jobs) == 1 {
						got = append(got, jobs[0].ID)
						endings["complete"](r, jobs...)
						break
					}
					if claims == 5 {
						t.Fatalf("nothing claimed after %d of %d jobs", len(got), len(want))
					}
				}
			}
			wantIDs(t, "claimed", got, want...)
			if claimed := r.try(1, 1); claimed.MoreSerial {
				t.Error("a claim that has room, and nothing to lock, says that it held queues back")
			}
			if err := tx.Rollback(t.Context()); err != nil {
				t.Fatal(err)
			}
			if n := len(r.claim(1)); n != 1 {
				t.Errorf("claimed %d after the rollback", n)
			}
			r.wantConsistent()
		})
	}
}

// A queue that a finish has freed gets its next job started with the next claim, though the marks
// are beyond it; but not before the free jobs that are ahead of it.
func TestFreedQueues(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.addMany(5, "a", 2*time.Hour, 0, "early", 1)
	r.addMany(2000, "a", time.Hour, 0, "", 0)
	late := r.add("'a', queue_name := 'late'")
	queue := dbtest.Get[int32](t, r.pool, "select id from graphile_worker._private_job_queues where queue_name = 'late'")
	for claim := range 5 {
		jobs := r.try(20, 20).Jobs
		if len(jobs) != 20 || jobs[0].Queue != "early0" || serialOf(jobs) != 1 {
			t.Fatalf("claim %d: %d jobs, %d of queues, want 20 and the one that is first", claim, len(jobs), serialOf(jobs))
		}
		endings["complete"](r, jobs...)
		r.freed = []int32{jobs[0].QueueID, queue, jobs[0].QueueID}
	}
	jobs := r.try(20, 20).Jobs
	if n := serialOf(jobs); n != 0 {
		t.Errorf("%d jobs of queues overtook free jobs, among them perhaps job %d", n, late)
	}
}

// What a queue that was freed has next may be for somebody else, locked, or gone.
func TestFreedQueuesWithoutAJob(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.addMany(1, "foreign", time.Hour, 0, "foreign", 1)
	r.addMany(1, "a", time.Hour, 0, "blocked", 1)
	r.block()
	r.add("'a', queue_name := 'future', run_at := now() + interval '1 hour'")
	r.freed = append(dbtest.Get[[]int32](t, r.pool, "select array_agg(id) from graphile_worker._private_job_queues"), 1<<30)
	if claimed := r.try(20, 20); len(claimed.Jobs) != 0 || !claimed.Alive {
		t.Errorf("claimed %+v, want nothing", claimed)
	}
}

func serialOf(jobs []*wire.Job) (n int) {
	for _, job := range jobs {
		if job.QueueID != 0 {
			n++
		}
	}
	return n
}

// Nor do queues with many jobs starve the free jobs that are ahead of them.
func TestFreeJobsFirstInLine(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"front", "deep", "scan"} {
		t.Run(text, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			clog := map[string]int{"front": 1, "deep": 400}[text]
			r.addMany(clog, "foreign", 3*time.Hour, 0, "", 0)
			if text == "scan" {
				dbtest.Run(t, r.pool, "drop index graphile_worker.backfill_jobs_queue_idx")
				r.store.ForgetTasks()
			}
			r.addMany(15, "a", 2*time.Hour, 0, "", 0)
			r.addMany(500, "a", time.Hour, 0, "q", 25)
			r.addMany(100, "a", 0, 0, "", 0)
			first := r.try(20, 20).Jobs
			if n := serialOf(first); len(first) != 20 || n > 5 || text != "deep" && n < 5 {
				t.Errorf("%d jobs, %d of queues, want 20, 5 of them after the 15 that are first", len(first), n)
			}
			r.wantConsistent()
		})
	}
}
