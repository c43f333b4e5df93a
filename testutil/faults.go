package testutil

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/backfillhq/go/backfill"
)

// Trial is what [Faults] runs, each time from its beginning.
type Trial struct {
	_ [0]func() // fields may be added

	// Client is on a database of this trial's own, that of pgtest.New(tb).
	Client *backfill.Client
	// Registry makes the handlers of one process. It is called for each worker: what handlers keep in
	// their fields is gone after a crash.
	Registry func() *backfill.Registry
	// Enqueue enqueues the jobs to begin with. Those that handlers enqueue run too.
	Enqueue func(ctx context.Context) error
	// State returns what the handlers have done: the rows of their tables, say, and the mails that
	// were sent. It leaves out what differs from run to run, such as times and generated ids, and
	// sorts. States are compared with go-cmp.
	State func(ctx context.Context) (any, error)
	// Options are those of the workers. They run one job at a time. Default: none.
	Options []backfill.WorkerOption
}

// Faults fails the test for each task that is not idempotent. Setup makes a new trial, with a
// database of its own, for each run; its tb is that of the run, whose clean-ups are called at its
// end.
//
// First it runs the jobs without faults, twice, to learn what they do. Then each of these jobs
// meets each of these faults, one in a run, at each point, and State must be what it was:
//
//   - killed: the worker's process ends, before a statement of the handler's, or when it has returned
//     and its success is not recorded. Statements from the point on do not arrive, and the server rolls
//     open transactions back. The lease is taken, and another worker runs the job again.
//   - duplicated: the process is frozen, at the handler's start or before a statement. The lease is
//     taken, another worker runs the job, and then the first run goes on to its end, which is not
//     recorded. If the other waits for a lock of the first, that goes on after 2 seconds.
//   - canceled: the worker stops, and the handler's context ends, at its start or before a statement.
//     Another worker runs the job.
//   - late: the job starts when all others have ended, and its RunAt and CreatedAt are 25 hours earlier.
//
// Workers, leases, transactions and the database are real. A failure names the task, its args, the
// fault and the point, and shows how State differs. There are 20 points of a fault for each job at
// most: of more, some are left out, which the test's log says.
//
// Points between statements need [FaultTracer], and handlers that pass their context on. Faults
// does not see what State does not show. It knows no points between other effects, such as calls
// over HTTP: a handler is killed before or after all of them. Package variables outlive what counts
// as the end of a process, and the clock does not move. Two runs never overlap but at those points.
// A job with one attempt in all is started once, whatever happens, so it only meets late.
func Faults(tb testing.TB, setup func(tb testing.TB) Trial) {
	tb.Helper()
	f := &faults{tb: tb, setup: setup}
	f.learn()
	for i := range f.jobs {
		for _, fault := range []fault{killed, duplicated, canceled, late} {
			if f.jobs[i].once && fault != late {
				continue
			}
			f.try(&f.jobs[i], fault)
		}
	}
	f.report()
}

const (
	faultPoints   = 20               // of a fault and a job
	faultPatience = 2 * time.Second  // until a run that is overtaken goes on, for whoever waits for its locks
	faultLimit    = 2 * time.Minute  // of one run
	lateBy        = 25 * time.Hour   // how much earlier a late job was enqueued
	faultDrain    = 10 * time.Minute // of a worker whose handler is kept at a point
	faultRounds   = 10               // runs of a worker for jobs that are snoozed
)

// fault is what a job meets.
type fault string

const (
	killed     fault = "killed"
	duplicated fault = "duplicated"
	canceled   fault = "canceled"
	late       fault = "late"
)

// subject is a job that meets faults: the nth of its task.
type subject struct {
	task  string
	nth   int
	args  string
	once  bool     // it has one attempt
	texts []string // of its statements
}

type faults struct {
	tb       testing.TB
	setup    func(tb testing.TB) Trial
	jobs     []subject
	clean    any // the state after a run without faults
	findings []finding
}

// finding is what a fault has shown of a job.
type finding struct {
	subject *subject
	fault   fault
	points  []string
	what    string // of the first point
}

// learn runs the trial without faults, twice.
func (f *faults) learn() {
	f.tb.Helper()
	var again any
	for _, state := range []*any{&f.clean, &again} {
		f.inTrial(func(ctx context.Context, t *stage) {
			t.log = true
			err := t.work(ctx)
			if err == nil && len(t.deaths) > 0 {
				err = fmt.Errorf("a job fails without any fault: %s", strings.Join(t.deaths, "; "))
			}
			if err == nil {
				*state, err = t.State(ctx)
			}
			if err != nil {
				f.tb.Fatalf("testutil: Faults: the run without faults: %v", err)
			}
			f.jobs = t.subjects()
		})
	}
	if len(f.jobs) == 0 {
		f.tb.Fatalf("testutil: Faults: no job has run: Enqueue has to enqueue jobs of the registry's tasks")
	}
	if diff := compareAny(f.clean, again); diff != "" {
		f.tb.Fatalf("testutil: Faults: State differs between two runs without faults: leave out what does, such as times and ids:\n%s", diff)
	}
}

