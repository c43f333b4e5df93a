package worker

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/backfillhq/go/internal/wire"
)

// core is what a worker knows and decides. Its methods are the events of a worker's life: they
// change the state and return what has to be done about it. They neither lock, nor wait, nor read a
// clock, nor speak to the database: the Worker around the core does, and calls them under its
// mutex.
//
// There is a method for each event, not one that takes an event of any kind and returns a list:
// slots call start and ended for each job, and neither allocates.
type core struct {
	concurrency int
	once        bool
	hurry       int // divides times, for tests
	random      *rand.Rand
	letters     bool // a job that fails for good becomes a dead letter
	filtered    bool // jobs with forbidden flags are passed over
	timeouts    map[string]time.Duration
	history     map[string]time.Duration // how long attempts are kept, of the tasks of which they are
	connected   connected

	state  State
	closed bool // slots start nothing any more
	id     string
	former string // the id that was declared dead, until there is a new one
	claims uint64 // of this process so far, whatever the id (R2)

	registered    bool     // the worker's row is there, as far as is known
	beats         int64    // of this process so far
	lastBeat      Moment   // when the last heartbeat that was acknowledged was sent
	sessionLocked bool     // others can see whether the heartbeats' session lives
	saidStopping  bool     // the row says that the worker was told to stop
	saidEmptying  bool     // it says that the worker claims nothing, to try suspects
	silent        bool     // no heartbeat was acknowledged for too long
	forbidden     []string // what the last claim was not to take

	leases   leases
	buffer   buffer
	outbox   outbox
	handling int     // handlers that have not returned
	given    int     // of these, those that are stuck and whose slots were given to others
	large    int     // leases whose payload is large
	freed    []int32 // queues that finishes have freed since the last claim

	trials   trials
	demand   demand
	pace     pace
	most     int // jobs a claim may ask for: halved when one fails
	slow     int // claims that took too long on a server that answers: each doubles the time of the next
	slowAt   time.Time
	tooSlow  bool // the last claim was given up for its time
	doubts   doubts
	lastSeen time.Time // when the last claim was answered
	stats    Stats
	counts   counts // that nobody has written down yet

	oldestDue time.Time // among the jobs of that claim
	lastFound time.Time // when a claim was last answered with jobs
	durations map[string]*durations
}

// actions is what has to be done after an event.
type actions struct {
	dispatch bool           // wake the dispatcher
	flush    bool           // wake the flusher
	start    int            // wake this many idle slots
	nudge    int            // notify the other workers of this many jobs
	beat     bool           // send a heartbeat
	cancel   []cancellation // end these handlers' contexts
	lost     []*wire.Job    // leases that turned out to be lost
	dead     []dead         // jobs that have become dead letters
	canceled []canceled     // jobs that were deleted because their end was requested
}

func newCore(config Config) core {
	return core{
		concurrency: config.Concurrency, once: config.Once, letters: config.DeadLetters, filtered: config.Forbidden != nil,
		hurry: max(config.Hurry, 1), random: newRandom(),
		timeouts: config.Timeouts, history: config.History, connected: newConnected(config), durations: make(map[string]*durations), counts: make(counts),
		state: StateNew, id: wire.NewWorkerID(), most: maxBatch, demand: demand{wanted: true},
	}
}

// step is what the dispatcher does next: claim, look into a doubt, register anew, end, or wait.
type step struct {
	claim    bool
	request  ClaimRequest
	timeout  time.Duration // of the claim
	prompted bool          // a notification asked for it, or a job became due

	try      *TryRequest
	acquit   *trial  // it is over
	survived []int64 // its jobs
	empties  bool    // from now on it claims nothing, to try suspects

	register bool // a new id

	doubt *doubt
	held  []wire.Lease // that the doubt is not about

	polled bool // the poll's timer led to a claim
	done   bool
	wait   time.Duration
}

