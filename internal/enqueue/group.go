package enqueue

import (
	"bytes"
	"slices"
	"sync"
	"time"

	"github.com/backfillhq/go/internal/wire"
)

// group lets a number of inserts run at a time, and folds the calls that come meanwhile into
// batches. A key is in one of its inserts at most, so that no two of them can deadlock.
type group struct {
	inserter Inserter
	nudger   *Nudger
	limits   Limits

	permits int // inserts at a time; those that take long, and those that are repeated, need none
	most    int // inserts at a time in all

	mu           sync.Mutex
	closed       bool
	calls        sync.WaitGroup
	busy         int // permits
	stopped      bool
	running      map[*insert]bool
	keys         map[string]bool // of the inserts that run, and of the calls that pause
	waiting      []*call
	repeatedLast bool // the last insert that began was a repeated one: new ones are first now
}

func newGroup(inserter Inserter, nudger *Nudger, permits, most int) *group {
	return &group{
		inserter: inserter, nudger: nudger, permits: permits, most: most,
		running: map[*insert]bool{}, keys: map[string]bool{},
	}
}

// insert is one that runs.
type insert struct {
	ctx    Context
	specs  []wire.Spec
	permit bool
	long   *time.Timer // gives the permit to others; nil if every insert can have one
}

// enter begins the insert of a call, or lets the call wait and returns nil.
func (g *group) enter(c *call) (*insert, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil, &wire.NotEnqueuedError{Err: ErrClosed}
	}
	g.calls.Add(1)
	if g.permitFreeLocked() && !g.collidesLocked(c.specs) {
		c.state = runningAlone
		return g.beginLocked(c.specs, true), nil
	}
	c.done = make(chan struct{})
	g.waiting = append(g.waiting, c)
	return nil, nil
}

// close refuses further calls and returns when there are none left.
func (g *group) close() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.calls.Wait()
}

// stop ends the inserts that run, and those that begin later.
func (g *group) stop() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stopped = true
	for started := range g.running {
		go started.ctx.End(ErrClosed) // its handler may be the application's
	}
}

// withdraw takes back a call that is not running, and returns its state.
func (g *group) withdraw(c *call) callState {
	g.mu.Lock()
	defer g.mu.Unlock()
	was := c.state
	c.leaving = true
	if was == runningAlone || was == runningInBatch {
		return was
	}
	c.state = left
	g.waiting = slices.DeleteFunc(g.waiting, func(w *call) bool { return w == c })
	if c.hasKeys {
		g.freeKeysLocked(c.specs)
		g.startLocked()
		return pausing
	}
	return was
}

// repeat ends an insert that was blocked, and begins it again after a pause. It reports false if
// its caller does not wait for that.
func (g *group) repeat(started *insert, c *call) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c.leaving {
		return false
	}
	g.endLocked(started)
	if c.done == nil {
		c.done = make(chan struct{})
	}
	c.state, c.hasKeys = pausing, true
	c.pause = min(max(2*c.pause, firstPause), longestPause)
	time.AfterFunc(c.pause, func() { g.wake(c) })
	g.startLocked()
	return true
}

// wake lets a call wait for its turn again.
func (g *group) wake(c *call) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c.state == pausing {
		c.state = waiting
		g.waiting = append(g.waiting, c)
		g.startLocked()
	}
}

// takeApart ends a batch of which nothing was inserted, and lets its calls wait to be inserted one
// by one, before all others.
func (g *group) takeApart(started *insert, batch []*call) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.endLocked(started)
	g.freeKeysLocked(started.specs)
	batch = slices.DeleteFunc(batch, func(c *call) bool { return c.leaving })
	for _, c := range batch {
		c.state, c.pause = waiting, firstPause
	}
	g.waiting = append(batch, g.waiting...)
	g.startLocked()
}

// end ends an insert, and begins those that it kept waiting.
func (g *group) end(started *insert) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.endLocked(started)
	g.freeKeysLocked(started.specs)
	g.startLocked()
}

