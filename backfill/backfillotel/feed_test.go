package backfillotel_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/backfillhq/go/backfill"
)

// feed tells a Telemetry of every kind of event, for many tasks, with texts that must not become
// attributes.
func feed(r *rig, task, queue, text string, many int) {
	r.Helper()
	kinds := []backfill.EventKind{
		backfill.EventClaimed, backfill.EventStart, backfill.EventFinished, backfill.EventFailed, backfill.EventDead, backfill.EventCanceled,
		backfill.EventSnoozed, backfill.EventLeaseLost, backfill.EventRescued, backfill.EventSuspected, backfill.EventClaimError, backfill.EventFlushError,
		backfill.EventDisrupted, backfill.EventSwept, backfill.EventReclaimed, backfill.EventDeath, backfill.EventFenced, backfill.EventPolled,
		backfill.EventWoken, backfill.EventScheduled, backfill.EventExpired,
	}
	enqueue := r.Enqueued(func(_ context.Context, requests []backfill.Request) ([]*backfill.Job, error) {
		jobs := make([]*backfill.Job, len(requests))
		for i := range requests {
			jobs[i] = &backfill.Job{ID: 4711, Task: requests[i].Task, Queue: requests[i].Queue, Revision: 1}
		}
		return jobs, nil
	})
	for i := range many {
		name := fmt.Sprintf("%s-%d", task, i)
		job := &backfill.Job{
			ID: 4711, Task: name, Queue: "queue:" + queue, Key: "text:" + text, Attempt: i % 3, MaxAttempts: 2, RunAt: time.Now().Add(-time.Second),
		}
		for _, kind := range kinds {
			r.Event(backfill.Event{
				Kind: kind, Job: job, Task: name, Err: errors.New("text:" + text), Reason: "text:" + text, Final: i%2 == 0, Count: 1, Duration: time.Second,
			})
		}
		_, _ = enqueue(context.Background(), []backfill.Request{{
			Task: name, Queue: "queue:" + queue, Key: "text:" + text, Priority: backfill.Priority(i % 40), //nolint:gosec // small
		}})
	}
	r.Statement(backfill.Statement{Name: "CompleteJobs", Err: errors.New("text:" + text)})
}
