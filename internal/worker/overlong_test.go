package worker_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// A handler that hangs is told of when it should have returned: by its task's timeout, or by what
// other jobs of the task have taken. That its lease is renewed does not make it look well.
func TestHandlersThatHangAreToldOf(t *testing.T) {
	t.Parallel()
	const jobs, hanging = 200, "hanging"
	for name, test := range map[string]struct {
		takes   time.Duration // each of the jobs before; 0: there are none
		slow    int           // of them, that take an hour
		timeout time.Duration
		want    time.Duration
	}{
		"the first one":        {want: 15 * time.Minute},
		"after short ones":     {takes: time.Second, want: time.Minute},
		"after long ones":      {takes: time.Minute, want: 10 * (1 << 26) * time.Microsecond},
		"after two long ones":  {takes: time.Second, slow: 2, want: time.Minute},
		"after more long ones": {takes: time.Second, slow: 3, want: 10 * (1 << 32) * time.Microsecond},
		"with a timeout":       {takes: time.Minute, timeout: 30 * time.Second, want: 35 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				db := newDB(t)
				ended := make(chan struct{})
				r := newRig(t, db, func(_ context.Context, job *wire.Job) worker.Outcome {
					switch {
					case job.Key == hanging:
						<-ended
					case job.ID <= int64(test.slow):
						<-time.After(time.Hour)
					default:
						<-time.After(test.takes)
					}
					return completed
				}, concurrency(jobs), func(s *setup) {
					if test.timeout > 0 {
						s.Timeouts = map[string]time.Duration{"task": test.timeout}
					}
				})
				if test.takes > 0 {
					db.insert(jobs, wire.Job{})
					r.pass(2 * time.Hour)
				}
				id := db.insert(1, wire.Job{Key: hanging})[0]
				synctest.Wait()
				since := time.Now()
				r.pass(test.want)
				if got := r.worker.Health().Overlong; len(got) > 0 {
					t.Errorf("after %v: %+v", test.want, got)
				}
				r.pass(time.Millisecond)
				want := []worker.OverlongJob{{ID: id, Task: "task", Since: since, Expected: test.want}}
				if diff := cmp.Diff(want, r.worker.Health().Overlong); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
				r.pass(time.Hour) // it was renewed meanwhile
				h := r.worker.Health()
				if stuck := test.timeout > 0; stuck && len(h.StuckJobs) != 1 || len(h.StuckJobs)+len(h.Overlong) != 1 {
					t.Errorf("an hour later: %+v", h)
				}
				close(ended)
				r.pass(time.Second)
				if got := r.worker.Health(); len(got.Overlong) > 0 || got.Stats.Completed == 0 {
					t.Errorf("after its end: %+v", got)
				}
			})
		})
	}
}

// Health says how far behind the worker is, and when each loop last turned.
func TestHealthSaysWhatGoesOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		oldest := time.Now().Add(-time.Hour)
		db.add(3, wire.Job{RunAt: time.Now().Add(-time.Minute)})
		db.add(1, wire.Job{RunAt: oldest, Priority: 5})
		gate := make(chan struct{})
		var blocked atomic.Bool
		r := newRig(t, db, takes(time.Minute), concurrency(4), func(s *setup) {
			s.Forbidden = func() []string {
				if blocked.Load() {
					<-gate
				}
				return nil
			}
		})
		r.pass(time.Second)
		if got := r.worker.Health(); !got.OldestDue.Equal(oldest) || got.Slots != 4 {
			t.Errorf("it works on 4 jobs, and says %+v", got)
		}
		r.pass(2 * time.Minute)
		h := r.worker.Health()
		if !h.OldestDue.IsZero() || h.Stats.Completed != 4 {
			t.Errorf("there is nothing to do, and it says %+v", h)
		}
		for loop, at := range map[string]time.Time{"claims": h.Turns.Claims, "outcomes": h.Turns.Outcomes, "heartbeats": h.Turns.Heartbeats} {
			if still := time.Since(at); still < 0 || still > time.Minute {
				t.Errorf("the loop for %s has not turned for %v", loop, still)
			}
		}
		blocked.Store(true)
		r.pass(5 * time.Minute)
		h = r.worker.Health()
		if still := time.Since(h.Turns.Claims); still < 4*time.Minute || time.Since(h.Turns.Heartbeats) > time.Minute {
			t.Errorf("claims are blocked, and it says %+v", h.Turns)
		}
		blocked.Store(false)
		close(gate)
	})
}
