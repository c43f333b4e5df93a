package storetest

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

func init() { //nolint:gochecknoinits // the cases refer to the rig that the table is declared for
	for _, group := range []map[string]func(*rig){claimCases, endCases, lostCases, sweepCases, upkeepCases} {
		maps.Copy(cases, group)
	}
}

// What a claim takes, and what it says of it.
var claimCases = map[string]func(*rig){
	"a claim returns the order (priority, run_at, id)": func(r *rig) {
		now := time.Now().Truncate(time.Second)
		late := r.add(wire.Job{RunAt: now.Add(-time.Second)})
		tie := r.add(wire.Job{RunAt: now.Add(-time.Minute)})
		twin := r.add(wire.Job{RunAt: now.Add(-time.Minute), Queue: "q"})
		first := r.add(wire.Job{Priority: -1})
		r.ids("claimed", r.try(worker.ClaimRequest{Batch: 20, Serial: 20}).Jobs, first, tie, twin, late)
	},
	"a claim takes at most its batch, and says that there is more": func(r *rig) {
		for range 12 {
			r.add(wire.Job{})
		}
		claimed := r.try(worker.ClaimRequest{Batch: 5, Serial: 5})
		if len(claimed.Jobs) != 5 || !claimed.More {
			r.t.Errorf("claimed %d of 5 jobs, more: %v", len(claimed.Jobs), claimed.More)
		}
	},
	"a claim takes one job of a queue": func(r *rig) {
		first := r.add(wire.Job{Queue: "q"})
		r.add(wire.Job{Queue: "q"})
		r.ids("claimed", r.claim(5), first)
		if by := r.QueueLock("q"); by != wire.ClaimToken(r.id, 1) {
			r.t.Errorf("the queue is locked by %q", by)
		}
		r.none()
	},
	"a claim keeps queues out, and says so": func(r *rig) {
		r.add(wire.Job{Queue: "q"})
		r.add(wire.Job{Queue: "p"})
		claimed := r.try(worker.ClaimRequest{Batch: 5, Serial: 1})
		if len(claimed.Jobs) != 1 || !claimed.MoreSerial {
			r.t.Errorf("claimed %d jobs of queues, more: %v", len(claimed.Jobs), claimed.MoreSerial)
		}
	},
	"a claim passes over jobs that are not due, exhausted, locked, or of foreign tasks": func(r *rig) {
		r.add(wire.Job{RunAt: time.Now().Add(time.Hour)})
		r.add(wire.Job{Attempt: 3, MaxAttempts: 3})
		r.Relock(r.add(wire.Job{}), "somebody")
		r.add(wire.Job{Task: "foreign"})
		fine := r.add(wire.Job{Task: "b"})
		r.ids("claimed", r.claim(5), fine)
	},
	"a claim passes over rows that somebody has locked": func(r *rig) {
		unlock := r.LockJob(r.add(wire.Job{}))
		defer unlock()
		r.none()
	},
	"a queue whose first job is locked is left alone": func(r *rig) {
		unlock := r.LockJob(r.add(wire.Job{Queue: "q"}))
		r.add(wire.Job{Queue: "q"})
		other := r.add(wire.Job{Queue: "p"})
		r.ids("claimed", r.claim(5), other)
		r.free("q")
		unlock()
	},
	"a queue whose row is locked is contended": func(r *rig) {
		r.add(wire.Job{Queue: "q"})
		unlock := r.LockQueue("q")
		claimed := r.try(worker.ClaimRequest{Batch: 5, Serial: 5})
		if len(claimed.Jobs) != 0 || !claimed.Contended {
			r.t.Errorf("claimed %d jobs, contended: %v", len(claimed.Jobs), claimed.Contended)
		}
		unlock()
		r.only()
	},
	"a claimed job carries its token and its attempt": func(r *rig) {
		plain := r.add(wire.Job{Attempt: 2})
		keyed := r.add(wire.Job{Key: "k", Priority: 1})
		jobs := r.claim(2)
		r.ids("claimed", jobs, plain, keyed)
		for i, want := range []string{".3", ".1k"} {
			if token := jobs[i].Token; !strings.HasPrefix(token, r.id+".") || token != claimOf(jobs[i])+want {
				r.t.Errorf("token is %s, want one of worker %s that ends in %s", token, r.id, want)
			}
		}
		if jobs[0].Attempt != 3 {
			r.t.Errorf("attempt is %d, want 3", jobs[0].Attempt)
		}
		r.row(plain, &Row{Attempts: 3, LockedBy: jobs[0].Token})
	},
	"a claim says when the next job is due": func(r *rig) {
		r.add(wire.Job{RunAt: time.Now().Add(time.Minute)})
		due := r.try(worker.ClaimRequest{Batch: 5, Serial: 5}).NextDue
		if due < 50*time.Second || due > time.Minute {
			r.t.Errorf("due in %v, want a minute", due)
		}
	},
	"a job of a foreign task that will be due drives no claim": func(r *rig) {
		r.add(wire.Job{Task: "foreign", RunAt: time.Now().Add(time.Minute)})
		if due := r.try(worker.ClaimRequest{Batch: 5, Serial: 5}).NextDue; due != 0 {
			r.t.Errorf("due in %v, want never", due)
		}
	},
	"a batch is bounded by bytes, but for its first job": func(r *rig) {
		payload := fmt.Appendf(nil, `{"x":"%01000d"}`, 0)
		for range 4 {
			r.add(wire.Job{Payload: payload})
		}
		claimed := r.try(worker.ClaimRequest{Batch: 5, Serial: 5, Bytes: 2500})
		if len(claimed.Jobs) != 2 || !claimed.More {
			r.t.Errorf("claimed %d jobs of 1 kB within 2500 bytes, more: %v", len(claimed.Jobs), claimed.More)
		}
		if n := len(r.try(worker.ClaimRequest{Batch: 5, Serial: 5, Bytes: 10}).Jobs); n != 1 {
			r.t.Errorf("claimed %d jobs within 10 bytes, want 1", n)
		}
	},
	"a payload above the limit is passed over, but no queue is": func(r *rig) {
		payload := fmt.Appendf(nil, `{"x":"%01000d"}`, 0)
		r.add(wire.Job{Payload: payload})
		r.add(wire.Job{Payload: payload, Queue: "q"})
		r.add(wire.Job{Queue: "q"})
		small := r.add(wire.Job{})
		claimed := r.try(worker.ClaimRequest{Batch: 5, Serial: 5, MaxPayload: 500})
		r.ids("claimed", claimed.Jobs, small)
		r.free("q")
	},
	"a queue that was freed gets its next job at once": func(r *rig) {
		first := r.add(wire.Job{Queue: "q"})
		second := r.add(wire.Job{Queue: "q"})
		job := r.only()
		r.ids("claimed", []*wire.Job{job}, first)
		fates := r.complete(job)
		if fates[0].Next != worker.NextOwn {
			r.t.Errorf("next is %v, want one of our own", fates[0].Next)
		}
		claimed := r.try(worker.ClaimRequest{Batch: 1, Serial: 1, Queues: []int32{job.QueueID}})
		r.ids("claimed", claimed.Jobs, second)
	},
	"a worker that is not registered claims nothing": func(r *rig) {
		r.add(wire.Job{})
		r.id = wire.NewWorkerID()
		if claimed := r.try(worker.ClaimRequest{Batch: 5, Serial: 5}); claimed.Alive || len(claimed.Jobs) > 0 {
			r.t.Errorf("claimed %d jobs, alive: %v", len(claimed.Jobs), claimed.Alive)
		}
	},
	"a worker that was retired claims nothing": func(r *rig) {
		r.add(wire.Job{})
		if err := r.store.Retire(r.ctx(), r.id); err != nil {
			r.t.Fatal(err)
		}
		if claimed := r.try(worker.ClaimRequest{Batch: 5, Serial: 5}); claimed.Alive || len(claimed.Jobs) > 0 {
			r.t.Errorf("claimed %d jobs, alive: %v", len(claimed.Jobs), claimed.Alive)
		}
	},
	"two workers share no job": func(r *rig) {
		for range 10 {
			r.add(wire.Job{})
		}
		seen := map[int64]bool{}
		for _, job := range append(r.claim(7), r.other().claim(7)...) {
			if seen[job.ID] {
				r.t.Errorf("job %d was claimed twice", job.ID)
			}
			seen[job.ID] = true
		}
		if len(seen) != 10 {
			r.t.Errorf("claimed %d of 10 jobs", len(seen))
		}
	},
}

