package worker_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// stubborn has the jobs of task "hangs" ignore their contexts until they are let go. Others take a
// second, or a millisecond if they are quick. It notes what ran beside what.
type stubborn struct {
	mu      sync.Mutex
	running map[int64]int
	most    int      // handlers that ran at a time
	overlap []string // runs of a job, or of a queue's jobs, beside one another
	queues  map[string]int
	goexit  bool

	done chan struct{} // lets one go for each value, or all when it is closed
}

func newStubborn() *stubborn {
	return &stubborn{running: make(map[int64]int), queues: make(map[string]int), done: make(chan struct{})}
}

func (s *stubborn) handle(_ context.Context, job *wire.Job) worker.Outcome {
	s.count(job, 1)
	defer s.count(job, -1)
	switch job.Task {
	case "quick":
		<-time.After(time.Millisecond)
		return completed
	case "task", "plain":
		<-time.After(time.Second)
		return completed
	}
	waitsStuck(s.done)
	if s.goexit && job.Attempt == 1 {
		runtime.Goexit()
	}
	return completed
}

func (s *stubborn) count(job *wire.Job, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running[job.ID] += n; s.running[job.ID] == 0 {
		delete(s.running, job.ID)
	}
	s.queues[job.Queue] += n
	s.most = max(s.most, len(s.running))
	if s.running[job.ID] > 1 || job.Queue != "" && s.queues[job.Queue] > 1 {
		s.overlap = append(s.overlap, jobText(job))
	}
}

func jobText(job *wire.Job) string { return fmt.Sprintf("job %d of queue %q", job.ID, job.Queue) }

// letGo has n handlers that hang return.
func (s *stubborn) letGo(t *testing.T, n int) {
	t.Helper()
	for range n {
		select {
		case s.done <- struct{}{}:
		case <-time.After(time.Second):
			t.Fatal("no handler hangs")
		}
	}
}

// beside returns how many handlers ran at a time at most since it was last asked.
func (s *stubborn) beside() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	most := s.most
	s.most = len(s.running)
	return most
}

// setup has workers serve both kinds of jobs. Those that hang have 10 seconds.
func (s *stubborn) setup(slots int) func(*setup) {
	return func(c *setup) {
		c.Tasks, c.Concurrency = []string{"hangs", "task", "quick"}, slots
		c.Timeouts = map[string]time.Duration{"hangs": 10 * time.Second}
	}
}

// The slot of a handler that ignores its timeout is given to others 30 seconds later, and not taken
// by two when the handler returns. What it returns is recorded. Log and Health say so.
func TestStuckHandlersGiveTheirSlots(t *testing.T) {
	t.Parallel()
	for name, goexit := range map[string]bool{"returns": false, "ends its goroutine": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				db := newDB(t)
				s := newStubborn()
				s.goexit = goexit
				var log syncBuffer
				stuck := db.add(1, wire.Job{Task: "hangs", Priority: -1, Queue: "q"})[0]
				db.add(3, wire.Job{})
				r := newRig(t, db, s.handle, s.setup(1), func(c *setup) { c.Logger = slog.New(slog.NewJSONHandler(&log, nil)) })
				r.pass(0)
				since := time.Now()
				r.passUntil(39 * time.Second)
				if h := r.worker.Health(); len(h.StuckJobs) != 0 || len(h.Overlong) != 1 || h.Running != 1 || len(r.started()) != 1 {
					t.Errorf("29 seconds after its timeout: %+v, and %d jobs have started", h, len(r.started()))
				}
				r.passUntil(45 * time.Second)
				want := []worker.StuckJob{{
					ID: stuck, Task: "hangs", Since: since, Ended: since.Add(10 * time.Second), Cause: worker.ErrTimeout, SlotGiven: true,
				}}
				if diff := cmp.Diff(want, r.worker.Health().StuckJobs, cmp.Comparer(errors.Is)); diff != "" {
					t.Errorf("stuck (-want +got):\n%s", diff)
				}
				if n := len(r.worker.Health().Overlong); n != 0 {
					t.Errorf("%d jobs take long", n)
				}
				r.passUntil(50 * time.Second)
				if starts := r.started(); len(starts) != 4 || starts[1].At != 40*time.Second || s.beside() != 2 {
					t.Errorf("starts %v, want all 4, two at a time, from second 40 on", starts)
				}
				if job := db.job(stuck); job.LockedBy == "" || db.queue("q").LockedBy == "" {
					t.Errorf("the job is not locked any more, or its queue is free: %+v", job)
				}
				lines := strings.Count(log.String(), "handler is stuck: it ignores that its context has ended")
				for _, part := range []string{
					`"task":"hangs","job_id":1,"attempt":1,"queue":"q"`, `"cause":"task timed out"`, `"slot":"given to others"`, "waitsStuck",
				} {
					if lines != 1 || !strings.Contains(log.String(), part) {
						t.Errorf("%d lines, and %q is not in the log:\n%s", lines, part, log.String())
					}
				}

				db.insert(500, wire.Job{Task: "quick"}) // many are claimed at a time
				close(s.done)
				r.pass(time.Millisecond)
				s.beside()
				r.passUntil(time.Minute)
				if n := s.beside(); n != 1 {
					t.Errorf("%d jobs at a time in one slot, when the handler has returned", n)
				}
				h := r.worker.Health()
				failed := int64(0)
				if goexit {
					failed = 1
				}
				if len(h.StuckJobs) != 0 || h.Running != 0 {
					t.Errorf("afterwards: %+v", h)
				}
				batch := 0
				for _, claim := range r.store.calls(opClaim) {
					batch = max(batch, len(claim.Jobs))
				}
				if batch < 10 {
					t.Errorf("%d jobs were claimed at a time at most: a second goroutine would have found none", batch)
				}
				r.stats(worker.Stats{Completed: 504, Failed: failed})
				r.nothingLeft()
			})
		})
	}
}

