package worker_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// fleet is workers of which each that dies is followed by another one after 10 seconds.
type fleet struct {
	t       *testing.T
	db      *fakeDB
	changes []func(*setup)
	kills   map[int64]time.Duration // jobs that kill their worker, and after what time
	takes   func(*wire.Job) time.Duration

	mu      sync.Mutex
	living  []*rig
	crashes int
	over    bool
}

func newFleet(t *testing.T, db *fakeDB, workers int, takes time.Duration, changes ...func(*setup)) *fleet {
	t.Helper()
	f := &fleet{
		t: t, db: db, changes: changes, kills: make(map[int64]time.Duration),
		takes: func(*wire.Job) time.Duration { return takes },
	}
	t.Cleanup(func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.over = true
	})
	for range workers {
		f.start()
	}
	return f
}

func (f *fleet) start() {
	var r *rig
	started := make(chan struct{})
	handle := func(ctx context.Context, job *wire.Job) worker.Outcome {
		<-started
		if after, kills := f.kills[job.ID]; kills {
			select {
			case <-ctx.Done():
				return worker.Outcome{Kind: worker.OutcomeReturned, Err: context.Cause(ctx)}
			case <-time.After(after):
				f.crash(r)
			}
		}
		select {
		case <-ctx.Done():
			return worker.Outcome{Kind: worker.OutcomeReturned, Err: context.Cause(ctx)}
		case <-time.After(f.takes(job)):
			return completed
		}
	}
	r = newRig(f.t, f.db, handle, f.changes...)
	f.mu.Lock()
	f.living = append(f.living, r)
	f.mu.Unlock()
	close(started)
}

// crash ends a worker as kill -9 does, once.
func (f *fleet) crash(r *rig) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, other := range f.living {
		if other == r && !f.over {
			r.store.die()
			r.t.Cleanup(func() { _ = r.stop() })
			f.living = append(f.living[:i:i], f.living[i+1:]...)
			f.crashes++
			time.AfterFunc(10*time.Second, f.start)
			return
		}
	}
}

// killAll ends all workers at once.
func (f *fleet) killAll() {
	f.mu.Lock()
	all := f.living
	f.mu.Unlock()
	for _, r := range all {
		f.crash(r)
	}
}

// pass lets time go by, and everything happen that happens at its end.
func (f *fleet) pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// until lets time go by until every job is done or has failed for good. It returns how long that
// took.
func (f *fleet) until(limit time.Duration) time.Duration {
	f.t.Helper()
	begun := time.Now()
	for f.db.open() > 0 && time.Since(begun) < limit {
		<-time.After(100 * time.Millisecond)
	}
	synctest.Wait()
	return time.Since(begun)
}

// open returns how many jobs are neither done nor failed for good.
func (db *fakeDB) open() (n int) {
	db.mu.Lock()
	defer db.mu.Unlock()
	for _, job := range db.jobs {
		if job.LockedBy != "" || job.Attempt < job.MaxAttempts {
			n++
		}
	}
	return n
}

// A job that kills its worker is found among those that are held with it: it fails for good, and
// every other job is done. The bound on crashes is that of package conviction's model.
func TestPoisonIsFound(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		workers, others    int
		takes, kills       time.Duration
		queued, keyed      bool
		concurrency, least int
		most               int
	}{
		"short jobs":             {2, 500, 5 * time.Millisecond, 5 * time.Millisecond, false, false, 50, 4, 14},
		"long jobs":              {2, 100, 10 * time.Minute, 5 * time.Second, false, false, 200, 4, 12},
		"long jobs, kills late":  {2, 100, 10 * time.Minute, 5 * time.Minute, false, false, 200, 4, 12},
		"a lone worker":          {1, 50, time.Second, time.Second, false, false, 50, 4, 11},
		"in a queue, with a key": {3, 50, time.Second, 10 * time.Millisecond, true, true, 20, 4, 11},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				db := newDB(t)
				f := newFleet(t, db, test.workers, test.takes, concurrency(test.concurrency))
				db.add(test.others/2, wire.Job{})
				like := wire.Job{}
				if test.queued {
					like.Queue = "q"
				}
				if test.keyed {
					like.Key = "k"
				}
				poison := db.add(1, like)[0]
				f.kills[poison] = test.kills
				db.add(5, wire.Job{Queue: like.Queue})
				db.insert(test.others-test.others/2, wire.Job{})
				took := f.until(10 * time.Hour)
				letter := db.letter(poison)
				if letter == nil || letter.LastError != worker.ErrConvicted.Error() || letter.Reason != worker.ReasonCrashed || db.job(poison) != nil {
					t.Fatalf("the poison is %+v, and its dead letter %+v", db.job(poison), letter)
				}
				t.Logf("%d crashes in %v", f.crashes, took)
				if f.crashes < test.least || f.crashes > test.most {
					t.Errorf("%d crashes, want %d to %d", f.crashes, test.least, test.most)
				}
				if by := db.locks(); len(by) > 0 {
					t.Errorf("locked are %v", by)
				}
				after := db.insert(3, wire.Job{Queue: "q"})
				f.pass(30 * time.Minute)
				for _, id := range after {
					if db.job(id) != nil {
						t.Errorf("job %d did not run afterwards", id)
					}
				}
			})
		})
	}
}

