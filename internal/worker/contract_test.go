package worker_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
	"github.com/backfillhq/go/internal/worker/storetest"
)

// The Store in memory keeps the contract that the one on PostgreSQL keeps (pg.TestStoreContract).
func TestFakeStoreContract(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) storetest.Database { //nolint:thelper // it opens a database
		return contractDB{newDB(t)}
	}, synctest.Test)
}

// contractDB is a fakeDB as the contract's cases see it.
type contractDB struct{ *fakeDB }

func (db contractDB) NewStore() worker.Store { return db.newStore() }

func (db contractDB) Add(job wire.Job) int64 {
	if job.Payload == nil {
		job.Payload = []byte("{}")
	}
	return db.add(1, job)[0]
}

func (db contractDB) Job(id int64) (storetest.Row, bool) {
	job := db.job(id)
	if job == nil {
		return storetest.Row{}, false
	}
	return storetest.Row{
		Attempts: job.Attempt, MaxAttempts: job.MaxAttempts, LastError: job.LastError, LockedBy: job.LockedBy,
		Payload: string(job.Payload), Wait: max(0, time.Until(job.RunAt)).Round(time.Minute),
	}, true
}

func (db contractDB) QueueLock(queue string) string { return db.queue(queue).LockedBy }

func (db contractDB) LockJob(id int64) (unlock func()) {
	db.update(id, func(job *fakeJob) { job.Busy = true })
	return func() { db.update(id, func(job *fakeJob) { job.Busy = false }) }
}

func (db contractDB) LockQueue(queue string) (unlock func()) {
	db.hold(queue, true)
	return func() { db.hold(queue, false) }
}

func (db contractDB) Delete(id int64) {
	db.mu.Lock()
	defer db.mu.Unlock()
	delete(db.jobs, id)
}

func (db contractDB) Relock(id int64, lockedBy string) {
	db.update(id, func(job *fakeJob) { job.LockedBy, job.LockedAt = lockedBy, time.Now() })
}

func (db contractDB) RelockQueue(queue, lockedBy string) {
	db.mu.Lock()
	defer db.mu.Unlock()
	db.queues[queue].LockedBy, db.queues[queue].LockedAt = lockedBy, time.Now()
}

func (db contractDB) LockWorker(workerID string) (unlock func()) {
	lock := func(is bool) {
		db.mu.Lock()
		defer db.mu.Unlock()
		db.workers[workerID].busy = is
	}
	lock(true)
	return func() { lock(false) }
}

func (db contractDB) Change(id int64, attempts int, runAt time.Time) {
	db.update(id, func(job *fakeJob) { job.Attempt, job.RunAt = attempts, runAt })
}

func (db contractDB) Supersede(id int64) {
	old := db.job(id)
	db.Remove(id)
	db.add(1, wire.Job{Task: "a", Key: old.Key, RunAt: time.Now().Add(time.Hour)})
}

func (db contractDB) Remove(id int64) {
	db.update(id, func(job *fakeJob) { job.Key, job.Attempt = "", job.MaxAttempts })
}

func (db contractDB) Keyed(key string) int64 {
	db.mu.Lock()
	defer db.mu.Unlock()
	for id, job := range db.jobs {
		if job.Key == key {
			return id
		}
	}
	return 0
}

func (db contractDB) Fail(id int64, text string) {
	db.update(id, func(job *fakeJob) { job.LastError = text })
}

func (db contractDB) Age(id int64, by time.Duration) {
	db.update(id, func(job *fakeJob) {
		job.LockedAt = job.LockedAt.Add(-by)
		if queue := db.queues[job.Queue]; queue != nil {
			queue.LockedAt = queue.LockedAt.Add(-by)
		}
	})
}

func (db contractDB) EndSession(store worker.Store) { store.(*fakeStore).endSession() } //nolint:forcetypeassert // there is no other

func (db contractDB) Forget(workerID string) {
	db.mu.Lock()
	defer db.mu.Unlock()
	delete(db.workers, workerID)
}

func (db contractDB) AgeSweep(workerID string, by time.Duration) {
	db.mu.Lock()
	defer db.mu.Unlock()
	db.sweptAt[workerID] = db.sweptAt[workerID].Add(-by)
}

func (db contractDB) Refuse(id int64) {
	db.mu.Lock()
	defer db.mu.Unlock()
	db.refused[id] = true
}

func (db contractDB) Pause(task, queue string, until time.Time) {
	db.mu.Lock()
	defer db.mu.Unlock()
	db.paused[fakePause{task, queue}] = until
}

func (db contractDB) Resume(task, queue string) {
	db.mu.Lock()
	defer db.mu.Unlock()
	delete(db.paused, fakePause{task, queue})
}

func (db contractDB) Request(id int64, request worker.Request) { db.request(id, request) }

func (db contractDB) Requested(id int64) bool {
	db.mu.Lock()
	defer db.mu.Unlock()
	_, requested := db.requests[id]
	return requested
}

func (db contractDB) Letter(id int64) (storetest.Letter, bool) {
	letter := db.letter(id)
	if letter == nil || letter.Requeued != 0 {
		return storetest.Letter{}, false
	}
	return storetest.Letter{
		Task: letter.Task, Queue: letter.Queue, Key: letter.Key, Payload: string(letter.Payload), Priority: int(letter.Priority),
		Attempts: letter.Attempt, MaxAttempts: letter.MaxAttempts, Reason: letter.Reason, Count: letter.Count,
		LastError: letter.LastError, FirstError: letter.FirstError,
	}, true
}

func (db contractDB) Requeue(id int64) int64 {
	like := db.letter(id).Job
	like.Attempt, like.Lease, like.RunAt = 0, wire.Lease{}, time.Time{}
	again := db.add(1, like)[0]
	db.changeLetter(id, func(letter *fakeLetter) { letter.Requeued = again })
	return again
}

func (db contractDB) LockLetter(id int64) (unlock func()) {
	lock := func(is bool) { db.changeLetter(id, func(letter *fakeLetter) { letter.Busy = is }) }
	lock(true)
	return func() { lock(false) }
}

func (db contractDB) AgeLetter(id int64, by time.Duration) {
	db.changeLetter(id, func(letter *fakeLetter) { letter.FailedAt = letter.FailedAt.Add(-by) })
}

func (db contractDB) Exhaust(id int64, text string, ago time.Duration) {
	db.update(id, func(job *fakeJob) {
		job.Attempt, job.LastError, job.FailedAt, job.RunAt = job.MaxAttempts, text, time.Now().Add(-ago), time.Now()
	})
}
