package worker_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// A job with one attempt in all does not run twice (R9): cut at the end of a drain or by the fence,
// it has failed for good, and whoever watches is told so, once. One that has not started is given
// back.
func TestOneAttemptIsNotRepeated(t *testing.T) {
	t.Parallel()
	ignore := func(context.Context, *wire.Job) worker.Outcome {
		<-time.After(time.Hour)
		return completed
	}
	for name, test := range map[string]struct {
		handle handler
		cut    func(*rig)
	}{
		"drain":                             {forever, func(r *rig) { _ = r.stop() }},
		"drain, and the handler ignores it": {ignore, func(r *rig) { _ = r.stop() }},
		"fence": {forever, func(r *rig) {
			r.passUntil(6 * time.Second)
			r.store.silence(true)
			r.pass(14 * time.Second)
			r.store.silence(false)
			r.pass(20 * time.Second)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				db := newDB(t)
				only := db.add(1, wire.Job{MaxAttempts: 1, Queue: "q"})[0]
				usual := db.add(1, wire.Job{Queue: "p"})[0]
				r := newRig(t, db, test.handle)
				r.pass(time.Second)
				waiting := db.add(1, wire.Job{MaxAttempts: 1})[0]
				test.cut(r)
				row := db.job(only)
				if row == nil || row.Attempt != 1 || row.LockedBy != "" || !strings.HasPrefix(row.LastError, "interrupted: ") {
					t.Errorf("the job is left as %+v", row)
				}
				failed := r.seen(worker.EventFailed)
				if len(failed) != 1 || failed[0].Job.ID != only || !failed[0].Final {
					t.Errorf("events %v", failed)
				}
				if row := db.job(usual); row == nil || row.LastError != "" {
					t.Errorf("the job with more attempts is left as %+v", row)
				}
				if row := db.job(waiting); row == nil || row.LastError != "" {
					t.Errorf("the job that has not started is left as %+v", row)
				}
				<-time.After(2 * time.Hour) // for the handlers that ignore their contexts
			})
		})
	}
}

// The death of a worker is the end of such a job as an outcome of its handler is: one event and one
// line, from whoever made the change.
func TestOneAttemptEndsWithItsWorker(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		only := db.add(1, wire.Job{MaxAttempts: 1})[0]
		victim := newRig(t, db, forever)
		victim.pass(time.Second)
		var log logged
		others := []*rig{newRig(t, db, takes(0), logTo(&log)), newRig(t, db, takes(0), logTo(&log))}
		others[0].pass(10 * time.Second)
		victim.kill()
		others[0].pass(30 * time.Second)
		var failed []event
		for _, other := range others {
			failed = append(failed, other.seen(worker.EventFailed)...)
		}
		if len(failed) != 1 || failed[0].Job.ID != only || !failed[0].Final || failed[0].Err != worker.ErrCrashed { //nolint:errorlint // the very error
			t.Errorf("events %v", failed)
		}
		if lines := log.with("job ended"); len(lines) != 1 {
			t.Errorf("the log has %v", lines)
		}
		if row := db.job(only); row == nil || row.Attempt != 1 || row.LockedBy != "" {
			t.Errorf("the job is left as %+v", row)
		}
	})
}