// As many slots are given as the worker has: no more than twice as many handlers run. When a
// handler returns whose slot was given, that of another one is.
func TestStuckHandlersAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		s := newStubborn()
		db.add(9, wire.Job{Task: "hangs", Priority: -1})
		db.add(1, wire.Job{})
		var log syncBuffer
		r := newRig(t, db, s.handle, s.setup(3), func(c *setup) { c.Logger = slog.New(slog.NewJSONHandler(&log, nil)) })
		given := func() (n int) {
			for _, job := range r.worker.Health().StuckJobs {
				if job.SlotGiven {
					n++
				}
			}
			return n
		}
		r.passUntil(time.Hour)
		if h := r.worker.Health(); s.beside() != 6 || h.Running != 6 || len(h.StuckJobs) != 6 || given() != 3 {
			t.Errorf("%+v", h)
		}
		text := log.String()
		if strings.Count(text, "handler is stuck") != 6 || strings.Count(text, `"slot":"kept: `) != 3 {
			t.Errorf("the log has\n%s", text)
		}
		s.letGo(t, 3)
		r.pass(2 * time.Minute) // three more start, and hang
		if h := r.worker.Health(); s.beside() != 6 || h.Running != 6 || len(h.StuckJobs) != 6 || given() != 3 {
			t.Errorf("after three have returned: %+v", h)
		}
		s.letGo(t, 3)
		r.pass(2 * time.Minute)
		if h := r.worker.Health(); h.Running != 3 || len(h.StuckJobs) != 3 || given() != 3 || h.Stats.Completed != 7 {
			t.Errorf("after six have returned: %+v", h)
		}
		close(s.done)
		r.pass(time.Second)
		r.nothingLeft()
	})
}

// Whatever has ended the context of a handler, one that ignores it is stuck, and Health says why.
func TestStuckWhateverHasEndedTheContext(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		end   func(*rig, *fakeDB, int64)
		in    time.Duration
		cause error
	}{
		"declared dead": {func(r *rig, db *fakeDB, _ int64) { db.kill(r.worker.Health().WorkerID) }, time.Minute, worker.ErrLeaseLost},
		"unlocked":      {func(_ *rig, db *fakeDB, id int64) { db.unlock(id) }, 31 * time.Minute, worker.ErrLeaseLost},
		"fenced":        {func(r *rig, _ *fakeDB, _ int64) { r.store.silence(true) }, time.Minute, worker.ErrLeaseLost},
		"cancelled":     {func(_ *rig, db *fakeDB, id int64) { db.request(id, worker.Request{By: "ada"}) }, time.Minute, worker.ErrCanceled},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				db := newDB(t)
				s := newStubborn()
				id := db.add(1, wire.Job{Task: "hangs", Queue: "q"})[0]
				r := newRig(t, db, s.handle, s.setup(2), func(c *setup) { c.Timeouts = nil })
				r.pass(time.Second)
				test.end(r, db, id)
				r.pass(test.in)
				stuck := r.worker.Health().StuckJobs
				if len(stuck) == 0 || stuck[0].ID != id || !errors.Is(stuck[0].Cause, test.cause) || !stuck[0].SlotGiven {
					t.Errorf("stuck: %+v", stuck)
				}
				r.store.silence(false)
				close(s.done)
				r.pass(time.Minute)
			})
		})
	}
}

