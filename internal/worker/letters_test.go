package worker_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

func fails(kind worker.OutcomeKind) handler {
	return func(context.Context, *wire.Job) worker.Outcome {
		return worker.Outcome{Kind: kind, Err: errors.New("no"), Text: "no", Delay: time.Hour}
	}
}

// Each way into the dead letters is told by one event, from the worker that made the move.
func TestEachWayIntoTheDeadLettersIsTold(t *testing.T) {
	t.Parallel()
	for reason, test := range map[worker.Reason]struct {
		text string
		die  func(*testing.T, *fakeDB) (id int64, fleet []*rig)
	}{
		worker.ReasonExhausted: {"no", func(t *testing.T, db *fakeDB) (int64, []*rig) { //nolint:thelper // a case
			id := db.add(1, wire.Job{MaxAttempts: 1})[0]
			r := newRig(t, db, fails(worker.OutcomeFailed))
			r.pass(time.Second)
			return id, []*rig{r}
		}},
		worker.ReasonPermanent: {"no", func(t *testing.T, db *fakeDB) (int64, []*rig) { //nolint:thelper // a case
			id := db.add(1, wire.Job{})[0]
			r := newRig(t, db, fails(worker.OutcomeExhausted))
			r.pass(time.Second)
			return id, []*rig{r}
		}},
		worker.ReasonInterrupted: {worker.ErrInterrupted.Error(), func(t *testing.T, db *fakeDB) (int64, []*rig) { //nolint:thelper // a case
			id := db.add(1, wire.Job{MaxAttempts: 1})[0]
			r := newRig(t, db, forever)
			r.pass(time.Second)
			if err := r.stop(); err != nil {
				t.Error(err)
			}
			return id, []*rig{r}
		}},
		worker.ReasonCrashed: {worker.ErrCrashed.Error(), func(t *testing.T, db *fakeDB) (int64, []*rig) { //nolint:thelper // a case
			id := db.add(1, wire.Job{MaxAttempts: 1})[0]
			victim := newRig(t, db, forever)
			victim.pass(time.Second)
			fleet := []*rig{victim, newRig(t, db, takes(0)), newRig(t, db, takes(0))}
			victim.pass(10 * time.Second)
			victim.kill()
			victim.pass(time.Minute)
			return id, fleet
		}},
		worker.ReasonSwept: {"of Node", func(t *testing.T, db *fakeDB) (int64, []*rig) { //nolint:thelper // a case
			id := db.add(1, wire.Job{Attempt: 25})[0]
			db.update(id, func(job *fakeJob) { job.LastError, job.FailedAt = "of Node", time.Now().Add(-2*time.Hour) })
			fleet := []*rig{newRig(t, db, takes(0)), newRig(t, db, takes(0))}
			fleet[0].pass(time.Minute)
			return id, fleet
		}},
	} {
		t.Run(string(reason), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				db := newDB(t)
				id, fleet := test.die(t, db)
				if letter := db.letter(id); letter == nil || letter.Reason != reason || letter.LastError != test.text || db.job(id) != nil {
					t.Errorf("dead letter %+v, and job %+v", letter, db.job(id))
				}
				said := 0
				for _, r := range fleet {
					for _, e := range r.seen(worker.EventDead) {
						if said++; e.Job.ID != id || e.Reason != reason || e.Job.Task != "task" {
							t.Errorf("event %+v", e)
						}
					}
				}
				if said != 1 {
					t.Errorf("%d events, want 1", said)
				}
			})
		})
	}
}

// A statement that has made dead letters, and whose answer is lost, is made again: it finds them, and
// they are told once.
func TestDeadLettersOfALostAnswerAreToldOnce(t *testing.T) {
	t.Parallel()
	for name, applied := range map[string]bool{"not applied": false, "applied": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				db := newDB(t)
				jobs := db.add(5, wire.Job{MaxAttempts: 1})
				r := newRig(t, db, fails(worker.OutcomeFailed), failing(opFail, 3, applied))
				r.pass(10 * time.Second)
				for _, id := range jobs {
					r.died(id, worker.ReasonExhausted, "no")
				}
				r.stats(worker.Stats{Failed: 5, Exhausted: 5})
			})
		})
	}
}

