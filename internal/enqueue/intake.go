package enqueue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/backfillhq/go/internal/wire"
)

const (
	// directInserts is how many callers insert at the same time, each on its own; calls beyond
	// that are folded into batches (R25). Their commits share the flush of the log, so ten on
	// their own are faster than four and a batch: measured, docs/design.md.
	directInserts = 10
	// foldJobs and foldBytes bound a batch.
	foldJobs, foldBytes = 1000, 8 << 20
	// longInsert is how long a keyed insert keeps the others waiting. It goes on beside them then.
	longInsert = 50 * time.Millisecond
	// A call that another transaction blocks is tried again after a pause, which doubles each time.
	firstPause, longestPause = 25 * time.Millisecond, 200 * time.Millisecond
	// closeGrace is how long Close waits for the inserts under way.
	closeGrace = 5 * time.Second
)

// Inserter inserts jobs, all or none.
type Inserter interface {
	// Insert returns the jobs in the order of specs, after the commit. notified says that the
	// workers' notification was sent along; it is never, if notify is nil. If ctx has no deadline,
	// Insert ends it when the database does not answer.
	//
	// The type of an error says what became of the jobs: wire.RejectedError, wire.NotEnqueuedError
	// and wire.BlockedError say that none was inserted, any other that nobody knows.
	Insert(ctx *Context, specs []wire.Spec, notify Piggyback) (jobs []*wire.Job, notified bool, err error)
}

// Piggyback asks whether an insert may send the notification of workers on its own connection,
// right behind its commit. If so, it returns a function that is to be called when the notification
// was sent or lost; otherwise nil. An insert asks when it has a connection, just before it sends.
type Piggyback func() (done func())

// Intake takes enqueues of many callers to the database: each on its own while few insert, folded
// into batches when many do (R25). After each commit it nudges the workers (R17).
//
// Keyed jobs are inserted one call or batch at a time: their statements are several, and cost less
// in one transaction than beside each other. A call that takes long goes on beside its successors.
// One that would have to wait for a row which another transaction holds gives its connection back
// and is repeated, so that only its own caller waits (R16).
type Intake struct {
	free, keyed *group
}

// ErrClosed is the error of a call on a client that was closed.
var ErrClosed = errors.New("the client was closed: close it after its last use")

// NewIntake returns an intake for a pool of this many connections. Keyed jobs never take more than
// half of them: the transaction that an insert waits for may need one.
func NewIntake(inserter Inserter, connections int, nudger *Nudger) *Intake {
	most := max(1, min(connections, directInserts))
	half := max(1, min(connections/2, directInserts))
	return &Intake{free: newGroup(inserter, nudger, most, most), keyed: newGroup(inserter, nudger, 1, half)}
}

// Insert inserts jobs, all or none, and returns them in the order of specs, after the commit.
// Errors are those of Inserter.
func (i *Intake) Insert(ctx context.Context, specs []wire.Spec) ([]*wire.Job, error) {
	for _, spec := range specs {
		if spec.Key != "" {
			return i.keyed.insert(ctx, specs)
		}
	}
	return i.free.insert(ctx, specs)
}

// Close refuses further calls, waits for those under way, and ends what takes longer than
// closeGrace.
func (i *Intake) Close() {
	timer := time.AfterFunc(closeGrace, func() {
		i.free.stop()
		i.keyed.stop()
	})
	defer timer.Stop()
	i.free.close()
	i.keyed.close()
}

// call is one call of Insert.
type call struct {
	specs []wire.Spec
	ctx   context.Context //nolint:containedctx // its caller's, for as long as that waits

	// Under the lock of the group:
	state   callState
	pause   time.Duration // the next one; 0: the call may be folded into a batch
	hasKeys bool          // while it is not running
	leaving bool          // its context has ended

	done chan struct{} // closed when jobs and err are set; nil as long as nobody waits for that
	jobs []*wire.Job
	err  error
}

type callState int

const (
	waiting callState = iota
	runningAlone
	runningInBatch
	pausing // after another transaction blocked it; its keys are still taken
	left    // its caller is gone
)

