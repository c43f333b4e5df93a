// Package storetest is the contract of worker.Store: the same cases for every implementation. The
// Store on PostgreSQL has to pass them, and so has the one in memory on which the worker's own
// tests run, so that what these prove holds for the real one.
package storetest

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// Database is a database of a test's own, as others see and change it.
type Database interface {
	// NewStore returns the Store of one more worker.
	NewStore() worker.Store
	// Add commits a job and returns its id. Of the job count Task, Queue, Key, Priority, Payload (nil:
	// {}), MaxAttempts (0: 25), Attempt, Flags, and RunAt.
	Add(job wire.Job) int64
	// Job returns a job's row; ok is false if it is gone.
	Job(id int64) (row Row, ok bool)
	// QueueLock returns who has locked a queue.
	QueueLock(queue string) string

	// LockJob and LockQueue lock a row as an open transaction does, until unlock is called.
	LockJob(id int64) (unlock func())
	LockQueue(queue string) (unlock func())
	// Delete removes a job's row, whoever has locked it.
	Delete(id int64)
	// Relock changes locked_by of a job; "" unlocks it.
	Relock(id int64, lockedBy string)
	// RelockQueue changes locked_by of a queue; "" unlocks it.
	RelockQueue(queue, lockedBy string)
	// LockWorker locks a worker's row as an open transaction does.
	LockWorker(workerID string) (unlock func())
	// Change sets attempts and run_at of a job, whoever has locked it.
	Change(id int64, attempts int, runAt time.Time)
	// Supersede enqueues another job with a job's key, as add_job does, and Remove takes the job away
	// as remove_job does.
	Supersede(id int64)
	Remove(id int64)
	// Keyed returns the job that has a key.
	Keyed(key string) int64
	// Fail sets last_error of a job.
	Fail(id int64, text string)
	// Age makes the locks of a job and of its queue older.
	Age(id int64, by time.Duration)
	// EndSession ends the session of a Store's heartbeats, as its process or the network would.
	EndSession(store worker.Store)
	// Forget deletes a worker's row.
	Forget(workerID string)
	// AgeSweep makes the time at which a worker has begun to sweep older.
	AgeSweep(workerID string, by time.Duration)
	// Letter returns the dead letter that a job has become; ok is false if there is none.
	Letter(id int64) (letter Letter, ok bool)
	// Requeue sends the dead letter of a job back as another one, and returns that. The dead letter
	// refers to it.
	Requeue(id int64) int64
	// LockLetter locks the dead letter of a job, or the one that it was requeued from, as an open
	// transaction does.
	LockLetter(id int64) (unlock func())
	// AgeLetter makes the failure of a dead letter's job older.
	AgeLetter(id int64, by time.Duration)
	// Exhaust makes a job fail for good some time ago, as a Node worker does.
	Exhaust(id int64, text string, ago time.Duration)
	// Refuse makes the database refuse every change of a job's row, for what the row holds.
	Refuse(id int64)
	// Pause keeps the jobs of a task or a queue from starting, until then or, if it is zero, until
	// Resume.
	Pause(task, queue string, until time.Time)
	Resume(task, queue string)
	// Request stores a request to end a job, and Requested reports whether there is one.
	Request(id int64, request worker.Request)
	Requested(id int64) bool
	// History returns what the history has of a job, in the order in which it ended.
	History(id int64) []Attempt
	// Counted returns the sums of what workers have counted of a task.
	Counted(task string) Counted
	// Progress returns how far a job is in the attempt that runs; the zero value: nothing is known.
	Progress(id int64) Progress
}

// Row is what the contract says of a job's row.
type Row struct {
	Attempts, MaxAttempts int
	LastError             string
	LockedBy              string
	Payload               string
	Wait                  time.Duration // until run_at, in whole minutes; 0: it is due
}

// Letter is what the contract says of a dead letter.
type Letter struct {
	Task, Queue, Key, Payload string
	Priority                  int
	Attempts, MaxAttempts     int
	Reason                    worker.Reason
	Count                     int // how often the job has failed for good
	LastError, FirstError     string
}

// Run runs the contract. open returns a new database, within the test that in may wrap.
func Run(t *testing.T, open func(*testing.T) Database, in func(*testing.T, func(*testing.T))) {
	t.Helper()
	for name, test := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in(t, func(t *testing.T) {
				t.Helper()
				test(newRig(t, open(t)))
			})
		})
	}
}

// cases are the contract, by what they say.
var cases = map[string]func(*rig){}