// One kill -9 of many long jobs delays none, and three that hit all workers, as those of a careless
// deploy, convict nobody.
func TestKillsConvictNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		f := newFleet(t, db, 3, 10*time.Minute, concurrency(100))
		db.insert(200, wire.Job{})
		for range 3 {
			f.pass(time.Minute)
			f.killAll()
		}
		took := f.until(5 * time.Hour)
		t.Logf("all had run after %v", took)
		if jobs, locked := db.left(); jobs+locked > 0 {
			t.Errorf("%d jobs are left, %d rows locked", jobs, locked)
		}
		if len(db.completedIDs()) != 200 {
			t.Errorf("%d jobs were completed", len(db.completedIDs()))
		}
	})
}

// A worker that is to try suspects claims no long jobs meanwhile, gives back what has not started,
// and says so; jobs of quick tasks go on.
func TestWorkerEmptiesItself(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		long := func(_ context.Context, job *wire.Job) worker.Outcome {
			if job.Task == "quick" {
				return completed
			}
			<-time.After(time.Minute)
			return completed
		}
		r := newRig(t, db, long, concurrency(4), func(s *setup) { s.Tasks = []string{"task", "quick"} })
		quick := db.insert(1, wire.Job{Task: "quick"})[0]
		r.pass(time.Second)
		if db.job(quick) != nil {
			t.Fatal("a job of the quick task did not run")
		}
		db.insert(2, wire.Job{})
		r.pass(time.Second)
		suspect := db.suspect(t, 10*time.Millisecond)
		r.pass(10 * time.Second)
		waits := db.insert(1, wire.Job{})[0]
		quicks := db.insert(5, wire.Job{Task: "quick"})
		r.pass(10 * time.Second)
		if job := db.job(waits); job.LockedBy != "" {
			t.Error("a worker that empties itself has claimed a long job")
		}
		for _, id := range quicks {
			if db.job(id) != nil {
				t.Errorf("job %d of a quick task did not run", id)
			}
		}
		if job := db.job(suspect); !strings.HasPrefix(job.LockedBy, "backfill-suspect.") {
			t.Errorf("the suspect is %+v while other jobs run", job)
		}
		id := r.worker.Health().WorkerID
		if db.worker(id).emptyingAt.IsZero() || !r.worker.Health().Emptying {
			t.Errorf("neither row nor health, %+v, says that the worker empties itself", r.worker.Health())
		}
		r.pass(45 * time.Second)
		if job := db.job(suspect); !strings.HasPrefix(job.LockedBy, id) {
			t.Errorf("when the other jobs have ended, the suspect is %+v", job)
		}
		if health := r.worker.Health(); !health.Emptying || health.Suspects != 1 {
			t.Errorf("during the trial the worker's health is %+v", health)
		}
		r.pass(75 * time.Second)
		if row := db.worker(id); db.job(waits) != nil && db.job(waits).LockedBy == "" || !row.emptyingAt.IsZero() || !row.trialAt.IsZero() {
			t.Errorf("after the trial the worker is %+v, and the other job %+v", row, db.job(waits))
		}
		if tried, acquitted := r.seen(worker.EventTrial), r.seen(worker.EventAcquitted); len(tried) != 1 || len(acquitted) != 1 || tried[0].Count != 1 {
			t.Errorf("observed the trials %+v and the acquittals %+v", tried, acquitted)
		}
	})
}

