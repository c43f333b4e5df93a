package storetest

import (
	"fmt"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// Attempt is what the contract says of a row of the history.
type Attempt struct {
	Attempt            int
	Outcome            string
	Started            bool // it says when
	Error, Output, Log string
}

// Progress is what the contract says of the progress of a job.
type Progress struct {
	Attempt     int
	Done, Total int64
	Note        string
}

// Counted are sums of counts.
type Counted struct {
	Completed, Failed, Dead, Snoozed, Returned, Canceled int32
	Runs, Waits                                          int32
	Run, Wait                                            time.Duration
}

// Add adds a row.
func (c *Counted) Add(row worker.Count) {
	c.Completed += row.Completed
	c.Failed += row.Failed
	c.Dead += row.Dead
	c.Snoozed += row.Snoozed
	c.Returned += row.Returned
	c.Canceled += row.Canceled
	c.Run += row.Run.Sum
	c.Wait += row.Wait.Sum
	for _, n := range row.Run.In {
		c.Runs += n
	}
	for _, n := range row.Wait.In {
		c.Waits += n
	}
}

// keeping is a worker that keeps the history of task a.
func keeping(r *rig) *rig {
	return register(r.t, r.Database, worker.Registration{
		Tasks: []string{"a", "b"}, DeadLetters: true, History: map[string]time.Duration{"a": 24 * time.Hour},
	})
}

// kept is how an attempt has ended, for the history.
func kept(job *wire.Job, outcome worker.Outcome) worker.Ended {
	return worker.Ended{Lease: job.Lease, Outcome: outcome, Record: &worker.Record{
		Task: job.Task, Queue: job.Queue, Key: job.Key, Took: time.Second, Ago: time.Millisecond, Output: outcome.Output, Log: outcome.Log,
	}}
}

// history checks what the history has of a job.
func (r *rig) history(what string, id int64, want ...Attempt) {
	r.t.Helper()
	if diff := cmp.Diff(want, r.History(id)); diff != "" {
		r.t.Errorf("%s: history of job %d (-want +got):\n%s", what, id, diff)
	}
}

// completeKept completes jobs that go into the history.
func (r *rig) completeKept(outcome worker.Outcome, jobs ...*wire.Job) []worker.Fate {
	r.t.Helper()
	outcome.Kind = worker.OutcomeCompleted
	var done []worker.Ended
	for _, job := range jobs {
		done = append(done, kept(job, outcome))
	}
	return r.fates(r.store.CompleteRecorded(r.ctx(), done))
}

var historyCases = map[string]func(*rig){
	"an attempt that completes its job is kept, with its output and its log": func(r *rig) {
		r = keeping(r)
		id := r.add(wire.Job{Queue: "q", Key: "k"})
		job := r.only()
		r.kinds("complete", r.completeKept(worker.Outcome{Output: []byte(`{"n": 1e400}`), Log: "one\ntwo\n"}, job), worker.FateRecorded)
		r.row(id, nil)
		r.history("completed", id, Attempt{Attempt: 1, Outcome: "completed", Started: true, Output: `{"n": 1e400}`, Log: "one\ntwo\n"})
	},
	"of a statement, only what has a record is kept": func(r *rig) {
		r = keeping(r)
		first, second := r.add(wire.Job{}), r.add(wire.Job{Task: "b"})
		jobs := r.claim(2)
		one := kept(jobs[0], worker.Outcome{Kind: worker.OutcomeCompleted})
		other := worker.Ended{Lease: jobs[1].Lease, Outcome: worker.Outcome{Kind: worker.OutcomeCompleted}}
		r.kinds("complete", r.fates(r.store.CompleteRecorded(r.ctx(), []worker.Ended{one, other})), worker.FateRecorded, worker.FateRecorded)
		r.history("with a record", first, Attempt{Attempt: 1, Outcome: "completed", Started: true})
		r.history("without", second)
	},
	"a completion that is repeated is kept once": func(r *rig) {
		r = keeping(r)
		id := r.add(wire.Job{})
		job := r.only()
		r.kinds("first", r.completeKept(worker.Outcome{}, job), worker.FateRecorded)
		r.kinds("again", r.completeKept(worker.Outcome{}, job), worker.FateLost)
		r.history("repeated", id, Attempt{Attempt: 1, Outcome: "completed", Started: true})
	},
	"what is busy or lost is not kept": func(r *rig) {
		r = keeping(r)
		busy := r.add(wire.Job{})
		job := r.only()
		unlock := r.LockJob(busy)
		r.kinds("busy", r.completeKept(worker.Outcome{}, job), worker.FateBusy)
		r.kinds("fail", r.fates(r.store.Fail(r.ctx(), []worker.Ended{kept(job, worker.Outcome{Kind: worker.OutcomeFailed, Text: "no"})})), worker.FateBusy)
		unlock()
		r.history("busy", busy)
		r.Relock(busy, "somebody else")
		for _, fates := range [][]worker.Fate{
			r.completeKept(worker.Outcome{}, job),
			r.fates(r.store.Fail(r.ctx(), []worker.Ended{kept(job, worker.Outcome{Kind: worker.OutcomeFailed, Text: "no"})})),
			r.fates(r.store.Release(r.ctx(), []worker.Ended{kept(job, worker.Outcome{Kind: worker.OutcomeReturned})})),
		} {
			r.kinds("lost", fates, worker.FateLost)
		}
		r.history("lost", busy)
	},
	"each failure is kept, and the last one is the death": func(r *rig) {
		r = keeping(r)
		id := r.add(wire.Job{MaxAttempts: 2})
		for attempt := 1; attempt <= 2; attempt++ {
			outcome := worker.Outcome{Kind: worker.OutcomeFailed, Text: fmt.Sprintf("no %d", attempt), Log: "tried\n", Reason: worker.ReasonExhausted}
			r.fates(r.store.Fail(r.ctx(), []worker.Ended{kept(r.only(), outcome)}))
		}
		r.history("failed twice", id,
			Attempt{Attempt: 1, Outcome: "failed", Started: true, Error: "no 1", Log: "tried\n"},
			Attempt{Attempt: 2, Outcome: "dead", Started: true, Error: "no 2", Log: "tried\n"})
	},
	"a job that is given back or snoozed is kept, with an attempt that is not charged": func(r *rig) {
		r = keeping(r)
		id := r.add(wire.Job{})
		r.fates(r.store.Release(r.ctx(), []worker.Ended{kept(r.only(), worker.Outcome{Kind: worker.OutcomeReturned})}))
		r.fates(r.store.Release(r.ctx(), []worker.Ended{kept(r.only(), worker.Outcome{Kind: worker.OutcomeSnoozed})}))
		r.completeKept(worker.Outcome{}, r.only())
		r.history("given back", id, Attempt{Attempt: 1, Outcome: "returned", Started: true},
			Attempt{Attempt: 1, Outcome: "snoozed", Started: true}, Attempt{Attempt: 1, Outcome: "completed", Started: true})
	},
	"a job that was superseded while it ran is kept as that, unless it has succeeded": func(r *rig) {
		r = keeping(r)
		id := r.add(wire.Job{Key: "k"})
		job := r.only()
		r.Supersede(id)
		r.kinds("fail", r.fates(r.store.Fail(r.ctx(), []worker.Ended{kept(job, worker.Outcome{Kind: worker.OutcomeFailed, Text: "no"})})), worker.FateSuperseded)
		r.history("superseded", id, Attempt{Attempt: 1, Outcome: "superseded", Started: true, Error: "no"})
	},
	"a cancelled job is kept once, whatever its handler has returned": func(r *rig) {
		r = keeping(r)
		request := worker.Request{By: "ann", Reason: "enough"}
		id := r.add(wire.Job{})
		job := r.only()
		r.Request(id, request)
		r.kinds("complete", r.completeKept(worker.Outcome{}, job), worker.FateCanceled)
		r.history("completed", id, Attempt{Attempt: 1, Outcome: "canceled", Started: true})
		id = r.add(wire.Job{})
		job = r.only()
		r.Request(id, request)
		canceled := kept(job, worker.Outcome{Kind: worker.OutcomeCanceled, Log: "ended\n"})
		r.kinds("release", r.fates(r.store.Release(r.ctx(), []worker.Ended{canceled})), worker.FateCanceled)
		if got := r.History(id); len(got) != 1 || got[0].Outcome != "canceled" || got[0].Log != "ended\n" {
			r.t.Errorf("history of a job whose handler was cancelled: %+v", got)
		}
	},
	"a job that was to end, and failed first, is kept as both": func(r *rig) {
		r = keeping(r)
		id := r.add(wire.Job{MaxAttempts: 1})
		job := r.only()
		r.Request(id, worker.Request{Reason: "enough"})
		failed := kept(job, worker.Outcome{Kind: worker.OutcomeFailed, Text: "no", Reason: worker.ReasonExhausted})
		r.kinds("fail", r.fates(r.store.Fail(r.ctx(), []worker.Ended{failed})), worker.FateCanceled)
		r.history("failed and cancelled", id, Attempt{Attempt: 1, Outcome: "failed", Started: true, Error: "no"},
			Attempt{Attempt: 1, Outcome: "canceled", Error: "enough"})
	},
	"a job that is to end and that nobody runs is kept as cancelled, also by a worker without history": func(r *rig) {
		keeping(r)
		id := r.add(wire.Job{})
		r.Request(id, worker.Request{Reason: "enough"})
		if _, err := r.store.Requested(r.ctx(), nil); err != nil {
			r.t.Fatal(err)
		}
		r.row(id, nil)
		r.history("cancelled while it waited", id, Attempt{Outcome: "canceled", Error: "enough"})
	},
	"what a dead worker held is kept by the rescue, once": func(r *rig) {
		dead := keeping(r)
		id, none := r.add(wire.Job{}), r.add(wire.Job{Task: "b"})
		if n := len(dead.claim(2)); n != 2 {
			r.t.Fatalf("claimed %d jobs", n)
		}
		if err := dead.store.Retire(r.ctx(), dead.id, false); err != nil {
			r.t.Fatal(err)
		}
		for range 2 {
			if _, err := r.store.Rescue(r.ctx(), worker.RescueRequest{IDs: []string{dead.id}}); err != nil {
				r.t.Fatal(err)
			}
		}
		r.history("rescued", id, Attempt{Attempt: 1, Outcome: "crashed", Started: true, Error: "its worker died"})
		r.history("a task without history", none)
	},
	"a job with a single attempt whose worker died is kept as dead": func(r *rig) {
		dead := keeping(r)
		id := r.add(wire.Job{MaxAttempts: 1})
		dead.only()
		if err := dead.store.Retire(r.ctx(), dead.id, false); err != nil {
			r.t.Fatal(err)
		}
		if _, err := r.store.Rescue(r.ctx(), worker.RescueRequest{IDs: []string{dead.id}}); err != nil {
			r.t.Fatal(err)
		}
		if got := r.History(id); len(got) != 1 || got[0].Outcome != "dead" || !got[0].Started || got[0].Error == "" {
			r.t.Errorf("history of a job whose only attempt its worker has not survived: %+v", got)
		}
	},
	"a lock that is 4 hours old is kept as lost": func(r *rig) {
		owner := keeping(r)
		id := r.add(wire.Job{})
		owner.only()
		r.Age(id, 5*time.Hour)
		if _, err := r.store.Sweep(r.ctx(), r.id, true); err != nil {
			r.t.Fatal(err)
		}
		r.history("swept", id, Attempt{Attempt: 1, Outcome: "lost", Started: true, Error: "the lock was 4 hours old"})
	},
	"a job that was found without attempts is kept as dead, unless it was before": func(r *rig) {
		r = keeping(r)
		found := r.add(wire.Job{})
		r.Exhaust(found, "node says no", 3*time.Hour)
		known := r.add(wire.Job{MaxAttempts: 1})
		left := kept(r.only(), worker.Outcome{Kind: worker.OutcomeFailed, Text: "no"})
		r.kinds("fail", r.fates(r.store.Fail(r.ctx(), []worker.Ended{left})), worker.FateExhausted)
		r.Exhaust(known, "no", 3*time.Hour)
		if _, err := r.store.Sweep(r.ctx(), r.id, true); err != nil {
			r.t.Fatal(err)
		}
		if got := r.History(found); len(got) != 1 || got[0].Outcome != "dead" || got[0].Error != "node says no" {
			r.t.Errorf("history of a job that Node has failed: %+v", got)
		}
		r.history("failed by a worker without dead letters", known, Attempt{Attempt: 1, Outcome: "dead", Started: true, Error: "no"})
	},
	"progress is that of the attempt that runs, and goes with it": func(r *rig) {
		id := r.add(wire.Job{Key: "k"})
		job := r.only()
		say := func(job *wire.Job, done int64, over ...wire.Lease) {
			r.t.Helper()
			row := worker.Progress{Lease: job.Lease, Done: done, Total: 10, Note: fmt.Sprint("at ", done)}
			if err := r.store.Progress(r.ctx(), []worker.Progress{row}, over); err != nil {
				r.t.Fatal(err)
			}
		}
		is := func(what string, want Progress) {
			r.t.Helper()
			if got := r.Progress(id); got != want {
				r.t.Errorf("%s: progress %+v, want %+v", what, got, want)
			}
		}
		is("nothing was said", Progress{})
		say(job, 1)
		say(job, 2)
		is("said twice", Progress{1, 2, 10, "at 2"})
		r.fail(worker.Outcome{Kind: worker.OutcomeFailed, Text: "no"}, job)
		is("failed", Progress{})
		r.Change(id, 1, time.Now().Add(-time.Second))
		again := r.only()
		is("a new attempt", Progress{})
		say(job, 9)
		is("what an attempt says that is over", Progress{})
		say(again, 3, job.Lease)
		is("the new attempt", Progress{2, 3, 10, "at 3"})
		say(job, 9)
		is("the former one goes on", Progress{2, 3, 10, "at 3"})
		say(again, 4, job.Lease)
		is("another one was over", Progress{2, 4, 10, "at 4"})
		if err := r.store.Progress(r.ctx(), nil, []wire.Lease{again.Lease}); err != nil {
			r.t.Fatal(err)
		}
		is("over", Progress{})
	},
	"counts are replaced by those of the same minute": func(r *rig) {
		minute := time.Now().Truncate(time.Minute)
		count := func(completed int32, took ...time.Duration) worker.Count {
			c := worker.Count{Minute: minute, Task: "a", Completed: completed, Dead: 1, Run: worker.Times{In: map[int16]int32{}}}
			for _, t := range took {
				c.Run.Sum += t
				c.Run.In[wire.Class(t)]++
			}
			return c
		}
		for _, c := range []worker.Count{count(1, time.Second), count(3, time.Second, time.Minute, time.Second), count(3, time.Second, time.Minute, time.Second)} {
			if err := r.store.Count(r.ctx(), r.id, []worker.Count{c}); err != nil {
				r.t.Fatal(err)
			}
		}
		other := r.other()
		if err := other.store.Count(r.ctx(), other.id, []worker.Count{count(10), {Minute: minute, Task: "b", Failed: 2}}); err != nil {
			r.t.Fatal(err)
		}
		if got, want := r.Counted("a"), (Counted{Completed: 13, Dead: 2, Runs: 3, Run: 62 * time.Second}); got != want {
			r.t.Errorf("counted of a: %+v, want %+v", got, want)
		}
		if got, want := r.Counted("b"), (Counted{Failed: 2}); got != want {
			r.t.Errorf("counted of b: %+v, want %+v", got, want)
		}
	},
}
