package storetest

import (
	"context"
	"sync"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// listen listens until end is called, or the test is over.
func (r *rig) listen() (end func()) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(r.t.Context())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- r.store.Listen(ctx, func() { close(ready) }, func(worker.Notification) {}) }()
	select {
	case <-ready:
	case err := <-ended:
		r.t.Fatal(err)
	}
	end = sync.OnceFunc(func() {
		cancel()
		<-ended //nolint:errcheck // it was cancelled
	})
	r.t.Cleanup(end)
	return end
}

func (r *rig) sweep() worker.Swept {
	r.t.Helper()
	swept, err := r.store.Sweep(r.ctx(), r.id)
	if err != nil {
		r.t.Fatal(err)
	}
	return swept
}

// stale adds a job that somebody has locked, who is gone.
func (r *rig) stale() int64 {
	id := r.add(wire.Job{})
	r.Relock(id, "somebody")
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
		r.listen()
		if swept := r.sweep(); !swept.Turn || !swept.Whole || swept.Jobs != 1 || swept.Queues != 1 {
			r.t.Errorf("swept %+v, want a job and a queue", swept)
		}
		r.row(stale, &Row{Attempts: 1}) // charged, as by a peer
		r.row(young, &Row{Attempts: 1, LockedBy: jobs[1].Token})
		r.free("q")
		r.kinds("complete", r.complete(jobs[0]), worker.FateLost)
	},
	"a job that is swept goes to the end of the line, or stays behind it": func(r *rig) {
		first := r.add(wire.Job{RunAt: time.Now().Add(-time.Hour)})
		later := r.add(wire.Job{RunAt: time.Now().Add(-time.Hour)})
		r.ids("claimed", r.claim(2), first, later)
		r.Change(later, 1, time.Now().Add(time.Hour))
		r.Age(first, 5*time.Hour)
		r.Age(later, 5*time.Hour)
		r.listen()
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
		r.listen()
		if swept := r.sweep(); swept.Jobs+swept.Queues != 0 {
			r.t.Errorf("swept %+v", swept)
		}
		unlock()
		unlockQueue()
		r.row(stale, &Row{Attempts: 1, LockedBy: job.Token})
	},
	"a worker that does not listen does not sweep": func(r *rig) {
		r.Age(r.stale(), 5*time.Hour)
		if swept := r.sweep(); swept.Turn || swept.Jobs != 0 {
			r.t.Errorf("swept %+v", swept)
		}
	},
	"one worker of a fleet sweeps, and the next one when its listener has ended": func(r *rig) {
		end := r.listen()
		if !r.sweep().Turn {
			r.t.Fatal("a worker that is alone does not sweep")
		}
		stale := r.stale()
		r.Age(stale, 5*time.Hour)
		other := r.other()
		other.listen()
		for range 2 {
			if swept := other.sweep(); swept.Turn || swept.Jobs != 0 {
				r.t.Errorf("another worker swept %+v", swept)
			}
		}
		if swept := r.sweep(); swept.Jobs != 1 {
			r.t.Errorf("swept %+v, want a job", swept)
		}
		r.Relock(stale, "somebody")
		r.Age(stale, 5*time.Hour)
		end()
		swept := other.sweep()
		for tries := 0; !swept.Turn && tries < 100; tries++ { // the server notices later
			<-time.After(50 * time.Millisecond)
			swept = other.sweep()
		}
		if swept.Jobs != 1 {
			r.t.Errorf("another worker swept %+v, want a job", swept)
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
		r.Age(r.stale(), 5*time.Hour)
		r.listen()
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
		if err := other.store.Retire(r.ctx(), other.id); err != nil {
			r.t.Fatal(err)
		}
		if locks := r.sweep().Locks; len(locks) != 2 || !locks[0].Dead || locks[1].Dead {
			r.t.Errorf("locks of a worker that has stopped are %+v", locks)
		}
	},
}