// try runs the trial once for each point of a fault.
func (f *faults) try(job *subject, fault fault) {
	f.tb.Helper()
	points := []int{0}
	if fault != late {
		for statement := range job.texts[min(1, len(job.texts)):] {
			points = append(points, statement+2) // before the first one is at the start
		}
	}
	if len(points) > faultPoints {
		f.tb.Logf("testutil: Faults: job %d of task %q has %d points at which it can be %s: %d of them are tried",
			job.nth, job.task, len(points), fault, faultPoints)
		var some []int
		for i := range faultPoints {
			some = append(some, points[i*(len(points)-1)/(faultPoints-1)])
		}
		points = some
	}
	found := finding{subject: job, fault: fault}
	for _, point := range points {
		what := ""
		f.inTrial(func(ctx context.Context, t *stage) { what = f.shoot(ctx, t, job, newShot(fault, point)) })
		if what != "" {
			found.what = cmp.Or(found.what, what)
			found.points = append(found.points, job.place(fault, point))
		}
	}
	if len(found.points) > 0 {
		f.findings = append(f.findings, found)
	}
}

// place says where a point is.
func (j *subject) place(fault fault, point int) string {
	switch {
	case fault == late:
		return "by 25 hours, behind all other jobs"
	case point == 0 && fault == killed:
		return "when its handler had returned"
	case point == 0:
		return "at its start"
	}
	text := strings.Join(strings.Fields(j.texts[point-1]), " ")
	if len(text) > 100 {
		text = text[:100] + "…"
	}
	return fmt.Sprintf("before statement %d of %d, %s", point, len(j.texts), text)
}

// shoot runs the trial with one fault, and returns what is wrong afterwards; "": nothing.
func (f *faults) shoot(ctx context.Context, t *stage, job *subject, shot *shot) string {
	f.tb.Helper()
	t.target, t.shot = job, shot
	var err error
	notes := ""
	if shot.fault == late {
		err = t.work(ctx)
	} else {
		notes, err = t.disturb(ctx)
	}
	var state any
	if err == nil {
		state, err = t.State(ctx)
	}
	t.letGo()
	if err != nil {
		return fmt.Sprintf("%sthe jobs did not run to their end: %v", notes, err)
	}
	wrong := []string{notes}
	for _, death := range t.deaths {
		wrong = append(wrong, "afterwards a job fails for good: "+death+"\n")
	}
	if diff := compareAny(f.clean, state); diff != "" {
		wrong = append(wrong, "State differs (-without faults, +with it):\n"+diff)
	}
	return strings.Join(wrong, "")
}

// report fails the test for what was found.
func (f *faults) report() {
	f.tb.Helper()
	for _, found := range f.findings {
		others := ""
		if n := len(found.points); n > 1 {
			others = fmt.Sprintf(" (and at %d other points)", n-1)
		}
		f.tb.Errorf("testutil: task %q is not idempotent: %s %s%s, with args %s\n%s",
			found.subject.task, found.fault, found.points[0], others, found.subject.args, strings.TrimRight(found.what, "\n"))
	}
}

// inTrial sets a trial up and runs its jobs.
func (f *faults) inTrial(run func(ctx context.Context, t *stage)) {
	f.tb.Helper()
	ctx, cancel := context.WithTimeout(f.tb.Context(), faultLimit)
	s := &scope{TB: f.tb, ctx: ctx}
	defer s.end()
	defer cancel()
	t := &stage{Trial: f.setup(s), ids: map[int64]int{}, counts: map[string]int{}}
	if t.Client == nil || t.Registry == nil || t.Enqueue == nil || t.State == nil {
		f.tb.Fatalf("testutil: Faults: the Trial lacks its Client, Registry, Enqueue or State")
	}
	if err := t.Enqueue(ctx); err != nil {
		f.tb.Fatalf("testutil: Faults: enqueue the jobs: %v", err)
	}
	run(ctx, t)
}

// scope is a test of its own for the run of a trial: its clean-ups do not wait for the end of the
// test.
type scope struct {
	testing.TB

	ctx      context.Context //nolint:containedctx // the test's
	cleanups []func()
}

func (s *scope) Context() context.Context { return s.ctx }
func (s *scope) Cleanup(cleanup func())   { s.cleanups = append(s.cleanups, cleanup) }

func (s *scope) end() {
	for len(s.cleanups) > 0 {
		last := len(s.cleanups) - 1
		cleanup := s.cleanups[last]
		s.cleanups = s.cleanups[:last]
		cleanup()
	}
}

// stage is one run of a trial.
type stage struct {
	Trial

	log    bool     // statements are counted
	target *subject // the job that meets shot; nil: none does
	shot   *shot
	end    func() // lets a handler go that was kept for good; nil: none was

	mu     sync.Mutex
	jobs   []*subject // in the order of their first runs
	shots  []*shot    // of them
	ids    map[int64]int
	counts map[string]int // of the jobs of a task
	put    bool           // the late job was put off
	shotAt bool           // the target has met its fault
	deaths []string
}

