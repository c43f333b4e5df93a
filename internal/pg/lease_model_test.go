package pg_test

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// leaseModel is the lease protocol in memory: what the tables must hold after each step, and what a
// worker must be told. It knows no SQL. The machine (lease_machine_test.go) does every step in a
// database and here, and compares.
//
// A lease is the pair (job, token), and is held for as long as the job's row says the token: every
// method that ends or renews a lease begins with that question, and asks nothing else.
type leaseModel struct {
	jobs   map[int64]*leaseJob
	queues map[string]leaseLock // those that are locked
	alive  map[string]bool      // worker ids whose row is there and not marked dead
	told   map[string]bool      // those whose row says that their end was no crash
	gone   map[string]bool      // those whose row somebody has deleted

	canceled []int // requests whose jobs were deleted because somebody has asked for it, since the last check

	letters map[int64]*leaseLetter // dead letters, by the jobs that have become them
	makes   map[string]bool        // worker ids that make them
}

// leaseJob is a job's row.
type leaseJob struct {
	Key, Queue            string
	Priority              int
	Request               int // the number in the payload, by which an enqueue is known for ever
	Attempts, MaxAttempts int
	LastError             string
	RunAt                 time.Time
	Lock                  leaseLock
	Canceled              bool // its end was requested

	chosen bool // the database has chosen RunAt, which is only about right until it was read
	deaths int  // of workers that held this job
}

// leaseLock is what a job's or a queue's row says of its lock.
type leaseLock struct {
	By  string // "": it is free
	Old bool   // it is older than 4 hours
}

func newLeaseModel() *leaseModel {
	return &leaseModel{
		jobs: map[int64]*leaseJob{}, queues: map[string]leaseLock{}, alive: map[string]bool{}, told: map[string]bool{}, gone: map[string]bool{},
		letters: map[int64]*leaseLetter{}, makes: map[string]bool{},
	}
}

// Claims.

// available is the contract's is_available: nobody has the job, and it may be tried again.
func (j *leaseJob) available() bool { return j.Lock.By == "" && j.Attempts < j.MaxAttempts }

// due leaves a minute for the difference of clocks. What the machine puts off is put off by an
// hour.
func (j *leaseJob) due() bool { return j.RunAt.Before(time.Now().Add(time.Minute)) }

// claimable reports whether a claim may take a job now. Of a queue it is the first in line (R14),
// while nobody has the queue.
func (m *leaseModel) claimable(id int64) bool {
	j := m.jobs[id]
	return j != nil && j.available() && j.due() && (j.Queue == "" || m.queues[j.Queue].By == "" && m.head(j.Queue) == id)
}

// head returns the first in line of a queue.
func (m *leaseModel) head(queue string) int64 {
	line := m.find(func(j *leaseJob) bool { return j.Queue == queue && j.available() && j.due() })
	return slices.MinFunc(line, func(a, b int64) int {
		x, y := m.jobs[a], m.jobs[b]
		return cmp.Or(cmp.Compare(x.Priority, y.Priority), x.RunAt.Compare(y.RunAt), cmp.Compare(a, b))
	})
}

// claim gives a job to a claim. Its token names the claim, the attempt, and whether the job had a
// key (R2); the queue's names the claim alone.
func (m *leaseModel) claim(id int64, claim string) (token string) {
	j := m.jobs[id]
	j.Attempts++
	token = leaseToken(claim, j)
	m.lock(j, token, claim)
	return token
}

func (m *leaseModel) lock(j *leaseJob, token, claim string) {
	j.Lock = leaseLock{By: token}
	if j.Queue != "" {
		m.queues[j.Queue] = leaseLock{By: claim}
	}
}

// Ends of leases. Each returns what the worker is told.

// lease returns the job of a lease that is held.
func (m *leaseModel) lease(l wire.Lease) *leaseJob {
	if j := m.jobs[l.ID]; j != nil && j.Lock.By == l.Token {
		return j
	}
	return nil
}

