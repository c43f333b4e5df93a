package worker_test

import (
	"context"
	"slices"
	"time"

	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// fakeLetter is a dead letter: the job as it died.
type fakeLetter struct {
	wire.Job

	Reason                worker.Reason
	Count                 int
	LastError, FirstError string
	FailedAt              time.Time
	Requeued              int64 // the job that it was requeued as; 0: none
	Busy                  bool  // somebody else has the row locked
}

// requeuedAs returns the dead letter that a job was requeued from; db.mu is held.
func (db *fakeDB) requeuedAs(job int64) *fakeLetter {
	for _, letter := range db.letters {
		if letter.Requeued == job {
			return letter
		}
	}
	return nil
}

// bury makes a dead letter of a job. It reports false if somebody has the one locked that the job
// was requeued from; db.mu is held.
func (db *fakeDB) bury(job *fakeJob, reason worker.Reason, text string) bool {
	letter := db.requeuedAs(job.ID)
	if letter != nil && letter.Busy {
		return false
	}
	if letter == nil {
		letter = &fakeLetter{FirstError: text}
		db.letters = append(db.letters, letter)
	}
	letter.Job, letter.Reason, letter.LastError, letter.FailedAt, letter.Requeued = job.Job, reason, text, time.Now(), 0
	letter.Count++
	delete(db.jobs, job.ID)
	return true
}

// buried reports whether a job is a dead letter; db.mu is held.
func (db *fakeDB) buried(job int64) bool {
	return slices.ContainsFunc(db.letters, func(letter *fakeLetter) bool { return letter.ID == job && letter.Requeued == 0 })
}

// findLetters finds the lost jobs that an earlier try of their outcomes has made dead letters.
func (db *fakeDB) findLetters(failed []worker.Ended, fates []worker.Fate) {
	db.mu.Lock()
	defer db.mu.Unlock()
	for i, f := range failed {
		for _, letter := range db.letters {
			if f.Again && fates[i].Kind == worker.FateLost && letter.ID == f.ID && letter.Reason == f.Reason && letter.LastError == f.Text {
				fates[i].Kind = worker.FateExhausted
			}
		}
	}
}

// clear deletes the dead letters of a task and key, because a job with both has succeeded; db.mu is
// held.
func (db *fakeDB) clear(task, key string) {
	db.letters = slices.DeleteFunc(db.letters, func(letter *fakeLetter) bool {
		return key != "" && !letter.Busy && letter.Task == task && letter.Key == key
	})
}

// letter returns a copy of the dead letter that a job has become; nil: none.
func (db *fakeDB) letter(job int64) *fakeLetter {
	db.mu.Lock()
	defer db.mu.Unlock()
	for _, letter := range db.letters {
		if letter.ID == job {
			found := *letter
			return &found
		}
	}
	return nil
}

// buryFailed makes dead letters of what has failed an hour ago, and deletes those whose requeued
// jobs are gone; db.mu is held.
func (db *fakeDB) buryFailed(jobs []*fakeJob, swept *worker.Swept) {
	var served []string
	for _, row := range db.workers {
		if row.Letters {
			served = append(served, row.tasks...)
		}
	}
	for _, job := range jobs {
		if job.LockedBy != "" || job.Busy || job.Attempt < job.MaxAttempts || job.LastError == "" || db.requested(job) || !slices.Contains(served, job.Task) ||
			time.Since(job.FailedAt) < time.Hour {
			continue
		}
		copied := job.Job
		if db.bury(job, worker.ReasonSwept, job.LastError) {
			if !db.keptAs(job.ID, keptDead) {
				db.keep(job, keptDead, job.LastError, false)
			}
			swept.Dead = append(swept.Dead, worker.DeadJob{Job: &copied, Reason: worker.ReasonSwept})
		}
	}
	db.letters = slices.DeleteFunc(db.letters, func(letter *fakeLetter) bool {
		return letter.Requeued != 0 && db.jobs[letter.Requeued] == nil && !letter.Busy
	})
}

func (s *fakeStore) Expire(ctx context.Context, age time.Duration) (expired worker.Expired, err error) {
	err = s.do(ctx, call{Op: opExpire}, func() []int64 {
		s.db.mu.Lock()
		defer s.db.mu.Unlock()
		before := len(s.db.letters)
		s.db.letters = slices.DeleteFunc(s.db.letters, func(letter *fakeLetter) bool {
			return !letter.Busy && letter.Requeued == 0 && time.Since(letter.FailedAt) > age
		})
		expired = worker.Expired{Letters: before - len(s.db.letters), Done: true}
		return nil
	})
	return expired, err
}

// makesLetters reports whether a worker makes dead letters, or any other if it has no row; db.mu is
// held.
func (db *fakeDB) makesLetters(id string) bool {
	if row := db.workers[id]; row != nil {
		return row.Letters
	}
	for _, row := range db.workers {
		if row.Letters {
			return true
		}
	}
	return false
}

// changeLetter changes the dead letter of a job, or the one that it was requeued from.
func (db *fakeDB) changeLetter(job int64, change func(*fakeLetter)) {
	db.mu.Lock()
	defer db.mu.Unlock()
	for _, letter := range db.letters {
		if letter.ID == job && letter.Requeued == 0 || letter.Requeued == job {
			change(letter)
		}
	}
}
