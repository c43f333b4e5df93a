package worker_test

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// request stores a request to end a job, without a notification.
func (db *fakeDB) request(id int64, by, reason string) {
	db.mu.Lock()
	defer db.mu.Unlock()
	if _, requested := db.requests[id]; !requested {
		db.requests[id] = worker.Request{By: by, Reason: reason}
	}
}

// requested reports whether the end of a job was requested; db.mu is held.
func (db *fakeDB) requested(job *fakeJob) bool {
	_, requested := db.requests[job.ID]
	return requested
}

// dropCanceled deletes a job, its request, and what is known of it; db.mu is held.
func (db *fakeDB) dropCanceled(id int64) {
	if job := db.jobs[id]; job != nil && job.LockedBy != "" {
		claim := wire.Lease{Token: job.LockedBy}.Claim()
		db.free(job.Queue, claim)
	}
	delete(db.jobs, id)
	delete(db.requests, id)
	db.crashes = slices.DeleteFunc(db.crashes, func(c *fakeCrash) bool { return c.job == id })
}

func (s *fakeStore) Requested(ctx context.Context, jobs []int64) (found worker.Requests, err error) {
	err = s.do(ctx, call{Op: opRequested}, func() []int64 {
		found = s.db.requestsOf(jobs)
		return nil
	})
	return found, err
}

func (db *fakeDB) requestsOf(jobs []int64) (found worker.Requests) {
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
		case job.Busy:
		case job.LockedBy == "" || strings.HasPrefix(job.LockedBy, suspectPrefix) || time.Since(job.LockedAt) > 4*time.Hour:
			found.Ended = append(found.Ended, worker.CanceledJob{Job: &job.Job, Request: db.requests[id]})
			db.dropCanceled(id)
		}
	}
	return found
}