// What is on trial when its worker stops, or may no longer be the worker's, waits for another
// trial. None of it is evidence.
func TestTrialIsGivenBack(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*rig){
		"stop":          func(r *rig) { _ = r.stop() },
		"declared dead": func(r *rig) { r.db.kill(r.worker.Health().WorkerID); r.pass(10 * time.Second) },
		"fence": func(r *rig) {
			r.store.silence(true)
			r.pass(20 * time.Second)
			r.store.silence(false)
			r.pass(2 * time.Second)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				db := newDB(t)
				tries := 0
				r := newRig(t, db, func(ctx context.Context, job *wire.Job) worker.Outcome {
					if tries++; tries > 1 {
						return completed
					}
					return forever(ctx, job)
				}, func(s *setup) { s.DrainTimeout = time.Second })
				suspect := db.suspectIn(t, "q", time.Hour)
				r.pass(20 * time.Second)
				if len(r.started()) != 1 {
					t.Fatalf("started %v", r.started())
				}
				end(r)
				if job := db.job(suspect); job != nil && !strings.HasPrefix(job.LockedBy, "backfill-suspect.") && tries < 2 {
					t.Errorf("the suspect is %+v", job)
				}
				next := newRig(t, db, takes(time.Millisecond), concurrency(1))
				next.pass(2 * time.Minute)
				if job := db.job(suspect); job != nil {
					t.Errorf("the suspect is %+v, and was tried no more", job)
				}
				if by := db.locks(); len(by) > 0 {
					t.Errorf("locked are %v", by)
				}
			})
		})
	}
}

// A trial whose claim is not answered ends without its jobs, and they are tried again, whether the
// claim was made or not.
func TestTrialWhoseAnswerIsLost(t *testing.T) {
	t.Parallel()
	for _, made := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			db := newDB(t)
			failures := 2
			fail := func(op string) error {
				if op == opTry || op == opAcquit {
					if failures--; failures >= 0 {
						return errors.New("connection reset")
					}
				}
				return nil
			}
			r := newRig(t, db, takes(time.Second), func(s *setup) {
				if made {
					s.after = fail
				} else {
					s.before = fail
				}
			})
			suspect := db.suspect(t, time.Second)
			r.pass(3 * time.Minute)
			if job := db.job(suspect); job != nil {
				t.Errorf("made %v: the suspect is %+v", made, job)
			}
			if row := db.worker(r.worker.Health().WorkerID); !row.trialAt.IsZero() {
				t.Errorf("made %v: the trial is not over", made)
			}
			id := db.insert(1, wire.Job{})[0]
			r.pass(time.Minute)
			if db.job(id) != nil {
				t.Errorf("made %v: the worker claims nothing after the trial", made)
			}
		})
	}
}

// A job that was given back before its trial was over has not survived it: what is known of it
// stays.
func TestTrialThatIsCutShortAcquitsNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		r := newRig(t, db, forever)
		suspect := db.suspectIn(t, "q", time.Hour)
		r.pass(20 * time.Second)
		if len(r.started()) != 1 {
			t.Fatalf("started %v", r.started())
		}
		r.store.silence(true) // the fence cancels jobs of queues
		r.pass(20 * time.Second)
		r.store.silence(false)
		r.pass(10 * time.Second)
		if len(r.seen(worker.EventAcquitted)) > 0 {
			t.Error("it was acquitted")
		}
		db.mu.Lock()
		defer db.mu.Unlock()
		if record := db.record(suspect, ""); len(record.Ages) != 2 {
			t.Errorf("what is known of it is %+v, want two crashes", record)
		}
	})
}

// A worker that was declared dead in a trial, and learns it when the trial is over, acquits nobody
// and does not say so.
func TestDeadWorkerAcquitsNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		var r *rig
		var killed sync.Once
		r = newRig(t, db, takes(time.Second), func(s *setup) {
			s.before = func(op string) error {
				if op == opAcquit {
					killed.Do(func() { db.kill(r.worker.Health().WorkerID) })
				}
				return nil
			}
		})
		db.suspect(t, time.Second)
		r.pass(4 * time.Second)
		if tried, fenced := r.seen(worker.EventTrial), r.seen(worker.EventFenced); len(tried) != 1 || len(fenced) != 1 {
			t.Fatalf("observed the trials %+v and the deaths %+v", tried, fenced)
		}
		if acquitted := r.seen(worker.EventAcquitted); len(acquitted) > 0 {
			t.Errorf("observed the acquittals %+v", acquitted)
		}
		id := db.insert(1, wire.Job{})[0]
		r.pass(10 * time.Second)
		if db.job(id) != nil {
			t.Error("the worker does not go on under a new id")
		}
	})
}

