package worker

import (
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/backfillhq/go/internal/conviction"
)

// Suspects are jobs that nobody runs but on trial, because workers died that held them (R30).
type Suspects struct {
	Jobs    []conviction.Suspect // that the worker may try
	Cohorts map[int64]string     // the names of their cohorts
	Queues  int                  // that are free now, because their suspects were superseded
}

// LastTrial is the last trial in which a worker died.
type LastTrial struct {
	Found         bool
	Stopped, Free time.Duration // as those of conviction.Worker
}

// asideFor is how long suspects that could not be taken are left out of trials.
const asideFor = time.Minute

// fleet is what a worker knows of the others, for its turn at trials.
type fleet struct {
	living   int  // this worker included
	busy     int  // others that empty themselves, or try
	emptying bool // another one empties itself
	yields   bool // and it goes first
}

// trials is what a worker knows of suspects, and whether it tries some. Package conviction decides;
// docs/design.md says why.
type trials struct {
	suspects Suspects             // at the last look
	aside    map[parked]time.Time // those that could not be taken, until when
	fleet    fleet

	trial    *trial
	emptying bool      // it claims nothing, to hold nothing
	vain     int       // how often in a row it gave that up
	halted   time.Time // when it began to claim nothing
	stopped  time.Duration
	freeAt   time.Time // when it last began to claim freely
	idle     bool      // its last claim brought nothing
}

// parked is a suspect since it was parked the last time.
type parked struct {
	job    int64
	cohort string
}

// trial is one that this worker runs.
type trial struct {
	conviction.Trial

	cohort  string
	started time.Time // zero: its jobs are being claimed
	jobs    []int64   // that were claimed, and are to be acquitted
}

// withdraw takes a job out of it that has not survived it: it was given back, or somebody took it.
func (t *trial) withdraw(job int64) {
	if t != nil {
		t.jobs = slices.DeleteFunc(t.jobs, func(id int64) bool { return id == job })
	}
}

// takeTurn says what the worker does instead of a claim, if it is its turn to try suspects or a
// trial of its is over; else whether it claims, and if not jobs of all tasks, of which.
func (c *core) takeTurn(next *step, now time.Time) (claims bool, only []string, do actions) {
	if next.acquit = c.over(now); next.acquit != nil {
		next.survived = slices.Clone(next.acquit.jobs)
		return false, nil, do
	}
	turn := c.turn(now)
	do = c.prepare(turn, now)
	switch turn {
	case conviction.Try:
		request := c.draw()
		next.try = &request
	case conviction.ClaimQuick:
		only = c.quickTasks()
		claims = len(only) > 0
	case conviction.Claim:
		claims = true
	case conviction.Wait:
	}
	return claims, only, do
}

// turn decides whether the worker claims, or tries suspects, or prepares for it.
func (c *core) turn(now time.Time) conviction.Step {
	t := &c.trials
	if c.once || t.trial == nil && !t.emptying && len(t.suspects.Jobs) == 0 {
		return conviction.Claim
	}
	if t.emptying && t.fleet.yields {
		t.suspects.Jobs = nil // until the next look: the other one is first
		return conviction.Claim
	}
	situation := conviction.Worker{
		Holds: max(c.leases.held(), c.handling), Suspects: len(t.suspects.Jobs), Trying: t.trial != nil,
		Idle: t.idle, Stopped: t.stopped, Free: now.Sub(t.freeAt),
		Emptying: t.emptying, Emptied: now.Sub(t.halted), Vain: t.vain,
		Living: t.fleet.living, Busy: t.fleet.busy, OtherEmptying: t.fleet.emptying,
	}
	for _, l := range c.leases.all(leaseClaimed, leaseRunning) {
		if !c.quick(l.Task) {
			situation.Long++
		}
	}
	return situation.Next()
}

// prepare has the step of a turn follow: the worker claims nothing, or jobs of quick tasks alone,
// or it claims again. What has not started is given back when it stops claiming.
func (c *core) prepare(step conviction.Step, now time.Time) (do actions) {
	t := &c.trials
	stops := step == conviction.Wait || step == conviction.ClaimQuick || step == conviction.Try
	switch {
	case t.trial != nil:
	case stops && !t.emptying:
		t.emptying, t.halted = true, now
		if step != conviction.Try {
			do = c.giveBack(c.buffer.takeOlder(now), now)
		}
		do.beat = true
	case !stops && t.emptying:
		if !t.fleet.yields && len(t.suspects.Jobs) > 0 { // else others were faster, or go first
			t.vain++
		}
		do = c.claimAgain(now)
	}
	return do
}

// claimAgain ends a time in which the worker claimed nothing.
func (c *core) claimAgain(now time.Time) actions {
	t := &c.trials
	t.emptying, t.stopped, t.freeAt, t.idle = false, now.Sub(t.halted), now, false
	c.demand.wanted = true
	return actions{beat: true, dispatch: true}
}

