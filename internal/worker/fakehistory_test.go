package worker_test

import (
	"context"
	"maps"
	"slices"

	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
	"github.com/backfillhq/go/internal/worker/storetest"
)

// What the history says of how attempts end.
const (
	keptCompleted  = "completed"
	keptFailed     = "failed"
	keptDead       = "dead"
	keptSnoozed    = "snoozed"
	keptReturned   = "returned"
	keptCanceled   = "canceled"
	keptSuperseded = "superseded"
	keptCrashed    = "crashed"
	keptLost       = "lost"

	workerDied = "its worker died"
)

func (s *fakeStore) CompleteRecorded(ctx context.Context, done []worker.Ended) ([]worker.Fate, error) {
	leases := make([]wire.Lease, len(done))
	for i, d := range done {
		leases[i] = d.Lease
	}
	return s.complete(ctx, leases, func(fates []worker.Fate) {
		s.db.keepEnded(done, fates, func(_ worker.Ended, fate worker.Fate) string {
			if fate.Kind == worker.FateCanceled {
				return keptCanceled
			}
			return keptCompleted
		})
	})
}

// keepEnded notes how attempts have ended, of those that go into the history.
func (db *fakeDB) keepEnded(ended []worker.Ended, fates []worker.Fate, outcome func(worker.Ended, worker.Fate) string) {
	db.mu.Lock()
	defer db.mu.Unlock()
	for i, e := range ended {
		kind := fates[i].Kind
		if kind == worker.FateBusy || kind == worker.FateLost {
			continue
		}
		said := outcome(e, fates[i])
		if kind == worker.FateSuperseded {
			said = keptSuperseded
		}
		kept := storetest.Attempt{Attempt: e.Lease.Attempt(), Outcome: said, Started: true, Error: e.Text}
		if e.Record != nil {
			kept.Log = e.Record.Log
			if e.Kind == worker.OutcomeCompleted {
				kept.Output = string(e.Record.Output)
			}
			db.history[e.ID] = append(db.history[e.ID], kept)
		}
		if kind == worker.FateCanceled && said != keptCanceled { // by EndCanceled, if the task has a history
			if request := fates[i].Request; db.historyOf[db.taskOf[e.ID]] {
				db.history[e.ID] = append(db.history[e.ID], storetest.Attempt{Attempt: e.Lease.Attempt(), Outcome: keptCanceled, Error: request.Reason})
			}
		}
	}
}

// keep notes what somebody else than its worker has decided about a job; db.mu is held.
func (db *fakeDB) keep(job *fakeJob, outcome, said string, started bool) {
	if !db.historyOf[job.Task] {
		return
	}
	attempt := job.Attempt
	if lease := (wire.Lease{Token: job.LockedBy}); started {
		attempt = lease.Attempt()
	}
	db.history[job.ID] = append(db.history[job.ID], storetest.Attempt{Attempt: attempt, Outcome: outcome, Error: said, Started: started})
}

// keptAs reports whether the history has an outcome of a job; db.mu is held.
func (db *fakeDB) keptAs(job int64, outcome string) bool {
	return slices.ContainsFunc(db.history[job], func(a storetest.Attempt) bool { return a.Outcome == outcome })
}

func (s *fakeStore) Count(ctx context.Context, workerID string, rows []worker.Count) error {
	return s.do(ctx, call{Op: opCount}, func() []int64 {
		s.db.mu.Lock()
		defer s.db.mu.Unlock()
		for _, row := range rows {
			kept := row
			kept.Run.In, kept.Wait.In = maps.Clone(row.Run.In), maps.Clone(row.Wait.In)
			s.db.counted[fakeCount{row.Minute.UnixNano(), row.Task, workerID}] = kept
		}
		return nil
	})
}

// fakeCount is what a row of counts is known by.
type fakeCount struct {
	minute       int64
	task, worker string
}

func (db contractDB) History(id int64) []storetest.Attempt {
	db.mu.Lock()
	defer db.mu.Unlock()
	return slices.Clone(db.history[id])
}

func (db contractDB) Counted(task string) (ended storetest.Counted) {
	db.mu.Lock()
	defer db.mu.Unlock()
	for key, row := range db.counted {
		if key.task == task {
			ended.Add(row)
		}
	}
	return ended
}

func (s *fakeStore) Progress(ctx context.Context, rows []worker.Progress, over []wire.Lease) error {
	return s.do(ctx, call{Op: opProgress}, func() []int64 {
		s.db.mu.Lock()
		defer s.db.mu.Unlock()
		for _, lease := range over {
			if s.db.progress[lease.ID].Token == lease.Token {
				delete(s.db.progress, lease.ID)
			}
		}
		for _, row := range rows {
			if s.db.holds(row.Lease) {
				s.db.progress[row.ID] = row
			}
		}
		return nil
	})
}

func (db contractDB) Progress(id int64) (p storetest.Progress) {
	db.mu.Lock()
	defer db.mu.Unlock()
	if said, ok := db.progress[id]; ok && db.holds(said.Lease) {
		return storetest.Progress{Attempt: said.Attempt(), Done: said.Done, Total: said.Total, Note: said.Note}
	}
	return p
}
