package pg_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/wire"
)

// R21: marks are a hint. What is committed below a mark is found by the next full claim, which
// comes soon also while there is always more to claim above.
func TestJobsBelowTheMarksAreFound(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	more := func() { dbtest.Run(t, r.pool, "select graphile_worker.add_job('a') from generate_series(1, 40)") }
	more()
	if n := len(r.try(20, 20).Jobs); n != 20 {
		t.Fatalf("claimed %d", n)
	}
	below := r.add("'a', run_at := now() - interval '1 hour'")
	urgent := r.add("'a', priority := -9")
	queued := r.add("'a', run_at := now() - interval '2 hours', queue_name := 'q'")
	missing := map[int64]bool{below: true, urgent: true, queued: true}
	dbtest.Until(t, func() bool {
		more() // every claim is full: only time brings one that looks below the marks
		jobs := r.try(20, 20).Jobs
		if len(jobs) != 20 {
			t.Fatalf("claimed %d", len(jobs))
		}
		for _, job := range jobs {
			delete(missing, job.ID)
		}
		endings["complete"](r, jobs...)
		return len(missing) == 0
	})
}

// Marked claims start where the last one ended: they do not walk again what it had to skip.
func TestMarksSkipWhatIsAhead(t *testing.T) {
	t.Parallel()
	r, trace := tracedRig(t)
	r.slowFullClaims(1) // the next one does not follow soon
	pool := r.pool
	dbtest.Run(t, pool, "select graphile_worker.add_job('foreign', run_at := now() - interval '1 hour') from generate_series(1, 500)")
	dbtest.Run(t, pool, "select graphile_worker.add_job('a', run_at := now() - i * interval '1 second') from generate_series(1, 200) as i")
	first := r.try(20, 20).Jobs
	r.add("'a', run_at := now() - interval '2 hours'") // below the mark, where the claim does not look
	second := r.try(20, 20).Jobs
	want := []claimMarks{{Priorities: []int16{}, Lows: []time.Time{}}, {Priorities: []int16{0}, Lows: []time.Time{first[19].RunAt}}}
	if diff := cmp.Diff(want, trace.marks); diff != "" {
		t.Errorf("marks of the claims (-want +got):\n%s", diff)
	}
	if len(second) != 20 || wire.CompareJobs(first[19], second[0]) >= 0 {
		t.Error("the second claim does not go on after the first")
	}
}

// Jobs whose transaction began before a claim that left nothing, and were committed after it, are
// below the marks. Each claim goes on with them, not only every other one.
func TestLateCommitsAreClaimedOneAfterTheOther(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.slowFullClaims(1)
	tx, err := r.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dbtest.Run(t, tx, "select graphile_worker.add_job('a') from generate_series(1, 100)")
	r.add("'a'")
	r.claimOne()
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	for claim := range 5 {
		if n := len(r.try(20, 20).Jobs); n != 20 {
			t.Errorf("claim %d brought %d jobs", claim, n)
		}
	}
}

// claimTrace records the marks that claims are sent with.
type claimTrace struct{ marks []claimMarks }

type claimMarks struct {
	Priorities []int16
	Lows       []time.Time
}

func (c *claimTrace) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	if strings.Contains(data.SQL, "-- name: Claim") {
		var m claimMarks
		m.Priorities, _ = data.Args[3].([]int16)
		m.Lows, _ = data.Args[4].([]time.Time)
		c.marks = append(c.marks, m)
	}
	return ctx
}

func (*claimTrace) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// Bounded work finds what is claimable behind anything: blocked queues, foreign tasks, jobs of the
// future.
func TestClaimBehindAClog(t *testing.T) {
	t.Parallel()
	for name, clog := range map[string]string{
		"blocked queues":          "select graphile_worker.add_job('a', queue_name := 'blocked' || i % 2) from generate_series(1, 3000) as i",
		"foreign tasks":           "select graphile_worker.add_job('foreign') from generate_series(1, 3000)",
		"foreign tasks in queues": `select graphile_worker.add_job('foreign', queue_name := 'foreign' || i % 900) from generate_series(1, 3000) as i`,
		"forbidden":               "select graphile_worker.add_job('a', flags := array['f', 'x']) from generate_series(1, 3000)",
		"forbidden in queues":     "select graphile_worker.add_job('a', flags := array['f'], queue_name := 'f' || i % 900) from generate_series(1, 3000) as i",
		"forbidden, a few queues": "select graphile_worker.add_job('a', flags := array['f'], queue_name := 'f' || i) from generate_series(1, 60) as i",
		"the future":              "select graphile_worker.add_job('a', run_at := now() + interval '1 day', priority := -1) from generate_series(1, 3000)",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.forbidden = map[bool][]string{true: {"e", "f"}}[strings.HasPrefix(name, "forbidden")]
			dbtest.Run(t, r.pool, clog)
			dbtest.Run(t, r.pool, `update graphile_worker._private_job_queues set locked_at = now(), locked_by = 'pool-other'
				where queue_name like 'blocked%'`)
			var want []int64
			for i := range 50 {
				want = append(want, r.add(fmt.Sprintf("'a', queue_name := 'open%d'", i)))
				want = append(want, r.add("'a'"))
			}
			var got []int64
			for claims := 0; ; claims++ {
				claimed := r.try(20, 20)
				got = append(got, idsOf(claimed.Jobs)...)
				if !claimed.More {
					break
				}
				if claims > 200 {
					t.Fatal("the search does not end")
				}
			}
			wantIDs(t, "claimed", got, want...)
			dbtest.Run(t, r.pool, "update graphile_worker._private_job_queues set locked_at = null, locked_by = null where locked_by = 'pool-other'")
			r.wantConsistent()
		})
	}
}

