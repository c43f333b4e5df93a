package pg_test

import (
	"strings"

	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// Requests to end jobs in the model.

// request is what somebody does who cancels a job: one that waits is deleted, and for one that a
// worker of ours has, a request is stored.
func (m *leaseModel) request(id int64) (ended, requested bool) {
	j := m.jobs[id]
	if j.available() {
		m.cancel(id)
		return true, false
	}
	requested = strings.Contains(j.Lock.By, ".")
	j.Canceled = j.Canceled || requested
	return false, requested
}

// cancel deletes a job because its end was requested.
func (m *leaseModel) cancel(id int64) worker.FateKind {
	j := m.jobs[id]
	if j.Lock.By != "" {
		m.freeQueue(j.Queue, wire.Lease{Token: j.Lock.By}.Claim())
	}
	m.canceled = append(m.canceled, j.Request)
	delete(m.jobs, id)
	return worker.FateCanceled
}

// endCanceled ends a lease whose job is to end, or which is lost: then the job may be free, and to
// end.
func (m *leaseModel) endCanceled(l heldLease) worker.FateKind {
	held := m.lease(l.Lease) != nil
	m.freeQueue(l.queue, l.Claim())
	if j := m.jobs[l.ID]; j != nil && j.Canceled && (held || j.endable()) {
		return m.cancel(l.ID)
	}
	return worker.FateLost
}

// endable reports whether nobody runs a job.
func (j *leaseJob) endable() bool { return j.Canceled && (j.Lock.By == "" || j.Lock.Old) }

// look deletes what is to end and nobody runs.
func (m *leaseModel) look() (ended []int64) {
	for _, id := range m.find((*leaseJob).endable) {
		m.cancel(id)
		ended = append(ended, id)
	}
	return ended
}
