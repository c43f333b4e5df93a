package enqueue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/backfillhq/go/internal/wire"
)

const (
	// directInserts is how many callers insert at the same time, each on its own; more callers fold into batches (R25). Their
	// commits share the flush of the log, so ten on their own are faster than four and a batch: measured, docs/design.md.
	directInserts = 10
	// foldJobs and foldBytes bound a batch.
	foldJobs, foldBytes = 1000, 8 << 20
	// statementTimeout bounds a batch, and a notification: no caller waits for them by itself.
	statementTimeout = 10 * time.Second
	// longInsert is after what time keyed inserts go on beside others: longer than one takes that waits for nobody.
	longInsert = 50 * time.Millisecond
)

// Inserter inserts jobs, all or none, and returns them in the order of specs. It returns after the commit.
type Inserter interface {
	Insert(ctx context.Context, specs []wire.Spec) ([]*wire.Job, error)
	// InsertAndNotify inserts one job, if it can send the workers' notification right behind the insert, in a transaction of its
	// own on the same connection. If it cannot, ok is false and nothing was done. Otherwise it returns when the job is
	// committed or has failed, and calls notified, from another goroutine, when the notification is sent or lost.
	InsertAndNotify(ctx context.Context, spec wire.Spec, notified func()) (job *wire.Job, ok bool, err error)
}

// Intake takes enqueues of many callers to the database: each caller on its own while few insert, folded into batches when
// all connections are busy (R25). Keyed jobs have a lane of their own, with one insert at a time: their statements are several, and cost
// less in one transaction than beside each other. After each commit it nudges the workers (R17).
type Intake struct {
	free, keyed *lane
}

// NewIntake returns an intake with up to connections inserts of a kind at a time.
func NewIntake(inserter Inserter, connections int, nudger *Nudger) *Intake {
	most := max(1, min(connections, directInserts))
	return &Intake{
		free:  &lane{inserter: inserter, nudger: nudger, permits: most, most: most},
		keyed: &lane{inserter: inserter, nudger: nudger, permits: 1, most: most, keys: map[string]bool{}},
	}
}

// Insert inserts jobs, all or none, and returns them in the order of specs, after the commit.
func (i *Intake) Insert(ctx context.Context, specs []wire.Spec) ([]*wire.Job, error) {
	lane := i.free
	for _, spec := range specs {
		if spec.Key != "" {
			lane = i.keyed
		}
	}
	return lane.insert(ctx, specs)
}

// lane lets a number of inserts run at a time and folds the calls that come meanwhile. A key is in one of these inserts at most, so no
// two of them can deadlock. One that takes long, as it does while a transaction of somebody else's has the row of its key, goes on
// beside its successor: it must not keep up the calls with other keys, of which one may be made by that transaction's owner.
type lane struct {
	inserter Inserter
	nudger   *Nudger
	permits  int // for inserts that do not take long
	most     int // inserts in all

	mu      sync.Mutex
	busy    int // of the permits
	running int
	keys    map[string]bool // of the inserts that run
	waiting []*call
}

// turn is an insert that runs.
type turn struct {
	specs []wire.Spec
	long  *time.Timer // until it counts as one that takes long; nil in a lane where that makes no difference
}

// call is one caller that waits for a batch.
type call struct {
	specs []wire.Spec
	taken bool // by a batch: no longer the caller's to withdraw
	jobs  []*wire.Job
	err   error
	done  chan struct{}
}

func (l *lane) insert(ctx context.Context, specs []wire.Spec) ([]*wire.Job, error) {
	l.mu.Lock()
	if l.freeLocked() && !l.collidesLocked(specs) {
		turn := l.beginLocked(specs)
		l.mu.Unlock()
		defer l.end(turn)
		return l.insertDirectly(ctx, specs)
	}
	waiting := &call{specs: specs, done: make(chan struct{})}
	l.waiting = append(l.waiting, waiting)
	l.mu.Unlock()
	select {
	case <-waiting.done:
		return waiting.jobs, waiting.err
	case <-ctx.Done():
		return l.withdraw(ctx, waiting)
	}
}

// insertDirectly inserts one caller's jobs. While no notification is under way, a single job takes its own along.
func (l *lane) insertDirectly(ctx context.Context, specs []wire.Spec) ([]*wire.Job, error) {
	if len(specs) == 1 && l.nudger.ride() {
		job, ok, err := l.inserter.InsertAndNotify(ctx, specs[0], l.nudger.rode)
		switch {
		case err != nil:
			return nil, err
		case ok:
			return []*wire.Job{job}, nil
		}
		l.nudger.stayed()
	}
	return l.insertAndNudge(ctx, specs)
}