// Behind thousands of blocked queues, a queue is found within a few claims also if there is room
// for one job at a time only, and free jobs take it: then the claims are rare, and each looks
// further.
func TestRareClaimsSearchFurther(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	dbtest.Run(t, r.pool, "select graphile_worker.add_job('a', queue_name := 'blocked' || i) from generate_series(1, 4000) as i")
	dbtest.Run(t, r.pool, "update graphile_worker._private_job_queues set locked_at = now(), locked_by = 'pool-other'")
	open := r.add("'a', queue_name := 'open'")
	dbtest.Run(t, r.pool, "select graphile_worker.add_job('a', priority := 1) from generate_series(1, 100)")
	for claims := 1; !r.row(open).Locked; claims++ {
		if claims > 3 {
			t.Fatalf("not found by %d claims", claims)
		}
		r.store.SearchedLongAgo()
		r.try(1, 1)
	}
}

// R14: the queues with the first jobs come first, each with the first of its jobs, behind a clog as
// well. Nothing may lean on the index that happens to have them in order: a peer's migration can
// drop it.
func TestFirstOfTheQueues(t *testing.T) {
	t.Parallel()
	for text, clog := range map[string]int{"front": 1, "deep": 400} {
		for index, change := range map[string]string{"with": "select 1", "without": "drop index graphile_worker.backfill_jobs_queue_idx"} {
			t.Run(text+", "+index+" the index", func(t *testing.T) {
				t.Parallel()
				r := newRig(t)
				dbtest.Run(t, r.pool, change)
				dbtest.Run(t, r.pool, "select graphile_worker.add_job('foreign', queue_name := 'foreign', priority := -9) from generate_series(1, $1)", clog)
				// First in each queue is its fourth job, which ties with the fifth and lies behind it in the
				// table; of the queues it is the last.
				dbtest.Run(t, r.pool, `select graphile_worker.add_job('a', json_build_object('rank', q * 10 + i), queue_name := 'q' || q,
						priority := case i when 4 then 9 when 5 then 0 else 4 - i end,
						run_at := now() - least(i, 4) * interval '1 hour' - q * interval '1 minute')
					from generate_series(1, 12) as q, generate_series(1, 5) as i`)
				dbtest.Run(t, r.pool, "update graphile_worker._private_jobs set priority = 0 where priority = 9")
				if text == "deep" {
					r.try(1, 1) // meets the clog
				}
				if got := r.store.NextClaim(); got != text {
					t.Fatalf("the next claim has the %s text", got)
				}
				var got []string
				for _, job := range r.try(5, 5).Jobs {
					got = append(got, string(job.Payload))
				}
				want := []string{`{"rank" : 124}`, `{"rank" : 114}`, `{"rank" : 104}`, `{"rank" : 94}`, `{"rank" : 84}`}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("claimed (-want +got):\n%s", diff)
				}
			})
		}
	}
}

// A front of open queues is not clogged, however few of them a claim has room for: the next one,
// when there is room, looks there.
func TestNoSearchForWantOfRoom(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	dbtest.Run(t, r.pool, "select graphile_worker.add_job('a', queue_name := 'open' || i) from generate_series(1, 500) as i")
	claimed := r.try(20, 5)
	if len(claimed.Jobs) != 5 || !claimed.MoreSerial || claimed.More {
		t.Errorf("%d jobs, held back: %v, search: %v; want 5, and no search", len(claimed.Jobs), claimed.MoreSerial, claimed.More)
	}
}

// While no jobs of queues wait, claims look for none, however the free jobs lie: at many times, or
// all at the one time of the transaction that inserted them. A queue's job that comes is seen.
func TestNoQueuesToSearch(t *testing.T) {
	t.Parallel()
	for name, runAt := range map[string]string{"one time": "now()", "many times": "now() - i * interval '1 ms'"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			dbtest.Run(t, r.pool, "select graphile_worker.add_job('a', run_at := "+runAt+") from generate_series(1, 800) as i")
			r.try(20, 20) // which is full, and sees that there are no queues
			for i := range 30 {
				if got := r.store.NextClaim(); got != "free" {
					t.Fatalf("claim %d looks for queues: its text is %q", i+2, got)
				}
				if n := len(r.try(20, 20).Jobs); n != 20 {
					t.Fatalf("claimed %d", n)
				}
			}
			queued := r.add("'a', queue_name := 'q', run_at := now() - interval '1 hour'")
			dbtest.Until(t, func() bool { // at the latest with the next full claim
				r.try(20, 20)
				return r.row(queued).Locked
			})
		})
	}
}
