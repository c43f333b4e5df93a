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

// transactional makes tasks of these names transactional, with so many connections.
func transactional(connections int, tasks ...string) func(*setup) {
	return func(s *setup) { s.Transactional, s.TxConnections = tasks, connections }
}

// commit completes a job as its own transaction does; the handler says so.
func (db *fakeDB) commit(tasks []string, job *wire.Job) worker.Outcome {
	db.mu.Lock()
	defer db.mu.Unlock()
	fate := db.endOne(tasks, job.Lease, func(*fakeJob) bool { return false }, func(*fakeJob) time.Duration {
		delete(db.jobs, job.ID)
		db.completed[job.ID]++
		return 0
	})
	if fate.Kind != worker.FateRecorded {
		return worker.Outcome{Kind: worker.OutcomeReturned}
	}
	return worker.Outcome{Kind: worker.OutcomeCompleted, Committed: &fate}
}

// commits is a handler whose transaction takes d.
func (db *fakeDB) commits(d time.Duration) handler {
	return func(ctx context.Context, job *wire.Job) worker.Outcome {
		if wait(ctx, d) != nil {
			return worker.Outcome{Kind: worker.OutcomeReturned}
		}
		return db.commit([]string{"task"}, job)
	}
}

// No more transactional jobs are claimed than there are connections, and the next one is claimed as
// soon as one has ended. Others pass.
func TestTransactionalJobsHaveConnections(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		db.add(6, wire.Job{Priority: -1})
		db.add(2, wire.Job{Task: "plain"})
		tx := db.commits(time.Second)
		r := newRig(t, db, func(ctx context.Context, job *wire.Job) worker.Outcome {
			if job.Task == "task" {
				return tx(ctx, job)
			}
			return completed
		}, concurrency(10), transactional(2, "task"), func(s *setup) { s.Tasks = []string{"task", "plain"} })
		r.passUntil(10 * time.Second)
		var got []started
		for _, run := range r.started() {
			got = append(got, started{run.Job, run.At.Truncate(100 * time.Millisecond)})
		}
		want := []started{{1, 0}, {2, 0}, {7, 0}, {8, 0}, {3, time.Second}, {4, time.Second}, {5, 2 * time.Second}, {6, 2 * time.Second}}
		less := func(list []started) map[started]int {
			all := map[started]int{}
			for _, s := range list {
				all[s]++
			}
			return all
		}
		if diff := cmp.Diff(less(want), less(got)); diff != "" {
			t.Errorf("starts (-want +got):\n%s", diff)
		}
		for _, call := range r.store.calls(opComplete) {
			for _, id := range call.Jobs {
				if id <= 6 {
					t.Errorf("a statement completed the transactional job %d", id)
				}
			}
		}
		r.stats(worker.Stats{Completed: 8})
		if finished, recorded := len(r.seen(worker.EventFinished)), r.sum(worker.EventCompleted); finished != 8 || recorded != 8 {
			t.Errorf("%d finished, %d recorded", finished, recorded)
		}
		r.nothingLeft()
	})
}

// A commit frees the queue, whose next job is claimed at once, or by others who are told.
func TestTransactionalJobsOfQueuesFollow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		db.add(50, wire.Job{Queue: "q"})
		db.add(1, wire.Job{Queue: "q", Task: "foreign"})
		r := newRig(t, db, db.commits(time.Millisecond), transactional(1, "task"))
		r.passUntil(time.Second)
		r.stats(worker.Stats{Completed: 50})
		r.noPoll()
		if nudged := r.nudged(); len(nudged) != 1 {
			t.Errorf("others were notified %v, want once, of the foreign job", nudged)
		}
	})
}

// RunOnce ends when no transactional job is left, and not before.
func TestTransactionalOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		db.add(9, wire.Job{})
		r := newRig(t, db, db.commits(time.Second), transactional(2, "task"), concurrency(5), once)
		if err := r.wait(); err != nil {
			t.Error(err)
		}
		r.nothingLeft()
		if took := time.Since(r.start); took > 6*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

