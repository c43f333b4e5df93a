package worker_test

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// because is a request of somebody's.
var because = worker.Request{By: "ops", Reason: "wrong customer"}

// cancel requests the end of a job, as Client.Cancel does: with a notification.
func (db *fakeDB) cancel(id int64) {
	db.request(id, because)
	db.notify(worker.Notification{Kind: worker.NotifyCancel})
}

// told returns what observers were told of the end of a job, in order.
func (r *rig) told(id int64) (kinds []worker.EventKind) {
	r.mu.Lock()
	defer r.mu.Unlock()
	ends := []worker.EventKind{
		worker.EventFinished, worker.EventFailed, worker.EventSnoozed, worker.EventDead, worker.EventCanceled, worker.EventLeaseLost,
		worker.EventRescued, worker.EventSuspected,
	}
	for _, e := range r.events {
		if e.Job != nil && e.Job.ID == id && slices.Contains(ends, e.Kind) {
			kinds = append(kinds, e.Kind)
		}
	}
	return kinds
}

// canceled checks that a job is gone for good, with its request, and that one of these workers has
// said so once, and nothing else of it.
func canceled(t *testing.T, db *fakeDB, id int64, fleet ...*rig) {
	t.Helper()
	db.mu.Lock()
	job, times := db.jobs[id], db.canceled[id]
	_, requested := db.requests[id]
	db.mu.Unlock()
	if job != nil || requested || times != 1 || db.letter(id) != nil {
		t.Errorf("job %d was cancelled %d times, and is left as %+v, requested %v, dead letter %+v", id, times, job, requested, db.letter(id))
	}
	var told []worker.EventKind
	for _, r := range fleet {
		told = append(told, r.told(id)...)
	}
	if diff := cmp.Diff([]worker.EventKind{worker.EventCanceled}, told); diff != "" {
		t.Errorf("events of job %d (-want +got):\n%s", id, diff)
	}
}

// A handler learns at once that its job was cancelled, or, where no notification arrives, when its
// worker looks.
func TestHandlersLearnThatTheirJobsWereCanceled(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(*setup)
		cancel func(*fakeDB, int64)
		within time.Duration
	}{
		"notified":              {func(*setup) {}, (*fakeDB).cancel, 0},
		"its notification lost": {func(*setup) {}, func(db *fakeDB, id int64) { db.request(id, because) }, 2 * time.Second},
		"poll-only":             {func(s *setup) { s.PollOnly = true }, (*fakeDB).cancel, 2 * time.Second},
		"pooled":                {func(s *setup) { s.pooled = true }, (*fakeDB).cancel, 2 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				db := newDB(t)
				id, behind := db.add(1, wire.Job{Queue: "q"})[0], db.add(1, wire.Job{Queue: "q"})[0]
				var causes causes
				r := newRig(t, db, causes.obey(time.Hour), test.change)
				r.passUntil(10*time.Second + 300*time.Millisecond)
				test.cancel(db, id)
				if synctest.Wait(); test.within > 0 && causes.of(id) != nil {
					t.Error("the handler was cancelled without anybody who has told")
				}
				r.pass(test.within)
				if cause := causes.of(id); !errors.Is(cause, worker.ErrCanceled) || cause.Error() != "job cancelled by ops: wrong customer" {
					t.Errorf("%v after the request the cause is %v", test.within, cause)
				}
				r.pass(2 * time.Second) // the claim of a worker that polls
				canceled(t, db, id, r)
				r.stats(worker.Stats{Canceled: 1})
				if events := r.seen(worker.EventCanceled); len(events) == 0 {
					t.Error("there is no event")
				} else if e := events[0]; !errors.Is(e.Err, worker.ErrCanceled) || e.WorkerID != r.worker.Health().WorkerID || e.Job.Task != "task" {
					t.Errorf("event %+v", e)
				}
				if runs := r.started(); len(runs) != 2 || runs[1].Job != behind {
					t.Errorf("started %+v, want the job behind it, too", runs)
				}
				db.cancel(behind) // the worker that stops would wait for it
				r.pass(2 * time.Second)
			})
		})
	}
}

