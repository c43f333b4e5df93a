package pg_test

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/internal/worker"
)

// The steps that are about dead letters, in the database and in the model.

// reason is the reason that a worker gives with an outcome.
func (m *leaseMachine) reason(w *leaseWorker, outcome worker.Outcome) worker.Reason {
	switch {
	case !m.model.makes[w.id]:
		return ""
	case outcome.Kind == worker.OutcomeExhausted:
		return worker.ReasonPermanent
	default:
		return worker.ReasonExhausted
	}
}

// requeue sends a dead letter back, in the order of R20, unless a job has its key.
func (m *leaseMachine) requeue() {
	id := pick(m, "letter", m.lettersWith(func(l *leaseLetter) bool { return l.Requeued == 0 && m.model.keyed(l.Key) == 0 }))
	letter := m.model.letters[id]
	var again int64
	must(m, m.pool.QueryRow(m.ctx(), `with job as (
		insert into graphile_worker._private_jobs (task_id, payload, max_attempts, key)
		select t.id, d.payload, d.max_attempts, d.job_key from graphile_worker.backfill_dlq as d
		  join graphile_worker._private_tasks as t on t.identifier = d.task_identifier
		 where d.original_job_id = $1 and d.requeued_job_id is null returning id
	) update graphile_worker.backfill_dlq as d set requeued_job_id = job.id from job
	   where d.original_job_id = $1 and d.requeued_job_id is null returning job.id`, id).Scan(&again))
	m.model.requeue(id, again, leaseJob{Key: letter.Key, Request: letter.Request, MaxAttempts: letter.MaxAttempts, RunAt: time.Now(), chosen: true})
	m.requests[letter.Request].mayStart++
	m.requests[letter.Request].revived = true // also of one that was superseded after it had failed
}

// deleteLetter has an operator delete a dead letter, requeued or not.
func (m *leaseMachine) deleteLetter() {
	id := pick(m, "letter", m.lettersWith(func(*leaseLetter) bool { return true }))
	letter := m.model.letters[id]
	m.exec("delete from graphile_worker.backfill_dlq where original_job_id = $1 and coalesce(requeued_job_id, 0) = $2", id, letter.Requeued)
	delete(m.model.letters, id)
	if letter.Requeued == 0 {
		m.requests[letter.Request].end("deleted as a dead letter")
	}
}

// sweepLetters has a worker sweep a day after all failures.
func (m *leaseMachine) sweepLetters() {
	w := m.living()
	failed := m.model.failed()
	m.exec(`update graphile_worker._private_jobs set updated_at = updated_at - interval '1 day',
		run_at = case when attempts >= max_attempts then run_at - interval '1 day' else run_at end`)
	m.exec("update graphile_worker.backfill_workers set swept_at = null")
	for _, id := range m.model.find(func(j *leaseJob) bool { return j.Attempts >= j.MaxAttempts }) {
		j := m.model.jobs[id]
		j.RunAt = j.RunAt.Add(-24 * time.Hour)
	}
	swept, err := w.store.Sweep(m.ctx(), w.id, false)
	must(m, err)
	if !swept.Turn || !swept.Done {
		m.broken("a sweep ends early", fmt.Sprintf("%+v", swept))
	}
	var got []int64
	for _, job := range swept.Dead {
		got = append(got, job.ID)
	}
	m.seen["sweep: dead letters"] += len(got)
	if diff := cmp.Diff(failed, got); diff != "" {
		m.broken("a sweep makes dead letters of other jobs", diff)
	}
	m.model.buryFailed(failed)
	m.model.sweep(true)
}

func (m *leaseMachine) lettersWith(which func(*leaseLetter) bool) (ids []int64) {
	for _, id := range slices.Sorted(maps.Keys(m.model.letters)) {
		if which(m.model.letters[id]) {
			ids = append(ids, id)
		}
	}
	return ids
}

// checkLetters compares the dead letters with the model. It notes the requests that they hold.
func (m *leaseMachine) checkLetters(has map[int]bool) {
	rows, err := m.pool.Query(m.ctx(), `select original_job_id, coalesce(job_key, ''), (payload->>'n')::int, failure_reason, attempts, max_attempts, failure_count,
		last_error, first_error, coalesce(requeued_job_id, 0) from graphile_worker.backfill_dlq`)
	must(m, err)
	letters := map[int64]*leaseLetter{}
	var id int64
	var l leaseLetter
	_, err = pgx.ForEachRow(rows, []any{
		&id, &l.Key, &l.Request, &l.Reason, &l.Attempts, &l.MaxAttempts, &l.Count, &l.LastError, &l.FirstError, &l.Requeued,
	}, func() error {
		if letters[id] != nil {
			m.broken("a job is two dead letters", fmt.Sprint(id))
		}
		letter := l
		letters[id] = &letter
		if letter.Requeued == 0 {
			has[letter.Request] = true
		}
		return nil
	})
	must(m, err)
	if diff := cmp.Diff(m.model.letters, letters); diff != "" {
		m.broken("the dead letters are not those of the model", diff)
	}
}