func (l *lane) insertAndNudge(ctx context.Context, specs []wire.Spec) ([]*wire.Job, error) {
	jobs, err := l.inserter.Insert(ctx, specs)
	if err != nil {
		return nil, err
	}
	l.nudger.Nudge(len(jobs))
	return jobs, nil
}

// withdraw takes back a call whose context has ended, unless a batch has it already.
func (l *lane) withdraw(ctx context.Context, gone *call) ([]*wire.Job, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-gone.done: // just in time
		return gone.jobs, gone.err
	default:
	}
	if gone.taken {
		return nil, fmt.Errorf("the jobs may or may not have been enqueued: %w", context.Cause(ctx))
	}
	l.waiting = slices.DeleteFunc(l.waiting, func(c *call) bool { return c == gone })
	return nil, fmt.Errorf("the jobs were not enqueued: %w", context.Cause(ctx))
}

func (l *lane) freeLocked() bool { return l.busy < l.permits && l.running < l.most }

func (l *lane) collidesLocked(specs []wire.Spec) bool {
	return slices.ContainsFunc(specs, func(spec wire.Spec) bool { return l.keys[spec.Key] })
}

func (l *lane) beginLocked(specs []wire.Spec) *turn {
	for _, spec := range specs {
		if spec.Key != "" {
			l.keys[spec.Key] = true
		}
	}
	l.busy++
	l.running++
	turn := &turn{specs: specs}
	if l.permits < l.most {
		turn.long = time.AfterFunc(longInsert, l.passOn)
	}
	return turn
}

// passOn gives the permit of an insert that takes long to those who wait.
func (l *lane) passOn() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.busy--
	l.foldLocked()
}

func (l *lane) end(ended *turn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, spec := range ended.specs {
		delete(l.keys, spec.Key)
	}
	l.running--
	if ended.long == nil || ended.long.Stop() {
		l.busy--
	}
	l.foldLocked()
}

// foldLocked begins a batch of those who wait.
func (l *lane) foldLocked() {
	if !l.freeLocked() {
		return
	}
	batch := l.takeLocked()
	if len(batch) == 0 {
		return
	}
	var specs []wire.Spec
	for _, c := range batch {
		specs = append(specs, c.specs...)
	}
	turn := l.beginLocked(specs)
	go func() {
		defer l.end(turn)
		l.flush(batch, specs)
	}()
}

// takeLocked takes the first calls that fit into a batch, but not those that wait for a key.
func (l *lane) takeLocked() (batch []*call) {
	jobs, bytes, full := 0, 0, false
	l.waiting = slices.DeleteFunc(l.waiting, func(waiting *call) bool {
		if full || l.collidesLocked(waiting.specs) {
			return false
		}
		for _, spec := range waiting.specs {
			bytes += len(spec.Payload)
		}
		jobs += len(waiting.specs)
		full = jobs > foldJobs || bytes > foldBytes
		waiting.taken = !full || len(batch) == 0
		if waiting.taken {
			batch = append(batch, waiting)
		}
		return waiting.taken
	})
	return batch
}

// flush inserts a batch under its own deadline, not under any caller's. If the database refuses it, each call is tried on its
// own, so that one bad request fails one caller; after any other error the outcome is unknown, and nothing is tried again.
func (l *lane) flush(batch []*call, specs []wire.Spec) {
	jobs, err := l.insertAlone(specs)
	var rejected *wire.RejectedError
	if len(batch) > 1 && errors.As(err, &rejected) {
		for _, c := range batch {
			c.jobs, c.err = l.insertAlone(c.specs)
			l.answer(c)
		}
		return
	}
	for _, c := range batch {
		if err != nil {
			c.err = err
		} else {
			c.jobs, jobs = jobs[:len(c.specs):len(c.specs)], jobs[len(c.specs):]
		}
		l.answer(c)
	}
}

func (l *lane) insertAlone(specs []wire.Spec) ([]*wire.Job, error) {
	ctx, cancel := context.WithTimeout(context.Background(), statementTimeout)
	defer cancel()
	return l.insertAndNudge(ctx, specs)
}

// answer hands the result to the caller, under the lock that withdraw takes.
func (l *lane) answer(c *call) {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(c.done)
}