// next decides what the dispatcher does.
func (c *core) next(now time.Time) (next step, do actions) {
	do = c.giveBack(c.buffer.takeOlder(now.Add(-startWithin)), now)
	next.polled = c.demand.tick(now)
	if next.doubt = c.doubts.due(now); next.doubt != nil {
		next.held = tokens(c.leases.all(leaseClaimed, leaseRunning, leaseEnding, leaseAbandoned))
		return next, do
	}
	d := &c.demand
	d.blocked = false
	if next.register = !c.registered && !now.Before(d.notBefore); next.register {
		return next, do
	}
	claims := c.registered && !c.silent && !now.Before(d.notBefore) && !c.doubts.rest(c.id, now)
	var only []string
	if claims {
		var more actions
		before := c.trials.emptying
		claims, only, more = c.takeTurn(&next, now)
		do.flush, do.beat = do.flush || more.flush, more.beat
		next.empties = c.trials.emptying && !before && next.try == nil
		if next.acquit != nil || next.try != nil {
			return next, do
		}
	}
	if claims && (d.wanted || d.queues || c.connected.wanted()) {
		c.pace.measure(now, c.idleSlots(), c.leases.in[leaseRunning])
		if batch := c.room(); batch > 0 {
			next.claim, next.prompted = true, d.prompted
			next.request = c.request(batch)
			next.request.Only = only
			next.timeout = claimTimeout << c.slow
			d.wanted, d.queues, d.prompted, c.connected.kept = false, false, false, false
			return next, do
		}
		d.blocked = true
	}
	next.done = c.once && !d.wanted && !d.queues && !c.connected.kept && d.againAt.IsZero() && c.leases.held() == 0
	next.wait = c.idle(now)
	return next, do
}

// room returns how many jobs to claim now: 0 while enough are waiting to start, or too many to be
// recorded.
func (c *core) room() int {
	if len(c.leases.in[leaseEnding]) > maxUnrecorded || c.buffer.bytes >= maxBufferedBytes {
		return 0
	}
	target := c.idleSlots() + c.pace.prefetch()
	room := target - c.buffer.len()
	serial := c.serialRoom()
	if serial < c.buffer.prompt {
		serial = 0 // until half of them have started
	}
	switch half := room >= max(1, target/2); {
	case half && (c.demand.wanted || serial > 0 || c.connected.wanted()):
		return min(room, c.most)
	case !half:
		// The next jobs of freed queues do not wait until half of the buffer has started: they may be
		// ahead of all that is in it.
		return min(len(c.freed), serial, c.most)
	default:
		return 0
	}
}

// serialRoom returns how many jobs could start now or almost now: jobs of queues, whose queues wait
// for them (R23), and those with one attempt, which would be lost if this process died (R9). What
// waits in the buffer is sorted, so one that is first in line starts next, whatever waits behind
// it: only others of their kind count. While anything is claimed ahead, so may one of them be.
func (c *core) serialRoom() int {
	room := max(c.idleSlots(), c.pace.serial())
	if c.buffer.len() > 0 || c.pace.prefetch() > 0 {
		room = max(room, 1)
	}
	return max(room-c.buffer.prompt, 0)
}

func (c *core) request(batch int) ClaimRequest {
	c.claims++
	request := ClaimRequest{
		WorkerID: c.id, Number: c.claims, Batch: batch, Serial: min(batch, c.serialRoom()),
		Transactional: c.connected.room(), Bytes: maxBufferedBytes - c.buffer.bytes,
	}
	if request.Serial > 0 {
		request.Queues, c.freed = c.freed, nil
	}
	if c.large > 0 {
		request.MaxPayload = largePayload
	}
	return request
}

// idle returns how long the dispatcher has nothing to do, if nothing happens.
func (c *core) idle(now time.Time) time.Duration {
	next := now.Add(time.Hour)
	sooner := func(t time.Time) {
		if t.After(now) && t.Before(next) {
			next = t
		}
	}
	sooner(c.demand.pollAt)
	sooner(c.demand.dueAt)
	sooner(c.demand.againAt)
	sooner(c.doubts.next())
	sooner(c.trialEnds())
	if c.demand.wanted || c.demand.queues || c.connected.wanted() || !c.registered {
		sooner(c.demand.notBefore)
	}
	if oldest, ok := c.buffer.oldest(); ok {
		sooner(oldest.Add(startWithin))
	}
	if c.demand.blocked { // slots that get stuck, or free, change what there is room for
		sooner(now.Add(prefetchAhead))
	}
	return next.Sub(now)
}

