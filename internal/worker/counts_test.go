package worker_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
	"github.com/backfillhq/go/internal/worker/storetest"
)

// What has ended is written down within 5 seconds, by outcome, with the times of runs and waits.
func TestCounts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		waiting := db.add(4, wire.Job{RunAt: time.Now().Add(-time.Minute)})
		dead, snoozed := db.add(1, wire.Job{MaxAttempts: 1})[0], db.add(1, wire.Job{})[0]
		r := newRig(t, db, func(_ context.Context, job *wire.Job) worker.Outcome {
			<-time.After(100 * time.Millisecond)
			switch {
			case job.ID == dead || job.ID == waiting[0] && job.Attempt == 1:
				return worker.Outcome{Kind: worker.OutcomeFailed, Text: "no", Delay: time.Hour}
			case job.ID == snoozed:
				return worker.Outcome{Kind: worker.OutcomeSnoozed, Delay: time.Hour}
			default:
				return completed
			}
		})
		r.pass(6 * time.Second)
		got := contractDB{db}.Counted("task")
		got.Wait = got.Wait.Truncate(time.Minute)
		want := storetest.Counted{Completed: 3, Failed: 1, Dead: 1, Snoozed: 1, Runs: 6, Waits: 6, Run: 600 * time.Millisecond, Wait: 4 * time.Minute}
		if got != want {
			t.Errorf("counted %+v, want %+v", got, want)
		}
	})
}

// What is counted when the worker stops is written down, too; what has not started does not count.
func TestCountsAreWrittenAtTheEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		db.add(5, wire.Job{})
		r := newRig(t, db, takes(time.Second), concurrency(2))
		r.pass(1500 * time.Millisecond)
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
		got := contractDB{db}.Counted("task")
		got.Wait = 0
		if want := (storetest.Counted{Completed: 4, Runs: 4, Waits: 4, Run: 4 * time.Second}); got != want {
			t.Errorf("counted %+v, want %+v", got, want)
		}
	})
}

// What was claimed and given back before it started has not ended.
func TestCountsOfWhatHasNotStarted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		db.add(5, wire.Job{})
		r := newRig(t, db, takes(time.Second), latency(opClaim, time.Second))
		r.pass(600 * time.Millisecond) // the claim has taken effect, and its answer is under way
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
		if len(r.store.calls(opRelease)) == 0 {
			t.Error("nothing was given back")
		}
		if got := (contractDB{db}).Counted("task"); got != (storetest.Counted{}) {
			t.Errorf("counted %+v, want nothing", got)
		}
	})
}

// A count that failed is written later, also if nothing has ended since, and in its own minute.
func TestCountsAreWrittenLater(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		db.add(1, wire.Job{})
		r := newRig(t, db, takes(time.Millisecond), failing(opCount, 20, false))
		r.pass(2 * time.Minute)
		if got := (contractDB{db}).Counted("task"); got.Completed != 1 || got.Runs != 1 {
			t.Errorf("counted %+v, want one", got)
		}
		for key := range db.counted {
			if minute := time.Unix(0, key.minute); time.Since(minute) < time.Minute {
				t.Errorf("it counts for the minute %v", minute)
			}
		}
	})
}

// A database that takes no counts, or does not answer, delays no outcome (X139). Nothing is counted
// twice when the answer to a statement was lost.
func TestCountsDelayNothing(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*setup){
		"stuck":       latency(opCount, time.Hour),
		"refused":     failing(opCount, 3, false),
		"answer lost": failing(opCount, 3, true),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				db := newDB(t)
				r := newRig(t, db, takes(time.Millisecond), change)
				for range 30 {
					db.insert(1, wire.Job{})
					r.pass(time.Second)
				}
				if n := len(db.completedIDs()); n != 30 {
					t.Errorf("%d jobs are recorded, want 30", n)
				}
				for _, c := range r.store.calls(opComplete) {
					if late := c.At % time.Second; late > 100*time.Millisecond {
						t.Errorf("an outcome was recorded %v late", late)
					}
				}
				if name == "stuck" {
					return
				}
				r.pass(5 * time.Second)
				if got := (contractDB{db}).Counted("task"); got.Completed != 30 || got.Runs != 30 {
					t.Errorf("counted %+v, want 30", got)
				}
			})
		})
	}
}

