package worker_test

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
	"github.com/backfillhq/go/internal/worker/storetest"
)

// fakeDB is the database that the fake stores of a test share. It keeps the rules of the real one
// in memory, by the clock of the bubble, and notes what breaks a promise.
type fakeDB struct {
	mu         sync.Mutex
	jobs       map[int64]*fakeJob
	order      []*fakeJob // the same, sorted when somebody claims
	queues     map[string]*fakeQueue
	workers    map[string]*fakeWorker
	server     int64 // when it started
	listeners  map[*fakeListener]struct{}
	tokens     map[string]bool // claim tokens that were used
	handling   map[*wire.Job]struct{}
	completed  map[int64]int
	superseded int
	crashes    []*fakeCrash
	letters    []*fakeLetter
	paused     map[fakePause]time.Time // until when; zero: for ever
	requests   map[int64]worker.Request
	canceled   map[int64]int
	refused    map[int64]bool       // changes of these rows are refused
	sweptAt    map[string]time.Time // when a worker last began to sweep for all
	answers    []string             // to operators: channel, and what was said
	history    map[int64][]storetest.Attempt
	historyOf  map[string]bool  // tasks that have one
	taskOf     map[int64]string // also of jobs that are gone
	counted    map[fakeCount]worker.Count
	progress   map[int64]worker.Progress
	lastID     int64
	violations []string
}

type fakeJob struct {
	wire.Job

	LockedBy  string
	LockedAt  time.Time
	LastError string
	FailedAt  time.Time
	Busy      bool // somebody else has the row locked
}

type fakeQueue struct {
	ID       int32
	LockedBy string
	LockedAt time.Time
	Held     bool // somebody else has the row locked
}

type fakeListener struct {
	notifications chan worker.Notification
	broken        chan error
}

func newDB(t *testing.T) *fakeDB {
	t.Helper()
	db := &fakeDB{
		jobs:      make(map[int64]*fakeJob),
		queues:    make(map[string]*fakeQueue),
		workers:   make(map[string]*fakeWorker),
		sweptAt:   make(map[string]time.Time),
		server:    1,
		listeners: make(map[*fakeListener]struct{}),
		tokens:    make(map[string]bool),
		handling:  make(map[*wire.Job]struct{}),
		completed: make(map[int64]int),
		refused:   make(map[int64]bool),
		paused:    make(map[fakePause]time.Time),
		requests:  make(map[int64]worker.Request),
		canceled:  make(map[int64]int),
		history:   make(map[int64][]storetest.Attempt),
		historyOf: make(map[string]bool),
		taskOf:    make(map[int64]string),
		counted:   make(map[fakeCount]worker.Count),
		progress:  make(map[int64]worker.Progress),
	}
	t.Cleanup(func() {
		for _, violation := range db.violations {
			t.Error(violation)
		}
	})
	return db
}

// violated notes a broken promise; db.mu is held.
func (db *fakeDB) violated(format string, args ...any) {
	db.violations = append(db.violations, fmt.Sprintf(format, args...))
}

// add commits n jobs like this one, without a notification, and returns their ids.
func (db *fakeDB) add(n int, like wire.Job) []int64 {
	db.mu.Lock()
	defer db.mu.Unlock()
	var ids []int64
	for range n {
		job := &fakeJob{Job: like}
		db.lastID++
		job.ID = db.lastID
		job.Task = cmp.Or(job.Task, "task")
		job.MaxAttempts = cmp.Or(job.MaxAttempts, 25)
		job.CreatedAt = time.Now()
		if job.RunAt.IsZero() {
			job.RunAt = time.Now()
		}
		if job.Queue != "" {
			if db.queues[job.Queue] == nil {
				db.queues[job.Queue] = &fakeQueue{ID: int32(len(db.queues) + 1)}
			}
			job.QueueID = db.queues[job.Queue].ID
		}
		db.jobs[job.ID] = job
		db.taskOf[job.ID] = job.Task
		db.order = append(db.order, job)
		ids = append(ids, job.ID)
	}
	return ids
}

// insert commits n jobs like this one and notifies.
func (db *fakeDB) insert(n int, like wire.Job) []int64 {
	ids := db.add(n, like)
	db.notify(worker.Notification{Kind: worker.NotifyJobs})
	return ids
}

func (db *fakeDB) notify(n worker.Notification) {
	db.mu.Lock()
	defer db.mu.Unlock()
	for l := range db.listeners {
		l.notifications <- n
	}
}

// breakListeners ends every listener's connection.
func (db *fakeDB) breakListeners(err error) {
	db.mu.Lock()
	defer db.mu.Unlock()
	for l := range db.listeners {
		l.broken <- err
	}
}

