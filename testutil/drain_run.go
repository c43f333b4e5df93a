package testutil

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/seam"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// everything is how many jobs a drain claims at a time, the most that a claim can take.
const everything = 500

// answerTime is what a claim has left when it stops waiting for the outcome of the job before.
// lookPatience is how long a look at the jobs may take that are new.
const answerTime, lookPatience = time.Second, 30 * time.Second

// drainer runs the jobs of a database once, one at a time. Its worker calls it from one goroutine
// at a time: jobs run alone, and the worker asks for the next one, or moves the time, when the
// outcome of the last one is recorded.
type drainer struct {
	config  drainConfig
	random  *rand.Rand
	table   drainTable
	clock   *clock // nil: the time goes on
	now     time.Time
	until   time.Time // zero: the time is not moved
	store   *pg.Store
	engine  *worker.Worker
	gate    *gate
	tasks   []string
	letters time.Duration // how long dead letters are kept; 0: for ever, or there are none
	newJob  func(*wire.Job) any
	ticks   *worker.Ticks

	runs    map[int64]int             // of each job
	fed     map[string]map[string]int // by a job's task: which tasks have enqueued how many
	last    int64                     // the highest id that was seen
	stopped error                     // why the drain has stopped; nil: it has not
	skips   func() []string           // forbidden flags; nil: none
	drained Drained
}

// build makes the worker.
func (d *drainer) build(parts *seam.Drain) {
	config := parts.Config
	d.store, d.newJob, d.tasks, d.skips = parts.Store, parts.NewJob, config.Tasks, config.Forbidden
	if config.DeadLetters {
		d.letters = config.Retention
	}
	d.gate = &gate{Store: parts.Store, d: d, recorded: make(chan struct{}, 1)}
	execute := config.Execute
	config.Concurrency = 1
	config.Advance = d.advance
	config.Execute = func(ctx context.Context, job *wire.Job, outcome *worker.Outcome) {
		at := d.now
		if d.clock == nil {
			at = time.Now()
		}
		defer func() { d.ran(context.WithoutCancel(ctx), job, *outcome, at) }() // also if the handler ends the goroutine
		execute(ctx, job, outcome)
	}
	d.engine = worker.New(d.gate, config)
}

func (d *drainer) run(ctx context.Context) error {
	defer d.store.Close()
	who, err := d.table.foreign(ctx, "")
	switch {
	case err != nil:
		return err
	case who != "":
		return busy(who)
	}
	if _, d.last, err = d.table.enqueued(ctx, 0); err != nil {
		return err
	}
	if d.ticks, err = d.engine.Ticks(ctx, d.now); err != nil {
		return err
	}
	err = d.engine.Run(ctx)
	recorded := d.engine.Health().Stats
	d.drained.Report = backfill.Report{
		Completed: recorded.Completed, Failed: recorded.Failed, Exhausted: recorded.Exhausted, Snoozed: recorded.Snoozed,
		Returned: recorded.Returned, Canceled: recorded.Canceled, Lost: recorded.Lost,
	}
	if err = errors.Join(err, d.expire(ctx), d.look(ctx)); err != nil {
		return err
	}
	return d.stopped
}

func busy(who string) error {
	return fmt.Errorf("somebody else works on these tables, and would take jobs of the drain: %s: stop it first, and wait for its Run to return", who)
}

// time returns the time of the database.
func (d *drainer) time(ctx context.Context) (time.Time, error) {
	if d.clock == nil {
		return d.table.now(ctx)
	}
	return d.clock.now(ctx)
}

// over reports whether the drain has stopped before its end.
func (d *drainer) over() bool { return d.stopped != nil }

// advance is called when nothing is due. It makes what is due next so, and reports whether there
// was anything.
func (d *drainer) advance(ctx context.Context) (bool, error) {
	if d.over() {
		return false, nil
	}
	who, err := d.table.foreign(ctx, d.gate.id())
	switch {
	case err != nil:
		return false, err
	case who != "":
		return false, busy(who)
	}
	tick := d.ticks.Next()
	if !tick.IsZero() && !tick.After(d.now) {
		return true, d.tick(ctx)
	}
	if !d.now.Before(d.until) {
		return false, nil
	}
	next, err := d.table.next(ctx, d.tasks, d.now, d.until)
	if err != nil {
		return false, err
	}
	if next.IsZero() || !tick.IsZero() && tick.Before(next) {
		next = tick
	}
	if next.IsZero() || next.After(d.until) {
		next = d.until
	}
	if err := d.clock.move(ctx, next); err != nil {
		return false, fmt.Errorf("move the time: %w", err)
	}
	d.now = next
	return true, nil
}

// tick enqueues the jobs of the next tick of the crontab.
func (d *drainer) tick(ctx context.Context) error {
	if err := d.ticks.Enqueue(ctx); err != nil {
		return err
	}
	return d.feeds(ctx, "the crontab")
}