func init() { //nolint:gochecknoinits // the cases refer to the rig that the table is declared for
	groups := []map[string]func(*rig){
		claimCases, endCases, lostCases, sweepCases, registerCases, rescueCases, crashCases, trialCases, pauseCases, letterCases, txCases,
		cancelCases, historyCases,
	}
	for _, group := range groups {
		maps.Copy(cases, group)
	}
}

// rig is one worker's Store, which serves the tasks "a" and "b".
type rig struct {
	Database

	t      *testing.T
	store  worker.Store
	id     string
	claims uint64
	tries  bool // it has tried suspects
}

func newRig(t *testing.T, db Database, tasks ...string) *rig {
	t.Helper()
	return register(t, db, worker.Registration{Tasks: tasks, DeadLetters: true})
}

func register(t *testing.T, db Database, registration worker.Registration) *rig {
	t.Helper()
	r := &rig{Database: db, t: t, store: db.NewStore(), id: wire.NewWorkerID()}
	registration.ID, registration.Slots = r.id, 20
	if len(registration.Tasks) == 0 {
		registration.Tasks = []string{"a", "b"}
	}
	for _, task := range registration.Tasks {
		if strings.HasPrefix(task, "tx") {
			registration.Transactional = append(registration.Transactional, task)
		}
	}
	if err := r.store.Register(r.ctx(), registration); err != nil {
		t.Fatal(err)
	}
	return r
}

// other is one more worker on the database.
func (r *rig) other() *rig { return newRig(r.t, r.Database) }

// without is one that makes no dead letters.
func (r *rig) without(tasks ...string) *rig {
	return register(r.t, r.Database, worker.Registration{Tasks: tasks})
}

// serving is one that serves other tasks. Those whose names begin with tx are transactional.
func (r *rig) serving(tasks ...string) *rig { return newRig(r.t, r.Database, tasks...) }

// ctx has the deadline that every call has. Nothing in the contract waits for as long.
func (r *rig) ctx() context.Context {
	ctx, cancel := context.WithTimeout(r.t.Context(), 20*time.Second)
	r.t.Cleanup(cancel)
	return ctx
}

// add adds a job of task a, unless it says another.
func (r *rig) add(job wire.Job) int64 {
	if job.Task == "" {
		job.Task = "a"
	}
	if job.RunAt.IsZero() {
		job.RunAt = time.Now().Add(-time.Minute)
	}
	return r.Add(job)
}

// try claims once.
func (r *rig) try(request worker.ClaimRequest) worker.Claimed {
	r.t.Helper()
	r.claims++
	request.WorkerID, request.Number = r.id, r.claims
	claimed, err := r.store.Claim(r.ctx(), request)
	if err != nil {
		r.t.Fatal(err)
	}
	return claimed
}

// claim claims up to n jobs, in as many claims as it takes: a Store may round batches down.
func (r *rig) claim(n int) (jobs []*wire.Job) {
	r.t.Helper()
	for tries := 0; len(jobs) < n && tries < 50; tries++ {
		claimed := r.try(worker.ClaimRequest{Batch: n - len(jobs), Serial: n - len(jobs)})
		jobs = append(jobs, claimed.Jobs...)
		switch {
		case len(claimed.Jobs) > 0 || claimed.More || claimed.Contended || claimed.MoreSerial:
		case claimed.Again > 0:
			<-time.After(claimed.Again)
		default:
			tries = 50
		}
	}
	slices.SortFunc(jobs, wire.CompareJobs)
	return jobs
}

// only claims the one job that there is.
func (r *rig) only() *wire.Job {
	r.t.Helper()
	jobs := r.claim(1)
	if len(jobs) != 1 {
		r.t.Fatalf("claimed %d jobs, want 1", len(jobs))
	}
	return jobs[0]
}

// none checks that there is nothing to claim.
func (r *rig) none() {
	r.t.Helper()
	if jobs := r.claim(1); len(jobs) > 0 {
		r.t.Errorf("claimed job %d, want none", jobs[0].ID)
	}
}

func (r *rig) complete(jobs ...*wire.Job) []worker.Fate {
	r.t.Helper()
	return r.fates(r.store.Complete(r.ctx(), leases(jobs)))
}

// fail records failures, as a worker does that makes dead letters.
func (r *rig) fail(outcome worker.Outcome, jobs ...*wire.Job) []worker.Fate {
	r.t.Helper()
	switch {
	case outcome.Reason != "":
	case outcome.Kind == worker.OutcomeExhausted:
		outcome.Reason = worker.ReasonPermanent
	default:
		outcome.Reason = worker.ReasonExhausted
	}
	return r.leave(outcome, jobs...)
}

