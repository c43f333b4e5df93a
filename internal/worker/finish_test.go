package worker_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// failing makes the first n statements of one kind fail, before or after they take effect.
func failing(op string, n int, applied bool) func(*setup) {
	return func(s *setup) {
		fault := func(sent string) error {
			if sent != op || n == 0 {
				return nil
			}
			n--
			return errors.New("connection lost")
		}
		if applied {
			s.after = fault
		} else {
			s.before = fault
		}
	}
}

// stats checks what the worker says it has recorded.
func (r *rig) stats(want worker.Stats) {
	r.t.Helper()
	if diff := cmp.Diff(want, r.worker.Health().Stats); diff != "" {
		r.t.Errorf("stats (-want +got):\n%s", diff)
	}
}

func TestOutcomesGatherWhileAFlushIsInFlight(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		db.add(10, wire.Job{})
		handle := func(_ context.Context, job *wire.Job) worker.Outcome {
			<-time.After(time.Duration(job.ID) * 1001 * time.Microsecond)
			return completed
		}
		r := newRig(t, db, handle, concurrency(10), latency(opComplete, 4500*time.Microsecond))
		r.pass(time.Second)
		type flush struct {
			At   time.Duration
			Jobs []int64
		}
		var got []flush
		for _, c := range r.store.calls(opComplete) {
			got = append(got, flush{c.At, c.Jobs})
		}
		want := []flush{ // the first at once, each other as soon as the one before it is done
			{1001 * time.Microsecond, []int64{1}},
			{5501 * time.Microsecond, []int64{2, 3, 4, 5}},
			{10_001 * time.Microsecond, []int64{6, 7, 8, 9}},
			{14_501 * time.Microsecond, []int64{10}},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("flushes (-want +got):\n%s", diff)
		}
		r.nothingLeft()
		r.stats(worker.Stats{Completed: 10})
	})
}

func TestFlushErrorsLoseAndDoubleNothing(t *testing.T) {
	t.Parallel()
	for name, applied := range map[string]bool{"not applied": false, "applied": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				db := newDB(t)
				db.add(20, wire.Job{})
				db.add(5, wire.Job{Queue: "a"})
				r := newRig(t, db, takes(time.Millisecond), concurrency(4), failing(opComplete, 4, applied))
				r.pass(10 * time.Second)
				r.nothingLeft()
				r.stats(worker.Stats{Completed: 25}) // what was applied all the same isn't taken for lost
				if n := len(r.seen(worker.EventFlushError)); n != 4 {
					t.Errorf("observed %d errors", n)
				}
				if n := len(r.seen(worker.EventLeaseLost)); n != 0 {
					t.Errorf("observed %d lost leases", n)
				}
				if n := r.sum(worker.EventCompleted); n != 25 {
					t.Errorf("observed %d completed", n)
				}
			})
		})
	}
}

func TestOneFailingStatementDoesNotHoldUpTheOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		failed := db.add(1, wire.Job{})[0]
		db.add(9, wire.Job{})
		handle := func(_ context.Context, job *wire.Job) worker.Outcome {
			<-time.After(time.Millisecond)
			if job.ID == failed {
				return worker.Outcome{Kind: worker.OutcomeFailed, Text: "no", Delay: time.Hour}
			}
			return completed
		}
		r := newRig(t, db, handle, concurrency(10), failing(opFail, 3, false))
		r.passUntil(5 * time.Millisecond)
		if jobs, _ := db.left(); jobs != 1 {
			t.Errorf("%d jobs are left while one can't be recorded", jobs)
		}
		r.pass(5 * time.Second)
		if job := db.job(failed); job.LockedBy != "" || job.LastError != "no" || job.Attempt != 1 {
			t.Errorf("the failure left %+v", job)
		}
		r.stats(worker.Stats{Completed: 9, Failed: 1})
	})
}

// An outcome that makes its statement fail is soon alone (R19).
func TestOneBadOutcomeDoesNotHoldUpTheOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		db.add(50, wire.Job{})
		r := newRig(t, db, func(context.Context, *wire.Job) worker.Outcome {
			<-time.After(time.Millisecond)
			return worker.Outcome{Kind: worker.OutcomeFailed, Text: "no", Delay: time.Hour}
		}, concurrency(50), latency(opFail, time.Millisecond), func(s *setup) { s.poison = 20 })
		r.passUntil(time.Minute)
		if _, locked := db.left(); locked != 1 {
			t.Errorf("%d rows are locked", locked)
		}
		r.stats(worker.Stats{Failed: 49})
		db.unlock(20)
		r.store.mu.Lock()
		r.store.poison = 0
		r.store.mu.Unlock()
	})
}

// Rows that somebody else has locked wait apart, and are recorded once they are free (R16).
func TestBusyRowsWaitApart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		busy := db.add(1, wire.Job{Queue: "a"})[0]
		db.add(1, wire.Job{Queue: "a"})
		db.add(100, wire.Job{})
		handle := func(_ context.Context, job *wire.Job) worker.Outcome {
			db.update(busy, func(row *fakeJob) { row.Busy = true })
			<-time.After(time.Millisecond)
			return completed
		}
		r := newRig(t, db, handle)
		r.passUntil(2500 * time.Millisecond)
		if jobs, _ := db.left(); jobs != 2 {
			t.Errorf("%d jobs are left, want the busy one and the next of its queue", jobs)
		}
		if n := len(r.seen(worker.EventBusy)); n < 8 || n > 20 { // 1 ms, doubling, up to 500 ms, each at random down to half
			t.Errorf("the busy row was tried %d times", n)
		}
		db.update(busy, func(row *fakeJob) { row.Busy = false })
		r.pass(time.Second)
		r.nothingLeft()
		r.stats(worker.Stats{Completed: 102})
		if n := r.sum(worker.EventCompleted); n != 102 {
			t.Errorf("observed %d completed", n)
		}
	})
}

