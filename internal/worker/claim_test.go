package worker_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// watch calls check with each claim and the worker's health when it is sent.
func watch(check func(worker.ClaimRequest, worker.Health)) func(*setup) {
	return func(s *setup) { s.request = check }
}

func TestSlowJobsAreClaimedForFreeSlotsOnly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		db.add(50, wire.Job{})
		r := newRig(t, db, takes(1017*time.Millisecond), concurrency(4), latency(opComplete, 100*time.Millisecond), watch(func(request worker.ClaimRequest, h worker.Health) {
			if h.Running+h.Buffered+request.Batch > 4 {
				t.Errorf("claim of %d jobs while %d run and %d wait to start", request.Batch, h.Running, h.Buffered)
			}
		}))
		r.passUntil(14 * time.Second)
		r.nothingLeft()
		for i, at := range r.times() { // no slot was ever idle
			if want := time.Duration(i/4) * 1017 * time.Millisecond; at != want {
				t.Fatalf("job %d started after %v, want %v", i, at, want)
			}
		}
	})
}

func TestFastJobsAreClaimedInFullBatches(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		db.add(6000, wire.Job{})
		r := newRig(t, db, takes(time.Millisecond), concurrency(20), latency(opClaim, time.Millisecond), latency(opComplete, time.Millisecond))
		r.pass(time.Second)
		r.nothingLeft()
		full := 0
		for _, claim := range r.store.calls(opClaim) {
			if len(claim.Jobs) == 500 {
				full++
			}
		}
		if full < 8 { // of the 12 that would hold them all
			t.Errorf("%d claims were full", full)
		}
		runs := r.started()
		if took := runs[len(runs)-1].At; took > 400*time.Millisecond { // 300 ms is what the handlers take
			t.Errorf("the last job started after %v", took)
		}
	})
}

func TestStuckSlotsEndPrefetching(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		unstick := make(chan struct{})
		goOn := sync.OnceFunc(func() { close(unstick) })
		defer goOn()
		stuck := db.add(2, wire.Job{Priority: 5})
		handle := func(_ context.Context, job *wire.Job) worker.Outcome {
			if slices.Contains(stuck, job.ID) {
				<-unstick
			}
			<-time.After(time.Millisecond)
			return completed
		}
		db.add(500, wire.Job{})
		behind := db.add(300, wire.Job{Priority: 10})
		r := newRig(t, db, handle)
		r.pass(time.Second)
		if h := r.worker.Health(); h.Running != 2 || h.Buffered != 0 {
			t.Fatalf("%d jobs run and %d wait to start, want 2 and 0", h.Running, h.Buffered)
		}
		if r.sum(worker.EventReturned) == 0 {
			t.Error("nothing was given back: the test did not get where it wanted")
		}
		for _, id := range behind {
			if job := db.job(id); job.Attempt != 0 || job.LockedBy != "" || !job.RunAt.Equal(r.start) {
				t.Fatalf("job was given back as %+v", job)
			}
		}
		claims := len(r.store.calls(opClaim))
		r.pass(10 * time.Second)
		if more := len(r.store.calls(opClaim)) - claims; more > 0 {
			t.Errorf("%d claims while every slot was stuck", more)
		}
		goOn()
		r.pass(time.Second)
		r.nothingLeft()
		r.noPoll()
	})
}

// A claimed job that has not started after 250 ms is given back, keeps its place, and is there for
// others at once (R23).
func TestUnstartedJobsAreGivenBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		db.add(300, wire.Job{})
		slow := db.add(1, wire.Job{Priority: 1})[0]
		behind := db.add(10, wire.Job{Priority: 2})
		handle := func(_ context.Context, job *wire.Job) worker.Outcome {
			if job.ID == slow {
				return takes(time.Minute)(t.Context(), job)
			}
			return takes(time.Millisecond)(t.Context(), job)
		}
		r := newRig(t, db, handle, concurrency(1))
		r.passUntil(time.Second)
		releases := r.store.calls(opRelease)
		if len(releases) == 0 {
			t.Fatal("nothing was given back")
		}
		claimedAt := time.Duration(0)
		for _, claim := range r.store.calls(opClaim) {
			if slices.Contains(claim.Jobs, releases[0].Jobs[0]) {
				claimedAt = claim.At
			}
		}
		if waited := releases[0].At - claimedAt; waited != 250*time.Millisecond {
			t.Errorf("given back %v after the claim, want 250ms", waited)
		}
		other := newRig(t, db, takes(time.Millisecond))
		other.pass(100 * time.Millisecond)
		if got := len(other.started()); got != len(behind) {
			t.Errorf("another worker started %d jobs, want the %d that were given back", got, len(behind))
		}
		r.pass(time.Minute)
		r.nothingLeft()
	})
}

func TestQueuedJobsAreClaimedForFreeSlotsOnly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		for i := range 200 { // among many free jobs, which are claimed far ahead
			db.add(10, wire.Job{RunAt: time.Now().Add(time.Duration(i-200) * time.Second)})
			db.add(1, wire.Job{RunAt: time.Now().Add(time.Duration(i-200) * time.Second), Queue: string(rune('a' + i%20))})
		}
		var ahead atomic.Int64
		r := newRig(t, db, takes(2*time.Millisecond), concurrency(4), watch(func(request worker.ClaimRequest, h worker.Health) {
			ahead.Store(max(ahead.Load(), int64(request.Batch)))
			free := max(0, 4-h.Running-h.Buffered)
			if request.Serial > free+5 { // the rate is 4 per 2 ms, and measured
				t.Errorf("claim of %d jobs of queues while %d slots are free", request.Serial, free)
			}
		}))
		r.pass(3 * time.Second)
		if ahead.Load() < 50 {
			t.Errorf("the greatest claim asked for %d jobs: nothing was prefetched", ahead.Load())
		}
		r.nothingLeft()
		r.noPoll()
	})
}

