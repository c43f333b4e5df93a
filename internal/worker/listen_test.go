package worker_test

import (
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

func TestListenerProvesItself(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, newDB(t), takes(0))
		other := newRig(t, r.db, takes(0)) // whose pings come to both
		r.passUntil(50 * time.Second)
		var got []time.Duration
		for _, ping := range r.store.calls(opPing) {
			got = append(got, ping.At)
		}
		want := []time.Duration{0, 15 * time.Second, 30 * time.Second, 45 * time.Second}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("pings (-want +got):\n%s", diff)
		}
		if n := len(r.seen(worker.EventDisrupted)) + len(other.seen(worker.EventDisrupted)); n > 0 {
			t.Errorf("disrupted %d times", n)
		}
		if n := len(r.store.calls(opListen)); n != 1 {
			t.Errorf("connected %d times", n)
		}
		if !r.worker.Health().Listening {
			t.Error("Health says that nobody listens")
		}
	})
}

func TestUnprovenListenerReconnectsWhilePollingGoesOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		r := newRig(t, db, takes(0), func(s *setup) { s.dropped = true })
		newRig(t, db, takes(0), func(s *setup) { s.Tasks = nil }) // its pings come to both, and prove nothing
		for range 60 {
			db.add(1, wire.Job{})
			r.pass(2 * time.Second)
		}
		r.nothingLeft()
		connects := r.store.calls(opListen)
		least := 50 * time.Millisecond
		for i, c := range connects[1:] {
			gap := c.At - connects[i].At - 2500*time.Millisecond // until the proof is overdue
			if gap < least || gap > 2*least {
				t.Errorf("reconnect %d came %v after the disruption, want %v to %v", i, gap, least, 2*least)
			}
			least = min(2*least, time.Second)
		}
		if len(connects) < 12 {
			t.Errorf("connected %d times in 2 minutes", len(connects))
		}
		if err := r.seen(worker.EventDisrupted)[0].Err; err == nil || !strings.Contains(err.Error(), "did not come back") {
			t.Errorf("observed %v", err)
		}
	})
}

// A worker without a listener, because it was told so or because it cannot listen behind a
// transaction pooler, polls: it opens no connection for notifications, sends none to itself, and
// looks at the schema by itself. It says so once, unless it was told.
func TestPollOnly(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(*setup)
		says   []string
	}{
		"told":             {func(s *setup) { s.PollOnly = true }, nil},
		"pooled":           {func(s *setup) { s.pooled = true }, []string{"pooler=transaction", "WithListenURL", "within 2 seconds"}},
		"pooled, and told": {func(s *setup) { s.pooled, s.PollOnly = true, true }, []string{"pooler=transaction"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				db := newDB(t)
				var log strings.Builder
				var tooOld atomic.Bool
				r := newRig(t, db, takes(0), test.change, func(s *setup) {
					s.Logger = slog.New(slog.NewTextHandler(&log, nil))
					s.before = func(op string) error {
						if op == opSchema && tooOld.Load() {
							return errors.New("a migration that stops this version")
						}
						return nil
					}
				})
				r.passUntil(10 * time.Second)
				db.add(1, wire.Job{})
				r.pass(2*time.Second + time.Millisecond)
				r.nothingLeft()
				if n := len(r.store.calls(opListen)) + len(r.store.calls(opPing)); n > 0 {
					t.Errorf("%d calls about notifications", n)
				}
				if h := r.worker.Health(); h.Listening || !h.PollOnly {
					t.Errorf("Health says %+v", h)
				}
				r.pass(time.Minute)
				for _, part := range test.says {
					if strings.Count(log.String(), part) != 1 {
						t.Errorf("not once in the log: %q", part)
					}
				}
				if lines := strings.Count(log.String(), "\n"); lines != 1 && (len(test.says) < 2 || lines != 2) {
					t.Errorf("the log has %d lines:\n%s", lines, &log)
				}
				tooOld.Store(true)
				r.pass(16 * time.Second)
				if state := r.worker.Health().State; state != worker.StateStopped {
					t.Fatalf("16 s after a migration that stops this version, it is %s", state)
				}
				if err := r.wait(); err == nil || !strings.Contains(err.Error(), "stops this version") {
					t.Errorf("after a migration Run returns %v", err)
				}
			})
		})
	}
}