// claimed takes the answer to a claim. stopped says that the worker was told to stop meanwhile:
// then nothing of it starts.
func (c *core) claimed(made step, answer Claimed, stopped bool, now time.Time) actions {
	c.lastSeen, c.oldestDue = now, oldestDue(answer.Jobs)
	if len(answer.Jobs) > 0 {
		c.lastFound = now
	}
	if !c.once {
		c.demand.pollAt = now.Add(pollInterval)
		if answer.Reread > 0 {
			c.demand.pollAt = now.Add(min(pollInterval, answer.Reread))
		}
	}
	c.most = min(2*c.most, maxBatch)
	if now.Sub(c.slowAt) > slowFor {
		c.slow = 0
	}
	c.demand.answered(now, made.prompted, answer)
	c.connected.kept = c.connected.kept || answer.MoreTransactional
	c.trials.idle = len(answer.Jobs) == 0
	fresh := make([]*lease, 0, len(answer.Jobs))
	var unwanted []*lease
	var do actions
	for _, job := range answer.Jobs {
		l := c.lease(job, made.request.WorkerID, now)
		if slices.Contains(answer.Canceled, job.ID) {
			unwanted = append(unwanted, l)
		} else {
			fresh = append(fresh, l)
		}
	}
	if stopped || c.silent || made.request.WorkerID != c.id || !c.registered {
		do = c.giveBack(fresh, now)
	} else {
		c.buffer.add(fresh)
		do.start = len(fresh)
	}
	do.flush = c.unstarted(unwanted, Outcome{Kind: OutcomeCanceled}, now).flush || do.flush
	return do
}

func (c *core) lease(job *wire.Job, workerID string, now time.Time) *lease {
	l := &lease{Job: job, workerID: workerID, kept: c.history[job.Task] > 0}
	c.leases.add(l, now)
	c.connected.add(job.Task, 1)
	if len(job.Payload) > largePayload {
		c.large++
	}
	return l
}

// claimFailed takes the failure of a claim, and returns how long to wait. unknown says that it may
// have been committed all the same.
func (c *core) claimFailed(made step, unknown, tooSlow bool, now time.Time) (wait time.Duration) {
	c.most = max(1, made.request.Batch/2)
	c.connected.kept = c.connected.tasks != nil
	c.freed = append(made.request.Queues, c.freed...)
	c.tooSlow = tooSlow
	if unknown {
		c.doubts.claimLost(made.request.WorkerID, now)
	}
	return c.demand.failed(now)
}

// looked takes what a look into a doubt has shown.
func (c *core) looked(about *doubt, answer Reclaimed, err error, now time.Time) {
	if err == nil && about.claim && c.tooSlow { // the server answers, so the claim needs more time
		c.slow, c.slowAt, c.tooSlow = min(c.slow+1, 3), now, false
	}
	c.doubts.looked(about, err == nil, err == nil && answer.Settled, now)
	if answer.Jobs+answer.Queues > 0 {
		c.demand.wanted = true
	}
}

// declaredDead takes that an id was declared dead: handlers are cancelled, and what has not started
// is given back if it is still ours. The worker goes on under a fresh id (R2, R5), once it has a
// row for it. It reports whether that was new.
func (c *core) declaredDead(id string, now time.Time) (first bool, do actions) {
	if id != c.id || !c.registered {
		return false, do
	}
	c.registered, c.former = false, id
	c.doubts.leaseLost(id, now)
	c.abandonTrial(now)
	do = c.giveBack(c.buffer.takeOlder(now), now)
	for _, l := range c.leases.in[leaseRunning] {
		l.lost = true
		do.cancel = append(do.cancel, cancellation{l.cancel, ErrLeaseLost})
	}
	c.demand.failed(now)
	do.dispatch = true
	return true, do
}

// reborn takes the worker's row under a fresh id.
func (c *core) reborn(id string, sent Moment) {
	c.id, c.former, c.registered = id, "", true
	c.lastBeat, c.sessionLocked, c.silent, c.saidStopping = sent, false, false, false
	c.demand.wanted = true
}