func (g *group) insert(ctx context.Context, specs []wire.Spec) ([]*wire.Job, error) {
	c := &call{specs: specs, ctx: ctx}
	started, err := g.enter(c)
	if err != nil {
		return nil, err
	}
	defer g.calls.Done()
	if started != nil && g.runAlone(started, c) {
		return c.jobs, c.err
	}
	select {
	case <-c.done:
		return c.jobs, c.err
	case <-ctx.Done():
		return g.leave(ctx, c)
	}
}

// errExit is the outcome of an insert that has not returned.
var errExit = &wire.UnknownError{Err: errors.New("a function of the pool's configuration ended its goroutine (runtime.Goexit)")}

// insertNow inserts, and has the workers notified. A single job takes the notification along. A
// panic in a function of the application's pool, such as a tracer, is an error of the calls.
func (g *group) insertNow(ctx context.Context, started *insert) (jobs []*wire.Job, err error) {
	defer func() {
		if value := recover(); value != nil {
			jobs, err = nil, &wire.UnknownError{Err: fmt.Errorf("a function of the pool's configuration: panic: %v", value)}
		}
	}()
	started.ctx.enter(ctx, &g.limits)
	defer started.ctx.Leave()
	var notify Piggyback
	if len(started.specs) == 1 {
		notify = g.nudger.Piggyback
	}
	jobs, notified, err := g.inserter.Insert(&started.ctx, started.specs, notify)
	if err != nil {
		return nil, err
	}
	if !notified {
		g.nudger.Nudge(len(jobs))
	}
	return jobs, nil
}

// runAlone inserts a call by itself. If another transaction blocks it, it gives up its connection
// and is repeated: then runAlone reports false.
func (g *group) runAlone(started *insert, c *call) (done bool) {
	var jobs []*wire.Job
	var err error = errExit
	defer func() { // also when the goroutine ends
		if _, blocked := errors.AsType[*wire.BlockedError](err); blocked && g.repeat(started, c) {
			return
		}
		g.end(started)
		c.jobs, c.err = jobs, err
		if done = true; c.done != nil {
			close(c.done)
		}
	}()
	jobs, err = g.insertNow(c.ctx, started)
	return false
}

// runBatch inserts several calls at once, under no caller's context. If the server refuses that, or
// another transaction blocks it, nothing was inserted, and each call is inserted by itself: what is
// wrong with one must not harm the others. After any other error nothing is sent again.
func (g *group) runBatch(started *insert, batch []*call) {
	var jobs []*wire.Job
	var err error = errExit
	defer func() { g.endBatch(started, batch, jobs, err) }() // also when the goroutine ends
	jobs, err = g.insertNow(context.Background(), started)
}

func (g *group) endBatch(started *insert, batch []*call, jobs []*wire.Job, err error) {
	_, rejected := errors.AsType[*wire.RejectedError](err)
	_, blocked := errors.AsType[*wire.BlockedError](err)
	if rejected || blocked {
		g.takeApart(started, batch)
		return
	}
	g.end(started)
	for _, c := range batch {
		if c.err = err; err == nil {
			c.jobs, jobs = jobs[:len(c.specs):len(c.specs)], jobs[len(c.specs):]
		}
		close(c.done)
	}
}

// leave returns to a caller whose context has ended. A call that runs by itself ends with it.
func (g *group) leave(ctx context.Context, c *call) ([]*wire.Job, error) {
	switch g.withdraw(c) {
	case runningInBatch:
		return nil, &wire.UnknownError{Err: context.Cause(ctx)}
	case runningAlone:
		<-c.done
		if _, blocked := errors.AsType[*wire.BlockedError](c.err); blocked {
			return nil, &wire.NotEnqueuedError{Err: fmt.Errorf("%w: %w", context.Cause(ctx), c.err)}
		}
		return c.jobs, c.err
	case pausing:
		return nil, &wire.NotEnqueuedError{Err: fmt.Errorf("%w: another transaction holds a key, or adds a name, of these jobs",
			context.Cause(ctx))}
	default:
		return nil, &wire.NotEnqueuedError{Err: context.Cause(ctx)}
	}
}