// Queues wait because no slot is free for them. They are claimed as soon as one is, though nothing
// else asks for it.
func TestHeldBackQueuesAreClaimedWhenThereIsRoom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		db.add(20, wire.Job{})
		for _, queue := range []string{"a", "b", "c"} {
			db.add(1, wire.Job{Queue: queue, Priority: 1})
		}
		r := newRig(t, db, takes(10*time.Millisecond), concurrency(1))
		r.passUntil(230 * time.Millisecond)
		r.nothingLeft()
		r.noPoll()
	})
}

func TestBufferIsBoundedByBytes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		db.add(2000, wire.Job{Payload: make([]byte, 1<<20)})
		var most atomic.Int64
		r := newRig(t, db, takes(time.Millisecond), concurrency(100), func(s *setup) {
			s.answer = func(_ worker.ClaimRequest, claimed *worker.Claimed) {
				most.Store(max(most.Load(), int64(len(claimed.Jobs)+s.health().Buffered)))
			}
		})
		r.pass(time.Second)
		if most := most.Load(); most > 16 || most < 8 {
			t.Errorf("up to %d jobs of 1 MB were claimed and not started, want 8 to 16", most)
		}
		r.nothingLeft()
	})
}

func TestJobsStartInOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // a test's schedule
		for range 1000 {
			db.add(1, wire.Job{
				Priority: int16(random.IntN(3)), //nolint:gosec // small
				RunAt:    time.Now().Add(-time.Duration(random.IntN(100)) * time.Second),
			})
		}
		var order []*wire.Job
		handle := func(_ context.Context, job *wire.Job) worker.Outcome {
			order = append(order, job)
			return takes(time.Millisecond)(t.Context(), job)
		}
		r := newRig(t, db, handle, concurrency(1))
		r.pass(3 * time.Second)
		r.nothingLeft()
		if !slices.IsSortedFunc(order, wire.CompareJobs) {
			t.Error("jobs did not start in the order (priority, run_at, id)")
		}
	})
}

// A job that is claimed later and comes first overtakes those that wait in the buffer.
func TestOrderHoldsAcrossClaims(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		db.add(2000, wire.Job{Priority: 5})
		r := newRig(t, db, takes(time.Millisecond), concurrency(1))
		r.pass(500*time.Millisecond + time.Microsecond)
		var urgent []int64
		var claimed int
		for range 10 {
			urgent = append(urgent, db.insert(1, wire.Job{})...)
			r.pass(40 * time.Millisecond)
		}
		for _, claim := range r.store.calls(opClaim) {
			for _, id := range claim.Jobs {
				if !slices.Contains(urgent, id) {
					continue
				}
				runs := r.started()
				i := slices.IndexFunc(runs, func(s started) bool { return s.Job == id })
				if i < 0 {
					t.Fatalf("job %d was claimed and did not start", id)
				}
				if late := runs[i].At - claim.At; late > time.Millisecond {
					t.Errorf("started %v after its claim, behind jobs that come later", late)
				}
				if len(claim.Jobs) > 1 {
					claimed++
				}
			}
		}
		if claimed == 0 {
			t.Error("nothing was claimed with the urgent jobs: the buffer was empty")
		}
	})
}

func TestClaimErrorsBackOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		db.add(1, wire.Job{})
		broken := errors.New("connection refused")
		var fails atomic.Bool
		fails.Store(true)
		r := newRig(t, db, takes(0), func(s *setup) {
			s.before = func(op string) error {
				if op == opClaim && fails.Load() {
					return broken
				}
				return nil
			}
		})
		r.pass(time.Minute)
		errs := r.seen(worker.EventClaimError)
		if len(errs) < 30 || len(errs) > 60 { // 100 ms, doubling, up to 2 s, each halved at random
			t.Errorf("%d claims in a minute of errors", len(errs))
		}
		if !errors.Is(errs[0].Err, broken) {
			t.Errorf("observed %v", errs[0].Err)
		}
		var numbers []uint64
		for _, claim := range r.store.calls(opClaim) {
			numbers = append(numbers, claim.Request.Number)
		}
		if unique := slices.Compact(slices.Sorted(slices.Values(numbers))); !slices.Equal(unique, numbers) {
			t.Errorf("claim numbers %v", numbers)
		}
		fails.Store(false)
		r.pass(5 * time.Second)
		r.nothingLeft()
	})
}

func TestIdleWorkerOnlyPolls(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, newDB(t), takes(0))
		r.passUntil(time.Minute - time.Second)
		want := []time.Duration{0, 0} // at the start, and when the listener is connected
		for at := 2 * time.Second; at < time.Minute-time.Second; at += 2 * time.Second {
			want = append(want, at)
		}
		var got []time.Duration
		for _, claim := range r.store.calls(opClaim) {
			got = append(got, claim.At)
		}
		if len(got) < len(want) { // the listener may be faster than the first claim
			want = want[1:]
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("claims (-want +got):\n%s", diff)
		}
	})
}

// A worker starts on a machine that is so busy that it takes 10 seconds.
func TestAStartHasTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		db.add(1, wire.Job{})
		r := newRig(t, db, takes(0), func(s *setup) { s.latency[opRegister] = 10 * time.Second })
		r.passUntil(12 * time.Second)
		r.stats(worker.Stats{Completed: 1})
	})
}
