package storetest

import (
	"reflect"
	"slices"
	"time"

	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// What happens to leases that somebody else has ended.
var lostCases = map[string]func(*rig){
	"a lease that somebody else has ended is lost": func(r *rig) {
		r.each(func(name string, end func(...*wire.Job) []worker.Fate) {
			for what, change := range map[string]func(int64){
				"deleted": r.Delete, "unlocked": func(id int64) { r.Relock(id, "") },
				"locked by another": func(id int64) { r.Relock(id, "somebody") },
			} {
				id := r.add(wire.Job{Queue: "q " + name + what})
				job := r.only()
				change(id)
				before, was := r.Job(id)
				r.kinds(what+", "+name, end(job), worker.FateLost)
				if after, is := r.Job(id); is != was || after != before {
					r.t.Errorf("%s, %s: the row was changed from %+v to %+v", what, name, before, after)
				}
				r.free("q " + name + what)
				r.Delete(id)
			}
		})
	},
	"of two leases of one job the older is lost, also in one statement": func(r *rig) {
		r.each(func(name string, end func(...*wire.Job) []worker.Fate) {
			id := r.add(wire.Job{Queue: name})
			old := r.only()
			r.Relock(id, "")
			r.freeQueueOf(old)
			fresh := r.only()
			if fresh.ID != id || fresh.Token == old.Token {
				r.t.Fatalf("claimed job %d with token %s after %s", fresh.ID, fresh.Token, old.Token)
			}
			r.kinds(name, end(old, fresh), worker.FateLost, worker.FateRecorded)
			r.free(name)
			r.Delete(id)
		})
	},
	"of two leases of one job the outcome of the younger counts, wherever it is in the statement": func(r *rig) {
		for _, swap := range []bool{false, true} {
			id := r.add(wire.Job{})
			old := r.only()
			r.Relock(id, "")
			fresh := r.only()
			list := []worker.Ended{
				{Lease: old.Lease, Outcome: worker.Outcome{Kind: worker.OutcomeFailed, Text: "old", Delay: time.Hour}},
				{Lease: fresh.Lease, Outcome: worker.Outcome{Kind: worker.OutcomeFailed, Text: "fresh", Delay: 2 * time.Hour}},
			}
			want := []worker.FateKind{worker.FateLost, worker.FateRecorded}
			if swap {
				slices.Reverse(list)
				slices.Reverse(want)
			}
			r.kinds("fail", r.fates(r.store.Fail(r.ctx(), list)), want...)
			r.row(id, &Row{Attempts: 2, LastError: "fresh", Wait: 2 * time.Hour})
			r.Delete(id)

			id = r.add(wire.Job{})
			old = r.only()
			r.Relock(id, "")
			fresh = r.only()
			list[0] = worker.Ended{Lease: old.Lease, Outcome: worker.Outcome{Kind: worker.OutcomeSnoozed, Delay: time.Hour}}
			list[1] = worker.Ended{Lease: fresh.Lease, Outcome: worker.Outcome{Kind: worker.OutcomeSnoozed, Delay: 2 * time.Hour}}
			if swap {
				slices.Reverse(list)
			}
			r.kinds("snooze", r.fates(r.store.Release(r.ctx(), list)), want...)
			r.row(id, &Row{Attempts: 1, Wait: 2 * time.Hour})
			r.Delete(id)
		}
	},
	"renewal waits for no queue, nor does the end of a lost lease": func(r *rig) {
		id := r.add(wire.Job{Queue: "q"})
		job := r.only()
		unlock := r.LockQueue("q")
		r.kinds("renew", r.fates(r.store.Renew(r.ctx(), []wire.Lease{job.Lease})), worker.FateRecorded)
		r.Delete(id)
		r.kinds("complete", r.complete(job), worker.FateLost)
		unlock()
	},
	"what is locked under an id that begins like the worker's is not reclaimed": func(r *rig) {
		alike := &rig{Database: r.Database, t: r.t, store: r.NewStore(), id: r.id + "0"}
		if err := alike.store.Register(r.ctx(), worker.Registration{ID: alike.id, Tasks: []string{"a"}}); err != nil {
			r.t.Fatal(err)
		}
		id := r.add(wire.Job{Queue: "q"})
		job := alike.only()
		answer, err := r.store.Reclaim(r.ctx(), r.id, nil)
		if err != nil || !reflect.DeepEqual(answer, worker.Reclaimed{Settled: true}) {
			r.t.Errorf("reclaimed %+v, %v", answer, err)
		}
		r.row(id, &Row{Attempts: 1, LockedBy: job.Token})
		if by := r.QueueLock("q"); by != claimOf(job) {
			r.t.Errorf("the queue is locked by %q", by)
		}
		r.Delete(id) // without a job the queue is still the other's
		if answer, err = r.store.Reclaim(r.ctx(), r.id, nil); err != nil || !reflect.DeepEqual(answer, worker.Reclaimed{Settled: true}) {
			r.t.Errorf("reclaimed %+v, %v", answer, err)
		}
		if by := r.QueueLock("q"); by != claimOf(job) {
			r.t.Errorf("the queue is locked by %q", by)
		}
	},
	"the queue of a held lease stays locked, also when its job is gone": func(r *rig) {
		id := r.add(wire.Job{Queue: "q"})
		job := r.only()
		r.Delete(id)
		answer, err := r.store.Reclaim(r.ctx(), r.id, []wire.Lease{job.Lease})
		if err != nil || !reflect.DeepEqual(answer, worker.Reclaimed{Settled: true}) {
			r.t.Errorf("reclaimed %+v, %v", answer, err)
		}
		if by := r.QueueLock("q"); by != claimOf(job) {
			r.t.Errorf("the queue is locked by %q", by)
		}
	},
	"a queue whose row is locked is reclaimed later": func(r *rig) {
		r.add(wire.Job{Queue: "q"})
		r.only()
		unlock := r.LockQueue("q")
		answer, err := r.store.Reclaim(r.ctx(), r.id, nil)
		if err != nil || !reflect.DeepEqual(answer, worker.Reclaimed{Jobs: 1}) {
			r.t.Errorf("reclaimed %+v, %v while the queue's row is locked", answer, err)
		}
		unlock()
		if answer, err = r.store.Reclaim(r.ctx(), r.id, nil); err != nil || !reflect.DeepEqual(answer, worker.Reclaimed{Queues: 1, Settled: true}) {
			r.t.Errorf("reclaimed %+v, %v", answer, err)
		}
		r.free("q")
	},
	"what is reclaimed gets its attempt back only if no peer has changed it": func(r *rig) {
		changed := r.add(wire.Job{})
		zero := r.add(wire.Job{})
		superseded := r.add(wire.Job{Key: "s", MaxAttempts: 1})
		removed := r.add(wire.Job{Key: "r", MaxAttempts: 1})
		jobs := r.claim(4)
		r.ids("claimed", jobs, changed, zero, superseded, removed)
		r.Change(changed, 7, jobs[0].RunAt)
		r.Change(zero, 0, jobs[1].RunAt)
		r.Supersede(superseded)
		r.Remove(removed)
		if answer, err := r.store.Reclaim(r.ctx(), r.id, nil); err != nil || answer.Jobs != 4 {
			r.t.Errorf("reclaimed %+v, %v", answer, err)
		}
		r.row(changed, &Row{Attempts: 7})
		r.row(zero, &Row{Attempts: 0})
		r.row(superseded, &Row{Attempts: 1, MaxAttempts: 1})
		r.row(removed, &Row{Attempts: 1, MaxAttempts: 1})
	},
	"a worker without a row has no claim under way": func(r *rig) {
		if answer, err := r.store.Reclaim(r.ctx(), wire.NewWorkerID(), nil); err != nil || !reflect.DeepEqual(answer, worker.Reclaimed{Settled: true}) {
			r.t.Errorf("reclaimed %+v, %v", answer, err)
		}
	},
	"renewal leaves a queue to the claim that has it": func(r *rig) {
		id := r.add(wire.Job{Queue: "q"})
		old := r.only()
		r.Relock(id, "")
		r.freeQueueOf(old)
		fresh := r.only()
		r.Age(fresh.ID, 5*time.Hour)
		r.kinds("renew", r.fates(r.store.Renew(r.ctx(), []wire.Lease{old.Lease})), worker.FateLost)
		if swept := r.sweep(); swept.Jobs != 1 || swept.Queues != 1 {
			r.t.Errorf("a sweep released %d jobs and %d queues, want what was not renewed", swept.Jobs, swept.Queues)
		}
	},
	"the queue of a lost lease stays with who has it": func(r *rig) {
		id := r.add(wire.Job{Queue: "q"})
		old := r.only()
		r.Relock(id, "")
		r.freeQueueOf(old)
		fresh := r.only()
		r.kinds("complete", r.complete(old), worker.FateLost)
		if by := r.QueueLock("q"); by != claimOf(fresh) {
			r.t.Errorf("the queue is locked by %q, want %q", by, claimOf(fresh))
		}
	},
	"renewal moves the locks of jobs and queues, and says what is lost": func(r *rig) {
		mine := r.add(wire.Job{Queue: "q"})
		gone := r.add(wire.Job{Priority: 1})
		held := r.add(wire.Job{Priority: 2})
		jobs := r.claim(3)
		r.ids("claimed", jobs, mine, gone, held)
		for _, id := range []int64{mine, gone, held} {
			r.Age(id, 5*time.Hour)
		}
		r.Relock(gone, "")
		unlock := r.LockJob(held)
		fates := r.fates(r.store.Renew(r.ctx(), leases(jobs)))
		r.kinds("renew", fates, worker.FateRecorded, worker.FateLost, worker.FateBusy)
		unlock()
		if n := r.sweep().Jobs; n != 1 {
			r.t.Errorf("a sweep released %d jobs, want the one that was not renewed", n)
		}
		r.row(mine, &Row{Attempts: 1, LockedBy: jobs[0].Token})
		if by := r.QueueLock("q"); by != claimOf(jobs[0]) {
			r.t.Errorf("the queue is locked by %q", by)
		}
	},
	"what a claim has locked and nobody knows of is reclaimed": func(r *rig) {
		lost := r.add(wire.Job{Queue: "q", Attempt: 3})
		keyed := r.add(wire.Job{Key: "k", Priority: 1})
		r.ids("lost", r.claim(2), lost, keyed)
		kept := r.add(wire.Job{Queue: "p"})
		held := r.only()
		others := r.add(wire.Job{Priority: 3})
		another := r.other()
		foreign := another.only()

		answer, err := r.store.Reclaim(r.ctx(), r.id, []wire.Lease{held.Lease})
		if err != nil || !reflect.DeepEqual(answer, worker.Reclaimed{Jobs: 2, Queues: 1, Settled: true}) {
			r.t.Errorf("reclaimed %+v, %v", answer, err)
		}
		r.row(lost, &Row{Attempts: 3})
		r.row(keyed, &Row{Attempts: 0})
		r.row(kept, &Row{Attempts: 1, LockedBy: held.Token})
		r.row(others, &Row{Attempts: 1, LockedBy: foreign.Token})
		r.free("q")
		if by := r.QueueLock("p"); by != claimOf(held) {
			r.t.Errorf("the held queue is locked by %q", by)
		}
	},
	"jobs of one claim are told apart when some are reclaimed": func(r *rig) {
		held, lost := r.add(wire.Job{}), r.add(wire.Job{})
		queued, queue := r.add(wire.Job{Queue: "p"}), r.add(wire.Job{Queue: "q"})
		jobs := r.claim(4)
		r.ids("claim", jobs, held, lost, queued, queue)
		answer, err := r.store.Reclaim(r.ctx(), r.id, leases([]*wire.Job{jobs[0], jobs[2]}))
		if err != nil || !reflect.DeepEqual(answer, worker.Reclaimed{Jobs: 2, Queues: 1, Settled: true}) {
			r.t.Errorf("reclaimed %+v, %v", answer, err)
		}
		r.row(held, &Row{Attempts: 1, LockedBy: jobs[0].Token})
		r.row(lost, &Row{})
		r.row(queued, &Row{Attempts: 1, LockedBy: jobs[2].Token})
		r.row(queue, &Row{})
		r.free("q")
		if by := r.QueueLock("p"); by != claimOf(jobs[2]) {
			r.t.Errorf("the held queue is locked by %q", by)
		}
	},
	"a row that somebody has locked is reclaimed later": func(r *rig) {
		for _, queue := range []string{"", "q"} {
			id := r.add(wire.Job{Queue: queue})
			job := r.only()
			unlock := r.LockJob(id)
			answer, err := r.store.Reclaim(r.ctx(), r.id, nil)
			if err != nil || !reflect.DeepEqual(answer, worker.Reclaimed{}) {
				r.t.Errorf("reclaimed %+v, %v while the row is locked", answer, err)
			}
			if queue != "" && r.QueueLock(queue) != claimOf(job) {
				r.t.Error("the queue was freed before its job")
			}
			unlock()
			if answer, err = r.store.Reclaim(r.ctx(), r.id, nil); err != nil || !answer.Settled || answer.Jobs != 1 {
				r.t.Errorf("reclaimed %+v, %v", answer, err)
			}
			r.Delete(id)
		}
		r.free("q")
	},
	"a retired worker's locks are reclaimed": func(r *rig) {
		id := r.add(wire.Job{Queue: "q"})
		r.only()
		if err := r.store.Retire(r.ctx(), r.id, false); err != nil {
			r.t.Fatal(err)
		}
		answer, err := r.store.Reclaim(r.ctx(), r.id, nil)
		if err != nil || !reflect.DeepEqual(answer, worker.Reclaimed{Jobs: 1, Queues: 1, Settled: true}) {
			r.t.Errorf("reclaimed %+v, %v", answer, err)
		}
		r.row(id, &Row{Attempts: 0})
	},
}

// freeQueueOf has the store find out that a lease is lost, which frees its queue.
func (r *rig) freeQueueOf(old *wire.Job) {
	r.t.Helper()
	r.kinds("renew", r.fates(r.store.Renew(r.ctx(), []wire.Lease{old.Lease})), worker.FateLost)
	r.free(old.Queue)
}