// draw begins a trial. Its jobs are still to be claimed.
func (c *core) draw() TryRequest {
	t := &c.trials
	drawn := conviction.NewTrial(t.suspects.Jobs, c.concurrency, c.random)
	at := slices.IndexFunc(t.suspects.Jobs, func(s conviction.Suspect) bool { return s.Job == drawn.Jobs[0] })
	t.trial = &trial{Trial: drawn, cohort: t.suspects.Cohorts[t.suspects.Jobs[at].Cohort]}
	t.suspects.Jobs = nil // what is left, the next look tells
	c.claims++
	return TryRequest{WorkerID: c.id, Number: c.claims, Cohort: t.trial.cohort, Jobs: drawn.Jobs, Bytes: maxBufferedBytes}
}

// tried takes the jobs of a trial.
func (c *core) tried(made TryRequest, answer Claimed, stopped bool, now time.Time) actions {
	fresh := make([]*lease, len(answer.Jobs))
	for i, job := range answer.Jobs {
		fresh[i] = c.lease(job, made.WorkerID, now)
		fresh[i].suspect = true
	}
	if len(fresh) == 0 {
		c.setAside(made, now)
	}
	t := c.trials.trial
	if t == nil || stopped || c.silent || made.WorkerID != c.id || !c.registered {
		return c.giveBack(fresh, now)
	}
	t.started = now
	for _, job := range answer.Jobs {
		t.jobs = append(t.jobs, job.ID)
	}
	c.buffer.add(fresh)
	return actions{start: len(fresh)}
}

// notTried takes the failure of such a claim. If it was committed all the same, the look into the
// doubt makes suspects of its jobs again, and the trial ends without one.
func (c *core) notTried(made TryRequest, unknown bool, now time.Time) (wait time.Duration) {
	if unknown {
		c.doubts.claimLost(made.WorkerID, now)
	} else {
		c.setAside(made, now)
	}
	if t := c.trials.trial; t != nil {
		t.started = now
	}
	return c.demand.failed(now)
}

// setAside leaves suspects out of trials that somebody else has locked for the moment, or that the
// server refuses to change: the worker would do nothing but ask for them. One that another worker
// tries, and that is parked again, is not meant.
func (c *core) setAside(made TryRequest, now time.Time) {
	aside := &c.trials.aside
	if *aside == nil {
		*aside = make(map[parked]time.Time)
	}
	maps.DeleteFunc(*aside, func(_ parked, until time.Time) bool { return now.After(until) })
	for _, job := range made.Jobs {
		(*aside)[parked{job, made.Cohort}] = now.Add(asideFor / time.Duration(c.hurry))
	}
}

// over returns the trial if it is over.
func (c *core) over(now time.Time) *trial {
	t := c.trials.trial
	if t == nil || t.started.IsZero() || !t.Over(c.unfinished(), c.scaled(now.Sub(t.started))) {
		return nil
	}
	return t
}

// unfinished returns how many jobs of the trial are not recorded.
func (c *core) unfinished() (n int) {
	for _, in := range c.leases.in {
		for _, l := range in {
			if l.suspect {
				n++
			}
		}
	}
	return n
}

// trialEnds returns when the trial is over at the latest; zero: never.
func (c *core) trialEnds() time.Time {
	t := c.trials.trial
	if t == nil || t.started.IsZero() {
		return time.Time{}
	}
	return t.started.Add(t.Window / time.Duration(c.hurry))
}

// scaled returns what a time of ours stands for where tests have us hurry.
func (c *core) scaled(d time.Duration) time.Duration { return d * time.Duration(c.hurry) }

// acquitted takes that the trial has ended, and the database knows it. What still runs of it goes
// on as any job does.
func (c *core) acquitted(t *trial, now time.Time) actions {
	if c.trials.trial != t {
		return actions{}
	}
	for _, in := range c.leases.in {
		for _, l := range in {
			l.suspect = false
		}
	}
	c.trials.trial, c.trials.vain = nil, 0
	return c.claimAgain(now)
}

// abandonTrial forgets a trial whose jobs are the worker's no more.
func (c *core) abandonTrial(now time.Time) {
	if c.trials.trial != nil || c.trials.emptying {
		c.trials.trial = nil
		c.claimAgain(now)
	}
}

// seen takes what a look for suspects has shown.
func (c *core) seen(found Suspects, fleet fleet, now time.Time) actions {
	t := &c.trials
	found.Jobs = slices.DeleteFunc(found.Jobs, func(s conviction.Suspect) bool {
		return now.Before(t.aside[parked{s.Job, found.Cohorts[s.Cohort]}])
	})
	wake := len(found.Jobs) > 0 || len(t.suspects.Jobs) > 0 || t.emptying
	t.suspects, t.fleet = found, fleet
	return actions{dispatch: wake}
}

// afterTrial takes what the last trial of the fleet says to a worker that has just started: it
// claims for as long as that one had stopped.
func (c *core) afterTrial(last LastTrial, now time.Time) {
	c.trials.stopped, c.trials.freeAt = last.Stopped, now.Add(-last.Free)
}

// newRandom returns the source of the draws.
func newRandom() *rand.Rand { return rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())) } //nolint:gosec // no secret
