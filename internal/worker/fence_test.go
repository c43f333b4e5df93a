package worker_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// causes tells why the contexts of jobs ended.
type causes struct {
	mu    sync.Mutex
	byJob map[int64]error
}

func (c *causes) of(job int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.byJob[job]
}

func (c *causes) len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.byJob)
}

// obey is a handler that runs until its context ends, for at most d.
func (c *causes) obey(d time.Duration) handler {
	return func(ctx context.Context, job *wire.Job) worker.Outcome {
		if wait(ctx, d) == nil {
			return completed
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.byJob == nil {
			c.byJob = make(map[int64]error)
		}
		c.byJob[job.ID] = context.Cause(ctx)
		return worker.Outcome{Kind: worker.OutcomeReturned, Err: context.Cause(ctx)}
	}
}

func TestFencedWorkerGoesOnUnderAFreshID(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		var causes causes
		r := newRig(t, db, causes.obey(30*time.Second))
		r.pass(0)
		dead := r.worker.Health().WorkerID
		running := db.insert(1, wire.Job{})[0]
		r.pass(time.Second)
		db.kill(dead)
		next := db.insert(1, wire.Job{})[0]
		r.pass(200 * time.Millisecond)
		if err := causes.of(running); !errors.Is(err, worker.ErrLeaseLost) {
			t.Errorf("the running job's context ended with %v", err)
		}
		if job := db.job(running); job == nil || job.Attempt != 1 || strings.HasPrefix(job.LockedBy, dead) {
			t.Errorf("the interrupted job was not given back and claimed again: %+v", job)
		}
		if job := db.job(next); job.LockedBy == "" || strings.HasPrefix(job.LockedBy, dead) {
			t.Errorf("the new job is locked by %q", job.LockedBy)
		}
		if fresh := r.worker.Health().WorkerID; fresh == dead {
			t.Error("the worker keeps its dead id")
		}
		if fenced := r.seen(worker.EventFenced); len(fenced) != 1 || fenced[0].WorkerID != dead {
			t.Errorf("observed %v", fenced)
		}
		var numbers []uint64
		for _, c := range r.store.calls(opClaim) {
			numbers = append(numbers, c.Request.Number)
		}
		for i, number := range numbers {
			if number != uint64(i+1) { // R2: also across ids
				t.Fatalf("claim numbers %v", numbers)
			}
		}
		r.pass(time.Minute)
		r.nothingLeft()
	})
}

// A handler that was cancelled because its lease is lost has not failed, whatever it says: the job
// runs again, and no event or log calls the failure final.
func TestNothingFailsWhoseLeaseIsLost(t *testing.T) {
	t.Parallel()
	for _, kind := range []worker.OutcomeKind{worker.OutcomeFailed, worker.OutcomeExhausted} {
		for how, lose := range map[string]func(*rig, *fakeDB, int64){
			"fenced": func(r *rig, db *fakeDB, _ int64) {
				db.kill(r.worker.Health().WorkerID)
				db.insert(1, wire.Job{})
				r.pass(time.Second)
			},
			"unlocked": func(r *rig, db *fakeDB, id int64) { db.unlock(id); r.passUntil(31 * time.Minute) },
		} {
			synctest.Test(t, func(t *testing.T) {
				db := newDB(t)
				var runs atomic.Int32
				r := newRig(t, db, func(ctx context.Context, job *wire.Job) worker.Outcome {
					if job.ID == 1 && runs.Add(1) == 1 && wait(ctx, time.Hour) != nil {
						return worker.Outcome{Kind: kind, Err: errors.New("no"), Text: "no"}
					}
					return completed
				})
				id := db.insert(1, wire.Job{})[0]
				r.pass(time.Second)
				lose(r, db, id)
				r.pass(time.Minute)
				if failed := r.seen(worker.EventFailed); len(failed) != 0 || runs.Load() != 2 {
					t.Errorf("%s, kind %d: ran %d times, events %v", how, kind, runs.Load(), failed)
				}
				r.nothingLeft()
			})
		}
	}
}

func TestFenceGivesBackWhatHasNotStarted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		db.add(500, wire.Job{})
		var buffered atomic.Int64
		r := newRig(t, db, takes(time.Millisecond), concurrency(1), watch(func(request worker.ClaimRequest, h worker.Health) {
			if h.Buffered >= 10 && buffered.Load() == 0 {
				buffered.Store(int64(h.Buffered))
				db.kill(request.WorkerID)
			}
		}))
		r.pass(100 * time.Millisecond)
		fenced, releases := r.seen(worker.EventFenced), r.store.calls(opRelease)
		if len(fenced) != 1 || len(releases) != 1 || releases[0].At != fenced[0].At || len(releases[0].Jobs) != int(buffered.Load()) {
			t.Errorf("fenced %v with %d jobs in the buffer, gave back %v", fenced, buffered.Load(), releases)
		}
		r.pass(time.Second)
		r.nothingLeft()
	})
}

