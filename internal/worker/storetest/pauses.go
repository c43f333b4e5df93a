package storetest

import (
	"time"

	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// known is after what time every worker knows of a pause of a task, and of its end.
const known = 2 * time.Second

// What nobody starts while it is paused.
var pauseCases = map[string]func(*rig){
	"jobs of a paused task wait, also in front of others in their queue": func(r *rig) {
		ahead := r.add(wire.Job{Queue: "q"})
		behind := r.add(wire.Job{Task: "b", Queue: "q"})
		r.Pause("a", "", time.Time{})
		free := r.add(wire.Job{})
		r.ids("a worker that starts later", r.other().claim(3), behind)
		<-time.After(known)
		r.none()
		if claimed := r.try(worker.ClaimRequest{Batch: 1, Serial: 1}); claimed.Reread > known {
			r.t.Errorf("the pause is looked at again after %v", claimed.Reread)
		}
		r.Resume("a", "")
		<-time.After(known)
		r.ids("resumed", r.claim(1), free) // the queue is not free
		r.RelockQueue("q", "")
		r.ids("in the queue", r.claim(1), ahead)
	},
	"a pause of a task ends by itself": func(r *rig) {
		job := r.add(wire.Job{})
		r.Pause("a", "", time.Now().Add(known+known/2))
		<-time.After(known)
		r.none()
		<-time.After(known)
		r.ids("afterwards", r.claim(1), job)
	},
	"jobs of a paused queue wait, whatever their tasks are, and no others": func(r *rig) {
		first, second := r.add(wire.Job{Queue: "q"}), r.add(wire.Job{Task: "b", Queue: "q"})
		other, free := r.add(wire.Job{Queue: "other"}), r.add(wire.Job{})
		r.Pause("", "q", time.Time{})
		r.ids("claim", r.claim(4), other, free)
		r.ids("a worker that starts later", r.other().claim(4))
		if claimed := r.try(worker.ClaimRequest{Batch: 1, Serial: 1}); claimed.Contended || claimed.MoreSerial {
			r.t.Errorf("a paused queue is asked for again: %+v", claimed)
		}
		r.free("q")
		r.Resume("", "q")
		r.ids("resumed", r.claim(4), first)
		r.ids("one at a time", r.claim(4))
		r.RelockQueue("q", "")
		r.ids("the next", r.claim(4), second)
	},
	"a queue that is paused while a job of it runs goes no further": func(r *rig) {
		first, second := r.add(wire.Job{Queue: "q"}), r.add(wire.Job{Queue: "q"})
		running := r.only()
		r.Pause("", "q", time.Time{})
		r.kinds("complete", r.complete(running), worker.FateRecorded)
		claimed := r.try(worker.ClaimRequest{Batch: 1, Serial: 1, Queues: []int32{running.QueueID}})
		r.ids("after job 1", claimed.Jobs)
		r.none()
		r.row(first, nil)
		r.row(second, &Row{})
		r.Resume("", "q")
		r.ids("resumed", r.claim(1), second)
	},
	"a queue is paused by its name, before it has jobs": func(r *rig) {
		r.Pause("", "q", time.Time{})
		job := r.add(wire.Job{Queue: "q"})
		r.none()
		r.Resume("", "q")
		r.ids("resumed", r.claim(1), job)
	},
	"a pause of a queue ends by itself": func(r *rig) {
		job := r.add(wire.Job{Queue: "q"})
		r.Pause("", "q", time.Now().Add(known))
		r.none()
		<-time.After(known + time.Second) // the clocks of a test and its database are not far apart
		r.ids("afterwards", r.claim(1), job)
	},
	"suspects that are paused are not tried": func(r *rig) {
		inTask, inQueue, well := r.add(wire.Job{}), r.add(wire.Job{Task: "b", Queue: "q"}), r.add(wire.Job{Task: "b"})
		r.parked(3)
		found := r.seen()
		r.Pause("a", "", time.Time{})
		r.Pause("", "q", time.Time{})
		r.suspects(well)
		r.ids("a trial by an older look", r.tryJobs(found, inTask, inQueue, well), well)
		r.Resume("a", "")
		r.Resume("", "q")
		r.other().suspects(inTask, inQueue)
	},
}
