package worker

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"
)

// maxRunning is how many of the jobs that run a heartbeat names.
const maxRunning = 1000

// beatTimeout bounds a heartbeat with what it reads. The Store gives each connection less.
const beatTimeout = 8 * time.Second

// Beat is a heartbeat. It says what a worker does.
type Beat struct {
	WorkerID  string
	Write     bool  // else it only reads the rows of the others
	Number    int64 // counts the heartbeats of this id
	Running   []int64
	Forbidden []string
	Stopping  bool // the worker was told to stop: that it ends is no crash
	Emptying  bool // it claims nothing, to try suspects
}

// Beaten is the answer to a heartbeat.
type Beaten struct {
	Alive   bool // false: the worker's row is gone or marked dead
	Locked  bool // the row says that the session lock was taken; after an error: it may say so
	Session int  // changes with each new session
	// Server changes when the server restarts, or another one takes its place, whatever a pooler makes
	// of that; 0: not known.
	Server  int64
	Crashes bool // something is known of crashes: there may be suspects
	Peers   []Peer
}

// beat keeps the worker's row alive, and watches those of the others, until ctx ends. It goes on
// while the worker drains: what still runs and what is not recorded yet has to be told from what a
// dead worker has left.
func (w *Worker) beat(ctx context.Context) {
	started := time.Now()
	if w.config.Once && !sleep(ctx, w.times.queuedBeat) { // most of such runs have ended by then
		return
	}
	for {
		w.turns.note(loopHeartbeats)
		wait := w.beatOnce(ctx)
		if !w.config.Once && time.Since(started) < w.times.startFor {
			wait = min(wait, w.times.start) // for what the process before this one has left (R29)
		}
		select {
		case <-ctx.Done():
			return
		case <-w.pulse:
		case <-time.After(wait):
		}
	}
}

// beatOnce sends one heartbeat, and acts on what it reads. It returns when the next one is due.
func (w *Worker) beatOnce(ctx context.Context) time.Duration {
	var beat Beat
	registered := false
	sent := w.config.Moment()
	w.on(func(c *core, _ time.Time) actions {
		beat, registered = c.beat(w.times, !w.toldAt.IsZero(), sent)
		return actions{}
	})
	if !registered {
		return w.times.retry // its row is being made
	}
	statements, cancel := WithPatience(ctx, beatTimeout)
	defer cancel()
	answer, err := w.store.Beat(statements, beat)
	if err != nil {
		if ctx.Err() == nil {
			w.observer.gap()
			w.on(func(c *core, _ time.Time) actions { return c.unanswered(beat, answer) })
			w.aside(func() { w.troubles.beats.Failure(w.config.Logger, err, slog.String("worker_id", beat.WorkerID)) })
		}
		return w.times.retry
	}
	w.aside(func() { w.troubles.beats.Success(w.config.Logger) })
	w.notice(answer.Server)
	if !answer.Alive {
		w.declaredDead(beat.WorkerID)
		return w.times.retry
	}
	again, received := false, w.config.Moment()
	w.on(func(c *core, _ time.Time) (do actions) {
		w.crashes = answer.Crashes
		again, do = c.acknowledged(w.times, beat, answer, sent, received)
		return do
	})
	if again {
		w.aside(func() {
			w.config.Logger.LogAttrs(context.WithoutCancel(ctx), slog.LevelInfo, "heartbeats are acknowledged again",
				slog.String("worker_id", beat.WorkerID))
		})
	}
	w.observer.read(answer.Session, answer.Peers, received)
	signal(w.looks)
	if w.observer.waits() {
		return w.times.look
	}
	return w.times.queuedBeat
}

var errNewServer = errors.New("after a fail-over to a standby that was behind, outcomes and claims may be undone: they are looked for")

// notice starts over what was learnt from another server. A worker whose connections end at a
// pooler may hear of a fail-over in no other way.
func (w *Worker) notice(server int64) {
	before := w.server
	if server == 0 || server == before {
		return
	}
	w.server = server
	if before == 0 {
		return
	}
	w.observer.gap()
	w.on(func(c *core, now time.Time) actions {
		c.doubts.connectionLost(c.id, now)
		return actions{dispatch: true}
	})
	w.aside(func() { w.troubles.server.Failure(w.config.Logger, errNewServer) })
}