// Registering fails, or rows die as soon as they are born: the worker neither gives up nor runs
// wild.
func TestFenceBacksOff(t *testing.T) {
	t.Parallel()
	for name, refused := range map[string]error{"rows die": nil, "rows are not born": errors.New("connection lost")} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				db := newDB(t)
				var sick atomic.Bool
				r := newRig(t, db, takes(0), latency(opClaim, time.Millisecond), func(s *setup) {
					s.before = func(op string) error {
						if op == opRegister && sick.Load() {
							return refused
						}
						return nil
					}
					s.request = func(request worker.ClaimRequest, _ worker.Health) {
						if sick.Load() {
							db.kill(request.WorkerID)
						}
					}
				})
				r.pass(time.Second)
				sick.Store(true)
				r.passUntil(time.Minute)
				if n := len(r.store.calls(opRegister)); n < 10 || n > 50 {
					t.Errorf("registered %d times in a minute", n)
				}
				sick.Store(false)
				db.insert(1, wire.Job{})
				r.pass(12 * time.Second) // two back-offs: for a claim that finds no row, and after a new one
				r.nothingLeft()
			})
		})
	}
}

func TestRenewalCoversLongJobsAndTheirQueues(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		kept := db.add(1, wire.Job{Queue: "kept"})[0]
		lost := db.add(1, wire.Job{Queue: "lost"})[0]
		deleted := db.add(1, wire.Job{})[0]
		var causes causes
		r := newRig(t, db, causes.obey(61*time.Minute), concurrency(4))
		r.passUntil(10 * time.Minute)
		db.unlock(lost)
		db.update(lost, func(row *fakeJob) { row.Attempt = row.MaxAttempts })
		db.update(deleted, func(row *fakeJob) { row.LockedBy, row.Attempt = "", row.MaxAttempts })
		r.passUntil(30 * time.Minute)
		renewed := r.store.calls(opRenew)
		if len(renewed) != 1 || len(renewed[0].Jobs) != 3 {
			t.Fatalf("renewed %v", renewed)
		}
		job, queue := db.job(kept), db.queue("kept")
		if at := job.LockedAt.Sub(r.start); at != 30*time.Minute {
			t.Errorf("the job is locked since %v", at)
		}
		if at := queue.LockedAt.Sub(r.start); at != 30*time.Minute {
			t.Errorf("the queue is locked since %v", at)
		}
		for id, want := range map[int64]error{kept: nil, lost: worker.ErrLeaseLost, deleted: worker.ErrLeaseLost} {
			if got := causes.of(id); !errors.Is(got, want) {
				t.Errorf("job %d was cancelled with %v, want %v", id, got, want)
			}
		}
		r.passUntil(61 * time.Minute)
		r.stats(worker.Stats{Completed: 1, Lost: 2})
		if db.job(kept) != nil {
			t.Error("the job that kept its lease was not completed")
		}
	})
}

func TestRenewalErrorsCancelNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		db.add(2, wire.Job{})
		var causes causes
		r := newRig(t, db, causes.obey(100*time.Minute), failing(opRenew, 2, false))
		r.passUntil(101 * time.Minute)
		if causes.len() != 0 {
			t.Errorf("%d jobs were cancelled", causes.len())
		}
		if n := len(r.store.calls(opRenew)); n != 3 {
			t.Errorf("%d renewals", n)
		}
		r.nothingLeft()
	})
}

// A row that the database refuses to change keeps no other job's lock from being renewed.
func TestRenewalBesideARefusedRow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		ids := db.add(7, wire.Job{})
		bad := ids[2]
		r := newRig(t, db, takes(45*time.Minute), concurrency(7))
		r.passUntil(10 * time.Minute)
		contractDB{db}.Refuse(bad)
		r.passUntil(31 * time.Minute)
		for _, id := range ids {
			want := 30 * time.Minute
			if id == bad {
				want = 0
			}
			if at := db.job(id).LockedAt.Sub(r.start); at != want {
				t.Errorf("job %d is locked since %v, want %v", id, at, want)
			}
		}
		db.mu.Lock()
		clear(db.refused)
		db.mu.Unlock()
		r.passUntil(46 * time.Minute)
		r.nothingLeft()
	})
}

// A handler that fails because its worker was declared dead is not charged for it, if its lease is
// still valid.
func TestFencedJobsAreNotCharged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		id := db.add(1, wire.Job{})[0]
		var runs atomic.Int64
		r := newRig(t, db, func(ctx context.Context, _ *wire.Job) worker.Outcome {
			if runs.Add(1) > 1 {
				return completed
			}
			<-ctx.Done()
			return worker.Outcome{Kind: worker.OutcomeFailed, Err: ctx.Err(), Text: "cancelled", Delay: time.Hour}
		}, concurrency(2))
		r.pass(time.Second)
		db.kill(r.worker.Health().WorkerID)
		db.insert(1, wire.Job{})
		r.pass(5 * time.Second)
		if job := db.job(id); job != nil {
			t.Errorf("the job is left as %+v", job)
		}
		r.stats(worker.Stats{Completed: 2, Returned: 1})
	})
}