// Silence cancels jobs of queues, but no transactional one: its guard decides (R34).
func TestTransactionalJobsAreNotFenced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		plain := db.add(1, wire.Job{Queue: "q", Task: "plain"})[0]
		tx := db.add(1, wire.Job{Queue: "p"})[0]
		var causes causes
		r := newRig(t, db, causes.obey(40*time.Second), transactional(2, "task"), func(s *setup) { s.Tasks = []string{"task", "plain"} })
		r.pass(time.Second)
		r.store.silence(true)
		r.pass(30 * time.Second)
		if err := causes.of(plain); !errors.Is(err, worker.ErrLeaseLost) {
			t.Errorf("the plain job was cancelled with %v", err)
		}
		if err := causes.of(tx); err != nil {
			t.Errorf("the transactional job was cancelled with %v", err)
		}
		r.store.silence(false)
		r.pass(time.Minute)
	})
}

// Health names the transaction that has been open for longest, long before the job is overlong
// (X89), and none of other jobs.
func TestHealthHasTheOldestTransaction(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		began := time.Now()
		db.add(1, wire.Job{Task: "plain"})
		r := newRig(t, db, takes(time.Minute), concurrency(10), transactional(2, "task"), func(s *setup) { s.Tasks = []string{"task", "plain"} })
		r.pass(time.Second)
		if got := r.worker.Health().OldestTx; got != (worker.OldestTx{}) {
			t.Errorf("while no transactional job runs: %+v", got)
		}
		older := db.insert(1, wire.Job{})[0]
		r.pass(time.Second)
		newer := db.insert(1, wire.Job{})[0]
		for _, want := range []worker.OldestTx{
			{ID: older, Task: "task", Since: began.Add(time.Second)}, {ID: newer, Task: "task", Since: began.Add(2 * time.Second)}, {},
		} {
			r.pass(time.Second)
			got := r.worker.Health().OldestTx
			if got.ID != want.ID || got.Task != want.Task || got.Since.Truncate(time.Second) != want.Since {
				t.Errorf("the oldest transaction is %+v, want %+v", got, want)
			}
			if want.ID == older {
				r.pass(58*time.Second - 500*time.Millisecond)
			}
		}
		r.pass(time.Minute)
	})
}

// The lock of a transactional job is not renewed while its handler runs: that would make its guard
// fail at REPEATABLE READ.
func TestTransactionalJobsAreNotRenewed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		plain := db.add(1, wire.Job{Task: "plain"})[0]
		db.add(1, wire.Job{})
		r := newRig(t, db, takes(2*time.Hour), transactional(2, "task"), func(s *setup) { s.Tasks = []string{"task", "plain"} })
		r.passUntil(100 * time.Minute)
		renewed := r.store.calls(opRenew)
		if len(renewed) != 3 {
			t.Fatalf("renewed %v", renewed)
		}
		for _, call := range renewed {
			if diff := cmp.Diff([]int64{plain}, call.Jobs); diff != "" {
				t.Errorf("renewed (-want +got):\n%s", diff)
			}
		}
		r.passUntil(121 * time.Minute)
	})
}

// A transaction that commits while its job is given back, because the worker stops, has completed
// it: that the lease is gone then says nothing else.
func TestTransactionCommitsDuringTheStop(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		id := db.add(1, wire.Job{})[0]
		r := newRig(t, db, func(_ context.Context, job *wire.Job) worker.Outcome {
			db.update(id, func(row *fakeJob) { row.Busy = true }) // by its own transaction
			<-time.After(13 * time.Second)
			db.update(id, func(row *fakeJob) { row.Busy = false })
			return db.commit([]string{"task"}, job)
		}, transactional(1, "task"))
		r.pass(time.Second)
		if err := r.stop(); err != nil {
			t.Error(err)
		}
		r.stats(worker.Stats{Completed: 1})
		r.nothingLeft()
	})
}
