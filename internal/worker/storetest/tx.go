package storetest

import (
	"time"

	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// Claims of transactional jobs, for which there are connections or not (R22).
var txCases = map[string]func(*rig){
	"a claim without connections passes over transactional jobs": func(r *rig) {
		r = r.serving("a", "tx")
		waits := r.add(wire.Job{Task: "tx", Priority: -2})
		for range 6 { // more than a batch
			r.add(wire.Job{Task: "tx", Priority: -1})
		}
		plain := r.add(wire.Job{})
		none := r.try(worker.ClaimRequest{Batch: 5, Serial: 5})
		r.ids("without connections", none.Jobs, plain)
		if !none.MoreTransactional {
			r.t.Error("the claim does not say that transactional jobs may wait")
		}
		r.ids("with one", r.try(worker.ClaimRequest{Batch: 5, Serial: 5, Transactional: 1}).Jobs, waits)
	},
	"a claim takes as many transactional jobs as there are connections, the first ones": func(r *rig) {
		r = r.serving("a", "tx1", "tx2")
		at := time.Now().Truncate(time.Second).Add(-time.Hour)
		add := func(task, queue string, minute time.Duration) int64 {
			return r.add(wire.Job{Task: task, Queue: queue, RunAt: at.Add(minute * time.Minute)})
		}
		third, first, second := add("tx1", "", 3), add("tx1", "", 1), add("tx2", "q", 2)
		fourth, plain := add("tx2", "p", 5), add("a", "", 4)
		claimed := r.try(worker.ClaimRequest{Batch: 20, Serial: 20, Transactional: 2})
		r.ids("with two connections", claimed.Jobs, first, second, plain)
		if !claimed.MoreTransactional {
			r.t.Error("the claim does not say that transactional jobs wait")
		}
		r.free("p")
		r.ids("without", r.claim(20))
		claimed = r.try(worker.ClaimRequest{Batch: 20, Serial: 20, Transactional: 3})
		r.ids("with three", claimed.Jobs, third, fourth)
		if claimed.MoreTransactional {
			r.t.Error("the claim that left none says that transactional jobs wait")
		}
	},
	"a queue whose first job is transactional waits for a connection": func(r *rig) {
		r = r.serving("a", "tx")
		head := r.add(wire.Job{Task: "tx", Queue: "q", Priority: -1})
		r.add(wire.Job{Queue: "q"})
		other := r.add(wire.Job{Queue: "p"})
		none := r.try(worker.ClaimRequest{Batch: 5, Serial: 5})
		r.ids("without connections", none.Jobs, other)
		if none.Contended || none.MoreSerial {
			r.t.Errorf("contended: %v, more of queues: %v", none.Contended, none.MoreSerial)
		}
		r.free("q")
		r.ids("with one", r.try(worker.ClaimRequest{Batch: 5, Serial: 5, Transactional: 1}).Jobs, head)
	},
	"a queue that was freed waits if its next job is transactional": func(r *rig) {
		r = r.serving("a", "tx")
		first := r.add(wire.Job{Queue: "q", Priority: -2})
		next := r.add(wire.Job{Task: "tx", Queue: "q", Priority: -1})
		r.add(wire.Job{Queue: "q"})
		jobs := r.try(worker.ClaimRequest{Batch: 5, Serial: 5}).Jobs
		r.ids("first", jobs, first)
		r.complete(jobs...)
		queues := []int32{jobs[0].QueueID}
		r.ids("without connections", r.try(worker.ClaimRequest{Batch: 5, Serial: 5, Queues: queues}).Jobs)
		r.ids("with one", r.try(worker.ClaimRequest{Batch: 5, Serial: 5, Transactional: 1, Queues: queues}).Jobs, next)
	},
	"a transactional job behind another one of its queue keeps nothing waiting": func(r *rig) {
		r = r.serving("a", "tx")
		first := r.add(wire.Job{Queue: "q", Priority: -1})
		r.add(wire.Job{Task: "tx", Queue: "q"})
		r.ids("without connections", r.try(worker.ClaimRequest{Batch: 5, Serial: 5}).Jobs, first)
	},
	"a worker without transactional tasks never asks for connections": func(r *rig) {
		r.add(wire.Job{Task: "tx"})
		plain := r.add(wire.Job{})
		claimed := r.try(worker.ClaimRequest{Batch: 5, Serial: 5})
		r.ids("claimed", claimed.Jobs, plain)
		if claimed.MoreTransactional {
			r.t.Error("the claim says that transactional jobs wait")
		}
	},
}
