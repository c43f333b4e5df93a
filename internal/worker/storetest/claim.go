package storetest

import (
	"fmt"
	"strings"
	"time"

	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

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
	"a batch is what comes first in line": func(r *rig) {
		at := time.Now().Truncate(time.Second).Add(-time.Hour)
		last := r.add(wire.Job{Priority: 1, RunAt: at.Add(-time.Hour)})
		fifth := r.add(wire.Job{Queue: "p", RunAt: at.Add(4 * time.Minute)})
		fourth := r.add(wire.Job{RunAt: at.Add(3 * time.Minute)})
		third := r.add(wire.Job{Queue: "q", RunAt: at.Add(2 * time.Minute)})
		second := r.add(wire.Job{RunAt: at.Add(time.Minute)})
		first := r.add(wire.Job{Priority: -1, RunAt: at.Add(5 * time.Minute)})
		late := r.add(wire.Job{RunAt: at.Add(6 * time.Minute)})
		claimed := r.try(worker.ClaimRequest{Batch: 4, Serial: 4})
		r.ids("claimed", claimed.Jobs, first, second, third, fourth)
		r.ids("claimed then", r.claim(4), fifth, late, last)
	},
	"a queue hands out its jobs in order, and passes over what is not due or foreign": func(r *rig) {
		at := time.Now().Truncate(time.Second).Add(-time.Minute)
		r.add(wire.Job{Queue: "q", Priority: -9, RunAt: at.Add(time.Hour)})
		r.add(wire.Job{Queue: "q", Priority: -9, Task: "foreign"})
		last := r.add(wire.Job{Queue: "q", Priority: 1, RunAt: at.Add(-time.Hour)})
		late := r.add(wire.Job{Queue: "q", RunAt: at.Add(time.Second)})
		tie := r.add(wire.Job{Queue: "q", RunAt: at})
		twin := r.add(wire.Job{Queue: "q", RunAt: at})
		first := r.add(wire.Job{Queue: "q", Priority: -1, RunAt: at.Add(2 * time.Second)})
		for _, want := range []int64{first, tie, twin, late, last} {
			job := r.only()
			r.ids("claimed", []*wire.Job{job}, want)
			r.complete(job)
		}
		r.none()
	},
	"a claim passes over jobs with a forbidden flag": func(r *rig) {
		slow := r.add(wire.Job{Flags: []string{"slow"}})
		both := r.add(wire.Job{Flags: []string{"fast", "slow"}})
		r.add(wire.Job{Queue: "q", Flags: []string{"slow"}})
		plain := r.add(wire.Job{})
		fast := r.add(wire.Job{Flags: []string{"fast"}})
		queued := r.add(wire.Job{Queue: "q"})
		claimed := r.try(worker.ClaimRequest{Batch: 20, Serial: 20, Forbidden: []string{"odd", "slow"}})
		r.ids("claimed", claimed.Jobs, plain, fast, queued)
		r.ids("claimed without the list", r.claim(5), slow, both)
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
		if r.try(worker.ClaimRequest{Batch: 5}).Contended {
			r.t.Error("a claim that takes no jobs of queues is contended")
		}
		unlock()
		r.only()
	},
	"a queue whose first job is locked is neither contended nor held back": func(r *rig) {
		unlock := r.LockJob(r.add(wire.Job{Queue: "q"}))
		defer unlock()
		claimed := r.try(worker.ClaimRequest{Batch: 5, Serial: 5})
		if len(claimed.Jobs) != 0 || claimed.Contended || claimed.MoreSerial {
			r.t.Errorf("claimed %d jobs, contended: %v, held back: %v", len(claimed.Jobs), claimed.Contended, claimed.MoreSerial)
		}
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
		r.add(wire.Job{})
		r.add(wire.Job{Priority: -1, RunAt: time.Now().Add(2 * time.Minute)})
		r.add(wire.Job{RunAt: time.Now().Add(time.Minute)})
		claimed := r.try(worker.ClaimRequest{Batch: 5, Serial: 5})
		if due := claimed.NextDue; len(claimed.Jobs) != 1 || due < 40*time.Second || due > time.Minute {
			r.t.Errorf("claimed %d jobs, the next is due in %v, want a minute", len(claimed.Jobs), due)
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
		another := r.other()
		if err := r.store.Retire(r.ctx(), r.id, false); err != nil {
			r.t.Fatal(err)
		}
		if claimed := r.try(worker.ClaimRequest{Batch: 5, Serial: 5}); claimed.Alive || len(claimed.Jobs) > 0 {
			r.t.Errorf("claimed %d jobs, alive: %v", len(claimed.Jobs), claimed.Alive)
		}
		another.only() // which is not retired
	},
	"jobs with one attempt are claimed at the front of a batch only": func(r *rig) {
		for _, queue := range []string{"", "q"} {
			r := r.other() // which remembers nothing of earlier claims
			var ids []int64
			for i := range 6 {
				job := wire.Job{MaxAttempts: 1, RunAt: time.Now().Add(time.Duration(i-60) * time.Second)}
				if i%2 == 1 {
					job.MaxAttempts = 2
				}
				ids = append(ids, r.add(job))
			}
			if queue != "" { // then the claims have other texts
				r.add(wire.Job{Queue: queue, RunAt: time.Now().Add(time.Hour)})
			}
			first := r.try(worker.ClaimRequest{Batch: 20, Serial: 2}) // 0 and 1 start now; 2 and 4 would wait
			r.ids("first", first.Jobs, ids[0], ids[1], ids[3], ids[5])
			if !first.More && !first.MoreSerial {
				r.t.Error("the claim that left jobs does not ask for more")
			}
			none := r.try(worker.ClaimRequest{Batch: 20})
			if len(none.Jobs) > 0 || !none.MoreSerial {
				r.t.Errorf("with no room claimed %d jobs, more: %v", len(none.Jobs), none.MoreSerial)
			}
			r.ids("then", r.claim(2), ids[2], ids[4])
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
