package worker_test

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/backfillhq/go/internal/host"
	"github.com/backfillhq/go/internal/worker"
)

// fakeWorker is a worker's row.
type fakeWorker struct {
	worker.Peer

	Stopping  bool
	Letters   bool // it makes dead letters
	tasks     []string
	Running   []int64
	Forbidden []string
	beatAt    time.Time
	counted   bool
	busy      bool // somebody else has the row locked
	together  int  // jobs that it held when it was counted

	emptyingAt, trialAt time.Time
	cohort              string

	store *fakeStore // whose session holds its lock, for as long as it lives
	held  bool
}

// addWorker adds a worker's row; db.mu is held.
func (db *fakeDB) addWorker(id string, store *fakeStore) {
	db.workers[id] = &fakeWorker{store: store, beatAt: time.Now(), Peer: worker.Peer{
		ID: id, Process: host.Process{Machine: store.machine, PID: store.pid},
	}}
}

// settle notes that nothing is locked by a dead worker.
func (db *fakeDB) settle(id string) {
	db.mu.Lock()
	defer db.mu.Unlock()
	if row := db.workers[id]; row != nil && row.Dead {
		row.Rescued = true
	}
}

// endSession ends the session of a store's heartbeats. The next one begins a new session.
func (s *fakeStore) endSession() {
	s.mu.Lock()
	s.down = true
	s.mu.Unlock()
	s.db.unlockSessions(s)
}

// die ends a store as the end of its process does: its locks are free, and no statement of it
// reaches the database any more.
func (s *fakeStore) die() {
	s.mu.Lock()
	s.dead = true
	s.mu.Unlock()
	s.db.unlockSessions(s)
}

// silence has the network drop everything, until it is told not to.
func (s *fakeStore) silence(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.silent = on
}

// freeze keeps every statement from being sent for d.
func (s *fakeStore) freeze(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.thaws = time.Now().Add(d)
}

// gone puts a worker into a process of this machine that has ended.
func gone(t *testing.T) func(*setup) {
	t.Helper()
	command := exec.CommandContext(t.Context(), "true")
	if err := command.Run(); err != nil {
		t.Fatal(err)
	}
	return func(s *setup) { s.machine, s.pid = host.Self().Machine, command.Process.Pid }
}

// completedIDs returns the jobs that were completed.
func (db *fakeDB) completedIDs() []int64 {
	db.mu.Lock()
	defer db.mu.Unlock()
	return slices.Sorted(maps.Keys(db.completed))
}

func (db *fakeDB) unlockSessions(s *fakeStore) {
	db.mu.Lock()
	defer db.mu.Unlock()
	for _, row := range db.workers {
		if row.store == s {
			row.held = false
		}
	}
}

func (s *fakeStore) Beat(ctx context.Context, beat worker.Beat) (answer worker.Beaten, err error) {
	s.mu.Lock()
	if s.down || s.session == 0 {
		s.down = false
		s.session++
	}
	session := s.session
	s.mu.Unlock()
	err = s.do(ctx, call{Op: opBeat, Beat: beat}, func() []int64 {
		answer = s.db.beat(beat, !s.pooled)
		answer.Session = session
		return nil
	})
	if err != nil {
		s.endSession()
		return worker.Beaten{Locked: true}, err
	}
	return answer, nil
}

func (db *fakeDB) beat(beat worker.Beat, locks bool) (answer worker.Beaten) {
	db.mu.Lock()
	defer db.mu.Unlock()
	answer.Server = db.server
	if !db.alive(beat.WorkerID) {
		return answer
	}
	row := db.workers[beat.WorkerID]
	row.held = locks
	if beat.Write {
		row.Beats, row.Locked, row.Running = beat.Number, row.Locked || locks, beat.Running
		row.Forbidden = beat.Forbidden
		row.Stopping = row.Stopping || beat.Stopping
		row.beatAt = time.Now()
		switch {
		case !beat.Emptying:
			row.emptyingAt = time.Time{}
		case row.emptyingAt.IsZero():
			row.emptyingAt = time.Now()
		}
	}
	answer.Alive, answer.Locked, answer.Crashes = true, row.Locked, db.crashed()
	for _, id := range slices.Sorted(maps.Keys(db.workers)) {
		if row := db.workers[id]; id != beat.WorkerID {
			peer := row.Peer
			peer.Emptying, peer.Trying = !row.emptyingAt.IsZero(), !row.trialAt.IsZero()
			answer.Peers = append(answer.Peers, peer)
		}
	}
	return answer
}

