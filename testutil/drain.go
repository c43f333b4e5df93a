package testutil

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/seam"
	"github.com/backfillhq/go/internal/worker"
)

// Drain runs the jobs of a client's database that are due, those that they enqueue too, until none
// is left, and returns what has run and what is left. It is a worker like any other: it claims the
// rows, decodes the bytes that are stored, and records outcomes and dead letters. But it runs one
// job at a time, so that a test can say what comes of it, and it is alone.
//
//	drained := testutil.Drain(t, client, tasks.NewRegistry())
//	if len(drained.Left) > 0 { … }
//
// Jobs that production may run in any order, because they are due, have the same priority, and do
// not wait for each other in a queue, run in a random one. If the test fails, it says the seed of
// it: see [Seed].
//
// A job that fails fails the test, with its task, payload, error, and the stack of a panic, unless
// [ExpectFailure] says otherwise. So do mistakes in the registry and the options, another worker
// that lives on the same tables, a job that somebody else has locked, and jobs that find no end:
// see [MaxRuns].
//
// What is scheduled for later stays: retries, snoozed and delayed jobs, and ticks of
// [backfill.WithCrontab]. [DrainUntil] runs them.
func Drain(tb testing.TB, client *backfill.Client, registry *backfill.Registry, opts ...DrainOption) *Drained {
	tb.Helper()
	return drain(tb, "Drain", client, registry, opts, nil)
}

// DrainUntil is [Drain], and then moves the time to when the next job or tick of the crontab is
// due, runs it, and so on until a time: that, or so long after now. Then it is this time. It does
// not go back.
//
//	testutil.DrainUntil(t, client, registry, 24*time.Hour, backfill.WithCrontab("0 4 * * * tidy_up"))
//
// The first call stops the time in the test's database, which must be one of package pgtest; from
// then on only DrainUntil moves it. Everything that the database is asked goes by it: run_at,
// delays, backoff, snoozes, the crontab, pauses, the ages of dead letters, and what the SQL of
// handlers and tests calls now(), clock_timestamp(), statement_timestamp() and
// transaction_timestamp(), also in the defaults of columns. The sessions of the client's pool and
// of [backfill.WithSQLDB] are made anew for that, with the schema backfill_clock in front of their
// search_path, where tables without a schema's name are made from then on. Sessions that were
// opened elsewhere before the first call keep the old time, and so do current_timestamp, views, and
// functions with a search_path of their own. Go's time.Now is not moved: the time is in
// [Drained].Now.
func DrainUntil[T time.Time | time.Duration](
	tb testing.TB, client *backfill.Client, registry *backfill.Registry, until T, opts ...DrainOption,
) *Drained {
	tb.Helper()
	return drain(tb, "DrainUntil", client, registry, opts, func(now time.Time) time.Time {
		switch until := any(until).(type) {
		case time.Duration:
			return now.Add(until)
		case time.Time:
			return until
		}
		return time.Time{}
	})
}

// DrainOption is an option of [Drain] and [DrainUntil]: one of this package, or any
// [backfill.WorkerOption] but [backfill.WithScheduled]. WithConcurrency has no effect.
type DrainOption interface{ backfill.RunOption }

type drainConfig struct {
	seed        uint64
	perJob, all int
	expected    []expectation
	worker      []backfill.WorkerOption
}

type expectation struct {
	match func(job *backfill.Job, err error) bool
	met   *bool
}

// drainOption is an option of a drain, and nothing to a worker.
type drainOption struct {
	backfill.RunOption

	apply func(*drainConfig)
}

func newDrainOption(apply func(*drainConfig)) DrainOption {
	return drainOption{backfill.WithMiddleware(), apply}
}

// Seed makes the random order of jobs, and the jitter of their backoff, that of a run before.
// Default: a new one for each call.
func Seed(seed uint64) DrainOption {
	return newDrainOption(func(c *drainConfig) { c.seed = seed })
}

// MaxRuns says after how many runs a drain gives up and fails the test: of one job, and of all
// jobs. Default: 1,000 and 10,000.
func MaxRuns(ofOneJob, ofAll int) DrainOption {
	return newDrainOption(func(c *drainConfig) { c.perJob, c.all = ofOneJob, ofAll })
}

// ExpectFailure takes the failures for which match returns true: they do not fail the test. But it
// fails if there is none. The error is the one that the handler returned, or a
// *[backfill.PanicError], as [backfill.Event] has it. The option can be given several times.
func ExpectFailure(match func(job *backfill.Job, err error) bool) DrainOption {
	return newDrainOption(func(c *drainConfig) {
		c.expected = append(c.expected, expectation{match, new(bool)})
	})
}

