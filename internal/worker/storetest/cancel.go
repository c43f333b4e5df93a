package storetest

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// because is a request of somebody's.
var because = worker.Request{By: "ops", Reason: "wrong customer"}

// Requests to end jobs: whoever ends the lease of such a job deletes it.
var cancelCases = map[string]func(*rig){
	"a job of which the end was requested is gone, however its handler ends": func(r *rig) {
		r.eachEnd(func(name string, end func(...*wire.Job) []worker.Fate) {
			for _, like := range []wire.Job{{}, {MaxAttempts: 1}, {Key: name}, {Key: name + " 1", MaxAttempts: 1}} {
				like.Queue = fmt.Sprint("q ", name, like.Key, like.MaxAttempts)
				id, other := r.add(like), r.add(wire.Job{Priority: 1})
				jobs := r.claim(2)
				r.ids("claimed", jobs, id, other)
				behind := r.add(wire.Job{Task: "b", Queue: like.Queue})
				r.Request(id, because)
				fates := end(jobs...)
				r.canceledFate(name, fates[0])
				if fates[1].Kind == worker.FateCanceled || fates[0].Next != worker.NextOwn {
					r.t.Errorf("%s: fates %+v", name, fates)
				}
				if name != "complete" && r.Requested(id) {
					r.t.Errorf("%s: the statement leaves the request", name)
				}
				r.gone(name, id)
				r.free(like.Queue)
				r.Delete(other)
				r.ids(name+", behind it", r.claim(1), behind)
				r.Delete(behind)
				r.RelockQueue(like.Queue, "")
			}
		})
	},
	"its queue is freed only if its own claim has it": func(r *rig) {
		number := r.claims
		r.eachEnd(func(name string, end func(...*wire.Job) []worker.Fate) {
			first, second := r.add(wire.Job{Queue: name}), r.add(wire.Job{Queue: name})
			number++
			r.claims = 16*number - 1 // the number of the other claim is a prefix of this one's
			job := r.only()
			r.Request(first, because)
			r.RelockQueue(name, "")
			r.claims = number - 1
			next := r.only()
			r.ids("claimed", []*wire.Job{next}, second)
			r.canceledFate(name, end(job)[0])
			r.gone(name, first)
			if by := r.QueueLock(name); by != claimOf(next) {
				r.t.Errorf("%s: the queue is locked by %q, want %q", name, by, claimOf(next))
			}
			r.complete(next)
		})
		first, second := r.add(wire.Job{Queue: "stale"}), r.add(wire.Job{Queue: "stale"})
		r.only()
		r.Age(first, 5*time.Hour)
		r.RelockQueue("stale", "")
		next := r.only()
		r.ids("claimed", []*wire.Job{next}, second)
		r.Request(first, because)
		r.toldOf("stale", r.requests().Ended, first)
		if by := r.QueueLock("stale"); by != claimOf(next) {
			r.t.Errorf("the queue is locked by %q, want %q", by, claimOf(next))
		}
	},
	"a job that was superseded or removed as well is cancelled": func(r *rig) {
		for what, change := range map[string]func(int64){"superseded": r.Supersede, "removed": r.Remove} {
			r.eachEnd(func(name string, end func(...*wire.Job) []worker.Fate) {
				id := r.add(wire.Job{Key: what + name, Queue: "q"})
				job := r.only()
				change(id)
				r.Request(id, because)
				r.canceledFate(what+", "+name, end(job)[0])
				r.gone(what+", "+name, id)
				r.free("q")
			})
		}
	},
	"one whose row or queue somebody has locked is cancelled later": func(r *rig) {
		for what, lock := range map[string]func(id int64, queue string) func(){
			"job":   func(id int64, _ string) func() { return r.LockJob(id) },
			"queue": func(_ int64, queue string) func() { return r.LockQueue(queue) },
		} {
			r.eachEnd(func(name string, end func(...*wire.Job) []worker.Fate) {
				queue := what + name
				id, fine := r.add(wire.Job{Queue: queue}), r.add(wire.Job{Priority: 1})
				jobs := r.claim(2)
				r.Request(id, because)
				r.Request(fine, because)
				unlock := lock(id, queue)
				r.kinds(queue, end(jobs...), worker.FateBusy, worker.FateCanceled)
				r.row(id, &Row{Attempts: 1, LockedBy: jobs[0].Token})
				if !r.Requested(id) {
					r.t.Errorf("%s: the request is gone before its job", queue)
				}
				unlock()
				r.canceledFate(queue, end(jobs[0])[0])
				r.gone(queue, id)
				r.gone(queue, fine)
				r.free(queue)
			})
		}
	},
	"of two leases of a job the one that holds it is cancelled, once": func(r *rig) {
		r.eachEnd(func(name string, end func(...*wire.Job) []worker.Fate) {
			id := r.add(wire.Job{Queue: name})
			old := r.only()
			r.Relock(id, "")
			r.freeQueueOf(old)
			fresh := r.only()
			r.Request(id, because)
			r.kinds(name, end(old, fresh), worker.FateLost, worker.FateCanceled)
			r.gone(name, id)
			r.free(name)
		})
	},
	"a lost lease leaves the job to who has it, and its request": func(r *rig) {
		r.eachEnd(func(name string, end func(...*wire.Job) []worker.Fate) {
			id := r.add(wire.Job{Queue: name})
			old := r.only()
			r.Relock(id, "")
			r.freeQueueOf(old)
			other := r.other()
			held := other.only()
			r.Request(id, because)
			r.kinds(name, end(old), worker.FateLost)
			r.row(id, &Row{Attempts: 2, LockedBy: held.Token})
			if by := r.QueueLock(name); by != claimOf(held) || !r.Requested(id) {
				r.t.Errorf("%s: the queue is locked by %q, and there is a request: %v", name, by, r.Requested(id))
			}
			r.canceledFate(name, other.endings()["return"](held)[0])
		})
	},
	"a job that others have released is deleted by who had it, and told of": func(r *rig) {
		r.eachEnd(func(name string, end func(...*wire.Job) []worker.Fate) {
			if name == "complete" {
				return // it looks at what it deletes, and at nothing else
			}
			id, behind := r.add(wire.Job{Queue: name}), r.add(wire.Job{Queue: name})
			job := r.only()
			r.Request(id, because)
			r.Relock(id, "")
			r.canceledFate(name, end(job)[0])
			r.gone(name, id)
			r.free(name)
			r.Delete(behind)
		})
	},
	"a claim names the jobs that are not to run": func(r *rig) {
		id, fine := r.add(wire.Job{Queue: "q"}), r.add(wire.Job{Priority: 1})
		before := r.other()
		jobs := before.claim(2)
		r.Request(id, because)
		r.Relock(id, "") // as force_unlock of Graphile Worker does
		r.RelockQueue("q", "")
		claimed := r.try(worker.ClaimRequest{Batch: 1, Serial: 1})
		if len(claimed.Jobs) != 1 || claimed.Jobs[0].ID != id || !slices.Equal(claimed.Canceled, []int64{id}) {
			r.t.Fatalf("claimed %+v", claimed)
		}
		r.kinds("by who had it", before.release(worker.Outcome{Kind: worker.OutcomeReturned}, jobs...), worker.FateLost, worker.FateRecorded)
		r.canceledFate("given back", r.release(worker.Outcome{Kind: worker.OutcomeReturned}, claimed.Jobs[0])[0])
		r.gone("given back", id)
		r.free("q")
		claimed = r.try(worker.ClaimRequest{Batch: 1, Serial: 1})
		if len(claimed.Jobs) != 1 || claimed.Jobs[0].ID != fine || len(claimed.Canceled) > 0 {
			r.t.Errorf("then claimed %+v", claimed)
		}
	},
	"what is reclaimed is deleted": func(r *rig) {
		id, fine, held := r.add(wire.Job{Queue: "q"}), r.add(wire.Job{Priority: 1}), r.add(wire.Job{Priority: 2})
		jobs := r.claim(3)
		r.Request(id, because)
		r.Request(held, because)
		answer, err := r.store.Reclaim(r.ctx(), r.id, leases(jobs[2:]))
		if err != nil || !answer.Settled || answer.Jobs != 2 {
			r.t.Errorf("reclaimed %+v, %v", answer, err)
		}
		r.toldOf("reclaimed", answer.Canceled, id)
		r.gone("reclaimed", id)
		r.free("q")
		r.row(fine, &Row{})
		r.row(held, &Row{Attempts: 1, LockedBy: jobs[2].Token})
	},
	"and so is what was claimed for a trial": func(r *rig) {
		id, fine := r.add(wire.Job{Queue: "q"}), r.add(wire.Job{})
		behind := r.add(wire.Job{Queue: "q"})
		r.parked(2)
		r.trial()
		r.Request(id, because)
		answer, err := r.store.Reclaim(r.ctx(), r.id, nil)
		if err != nil || !answer.Settled {
			r.t.Errorf("reclaimed %+v, %v", answer, err)
		}
		r.toldOf("reclaimed", answer.Canceled, id)
		r.gone("reclaimed", id)
		r.suspects(fine)
		r.ids("behind it", r.claim(1), behind)
	},
	"what a dead worker had is deleted, whatever would become of it": func(r *rig) {
		for what, test := range map[string]struct {
			like wire.Job
			die  func(*rig)
		}{
			"released":        {wire.Job{}, r.declare},
			"crashed":         {wire.Job{MaxAttempts: 1}, r.declare},
			"without a row":   {wire.Job{MaxAttempts: 1}, func(victim *rig) { r.Forget(victim.id) }},
			"superseded":      {wire.Job{Key: "k"}, func(victim *rig) { r.Supersede(r.Keyed("k")); r.declare(victim) }},
			"with no letters": {wire.Job{MaxAttempts: 1}, r.declare},
			"interrupted": {wire.Job{MaxAttempts: 1}, func(victim *rig) {
				victim.beat(worker.Beat{Write: true, Number: 1, Stopping: true})
				r.declare(victim)
			}},
		} {
			victim := r.other()
			if what == "with no letters" {
				victim = r.without()
			}
			like := test.like
			like.Queue = "q " + what
			id, fine := r.add(like), r.add(wire.Job{Priority: 1})
			victim.claim(2)
			r.Request(id, because)
			test.die(victim)
			rescued := r.rescue(victim)
			if len(rescued.Jobs) != 1 || rescued.Jobs[0].ID != fine || len(rescued.Dead)+len(rescued.Parked) > 0 || len(rescued.Settled) != 1 {
				r.t.Errorf("%s: rescued %+v", what, rescued)
			}
			r.toldOf(what, rescued.Canceled, id)
			r.gone(what, id)
			r.free(like.Queue)
			r.Delete(fine)
		}
	},
	"and so is one that would be parked, or convicted": func(r *rig) {
		id := r.add(wire.Job{Queue: "q"})
		r.crash(r.claimed())
		victim := r.claimed()
		r.Request(id, because)
		rescued := r.crash(victim)
		r.toldOf("parked", rescued.Canceled, id)
		r.gone("parked", id)
		r.free("q")

		id = r.add(wire.Job{Queue: "q"})
		r.parked(1)
		for range 2 {
			victim := r.other()
			victim.trial()
			r.crash(victim)
		}
		victim = r.other()
		victim.trial()
		r.Request(id, because)
		rescued = r.crash(victim)
		if len(rescued.Dead)+len(rescued.Parked) > 0 {
			r.t.Errorf("rescued %+v", rescued)
		}
		r.toldOf("convicted", rescued.Canceled, id)
		r.gone("convicted", id)
		r.free("q")
		if answer := r.beat(worker.Beat{}); answer.Crashes {
			r.t.Error("something is known of the crashes of a job that is gone")
		}
	},
	"a rescue waits for a queue whose row somebody has locked": func(r *rig) {
		for what, open := range map[string]func() *rig{"letters": r.other, "no letters": func() *rig { return r.without() }} {
			for _, most := range []int{25, 1} {
				id, victim := r.add(wire.Job{Queue: what, MaxAttempts: most}), open()
				job := victim.only()
				r.Request(id, because)
				r.declare(victim)
				unlock := r.LockQueue(what)
				if rescued := r.rescue(victim); len(rescued.Jobs)+len(rescued.Dead)+len(rescued.Canceled)+len(rescued.Settled) > 0 {
					r.t.Errorf("%s: rescued %+v", what, rescued)
				}
				r.row(id, &Row{Attempts: 1, MaxAttempts: most, LockedBy: job.Token})
				unlock()
				rescued := r.rescue(victim)
				r.toldOf(what, rescued.Canceled, id)
				r.gone(what, id)
				r.free(what)
			}
		}
	},
	"a row that the server refuses keeps no cancelled job of a dead worker": func(r *rig) {
		var ids []int64
		for range 5 {
			ids = append(ids, r.add(wire.Job{}))
		}
		victim := r.other()
		victim.claim(5)
		for _, id := range ids {
			r.Request(id, because)
		}
		r.Refuse(ids[1])
		r.declare(victim)
		rescued, err := r.store.Rescue(r.ctx(), rescueOf(victim.id))
		if err == nil || len(rescued.Settled)+len(rescued.Jobs) > 0 {
			r.t.Errorf("rescued %+v, %v", rescued, err)
		}
		r.toldOf("rescued", rescued.Canceled, ids[0], ids[2], ids[3], ids[4])
		if _, ok := r.Job(ids[1]); !ok || !r.Requested(ids[1]) {
			r.t.Error("the job that is refused is gone, or its request is")
		}
	},
	"a sweep leaves stale locks and failed jobs to the requests": func(r *rig) {
		ours, foreign := r.add(wire.Job{Queue: "q"}), r.add(wire.Job{Queue: "p"})
		r.ids("claimed", r.claim(2), ours, foreign)
		r.Request(ours, because)
		r.Request(foreign, because)
		failed := r.add(wire.Job{})
		r.Exhaust(failed, "no", 2*time.Hour)
		r.Request(failed, because)
		r.Relock(foreign, "worker.of.node")
		r.Age(ours, 3*time.Hour)
		r.Age(foreign, 3*time.Hour)
		r.toldOf("of three hours", r.requests().Ended, failed)
		r.gone("failed", failed)
		failed = r.add(wire.Job{})
		r.Exhaust(failed, "no", 2*time.Hour)
		r.Request(failed, because)
		r.Age(ours, 2*time.Hour)
		r.Age(foreign, 2*time.Hour)
		if swept := r.sweep(); swept.Jobs != 0 || len(swept.Dead) > 0 {
			r.t.Errorf("swept %+v", swept)
		}
		for _, id := range []int64{ours, foreign, failed} {
			r.noLetter(id)
		}
		r.toldOf("of five hours", r.requests().Ended, ours, foreign, failed)
		for _, id := range []int64{ours, foreign, failed} {
			r.gone("swept", id)
		}
		r.free("q")
	},
	"a trial passes over suspects that are to end": func(r *rig) {
		id, fine := r.add(wire.Job{Queue: "q"}), r.add(wire.Job{})
		behind := r.add(wire.Job{Queue: "q"})
		r.parked(2)
		found := r.seen()
		r.Request(id, because)
		r.suspects(fine)
		r.ids("trial", r.tryJobs(found, id, fine), fine)
		r.toldOf("requested", r.requests().Ended, id)
		r.gone("requested", id)
		r.ids("behind it", r.claim(1), behind)
	},
	"nothing is known of the crashes of a suspect that was cancelled": func(r *rig) {
		id := r.add(wire.Job{})
		r.parked(1)
		r.Request(id, because)
		r.requests()
		if answer := r.beat(worker.Beat{}); answer.Crashes {
			r.t.Error("a heartbeat tells of crashes although no job is left")
		}
	},
	"a suspect that is given back is deleted": func(r *rig) {
		id, fine := r.add(wire.Job{Queue: "q"}), r.add(wire.Job{})
		behind := r.add(wire.Job{Queue: "q"})
		r.parked(2)
		tried := r.trial()
		r.Request(id, because)
		unlock := r.LockJob(id)
		r.kinds("busy", r.park(tried...), worker.FateBusy, worker.FateRecorded)
		unlock()
		r.canceledFate("park", r.park(tried[0])[0])
		r.gone("park", id)
		r.acquit()
		r.suspects(fine)
		r.ids("behind it", r.claim(1), behind)
	},
	"a worker learns of the requests of the jobs that it asks for": func(r *rig) {
		first, second, fine := r.add(wire.Job{}), r.add(wire.Job{Priority: 1}), r.add(wire.Job{Priority: 2})
		jobs := r.claim(3)
		r.Request(first, because)
		r.Request(second, worker.Request{})
		want := map[int64]worker.Request{first: because}
		if diff := cmp.Diff(want, r.requests(first, fine).Jobs); diff != "" {
			r.t.Errorf("requests (-want +got):\n%s", diff)
		}
		want = map[int64]worker.Request{first: because, second: {}}
		if diff := cmp.Diff(want, r.other().requests(first, second, fine).Jobs); diff != "" {
			r.t.Errorf("requests that another worker sees (-want +got):\n%s", diff)
		}
		if found := r.requests(); len(found.Jobs)+len(found.Ended) > 0 {
			r.t.Errorf("without a question it is told %+v", found)
		}
		for _, job := range jobs { // nobody has ended them
			r.row(job.ID, &Row{Attempts: 1, LockedBy: job.Token})
		}
		r.kinds("return", r.release(worker.Outcome{Kind: worker.OutcomeReturned}, jobs...),
			worker.FateCanceled, worker.FateCanceled, worker.FateRecorded)
	},
	"whoever looks deletes what nobody runs, and requests without jobs": func(r *rig) {
		free, later, gone, busy := r.add(wire.Job{Queue: "q"}), r.add(wire.Job{RunAt: time.Now().Add(time.Hour)}), r.add(wire.Job{}), r.add(wire.Job{})
		foreign := r.add(wire.Job{Attempt: 1})
		r.Relock(foreign, "worker.of.node")
		fine := r.add(wire.Job{})
		r.Delete(gone)
		for _, id := range []int64{free, later, gone, busy, foreign} {
			r.Request(id, because)
		}
		unlock := r.LockJob(busy)
		r.toldOf("first", r.requests().Ended, free, later)
		if r.Requested(gone) || !r.Requested(busy) || !r.Requested(foreign) {
			r.t.Errorf("requests: of the job that is gone %v, of the busy one %v, of Node's %v",
				r.Requested(gone), r.Requested(busy), r.Requested(foreign))
		}
		unlock()
		r.toldOf("then", r.requests().Ended, busy)
		r.row(foreign, &Row{Attempts: 1, LockedBy: "worker.of.node"})
		r.row(fine, &Row{})
		r.free("q")
	},
	"a row that the server refuses keeps no other from being ended": func(r *rig) {
		var ids []int64
		for range 5 {
			ids = append(ids, r.add(wire.Job{}))
			r.Request(ids[len(ids)-1], because)
		}
		held := r.add(wire.Job{Priority: -1})
		r.only()
		r.Request(held, because)
		r.Refuse(ids[2])
		found, err := r.store.Requested(r.ctx(), []int64{held})
		if rejected, ok := errors.AsType[*wire.RejectedError](err); !ok || !rejected.Row {
			r.t.Errorf("the error is %v", err)
		}
		if found.Jobs[held] != because {
			r.t.Errorf("requests are %v", found.Jobs)
		}
		r.toldOf("beside it", found.Ended, ids[0], ids[1], ids[3], ids[4])
		if _, ok := r.Job(ids[2]); !ok || !r.Requested(ids[2]) {
			r.t.Error("the job that is refused is gone, or its request is")
		}
	},
}