func (t *stage) subjects() (jobs []subject) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, job := range t.jobs {
		job.texts = t.shots[i].texts
		jobs = append(jobs, *job)
	}
	return jobs
}

// worker returns a worker as a process of its own would have it.
func (t *stage) worker(own ...backfill.WorkerOption) (*backfill.Worker, error) {
	opts := append([]backfill.WorkerOption{
		backfill.WithLogger(slog.New(slog.DiscardHandler)), backfill.WithMiddleware(t.around), backfill.WithObserver(t.observe),
	}, t.Options...)
	opts = append(opts, backfill.WithConcurrency(1), backfill.WithScheduled())
	return t.Client.NewWorker(t.Registry(), append(opts, own...)...)
}

// work runs all jobs to their end.
func (t *stage) work(ctx context.Context) error {
	for range faultRounds {
		worker, err := t.worker()
		if err != nil {
			return err
		}
		report, err := worker.RunOnce(ctx)
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || report.Snoozed == 0 {
			return err
		}
	}
	return fmt.Errorf("a job was snoozed in each of %d runs", faultRounds)
}

func (t *stage) observe(event backfill.Event) {
	if event.Kind == backfill.EventDead || event.Kind == backfill.EventFailed && event.Final {
		death := fmt.Sprintf("task %q, args %s: %v", event.Job.Task, shortArgs(event.Job.Args), event.Err)
		t.mu.Lock()
		defer t.mu.Unlock()
		if !slices.Contains(t.deaths, death) && !errors.Is(event.Err, errCut) {
			t.deaths = append(t.deaths, death)
		}
	}
}

// around is the outermost middleware of all workers of the run.
func (t *stage) around(next backfill.HandlerFunc) backfill.HandlerFunc {
	return func(ctx context.Context, job *backfill.Job) error {
		shot, putOff := t.meets(job)
		switch {
		case putOff:
			return backfill.Snooze(time.Hour)
		case shot != nil:
			return shot.run(ctx, job, next)
		}
		return next(ctx, job)
	}
}

// meets says what becomes of a run.
func (t *stage) meets(job *backfill.Job) (with *shot, putOff bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	at, known := t.ids[job.ID]
	if !known {
		t.counts[job.Task]++
		at = len(t.jobs)
		t.ids[job.ID] = at
		t.jobs = append(t.jobs, &subject{
			task: job.Task, nth: t.counts[job.Task], args: shortArgs(job.Args), once: job.MaxAttempts == 1,
		})
		t.shots = append(t.shots, newShot("", 0))
	}
	this := t.jobs[at]
	switch is := t.target != nil && this.task == t.target.task && this.nth == t.target.nth; {
	case t.log && !known:
		return t.shots[at], false
	case !is:
		return nil, false
	case t.shot.fault == late:
		putOff, t.put = !t.put, true
		job.RunAt, job.CreatedAt = job.RunAt.Add(-lateBy), job.CreatedAt.Add(-lateBy)
		return nil, putOff
	case t.shotAt:
		return nil, false
	}
	t.shotAt = true
	return t.shot, false
}

// disturb runs the jobs in a worker until the target is at its point, takes its lease, and runs the
// rest in another worker. It returns what is wrong with how the first one ended.
func (t *stage) disturb(ctx context.Context) (notes string, err error) {
	drain := faultDrain
	if t.shot.fault == canceled {
		drain = 0
	}
	first, err := t.worker(backfill.WithDrainTimeout(drain))
	if err != nil {
		return "", err
	}
	running, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = first.RunOnce(running) // its end is an accident
	}()
	release := sync.OnceFunc(func() { close(t.shot.release) })
	t.end = func() { release(); <-ended }
	select {
	case <-t.shot.reached:
	case <-ended:
		return "", t.work(ctx) // this time the job does not come here
	}
	stop()
	if t.shot.fault == canceled {
		<-ended
		select {
		case <-t.shot.returned:
		default:
			notes = "its handler goes on for more than 5 seconds after its context has ended\n"
		}
		return notes, t.work(ctx)
	}
	if _, err := t.Client.UnlockWorker(ctx, first.Health().WorkerID); err != nil {
		return "", fmt.Errorf("take the lease: %w", err)
	}
	if t.shot.fault == killed {
		if t.shot.point == 0 { // it has done all that it does: what is open is rolled back
			t.end()
		}
		return "", t.work(ctx)
	}
	overtaking := make(chan error, 1)
	go func() { overtaking <- t.work(ctx) }()
	select {
	case err = <-overtaking:
		t.end()
	case <-time.After(faultPatience):
		t.end()
		err = <-overtaking
	}
	return "", errors.Join(err, t.work(ctx)) // what the first run has enqueued
}

// letGo ends what was kept.
func (t *stage) letGo() {
	if t.end != nil {
		t.end()
	}
}
