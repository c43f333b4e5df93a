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
				r.died(only, worker.ReasonInterrupted, worker.ErrInterrupted.Error())
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

// A job with one attempt has started, and the database takes no outcome until the worker has stopped:
// it does not run again. The other workers find it as they find what a death with notice has left, and
// end it, with its one event. What has more attempts runs again.
func TestOneAttemptWhoseOutcomeIsNotRecorded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		only := db.add(1, wire.Job{MaxAttempts: 1, Queue: "q"})[0]
		usual := db.add(1, wire.Job{})[0]
		down := func(op string) error {
			if op == opComplete {
				return errCut
			}
			return nil
		}
		r := newRig(t, db, takes(time.Second), func(s *setup) { s.before = down })
		r.pass(500 * time.Millisecond)
		err := r.stop()
		for _, text := range []string{"the outcomes of 1 jobs were not recorded, so these jobs run again: job ids 2", "the outcomes of 1 jobs with one attempt were not recorded, so these jobs fail: job ids 1"} {
			if err == nil || !strings.Contains(err.Error(), text) {
				t.Errorf("the stop says %v, want %q", err, text)
			}
		}
		other := newRig(t, db, takes(0))
		other.pass(2 * time.Minute)
		for _, run := range other.started() {
			if run.Job == only {
				t.Error("the job with one attempt ran again")
			}
		}
		other.died(only, worker.ReasonInterrupted, worker.ErrInterrupted.Error())
		if failed := other.seen(worker.EventFailed); len(failed) != 1 || failed[0].Job.ID != only || !failed[0].Final {
			t.Errorf("events %v", failed)
		}
		if row := db.job(usual); row != nil {
			t.Errorf("the job with more attempts is left as %+v", row)
		}
	})
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
		if dead := append(others[0].seen(worker.EventDead), others[1].seen(worker.EventDead)...); len(dead) != 1 {
			t.Errorf("events %v", dead)
		}
		if letter := db.letter(only); letter == nil || letter.Attempt != 1 || letter.Reason != worker.ReasonCrashed {
			t.Errorf("the dead letter is %+v", letter)
		}
	})
}
