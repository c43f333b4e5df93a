package worker_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// A worker claims again as soon as its Store looks again at what is paused, so that jobs start
// within 2 seconds of a pause's end, whatever it has claimed meanwhile. It does so without a
// listener too.
func TestClaimsAgainWhenPausesAreReadAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		r := newRig(t, db, takes(0), func(s *setup) {
			s.PollOnly = true
			s.answer = func(_ worker.ClaimRequest, claimed *worker.Claimed) {
				switch n := len(s.calls(opClaim)); {
				case n <= 2:
					claimed.Reread = 700 * time.Millisecond
				case n == 3:
					claimed.Reread = time.Hour // the poll does not wait for it
				}
			}
		})
		r.passUntil(6 * time.Second)
		var at []time.Duration
		for _, claim := range r.store.calls(opClaim) {
			at = append(at, claim.At)
		}
		want := []time.Duration{0, 700 * time.Millisecond, 1400 * time.Millisecond, 3400 * time.Millisecond, 5400 * time.Millisecond}
		if diff := cmp.Diff(want, at); diff != "" {
			t.Errorf("claims (-want +got):\n%s", diff)
		}
	})
}

// A worker that runs once does not wait for the end of a pause.
func TestOnceLeavesWhatIsPaused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		db.paused[fakePause{task: "sick"}] = time.Time{}
		db.paused[fakePause{queue: "q"}] = time.Now().Add(time.Hour)
		db.add(2, wire.Job{Task: "sick"})
		db.add(2, wire.Job{Queue: "q"})
		db.add(1, wire.Job{})
		r := newRig(t, db, takes(0), once, func(s *setup) {
			s.Tasks = []string{"task", "sick"}
			s.answer = func(_ worker.ClaimRequest, claimed *worker.Claimed) { claimed.Reread = time.Second }
		})
		if err := r.wait(); err != nil {
			t.Errorf("Run: %v", err)
		}
		if jobs, locked := db.left(); jobs != 4 || locked != 0 {
			t.Errorf("%d jobs are left, and %d rows locked", jobs, locked)
		}
		if took := time.Since(r.start); took > 0 {
			t.Errorf("Run returned after %v", took)
		}
	})
}