func (m *leaseModel) complete(l heldLease) worker.FateKind {
	j := m.lease(l.Lease)
	if j == nil {
		return m.lost(l)
	}
	m.clear(j.Key)
	m.freeQueue(l.queue, l.Claim())
	if j.Canceled {
		return m.cancel(l.ID)
	}
	delete(m.jobs, l.ID)
	return worker.FateRecorded
}

func (m *leaseModel) fail(l heldLease, outcome worker.Outcome) worker.FateKind {
	j := m.lease(l.Lease)
	if j == nil || j.Canceled {
		return m.endCanceled(l)
	}
	if outcome.Reason != "" && !j.superseded(l.Lease) && (outcome.Kind == worker.OutcomeExhausted || j.Attempts >= j.MaxAttempts) {
		m.freeQueue(l.queue, l.Claim())
		m.bury(l.ID, outcome.Reason, outcome.Text)
		return worker.FateExhausted
	}
	return m.end(j, l, func() {
		j.LastError = outcome.Text
		j.RunAt, j.chosen = later(j.RunAt).Add(outcome.Delay), true
		if outcome.Kind == worker.OutcomeExhausted {
			j.Attempts = max(j.Attempts, j.MaxAttempts)
		}
	})
}

// release gives a job back, or snoozes it.
func (m *leaseModel) release(l heldLease, outcome worker.Outcome) worker.FateKind {
	j := m.lease(l.Lease)
	if j == nil || j.Canceled {
		return m.endCanceled(l)
	}
	return m.end(j, l, func() {
		j.refund(l.Lease)
		if outcome.Kind == worker.OutcomeSnoozed { // else it keeps its place
			j.RunAt, j.chosen = time.Now().Add(outcome.Delay), true
		}
	})
}

func (m *leaseModel) renew(l heldLease) worker.FateKind {
	if m.queues[l.queue].By == l.Claim() {
		m.queues[l.queue] = leaseLock{By: l.Claim()}
	}
	j := m.lease(l.Lease)
	if j == nil {
		return m.lost(l)
	}
	j.Lock.Old = false
	return worker.FateRecorded
}

// lost changes nothing of a job whose lease somebody else has ended. Its queue may still be locked
// by the lease's claim, and nobody else would free it (R7).
func (m *leaseModel) lost(l heldLease) worker.FateKind {
	m.freeQueue(l.queue, l.Claim())
	return worker.FateLost
}

// end ends a lease that is held. A job that was removed or superseded while it ran is deleted.
func (m *leaseModel) end(j *leaseJob, l heldLease, record func()) worker.FateKind {
	m.freeQueue(l.queue, l.Claim())
	if j.superseded(l.Lease) {
		delete(m.jobs, l.ID)
		return worker.FateSuperseded
	}
	record()
	j.Lock = leaseLock{}
	if j.Attempts < j.MaxAttempts {
		return worker.FateRecorded
	}
	return worker.FateExhausted
}

func (m *leaseModel) freeQueue(queue, by string) {
	if queue != "" && m.queues[queue].By == by {
		delete(m.queues, queue)
	}
}

// refund gives back the attempt of a lease, unless somebody has changed the attempts meanwhile
// (R3).
func (j *leaseJob) refund(l wire.Lease) {
	if j.Attempts == l.Attempt() {
		j.Attempts = max(0, j.Attempts-1)
	}
}

// crashed ends a job that has one attempt in all, with this verdict: it may have started (R9).
func (m *leaseModel) crashed(l wire.Lease, verdict error, reason worker.Reason) bool {
	j := m.jobs[l.ID]
	if j.MaxAttempts != 1 || j.Attempts != 1 || l.Attempt() != 1 {
		return false
	}
	j.LastError = strings.TrimSuffix(verdict.Error()+"\n"+j.LastError, "\n")
	if owner, _, _ := strings.Cut(l.Token, "."); m.makesLetters(owner) {
		m.bury(l.ID, reason, j.LastError)
	}
	return true
}

// superseded: a job that had a key when it was claimed can only lose it by being removed or
// superseded (R3).
func (j *leaseJob) superseded(l wire.Lease) bool {
	return strings.HasSuffix(l.Token, "k") && j.Key == ""
}

// What is done for workers that cannot.

