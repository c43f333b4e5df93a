package worker_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// The statements, as faults and the log name them.
const (
	opRegister = "register"
	opRetire   = "retire"
	opClaim    = "claim"
	opComplete = "complete"
	opFail     = "fail"
	opRelease  = "release"
	opRenew    = "renew"
	opListen   = "listen"
	opPing     = "ping"
	opAnswer   = "answer"
	opSchema   = "schema"
	opSweep    = "sweep"
	opReclaim  = "reclaim"
	opSurvey   = "survey"
	opBeat     = "beat"
	opUnlocked = "unlocked"
	opDeclare  = "declare"
	opRescue   = "rescue"
	opUnowned  = "unowned"

	opSuspects  = "suspects"
	opLastTrial = "last trial"
	opTry       = "try"
	opAcquit    = "acquit"
	opPark      = "park"
	opExpire    = "expire"
	opRequested = "requested"
	opCount     = "count"
	opProgress  = "progress"
)

// fakeStore is one worker's connection to a fakeDB. The fields before mu are set before the worker
// runs.
type fakeStore struct {
	db      *fakeDB
	latency map[string]time.Duration                 // of each statement, half before and half after it takes effect
	before  func(op string) error                    // an error keeps the statement from taking effect
	after   func(op string) error                    // an error leaves the caller unsure
	request func(worker.ClaimRequest, worker.Health) // sees each claim when it is sent
	health  func() worker.Health
	answer  func(worker.ClaimRequest, *worker.Claimed) // changes the answers to claims
	dropped bool                                       // pings do not come back
	pooled  bool                                       // it does not listen
	poison  int64                                      // statements with this job are refused
	long    int                                        // so many sweeps use up their time
	survey  worker.Surveyed
	refuse  func(worker.Outcome) bool // these outcomes are refused
	machine string                    // where its process runs
	pid     int

	mu       sync.Mutex
	start    time.Time
	log      []call
	inFlight map[string]int
	tasks    []string
	inTx     []string  // the transactional ones
	session  int       // of its heartbeats
	down     bool      // its session has ended, and there is no new one yet
	dead     bool      // its process ended: nothing of it reaches the database
	full     time.Time // since when its connections are all in use
	silent   bool      // nothing reaches the database, and nothing says so
	thaws    time.Time
}

// call is one statement in the log.
type call struct {
	Op      string
	At      time.Duration // when it was sent
	Jobs    []int64       // the jobs that it was given, or returned
	Request worker.ClaimRequest
	Beat    worker.Beat
}

func (db *fakeDB) newStore() *fakeStore {
	return &fakeStore{db: db, latency: make(map[string]time.Duration), start: time.Now(), inFlight: make(map[string]int)}
}

// calls returns the log of one statement.
func (s *fakeStore) calls(op string) []call {
	s.mu.Lock()
	defer s.mu.Unlock()
	var calls []call
	for _, c := range s.log {
		if c.Op == op {
			calls = append(calls, c)
		}
	}
	return calls
}

// do runs a statement with its latency and faults. Claims and ends of leases each come one at a
// time.
func (s *fakeStore) do(ctx context.Context, c call, apply func() []int64) error {
	lane := c.Op
	switch lane {
	case opFail, opRelease, opPark:
		lane = opComplete
	case opTry:
		lane = opClaim
	}
	if _, ok := ctx.Deadline(); !ok {
		s.db.mu.Lock()
		s.db.violated("%s has no deadline", c.Op)
		s.db.mu.Unlock()
	}
	s.mu.Lock()
	c.At = time.Since(s.start)
	n := len(s.log)
	s.log = append(s.log, c)
	poisoned := slices.Contains(c.Jobs, s.poison) || s.db.refuses(c.Jobs)
	s.inFlight[lane]++
	crowded := s.inFlight[lane] > 1 && (lane == opClaim || lane == opComplete)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.inFlight[lane]--
	}()
	if crowded {
		s.db.mu.Lock()
		s.db.violated("two statements of kind %s in flight", lane)
		s.db.mu.Unlock()
	}
	s.mu.Lock()
	latency, dead, silent, frozen := s.latency[c.Op], s.dead, s.silent, time.Until(s.thaws)
	s.mu.Unlock()
	if frozen > 0 {
		<-time.After(frozen)
	}
	switch {
	case dead:
		return errDead
	case silent:
		<-ctx.Done()
		return ctx.Err()
	case ctx.Err() != nil:
		return ctx.Err()
	}
	if err := wait(ctx, latency/2); err != nil {
		return err
	}
	if s.before != nil {
		if err := s.before(c.Op); err != nil {
			return err
		}
	}
	if poisoned {
		return &wire.RejectedError{Err: errors.New("invalid input"), Row: true}
	}
	if jobs := apply(); jobs != nil {
		s.mu.Lock()
		s.log[n].Jobs = jobs
		s.mu.Unlock()
	}
	if s.after != nil {
		if err := s.after(c.Op); err != nil {
			return err
		}
	}
	return wait(ctx, latency/2)
}

