package storetest

import (
	"slices"
	"strings"
	"time"

	"github.com/backfillhq/go/internal/conviction"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// What crashes say about the jobs that the dead workers held.
var crashCases = map[string]func(*rig){
	"one crash changes nothing, and the second one makes suspects": func(r *rig) {
		queued, keyed := r.add(wire.Job{Queue: "q"}), r.add(wire.Job{Key: "k", Attempt: 2})
		behind := r.add(wire.Job{Queue: "q"})
		first := r.other()
		if n := len(first.claim(2)); n != 2 {
			r.t.Fatalf("claimed %d jobs", n)
		}
		if rescued := r.crash(first); len(rescued.Jobs) != 2 || rescued.Queues != 1 || len(rescued.Parked) > 0 {
			r.t.Fatalf("after the first crash rescued %+v", rescued)
		}
		r.row(queued, &Row{})
		r.suspects()

		second := r.other()
		second.claim(2)
		rescued := r.crash(second)
		if len(rescued.Parked) != 2 || len(rescued.Jobs) > 0 || !slices.Equal(rescued.Settled, []string{second.id}) {
			r.t.Errorf("after the second crash rescued %+v", rescued)
		}
		r.row(queued, &Row{LockedBy: second.suspect(0)})
		r.row(keyed, &Row{Attempts: 2, LockedBy: second.suspect(2) + "k"})
		if by := r.QueueLock("q"); by != "backfill-suspect."+second.cohort() {
			r.t.Errorf("the queue of a suspect is locked by %q", by)
		}
		r.row(behind, &Row{})
		r.none()
		r.suspects(queued, keyed)
		if answer := r.beat(worker.Beat{}); !answer.Crashes {
			r.t.Error("a heartbeat does not tell of crashes")
		}
	},
	"three crashes alone convict": func(r *rig) {
		poison := r.add(wire.Job{Attempt: 3, Queue: "q"})
		r.Fail(poison, "what its handler said")
		r.parked(1)
		for n := range 3 {
			victim := r.other()
			victim.trial()
			rescued := r.crash(victim)
			switch {
			case n < 2 && len(rescued.Parked) != 1, n == 2 && (len(rescued.Dead) != 1 || rescued.Dead[0].ID != poison):
				r.t.Errorf("after trial %d rescued %+v", n+1, rescued)
			case n == 2 && rescued.Dead[0].Err != worker.ErrConvicted: //nolint:errorlint // it is that one
				r.t.Errorf("it died of %v", rescued.Dead[0].Err)
			}
		}
		r.letter(poison, Letter{Queue: "q", Attempts: 4, Reason: worker.ReasonCrashed, LastError: worker.ErrConvicted.Error() + "\nwhat its handler said"})
		r.free("q")
		r.suspects()
		r.Requeue(poison) // it begins anew
		again := r.other()
		again.only()
		if rescued := r.crash(again); len(rescued.Jobs) != 1 {
			r.t.Errorf("sent back, it was rescued as %+v", rescued)
		}
	},
	"a crash in a trial of several convicts nobody, and tells where to look": func(r *rig) {
		var jobs []int64
		for range 4 {
			jobs = append(jobs, r.add(wire.Job{}))
		}
		r.parked(4)
		for range 4 { // however often
			victim := r.other()
			found := victim.seen()
			victim.tryJobs(found, jobs[0], jobs[1])
			r.crash(victim)
			for _, suspect := range r.seen().Jobs {
				tried := suspect.Job == jobs[0] || suspect.Job == jobs[1]
				if suspect.Proven != tried || suspect.Cleared == tried || suspect.Passed == tried {
					r.t.Errorf("suspect %+v, tried %v", suspect, tried)
				}
			}
		}
		r.suspects(jobs...)
	},
	"a worker that has given notice is no evidence": func(r *rig) {
		job := r.add(wire.Job{})
		for range 4 {
			victim := r.other()
			victim.only()
			victim.beat(worker.Beat{Write: true, Number: 1, Stopping: true})
			r.declare(victim)
			if rescued := r.rescue(victim); len(rescued.Jobs) != 1 {
				r.t.Errorf("rescued %+v", rescued)
			}
		}
		r.row(job, &Row{})
		r.parked(1)
		for range 4 { // what was on trial is tried again
			victim := r.other()
			victim.trial()
			victim.beat(worker.Beat{Write: true, Number: 1, Stopping: true})
			r.declare(victim)
			if rescued := r.rescue(victim); len(rescued.Parked) != 1 {
				r.t.Errorf("rescued %+v", rescued)
			}
		}
		r.row(job, &Row{LockedBy: r.lockOf(job)})
	},
	"a worker that was declared dead and lives takes its evidence back": func(r *rig) {
		job := r.add(wire.Job{})
		zombie := r.other()
		zombie.only()
		r.crash(zombie)
		fresh := wire.NewWorkerID()
		err := zombie.store.Register(r.ctx(), worker.Registration{ID: fresh, Former: zombie.id, Tasks: []string{"a", "b"}, Slots: 1})
		if err != nil {
			r.t.Fatal(err)
		}
		victim := r.other()
		victim.only()
		if rescued := r.crash(victim); len(rescued.Jobs) != 1 || len(rescued.Parked) > 0 {
			r.t.Errorf("rescued %+v", rescued)
		}
		r.row(job, &Row{})
	},
	"notice after a crash alone takes that back, too": func(r *rig) {
		job := r.add(wire.Job{})
		r.parked(1)
		for n := range 3 {
			victim := r.other()
			victim.trial()
			if rescued := r.crash(victim); len(rescued.Parked) != 1 {
				r.t.Errorf("after trial %d rescued %+v", n+1, rescued)
			}
			if n == 0 {
				registration := worker.Registration{ID: wire.NewWorkerID(), Former: victim.id, Tasks: []string{"a", "b"}, Slots: 1}
				if err := victim.store.Register(r.ctx(), registration); err != nil {
					r.t.Fatal(err)
				}
			}
		}
		r.row(job, &Row{LockedBy: r.lockOf(job)})
	},
	"retiring is notice": func(r *rig) {
		r.add(wire.Job{})
		for range 3 {
			victim := r.other()
			victim.only()
			if err := victim.store.Retire(r.ctx(), victim.id, false); err != nil {
				r.t.Fatal(err)
			}
			if rescued := r.rescue(victim); len(rescued.Jobs) != 1 {
				r.t.Errorf("rescued %+v", rescued)
			}
		}
	},
	"a suspect that was superseded is not run, and the job with its key inherits": func(r *rig) {
		old := r.add(wire.Job{Key: "k", Queue: "q"})
		removed := r.add(wire.Job{Key: "gone"})
		r.parked(2)
		r.Supersede(old)
		r.Remove(removed)
		found := worker.Suspects{Cohorts: map[int64]string{1: strings.Split(r.lockOf(old), ".")[1]}, Jobs: []conviction.Suspect{{Job: old, Cohort: 1}}}
		if jobs := r.tryJobs(found, old); len(jobs) > 0 {
			r.t.Errorf("tried %d jobs that were superseded", len(jobs))
		}
		r.acquit()
		if found := r.seen(); len(found.Jobs) > 0 || found.Queues != 1 {
			r.t.Errorf("suspects are %+v", found)
		}
		r.row(old, nil)
		r.row(removed, nil)
		r.free("q")
		heir := r.Keyed("k")
		r.Change(heir, 0, time.Now().Add(-time.Minute))
		victim := r.other()
		victim.only()
		if rescued := r.crash(victim); len(rescued.Parked) != 1 || rescued.Parked[0].ID != heir {
			r.t.Errorf("rescued %+v", rescued)
		}
	},
	"a job that was superseded when its worker died is gone": func(r *rig) {
		old := r.add(wire.Job{Key: "k"})
		r.crash(r.claimed())
		first := r.claimed()
		r.Supersede(old)
		if rescued := r.crash(first); len(rescued.Jobs)+len(rescued.Parked)+len(rescued.Dead) > 0 {
			r.t.Errorf("rescued %+v", rescued)
		}
		r.row(old, nil)
		heir := r.Keyed("k")
		r.Change(heir, 0, time.Now().Add(-time.Minute))
		second := r.other()
		second.only()
		if rescued := r.crash(second); len(rescued.Parked) != 1 {
			r.t.Errorf("the job with its key was rescued as %+v", rescued)
		}
	},
	"the job with its key inherits the crash in whose trial it was superseded": func(r *rig) {
		old := r.add(wire.Job{Key: "k"})
		r.parked(1)
		victim := r.other()
		victim.trial()
		r.Supersede(old)
		r.crash(victim)
		r.row(old, nil)
		heir := r.Keyed("k")
		r.Change(heir, 0, time.Now().Add(-time.Minute))
		r.crash(r.claimed())
		for n := range 2 { // alone: twice more
			victim := r.other()
			victim.trial()
			rescued := r.crash(victim)
			if dead := len(rescued.Dead) == 1; dead != (n == 1) {
				r.t.Errorf("trial %d: rescued %+v", n+1, rescued)
			}
		}
	},
	"whose jobs could not be counted is judged later": func(r *rig) {
		job := r.add(wire.Job{})
		victim := r.claimed()
		r.declare(victim)
		unlock := r.LockWorker(victim.id)
		if rescued := r.rescue(victim); len(rescued.Jobs)+len(rescued.Settled) > 0 {
			r.t.Errorf("rescued %+v", rescued)
		}
		unlock()
		if rescued := r.rescue(victim); len(rescued.Jobs) != 1 || len(rescued.Settled) != 1 {
			r.t.Errorf("then rescued %+v", rescued)
		}
		r.row(job, &Row{})
	},
	"a crash beside one of other jobs convicts nobody":                        func(r *rig) { r.disturbed(true) },
	"a crash beside one that was declared before it was late convicts nobody": func(r *rig) { r.disturbed(false) },
	"a job that was on trial alone is judged when the others were heard of": func(r *rig) {
		job := r.add(wire.Job{})
		r.parked(1)
		victim := r.other()
		tried := victim.trial()
		victim.beat(worker.Beat{Write: true, Number: 1})
		r.declare(victim)
		rescued, err := r.store.Rescue(r.ctx(), worker.RescueRequest{IDs: []string{victim.id}, Settle: time.Minute})
		if err != nil || len(rescued.Parked)+len(rescued.Settled) > 0 {
			r.t.Errorf("rescued %+v, %v", rescued, err)
		}
		r.row(job, &Row{Attempts: 1, LockedBy: tried[0].Token})
		<-time.After(2 * settle)
		if rescued := r.rescue(victim); len(rescued.Parked) != 1 {
			r.t.Errorf("then rescued %+v", rescued)
		}
	},
	"what a worker held is counted before anything is released": func(r *rig) {
		one, two := r.add(wire.Job{}), r.add(wire.Job{})
		r.parked(2)
		for range 4 { // each time the last that is rescued looks as if it had been alone
			victim := r.other()
			victim.tryJobs(victim.seen(), one, two)
			unlock := r.LockJob(two)
			r.crash(victim)
			unlock()
			if rescued := r.rescue(victim); len(rescued.Parked) != 1 || len(rescued.Dead) > 0 {
				r.t.Errorf("rescued %+v", rescued)
			}
			r.Change(one, 0, time.Now().Add(-time.Minute))
			r.merge(one, two)
		}
	},
	"a job whose queue somebody has locked is parked later": func(r *rig) {
		job := r.add(wire.Job{Queue: "q"})
		r.crash(r.claimed())
		victim := r.claimed()
		unlock := r.LockQueue("q")
		if rescued := r.crash(victim); len(rescued.Parked)+len(rescued.Settled) > 0 {
			r.t.Errorf("rescued %+v", rescued)
		}
		unlock()
		if rescued := r.rescue(victim); len(rescued.Parked) != 1 || len(rescued.Settled) != 1 {
			r.t.Errorf("then rescued %+v", rescued)
		}
		r.row(job, &Row{LockedBy: victim.suspect(0)})
	},
	"three convictions pause a task": func(r *rig) {
		poisons := []int64{r.add(wire.Job{Task: "b"}), r.add(wire.Job{Task: "b"}), r.add(wire.Job{Task: "b"})}
		waits, other := r.add(wire.Job{Task: "b"}), r.add(wire.Job{Task: "a"})
		r.parked(5)
		for n, poison := range poisons {
			for i := range 3 {
				victim := r.other()
				victim.tryJobs(victim.seen(), poison)
				rescued := r.crash(victim)
				if paused := slices.Equal(rescued.Paused, []string{"b"}); paused != (n == 2 && i == 2) {
					r.t.Errorf("conviction %d, crash %d: %+v", n+1, i+1, rescued)
				}
			}
		}
		r.suspects(other)
		r.row(waits, &Row{LockedBy: r.lockOf(waits)})
	},
	"the locks of suspects are kept young": func(r *rig) {
		job := r.add(wire.Job{Queue: "q"})
		r.parked(1)
		for range 10 {
			r.Age(job, 31*time.Minute)
			r.suspects(job)
		}
		r.Age(job, 31*time.Minute)
		if _, err := r.store.Sweep(r.ctx(), r.id, true); err != nil {
			r.t.Fatal(err)
		}
		r.suspects(job)
	},
	"a renewed lease is as old as before": func(r *rig) {
		job := r.add(wire.Job{})
		for range 2 {
			victim := r.other()
			held := victim.only()
			r.Age(job, time.Hour)
			for range 2 {
				fates, err := victim.store.Renew(r.ctx(), leases([]*wire.Job{held}))
				if err != nil {
					r.t.Fatal(err)
				}
				r.kinds("renew", fates, worker.FateRecorded)
			}
			victim.beat(worker.Beat{Write: true, Number: 1})
			r.crash(victim)
		}
		found := r.seen()
		if len(found.Jobs) != 1 || found.Jobs[0].Age.Round(time.Minute) != time.Hour {
			r.t.Errorf("suspects are %+v", found)
		}
	},
	"the only attempt ends with the worker": func(r *rig) {
		crashed := r.add(wire.Job{MaxAttempts: 1})
		victim := r.other()
		victim.only()
		if rescued := r.crash(victim); len(rescued.Dead) != 1 || rescued.Dead[0].Err != worker.ErrCrashed { //nolint:errorlint // it is that one
			r.t.Errorf("rescued %+v", rescued)
		}
		r.letter(crashed, Letter{Attempts: 1, MaxAttempts: 1, Reason: worker.ReasonCrashed, LastError: worker.ErrCrashed.Error()})
		interrupted := r.add(wire.Job{MaxAttempts: 1})
		victim = r.other()
		victim.only()
		victim.beat(worker.Beat{Write: true, Number: 1, Stopping: true})
		r.declare(victim)
		r.rescue(victim)
		r.letter(interrupted, Letter{Attempts: 1, MaxAttempts: 1, Reason: worker.ReasonInterrupted, LastError: worker.ErrInterrupted.Error()})
	},
}

// crash ends another worker without notice. If that was on a trial, it is judged once its heartbeat
// is late; who does not beat then is late, too.
func (r *rig) crash(other *rig) worker.Rescued {
	r.t.Helper()
	r.declare(other)
	if other.tries {
		<-time.After(2 * settle)
		r.beat(worker.Beat{Write: true, Number: 1})
	}
	return r.rescue(other)
}

// disturbed has a job's worker die three times on a trial, and the third time another one beside
// it.
func (r *rig) disturbed(late bool) {
	r.t.Helper()
	poison := r.add(wire.Job{})
	r.parked(1)
	other := r.other()
	for n := range 3 {
		victim := r.other()
		victim.trial()
		other.beat(worker.Beat{Write: true, Number: int64(n + 1)})
		if n == 2 && late {
			r.declare(other)
		}
		r.declare(victim)
		<-time.After(2 * settle)
		if n < 2 || !late {
			other.beat(worker.Beat{Write: true, Number: int64(n + 11)})
		}
		if n == 2 && !late {
			r.declare(other)
		}
		r.beat(worker.Beat{Write: true, Number: int64(n + 1)})
		if rescued := r.rescue(victim); len(rescued.Parked) != 1 {
			r.t.Errorf("after trial %d rescued %+v", n+1, rescued)
		}
	}
	r.row(poison, &Row{LockedBy: r.lockOf(poison)})
}

// claimed returns another worker that has claimed the one job that there is.
func (r *rig) claimed() *rig {
	r.t.Helper()
	other := r.other()
	other.only()
	return other
}

// parked makes suspects of all jobs that can be claimed, n of them.
func (r *rig) parked(n int) {
	r.t.Helper()
	for range 2 {
		victim := r.other()
		if jobs := victim.claim(n); len(jobs) != n {
			r.t.Fatalf("claimed %d jobs, want %d", len(jobs), n)
		}
		r.crash(victim)
	}
}

// merge has one more worker hold these suspects at a crash: they are one cohort then.
func (r *rig) merge(jobs ...int64) {
	r.t.Helper()
	for _, id := range jobs {
		r.Relock(id, "")
	}
	victim := r.other()
	victim.claim(len(jobs))
	r.crash(victim)
	r.suspects(jobs...)
}

// cohort is the name of the suspects that this worker leaves.
func (r *rig) cohort() string { return strings.TrimPrefix(r.id, "pool-") }

// suspect is what locks a job that this worker has left.
func (r *rig) suspect(attempts int) string {
	return "backfill-suspect." + r.cohort() + "." + string(rune('0'+attempts))
}

func (r *rig) lockOf(id int64) string {
	r.t.Helper()
	row, ok := r.Job(id)
	if !ok || !strings.HasPrefix(row.LockedBy, "backfill-suspect.") {
		r.t.Errorf("job %d is locked by %q, and is no suspect", id, row.LockedBy)
	}
	return row.LockedBy
}