// Drained is what a drain has done. Fields may be added.
type Drained struct {
	_ [0]func()

	backfill.Report

	Runs []DrainedRun // in their order
	// Ended is how many jobs have run and are gone: they have succeeded, were cancelled while they
	// ran, or are dead letters. Together with Left they are all that there were and that were
	// enqueued meanwhile, but those that were removed or cancelled before they ran.
	Ended int
	Left  []LeftJob // in the order of their RunAt
	// Now is the time of the database at the end. After DrainUntil it stands still.
	Now  time.Time
	Seed uint64
}

// DrainedRun is one run of a job.
type DrainedRun struct {
	_ [0]func() // fields may be added

	Job *backfill.Job
	// At is the time of the database when it ran, in a database whose time was stopped; else of
	// this process.
	At time.Time
	// Kind is EventFinished, EventFailed or EventSnoozed; EventCanceled, if its handler's context
	// was ended by a cancel; or EventReturned, if it counts as not run.
	Kind  backfill.EventKind
	Err   error         // of EventFailed
	Final bool          // of EventFailed: there is no retry
	Delay time.Duration // until it runs again; 0: it does not, or at once
}

// LeftJob is a job that a drain has left.
type LeftJob struct {
	_ [0]func() // fields may be added

	backfill.Job

	Why    LeftReason
	Detail string // more about it, such as who has paused the task and why; may be empty
}

func (j LeftJob) String() string {
	text := fmt.Sprintf("job %d of task %s: %s", j.ID, j.Task, j.Why)
	if j.Why == LeftWaiting {
		text += " until " + j.RunAt.UTC().Format(time.RFC3339Nano)
	}
	if j.Detail != "" {
		text += " (" + j.Detail + ")"
	}
	return text
}

// LeftReason says why a job was left.
type LeftReason string

// The reasons.
const (
	LeftWaiting   LeftReason = "waiting"   // it is not due, but at its RunAt
	LeftPaused    LeftReason = "paused"    // its task or its queue is
	LeftUnserved  LeftReason = "unserved"  // the registry has no handler for its task
	LeftForbidden LeftReason = "forbidden" // it has a flag that the worker skips
	LeftExhausted LeftReason = "exhausted" // it has no attempts left, and there are no dead letters
	LeftSuspect   LeftReason = "suspect"   // it waits for a trial: workers have died that had it
	LeftBehind    LeftReason = "behind"    // another job is ahead of it in its queue
	LeftDue       LeftReason = "due"       // another transaction has its row locked, or it has become due just now
)

func drain(
	tb testing.TB, verb string, client *backfill.Client, registry *backfill.Registry, opts []DrainOption, until func(time.Time) time.Time,
) *Drained {
	tb.Helper()
	config, err := newDrainConfig(opts)
	var d *drainer
	if err == nil {
		d, err = newDrainer(tb.Context(), client, registry, config, until)
	}
	if err != nil {
		tb.Fatalf("testutil: %s: %v", verb, err)
		return nil
	}
	tb.Cleanup(func() {
		if tb.Failed() {
			tb.Logf("testutil: %s ran jobs in an order with testutil.Seed(%d)", verb, config.seed)
		}
	})
	err = d.run(tb.Context())
	for _, failure := range d.failures() {
		tb.Errorf("testutil: %s: %s", verb, failure)
	}
	if err != nil {
		tb.Fatalf("testutil: %s: %v", verb, err)
		return nil
	}
	for i, e := range config.expected {
		if !*e.met {
			tb.Errorf("testutil: %s: no failure is one that ExpectFailure %d of %d expects", verb, i+1, len(config.expected))
		}
	}
	return &d.drained
}

func newDrainConfig(opts []DrainOption) (drainConfig, error) {
	config := drainConfig{seed: rand.Uint64(), perJob: 1000, all: 10_000}
	for _, opt := range opts {
		switch opt := opt.(type) {
		case nil:
		case drainOption:
			opt.apply(&config)
		case backfill.WorkerOption:
			config.worker = append(config.worker, opt)
		default:
			return config, errors.New("an option is one of clients: give it to Open or NewClient")
		}
	}
	switch {
	case config.perJob < 1 || config.all < 1:
		return config, fmt.Errorf("MaxRuns: %d and %d: want 1 or more", config.perJob, config.all)
	case slices.ContainsFunc(config.expected, func(e expectation) bool { return e.match == nil }):
		return config, errors.New("ExpectFailure: the function is nil")
	}
	return config, nil
}