// While ever more rows are found busy, those that are free again are recorded.
func TestBusyRowsDoNotStarve(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		db.add(240, wire.Job{})
		handle := func(_ context.Context, job *wire.Job) worker.Outcome {
			db.update(job.ID, func(row *fakeJob) { row.Busy = true })
			<-time.After(time.Millisecond)
			return completed
		}
		r := newRig(t, db, handle)
		r.passUntil(50 * time.Millisecond)
		db.update(1, func(row *fakeJob) { row.Busy = false })
		r.passUntil(120 * time.Millisecond)
		if db.job(1) != nil {
			t.Error("a row that is free for 70 ms isn't recorded")
		}
		r.pass(time.Second)
		db.mu.Lock()
		for _, job := range db.jobs {
			job.Busy = false
		}
		db.mu.Unlock()
		r.pass(2 * time.Second)
		r.nothingLeft()
	})
}

func TestLostLeasesAreReportedOnceAndNotCounted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		db.add(10, wire.Job{})
		handle := func(_ context.Context, job *wire.Job) worker.Outcome {
			<-time.After(time.Millisecond)
			if job.ID == 3 || job.ID == 7 {
				db.update(job.ID, func(row *fakeJob) { row.LockedBy, row.Attempt = "somebody", row.MaxAttempts })
			}
			return completed
		}
		r := newRig(t, db, handle)
		r.pass(time.Second)
		r.stats(worker.Stats{Completed: 8, Lost: 2})
		lost := make(map[int64]int)
		for _, e := range r.seen(worker.EventLeaseLost) {
			lost[e.Job.ID]++
		}
		if diff := cmp.Diff(map[int64]int{3: 1, 7: 1}, lost); diff != "" {
			t.Errorf("lost leases (-want +got):\n%s", diff)
		}
		if n := r.sum(worker.EventCompleted); n != 8 {
			t.Errorf("observed %d completed", n)
		}
		if h := r.worker.Health(); h.Unrecorded != 0 {
			t.Errorf("%d jobs are unrecorded", h.Unrecorded)
		}
	})
}

func TestOutcomesReachTheRow(t *testing.T) {
	t.Parallel()
	because := errors.New("no")
	type row struct {
		Attempt   int
		Wait      time.Duration
		LastError string
		Payload   string
	}
	for name, test := range map[string]struct {
		outcome worker.Outcome
		want    row
		stats   worker.Stats
		event   worker.EventKind
	}{
		"failed": {
			worker.Outcome{Kind: worker.OutcomeFailed, Err: because, Text: "no", Delay: time.Hour},
			row{1, time.Hour, "no", "{}"},
			worker.Stats{Failed: 1},
			worker.EventFailed,
		},
		"failed in part": {
			worker.Outcome{Kind: worker.OutcomeFailed, Err: because, Text: "no", Delay: time.Hour, Payload: []byte("[2]")},
			row{1, time.Hour, "no", "[2]"},
			worker.Stats{Failed: 1},
			worker.EventFailed,
		},
		"exhausted": {
			worker.Outcome{Kind: worker.OutcomeExhausted, Err: because, Text: "no"},
			row{1, 0, "no", "{}"},
			worker.Stats{Failed: 1, Exhausted: 1},
			worker.EventFailed,
		},
		"snoozed": {
			worker.Outcome{Kind: worker.OutcomeSnoozed, Delay: time.Minute},
			row{0, time.Minute, "", "{}"},
			worker.Stats{Snoozed: 1},
			worker.EventSnoozed,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				db := newDB(t)
				id := db.add(1, wire.Job{Payload: []byte("{}")})[0]
				r := newRig(t, db, func(context.Context, *wire.Job) worker.Outcome { return test.outcome })
				r.pass(time.Second)
				job := db.job(id)
				if test.outcome.Kind == worker.OutcomeExhausted {
					r.died(id, worker.ReasonPermanent, "no")
					job = &fakeJob{Job: db.letter(id).Job, LastError: db.letter(id).LastError}
				}
				got := row{job.Attempt, job.RunAt.Sub(r.start), job.LastError, string(job.Payload)}
				if diff := cmp.Diff(test.want, got); diff != "" || job.LockedBy != "" {
					t.Errorf("row, locked by %q (-want +got):\n%s", job.LockedBy, diff)
				}
				r.stats(test.stats)
				events := r.seen(test.event)
				if len(events) != 1 || events[0].Job.ID != id || !errors.Is(events[0].Err, test.outcome.Err) || events[0].Delay != test.outcome.Delay {
					t.Errorf("observed %+v", events)
				}
			})
		})
	}
}

// While outcomes can't be recorded, claims stop at a bound; when they can again, work goes on at
// once.
func TestUnrecordedOutcomesAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		db.add(6000, wire.Job{})
		r := newRig(t, db, takes(100*time.Microsecond), concurrency(10), latency(opComplete, 20*time.Millisecond))
		most := 0
		for range 1000 {
			r.pass(2 * time.Millisecond)
			most = max(most, r.worker.Health().Unrecorded)
			if jobs, _ := db.left(); jobs == 0 {
				break
			}
		}
		if most > 4000 { // 2000, and what was claimed before
			t.Errorf("%d jobs were unrecorded", most)
		}
		r.nothingLeft()
		if took := time.Since(r.start); took > 350*time.Millisecond { // 12 flushes of 20 ms are the least
			t.Errorf("took %v", took)
		}
	})
}