// leasesRescued is what a rescue has done.
type leasesRescued struct {
	Jobs, Crashed, Canceled []int64
	Queues                  int
}

// rescue releases what is locked by workers that are dead (R4).
func (m *leaseModel) rescue(ids []string) (done leasesRescued) {
	dead := func(by string) bool {
		id, _, token := strings.Cut(by, ".") // a Node worker's is no token
		return token && slices.Contains(ids, id) && !m.alive[id]
	}
	for _, id := range m.find(func(j *leaseJob) bool { return dead(j.Lock.By) }) {
		j := m.jobs[id]
		l := wire.Lease{ID: id, Token: j.Lock.By}
		if j.Canceled {
			m.cancel(id)
			done.Canceled = append(done.Canceled, id)
			continue
		}
		verdict, reason := worker.ErrCrashed, worker.ReasonCrashed
		if owner, _, _ := strings.Cut(j.Lock.By, "."); m.told[owner] {
			verdict, reason = worker.ErrInterrupted, worker.ReasonInterrupted
		}
		j.Lock = leaseLock{}
		j.deaths++
		switch {
		case j.superseded(l):
			delete(m.jobs, id)
		case m.crashed(l, verdict, reason):
			done.Crashed = append(done.Crashed, id)
		default:
			j.refund(l)
			done.Jobs = append(done.Jobs, id)
		}
	}
	done.Queues = m.freeQueues(dead)
	return done
}

// unlockWorker is what an operator does who says that a worker is dead. A job that was removed or
// superseded keeps its row, for the operator.
func (m *leaseModel) unlockWorker(id string) (jobs, queues int) {
	m.told[id] = m.told[id] || m.alive[id]
	m.alive[id] = false
	mine := func(lock leaseLock) bool { return lock.ofWorker(id) }
	for _, job := range m.find(func(j *leaseJob) bool { return mine(j.Lock) }) {
		j := m.jobs[job]
		jobs++
		if j.Canceled { // its queue is freed with the others
			j.Lock = leaseLock{}
			m.cancel(job)
			continue
		}
		if l := (wire.Lease{ID: job, Token: j.Lock.By}); !j.superseded(l) && !m.crashed(l, worker.ErrCrashed, worker.ReasonCrashed) {
			j.refund(l)
		}
		j.Lock = leaseLock{}
	}
	return jobs, m.freeQueues(func(by string) bool { return mine(leaseLock{By: by}) })
}

// reclaim releases what a worker's claims have locked that it does not know of (R6).
func (m *leaseModel) reclaim(id string, held []wire.Lease) (answer worker.Reclaimed) {
	unknown := func(known func(wire.Lease) string) func(string) bool {
		return func(by string) bool {
			return strings.HasPrefix(by, id+".") && !slices.ContainsFunc(held, func(l wire.Lease) bool { return known(l) == by })
		}
	}
	mine := unknown(func(l wire.Lease) string { return l.Token })
	for _, id := range m.find(func(j *leaseJob) bool { return mine(j.Lock.By) }) {
		j := m.jobs[id]
		if l := (wire.Lease{Token: j.Lock.By}); !j.superseded(l) {
			j.refund(l)
		}
		j.Lock = leaseLock{}
		answer.Jobs++
		if j.Canceled {
			m.cancel(id)
			answer.Canceled = append(answer.Canceled, worker.CanceledJob{Job: &wire.Job{Lease: wire.Lease{ID: id}}})
		}
	}
	answer.Queues, answer.Settled = m.freeQueues(unknown(wire.Lease.Claim)), true
	return answer
}

func (m *leaseModel) freeQueues(which func(by string) bool) (freed int) {
	for queue, lock := range m.queues {
		if which(lock.By) {
			delete(m.queues, queue)
			freed++
		}
	}
	return freed
}

// find returns the jobs that have a property, by their ids.
func (m *leaseModel) find(which func(*leaseJob) bool) (ids []int64) {
	for id, j := range m.jobs {
		if which(j) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// later is greatest(now(), t).
func later(t time.Time) time.Time {
	if now := time.Now(); t.Before(now) {
		return now
	}
	return t
}
