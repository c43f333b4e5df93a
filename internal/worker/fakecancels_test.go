package worker_test

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
	"github.com/backfillhq/go/internal/worker/storetest"
)

// request stores a request to end a job, without a notification.
func (db *fakeDB) request(id int64, request worker.Request) {
	db.mu.Lock()
	defer db.mu.Unlock()
	if _, requested := db.requests[id]; !requested {
		db.requests[id] = request
	}
}

// requested reports whether the end of a job was requested; db.mu is held.
func (db *fakeDB) requested(job *fakeJob) bool {
	_, requested := db.requests[job.ID]
	return requested
}

// dropCanceled deletes a job, its request, and what is known of it, and keeps that in the history;
// db.mu is held.
func (db *fakeDB) dropCanceled(job *fakeJob) worker.CanceledJob {
	if running := strings.HasPrefix(job.LockedBy, "pool-"); db.historyOf[job.Task] {
		db.history[job.ID] = append(db.history[job.ID], storetest.Attempt{
			Attempt: job.Attempt, Outcome: keptCanceled, Error: db.requests[job.ID].Reason, Started: running,
		})
	}
	return db.forgetCanceled(job)
}

func (db *fakeDB) forgetCanceled(job *fakeJob) worker.CanceledJob {
	request := db.requests[job.ID]
	if job.LockedBy != "" {
		db.free(job.Queue, wire.Lease{Token: job.LockedBy}.Claim())
	}
	delete(db.jobs, job.ID)
	delete(db.requests, job.ID)
	db.canceled[job.ID]++
	db.crashes = slices.DeleteFunc(db.crashes, func(c *fakeCrash) bool { return c.job == job.ID })
	return worker.CanceledJob{Job: &job.Job, Request: request}
}

// endable reports whether the end of a job was requested, and nobody runs it; db.mu is held.
func (db *fakeDB) endable(job *fakeJob) bool {
	free := job.LockedBy == "" || strings.HasPrefix(job.LockedBy, suspectPrefix) || time.Since(job.LockedAt) > 4*time.Hour
	queue := db.queues[job.Queue]
	return db.requested(job) && free && !job.Busy && (job.LockedBy == "" || queue == nil || !queue.Held)
}

// endReleased deletes the jobs of lost leases that others have released, and whose end was
// requested.
func (db *fakeDB) endReleased(leases []wire.Lease, fates []worker.Fate) {
	db.mu.Lock()
	defer db.mu.Unlock()
	for i, lease := range leases {
		if job := db.jobs[lease.ID]; job != nil && fates[i].Kind == worker.FateLost && db.endable(job) {
			fates[i] = worker.Fate{Kind: worker.FateCanceled, Request: db.dropCanceled(job).Request}
		}
	}
}

func (s *fakeStore) Requested(ctx context.Context, jobs []int64) (found worker.Requests, err error) {
	var refused error
	err = s.do(ctx, call{Op: opRequested}, func() []int64 {
		found, refused = s.db.requestsOf(jobs)
		return jobs
	})
	return found, cmp.Or(err, refused)
}

func (db *fakeDB) requestsOf(jobs []int64) (found worker.Requests, refused error) {
	db.mu.Lock()
	defer db.mu.Unlock()
	found.Jobs = make(map[int64]worker.Request)
	for _, id := range jobs {
		if request, requested := db.requests[id]; requested {
			found.Jobs[id] = request
		}
	}
	for _, id := range slices.Sorted(maps.Keys(db.requests)) {
		job := db.jobs[id]
		switch {
		case job == nil:
			delete(db.requests, id)
		case !db.endable(job):
		case db.refused[id]:
			refused = errRefused
		default:
			found.Ended = append(found.Ended, db.dropCanceled(job))
		}
	}
	return found, refused
}