// update changes a job's row behind the worker's back.
func (db *fakeDB) update(id int64, change func(*fakeJob)) {
	db.mu.Lock()
	defer db.mu.Unlock()
	if job := db.jobs[id]; job != nil {
		change(job)
	}
}

// job returns a copy of a job's row; nil if it is gone.
func (db *fakeDB) job(id int64) *fakeJob {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.jobs[id] == nil {
		return nil
	}
	job := *db.jobs[id]
	return &job
}

// queue returns a copy of a queue's row.
func (db *fakeDB) queue(name string) fakeQueue {
	db.mu.Lock()
	defer db.mu.Unlock()
	return *db.queues[name]
}

// left returns how many jobs are not completed, and how many rows are locked.
func (db *fakeDB) left() (jobs, locked int) {
	db.mu.Lock()
	defer db.mu.Unlock()
	for _, job := range db.jobs {
		if job.LockedBy != "" {
			locked++
		}
	}
	for _, queue := range db.queues {
		if queue.LockedBy != "" {
			locked++
		}
	}
	return len(db.jobs), locked
}

// unlock ends a lease, as an operator's force_unlock does.
func (db *fakeDB) unlock(id int64) {
	db.mu.Lock()
	defer db.mu.Unlock()
	if job := db.jobs[id]; job != nil && job.LockedBy != "" {
		db.free(job.Queue, job.Lease.Claim())
		job.LockedBy = ""
	}
}

// kill marks a worker's row as dead.
func (db *fakeDB) kill(worker string) {
	db.mu.Lock()
	defer db.mu.Unlock()
	if row := db.workers[worker]; row != nil {
		row.Dead = true
	}
}

// rescue releases what dead workers have locked.
func (db *fakeDB) rescue() {
	db.mu.Lock()
	defer db.mu.Unlock()
	dead := func(lockedBy string) bool {
		id, _, _ := strings.Cut(lockedBy, ".")
		return lockedBy != "" && !db.alive(id)
	}
	for _, job := range db.jobs {
		if dead(job.LockedBy) {
			job.refund()
			job.LockedBy = ""
		}
	}
	for _, queue := range db.queues {
		if dead(queue.LockedBy) {
			queue.LockedBy = ""
		}
	}
}

// free frees a queue that this claim holds; db.mu is held.
func (db *fakeDB) free(queue, claim string) {
	if q := db.queues[queue]; q != nil && q.LockedBy == claim {
		q.LockedBy = ""
	}
}

// fakePause names a task or a queue.
type fakePause struct{ task, queue string }

// isPaused reports whether nobody is to start a job; db.mu is held.
func (db *fakeDB) isPaused(job *fakeJob) bool {
	for _, what := range []fakePause{{task: job.Task}, {queue: job.Queue}} {
		if until, paused := db.paused[what]; paused && (until.IsZero() || time.Now().Before(until)) {
			return true
		}
	}
	return false
}

// starts notes that a handler starts, and that no other may be running under a lease of the same
// job or queue.
func (db *fakeDB) starts(job *wire.Job) (ends func()) {
	db.mu.Lock()
	defer db.mu.Unlock()
	for other := range db.handling {
		same := other.ID == job.ID || other.QueueID != 0 && other.QueueID == job.QueueID
		if same && db.holds(other.Lease) && db.holds(job.Lease) {
			db.violated("job %d (queue %q) started while job %d (queue %q) ran under a valid lease", job.ID, job.Queue, other.ID, other.Queue)
		}
	}
	db.handling[job] = struct{}{}
	return func() {
		db.mu.Lock()
		defer db.mu.Unlock()
		delete(db.handling, job)
	}
}

// holds reports whether a lease is valid; db.mu is held.
func (db *fakeDB) holds(lease wire.Lease) bool {
	job := db.jobs[lease.ID]
	return job != nil && job.LockedBy == lease.Token
}

