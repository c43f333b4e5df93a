package pg_test

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/schema"
	"github.com/backfillhq/go/internal/wire"
)

// The steps of others than Go workers, in the database and in the model.

// enqueue adds a job, by ourselves or by the contract's add_job. Its key may be that of a job that
// waits, runs, or has failed.
func (m *leaseMachine) enqueue() {
	job := leaseJob{
		Key:         pick(m, "key", []string{"", "", "k"}),
		Queue:       pick(m, "queue", []string{"", "q", "q"}),
		Priority:    m.below("priority", 2),
		MaxAttempts: pick(m, "max_attempts", []int{25, 2, 1}),
		Request:     len(m.requests), RunAt: time.Now(),
	}
	var runAt *time.Time // the database's now
	if m.below("scheduled", 8) == 0 {
		job.RunAt = job.RunAt.Add(time.Hour)
		runAt = &job.RunAt
	}
	mode := pick(m, "mode", []wire.KeyMode{wire.KeyReplace, wire.KeyPreserveRunAt, wire.KeyUnsafeDedupe})
	var id int64
	if m.below("by", 2) == 0 {
		must(m, m.pool.QueryRow(m.ctx(), `select id from graphile_worker.add_job('a', $1::json, nullif($2, ''), $3,
			job_key := nullif($4, ''), priority := $5, max_attempts := $6, job_key_mode := $7)`,
			payloadOf(job.Request), job.Queue, runAt, job.Key, job.Priority, job.MaxAttempts, string(mode)).Scan(&id))
	} else {
		spec := wire.Spec{
			Task: "a", Payload: []byte(payloadOf(job.Request)), Queue: job.Queue, Key: job.Key, KeyMode: mode,
			Priority: int16(job.Priority), MaxAttempts: int16(job.MaxAttempts), //nolint:gosec // small
		}
		if runAt != nil {
			spec.RunAt = *runAt
		}
		jobs, _, err := pg.NewInserter(m.pool, schemaName, schema.WritesTables).InsertAll(m.ctx(), []wire.Spec{spec}, nil)
		must(m, err)
		id = jobs[0].ID
	}
	request := &leaseRequest{mayStart: 1}
	m.requests = append(m.requests, request)
	had := m.model.jobs[m.model.keyed(job.Key)] // the model may overwrite it
	old, what := m.model.add(id, job, mode)
	if (what == jobOverwritten || what == jobKept) != (old == id) {
		m.broken("an enqueue writes another row than that of its key", fmt.Sprintf("job %d, beside %d", id, old))
	}
	switch what {
	case nothingReplaced:
	case jobKept:
		m.seen["enqueue: kept"]++
		request.end("dropped for the sake of another with its key")
	case jobOverwritten:
		m.seen["enqueue: overwritten"]++
		m.requests[had.Request].end("superseded")
	case jobSuperseded:
		m.seen["enqueue: superseded"]++
		m.requests[had.Request].end("superseded")
	}
}

// remove removes a job by its key.
func (m *leaseMachine) remove() {
	id := pick(m, "job", m.model.find(func(j *leaseJob) bool { return j.Key != "" }))
	j := m.model.jobs[id]
	m.exec("select graphile_worker.remove_job($1)", j.Key)
	m.requests[j.Request].end("removed")
	if m.model.remove(id) {
		m.seen["remove: deleted"]++
	} else {
		m.seen["remove: running"]++
	}
}

// completeFree deletes a job by the contract's complete_jobs.
func (m *leaseMachine) completeFree() {
	id := m.forOperator()
	m.exec("select graphile_worker.complete_jobs(array[$1::bigint])", id)
	request := m.model.jobs[id].Request
	if m.model.deleteFree(id) {
		m.requests[request].end("completed by an operator")
	}
}

// permanentlyFail fails a job by the contract's permanently_fail_jobs.
func (m *leaseMachine) permanentlyFail() {
	id := m.forOperator()
	m.exec("select graphile_worker.permanently_fail_jobs(array[$1::bigint])", id)
	m.model.permanentlyFail(id)
}

// reschedule changes a job by the contract's reschedule_jobs. To say how often it was tried is to
// say that it may be tried again, also of one that was superseded.
func (m *leaseMachine) reschedule() {
	id := m.forOperator()
	var runAt *time.Time
	if d := pick(m, "run_at", []time.Duration{-time.Hour, 0, time.Hour}); d != 0 {
		at := time.Now().Add(d)
		runAt = &at
	}
	var attempts *int
	if n := m.below("attempts", 3); n < 2 {
		attempts = &n
	}
	m.exec("select graphile_worker.reschedule_jobs(array[$1::bigint], run_at := $2, attempts := $3)", id, runAt, attempts)
	if m.model.reschedule(id, runAt, attempts) && attempts != nil {
		request := m.requests[m.model.jobs[id].Request]
		request.mayStart++
		request.revived = true
	}
}

// forceUnlock releases locks by the contract's force_unlock_workers, which takes whole values: that
// of a job, of a queue, or both.
func (m *leaseMachine) forceUnlock() {
	var values []string
	for range 1 + m.below("how many", 2) {
		values = append(values, m.lock().by)
	}
	m.unlock(values)
}

func (m *leaseMachine) unlock(values []string) {
	m.exec("select graphile_worker.force_unlock_workers($1::text[])", values)
	m.model.unlock(values)
}

