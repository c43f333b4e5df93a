package pg_test

import (
	"fmt"
	"slices"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/internal/pg/query"
	"github.com/backfillhq/go/internal/worker"
)

// The steps that are about requests to end jobs, in the database and in the model.

// request has somebody cancel a job, whatever becomes of it just then.
func (m *leaseMachine) request() {
	locked := m.below("locked", 4) > 0
	id := pick(m, "job", m.model.find(func(j *leaseJob) bool { return !locked || j.Lock.By != "" }))
	rows, err := query.New(m.pool).CancelJobs(m.ctx(), query.CancelJobsParams{Ids: []int64{id}, RequestedBy: "ops"})
	must(m, err)
	// Whoever has stored it looks no more: that of a job that Node has completed goes with the next
	// look.
	m.exec("update graphile_worker.backfill_cancels set requested_at = requested_at - interval '10 seconds'")
	ended, requested := m.model.request(id)
	if got := rows[0]; got.Ended != ended || got.Requested != requested {
		m.broken("a request is answered otherwise", fmt.Sprintf("%+v, want ended: %v, requested: %v", got, ended, requested))
	}
	m.seen["cancel: "+map[bool]string{true: "waiting", false: "other"}[ended]]++
	if requested {
		m.seen["cancel: running"]++
	}
}

// lookForRequests has a worker look for what is to end, as it does every 2 seconds.
func (m *leaseMachine) lookForRequests() { m.look(m.worker()) }

func (m *leaseMachine) look(w *leaseWorker) {
	var ids []int64
	want := make(map[int64]worker.Request)
	for _, l := range w.believed() {
		ids = append(ids, l.ID)
		if j := m.model.jobs[l.ID]; j != nil && j.Canceled {
			want[l.ID] = worker.Request{By: "ops"}
		}
	}
	found, err := w.store.Requested(m.ctx(), ids)
	must(m, err)
	// Of one that is gone the request may be left until somebody has looked.
	for id := range found.Jobs {
		if m.model.jobs[id] == nil {
			delete(found.Jobs, id)
		}
	}
	if diff := cmp.Diff(want, found.Jobs); diff != "" {
		m.broken("a worker is told of other requests", diff)
	}
	ended := m.model.look()
	m.seen["look: cancelled"] += len(ended)
	if diff := cmp.Diff(ended, canceledIDs(found.Ended)); diff != "" {
		m.broken("a look ends other jobs", diff)
	}
	var left int
	must(m, m.pool.QueryRow(m.ctx(), `select count(*)::int from graphile_worker.backfill_cancels
		where job_id not in (select id from graphile_worker._private_jobs)`).Scan(&left))
	if left > 0 {
		m.broken("requests are left without their jobs", fmt.Sprint(left))
	}
}

// dropCanceled has a worker give back what its claim has said is not to run. It returns the others.
func (m *leaseMachine) dropCanceled(w *leaseWorker, leases []*heldLease) []*heldLease {
	isCanceled := func(l *heldLease) bool { return l.canceled }
	for _, l := range leases {
		if l.canceled {
			m.release(w, []*heldLease{l}, worker.Outcome{Kind: worker.OutcomeCanceled})
		}
	}
	return slices.DeleteFunc(leases, isCanceled)
}

func canceledIDs(jobs []worker.CanceledJob) (ids []int64) {
	for _, job := range jobs {
		ids = append(ids, job.ID)
	}
	slices.Sort(ids)
	return ids
}