func (db *fakeDB) claim(request worker.ClaimRequest, tasks, transactional []string) worker.Claimed {
	db.mu.Lock()
	defer db.mu.Unlock()
	token := wire.ClaimToken(request.WorkerID, request.Number)
	if db.tokens[token] {
		db.violated("claim token %s was used twice", token)
	}
	db.tokens[token] = true
	if request.Batch < 1 || request.Batch > 500 || request.Serial < 0 || request.Serial > request.Batch {
		db.violated("claim asks for %d jobs, %d of them from queues", request.Batch, request.Serial)
	}
	if !db.alive(request.WorkerID) {
		return worker.Claimed{}
	}
	claimed := worker.Claimed{Alive: true}
	now := time.Now()
	locked, waiting, held := 0, 0, 0 // queues
	picked, connected := 0, 0
	bytes := int64(0)
	passed := make(map[int32]bool)
	db.order = slices.DeleteFunc(db.order, func(job *fakeJob) bool { return db.jobs[job.ID] == nil })
	slices.SortFunc(db.order, func(a, b *fakeJob) int { return wire.CompareJobs(&a.Job, &b.Job) })
	for _, job := range db.order {
		if db.isPaused(job) || request.Only != nil && !slices.Contains(request.Only, job.Task) {
			continue
		}
		if job.LockedBy != "" || job.Attempt >= job.MaxAttempts || !slices.Contains(tasks, job.Task) ||
			slices.ContainsFunc(job.Flags, func(flag string) bool { return slices.Contains(request.Forbidden, flag) }) {
			continue
		}
		if wait := job.RunAt.Sub(now); wait > 0 {
			if wait < 100*365*24*time.Hour && (claimed.NextDue == 0 || wait < claimed.NextDue) {
				claimed.NextDue = wait
			}
			continue
		}
		size := int64(len(job.Payload))
		if picked == request.Batch || len(claimed.Jobs) > 0 && request.Bytes > 0 && bytes+size > request.Bytes {
			claimed.More = true
			break
		}
		tooLarge := request.MaxPayload > 0 && size > request.MaxPayload
		if queue := db.queues[job.Queue]; queue != nil {
			if passed[job.QueueID] || queue.LockedBy != "" {
				continue
			}
			passed[job.QueueID] = true
			if slices.Contains(transactional, job.Task) && connected == request.Transactional {
				continue
			}
			waiting++
			if queue.Held {
				held++
			}
			if queue.Held || locked == request.Serial {
				continue
			}
			if job.Busy || tooLarge { // only the head: if it cannot be had, the queue is left alone
				continue
			}
			locked++
			queue.LockedBy, queue.LockedAt = token, now
		} else if job.Busy || tooLarge || slices.Contains(transactional, job.Task) && connected == request.Transactional {
			continue
		}
		if picked++; job.MaxAttempts == 1 && picked > request.Serial {
			if queue := db.queues[job.Queue]; queue != nil {
				queue.LockedBy = ""
			}
			claimed.MoreSerial = true
			continue
		}
		if bytes += size; slices.Contains(transactional, job.Task) {
			connected++
		}
		job.Attempt++
		job.LockedBy, job.LockedAt = token+"."+strconv.Itoa(job.Attempt), now
		if job.Key != "" {
			job.LockedBy += "k"
		}
		job.Token = job.LockedBy
		copied := job.Job
		claimed.Jobs = append(claimed.Jobs, &copied)
		if _, requested := db.requests[job.ID]; requested {
			claimed.Canceled = append(claimed.Canceled, job.ID)
		}
	}
	claimed.MoreSerial = claimed.MoreSerial || waiting > locked && locked == request.Serial
	claimed.MoreTransactional = len(transactional) > 0 && connected == request.Transactional
	claimed.Contended = held > 0 && held == waiting && request.Serial > 0
	return claimed
}

// end ends leases by change, which returns the time until the job is due again.
func (db *fakeDB) end(tasks []string, leases []wire.Lease, change func(i int, job *fakeJob) time.Duration) []worker.Fate {
	return db.endUnless(func(int, *fakeJob) bool { return false }, tasks, leases, change)
}

// endUnless ends leases of jobs that are not busy.
func (db *fakeDB) endUnless(
	busy func(i int, job *fakeJob) bool, tasks []string, leases []wire.Lease, change func(i int, job *fakeJob) time.Duration,
) []worker.Fate {
	db.mu.Lock()
	defer db.mu.Unlock()
	if len(leases) == 0 || len(leases) > 500 {
		db.violated("a statement ends %d leases", len(leases))
	}
	fates := make([]worker.Fate, len(leases))
	for i, lease := range leases {
		fates[i] = db.endOne(tasks, lease, func(job *fakeJob) bool { return busy(i, job) }, func(job *fakeJob) time.Duration { return change(i, job) })
	}
	return fates
}