// X69: the others run on, also after the listener has reconnected.
func TestOneOfManyHandlersIsCanceled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		ids := db.add(200, wire.Job{})
		var causes causes
		handle := causes.obey(time.Hour)
		r := newRig(t, db, func(ctx context.Context, job *wire.Job) worker.Outcome {
			derived, cancel := context.WithCancel(context.WithValue(ctx, causesKey{}, job))
			defer cancel()
			return handle(derived, job)
		}, concurrency(200))
		for n, id := range []int64{ids[7], ids[100]} {
			r.pass(10 * time.Second)
			db.cancel(id)
			synctest.Wait()
			if causes.len() != n+1 || !errors.Is(causes.of(id), worker.ErrCanceled) || r.worker.Health().Running != 199-n {
				t.Errorf("%d handlers were cancelled, that of job %d by %v, and %d run", causes.len(), id, causes.of(id), r.worker.Health().Running)
			}
			canceled(t, db, id, r)
			db.breakListeners(errors.New("connection reset"))
		}
		r.stats(worker.Stats{Canceled: 2})
	})
}

type causesKey struct{}

// Whatever a handler returns once its job was cancelled: it is told of as cancelled, and as nothing
// else.
func TestCanceledHandlersMayReturnAnything(t *testing.T) {
	t.Parallel()
	because, text := errors.New("no"), "no"
	for name, test := range map[string]struct {
		outcome worker.Outcome
		end     func()
	}{
		"nil":           {outcome: completed},
		"its context":   {outcome: worker.Outcome{Kind: worker.OutcomeReturned, Err: worker.ErrCanceled}},
		"an error":      {outcome: worker.Outcome{Kind: worker.OutcomeFailed, Err: because, Text: text, Delay: time.Hour}},
		"a panic":       {outcome: worker.Outcome{Kind: worker.OutcomeFailed, Err: errors.New("panic"), Text: "panic"}},
		"permanent":     {outcome: worker.Outcome{Kind: worker.OutcomeExhausted, Err: because, Text: text}},
		"snooze":        {outcome: worker.Outcome{Kind: worker.OutcomeSnoozed, Delay: time.Hour}},
		"canceled":      {outcome: worker.Outcome{Kind: worker.OutcomeCanceled}},
		"its goroutine": {end: runtime.Goexit},
		"nothing":       {end: func() { <-time.After(time.Hour) }},
	} {
		for what, like := range map[string]wire.Job{"": {}, ", only attempt": {MaxAttempts: 1}, ", keyed": {Key: "k", Queue: "q"}} {
			t.Run(name+what, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					db := newDB(t)
					id := db.add(1, like)[0]
					var log logged
					r := newRig(t, db, func(ctx context.Context, _ *wire.Job) worker.Outcome {
						<-ctx.Done()
						if test.end != nil {
							test.end()
						}
						return test.outcome
					}, logTo(&log))
					r.pass(5 * time.Second)
					db.cancel(id)
					r.pass(time.Second)
					start := time.Now()
					if err := r.stop(); err != nil { // also if the handler never returns
						t.Errorf("Run: %v", err)
					}
					if took := time.Since(start); took > 11*time.Second {
						t.Errorf("the stop took %v", took)
					}
					canceled(t, db, id, r)
					r.stats(worker.Stats{Canceled: 1})
					for _, kind := range []worker.EventKind{worker.EventCompleted, worker.EventRecorded, worker.EventReturned} {
						if n := r.sum(kind); n > 0 {
							t.Errorf("%d jobs are %s", n, kind)
						}
					}
					if lines := log.with("job cancelled"); len(lines) != 1 || len(log.with("job ended"))+len(log.with("dead letter")) > 0 {
						t.Errorf("lines %q", log.with("job"))
					}
					r.pass(time.Hour) // until the handler that has ignored all this returns
				})
			})
		}
	}
}

// A worker that has heard of no request when a handler ends says what that has returned. Then the
// database knows better, and the job counts as cancelled alone.
func TestRequestsThatAWorkerHasNotHeardOf(t *testing.T) {
	t.Parallel()
	for name, outcome := range map[string]worker.Outcome{
		"completed": completed, "failed": {Kind: worker.OutcomeFailed, Err: errors.New("no"), Text: "no"},
		"exhausted": {Kind: worker.OutcomeExhausted, Err: errors.New("no"), Text: "no"},
		"snoozed":   {Kind: worker.OutcomeSnoozed, Delay: time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				db := newDB(t)
				id, fine := db.add(1, wire.Job{Queue: "q", MaxAttempts: 1})[0], db.add(1, wire.Job{Queue: "q"})[0]
				r := newRig(t, db, func(_ context.Context, job *wire.Job) worker.Outcome {
					<-time.After(500 * time.Millisecond)
					if job.ID == fine {
						return completed
					}
					db.request(id, because)
					return outcome
				})
				r.pass(5 * time.Second)
				told := r.told(id)
				if len(told) != 2 || told[0] == worker.EventCanceled || told[0] == worker.EventDead || told[1] != worker.EventCanceled {
					t.Errorf("told %q, want what the handler has said, and what has become of the job", told)
				}
				if db.job(id) != nil || db.letter(id) != nil {
					t.Errorf("the job is left as %+v, and the dead letter %+v", db.job(id), db.letter(id))
				}
				r.stats(worker.Stats{Canceled: 1, Completed: 1})
				if n := r.sum(worker.EventCompleted) + r.sum(worker.EventRecorded) + r.sum(worker.EventReturned); n != 1 {
					t.Errorf("%d jobs are said to be recorded, want the other", n)
				}
			})
		})
	}
}