// feeds notes that somebody has enqueued the jobs that are new.
func (d *drainer) feeds(ctx context.Context, parent string) error {
	tasks, last, err := d.table.enqueued(ctx, d.last)
	if err != nil {
		return err
	}
	for _, task := range tasks {
		if d.fed[task] == nil {
			d.fed[task] = map[string]int{}
		}
		d.fed[task][parent]++
	}
	d.last = last
	return nil
}

// ran notes how a job ended, before that is recorded.
func (d *drainer) ran(ctx context.Context, job *wire.Job, outcome worker.Outcome, at time.Time) {
	defer d.gate.ended(outcome)
	run := DrainedRun{Job: d.newJob(job).(*backfill.Job), At: at.UTC(), Kind: kindOf(outcome)}
	switch run.Kind { //nolint:exhaustive // those of kindOf
	case backfill.EventFailed:
		run.Err, run.Final = outcome.Err, outcome.Kind == worker.OutcomeExhausted || job.Attempt >= job.MaxAttempts
		if !run.Final {
			run.Delay = outcome.Delay
		}
	case backfill.EventSnoozed:
		run.Delay = outcome.Delay
	}
	d.drained.Runs = append(d.drained.Runs, run)
	d.runs[job.ID]++
	ctx, cancel := context.WithTimeout(ctx, lookPatience) // the handler may have kept all connections of the pool
	defer cancel()
	err := d.feeds(ctx, job.Task)
	switch {
	case d.stopped != nil:
	case err != nil:
		d.stopped = err
	case d.runs[job.ID] >= d.config.perJob:
		d.stopped = fmt.Errorf("job %d of task %s has run %d times, the last time %s: does it wait for something that never happens? "+
			"See MaxRuns. %s", job.ID, job.Task, d.runs[job.ID], run.Kind, d.feed())
	case len(d.drained.Runs) >= d.config.all:
		d.stopped = fmt.Errorf("jobs have run %d times: does a task enqueue itself for ever? See MaxRuns. %s", len(d.drained.Runs), d.feed())
	}
}

// expire deletes the dead letters that are too old, as one of the workers of a fleet does.
func (d *drainer) expire(ctx context.Context) error {
	for d.clock != nil && d.letters > 0 {
		expired, err := d.store.Expire(ctx, d.letters)
		if err != nil {
			return fmt.Errorf("delete old dead letters: %w", err)
		}
		if expired.Done {
			break
		}
	}
	return nil
}

// look notes what is left.
func (d *drainer) look(ctx context.Context) (err error) {
	if d.drained.Now, err = d.time(ctx); err != nil {
		return err
	}
	rows, err := d.table.left(ctx, d.drained.Now)
	if err != nil {
		return err
	}
	ended := d.runs
	for i := range rows {
		delete(ended, rows[i].job.ID)
		left := LeftJob{Job: *d.newJob(rows[i].job).(*backfill.Job)}
		left.Why, left.Detail = d.why(&rows[i])
		d.drained.Left = append(d.drained.Left, left)
	}
	d.drained.Ended = len(ended)
	d.drained.Now = d.drained.Now.UTC()
	return nil
}

// why says why a job is left.
func (d *drainer) why(row *leftRow) (LeftReason, string) {
	var skipped []string
	if d.skips != nil {
		skipped = slices.DeleteFunc(d.skips(), func(flag string) bool { return !slices.Contains(row.job.Flags, flag) })
	}
	switch {
	case row.lockedBy != "":
		return LeftSuspect, row.lockedBy
	case row.job.Attempt >= row.job.MaxAttempts:
		return LeftExhausted, row.lastError
	case row.paused != "":
		return LeftPaused, row.paused
	case !slices.Contains(d.tasks, row.job.Task):
		return LeftUnserved, ""
	case len(skipped) > 0:
		return LeftForbidden, fmt.Sprintf("flags %q", skipped)
	case !row.due:
		return LeftWaiting, row.lastError
	case row.head != 0 && row.head != row.job.ID:
		return LeftBehind, fmt.Sprintf("job %d", row.head)
	}
	return LeftDue, ""
}

// gate is a Store that hands out one job at a time, in an order of the drain's, when the outcome of
// the one before is in the database: the tables are what a test would see, and the order does not
// depend on how fast something is.
type gate struct {
	*pg.Store

	d        *drainer
	recorded chan struct{} // something may have been recorded

	mu      sync.Mutex
	worker  string // the id of the drain's
	out     int    // jobs that were handed out and are not recorded
	waiting []*wire.Job
	claimed worker.Claimed // beside them
}

var _ worker.Store = (*gate)(nil)

func (g *gate) id() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.worker
}

func (g *gate) Register(ctx context.Context, registration worker.Registration) error {
	g.mu.Lock()
	g.worker = registration.ID
	g.mu.Unlock()
	return g.Store.Register(ctx, registration)
}