// A stuck handler keeps its job, with its queue and its key, for as long as its worker lives:
// nothing runs beside it, whatever becomes of locks that are 4 hours old. So it is with a
// transactional one, whose lock is not renewed before its context has ended.
func TestNothingRunsBesideAStuckHandler(t *testing.T) {
	t.Parallel()
	for name, changes := range map[string]func(*setup){
		"plain":         func(*setup) {},
		"transactional": transactional(1, "hangs"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				db := newDB(t)
				s := newStubborn()
				db.add(3, wire.Job{Task: "hangs", Queue: "q", Key: "k"})
				db.add(1, wire.Job{Queue: "q", Priority: 5})
				others := db.add(5, wire.Job{Priority: 7})
				limit := func(c *setup) { c.Timeouts = map[string]time.Duration{"hangs": 3*time.Hour + 30*time.Minute} }
				r := newRig(t, db, s.handle, s.setup(1), changes, limit)
				newRig(t, db, s.handle, s.setup(4), changes, limit)
				r.passUntil(9 * time.Hour)
				for _, id := range others {
					if db.job(id) != nil {
						t.Errorf("job %d has not run", id)
					}
				}
				if len(s.overlap) > 0 {
					t.Errorf("ran beside another run: %s", strings.Join(s.overlap, ", "))
				}
				if _, locked := db.left(); locked != 2 {
					t.Errorf("%d rows are locked, want a job and its queue", locked)
				}
				close(s.done)
				r.pass(time.Minute)
				if len(s.overlap) > 0 {
					t.Errorf("then: %s", strings.Join(s.overlap, ", "))
				}
				r.nothingLeft()
			})
		})
	}
}

// A stuck transactional handler has its connection still: it counts among those that there are.
func TestStuckHandlersKeepTheirConnections(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		s := newStubborn()
		db.add(2, wire.Job{Task: "hangs", Priority: -1})
		tx := db.add(2, wire.Job{Task: "task"})
		plain := db.add(2, wire.Job{Task: "plain", Priority: 1})
		r := newRig(t, db, s.handle, s.setup(3), transactional(2, "hangs", "task"),
			func(c *setup) { c.Tasks = append(c.Tasks, "plain") })
		r.passUntil(10 * time.Minute)
		if n := len(r.worker.Health().StuckJobs); n != 2 || db.job(plain[0]) != nil || db.job(plain[1]) != nil {
			t.Errorf("%d are stuck, and the others are %+v, %+v", n, db.job(plain[0]), db.job(plain[1]))
		}
		for _, id := range tx {
			if job := db.job(id); job == nil || job.Attempt != 0 {
				t.Errorf("there is no connection, and job %d is %+v", id, job)
			}
		}
		close(s.done)
		r.pass(10 * time.Second)
		r.nothingLeft()
	})
}

// A worker that stops gives back what its stuck handlers run, and starts nothing in their place.
func TestStopWithStuckHandlers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		s := newStubborn()
		db.add(2, wire.Job{Task: "hangs"})
		r := newRig(t, db, s.handle, s.setup(1))
		r.pass(2 * time.Minute)
		if h := r.worker.Health(); h.Running != 2 || len(h.StuckJobs) != 2 {
			t.Errorf("%+v", h)
		}
		began := time.Now()
		if err := r.stop(); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took > 12*time.Second {
			t.Errorf("the stop took %v", took)
		}
		r.stats(worker.Stats{Returned: 2})
		if jobs, locked := db.left(); jobs != 2 || locked != 0 {
			t.Errorf("%d jobs are left, %d rows locked", jobs, locked)
		}
		close(s.done)
		synctest.Wait()
		if h := r.worker.Health(); h.Running+h.Unrecorded+len(h.StuckJobs) != 0 {
			t.Errorf("afterwards: %+v", h)
		}
	})
}

// A handler that becomes stuck while its worker stops keeps its slot: nothing would start in it.
func TestStuckDuringTheStop(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		s := newStubborn()
		db.add(1, wire.Job{Task: "hangs"})
		var log syncBuffer
		r := newRig(t, db, s.handle, s.setup(1), func(c *setup) {
			c.DrainTimeout, c.Logger = time.Minute, slog.New(slog.NewJSONHandler(&log, nil))
		})
		r.passUntil(35 * time.Second)
		r.cancel()
		r.pass(30 * time.Second)
		if stuck := r.worker.Health().StuckJobs; len(stuck) != 1 || stuck[0].SlotGiven || strings.Contains(log.String(), "handler is stuck") {
			t.Errorf("stuck: %+v, and the log has\n%s", stuck, log.String())
		}
		s.letGo(t, 1)
		if err := r.wait(); err != nil {
			t.Error(err)
		}
		r.nothingLeft()
	})
}
