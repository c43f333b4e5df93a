package storetest

import (
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// Who tries which suspects, and what becomes of them.
var trialCases = map[string]func(*rig){
	"suspects that survive a trial are acquitted": func(r *rig) {
		job, behind := r.add(wire.Job{Queue: "q"}), r.add(wire.Job{Queue: "q"})
		long := r.add(wire.Job{})
		r.parked(2)
		tried := r.trial()
		r.ids("trial", tried, job, long)
		r.row(job, &Row{Attempts: 1, LockedBy: tried[0].Token})
		if by := r.QueueLock("q"); by != claimOf(tried[0]) || r.claims == 0 {
			r.t.Errorf("the queue is locked by %q during the trial", by)
		}
		if seen := r.other().sees(r); !seen.Trying {
			r.t.Errorf("the worker is seen as %+v", seen)
		}
		r.kinds("complete", r.complete(tried[0]), worker.FateRecorded)
		r.acquit(tried...)
		if seen := r.other().sees(r); seen.Trying {
			r.t.Errorf("after the trial the worker is seen as %+v", seen)
		}
		r.ids("behind it", r.claim(1), behind)
		rescued := r.other().crash(r) // the one that runs on was held at a crash once
		if len(rescued.Jobs) != 2 || len(rescued.Parked) > 0 {
			r.t.Errorf("rescued %+v", rescued)
		}
		r.row(long, &Row{})
	},
	"what is given back during a trial waits for the next one": func(r *rig) {
		job, lost := r.add(wire.Job{Queue: "q", Key: "k"}), r.add(wire.Job{})
		r.parked(2)
		tried := r.trial()
		r.Delete(lost)
		unlock := r.LockJob(job)
		r.kinds("busy", r.park(tried...), worker.FateBusy, worker.FateLost)
		unlock()
		r.kinds("park", r.park(tried[0]), worker.FateRecorded)
		r.row(job, &Row{LockedBy: r.suspect(0) + "k"})
		if by := r.QueueLock("q"); by != "backfill-suspect."+r.cohort() {
			r.t.Errorf("its queue is locked by %q", by)
		}
		r.acquit()
		other := r.other()
		other.suspects(job)
		r.ids("again", other.trial(), job)
	},
	"what was claimed for a trial whose answer was lost waits for the next one": func(r *rig) {
		lost, plain := r.add(wire.Job{Queue: "q"}), r.add(wire.Job{RunAt: time.Now().Add(time.Hour)})
		known := r.add(wire.Job{RunAt: time.Now().Add(time.Hour)})
		r.parked(1)
		r.trial()
		r.Change(plain, 0, time.Now().Add(-time.Minute))
		r.only()
		r.Change(known, 0, time.Now().Add(-time.Minute))
		held := r.only()
		answer, err := r.store.Reclaim(r.ctx(), r.id, leases([]*wire.Job{held}))
		if err != nil || !answer.Settled || answer.Jobs != 1 {
			r.t.Errorf("reclaimed %+v, %v", answer, err)
		}
		r.row(lost, &Row{LockedBy: r.suspect(0)})
		r.row(known, &Row{Attempts: 1, LockedBy: held.Token})
		r.row(plain, &Row{})
		r.suspects(lost)
	},
	"a trial takes what nobody else has": func(r *rig) {
		held, busy, free := r.add(wire.Job{Queue: "q"}), r.add(wire.Job{}), r.add(wire.Job{})
		r.parked(3)
		found := r.seen()
		unlockQueue, unlockJob := r.LockQueue("q"), r.LockJob(busy)
		r.ids("trial", r.tryJobs(found, held, busy, free), free)
		unlockQueue()
		unlockJob()
		other := r.other()
		r.ids("another trial", other.tryJobs(found, held, busy, free), held, busy)
		dead := r.other()
		r.declare(dead)
		if claimed := dead.tryAll(found, 1<<20, held); claimed.Alive || len(claimed.Jobs) > 0 {
			r.t.Errorf("a dead worker tries: %+v", claimed)
		}
	},
	"a worker that was declared dead acquits nobody": func(r *rig) {
		job := r.add(wire.Job{})
		r.parked(1)
		victim := r.other()
		victim.trial()
		r.declare(victim)
		if alive, err := victim.store.Acquit(r.ctx(), victim.id, []int64{job}); err != nil || alive {
			r.t.Errorf("acquit: alive %v, %v", alive, err)
		}
		<-time.After(2 * settle)
		if rescued := r.rescue(victim); len(rescued.Parked) != 1 {
			r.t.Errorf("rescued %+v", rescued)
		}
	},
	"a trial that takes nothing has passed nothing by": func(r *rig) {
		held, other := r.add(wire.Job{}), r.add(wire.Job{})
		r.parked(2)
		unlock := r.LockJob(held)
		r.ids("trial", r.tryJobs(r.seen(), held))
		unlock()
		for _, suspect := range r.seen().Jobs {
			if suspect.Passed {
				r.t.Errorf("suspect %+v, of %d and %d", suspect, held, other)
			}
		}
	},
	"a row that the server refuses keeps no other from a trial": func(r *rig) {
		var jobs []int64
		for range 5 {
			jobs = append(jobs, r.add(wire.Job{}))
		}
		r.parked(5)
		found := r.seen()
		r.Refuse(jobs[1])
		tried := map[int64]bool{}
		for n := 0; n < 5 && len(tried) < 4; n++ {
			for _, job := range r.tryJobs(found, jobs...) {
				tried[job.ID] = true
			}
		}
		if len(tried) != 4 || tried[jobs[1]] {
			r.t.Errorf("tried %v", tried)
		}
		r.claims++
		_, err := r.store.Try(r.ctx(), worker.TryRequest{
			WorkerID: r.id, Number: r.claims, Cohort: found.Cohorts[1], Jobs: jobs[1:2], Bytes: 1,
		})
		if rejected, ok := errors.AsType[*wire.RejectedError](err); !ok || !rejected.Row {
			r.t.Errorf("the error is %v", err)
		}
	},
	"a row that the server refuses keeps no other from the look": func(r *rig) {
		superseded, bad := r.add(wire.Job{Key: "k", Queue: "q"}), r.add(wire.Job{Key: "l"})
		old, fine := r.add(wire.Job{}), r.add(wire.Job{})
		r.parked(4)
		r.Age(old, 31*time.Minute)
		r.Supersede(superseded)
		r.Supersede(bad)
		r.Refuse(bad)
		found, err := r.store.Suspects(r.ctx(), nil)
		if rejected, ok := errors.AsType[*wire.RejectedError](err); !ok || !rejected.Row {
			r.t.Errorf("the error is %v", err)
		}
		if len(found.Jobs) != 2 || found.Jobs[0].Job != old || found.Jobs[1].Job != fine {
			r.t.Errorf("suspects are %+v", found)
		}
		r.row(superseded, nil)
		r.free("q")
		if row, _ := r.Job(bad); row.LockedBy == "" {
			r.t.Errorf("the bad row is %+v", row)
		}
	},
	"a trial leaves a queue that somebody else has": func(r *rig) {
		suspect, behind := r.add(wire.Job{Queue: "q"}), r.add(wire.Job{Queue: "q"})
		r.parked(1)
		found := r.seen()
		r.RelockQueue("q", "")
		running := r.other()
		held := running.only()
		r.ids("trial", r.tryJobs(found, suspect))
		if by := r.QueueLock("q"); by != claimOf(held) {
			r.t.Errorf("the queue is locked by %q", by)
		}
		r.kinds("complete", running.complete(held), worker.FateRecorded)
		r.row(behind, nil)
		r.ids("trial of a queue that is free", r.other().tryJobs(found, suspect), suspect)
	},
	"a trial is bounded by the size of its payloads": func(r *rig) {
		var jobs []int64
		for range 3 {
			jobs = append(jobs, r.add(wire.Job{Payload: []byte(`{"x":"` + strings.Repeat("x", 1000) + `"}`)}))
		}
		r.parked(3)
		r.ids("trial", r.tryAll(r.seen(), 2100, jobs...).Jobs, jobs[0], jobs[1])
		r.ids("one at least", r.other().tryAll(r.seen(), 1, jobs[2]).Jobs, jobs[2])
	},
	"who cannot run a suspect does not try it": func(r *rig) {
		flagged := r.add(wire.Job{Flags: []string{"gpu"}})
		r.parked(1)
		found, err := r.store.Suspects(r.ctx(), []string{"gpu"})
		if err != nil || len(found.Jobs) > 0 {
			r.t.Errorf("suspects are %+v, %v", found, err)
		}
		r.suspects(flagged)
		if found := r.serving("c").seen(); len(found.Jobs) > 0 {
			r.t.Errorf("of another task, suspects are %+v", found)
		}
	},
	"the last trial that a worker died in is known": func(r *rig) {
		last := func() worker.LastTrial {
			last, err := r.store.LastTrial(r.ctx())
			if err != nil {
				r.t.Fatal(err)
			}
			return last
		}
		r.add(wire.Job{})
		r.parked(1)
		if last := last(); last.Found {
			r.t.Errorf("the last trial is %+v", last)
		}
		victim := r.other()
		victim.beat(worker.Beat{Write: true, Number: 1, Emptying: true})
		if seen := r.sees(victim); !seen.Emptying || seen.Trying {
			r.t.Errorf("the worker is seen as %+v", seen)
		}
		victim.trial()
		<-time.After(30 * time.Millisecond)
		victim.beat(worker.Beat{Write: true, Number: 2, Emptying: true})
		r.declare(victim)
		r.rescue(victim)
		if last := last(); !last.Found || last.Stopped < 30*time.Millisecond || last.Stopped > time.Minute || last.Free > time.Minute {
			r.t.Errorf("the last trial is %+v", last)
		}
	},
}

func (r *rig) seen() worker.Suspects {
	r.t.Helper()
	found, err := r.store.Suspects(r.ctx(), nil)
	if err != nil {
		r.t.Fatal(err)
	}
	return found
}

// suspects checks which suspects this worker may try.
func (r *rig) suspects(want ...int64) {
	r.t.Helper()
	var got []int64
	for _, suspect := range r.seen().Jobs {
		got = append(got, suspect.Job)
	}
	if !slices.Equal(got, want) {
		r.t.Errorf("suspects are the jobs %d, want %d", got, want)
	}
}

// trial tries all suspects, which are of one cohort.
func (r *rig) trial() []*wire.Job {
	r.t.Helper()
	found := r.seen()
	var ids []int64
	for _, suspect := range found.Jobs {
		ids = append(ids, suspect.Job)
	}
	return r.tryJobs(found, ids...)
}

func (r *rig) tryJobs(found worker.Suspects, ids ...int64) []*wire.Job {
	r.t.Helper()
	return r.tryAll(found, 1<<20, ids...).Jobs
}

func (r *rig) tryAll(found worker.Suspects, bytes int64, ids ...int64) worker.Claimed {
	r.t.Helper()
	var cohort string
	for _, suspect := range found.Jobs {
		if slices.Contains(ids, suspect.Job) {
			cohort = found.Cohorts[suspect.Cohort]
		}
	}
	r.claims++
	claimed, err := r.store.Try(r.ctx(), worker.TryRequest{WorkerID: r.id, Number: r.claims, Cohort: cohort, Jobs: ids, Bytes: bytes})
	if err != nil {
		r.t.Fatal(err)
	}
	r.tries = true
	slices.SortFunc(claimed.Jobs, func(a, b *wire.Job) int { return int(a.ID - b.ID) })
	return claimed
}

func (r *rig) park(jobs ...*wire.Job) []worker.Fate {
	r.t.Helper()
	return r.fates(r.store.Park(r.ctx(), leases(jobs)))
}

func (r *rig) acquit(jobs ...*wire.Job) {
	r.t.Helper()
	var ids []int64
	for _, job := range jobs {
		ids = append(ids, job.ID)
	}
	if alive, err := r.store.Acquit(r.ctx(), r.id, ids); err != nil || !alive {
		r.t.Fatalf("acquit: alive %v, %v", alive, err)
	}
}