func (s *fakeStore) Sessions() worker.Sessions {
	s.mu.Lock()
	defer s.mu.Unlock()
	return worker.Sessions{Full: s.full, Pooled: s.pooled, Listens: !s.pooled, Server: "db.internal:5432", Database: "app", Schema: "graphile_worker"}
}

func (s *fakeStore) Register(ctx context.Context, registration worker.Registration) error {
	workerID, tasks := registration.ID, registration.Tasks
	again := false
	err := s.do(ctx, call{Op: opRegister}, func() []int64 {
		s.db.mu.Lock()
		defer s.db.mu.Unlock()
		if _, again = s.db.workers[workerID]; again {
			return nil
		}
		s.db.addWorker(workerID, s)
		s.db.workers[workerID].Letters, s.db.workers[workerID].tasks = registration.DeadLetters, tasks
		for task := range registration.History {
			s.db.historyOf[task] = true
		}
		if former := s.db.workers[registration.Former]; former != nil {
			former.Stopping = true
		}
		if s.tasks == nil { // they never change, and the flusher reads them
			s.tasks, s.inTx = tasks, registration.Transactional
		}
		return nil
	})
	if again {
		return fmt.Errorf("worker id %s was registered before", workerID)
	}
	return err
}

func (s *fakeStore) Retire(ctx context.Context, workerID string, clean bool) error {
	return s.do(ctx, call{Op: opRetire}, func() []int64 {
		s.db.kill(workerID)
		s.db.notice(workerID)
		if clean {
			s.db.settle(workerID)
		}
		return nil
	})
}

func (s *fakeStore) Claim(ctx context.Context, request worker.ClaimRequest) (worker.Claimed, error) {
	var claimed worker.Claimed
	if s.request != nil {
		s.request(request, s.health())
	}
	err := s.do(ctx, call{Op: opClaim, Request: request}, func() []int64 {
		claimed = s.db.claim(request, s.tasks, s.inTx)
		if s.answer != nil {
			s.answer(request, &claimed)
		}
		ids := make([]int64, 0, len(claimed.Jobs))
		for _, job := range claimed.Jobs {
			ids = append(ids, job.ID)
		}
		return ids
	})
	if err != nil {
		return worker.Claimed{}, err
	}
	return claimed, nil
}

func (s *fakeStore) Reclaim(ctx context.Context, workerID string, held []wire.Lease) (answer worker.Reclaimed, err error) {
	err = s.do(ctx, call{Op: opReclaim}, func() []int64 {
		answer = s.db.reclaim(workerID, held)
		return nil
	})
	if err != nil {
		return worker.Reclaimed{}, err
	}
	return answer, nil
}

func (s *fakeStore) Survey(ctx context.Context) (found worker.Surveyed, err error) {
	err = s.do(ctx, call{Op: opSurvey}, func() []int64 {
		found = s.survey
		return nil
	})
	return found, err
}

func (s *fakeStore) Complete(ctx context.Context, leases []wire.Lease) ([]worker.Fate, error) {
	return s.complete(ctx, leases, func([]worker.Fate) {})
}

func (s *fakeStore) complete(ctx context.Context, leases []wire.Lease, keep func([]worker.Fate)) (fates []worker.Fate, err error) {
	err = s.do(ctx, call{Op: opComplete, Jobs: ids(leases)}, func() []int64 {
		fates = s.db.end(s.tasks, leases, func(_ int, job *fakeJob) time.Duration {
			delete(s.db.jobs, job.ID)
			if !s.db.requested(job) {
				s.db.completed[job.ID]++
			}
			s.db.clear(job.Task, job.Key)
			return 0
		})
		keep(fates)
		return nil
	})
	return fates, err
}

func (s *fakeStore) Fail(ctx context.Context, failures []worker.Ended) (fates []worker.Fate, err error) {
	leases := make([]wire.Lease, len(failures))
	for i, f := range failures {
		leases[i] = f.Lease
	}
	if s.refuse != nil && slices.ContainsFunc(failures, func(f worker.Ended) bool { return s.refuse(f.Outcome) }) {
		return nil, &wire.RejectedError{Err: errors.New("invalid text"), Row: true}
	}
	err = s.do(ctx, call{Op: opFail, Jobs: ids(leases)}, func() []int64 {
		dies := func(i int, job *fakeJob) bool {
			f := failures[i]
			return f.Reason != "" && (f.Kind == worker.OutcomeExhausted || job.Attempt >= job.MaxAttempts) && !superseded(job) && !s.db.requested(job)
		}
		busy := func(i int, job *fakeJob) bool {
			letter := s.db.requeuedAs(job.ID)
			return letter != nil && letter.Busy && dies(i, job)
		}
		fates = s.db.endUnless(busy, s.tasks, leases, func(i int, job *fakeJob) time.Duration {
			f := failures[i]
			if f.Payload != nil {
				job.Payload = f.Payload
			}
			if dies(i, job) {
				s.db.bury(job, f.Reason, f.Text)
				return 0
			}
			job.LastError, job.FailedAt = f.Text, time.Now()
			job.RunAt = later(time.Now(), job.RunAt).Add(f.Delay)
			if f.Kind == worker.OutcomeExhausted {
				job.Attempt = max(job.Attempt, job.MaxAttempts)
			}
			return time.Until(job.RunAt)
		})
		s.db.keepEnded(failures, fates, func(_ worker.Ended, fate worker.Fate) string {
			if fate.Kind == worker.FateExhausted {
				return keptDead
			}
			return keptFailed
		})
		s.db.endReleased(leases, fates)
		s.db.findLetters(failures, fates)
		return nil
	})
	return fates, err
}

