package worker_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// When a queue is freed and we won't take its next job at once, other workers hear of it (contract
// section 11 C); and only then.
func TestOthersHearOfTheNextJobOfAQueue(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		add    func(db *fakeDB)
		change func(*setup)
		want   []int // notifications, by the jobs they speak of
	}{
		"a queue that we drain": {
			add: func(db *fakeDB) { db.add(100, wire.Job{Queue: "q"}) },
		},
		"queues of one job": {
			add: func(db *fakeDB) {
				db.add(1, wire.Job{Queue: "q1"})
				db.add(1, wire.Job{Queue: "q2"})
			},
		},
		"free jobs": {
			add: func(db *fakeDB) { db.add(100, wire.Job{}) },
		},
		"a job of a foreign task is next": {
			add: func(db *fakeDB) {
				db.add(1, wire.Job{Queue: "q"})
				db.add(2, wire.Job{Queue: "q", Task: "foreign"})
			},
			want: []int{1},
		},
		"one that is not due is next": {
			add: func(db *fakeDB) {
				db.add(1, wire.Job{Queue: "q"})
				db.add(1, wire.Job{Queue: "q", Task: "foreign", RunAt: time.Now().Add(time.Hour)})
			},
		},
		"forbidden flags": {
			add:    func(db *fakeDB) { db.add(2, wire.Job{Queue: "q"}) },
			change: func(s *setup) { s.Forbidden = func() []string { return []string{"f"} } },
			want:   []int{1},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				db := newDB(t)
				test.add(db)
				change := test.change
				if change == nil {
					change = func(*setup) {}
				}
				r := newRig(t, db, takes(10*time.Millisecond), change)
				r.pass(10 * time.Second)
				if diff := cmp.Diff(test.want, r.nudged()); diff != "" {
					t.Errorf("notifications (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// Slots that are all taken leave a queue to others; so does a worker that drains.
func TestOthersHearOfWhatWeHaveNoRoomFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		queued := db.add(2, wire.Job{Queue: "q"})
		db.add(2, wire.Job{Priority: 1})
		r := newRig(t, db, func(ctx context.Context, job *wire.Job) worker.Outcome {
			if job.QueueID == 0 {
				return takes(8*time.Second)(ctx, job)
			}
			return takes(10*time.Millisecond)(ctx, job)
		}, latency(opComplete, 20*time.Millisecond), func(s *setup) {
			s.answer = func(request worker.ClaimRequest, claimed *worker.Claimed) {
				if request.Number == 1 { // all three, for two slots
					extra := db.claim(worker.ClaimRequest{WorkerID: request.WorkerID, Number: 9999, Batch: 1}, []string{"task"}, nil)
					claimed.Jobs = append(claimed.Jobs, extra.Jobs...)
				}
			}
		})
		r.pass(time.Second)
		if db.job(queued[0]) != nil || db.job(queued[1]) == nil {
			t.Fatal("want the first of the queue completed, and the second waiting")
		}
		if diff := cmp.Diff([]int{1}, r.nudged()); diff != "" {
			t.Errorf("notifications without room (-want +got):\n%s", diff)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		db.add(2, wire.Job{Queue: "q"})
		r := newRig(t, db, takes(time.Second))
		r.pass(500 * time.Millisecond)
		if err := r.stop(); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff([]int{1}, r.nudged()); diff != "" {
			t.Errorf("notifications of a worker that stops (-want +got):\n%s", diff)
		}
	})
}

// What is given back because the slots are stuck is for others too.
func TestOthersHearOfWhatIsGivenBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		db.add(100, wire.Job{}) // they teach the worker a pace
		r := newRig(t, db, func(ctx context.Context, job *wire.Job) worker.Outcome {
			if job.ID > 100 {
				return takes(8*time.Second)(ctx, job)
			}
			return completed
		})
		r.pass(time.Second)
		db.insert(10, wire.Job{})
		r.pass(time.Second)
		if n := r.sum(worker.EventReturned); n != 8 {
			t.Fatalf("%d jobs were given back, want 8", n)
		}
		if diff := cmp.Diff([]int{1}, r.nudged()); diff != "" {
			t.Errorf("notifications (-want +got):\n%s", diff)
		}
	})
}

// The next job of a queue that was freed does not wait until half of what is claimed ahead has
// started.
func TestFreedQueuesDoNotWaitForTheBuffer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		first := db.add(50, wire.Job{Queue: "a", Priority: -1})
		db.add(3000, wire.Job{})
		r := newRig(t, db, takes(2*time.Millisecond), concurrency(4),
			latency(opClaim, 2*time.Millisecond), latency(opComplete, time.Millisecond))
		r.pass(5 * time.Second)
		r.nothingLeft()
		before := 0 // free jobs that started before the last of the queue
		for _, run := range r.started() {
			if run.Job == first[len(first)-1] {
				break
			}
			before++
		}
		if before > 1200 {
			t.Errorf("%d jobs started before the last one of the queue that is first in line", before)
		}
	})
}