// A statement that has deleted cancelled jobs, and whose answer is lost, is made again. They are
// told of once.
func TestCanceledJobsOfALostAnswerAreToldOnce(t *testing.T) {
	t.Parallel()
	for name, applied := range map[string]bool{"not applied": false, "applied": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				db := newDB(t)
				running := db.add(3, wire.Job{})
				r := newRig(t, db, forever, concurrency(3), failing(opRelease, 4, applied))
				r.pass(5 * time.Second)
				for _, id := range running {
					db.cancel(id)
				}
				r.pass(20 * time.Second)
				for _, id := range running {
					canceled(t, db, id, r)
				}
				r.stats(worker.Stats{Canceled: 3})
			})
		})
	}
}

// A look that fails is said, not each time, and made again.
func TestLookForRequestsFails(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(*setup)
		finds  bool
	}{
		"not made":             {failing(opRequested, 5, false), false},
		"its answer lost":      {failing(opRequested, 5, true), true}, // what it has found counts
		"no answer within 2 s": {latency(opRequested, time.Hour), false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				db := newDB(t)
				id, other := db.add(1, wire.Job{})[0], db.add(1, wire.Job{})[0]
				var log logged
				var causes causes
				r := newRig(t, db, causes.obey(time.Hour), test.change, logTo(&log))
				r.pass(time.Second)
				db.cancel(id)
				synctest.Wait()
				if found := causes.of(id) != nil; found != test.finds {
					t.Errorf("cancelled: %v, want %v", found, test.finds)
				}
				r.store.mu.Lock()
				delete(r.store.latency, opRequested)
				r.store.mu.Unlock()
				r.pass(30 * time.Second)
				if failed, again := log.with("looking for cancelled jobs failed"), log.with("cancelled jobs are looked for again"); len(failed) < 1 || len(failed) > 3 || len(again) != 1 {
					t.Errorf("lines %q and %q", failed, again)
				}
				if !errors.Is(causes.of(id), worker.ErrCanceled) || causes.of(other) != nil {
					t.Errorf("ended by %v, and the other by %v", causes.of(id), causes.of(other))
				}
				canceled(t, db, id, r)
			})
		})
	}
}

// Who has lost the lease of a cancelled job leaves it to who has it now. If nobody has it, it is
// deleted.
func TestCanceledJobWhoseLeaseIsLost(t *testing.T) {
	t.Parallel()
	for name, free := range map[string]bool{"taken": false, "free": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				db := newDB(t)
				id := db.add(1, wire.Job{})[0]
				r := newRig(t, db, func(ctx context.Context, _ *wire.Job) worker.Outcome {
					<-ctx.Done()
					<-time.After(10 * time.Millisecond) // less than a look takes
					return completed
				})
				r.passUntil(time.Second)
				db.cancel(id)
				synctest.Wait()
				db.update(id, func(job *fakeJob) {
					if job.LockedBy = ""; !free {
						job.LockedBy = "somebody"
					}
				})
				r.pass(time.Second)
				if free {
					canceled(t, db, id, r)
					r.stats(worker.Stats{Canceled: 1})
					return
				}
				if told := r.told(id); !slices.Equal(told, []worker.EventKind{worker.EventLeaseLost}) || db.job(id) == nil {
					t.Errorf("told %q, and the job is %+v", told, db.job(id))
				}
				r.stats(worker.Stats{Lost: 1})
			})
		})
	}
}

