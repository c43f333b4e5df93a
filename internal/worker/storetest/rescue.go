package storetest

import (
	"slices"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// Heartbeats, and what becomes of a dead worker's jobs.
var rescueCases = map[string]func(*rig){
	"a heartbeat is seen by the others": func(r *rig) {
		other, locks := r.other(), !r.store.Sessions().Pooled
		if seen := other.sees(r); seen.Beats != 0 || seen.Dead || seen.Rescued {
			r.t.Errorf("before its first heartbeat the worker is seen as %+v", seen)
		}
		for number := int64(1); number <= 3; number++ {
			answer := r.beat(worker.Beat{Write: true, Number: number})
			if !answer.Alive || answer.Locked != locks {
				r.t.Errorf("heartbeat %d is answered by %+v", number, answer)
			}
			if seen := other.sees(r); seen.Beats != number || seen.Locked != locks || seen.Dead {
				r.t.Errorf("after heartbeat %d the worker is seen as %+v", number, seen)
			}
		}
		r.beat(worker.Beat{Number: 4})
		if seen := other.sees(r); seen.Beats != 3 {
			r.t.Errorf("after a look at the others the worker is seen as %+v", seen)
		}
	},
	"a worker whose row is marked dead, or gone, is told so": func(r *rig) {
		for what, change := range map[string]func(*rig){
			"retired":  func(other *rig) { other.retire() },
			"declared": func(other *rig) { r.declare(other) },
			"deleted":  func(other *rig) { r.Forget(other.id) },
		} {
			for _, write := range []bool{true, false} {
				other := r.other()
				change(other)
				if answer := other.beat(worker.Beat{Write: write, Number: 1}); answer.Alive {
					r.t.Errorf("%s: it is alive (write %v)", what, write)
				}
			}
		}
	},
	"a session lock is held for as long as the session of the heartbeats lasts": func(r *rig) {
		other := r.other()
		locks := !r.store.Sessions().Pooled // else no lock is known to be free
		other.unlocked(r, locks)            // before the first heartbeat
		first := r.beat(worker.Beat{Write: true, Number: 1})
		other.unlocked(r, false)
		again := r.beat(worker.Beat{Write: true, Number: 2})
		if again.Session != first.Session {
			r.t.Errorf("the session changed from %d to %d", first.Session, again.Session)
		}
		r.EndSession(r.store)
		other.unlocked(r, locks)
		fresh := r.beat(worker.Beat{Write: true, Number: 3})
		if !fresh.Alive || fresh.Session == first.Session {
			r.t.Errorf("the heartbeat over a new session is answered by %+v", fresh)
		}
		other.unlocked(r, false)
	},
	"a worker is declared dead by its number of heartbeats": func(r *rig) {
		other := r.other()
		r.beat(worker.Beat{Write: true, Number: 7})
		other.declareAt(r, 6, false)
		other.declareAt(r, 7, true)
		other.declareAt(r, 7, false) // it is dead already
		r.Forget(r.id)
		other.declareAt(r, 7, false)
	},
	"what a living worker has locked is not rescued": func(r *rig) {
		id := r.add(wire.Job{Queue: "q"})
		job := r.only()
		rescued := r.other().rescue(r)
		if len(rescued.Jobs)+rescued.Queues+len(rescued.Settled) > 0 {
			r.t.Errorf("rescued %+v", rescued)
		}
		r.row(id, &Row{Attempts: 1, LockedBy: job.Token})
		r.kinds("complete", r.complete(job), worker.FateRecorded)
	},
	"jobs and queues of a dead worker are released": func(r *rig) {
		for what, die := range map[string]func(*rig){
			"declared dead": func(r *rig) { r.other().declare(r) }, "without a row": func(r *rig) { r.Forget(r.id) },
		} {
			r.releases(what, die)
		}
	},
	"what a peer has changed meanwhile holds": func(r *rig) {
		superseded, removed, last := r.add(wire.Job{Key: "k"}), r.add(wire.Job{Key: "l"}), r.add(wire.Job{MaxAttempts: 4, Attempt: 3})
		reset := r.add(wire.Job{Attempt: 3})
		r.claim(4)
		r.Supersede(superseded)
		r.Remove(removed)
		r.Change(reset, 0, time.Now().Add(-time.Minute))
		other := r.other()
		other.declare(r)
		other.rescue(r)
		r.row(superseded, nil)
		r.row(removed, nil)
		r.row(last, &Row{MaxAttempts: 4, Attempts: 3})
		r.row(reset, &Row{})
	},
	"a job with one attempt in all has had it": func(r *rig) {
		only := r.add(wire.Job{MaxAttempts: 1, Key: "k", Queue: "q"})
		r.only()
		other := r.other()
		other.declare(r)
		rescued := other.rescue(r)
		if len(rescued.Jobs) > 0 || len(rescued.Dead) != 1 || rescued.Dead[0].ID != only || rescued.Queues != 1 {
			r.t.Errorf("rescued %+v", rescued)
		}
		r.letter(only, Letter{Attempts: 1, MaxAttempts: 1, Reason: worker.ReasonCrashed, LastError: worker.ErrCrashed.Error(), Queue: "q", Key: "k"})
		other.none()
	},
	"a row that somebody has locked is rescued later": func(r *rig) {
		busy, held, free := r.add(wire.Job{Queue: "q"}), r.add(wire.Job{Queue: "p"}), r.add(wire.Job{})
		r.claim(3)
		other := r.other()
		other.declare(r)
		unlockJob, unlockQueue := r.LockJob(busy), r.LockQueue("p")
		for range 2 {
			if rescued := other.rescue(r); len(rescued.Settled) != 0 || rescued.Queues != 0 {
				r.t.Errorf("rescued %+v", rescued)
			}
		}
		r.row(held, &Row{})
		r.row(free, &Row{})
		unlockJob()
		unlockQueue()
		rescued := other.rescue(r)
		if len(rescued.Jobs) != 1 || rescued.Queues != 2 || len(rescued.Settled) != 1 {
			r.t.Errorf("then rescued %+v", rescued)
		}
		r.row(busy, &Row{})
		if seen := other.sees(r); !seen.Dead || !seen.Rescued {
			r.t.Errorf("the worker is seen as %+v", seen)
		}
	},
	"a job that the database refuses to change keeps no other locked": func(r *rig) {
		var ids []int64
		for range 9 {
			ids = append(ids, r.add(wire.Job{}))
		}
		r.claim(9)
		r.Refuse(ids[4])
		other := r.other()
		other.declare(r)
		rescued, err := other.store.Rescue(r.ctx(), rescueOf(r.id))
		if err == nil || len(rescued.Jobs) != 8 || len(rescued.Settled) != 0 {
			r.t.Errorf("rescued %+v, %v", rescued, err)
		}
		for i, id := range ids {
			if row, _ := r.Job(id); (row.LockedBy == "") != (i != 4) {
				r.t.Errorf("job %d of 9 is locked by %q", i, row.LockedBy)
			}
		}
	},
	"nobody else's locks are rescued": func(r *rig) {
		tokens := map[int64]string{}
		for _, lockedBy := range []string{"node", r.id, r.id + ".x", r.id + "0.1.1", r.id + ".1.1 or more", "x" + r.id + ".1.1"} {
			id := r.add(wire.Job{Attempt: 1})
			r.Relock(id, lockedBy)
			tokens[id] = lockedBy
		}
		other := r.other()
		living := other.add(wire.Job{})
		tokens[living] = other.only().Token
		r.Forget(r.id)
		if rescued := other.rescue(r); len(rescued.Jobs) > 0 {
			r.t.Errorf("rescued %d jobs", len(rescued.Jobs))
		}
		for id, lockedBy := range tokens {
			r.row(id, &Row{Attempts: 1, LockedBy: lockedBy})
		}
	},
	"whose row is gone is known by what is locked": func(r *rig) {
		forgotten, queue, living := r.other(), r.other(), r.other()
		for name, worker := range map[string]*rig{"": forgotten, "q": queue, "p": living} {
			worker.add(wire.Job{Queue: name})
			worker.only()
		}
		for _, lockedBy := range []string{"node", wire.NewWorkerID(), r.id + ".x"} {
			r.Relock(r.add(wire.Job{}), lockedBy)
		}
		r.unowned()
		r.Forget(forgotten.id)
		r.Forget(queue.id)
		r.unowned(forgotten.id, queue.id)
		r.rescue(forgotten)
		r.unowned(queue.id)
	},
	"heartbeats say which server answers": func(r *rig) {
		first, other := r.beat(worker.Beat{Write: true, Number: 1}), r.other().beat(worker.Beat{})
		if first.Server == 0 || other.Server != first.Server {
			r.t.Errorf("two workers are answered by the servers %d and %d", first.Server, other.Server)
		}
	},
	"a worker that comes back after it was declared dead ends no lease": func(r *rig) {
		r.each(func(name string, end func(...*wire.Job) []worker.Fate) {
			id := r.add(wire.Job{Queue: name})
			zombie := r.other()
			old := zombie.only()
			r.declare(zombie)
			r.rescue(zombie)
			fresh := r.only()
			r.kinds(name, zombie.endings()[name](old), worker.FateLost)
			r.row(id, &Row{Attempts: 1, LockedBy: fresh.Token})
			if by := r.QueueLock(name); by != claimOf(fresh) {
				r.t.Errorf("%s: the queue is locked by %q, want %q", name, by, claimOf(fresh))
			}
			r.kinds(name, end(fresh), worker.FateRecorded)
			r.Delete(id)
		})
	},
}

// releases has a worker die with jobs of each kind, and checks what becomes of them.
func (r *rig) releases(what string, die func(*rig)) {
	r.t.Helper()
	dead := r.other()
	id, first := dead.add(wire.Job{Attempt: 2, Key: what}), dead.add(wire.Job{Queue: what, Priority: 5})
	behind := dead.add(wire.Job{Queue: what, Priority: 5, RunAt: time.Now().Add(-30 * time.Second)})
	if n := len(dead.claim(2)); n != 2 {
		r.t.Fatalf("%s: claimed %d jobs, want 2", what, n)
	}
	die(dead)
	rescued := r.rescue(dead)
	slices.SortFunc(rescued.Jobs, wire.CompareJobs)
	if len(rescued.Jobs) != 2 || rescued.Queues != 1 {
		r.t.Fatalf("%s: rescued %+v", what, rescued)
	}
	for i, want := range []wire.Job{{Key: what, Attempt: 3}, {Queue: what, Attempt: 1}} {
		job := rescued.Jobs[i]
		if job.Key != want.Key || job.Queue != want.Queue || job.Attempt != want.Attempt || job.Task != "a" || job.MaxAttempts != 25 {
			r.t.Errorf("%s: rescued job %+v, want %+v", what, job, want)
		}
	}
	if diff := cmp.Diff([]string{dead.id}, rescued.Settled); diff != "" {
		r.t.Errorf("%s: settled (-want +got):\n%s", what, diff)
	}
	r.row(id, &Row{Attempts: 2})
	r.row(first, &Row{})
	r.free(what)
	if again := r.rescue(dead); len(again.Jobs)+again.Queues > 0 {
		r.t.Errorf("%s: then rescued %+v", what, again)
	}
	r.ids(what+", the queue's first", r.claim(2), id, first) // before the one behind it
	r.Delete(id)
	r.Delete(first)
	r.Delete(behind)
}

func (r *rig) beat(beat worker.Beat) worker.Beaten {
	r.t.Helper()
	beat.WorkerID = r.id
	answer, err := r.store.Beat(r.ctx(), beat)
	if err != nil {
		r.t.Fatal(err)
	}
	return answer
}

// sees returns what a worker reads of another.
func (r *rig) sees(other *rig) worker.Peer {
	r.t.Helper()
	for _, peer := range r.beat(worker.Beat{}).Peers {
		if peer.ID == other.id {
			return peer
		}
	}
	r.t.Fatalf("worker %s does not see %s", r.id, other.id)
	return worker.Peer{}
}

// unlocked checks whether the session lock of another worker is free.
func (r *rig) unlocked(other *rig, want bool) {
	r.t.Helper()
	peer := r.sees(other)
	// The server needs a moment to end a session.
	for range 100 {
		free, err := r.store.Unlocked(r.ctx(), []worker.Peer{peer})
		if err != nil {
			r.t.Fatal(err)
		}
		if (len(free) == 1) == want {
			return
		}
		<-time.After(20 * time.Millisecond)
	}
	r.t.Errorf("the session lock is not free: want %v", want)
}

func (r *rig) declare(other *rig) {
	r.t.Helper()
	r.declareAt(other, r.sees(other).Beats, true)
}

func (r *rig) declareAt(other *rig, beats int64, want bool) {
	r.t.Helper()
	dead, err := r.store.Declare(r.ctx(), other.id, beats)
	if err != nil {
		r.t.Fatal(err)
	}
	if dead != want {
		r.t.Errorf("declared dead at %d beats: %v, want %v", beats, dead, want)
	}
}

func (r *rig) rescue(other *rig) worker.Rescued {
	r.t.Helper()
	rescued, err := r.store.Rescue(r.ctx(), rescueOf(other.id))
	if err != nil {
		r.t.Fatal(err)
	}
	return rescued
}

// unowned checks which workers have something locked and no row.
func (r *rig) unowned(want ...string) {
	r.t.Helper()
	ids, err := r.store.Unowned(r.ctx())
	if err != nil {
		r.t.Fatal(err)
	}
	slices.Sort(ids)
	slices.Sort(want)
	if !slices.Equal(ids, want) {
		r.t.Errorf("without a row have something locked %q, want %q", ids, want)
	}
}

func (r *rig) retire() {
	r.t.Helper()
	if err := r.store.Retire(r.ctx(), r.id, false); err != nil {
		r.t.Fatal(err)
	}
}

func rescueOf(ids ...string) worker.RescueRequest {
	return worker.RescueRequest{IDs: ids, Settle: settle}
}

// settle is how late a heartbeat tells of a death.
const settle = 150 * time.Millisecond