// giveBack returns jobs that were claimed and have not started.
func (c *core) giveBack(list []*lease, now time.Time) (do actions) {
	return c.unstarted(list, Outcome{Kind: OutcomeReturned}, now)
}

// unstarted ends the leases of jobs that were claimed and have not started.
func (c *core) unstarted(list []*lease, outcome Outcome, now time.Time) (do actions) {
	for _, l := range list {
		c.end(l, leaseEnding, outcome, now)
		c.forget(l)
	}
	do.flush = len(list) > 0
	return do
}

// end puts a lease on its way to the database.
func (c *core) end(l *lease, state leaseState, outcome Outcome, now time.Time) {
	if !l.began.IsZero() {
		l.took = now.Sub(l.began)
	}
	c.leases.move(l, state, now)
	l.outcome, l.retry.unsure = outcome, outcome.Unsure
	if l.suspect && outcome.Kind == OutcomeReturned {
		c.trials.trial.withdraw(l.ID)
	}
	c.outbox.add(l)
}

// start hands the first job in line to a slot; nil if there is none.
func (c *core) start(ctx context.Context, cancel context.CancelCauseFunc, now time.Time) (l *lease, do actions) {
	if l = c.buffer.next(); l == nil {
		return nil, actions{}
	}
	l.ctx, l.cancel, l.handling = ctx, cancel, true
	c.handling++
	c.leases.move(l, leaseRunning, now)
	l.began = now
	return l, c.roomChanged()
}

// ended takes the end of a handler. What it says does not count if the job was given back
// meanwhile.
func (c *core) ended(l *lease, outcome Outcome, now time.Time) (do actions) {
	l.handling = false
	c.handling--
	counts := l.state == leaseRunning
	if l.slotGiven { // how long it took says nothing about the slots
		c.given--
	} else if counts {
		c.pace.ended(now.Sub(l.since))
	}
	if counts {
		c.took(l.Task, now.Sub(l.since))
	}
	c.forget(l)
	do = c.roomChanged()
	switch {
	case outcome.Committed != nil:
		c.committed(l, outcome, now, &do)
	case counts:
		c.end(l, leaseEnding, outcome, now)
		do.flush = true
	}
	return do
}

// forget notes that nothing here will read the payload of a lease any more, and that it has no
// connection.
func (c *core) forget(l *lease) {
	c.connected.add(l.Task, -1)
	if len(l.Payload) > largePayload {
		c.large--
	}
}

// roomChanged wakes a dispatcher that waits for room to claim, and one that waits for the last
// handler.
func (c *core) roomChanged() (do actions) {
	if c.state == StateDraining || (c.demand.blocked || c.connected.wanted()) && c.room() > 0 {
		c.demand.blocked, do.dispatch = false, true
	}
	return do
}

// woke notes that jobs were inserted, or may have been while nobody listened.
func (c *core) woke(notified bool) actions {
	c.demand.wanted = true
	c.demand.prompted = c.demand.prompted || notified
	return actions{dispatch: true}
}

// drained begins the stop: nothing is claimed any more, and what has not started is given back. It
// returns how many handlers run.
func (c *core) drained(now time.Time) (running int, do actions) {
	c.state = StateDraining
	return c.handling, c.giveBack(c.buffer.takeOlder(now), now)
}

// abandon ends the leases whose handlers ignore their cancelled contexts.
func (c *core) abandon(now time.Time) (given []*lease, do actions) {
	given = slices.Clone(c.leases.in[leaseRunning])
	for _, l := range given {
		c.end(l, leaseAbandoned, l.interrupted(), now)
	}
	return given, actions{flush: true}
}

// renewed takes the fates of leases whose locks were to be renewed: handlers whose lease somebody
// else ended are cancelled.
func (c *core) renewed(list []*lease, fates []Fate, now time.Time) (do actions) {
	for i, l := range list {
		if fates[i].Kind == FateLost && l.state == leaseRunning {
			l.lost = true
			do.cancel = append(do.cancel, cancellation{l.cancel, ErrLeaseLost})
			c.doubts.leaseLost(l.workerID, now)
		}
	}
	return do
}
