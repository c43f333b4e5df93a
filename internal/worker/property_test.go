package worker_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// chaos is a seeded schedule of what goes wrong, until it is over.
type chaos struct {
	mu     sync.Mutex
	random *rand.Rand
	over   bool
	done   map[int64]bool // jobs that a handler has completed
	// requested are the leases under which jobs were locked when their end was requested: "", by
	// nobody.
	requested map[int64]string
	ran       []wire.Lease // that handlers have started under since
}

// cancel requests the end of a job, as Client.Cancel does. There may be no notification.
func (c *chaos) cancel(db *fakeDB, id int64) {
	db.mu.Lock()
	if job := db.jobs[id]; job != nil && !db.requested(job) {
		c.mu.Lock()
		c.requested[id] = job.LockedBy
		c.mu.Unlock()
		db.requests[id] = because
	}
	db.mu.Unlock()
	if c.happens(0.5) {
		db.notify(worker.Notification{Kind: worker.NotifyCancel})
	}
}

// starts notes a start of a job whose end was requested before.
func (c *chaos) starts(job *wire.Job) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, requested := c.requested[job.ID]; requested {
		c.ran = append(c.ran, job.Lease)
	}
}

// happens is true with a probability.
func (c *chaos) happens(probability float64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.over && c.random.Float64() < probability
}

func (c *chaos) intN(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.random.IntN(n)
}

func (c *chaos) upTo(d time.Duration) time.Duration { return time.Duration(c.intN(int(d) + 1)) }

// handle is a job's handler: it ends in any way, after any time, and whether or not it obeys its
// context.
func (c *chaos) handle(ctx context.Context, job *wire.Job) worker.Outcome {
	c.starts(job)
	d := c.upTo(20 * time.Millisecond)
	if c.happens(0.1) {
		d *= 30
	}
	if c.happens(0.5) {
		ctx = context.WithoutCancel(ctx)
	}
	if err := wait(ctx, d); err != nil {
		return worker.Outcome{Kind: worker.OutcomeReturned, Err: err}
	}
	switch {
	case c.happens(0.1):
		return worker.Outcome{Kind: worker.OutcomeFailed, Text: "no", Delay: c.upTo(2 * time.Second)}
	case c.happens(0.05):
		return worker.Outcome{Kind: worker.OutcomeSnoozed, Delay: c.upTo(time.Second)}
	case c.happens(0.02):
		return worker.Outcome{Kind: worker.OutcomeExhausted, Text: "never"}
	case c.happens(0.03):
		runtime.Goexit() // recorded as a failure by the rig
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done[job.ID] = true
	return completed
}

// trouble makes statements slow, or fail before or after they take effect.
func (c *chaos) trouble(s *setup) {
	s.Concurrency = 1 + c.intN(5)
	s.DrainTimeout, s.CancelTimeout = c.upTo(time.Second), c.upTo(100*time.Millisecond)
	for _, op := range []string{opClaim, opComplete, opFail, opRelease, opRequested} {
		s.latency[op] = c.upTo(5 * time.Millisecond)
	}
	fail := func(op string) error {
		if op != opRetire && op != opRegister && op != opSchema && c.happens(0.03) { // CheckSchema reports no trouble
			return errors.New("trouble with " + op)
		}
		return nil
	}
	s.before, s.after = fail, fail
}

// interfere does something to the database behind the workers' backs.
func (c *chaos) interfere(db *fakeDB, rigs []*rig) {
	id := int64(1 + c.intN(int(db.lastID)))
	switch c.intN(14) {
	case 0, 1:
		db.insert(1+c.intN(20), wire.Job{Queue: c.queue(), Priority: int16(c.intN(3))}) //nolint:gosec // small
	case 2:
		db.add(1+c.intN(5), wire.Job{Queue: c.queue(), RunAt: time.Now().Add(c.upTo(3 * time.Second))})
	case 3:
		db.breakListeners(errors.New("connection reset"))
	case 4, 5:
		db.update(id, func(job *fakeJob) { job.Busy = true })
		time.AfterFunc(c.upTo(500*time.Millisecond), func() { db.update(id, func(job *fakeJob) { job.Busy = false }) })
	case 6, 7:
		db.unlock(id)
	case 8:
		db.kill(rigs[c.intN(len(rigs))].worker.Health().WorkerID)
		time.AfterFunc(c.upTo(time.Second), db.rescue)
	case 9:
		queue := c.queue()
		db.hold(queue, true)
		time.AfterFunc(c.upTo(20*time.Millisecond), func() { db.hold(queue, false) })
	case 10:
		db.notify(worker.Notification{Kind: worker.NotifyJobs})
	case 11:
		c.intN(1) // a quiet moment
	case 12, 13:
		c.cancel(db, id)
	}
}

func (c *chaos) queue() string { return []string{"", "", "a", "b", "c", "d"}[c.intN(6)] }

// hold locks a queue's row for a moment, or ends that.
func (db *fakeDB) hold(queue string, held bool) {
	db.mu.Lock()
	defer db.mu.Unlock()
	if q := db.queues[queue]; q != nil {
		q.Held = held
	}
}

// settled reports whether every job that is left has used its attempts, and nothing is locked.
func (db *fakeDB) settled() bool {
	db.mu.Lock()
	defer db.mu.Unlock()
	for _, job := range db.jobs {
		if job.LockedBy != "" || job.Attempt < job.MaxAttempts {
			return false
		}
	}
	for _, queue := range db.queues {
		if queue.LockedBy != "" {
			return false
		}
	}
	return true
}

// Whatever goes wrong: no job is lost, none is run by two leases at a time, no queue's jobs
// overlap, no token is used twice (the fake database checks these), and everything settles and
// stops. A job whose end was requested starts under no later lease, and is gone in the end.
func TestAnyScheduleSettles(t *testing.T) {
	t.Parallel()
	for seed := range uint64(40) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { anySchedule(t, seed) })
		})
	}
}

