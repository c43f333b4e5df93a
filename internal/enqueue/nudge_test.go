package enqueue_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/internal/enqueue"
)

// nudgeRig records what a nudger sends, and when.
type nudgeRig struct {
	*enqueue.Nudger
	mu    sync.Mutex
	sent  []string
	takes time.Duration
}

func newNudgeRig() *nudgeRig {
	r := &nudgeRig{}
	started := time.Now()
	r.Nudger = enqueue.NewNudger(func(_ context.Context, jobs int) error {
		r.mu.Lock()
		r.sent = append(r.sent, fmt.Sprintf("%d at %v", jobs, time.Since(started)))
		takes := r.takes
		r.mu.Unlock()
		<-time.After(takes)
		return nil
	}, func(error) {})
	return r
}

func (r *nudgeRig) want(t *testing.T, sent ...string) {
	t.Helper()
	<-time.After(time.Second)
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	if diff := cmp.Diff(sent, r.sent); diff != "" {
		t.Errorf("nudges (-want +got):\n%s", diff)
	}
}

// R17: the first nudge goes out at once; what comes while it is under way becomes one more.
func TestNudgesFold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newNudgeRig()
		r.takes = 10 * time.Millisecond
		r.Nudge(1)
		synctest.Wait()
		for range 5 {
			r.Nudge(2)
		}
		r.want(t, "1 at 0s", "10 at 11ms")
		r.Nudge(3)
		r.want(t, "1 at 0s", "10 at 11ms", "3 at 1s")
	})
}

// R17: for a transaction whose commit we do not see, about 2, 20 and 200 ms after the enqueue,
// also when another one came before.
func TestNudgesAfterAnUnseenCommit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newNudgeRig()
		r.NudgeAfterCommit(1)
		<-time.After(100 * time.Millisecond)
		r.NudgeAfterCommit(1)
		r.want(t, "1 at 2ms", "1 at 20ms", "1 at 102ms", "1 at 120ms", "2 at 300ms")
	})
}

func TestNudgerClose(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newNudgeRig()
		r.takes = 10 * time.Millisecond
		r.Nudge(1)
		synctest.Wait()
		r.NudgeAfterCommit(1)
		begin := time.Now()
		r.Close()
		if waited := time.Since(begin); waited != 20*time.Millisecond {
			t.Errorf("Close waited %v, want until everything is sent", waited)
		}
		r.Nudge(1)
		r.want(t, "1 at 0s", "1 at 10ms")
	})
}

// A notification that an insert takes along keeps back the others for a moment only: the insert
// may wait for the server.
func TestNudgesDoNotWaitForALatePiggyback(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newNudgeRig()
		done := r.Piggyback()
		if done == nil || r.Piggyback() != nil {
			t.Fatal("want one at a time")
		}
		<-time.After(10 * time.Millisecond)
		r.Nudge(1)
		r.want(t, "1 at 20ms")
		other := r.Piggyback()
		if other == nil {
			t.Fatal("declined for one that is late")
		}
		done() // late: it does not end the other's
		r.Nudge(1)
		synctest.Wait()
		r.want(t, "1 at 20ms", "1 at 1.03s")
		other()
	})
}

// Close gives up on a notification that is not sent.
func TestNudgerCloseEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var failed error
		n := enqueue.NewNudger(func(ctx context.Context, _ int) error {
			<-ctx.Done()
			return ctx.Err()
		}, func(err error) { failed = err })
		n.Nudge(1)
		synctest.Wait()
		n.NudgeAfterCommit(1)
		began := time.Now()
		n.Close()
		if took := time.Since(began); took > 5*time.Second || failed == nil {
			t.Errorf("Close took %v; %v", took, failed)
		}
		<-time.After(time.Second) // timers of the transaction
	})
}