// newDrainer makes a drain of a client's database, where nobody else may be at work.
func newDrainer(
	ctx context.Context, client *backfill.Client, registry *backfill.Registry, config drainConfig, until func(time.Time) time.Time,
) (*drainer, error) {
	db, err := seam.DatabaseOf(ctx, client)
	if err != nil {
		return nil, err
	}
	d := &drainer{
		config: config, random: rand.New(rand.NewPCG(config.seed, config.seed)), //nolint:gosec // an order of tests
		table: drainTable{db.Pool, db.Schema}, runs: map[int64]int{}, fed: map[string]map[string]int{},
	}
	d.drained.Seed = config.seed
	if until != nil {
		d.clock, err = stopClock(ctx, db)
	} else {
		d.clock, err = runningClock(ctx, db)
	}
	if err != nil {
		return nil, err
	}
	if d.now, err = d.time(ctx); err != nil {
		return nil, err
	}
	if until != nil {
		if d.until = until(d.now).Truncate(time.Microsecond); d.until.Before(d.now) {
			return nil, fmt.Errorf("the time does not go back: it is %s, and %s is before", d.now.UTC().Format(time.RFC3339Nano),
				d.until.UTC().Format(time.RFC3339Nano))
		}
	}
	parts, err := seam.NewDrain(ctx, client, registry, config.worker, d.random.Float64)
	if err != nil {
		return nil, err
	}
	d.build(parts)
	return d, nil
}

// failures are those that nobody expects.
func (d *drainer) failures() (texts []string) {
	const most = 10
	failures := 0
	for _, run := range d.drained.Runs {
		if run.Kind != backfill.EventFailed || d.expects(run) {
			continue
		}
		if failures++; failures <= most {
			texts = append(texts, describe(run))
		}
	}
	if failures > most {
		texts = append(texts, fmt.Sprintf("%d more runs failed", failures-most))
	}
	return texts
}

func (d *drainer) expects(run DrainedRun) (expected bool) {
	for _, e := range d.config.expected { // all: each has to meet one
		if e.match(run.Job, run.Err) {
			*e.met, expected = true, true
		}
	}
	return expected
}

// describe says what is known of a failure. An error that knows more of itself, as where it was
// made, says it for %+v.
func describe(run DrainedRun) string {
	var text strings.Builder
	became := fmt.Sprintf("it is tried again in %v", run.Delay)
	if run.Final {
		became = "it is not tried again"
	}
	fmt.Fprintf(&text, "job %d of task %q failed, attempt %d of %d, %s: %v\npayload: %.2000s", run.Job.ID, run.Job.Task, run.Job.Attempt,
		run.Job.MaxAttempts, became, run.Err, run.Job.Args)
	if problem, ok := errors.AsType[*backfill.PanicError](run.Err); ok {
		fmt.Fprintf(&text, "\nstack:\n%s", problem.Stack)
	} else if more := fmt.Sprintf("%+v", run.Err); more != run.Err.Error() {
		fmt.Fprintf(&text, "\n%s", more)
	}
	return text.String()
}

// feed says which tasks have run most, and who has enqueued their jobs.
func (d *drainer) feed() string {
	runs := map[string]int{}
	for _, run := range d.drained.Runs {
		runs[run.Job.Task]++
	}
	var lines []string
	for _, task := range byCount(runs)[:min(3, len(runs))] {
		line := fmt.Sprintf("%s ran %d times", task, runs[task])
		if parents := d.fed[task]; len(parents) > 0 {
			first := byCount(parents)[0]
			line += fmt.Sprintf(", and %s has enqueued %d of its jobs", first, parents[first])
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "; ")
}

// byCount returns the keys, those with the largest numbers first.
func byCount(counts map[string]int) []string {
	keys := make([]string, 0, len(counts))
	for key := range counts {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b string) int { return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a, b)) })
	return keys
}

// kindOf says how a run ended.
func kindOf(outcome worker.Outcome) backfill.EventKind {
	switch outcome.Kind {
	case worker.OutcomeCompleted:
		return backfill.EventFinished
	case worker.OutcomeSnoozed:
		return backfill.EventSnoozed
	case worker.OutcomeReturned:
		return backfill.EventReturned
	case worker.OutcomeCanceled:
		return backfill.EventCanceled
	case worker.OutcomeFailed, worker.OutcomeExhausted:
	}
	return backfill.EventFailed
}