// unlockWorker declares a worker dead and releases what it has, as "backfill unlock" does.
func (m *leaseMachine) unlockWorker() {
	w := pick(m, "worker", m.those(func(w *leaseWorker) bool { return m.model.alive[w.id] && len(m.has(w)) > 0 }))
	jobs, queues, _, err := pg.NewAdmin(m.pool, schemaName).Unlock(m.ctx(), w.id)
	must(m, err)
	if wantJobs, wantQueues := m.model.unlockWorker(w.id); jobs != wantJobs || queues != wantQueues {
		m.broken("an unlock releases other locks", fmt.Sprintf("%d jobs and %d queues, want %d and %d", jobs, queues, wantJobs, wantQueues))
	}
}

// ageLocks lets 5 hours pass for the lock of a job or of a queue. Whoever renews them may reach one
// and not the other.
func (m *leaseMachine) ageLocks() {
	for range 1 + m.below("how many", 2) {
		m.age(m.lock())
	}
}

func (m *leaseMachine) age(lock machineLock) {
	const old = "set locked_at = now() - interval '5 hours' where "
	if lock.queue != "" {
		m.exec("update graphile_worker._private_job_queues "+old+"queue_name = $1", lock.queue)
		m.model.queues[lock.queue] = leaseLock{By: lock.by, Old: true}
		return
	}
	m.exec("update graphile_worker._private_jobs "+old+"id = $1", lock.job)
	m.model.jobs[lock.job].Lock.Old = true
}

// machineLock is the lock of a job or of a queue.
type machineLock struct {
	job   int64
	queue string
	by    string
}

// lock draws one of those that there are.
func (m *leaseMachine) lock() machineLock {
	var locks []machineLock
	for _, id := range m.locked() {
		locks = append(locks, machineLock{job: id, by: m.model.jobs[id].Lock.By})
	}
	for _, queue := range slices.Sorted(maps.Keys(m.model.queues)) {
		locks = append(locks, machineLock{queue: queue, by: m.model.queues[queue].By})
	}
	return pick(m, "lock", locks)
}

func (m *leaseMachine) locked() []int64 {
	return m.model.find(func(j *leaseJob) bool { return j.Lock.By != "" })
}

// sweep releases old locks, as Node workers do, or ours.
func (m *leaseMachine) sweep() {
	ours := m.below("by", 2) > 0
	if !ours {
		m.exec(`update graphile_worker._private_jobs set locked_by = null, locked_at = null, run_at = greatest(now(), run_at)
			where now() - locked_at > interval '4 hours'`)
		m.exec(`update graphile_worker._private_job_queues set locked_by = null, locked_at = null
			where now() - locked_at > interval '4 hours'`)
	} else {
		_, _, err := pg.NewAdmin(m.pool, schemaName).Sweep(m.ctx())
		must(m, err)
	}
	m.model.sweep(ours)
}

// nodeClaims has a Node worker claim a job, and begin it.
func (m *leaseMachine) nodeClaims() {
	id := pick(m, "job", m.claimable())
	m.exec(`with claimed as (
		update graphile_worker._private_jobs set attempts = attempts + 1, locked_by = $2, locked_at = now()
		where id = $1 returning job_queue_id)
		update graphile_worker._private_job_queues as s set locked_by = $2, locked_at = now() from claimed where s.id = claimed.job_queue_id`, id, m.node)
	m.model.nodeClaim(id, m.node)
	m.nodeJobs = append(m.nodeJobs, id)
	m.start([]*heldLease{{request: m.model.jobs[id].Request, most: m.model.jobs[id].MaxAttempts}})
}

// nodeCompletes has the Node worker delete a job that it has begun, whoever has it now.
func (m *leaseMachine) nodeCompletes() { m.nodeComplete(m.nodeJob()) }

func (m *leaseMachine) nodeComplete(id int64) {
	m.exec(`with gone as (delete from graphile_worker._private_jobs where id = $1 returning job_queue_id)
		update graphile_worker._private_job_queues as s set locked_by = null, locked_at = null
		from gone where s.id = gone.job_queue_id and s.locked_by = $2`, id, m.node)
	if j := m.model.jobs[id]; j != nil {
		m.requests[j.Request].end("deleted by Node")
	}
	m.model.nodeComplete(id, m.node)
}

// nodeFails has it report a failure, which it does for what it still has.
func (m *leaseMachine) nodeFails() {
	id := m.nodeJob()
	m.exec(`with failed as (
		update graphile_worker._private_jobs set locked_by = null, locked_at = null, last_error = 'no',
		run_at = greatest(now(), run_at) + interval '1 hour' where id = $1 and locked_by = $2 returning job_queue_id)
		update graphile_worker._private_job_queues as s set locked_by = null, locked_at = null
		from failed where s.id = failed.job_queue_id and s.locked_by = $2`, id, m.node)
	m.model.nodeFail(id, m.node, "no", time.Hour)
}

// nodeJob draws a job that Node has begun, and has it forget it.
func (m *leaseMachine) nodeJob() int64 {
	id := pick(m, "job", m.nodeJobs)
	i := slices.Index(m.nodeJobs, id)
	m.nodeJobs = slices.Delete(m.nodeJobs, i, i+1)
	return id
}

// forOperator draws a job for one of the contract's functions. They act on a lock that is old.
func (m *leaseMachine) forOperator() int64 {
	if m.below("locked for long", 2) == 0 {
		id := pick(m, "job", m.locked())
		m.age(machineLock{job: id})
		return id
	}
	return pick(m, "job", m.model.find(func(*leaseJob) bool { return true }))
}