func TestLostConnectionIsMadeUpByAClaim(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		r := newRig(t, db, takes(0))
		broken := errors.New("connection reset")
		for range 5 { // each after a proof: waits don't grow
			r.pass(time.Second + 137*time.Millisecond)
			db.breakListeners(broken)
			synctest.Wait()
			if r.worker.Health().Listening {
				t.Error("Health says that somebody listens")
			}
			db.insert(1, wire.Job{})
			r.pass(100 * time.Millisecond)
			r.nothingLeft()
		}
		for _, e := range r.seen(worker.EventDisrupted) {
			if !errors.Is(e.Err, broken) {
				t.Errorf("observed %v", e.Err)
			}
		}
		r.noPoll()
	})
}

func TestConnectErrorsBackOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		var refused atomic.Bool
		refused.Store(true)
		r := newRig(t, db, takes(0), func(s *setup) {
			s.before = func(op string) error {
				if op == opListen && refused.Load() {
					return errors.New("connection refused")
				}
				return nil
			}
		})
		db.add(1, wire.Job{})
		r.pass(time.Minute)
		r.nothingLeft()
		if n := len(r.store.calls(opListen)); n < 30 || n > 60 {
			t.Errorf("%d tries to connect in a minute", n)
		}
		refused.Store(false)
		r.pass(5 * time.Second)
		if !r.worker.Health().Listening {
			t.Error("nobody listens")
		}
	})
}

func TestBreakingMigrationStopsTheWorker(t *testing.T) {
	t.Parallel()
	breaking := errors.New("this build is too old for the schema")
	for name, change := range map[string]func(*setup){
		"idle": func(*setup) {},
		"claiming without a pause": func(s *setup) {
			s.latency[opClaim] = time.Millisecond
			s.answer = func(_ worker.ClaimRequest, claimed *worker.Claimed) { claimed.More = true }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var tooOld atomic.Bool
				r := newRig(t, newDB(t), takes(0), change, func(s *setup) {
					s.before = func(op string) error {
						if op == opSchema && tooOld.Load() {
							return breaking
						}
						return nil
					}
				})
				r.pass(time.Second)
				r.db.notify(worker.Notification{Kind: worker.NotifyMigrate})
				r.pass(time.Second)
				if h := r.worker.Health(); h.State != worker.StateRunning {
					t.Fatal("stopped by a migration that it can work on")
				}
				tooOld.Store(true)
				r.db.notify(worker.Notification{Kind: worker.NotifyMigrate})
				r.pass(time.Second)
				if h := r.worker.Health(); h.State != worker.StateStopped {
					t.Error("goes on")
				}
				if err := r.stop(); !errors.Is(err, breaking) {
					t.Errorf("Run: %v", err)
				}
			})
		})
	}
}

// A migration whose notification came while nobody listened is found when the listener is back.
func TestBreakingMigrationWhileDisconnected(t *testing.T) {
	t.Parallel()
	breaking := errors.New("this build is too old for the schema")
	synctest.Test(t, func(t *testing.T) {
		var tooOld atomic.Bool
		r := newRig(t, newDB(t), takes(0), func(s *setup) {
			s.before = func(op string) error {
				if op == opSchema && tooOld.Load() {
					return breaking
				}
				return nil
			}
		})
		r.pass(time.Second)
		tooOld.Store(true)
		r.db.breakListeners(errors.New("connection reset"))
		r.pass(time.Second)
		if err := r.stop(); !errors.Is(err, breaking) {
			t.Errorf("Run: %v", err)
		}
	})
}