// leave records them as they are: without a reason, jobs that fail for good stay in their rows.
func (r *rig) leave(outcome worker.Outcome, jobs ...*wire.Job) []worker.Fate {
	r.t.Helper()
	return r.fates(r.store.Fail(r.ctx(), ended(outcome, jobs)))
}

func (r *rig) release(outcome worker.Outcome, jobs ...*wire.Job) []worker.Fate {
	r.t.Helper()
	return r.fates(r.store.Release(r.ctx(), ended(outcome, jobs)))
}

func (r *rig) fates(fates []worker.Fate, err error) []worker.Fate {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
	return fates
}

// endings are the ways to end a lease.
func (r *rig) endings() map[string]func(...*wire.Job) []worker.Fate {
	return map[string]func(...*wire.Job) []worker.Fate{
		"complete": r.complete,
		"fail": func(jobs ...*wire.Job) []worker.Fate {
			return r.fail(worker.Outcome{Kind: worker.OutcomeFailed, Text: "no", Delay: time.Hour}, jobs...)
		},
		"return": func(jobs ...*wire.Job) []worker.Fate {
			return r.release(worker.Outcome{Kind: worker.OutcomeReturned}, jobs...)
		},
		"snooze": func(jobs ...*wire.Job) []worker.Fate {
			return r.release(worker.Outcome{Kind: worker.OutcomeSnoozed, Delay: time.Hour}, jobs...)
		},
	}
}

// each runs a test for each way to end a lease.
func (r *rig) each(test func(name string, end func(...*wire.Job) []worker.Fate)) {
	r.t.Helper()
	for name, end := range r.endings() {
		test(name, end)
	}
}

// kinds checks the kinds of fates.
func (r *rig) kinds(what string, fates []worker.Fate, want ...worker.FateKind) {
	r.t.Helper()
	got := make([]worker.FateKind, len(fates))
	for i, fate := range fates {
		got[i] = fate.Kind
	}
	if diff := cmp.Diff(want, got); diff != "" {
		r.t.Errorf("%s: fates (-want +got):\n%s", what, diff)
	}
}

// row checks a job's row; nil: it is gone.
func (r *rig) row(id int64, want *Row) {
	r.t.Helper()
	var got *Row
	if row, ok := r.Job(id); ok {
		got = &row
	}
	if want != nil && want.MaxAttempts == 0 {
		want.MaxAttempts = 25
	}
	if want != nil && want.Payload == "" {
		want.Payload = "{}"
	}
	if diff := cmp.Diff(want, got); diff != "" {
		r.t.Errorf("row of job %d (-want +got):\n%s", id, diff)
	}
}

// letter checks the dead letter that a job has become, and that the job is gone.
func (r *rig) letter(id int64, want Letter) {
	r.t.Helper()
	if want.MaxAttempts == 0 {
		want.MaxAttempts = 25
	}
	if want.Task == "" {
		want.Task = "a"
	}
	if want.Payload == "" {
		want.Payload = "{}"
	}
	if want.FirstError == "" {
		want.FirstError = want.LastError
	}
	want.Count = max(want.Count, 1)
	got, ok := r.Letter(id)
	if diff := cmp.Diff(want, got); diff != "" || !ok {
		r.t.Errorf("dead letter of job %d (-want +got):\n%s", id, diff)
	}
	r.row(id, nil)
}

// noLetter checks that a job has become no dead letter.
func (r *rig) noLetter(id int64) {
	r.t.Helper()
	if letter, ok := r.Letter(id); ok {
		r.t.Errorf("job %d has become the dead letter %+v", id, letter)
	}
}

// free checks that a queue is not locked.
func (r *rig) free(queue string) {
	r.t.Helper()
	if by := r.QueueLock(queue); by != "" {
		r.t.Errorf("queue %q is locked by %s", queue, by)
	}
}

// ids checks which jobs were claimed, and in what order.
func (r *rig) ids(what string, jobs []*wire.Job, want ...int64) {
	r.t.Helper()
	var got []int64
	for _, job := range jobs {
		got = append(got, job.ID)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		r.t.Errorf("%s: jobs (-want +got):\n%s", what, diff)
	}
}

func leases(jobs []*wire.Job) []wire.Lease {
	list := make([]wire.Lease, len(jobs))
	for i, job := range jobs {
		list[i] = job.Lease
	}
	return list
}

func ended(outcome worker.Outcome, jobs []*wire.Job) []worker.Ended {
	list := make([]worker.Ended, len(jobs))
	for i, job := range jobs {
		list[i] = worker.Ended{Lease: job.Lease, Outcome: outcome}
	}
	return list
}

// claimOf returns the claim that a lease came from.
func claimOf(job *wire.Job) string { return job.Token[:strings.LastIndexByte(job.Token, '.')] }
