package testutil

import (
	"cmp"
	"encoding/json"
	"slices"
	"time"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// table stands for the table of jobs: what it does to a row is what the database does.
type table struct {
	rows   []*row
	lastID int64
	ends   map[int64]ending // of jobs that have ended, by their ids
	kept   map[string]bool  // the tasks that have a history
}

// row is a job that waits, runs, or has failed for good and is no dead letter.
type row struct {
	job     *backfill.Job // Attempt is that of the row. Enqueue returns it: it is replaced, never changed
	running bool
	keyed   bool      // it had a key when it was claimed
	updated time.Time // when it was enqueued last
}

// status returns the row as a client would.
func (r *row) status(now time.Time) *backfill.JobStatus {
	status := &backfill.JobStatus{Job: *r.job, State: backfill.JobDue, UpdatedAt: r.updated}
	switch {
	case r.running:
		status.State = backfill.JobRunning
	case !r.available():
		status.State = backfill.JobFailed
	case r.job.RunAt.After(now):
		status.State = backfill.JobWaiting
	}
	return status
}

// available reports whether the row can still be claimed and changed by its key.
func (r *row) available() bool { return !r.running && r.job.Attempt < r.job.MaxAttempts }

// change replaces the row's job by a copy that was changed.
func (r *row) change(edit func(job *backfill.Job)) {
	job := *r.job
	edit(&job)
	r.job = &job
}

// keyed returns the row with a key; nil if there is none.
func (t *table) keyed(key string) *row {
	i := slices.IndexFunc(t.rows, func(r *row) bool { return key != "" && r.job.Key == key })
	if i < 0 {
		return nil
	}
	return t.rows[i]
}

// insert returns the job of a request: a new one, or the waiting one with the same key, changed. A
// job that runs or has failed for good gives its key up to a new one.
func (t *table) insert(request backfill.Request, now time.Time) (*backfill.Job, []change) {
	job := newJob(request, now)
	old := t.keyed(request.Key)
	var changes []change
	if old != nil {
		before := old.job
		switch {
		case request.KeyMode == backfill.UnsafeDedupe && !old.available():
			return before, nil
		case request.KeyMode == backfill.UnsafeDedupe:
			old.change(func(job *backfill.Job) { job.Revision++ })
		case old.available():
			job.ID, job.CreatedAt, job.Revision = before.ID, before.CreatedAt, before.Revision+1
			job.Args = merge(before.Args, job.Args)
			if request.KeyMode == backfill.PreserveRunAt && before.Attempt == 0 {
				job.RunAt = before.RunAt
			}
			old.job, old.updated = job, now
		default:
			old.change(func(job *backfill.Job) { job.Key, job.Attempt = "", job.MaxAttempts })
		}
		changes = append(changes, change{old, before, old.job})
		if old.job.Key != "" {
			return old.job, changes
		}
	}
	t.lastID++
	job.ID = t.lastID
	added := &row{job: job, updated: now}
	t.rows = append(t.rows, added)
	return job, append(changes, change{added, nil, job})
}

// change is what an insert has done to a row.
type change struct {
	row           *row
	before, after *backfill.Job // before is nil if the row was added
}

// rollBack undoes changes, the last one first, but not those of jobs that others have changed or
// claimed since. Ids stay used, as they do in a database.
func (t *table) rollBack(changes []change) {
	for _, c := range slices.Backward(changes) {
		switch {
		case c.row.job != c.after:
		case c.before == nil:
			t.rows = slices.DeleteFunc(t.rows, func(r *row) bool { return r == c.row })
		default:
			c.row.job = c.before
		}
	}
}

// newJob returns the job of a request, without an id.
func newJob(request backfill.Request, now time.Time) *backfill.Job {
	job := &backfill.Job{
		Task: request.Task, Args: request.Args, Queue: request.Queue, Key: request.Key, Priority: request.Priority,
		MaxAttempts: cmp.Or(request.MaxAttempts, defaultMaxAttempts), RunAt: stored(request.RunAt), CreatedAt: now,
		Flags: slices.Compact(slices.Sorted(slices.Values(request.Flags))),
	}
	if len(job.Args) == 0 {
		job.Args = json.RawMessage("{}")
	}
	if request.RunAt.IsZero() {
		job.RunAt = stored(now.Add(request.Delay))
	}
	return job
}

// claim locks the first job in line that is due, of these tasks and without these flags; nil if
// there is none.
func (t *table) claim(tasks, forbidden []string, now time.Time) (*row, *wire.Job) {
	var first *row
	for _, r := range t.served(tasks) {
		if r.job.RunAt.After(now) || slices.ContainsFunc(r.job.Flags, func(flag string) bool { return slices.Contains(forbidden, flag) }) {
			continue
		}
		if first == nil || compare(r.job, first.job) < 0 {
			first = r
		}
	}
	if first == nil {
		return nil, nil
	}
	first.change(func(job *backfill.Job) { job.Attempt++ })
	first.running, first.keyed = true, first.job.Key != ""
	return first, claimed(first.job)
}

// compare orders jobs as they are claimed.
func compare(a, b *backfill.Job) int {
	return cmp.Or(cmp.Compare(a.Priority, b.Priority), a.RunAt.Compare(b.RunAt), cmp.Compare(a.ID, b.ID))
}

// served are the available jobs of these tasks.
func (t *table) served(tasks []string) (served []*row) {
	for _, r := range t.rows {
		if r.available() && slices.Contains(tasks, r.job.Task) {
			served = append(served, r)
		}
	}
	return served
}

// advance makes due what is scheduled for the earliest second, in its order, apart from some jobs,
// and reports whether there was anything: what backfill.WithScheduled says.
func (t *table) advance(tasks []string, apartFrom map[int64]bool, now time.Time) bool {
	later := slices.DeleteFunc(t.served(tasks), func(r *row) bool { return apartFrom[r.job.ID] || !r.job.RunAt.After(now) })
	if len(later) == 0 {
		return false
	}
	first := slices.MinFunc(later, func(a, b *row) int { return a.job.RunAt.Compare(b.job.RunAt) }).job.RunAt
	for _, r := range later {
		if after := r.job.RunAt.Sub(first); after < time.Second {
			r.change(func(job *backfill.Job) { job.RunAt = stored(now.Add(after - time.Second)) })
		}
	}
	return true
}

// end records how a job ended, and reports whether it has failed for good. Then it has no row, if
// it is a dead letter.
func (t *table) end(r *row, outcome worker.Outcome, letters bool, now time.Time) (exhausted bool) {
	r.running = false
	ran := r.job
	superseded := r.keyed && r.job.Key == "" // nobody runs it again, however it ended
	if superseded || outcome.Kind == worker.OutcomeCompleted || outcome.Kind == worker.OutcomeCanceled {
		t.note(ran, outcome, superseded, now)
		t.rows = slices.DeleteFunc(t.rows, func(other *row) bool { return other == r })
		return false
	}
	r.change(func(job *backfill.Job) {
		switch outcome.Kind {
		case worker.OutcomeExhausted:
			job.Attempt = max(job.Attempt, job.MaxAttempts)
		case worker.OutcomeFailed:
			job.RunAt = stored(now.Add(outcome.Delay))
			if outcome.Payload != nil {
				job.Args = outcome.Payload
			}
		case worker.OutcomeSnoozed:
			job.Attempt, job.RunAt = job.Attempt-1, stored(now.Add(outcome.Delay))
		case worker.OutcomeReturned:
			job.Attempt--
		case worker.OutcomeCompleted, worker.OutcomeCanceled:
		}
	})
	if exhausted = r.job.Attempt >= r.job.MaxAttempts; exhausted {
		t.note(ran, outcome, false, now)
	}
	if exhausted && letters {
		t.rows = slices.DeleteFunc(t.rows, func(other *row) bool { return other == r })
	}
	return exhausted
}

// claimed is a job as a worker claims it.
func claimed(job *backfill.Job) *wire.Job {
	return &wire.Job{
		Lease: wire.Lease{ID: job.ID}, Task: job.Task, Payload: job.Args, Queue: job.Queue, Key: job.Key, Priority: int16(job.Priority),
		Attempt: job.Attempt, MaxAttempts: job.MaxAttempts, Revision: job.Revision, RunAt: job.RunAt, CreatedAt: job.CreatedAt, Flags: job.Flags,
	}
}

// defaultMaxAttempts is max_attempts of a job for which nobody says anything else.
const defaultMaxAttempts = 25

// stored returns t as PostgreSQL gives it back.
func stored(t time.Time) time.Time { return t.Truncate(time.Microsecond).Local() }

// merge returns the args of a waiting job after another request: the elements of both, if both are
// arrays.
func merge(old, args json.RawMessage) json.RawMessage {
	var elements, added []json.RawMessage
	if json.Unmarshal(old, &elements) != nil || json.Unmarshal(args, &added) != nil || added == nil { // nil: null
		return args
	}
	merged, _ := json.Marshal(append(elements, added...)) // valid JSON: cannot fail
	return merged
}