// Claim implements worker.Store.
func (g *gate) Claim(ctx context.Context, request worker.ClaimRequest) (worker.Claimed, error) {
	if !g.settled(ctx) {
		return worker.Claimed{Alive: true, More: true}, nil
	}
	if g.d.over() {
		return worker.Claimed{Alive: true}, g.giveBack(ctx)
	}
	if len(g.waiting) == 0 {
		request.Batch, request.Serial = everything, everything
		if request.Transactional > 0 {
			request.Transactional = everything
		}
		g.Refresh()
		claimed, err := g.Store.Claim(ctx, request)
		if err != nil || len(claimed.Jobs) == 0 {
			return claimed, err
		}
		g.waiting = shuffle(claimed.Jobs, g.d.random)
		claimed.Jobs = nil
		g.claimed = claimed
	}
	answer := g.claimed
	if err := g.cancels(ctx, g.waiting[0].ID, &answer); err != nil {
		return worker.Claimed{}, err // what waits is released, as that of a claim whose answer was lost
	}
	answer.Jobs, g.waiting = g.waiting[:1:1], g.waiting[1:]
	answer.More = answer.More || len(g.waiting) > 0
	g.mu.Lock()
	g.out++
	g.mu.Unlock()
	return answer, nil
}

// cancels notes that a job is not to run: a handler may have cancelled it since it was claimed.
func (g *gate) cancels(ctx context.Context, id int64, answer *worker.Claimed) error {
	found, err := g.Requested(ctx, []int64{id})
	if err != nil {
		return err
	}
	answer.Canceled = slices.Collect(maps.Keys(found.Jobs))
	return nil
}

// shuffle changes the order of jobs that have one priority. Those that were claimed together do not
// wait for each other: of a queue there is one.
func shuffle(jobs []*wire.Job, random *rand.Rand) []*wire.Job {
	slices.SortFunc(jobs, wire.CompareJobs)
	for rest := jobs; len(rest) > 0; {
		n := slices.IndexFunc(rest, func(job *wire.Job) bool { return job.Priority != rest[0].Priority })
		if n < 0 {
			n = len(rest)
		}
		same := rest[:n]
		random.Shuffle(n, func(i, j int) { same[i], same[j] = same[j], same[i] })
		rest = rest[n:]
	}
	return jobs
}

// settled waits until every outcome is recorded, as long as a claim has time.
func (g *gate) settled(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(time.Minute)
	}
	wait, cancel := context.WithDeadline(ctx, deadline.Add(-answerTime))
	defer cancel()
	for {
		g.mu.Lock()
		out := g.out
		g.mu.Unlock()
		if out == 0 {
			return true
		}
		select {
		case <-g.recorded:
		case <-wait.Done():
			return false
		}
	}
}

// record notes that so many outcomes are recorded.
func (g *gate) record(n int) {
	g.mu.Lock()
	g.out -= n
	g.mu.Unlock()
	select {
	case g.recorded <- struct{}{}:
	default:
	}
}

// ended notes the end of a job. If its transaction has completed it, nothing will be recorded.
func (g *gate) ended(outcome worker.Outcome) {
	if outcome.Committed != nil {
		g.record(1)
	}
}

// fates counts what was recorded.
func (g *gate) fates(fates []worker.Fate, err error) ([]worker.Fate, error) {
	if err == nil {
		n := 0
		for _, fate := range fates {
			if fate.Kind != worker.FateBusy {
				n++
			}
		}
		g.record(n)
	}
	return fates, err
}

func (g *gate) Complete(ctx context.Context, leases []wire.Lease) ([]worker.Fate, error) {
	return g.fates(g.Store.Complete(ctx, leases))
}

func (g *gate) CompleteRecorded(ctx context.Context, done []worker.Ended) ([]worker.Fate, error) {
	return g.fates(g.Store.CompleteRecorded(ctx, done))
}

func (g *gate) Fail(ctx context.Context, failed []worker.Ended) ([]worker.Fate, error) {
	return g.fates(g.Store.Fail(ctx, failed))
}

func (g *gate) Release(ctx context.Context, released []worker.Ended) ([]worker.Fate, error) {
	return g.fates(g.Store.Release(ctx, released))
}

func (g *gate) Park(ctx context.Context, leases []wire.Lease) ([]worker.Fate, error) {
	return g.fates(g.Store.Park(ctx, leases))
}

// Reclaim implements worker.Store. It releases what waits, too.
func (g *gate) Reclaim(ctx context.Context, workerID string, held []wire.Lease) (worker.Reclaimed, error) {
	g.waiting = nil
	return g.Store.Reclaim(ctx, workerID, held)
}

// Retire implements worker.Store.
func (g *gate) Retire(ctx context.Context, workerID string, clean bool) error {
	return errors.Join(g.giveBack(ctx), g.Store.Retire(ctx, workerID, clean))
}

// giveBack releases what waits.
func (g *gate) giveBack(ctx context.Context) error {
	if len(g.waiting) == 0 {
		return nil
	}
	ended := make([]worker.Ended, len(g.waiting))
	for i, job := range g.waiting {
		ended[i] = worker.Ended{Lease: job.Lease, Outcome: worker.Outcome{Kind: worker.OutcomeReturned}}
	}
	if _, err := g.Store.Release(ctx, ended); err != nil {
		return fmt.Errorf("give back %d jobs: %w", len(ended), err)
	}
	g.waiting = nil
	return nil
}