// What handlers say of their progress is written once a second for all of them, and goes when they
// return (X141).
func TestProgress(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		jobs := db.add(3, wire.Job{})
		var r *rig
		made := make(chan struct{})
		r = newRig(t, db, func(_ context.Context, job *wire.Job) worker.Outcome {
			<-made // it starts before newRig has returned
			for i := range int64(1000) {
				r.worker.Progress(worker.Progress{Lease: job.Lease, Done: i, Total: 1000, Note: "on"})
				<-time.After(10 * time.Millisecond)
			}
			return completed
		}, concurrency(3), failing(opProgress, 2, false))
		close(made)
		r.pass(9500 * time.Millisecond)
		rig := contractDB{db}
		for _, id := range jobs {
			if got := rig.Progress(id); got.Attempt != 1 || got.Done < 850 || got.Total != 1000 || got.Note != "on" {
				t.Errorf("progress of job %d: %+v", id, got)
			}
		}
		if n := len(r.store.calls(opProgress)); n > 10 {
			t.Errorf("%d statements in 9.5 s", n)
		}
		r.pass(2 * time.Second)
		n := len(r.store.calls(opProgress))
		r.pass(time.Minute)
		if more := len(r.store.calls(opProgress)) - n; more > 0 {
			t.Errorf("%d statements while nothing runs", more)
		}
		db.mu.Lock()
		defer db.mu.Unlock()
		if len(db.progress) > 0 {
			t.Errorf("left is %v", db.progress)
		}
	})
}

// A worker keeps the attempts of tasks that have a history, and of no others.
func TestHistory(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		kept, none := db.add(1, wire.Job{Task: "kept"})[0], db.add(1, wire.Job{})[0]
		r := newRig(t, db, func(_ context.Context, job *wire.Job) worker.Outcome {
			if job.Attempt == 1 {
				return worker.Outcome{Kind: worker.OutcomeFailed, Text: "no", Err: errors.New("no"), Delay: time.Second, Output: []byte("1"), Log: "first\n"}
			}
			return worker.Outcome{Kind: worker.OutcomeCompleted, Output: []byte("2"), Log: "second\n"}
		}, func(s *setup) {
			s.Tasks, s.History = []string{"task", "kept"}, map[string]time.Duration{"kept": time.Hour}
		})
		r.pass(5 * time.Second)
		rig := contractDB{db}
		want := []storetest.Attempt{
			{Attempt: 1, Outcome: keptFailed, Started: true, Error: "no", Log: "first\n"},
			{Attempt: 2, Outcome: keptCompleted, Started: true, Output: "2", Log: "second\n"},
		}
		got := rig.History(kept)
		if len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
			t.Errorf("history %+v, want %+v", got, want)
		}
		if got := rig.History(none); len(got) != 0 {
			t.Errorf("history of a task without: %+v", got)
		}
	})
}

// What a handler has logged is kept also if it is cancelled, and what never started leaves no attempt.
func TestHistoryOfInterruptedJobs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		jobs := db.add(3, wire.Job{})
		r := newRig(t, db, func(ctx context.Context, _ *wire.Job) worker.Outcome {
			<-ctx.Done()
			return worker.Outcome{Kind: worker.OutcomeReturned, Log: "stopped\n"}
		}, concurrency(1), func(s *setup) { s.History = map[string]time.Duration{"task": time.Hour} })
		r.pass(time.Second)
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
		ran := 0
		for _, id := range jobs {
			for _, a := range (contractDB{db}).History(id) {
				ran++
				if a != (storetest.Attempt{Attempt: 1, Outcome: keptReturned, Started: true, Log: "stopped\n"}) {
					t.Errorf("history of an interrupted job: %+v", a)
				}
			}
		}
		if ran != 1 {
			t.Errorf("%d attempts were kept, want that of the job that ran", ran)
		}
	})
}