// beat returns the next heartbeat, and whether the worker has a row for it.
func (c *core) beat(times leaseTimes, told bool, now Moment) (beat Beat, registered bool) {
	queued := false
	for _, l := range c.leases.in[leaseRunning] {
		queued = queued || l.QueueID != 0
	}
	every := times.beat
	if queued {
		every = times.queuedBeat
	}
	c.beats++
	stopping := told || c.state != StateRunning
	const slack = 2 // a tick that comes a little early is this one's, not the next one's
	beat = Beat{
		WorkerID: c.id, Number: c.beats, Stopping: stopping, Emptying: c.trials.emptying,
		Write: stopping != c.saidStopping || c.trials.emptying != c.saidEmptying || c.lastBeat.ago(now) >= every-times.queuedBeat/slack,
	}
	if !beat.Write {
		return beat, c.registered
	}
	beat.Forbidden = c.forbidden
	running := slices.Clone(c.leases.in[leaseRunning])
	slices.SortFunc(running, func(a, b *lease) int {
		return cmp.Or(a.since.Compare(b.since), cmp.Compare(a.ID, b.ID))
	})
	beat.Running = make([]int64, min(len(running), maxRunning))
	for i := range beat.Running {
		beat.Running[i] = running[i].ID
	}
	return beat, c.registered
}

// acknowledged takes the answer to a heartbeat. It reports whether that ends a silence: an answer
// that has taken longer than the fence, as when the machine slept meanwhile, does not.
func (c *core) acknowledged(times leaseTimes, beat Beat, answer Beaten, sent, now Moment) (again bool, do actions) {
	if beat.WorkerID != c.id || !beat.Write {
		return false, do
	}
	c.lastBeat, c.sessionLocked = sent, answer.Locked
	c.saidStopping, c.saidEmptying = beat.Stopping, beat.Emptying
	if again = c.silent && sent.ago(now) < c.fenceAfter(times); again {
		c.silent, do.dispatch = false, true
	}
	return again, do
}

// unanswered takes that a heartbeat has got no answer: it may be in the row all the same, and
// others judge by what the row says.
func (c *core) unanswered(beat Beat, sent Beaten) (do actions) {
	if beat.WorkerID == c.id && beat.Write {
		c.sessionLocked = c.sessionLocked || sent.Locked
	}
	return do
}

// fenceAfter returns how long a worker may go on without an acknowledged heartbeat.
func (c *core) fenceAfter(times leaseTimes) time.Duration {
	if c.sessionLocked {
		return times.lockedFence
	}
	return times.fence
}

// overdue reports whether the fence is to fall: no heartbeat was acknowledged for as long as that,
// by clocks that also count a sleep of the machine.
func (c *core) overdue(times leaseTimes, now Moment) bool {
	return !c.silent && c.registered && c.lastBeat.ago(now) >= c.fenceAfter(times)
}

// fall notes that no heartbeat was acknowledged for so long that others may soon take this worker's
// jobs. Only a lease keeps a queue's jobs from running side by side, so their handlers are
// cancelled, and each is given back when its handler has ended (R34). Other jobs go on: they must
// bear a second run beside the first in any case; and transactional ones, which cannot commit once
// somebody else has the lease.
func (c *core) fall(times leaseTimes, now Moment) (jobs int, do actions) {
	if !c.overdue(times, now) {
		return 0, do
	}
	c.silent = true
	do = c.giveBack(c.buffer.takeQueued(), now.At)
	for _, l := range c.leases.in[leaseRunning] {
		if l.QueueID != 0 && !c.connected.has(l) {
			l.lost = true
			do.cancel = append(do.cancel, cancellation{l.cancel, ErrLeaseLost})
		}
	}
	return len(do.cancel), do
}

// fenceOnTime calls fall until ctx ends.
func (w *Worker) fenceOnTime(ctx context.Context) {
	for {
		due := time.Now().Add(w.times.fenceTick)
		if !sleep(ctx, w.times.fenceTick) {
			return
		}
		if time.Since(due) > w.times.fenceTick/2 && !sleep(ctx, w.times.fenceTick/4) {
			return // the process had no time to run: an answer may have arrived that nobody has read
		}
		w.fence()
	}
}

// fence lets the fence fall if it is time.
func (w *Worker) fence() {
	jobs, fell := 0, false
	at := w.config.Moment()
	w.on(func(c *core, _ time.Time) (do actions) {
		fell = c.overdue(w.times, at)
		jobs, do = c.fall(w.times, at)
		return do
	})
	if !fell {
		return
	}
	id := w.workerID()
	w.aside(func() {
		w.config.Logger.LogAttrs(context.Background(), slog.LevelError,
			"heartbeats are not acknowledged: nothing is claimed, and jobs of queues are cancelled before others may run them",
			slog.String("worker_id", id), slog.Int("jobs", jobs))
		w.observe(Event{Kind: EventSilent, WorkerID: id, Count: jobs})
	})
}

// declaredDead ends what ran under an id that was declared dead. The dispatcher registers a new
// one.
func (w *Worker) declaredDead(id string) {
	first := false
	w.on(func(c *core, now time.Time) (do actions) {
		first, do = c.declaredDead(id, now)
		return do
	})
	if first {
		w.aside(func() {
			w.config.Logger.LogAttrs(context.Background(), slog.LevelError,
				"worker was declared dead, and goes on under a new id", slog.String("worker_id", id))
			w.observe(Event{Kind: EventFenced, WorkerID: id})
		})
	}
}