// A dead letter that the server refuses in every form leaves the job as it would be without dead
// letters, with its error: it is recorded (R19). The sweep tries again, and tells of it.
func TestRefusedDeadLetterIsRecorded(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		refuse func(worker.Outcome) bool
		want   string
	}{
		"the dead letter":              {func(o worker.Outcome) bool { return o.Reason != "" }, "5 ? short"},
		"the dead letter and the text": {func(o worker.Outcome) bool { return o.Reason != "" || o.Text != "" }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				db := newDB(t)
				bad, fine := db.add(1, wire.Job{MaxAttempts: 1})[0], db.add(30, wire.Job{})
				r := newRig(t, db, func(_ context.Context, job *wire.Job) worker.Outcome {
					<-time.After(time.Millisecond)
					if job.ID != bad {
						return completed
					}
					return worker.Outcome{Kind: worker.OutcomeFailed, Text: "5 € short", Delay: time.Hour}
				}, concurrency(31), func(s *setup) { s.refuse = test.refuse })
				r.pass(time.Second)
				if job := db.job(bad); job == nil || job.LockedBy != "" || job.LastError != test.want || job.Attempt != 1 {
					t.Fatalf("the job is left as %+v", job)
				}
				r.stats(worker.Stats{Completed: int64(len(fine)), Failed: 1, Exhausted: 1})
				if said := r.seen(worker.EventDead); len(said) > 0 {
					t.Errorf("events %+v, want none", said)
				}
				if test.want != "" {
					r.pass(2 * time.Hour)
					r.died(bad, worker.ReasonSwept, test.want)
				}
			})
		})
	}
}

// Without dead letters failed jobs stay, nothing tells of dead letters, and old ones are left to
// others. So are they with a retention of 0.
func TestWithoutDeadLettersNothingMoves(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		letters   bool
		retention time.Duration
		expires   bool
	}{
		"without": {false, time.Hour, false}, "for ever": {true, 0, false}, "for an hour": {true, time.Hour, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				db := newDB(t)
				id := db.add(1, wire.Job{})[0]
				var log logged
				r := newRig(t, db, fails(worker.OutcomeExhausted), logTo(&log), func(s *setup) { s.DeadLetters, s.Retention = test.letters, test.retention })
				r.pass(3 * time.Hour)
				if job := db.job(id); (job != nil && job.Attempt == 25 && job.LastError == "no") == test.letters {
					t.Errorf("the job is left as %+v", job)
				}
				if expired := len(r.store.calls(opExpire)) > 0; expired != test.expires || r.sum(worker.EventExpired) > 0 != test.expires {
					t.Errorf("old dead letters are deleted: %v, and told of: %d", expired, r.sum(worker.EventExpired))
				}
				if n := len(log.with("deleted old dead letters")); n > 0 != test.expires {
					t.Errorf("%d lines", n)
				}
				if lines := log.with("job ended"); len(lines) != 1 || strings.Contains(lines[0], "dead_letter=permanent") != test.letters {
					t.Errorf("lines %q", lines)
				}
			})
		})
	}
}

// The line about a job's end says that it is a dead letter. If only the database knew, another one
// does.
func TestDeadLettersAreLoggedOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		known, raised := db.add(1, wire.Job{MaxAttempts: 1})[0], db.add(1, wire.Job{})[0]
		var log logged
		r := newRig(t, db, func(_ context.Context, job *wire.Job) worker.Outcome {
			db.update(raised, func(row *fakeJob) { row.Attempt = row.MaxAttempts })
			return worker.Outcome{Kind: worker.OutcomeFailed, Err: errors.New("no"), Text: "no", Delay: time.Hour}
		}, logTo(&log))
		r.pass(time.Second)
		r.died(known, worker.ReasonExhausted, "no")
		r.died(raised, worker.ReasonExhausted, "no")
		if lines := log.with("dead_letter=exhausted"); len(lines) != 2 || len(log.with("job is a dead letter")) != 1 {
			t.Errorf("lines %q", lines)
		}
	})
}

// A worker that stops while it sweeps tells of the dead letters that it has made.
func TestSweptJobsAreToldAtAStop(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		id := db.add(1, wire.Job{Attempt: 25})[0]
		db.update(id, func(job *fakeJob) { job.LastError, job.FailedAt = "of Node", time.Now().Add(-2*time.Hour) })
		r := newRig(t, db, takes(0), func(s *setup) { s.long = 1 })
		r.pass(time.Second)
		if err := r.stop(); err != nil {
			t.Error(err)
		}
		r.died(id, worker.ReasonSwept, "of Node")
	})
}

// Many jobs that the sweep finds make one line, and an event each.
func TestManySweptJobsMakeOneLine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		for _, id := range db.add(many, wire.Job{Attempt: 25}) {
			db.update(id, func(job *fakeJob) { job.LastError, job.FailedAt = "of Node", time.Now().Add(-2*time.Hour) })
		}
		var log logged
		r := newRig(t, db, takes(0), logTo(&log))
		r.pass(time.Minute)
		if lines := log.with("dead letter"); len(lines) != 1 || len(lines[0]) > 600 {
			t.Errorf("lines %q", lines)
		}
		if n := len(r.seen(worker.EventDead)); n != many {
			t.Errorf("%d events, want %d", n, many)
		}
	})
}