func (s *fakeStore) Unlocked(ctx context.Context, peers []worker.Peer) (free []string, err error) {
	if s.pooled {
		return nil, nil
	}
	err = s.do(ctx, call{Op: opUnlocked}, func() []int64 {
		s.db.mu.Lock()
		defer s.db.mu.Unlock()
		for _, peer := range peers {
			if row := s.db.workers[peer.ID]; row == nil || !row.held {
				free = append(free, peer.ID)
			}
		}
		return nil
	})
	return free, err
}

func (s *fakeStore) Declare(ctx context.Context, workerID string, beats int64) (dead bool, err error) {
	err = s.do(ctx, call{Op: opDeclare}, func() []int64 {
		s.db.mu.Lock()
		defer s.db.mu.Unlock()
		if row := s.db.workers[workerID]; row != nil && !row.Dead && row.Beats == beats {
			row.Dead, dead = true, true
		}
		return nil
	})
	return dead, err
}

func (s *fakeStore) Rescue(ctx context.Context, request worker.RescueRequest) (rescued worker.Rescued, err error) {
	refused := false
	err = s.do(ctx, call{Op: opRescue}, func() []int64 {
		rescued, refused = s.db.release(request)
		return nil
	})
	switch {
	case err != nil:
		return worker.Rescued{}, err
	case refused:
		return rescued, errRefused
	}
	return rescued, nil
}

func (s *fakeStore) Unowned(ctx context.Context) (ids []string, err error) {
	err = s.do(ctx, call{Op: opUnowned}, func() []int64 {
		ids = s.db.unowned()
		return nil
	})
	return ids, err
}

// unowned returns the workers by whom something is locked and who have no row.
func (db *fakeDB) unowned() (ids []string) {
	db.mu.Lock()
	defer db.mu.Unlock()
	add := func(lockedBy string, shape *regexp.Regexp) {
		id, _, _ := strings.Cut(lockedBy, ".")
		if shape.MatchString(lockedBy) && db.workers[id] == nil && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	for _, job := range db.jobs {
		add(job.LockedBy, leaseShape)
	}
	for _, queue := range db.queues {
		add(queue.LockedBy, claimShape)
	}
	return ids
}

// What locked_by of jobs and queues looks like that a worker of ours has locked.
var (
	leaseShape = regexp.MustCompile(`^pool-[0-9a-f]{18}\.[0-9a-f]+\.[0-9]{1,9}k?$`)
	claimShape = regexp.MustCompile(`^pool-[0-9a-f]{18}\.[0-9a-f]+$`)
)

// release releases what workers have locked that are dead or have no row.
func (db *fakeDB) release(request worker.RescueRequest) (rescued worker.Rescued, refused bool) {
	db.mu.Lock()
	defer db.mu.Unlock()
	ids := slices.DeleteFunc(slices.Clone(request.IDs), func(id string) bool { return db.alive(id) })
	for _, id := range ids {
		db.census(id)
	}
	left := make(map[string]bool)
	gone := func(lockedBy string, shape *regexp.Regexp) (id string, gone bool) {
		id, _, _ = strings.Cut(lockedBy, ".")
		return id, shape.MatchString(lockedBy) && slices.Contains(ids, id)
	}
	jobs := slices.SortedFunc(maps.Values(db.jobs), func(a, b *fakeJob) int { return cmp.Compare(a.ID, b.ID) })
	for _, job := range jobs {
		id, gone := gone(job.LockedBy, leaseShape)
		switch {
		case !gone:
			continue
		case job.Busy, db.refused[job.ID]:
			left[id] = true
			refused = refused || db.refused[job.ID]
			continue
		}
		if !db.judge(job, id, request.Settle, &rescued) {
			left[id] = true
		}
	}
	for name, queue := range db.queues {
		id, gone := gone(queue.LockedBy, claimShape)
		switch {
		case !gone:
		case queue.Held, db.heldBy(name, queue.LockedBy):
			left[id] = true
		default:
			queue.LockedBy = ""
			rescued.Queues++
		}
	}
	for _, id := range ids {
		if left[id] {
			continue
		}
		rescued.Settled = append(rescued.Settled, id)
		if row := db.workers[id]; row != nil {
			row.Rescued = true
		}
	}
	return rescued, refused
}

var errDead = errors.New("the process has ended")