// eachEnd runs a test for each way in which the end of a handler ends a lease.
func (r *rig) eachEnd(test func(name string, end func(...*wire.Job) []worker.Fate)) {
	r.t.Helper()
	r.each(test)
	test("permanent", func(jobs ...*wire.Job) []worker.Fate { return r.fail(never, jobs...) })
	test("permanent, without dead letters", func(jobs ...*wire.Job) []worker.Fate { return r.leave(never, jobs...) })
	test("cancelled", func(jobs ...*wire.Job) []worker.Fate {
		return r.release(worker.Outcome{Kind: worker.OutcomeCanceled}, jobs...)
	})
}

// canceledFate checks the fate of a lease whose job was deleted because its end was requested. Who
// has requested it, is not known of a job that has succeeded.
func (r *rig) canceledFate(what string, fate worker.Fate) {
	r.t.Helper()
	if fate.Kind != worker.FateCanceled || fate.Due != 0 || fate.Request != because && fate.Request != (worker.Request{}) {
		r.t.Errorf("%s: the fate is %+v", what, fate)
	}
}

// toldOf checks which jobs were deleted because their ends were requested.
func (r *rig) toldOf(what string, told []worker.CanceledJob, want ...int64) {
	r.t.Helper()
	var got []int64
	for _, job := range told {
		got = append(got, job.ID)
		if job.Task != "a" || job.MaxAttempts == 0 || job.Request != because {
			r.t.Errorf("%s: told of %+v of %+v", what, job.Request, job.Job)
		}
	}
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		r.t.Errorf("%s: cancelled jobs (-want +got):\n%s", what, diff)
	}
}

// gone checks that nothing is left of a cancelled job: no row, no dead letter, and, at the latest
// when somebody looks, no request.
func (r *rig) gone(what string, id int64) {
	r.t.Helper()
	if row, ok := r.Job(id); ok {
		r.t.Errorf("%s: job %d is left as %+v", what, id, row)
	}
	r.noLetter(id)
	if r.requests(); r.Requested(id) {
		r.t.Errorf("%s: the request of job %d is left", what, id)
	}
}

// requests looks for requests.
func (r *rig) requests(ids ...int64) worker.Requests {
	r.t.Helper()
	found, err := r.store.Requested(r.ctx(), ids)
	if err != nil {
		r.t.Fatal(err)
	}
	return found
}
