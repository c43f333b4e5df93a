package storetest

import (
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

func (r *rig) sweep() worker.Swept { return r.sweeps(false) }

func (r *rig) sweeps(starting bool) worker.Swept {
	r.t.Helper()
	swept, err := r.store.Sweep(r.ctx(), r.id, starting)
	if err != nil {
		r.t.Fatal(err)
	}
	return swept
}

// stale adds a job that somebody has locked, who has been gone for 5 hours.
func (r *rig) stale() int64 {
	id := r.add(wire.Job{})
	r.Relock(id, "somebody")
	r.Age(id, 5*time.Hour)
	return id
}

// What a sweep does, and whose turn it is.
var sweepCases = map[string]func(*rig){
	"a sweep releases what was locked for 4 hours": func(r *rig) {
		stale := r.add(wire.Job{Queue: "q"})
		young := r.add(wire.Job{Queue: "p"})
		jobs := r.claim(2)
		r.ids("claimed", jobs, stale, young)
		r.Age(stale, 4*time.Hour+time.Minute)
		r.Age(young, 3*time.Hour+time.Minute)
		if swept := r.sweep(); !swept.Turn || !swept.Done || swept.Jobs != 1 || swept.Queues != 1 {
			r.t.Errorf("swept %+v, want a job and a queue", swept)
		}
		r.row(stale, &Row{Attempts: 1}) // charged, as by a peer
		r.row(young, &Row{Attempts: 1, LockedBy: jobs[1].Token})
		r.free("q")
		r.kinds("complete", r.complete(jobs[0]), worker.FateLost)
	},
	"a sweep forgets crashes of jobs that will not run again, and of nobody else": func(r *rig) {
		done, failed, waits := r.add(wire.Job{}), r.add(wire.Job{}), r.add(wire.Job{})
		victim := r.other()
		victim.claim(3)
		r.crash(victim)
		for _, job := range r.claim(3) {
			switch job.ID {
			case done:
				r.complete(job)
			case failed:
				r.leave(worker.Outcome{Kind: worker.OutcomeExhausted, Text: "no"}, job)
			case waits:
				r.release(worker.Outcome{Kind: worker.OutcomeReturned}, job)
			}
		}
		r.sweep()
		r.Change(failed, 0, time.Now().Add(-time.Minute)) // somebody sends it back
		victim = r.other()
		victim.claim(2)
		r.crash(victim)
		r.suspects(waits)
		r.Delete(waits)
		r.complete(r.claim(1)...)
		r.sweep()
		if answer := r.beat(worker.Beat{}); answer.Crashes {
			r.t.Error("a heartbeat tells of crashes although no job is left")
		}
	},
	"a sweep frees the queue of a suspect that is gone, and no other": func(r *rig) {
		gone, stays := r.add(wire.Job{Queue: "q"}), r.add(wire.Job{Queue: "p"})
		behind := r.add(wire.Job{Queue: "q"})
		r.parked(2)
		r.Delete(gone)
		if swept := r.sweep(); len(swept.Locks) > 0 {
			r.t.Errorf("a sweep tells of the locks of suspects: %+v", swept.Locks)
		}
		r.ids("claimed", r.claim(2), behind)
		r.suspects(stays)
		if by := r.QueueLock("p"); !strings.HasPrefix(r.lockOf(stays), by+".") {
			r.t.Errorf("the queue of a suspect is locked by %q", by)
		}
	},
	"a job that is swept goes to the end of the line, or stays behind it": func(r *rig) {
		first := r.add(wire.Job{RunAt: time.Now().Add(-time.Hour)})
		later := r.add(wire.Job{RunAt: time.Now().Add(-time.Hour)})
		r.ids("claimed", r.claim(2), first, later)
		r.Change(later, 1, time.Now().Add(time.Hour))
		r.Age(first, 5*time.Hour)
		r.Age(later, 5*time.Hour)
		if n := r.sweep().Jobs; n != 2 {
			r.t.Errorf("released %d jobs", n)
		}
		r.row(later, &Row{Attempts: 1, Wait: time.Hour})
		second := r.add(wire.Job{RunAt: time.Now().Add(-time.Minute)})
		r.ids("claimed", r.claim(2), second, first)
	},
	"a sweep waits for no row": func(r *rig) {
		stale := r.add(wire.Job{Queue: "q"})
		job := r.only()
		r.Age(stale, 5*time.Hour)
		unlock, unlockQueue := r.LockJob(stale), r.LockQueue("q")
		if swept := r.sweep(); swept.Jobs+swept.Queues != 0 {
			r.t.Errorf("swept %+v", swept)
		}
		unlock()
		unlockQueue()
		r.row(stale, &Row{Attempts: 1, LockedBy: job.Token})
	},
	"one worker of a fleet sweeps, and the next one when it has stopped": func(r *rig) {
		if !r.sweep().Turn {
			r.t.Fatal("a worker that is alone does not sweep")
		}
		stale := r.stale()
		other := r.other()
		for range 2 {
			if swept := other.sweep(); swept.Turn || swept.Jobs != 0 {
				r.t.Errorf("another worker swept %+v", swept)
			}
		}
		if swept := r.sweep(); !swept.Turn || swept.Jobs != 1 {
			r.t.Errorf("swept %+v, want a job", swept)
		}
		r.Relock(stale, "somebody")
		r.Age(stale, 5*time.Hour)
		if err := r.store.Retire(r.ctx(), r.id, false); err != nil {
			r.t.Fatal(err)
		}
		if swept := r.sweep(); swept.Turn || swept.Jobs != 0 {
			r.t.Errorf("a worker that has stopped swept %+v", swept)
		}
		if swept := other.sweep(); !swept.Turn || swept.Jobs != 1 {
			r.t.Errorf("another worker swept %+v, want a job", swept)
		}
	},
	"the turn to sweep ends 15 minutes after a sweep has begun": func(r *rig) {
		r.sweep()
		other := r.other()
		r.AgeSweep(r.id, 15*time.Minute-30*time.Second)
		if other.sweep().Turn {
			r.t.Error("it has ended too early")
		}
		r.AgeSweep(r.id, 31*time.Second)
		if !other.sweep().Turn || r.sweep().Turn {
			r.t.Error("it has not gone to another worker")
		}
		other.AgeSweep(other.id, 8*time.Minute)
		if !other.sweep().Turn || r.sweep().Turn {
			r.t.Error("the worker that had it last cannot have it again")
		}
	},
	"a worker that starts sweeps the first rows, whoever's turn it is": func(r *rig) {
		r.sweep()
		r.stale()
		held := r.add(wire.Job{})
		r.Relock(held, "of.node")
		other := r.other()
		swept := other.sweeps(true)
		if swept.Turn || !swept.Done || swept.Jobs != 1 || len(swept.Locks) != 1 || swept.Locks[0].Owner != "of.node" {
			r.t.Errorf("swept %+v, want a job, and the locks of another", swept)
		}
		if other.sweep().Turn || !r.sweep().Turn {
			r.t.Error("it has taken the turn")
		}
	},
	"a sweep tells of the locks of others": func(r *rig) {
		mine := r.add(wire.Job{Queue: "mine"})
		r.ids("claimed", r.claim(1), mine)
		theirs := r.add(wire.Job{Queue: "q"})
		other := r.other()
		r.ids("claimed", other.claim(1), theirs)
		r.Age(theirs, 2*time.Minute)
		for range 2 {
			foreign := r.add(wire.Job{})
			r.Relock(foreign, "worker.of.node")
			r.Age(foreign, time.Minute)
		}
		r.stale()
		locks := r.sweep().Locks
		for i := range locks {
			locks[i].Host, locks[i].Pid, locks[i].Oldest = "", 0, locks[i].Oldest.Truncate(time.Minute)
		}
		want := []worker.HeldLocks{
			{Owner: other.id, Jobs: 1, Queues: 1, Oldest: 2 * time.Minute},
			{Owner: "worker.of.node", Jobs: 2, Oldest: time.Minute},
		}
		if diff := cmp.Diff(want, locks); diff != "" {
			r.t.Errorf("locks (-want +got):\n%s", diff)
		}
		if err := other.store.Retire(r.ctx(), other.id, false); err != nil {
			r.t.Fatal(err)
		}
		if locks := r.sweep().Locks; len(locks) != 2 || !locks[0].Dead || locks[1].Dead {
			r.t.Errorf("locks of a worker that has stopped are %+v", locks)
		}
	},
}
