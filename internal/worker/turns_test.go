package worker_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/backfillhq/go/internal/wire"
)

// A worker is stuck when something in its process blocks it, and not when the database does,
// however long that takes, nor while it has nothing to do.
func TestStuck(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(*setup)
		begin  func(*rig)
		want   string // from the 12th minute on
	}{
		"idle":   {func(*setup) {}, func(*rig) {}, ""},
		"outage": {func(*setup) {}, func(r *rig) { r.store.silence(true) }, ""},
		"full": {func(*setup) {}, func(r *rig) {
			r.store.mu.Lock()
			defer r.store.mu.Unlock()
			r.store.full = r.start.Add(2 * time.Minute)
		}, "none has come back for"},
		"blocked": {func(s *setup) {
			s.Forbidden = func() []string {
				if time.Since(s.start) > time.Minute {
					<-s.Context.Done()
				}
				return nil
			}
		}, func(*rig) {}, "has stood still for"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				db := newDB(t)
				db.add(5, wire.Job{})
				r := newRig(t, db, takes(time.Millisecond), test.change)
				r.pass(10 * time.Second)
				test.begin(r)
				for range 13 {
					r.pass(5 * time.Minute)
					if got := r.worker.Health().Stuck; (got != "") != (test.want != "" && time.Since(r.start) > 12*time.Minute) ||
						got != "" && !strings.Contains(got, test.want) {
						t.Errorf("after %v it says %q", time.Since(r.start), got)
					}
				}
				r.store.silence(false)
			})
		})
	}
}