// endOne ends one lease; db.mu is held.
func (db *fakeDB) endOne(
	tasks []string, lease wire.Lease, busy func(*fakeJob) bool, change func(*fakeJob) time.Duration,
) (fate worker.Fate) {
	job := db.jobs[lease.ID]
	if !db.holds(lease) {
		return db.lost(lease)
	}
	if queue := db.queues[job.Queue]; job.Busy || queue != nil && queue.Held || busy(job) {
		return worker.Fate{Kind: worker.FateBusy}
	}
	fate.Kind = worker.FateRecorded
	gone := superseded(job)
	request, requested := db.requests[job.ID]
	due := change(job)
	if next := db.next(job); next != nil && slices.Contains(tasks, next.Task) {
		fate.Next = worker.NextOwn
	} else if next != nil {
		fate.Next = worker.NextForeign
	}
	job.LockedBy = ""
	db.free(job.Queue, lease.Claim())
	switch {
	case requested:
		fate = worker.Fate{Kind: worker.FateCanceled, Next: fate.Next, Request: request}
		db.forgetCanceled(job)
	case db.jobs[lease.ID] == nil:
		if db.buried(lease.ID) {
			fate.Kind = worker.FateExhausted
		}
	case gone:
		fate.Kind = worker.FateSuperseded
		delete(db.jobs, lease.ID)
		db.superseded++
	case job.Attempt >= job.MaxAttempts:
		fate.Kind = worker.FateExhausted
	default:
		fate.Due = max(due, time.Microsecond)
	}
	return fate
}

// lost is the fate of a lease that is not held; db.mu is held.
func (db *fakeDB) lost(lease wire.Lease) worker.Fate {
	for _, queue := range db.queues { // R7
		if queue.ID == lease.QueueID && queue.LockedBy == lease.Claim() {
			queue.LockedBy = ""
		}
	}
	return worker.Fate{Kind: worker.FateLost}
}

// reclaim releases what is locked under a worker's id and is not held.
func (db *fakeDB) reclaim(workerID string, held []wire.Lease) (answer worker.Reclaimed) {
	db.mu.Lock()
	defer db.mu.Unlock()
	answer.Settled = true
	for _, job := range db.jobs {
		if !strings.HasPrefix(job.LockedBy, workerID+".") || slices.Contains(held, job.Lease) {
			continue
		}
		if job.Busy {
			answer.Settled = false
			continue
		}
		if c := db.knownCrash(job.ID, workerID); c != nil && c.tried && c.token == job.LockedBy && c.judged.IsZero() {
			if db.park(job); db.requested(job) {
				answer.Canceled = append(answer.Canceled, db.dropCanceled(job))
			}
			continue
		}
		job.refund()
		job.LockedBy = ""
		answer.Jobs++
		if db.requested(job) {
			answer.Canceled = append(answer.Canceled, db.dropCanceled(job))
		}
	}
	for name, queue := range db.queues {
		known := slices.ContainsFunc(held, func(l wire.Lease) bool { return l.QueueID == queue.ID && l.Claim() == queue.LockedBy })
		if !strings.HasPrefix(queue.LockedBy, workerID+".") || known || db.heldBy(name, queue.LockedBy) {
			continue
		}
		if queue.Held {
			answer.Settled = false
			continue
		}
		queue.LockedBy = ""
		answer.Queues++
	}
	return answer
}

// heldBy reports whether a claim still has a job of a queue locked; db.mu is held.
func (db *fakeDB) heldBy(queue, claim string) bool {
	for _, job := range db.jobs {
		if job.Queue == queue && strings.HasPrefix(job.LockedBy, claim+".") {
			return true
		}
	}
	return false
}

// refund gives an attempt back, unless the job was removed or superseded while it was locked (R3).
func (j *fakeJob) refund() {
	token := strings.TrimSuffix(j.Lease.Token, "k")
	attempt, _ := strconv.Atoi(token[strings.LastIndexByte(token, '.')+1:])
	if j.Attempt == attempt && !(strings.HasSuffix(j.Lease.Token, "k") && j.Key == "") {
		j.Attempt = max(0, j.Attempt-1)
	}
}

// next returns the job that is first in line in the queue of one that ends, if it is due; db.mu is
// held.
func (db *fakeDB) next(ends *fakeJob) (first *fakeJob) {
	for _, job := range db.jobs {
		if job.QueueID == 0 || job.QueueID != ends.QueueID || job.LockedBy != "" || job.Attempt >= job.MaxAttempts || job.RunAt.After(time.Now()) {
			continue
		}
		if first == nil || wire.CompareJobs(&job.Job, &first.Job) < 0 {
			first = job
		}
	}
	return first
}

func wait(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// alive reports whether a worker has a row that is not marked dead; db.mu is held.
func (db *fakeDB) alive(id string) bool {
	row := db.workers[id]
	return row != nil && !row.Dead
}

// refuses reports whether the database refuses a change of one of these rows.
func (db *fakeDB) refuses(ids []int64) bool {
	db.mu.Lock()
	defer db.mu.Unlock()
	return slices.ContainsFunc(ids, func(id int64) bool { return db.refused[id] })
}