func (g *group) beginLocked(specs []wire.Spec, permit bool) *insert {
	for i := range specs {
		if specs[i].Key != "" {
			g.keys[specs[i].Key] = true
		}
	}
	g.repeatedLast = !permit
	started := &insert{ctx: Context{done: make(chan struct{})}, specs: specs, permit: permit}
	g.running[started] = true
	if g.stopped {
		started.ctx.End(ErrClosed)
	}
	if permit {
		g.busy++
		if g.permits < g.most {
			started.long = time.AfterFunc(longInsert, func() { g.passPermitOn(started) })
		}
	}
	return started
}

func (g *group) endLocked(ended *insert) {
	delete(g.running, ended)
	g.freePermitLocked(ended)
}

// passPermitOn lets an insert that takes long go on without its permit.
func (g *group) passPermitOn(long *insert) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.freePermitLocked(long)
	g.startLocked()
}

func (g *group) freePermitLocked(i *insert) {
	if i.permit {
		i.permit = false
		g.busy--
	}
	if i.long != nil {
		i.long.Stop()
	}
}

func (g *group) freeKeysLocked(specs []wire.Spec) {
	for i := range specs {
		delete(g.keys, specs[i].Key)
	}
}

func (g *group) permitFreeLocked() bool { return g.busy < g.permits && len(g.running) < g.most }

func (g *group) collidesLocked(specs []wire.Spec) bool {
	return len(g.keys) > 0 && slices.ContainsFunc(specs, func(spec wire.Spec) bool { return g.keys[spec.Key] })
}

// startLocked begins what may begin. Calls to be repeated and new ones take turns in being first.
func (g *group) startLocked() {
	if !g.repeatedLast {
		g.startRepeatedLocked()
	}
	for g.permitFreeLocked() {
		batch := g.takeLocked()
		if len(batch) == 0 {
			break
		}
		g.startBatchLocked(batch)
	}
	g.startRepeatedLocked()
}

// startRepeatedLocked begins calls that were blocked, or whose batch was taken apart, each by
// itself. While only one insert has a permit, they leave room for it: they may be blocked again.
func (g *group) startRepeatedLocked() {
	limit := g.most
	if g.permits < g.most {
		limit--
	}
	g.waiting = slices.DeleteFunc(g.waiting, func(c *call) bool {
		if c.pause == 0 || len(g.running) >= limit || !c.hasKeys && g.collidesLocked(c.specs) {
			return false
		}
		c.state, c.hasKeys = runningAlone, false
		started := g.beginLocked(c.specs, false)
		go g.runAlone(started, c)
		return true
	})
}

func (g *group) startBatchLocked(batch []*call) {
	if len(batch) == 1 { // under its caller's own deadline, whatever its size
		batch[0].state = runningAlone
		go g.runAlone(g.beginLocked(batch[0].specs, true), batch[0])
		return
	}
	var specs []wire.Spec
	for _, c := range batch {
		c.state = runningInBatch
		for _, spec := range c.specs { // a copy: a caller that leaves may use its bytes again
			spec.Payload, spec.Flags = bytes.Clone(spec.Payload), slices.Clone(spec.Flags)
			specs = append(specs, spec)
		}
	}
	go g.runBatch(g.beginLocked(specs, true), batch)
}

// takeLocked takes the first calls that fit into a batch, but not those that wait for a key.
func (g *group) takeLocked() (batch []*call) {
	jobs, size, full := 0, 0, false
	g.waiting = slices.DeleteFunc(g.waiting, func(c *call) bool {
		if full || c.pause > 0 || g.collidesLocked(c.specs) {
			return false
		}
		for i := range c.specs {
			size += len(c.specs[i].Payload)
		}
		jobs += len(c.specs)
		full = jobs > foldJobs || size > foldBytes
		if full && len(batch) > 0 {
			return false
		}
		batch = append(batch, c)
		return true
	})
	return batch
}