func (s *fakeStore) Release(ctx context.Context, releases []worker.Ended) (fates []worker.Fate, err error) {
	leases := make([]wire.Lease, len(releases))
	for i, r := range releases {
		leases[i] = r.Lease
	}
	err = s.do(ctx, call{Op: opRelease, Jobs: ids(leases)}, func() []int64 {
		fates = s.db.end(s.tasks, leases, func(i int, job *fakeJob) time.Duration {
			job.refund()
			if releases[i].Kind == worker.OutcomeSnoozed {
				job.RunAt = time.Now().Add(releases[i].Delay)
			}
			return time.Until(job.RunAt)
		})
		s.db.keepEnded(releases, fates, func(r worker.Ended, fate worker.Fate) string {
			switch {
			case r.Kind == worker.OutcomeSnoozed:
				return keptSnoozed
			case r.Kind == worker.OutcomeCanceled && fate.Kind == worker.FateCanceled:
				return keptCanceled
			default:
				return keptReturned
			}
		})
		s.db.endReleased(leases, fates)
		return nil
	})
	return fates, err
}

func (s *fakeStore) Renew(ctx context.Context, leases []wire.Lease) (fates []worker.Fate, err error) {
	err = s.do(ctx, call{Op: opRenew, Jobs: ids(leases)}, func() []int64 {
		s.db.mu.Lock()
		defer s.db.mu.Unlock()
		for _, lease := range leases {
			job := s.db.jobs[lease.ID]
			switch {
			case !s.db.holds(lease):
				fates = append(fates, s.db.lost(lease))
				continue
			case job.Busy:
				fates = append(fates, worker.Fate{Kind: worker.FateBusy})
				continue
			}
			fates = append(fates, worker.Fate{Kind: worker.FateRecorded})
			owner, _, _ := strings.Cut(lease.Token, ".")
			if c := s.db.crash(lease.ID, owner); c.token != lease.Token {
				*c = fakeCrash{job: lease.ID, worker: owner, token: lease.Token, began: job.LockedAt}
			}
			job.LockedAt = time.Now()
			if queue := s.db.queues[job.Queue]; queue != nil && queue.LockedBy == lease.Claim() {
				queue.LockedAt = time.Now()
			}
		}
		return nil
	})
	return fates, err
}

func (s *fakeStore) Listen(ctx context.Context, ready func(), on func(worker.Notification)) error {
	s.mu.Lock()
	s.log = append(s.log, call{Op: opListen, At: time.Since(s.start)})
	s.mu.Unlock()
	if s.before != nil {
		if err := s.before(opListen); err != nil {
			return err
		}
	}
	l := &fakeListener{notifications: make(chan worker.Notification, 1<<16), broken: make(chan error, 1)}
	s.db.mu.Lock()
	s.db.listeners[l] = struct{}{}
	s.db.mu.Unlock()
	defer func() {
		s.db.mu.Lock()
		defer s.db.mu.Unlock()
		delete(s.db.listeners, l)
	}()
	ready()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-l.broken:
			return err
		case n := <-l.notifications:
			on(n)
		}
	}
}

func (s *fakeStore) Ping(ctx context.Context, payload string) error {
	return s.do(ctx, call{Op: opPing}, func() []int64 {
		if !s.dropped {
			s.db.notify(worker.Notification{Kind: worker.NotifyPing, Payload: payload})
		}
		return nil
	})
}

func (s *fakeStore) Answer(ctx context.Context, channel, text string) error {
	return s.do(ctx, call{Op: opAnswer}, func() []int64 {
		s.db.mu.Lock()
		defer s.db.mu.Unlock()
		s.db.answers = append(s.db.answers, channel+" "+text)
		return nil
	})
}

func (s *fakeStore) CheckSchema(ctx context.Context) error {
	err := s.do(ctx, call{Op: opSchema}, func() []int64 { return nil })
	if errors.Is(err, context.DeadlineExceeded) {
		err = nil // that it could not look is no error
	}
	return err
}

func ids(leases []wire.Lease) []int64 {
	out := make([]int64, len(leases))
	for i, lease := range leases {
		out[i] = lease.ID
	}
	return out
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