// empty works off what is left, so that the next case starts anew.
func (r *rig) empty() {
	r.t.Helper()
	for jobs := r.claim(5); len(jobs) > 0; jobs = r.claim(5) {
		r.complete(jobs...)
	}
}

// What the ends of leases leave.
var endCases = map[string]func(*rig){
	"a completed job is gone": func(r *rig) {
		id := r.add(wire.Job{Queue: "q"})
		r.kinds("complete", r.complete(r.only()), worker.FateRecorded)
		r.row(id, nil)
		r.free("q")
	},
	"a failure is recorded": func(r *rig) {
		id := r.add(wire.Job{Queue: "q"})
		fates := r.fail(worker.Outcome{Kind: worker.OutcomeFailed, Text: "no", Delay: time.Hour}, r.only())
		r.kinds("fail", fates, worker.FateRecorded)
		if due := fates[0].Due; due < 59*time.Minute || due > time.Hour {
			r.t.Errorf("due in %v, want an hour", due)
		}
		r.row(id, &Row{Attempts: 1, LastError: "no", Wait: time.Hour})
		r.free("q")
	},
	"a failure can replace the payload": func(r *rig) {
		id := r.add(wire.Job{Payload: []byte("[1,2]")})
		r.fail(worker.Outcome{Kind: worker.OutcomeFailed, Text: "no", Payload: []byte("[2]"), Delay: time.Hour}, r.only())
		r.row(id, &Row{Attempts: 1, LastError: "no", Payload: "[2]", Wait: time.Hour})
	},
	"the last failure exhausts": func(r *rig) {
		id := r.add(wire.Job{MaxAttempts: 1})
		fates := r.fail(worker.Outcome{Kind: worker.OutcomeFailed, Text: "no"}, r.only())
		r.kinds("fail", fates, worker.FateExhausted)
		if fates[0].Due != 0 {
			r.t.Errorf("due in %v, want never", fates[0].Due)
		}
		r.row(id, &Row{Attempts: 1, MaxAttempts: 1, LastError: "no"})
	},
	"a permanent failure exhausts": func(r *rig) {
		id := r.add(wire.Job{})
		r.kinds("fail", r.fail(worker.Outcome{Kind: worker.OutcomeExhausted, Text: "never"}, r.only()), worker.FateExhausted)
		r.row(id, &Row{Attempts: 25, LastError: "never"})
	},
	"a job that is given back keeps its place and its attempts": func(r *rig) {
		id := r.add(wire.Job{Queue: "q", Attempt: 2})
		fates := r.release(worker.Outcome{Kind: worker.OutcomeReturned}, r.only())
		r.kinds("return", fates, worker.FateRecorded)
		if fates[0].Due <= 0 || fates[0].Due > time.Second {
			r.t.Errorf("due in %v, want at once", fates[0].Due)
		}
		r.row(id, &Row{Attempts: 2})
		r.free("q")
	},
	"a snoozed job waits, and its attempt is not charged": func(r *rig) {
		id := r.add(wire.Job{Queue: "q"})
		fates := r.release(worker.Outcome{Kind: worker.OutcomeSnoozed, Delay: time.Hour}, r.only())
		r.kinds("snooze", fates, worker.FateRecorded)
		r.row(id, &Row{Attempts: 0, Wait: time.Hour})
		r.free("q")
	},
	"a job on its last attempt is given back to be tried": func(r *rig) {
		id := r.add(wire.Job{MaxAttempts: 1})
		r.kinds("return", r.release(worker.Outcome{Kind: worker.OutcomeReturned}, r.only()), worker.FateRecorded)
		r.row(id, &Row{Attempts: 0, MaxAttempts: 1})
	},
	"a job that was superseded or removed while it ran is gone": func(r *rig) {
		for what, change := range map[string]func(int64){"superseded": r.Supersede, "removed": r.Remove} {
			r.each(func(name string, end func(...*wire.Job) []worker.Fate) {
				for _, most := range []int{1, 25} {
					id := r.add(wire.Job{Key: fmt.Sprint(what, name, most), MaxAttempts: most, Priority: -1, Queue: "q"})
					job := r.only()
					change(id)
					want := worker.FateSuperseded
					if name == "complete" {
						want = worker.FateRecorded
					}
					r.kinds(what+", "+name, end(job), want)
					r.row(id, nil)
					r.free("q")
				}
			})
		}
	},
	"a fate says what is first in line in the queue": func(r *rig) {
		for task, want := range map[string]worker.NextInQueue{"b": worker.NextOwn, "foreign": worker.NextForeign, "": worker.NextNone} {
			r.each(func(name string, end func(...*wire.Job) []worker.Fate) {
				queue := "of " + task + name
				r.add(wire.Job{Queue: queue})
				job := r.only()
				if task != "" {
					next := r.Add(wire.Job{Task: task, Queue: queue, RunAt: time.Now().Add(-time.Second)})
					defer r.Delete(next)
				} else {
					r.Add(wire.Job{Task: "b", Queue: queue, RunAt: time.Now().Add(time.Hour)})
				}
				// A job that is given back is first in line itself, after the statement.
				if fates := end(job); fates[0].Next != want {
					r.t.Errorf("%s, next of task %q: %v, want %v", name, task, fates[0].Next, want)
				}
				r.empty()
			})
		}
	},
	"fates are parallel to the leases": func(r *rig) {
		r.each(func(name string, end func(...*wire.Job) []worker.Fate) {
			gone, fine, held := r.add(wire.Job{}), r.add(wire.Job{Priority: 1}), r.add(wire.Job{Priority: 2})
			jobs := r.claim(3)
			r.ids("claimed", jobs, gone, fine, held)
			r.Delete(gone)
			unlock := r.LockJob(held)
			r.kinds(name, end(jobs...), worker.FateLost, worker.FateRecorded, worker.FateBusy)
			unlock()
			r.kinds(name, r.complete(jobs[2]), worker.FateRecorded)
			r.Delete(fine)
		})
	},
	"a row that somebody has locked is busy, and stays ours": func(r *rig) {
		id := r.add(wire.Job{Queue: "q"})
		job := r.only()
		unlock := r.LockJob(id)
		r.each(func(name string, end func(...*wire.Job) []worker.Fate) {
			r.kinds(name, end(job), worker.FateBusy)
		})
		unlock()
		r.row(id, &Row{Attempts: 1, LockedBy: job.Token})
		r.kinds("complete", r.complete(job), worker.FateRecorded)
	},
	"a queue whose row somebody has locked keeps its own job busy, and no other": func(r *rig) {
		r.each(func(name string, end func(...*wire.Job) []worker.Fate) {
			id, fine := r.add(wire.Job{Queue: name}), r.add(wire.Job{Queue: name + " free"})
			jobs := r.claim(2)
			r.ids("claimed", jobs, id, fine)
			unlock := r.LockQueue(name)
			r.kinds(name, end(jobs...), worker.FateBusy, worker.FateRecorded)
			unlock()
			r.row(id, &Row{Attempts: 1, LockedBy: jobs[0].Token})
			r.kinds(name, end(jobs[0]), worker.FateRecorded)
			r.free(name)
			r.Delete(id)
			r.Delete(fine)
		})
	},
	"a refused outcome is a row's fault, and records nothing": func(r *rig) {
		bad, fine := r.add(wire.Job{}), r.add(wire.Job{Priority: 1})
		jobs := r.claim(2)
		r.ids("claimed", jobs, bad, fine)
		r.Refuse(bad)
		_, err := r.store.Fail(r.ctx(), ended(worker.Outcome{Kind: worker.OutcomeFailed, Text: "no"}, jobs))
		if rejected, ok := errors.AsType[*wire.RejectedError](err); !ok || !rejected.Row {
			r.t.Errorf("error is %v, want a RejectedError that blames a row", err)
		}
		for _, job := range jobs {
			r.row(job.ID, &Row{Attempts: 1, LockedBy: job.Token})
		}
	},
}

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
		r.listen()
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
		if err != nil || answer != (worker.Reclaimed{Jobs: 2, Queues: 1, Settled: true}) {
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
	"a row that somebody has locked is reclaimed later": func(r *rig) {
		id := r.add(wire.Job{Queue: "q"})
		r.only()
		unlock := r.LockJob(id)
		answer, err := r.store.Reclaim(r.ctx(), r.id, nil)
		if err != nil || answer.Settled || answer.Jobs != 0 {
			r.t.Errorf("reclaimed %+v, %v while the row is locked", answer, err)
		}
		if r.QueueLock("q") == "" {
			r.t.Error("the queue was freed before its job")
		}
		unlock()
		if answer, err = r.store.Reclaim(r.ctx(), r.id, nil); err != nil || !answer.Settled || answer.Jobs != 1 {
			r.t.Errorf("reclaimed %+v, %v", answer, err)
		}
		r.free("q")
	},
	"a retired worker's locks are reclaimed": func(r *rig) {
		id := r.add(wire.Job{Queue: "q"})
		r.only()
		if err := r.store.Retire(r.ctx(), r.id); err != nil {
			r.t.Fatal(err)
		}
		answer, err := r.store.Reclaim(r.ctx(), r.id, nil)
		if err != nil || answer != (worker.Reclaimed{Jobs: 1, Queues: 1, Settled: true}) {
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

// Ids.
var upkeepCases = map[string]func(*rig){
	"a worker id is registered once": func(r *rig) {
		if err := r.store.Register(r.ctx(), r.id, []string{"a"}); err == nil {
			r.t.Error("a second registration succeeded")
		}
	},
}