func anySchedule(t *testing.T, seed uint64) {
	t.Helper()
	c := &chaos{random: rand.New(rand.NewPCG(seed, 0)), done: make(map[int64]bool), requested: make(map[int64]string)} //nolint:gosec // a test's schedule
	db := newDB(t)
	for range 20 {
		db.add(1+c.intN(5), wire.Job{Queue: c.queue(), Priority: int16(c.intN(3))}) //nolint:gosec // small
	}
	var rigs []*rig
	for range 1 + c.intN(3) {
		rigs = append(rigs, newRig(t, db, c.handle, c.trouble))
	}
	for range 60 {
		rigs[0].pass(c.upTo(50 * time.Millisecond))
		c.interfere(db, rigs)
		if c.happens(0.03) { // one stops, and another one starts
			i := c.intN(len(rigs))
			if err := rigs[i].stop(); err != nil {
				t.Errorf("Run: %v", err)
			}
			rigs[i] = newRig(t, db, c.handle, c.trouble)
		}
	}
	c.mu.Lock()
	c.over = true
	c.mu.Unlock()
	db.rescue()
	for range 60 {
		if rigs[0].pass(time.Second); db.settled() {
			break
		}
	}
	if !db.settled() {
		t.Error("jobs are left that are not exhausted, or locked")
	}
	for _, r := range rigs {
		if err := r.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
		if h := r.worker.Health(); h.Running+h.Buffered+h.Unrecorded > 0 {
			t.Errorf("a stopped worker has %+v", h)
		}
	}
	for id, n := range db.completed {
		if n > 1 || !c.done[id] {
			t.Errorf("job %d was completed %d times, by a handler: %v", id, n, c.done[id])
		}
	}
	for _, lease := range c.ran {
		if lease.Token != c.requested[lease.ID] {
			t.Errorf("job %d has started under %s, after its end was requested under %q", lease.ID, lease.Token, c.requested[lease.ID])
		}
	}
	for id := range c.requested {
		if db.canceled[id] != 1 || db.completed[id] > 0 || db.buried(id) || db.jobs[id] != nil {
			t.Errorf("job %d, whose end was requested, was cancelled %d times and completed %d times, is a dead letter: %v, and is left as %+v",
				id, db.canceled[id], db.completed[id], db.buried(id), db.jobs[id])
		}
	}
	if jobs := len(db.jobs) + len(db.completed) + len(db.canceled) + len(db.letters); jobs != int(db.lastID) {
		t.Errorf("%d of %d jobs are accounted for", jobs, db.lastID)
	}
}
