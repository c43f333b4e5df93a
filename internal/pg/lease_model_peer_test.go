package pg_test

import (
	"strconv"
	"strings"
	"time"

	"github.com/backfillhq/go/internal/wire"
)

// What others do to the tables of the model: applications that enqueue, a Node worker, operators.
// The contract's functions leave a job that is locked alone for 4 hours, and then treat it as free.

// untouchable: the contract's functions for operators pass over the job.
func (j *leaseJob) untouchable() bool { return j.Lock.By != "" && !j.Lock.Old }

// keyed returns the job that has a key; 0: none.
func (m *leaseModel) keyed(key string) int64 {
	for id, j := range m.jobs {
		if key != "" && j.Key == key {
			return id
		}
	}
	return 0
}

// replaced is what an enqueue has done to the job that had its key.
type replaced int

const (
	nothingReplaced replaced = iota
	jobOverwritten           // the row has the new request now
	jobSuperseded            // it lost its key, may be running, and is not tried again
	jobKept                  // and the new request is dropped
)

// add is an enqueue. It returns what becomes of the job that has the key. id is that of the row
// that the database says it has written.
func (m *leaseModel) add(id int64, job leaseJob, mode wire.KeyMode) (old int64, what replaced) {
	old = m.keyed(job.Key)
	job.chosen = true
	switch had := m.jobs[old]; {
	case had == nil:
	case mode == wire.KeyUnsafeDedupe:
		return old, jobKept
	case had.available():
		if mode == wire.KeyPreserveRunAt && had.Attempts == 0 {
			job.RunAt, job.chosen = had.RunAt, had.chosen
		}
		job.Canceled = had.Canceled // the request names the row
		m.jobs[old] = &job
		return old, jobOverwritten
	default:
		had.Key, had.Attempts = "", had.MaxAttempts
		what = jobSuperseded
	}
	m.jobs[id] = &job
	return old, what
}

// remove is remove_job. It reports whether the row is gone; if not, the job is running, and is not
// tried again.
func (m *leaseModel) remove(id int64) (gone bool) {
	j := m.jobs[id]
	if j.untouchable() {
		j.Key, j.Attempts = "", j.MaxAttempts
		return false
	}
	delete(m.jobs, id)
	return true
}

// deleteFree is complete_jobs. It leaves the queue to who has it.
func (m *leaseModel) deleteFree(id int64) (gone bool) {
	if m.jobs[id].untouchable() {
		return false
	}
	delete(m.jobs, id)
	return true
}

func (m *leaseModel) permanentlyFail(id int64) {
	if j := m.jobs[id]; !j.untouchable() {
		j.LastError, j.Attempts = "Manually marked as failed", j.MaxAttempts
	}
}

// reschedule is reschedule_jobs, with what it is to change.
func (m *leaseModel) reschedule(id int64, runAt *time.Time, attempts *int) (done bool) {
	j := m.jobs[id]
	if j.untouchable() {
		return false
	}
	if runAt != nil {
		j.RunAt, j.chosen = *runAt, true
	}
	if attempts != nil {
		j.Attempts = *attempts
	}
	return true
}

// unlock is force_unlock_workers: it compares whole values.
func (m *leaseModel) unlock(values []string) {
	for _, by := range values {
		for _, j := range m.jobs {
			if j.Lock.By == by {
				j.Lock = leaseLock{}
			}
		}
		m.freeQueues(func(locked string) bool { return locked == by })
	}
}

// sweep releases old locks. The attempt stays charged. Ours leaves jobs that are to end to whoever
// looks for those.
func (m *leaseModel) sweep(ours bool) {
	for _, j := range m.jobs {
		if j.Lock.Old && !(ours && j.Canceled) {
			j.Lock = leaseLock{}
			if now := time.Now(); j.RunAt.Before(now) {
				j.RunAt, j.chosen = now, true
			}
		}
	}
	for queue, lock := range m.queues {
		if lock.Old {
			delete(m.queues, queue)
		}
	}
}

// A Node worker. It has one id for all its locks, and does not ask for them when a job has
// succeeded.

func (m *leaseModel) nodeClaim(id int64, node string) {
	j := m.jobs[id]
	j.Attempts++
	m.lock(j, node, node)
}

func (m *leaseModel) nodeComplete(id int64, node string) {
	if j := m.jobs[id]; j != nil {
		delete(m.jobs, id)
		m.freeQueue(j.Queue, node)
	}
}

func (m *leaseModel) nodeFail(id int64, node, text string, delay time.Duration) {
	if j := m.jobs[id]; j != nil && j.Lock.By == node {
		j.LastError, j.Lock = text, leaseLock{}
		j.RunAt, j.chosen = later(j.RunAt).Add(delay), true
		m.freeQueue(j.Queue, node)
	}
}

// leaseToken is what locked_by of a job says that a claim has taken.
func leaseToken(claim string, j *leaseJob) string {
	token := claim + "." + strconv.Itoa(j.Attempts)
	if j.Key != "" {
		token += "k"
	}
	return token
}

// ofWorker reports whether a lock is a token of a worker.
func (l leaseLock) ofWorker(id string) bool { return strings.HasPrefix(l.By, id+".") }