// A suspect that nobody can take, because somebody has locked its row for long, is tried once a
// minute, and keeps the worker from nothing else.
func TestSuspectThatCannotBeTaken(t *testing.T) {
	t.Parallel()
	for name, keep := range map[string]func(db *fakeDB, suspect int64){
		"locked":  func(db *fakeDB, suspect int64) { db.update(suspect, func(job *fakeJob) { job.Busy = true }) },
		"refused": func(db *fakeDB, suspect int64) { contractDB{db}.Refuse(suspect) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				db := newDB(t)
				r := newRig(t, db, takes(time.Second))
				suspect := db.suspect(t, time.Second)
				keep(db, suspect)
				r.pass(10 * time.Minute)
				if n := len(r.store.calls(opTry)); n < 5 || n > 11 {
					t.Errorf("tried %d times in 10 minutes", n)
				}
				id := db.insert(1, wire.Job{})[0]
				r.pass(10 * time.Second)
				if db.job(id) != nil {
					t.Error("another job does not run")
				}
			})
		})
	}
}

// A suspect that another worker was faster to take, and died with, is tried at once again.
func TestSuspectThatAnotherWorkerTook(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		r := newRig(t, db, takes(time.Second))
		suspect := db.suspect(t, time.Second)
		db.update(suspect, func(job *fakeJob) { job.Busy = true })
		r.pass(5 * time.Second)
		if len(r.store.calls(opTry)) == 0 {
			t.Fatal("it was not tried")
		}
		other := wire.NewWorkerID()
		db.update(suspect, func(job *fakeJob) {
			job.Busy, job.LockedBy = false, other+".1.1"
			db.park(job)
			db.crash(suspect, other).judged = time.Now()
		})
		r.pass(5 * time.Second)
		if job := db.job(suspect); job != nil {
			t.Errorf("it is %+v", job)
		}
	})
}

// Emptying itself was in vain only if the worker gave up, and not if others were faster.
func TestOthersTryWhileWorkerEmpties(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		r := newRig(t, db, forever)
		db.insert(1, wire.Job{})
		r.pass(time.Second)
		empties := func() bool { return !db.worker(r.worker.Health().WorkerID).emptyingAt.IsZero() }
		for range 5 {
			suspect := db.suspect(t, time.Second)
			r.pass(10 * time.Second)
			if !empties() {
				t.Fatal("the worker does not empty itself")
			}
			contractDB{db}.Delete(suspect)
			r.pass(time.Minute)
			if empties() {
				t.Fatal("the worker empties itself for nothing")
			}
		}
		db.suspect(t, time.Second)
		r.pass(17 * time.Minute)
		if empties() {
			t.Error("the first time that it waits in vain takes more than 15 minutes")
		}
	})
}

// suspect adds a job that two workers have died with after some time, and that is a suspect.
func (db *fakeDB) suspect(t *testing.T, after time.Duration) int64 {
	t.Helper()
	return db.suspectIn(t, "", after)
}

func (db *fakeDB) suspectIn(t *testing.T, queue string, after time.Duration) int64 {
	t.Helper()
	id := db.add(1, wire.Job{Queue: queue})[0]
	store := db.newStore()
	for range 2 {
		victim := wire.NewWorkerID()
		db.mu.Lock()
		db.addWorker(victim, store)
		job := db.jobs[id]
		job.Attempt++
		job.LockedBy, job.LockedAt = victim+".1.1", time.Now().Add(-after)
		job.Token = job.LockedBy
		if queue := db.queues[queue]; queue != nil {
			queue.LockedBy = victim + ".1"
		}
		db.mu.Unlock()
		db.kill(victim)
		db.release(worker.RescueRequest{IDs: []string{victim}})
	}
	if job := db.job(id); !strings.HasPrefix(job.LockedBy, "backfill-suspect.") {
		t.Fatalf("the job is %+v", job)
	}
	return id
}

// worker returns a copy of a worker's row.
func (db *fakeDB) worker(id string) fakeWorker {
	db.mu.Lock()
	defer db.mu.Unlock()
	return *db.workers[id]
}

// locks returns what is locked.
func (db *fakeDB) locks() (by []string) {
	db.mu.Lock()
	defer db.mu.Unlock()
	for _, job := range db.jobs {
		if job.LockedBy != "" {
			by = append(by, job.LockedBy)
		}
	}
	for _, queue := range db.queues {
		if queue.LockedBy != "" {
			by = append(by, queue.LockedBy)
		}
	}
	return by
}