// A job that waits for a slot when its request is known does not start.
func TestCanceledJobThatWaitsForASlot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		db.add(200, wire.Job{})
		r := newRig(t, db, takes(10*time.Millisecond), concurrency(1))
		waiting := func() (ids []int64) {
			db.mu.Lock()
			defer db.mu.Unlock()
			for id, job := range db.jobs {
				if job.LockedBy != "" && !slices.ContainsFunc(r.started(), func(s started) bool { return s.Job == id }) {
					ids = append(ids, id)
				}
			}
			return ids
		}
		for len(waiting()) == 0 {
			r.pass(3 * time.Millisecond)
		}
		ids := waiting()
		for _, id := range ids {
			db.cancel(id)
		}
		r.pass(10 * time.Second)
		for _, id := range ids {
			canceled(t, db, id, r)
			if slices.ContainsFunc(r.started(), func(s started) bool { return s.Job == id }) {
				t.Errorf("job %d has started", id)
			}
		}
		r.stats(worker.Stats{Canceled: int64(len(ids)), Completed: 200 - int64(len(ids))})
	})
}

// A job that somebody has released who knows no requests does not run, and the next of its queue
// does.
func TestCanceledJobThatOthersHaveReleased(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*setup){
		"": func(*setup) {}, "the answers are lost": failing(opRelease, 2, true), "statements fail": failing(opRelease, 2, false),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				db := newDB(t)
				id, behind := db.add(1, wire.Job{Queue: "q"})[0], db.add(1, wire.Job{Queue: "q"})[0]
				db.request(id, because)
				r := newRig(t, db, takes(0), latency(opRequested, time.Second), change) // the claim is first
				r.pass(5 * time.Second)
				canceled(t, db, id, r)
				if runs := r.started(); len(runs) != 1 || runs[0].Job != behind || name == "" && runs[0].At > 100*time.Millisecond {
					t.Errorf("started %+v", runs)
				}
				r.stats(worker.Stats{Canceled: 1, Completed: 1})
			})
		})
	}
}

// A job that was cancelled, and whose worker dies before it hears of it, ends with that worker.
func TestCanceledJobOfADeadWorker(t *testing.T) {
	t.Parallel()
	for name, most := range map[string]int{"some attempts": 25, "the only attempt": 1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				db := newDB(t)
				id := db.add(1, wire.Job{Queue: "q", MaxAttempts: most})[0]
				victim := newRig(t, db, forever)
				victim.pass(time.Second)
				behind := db.insert(1, wire.Job{Queue: "q"})[0]
				fleet := []*rig{newRig(t, db, takes(0)), newRig(t, db, takes(0))}
				victim.pass(10 * time.Second)
				victim.kill()
				db.request(id, because)
				victim.pass(time.Minute)
				canceled(t, db, id, fleet...)
				var runs []int64
				for _, r := range fleet {
					for _, s := range r.started() {
						runs = append(runs, s.Job)
					}
				}
				if !slices.Equal(runs, []int64{behind}) {
					t.Errorf("the jobs %d have run, want that behind it", runs)
				}
			})
		})
	}
}

// What nobody runs is deleted by whoever looks first, and told of once.
func TestCanceledJobThatNobodyRuns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		later, gone := db.add(1, wire.Job{RunAt: time.Now().Add(time.Hour)})[0], db.add(1, wire.Job{})[0]
		stale := db.add(1, wire.Job{Task: "foreign"})[0]
		fleet := []*rig{newRig(t, db, takes(0)), newRig(t, db, takes(0)), newRig(t, db, takes(0))}
		fleet[0].pass(time.Second)
		db.update(stale, func(job *fakeJob) { job.LockedBy, job.LockedAt = "worker.of.node", time.Now().Add(-5*time.Hour) })
		db.request(stale, because)
		db.request(gone, because) // it has succeeded
		db.cancel(later)
		fleet[0].pass(time.Second)
		canceled(t, db, later, fleet...)
		canceled(t, db, stale, fleet...)
		db.mu.Lock()
		defer db.mu.Unlock()
		if len(db.requests) > 0 {
			t.Errorf("requests are left: %v", db.requests)
		}
	})
}

// A worker on which nothing runs does not ask.
func TestIdleWorkersDoNotLookForRequests(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		r := newRig(t, db, takes(time.Minute))
		r.pass(5 * time.Minute)
		idle := len(r.store.calls(opRequested))
		if idle > 4 { // at the start, and after sweeps
			t.Errorf("an idle worker has asked %d times", idle)
		}
		db.insert(1, wire.Job{})
		r.pass(time.Minute - time.Second)
		if n := len(r.store.calls(opRequested)) - idle; n < 25 || n > 31 {
			t.Errorf("in a minute it has asked %d times", n)
		}
	})
}
