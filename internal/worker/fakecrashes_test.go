package worker_test

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/backfillhq/go/internal/conviction"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// fakeCrash is a row of backfill_crashes.
type fakeCrash struct {
	job     int64
	worker  string
	token   string
	began   time.Time
	tried   bool
	judged  time.Time
	held    bool // it has an age
	age     time.Duration
	alone   bool
	passed  bool
	verdict string // the task, if the job was convicted
	key     string
}

const suspectPrefix = "backfill-suspect."

// crash returns the row of a job and a worker, a new one if there is none; db.mu is held.
func (db *fakeDB) crash(job int64, worker string) *fakeCrash {
	c := db.knownCrash(job, worker)
	if c == nil {
		c = &fakeCrash{job: job, worker: worker}
		db.crashes = append(db.crashes, c)
	}
	return c
}

// knownCrash returns the row; nil if there is none.
func (db *fakeDB) knownCrash(job int64, worker string) *fakeCrash {
	i := slices.IndexFunc(db.crashes, func(c *fakeCrash) bool { return c.job == job && c.worker == worker })
	if i < 0 {
		return nil
	}
	return db.crashes[i]
}

// counts reports whether a crash is evidence: its worker has not given notice.
func (db *fakeDB) counts(c *fakeCrash) bool {
	row := db.workers[c.worker]
	return c.held && (row == nil || !row.Stopping)
}

func (db *fakeDB) record(job int64, except string) (r conviction.Record) {
	for _, c := range db.crashes {
		if c.job == job && c.worker != except && db.counts(c) {
			r.Ages = append(r.Ages, c.age)
			if c.alone {
				r.Alone++
			}
		}
	}
	return r
}

// census counts what a dead worker holds, once; db.mu is held.
func (db *fakeDB) census(id string) {
	row := db.workers[id]
	if row == nil || row.counted || row.busy {
		return
	}
	row.counted = true
	for _, job := range db.jobs {
		if strings.HasPrefix(job.LockedBy, id+".") {
			row.together++
		}
	}
}

// judge decides about a job that a dead worker held, and does it. It reports false if it is too
// early to; db.mu is held.
func (db *fakeDB) judge(job *fakeJob, id string, settle time.Duration, rescued *worker.Rescued) bool {
	row := cmp.Or(db.workers[id], &fakeWorker{})
	if db.workers[id] != nil && !row.counted {
		return false
	}
	if db.requested(job) {
		if queue := db.queues[job.Queue]; queue != nil && queue.Held {
			return false
		}
		rescued.Canceled = append(rescued.Canceled, db.dropCanceled(job))
		return true
	}
	c := db.crash(job.ID, id)
	if c.token != job.LockedBy {
		*c = fakeCrash{job: job.ID, worker: id, token: job.LockedBy, began: job.LockedAt}
	}
	death := conviction.Death{Notice: row.Stopping, Held: row.together}
	lastBeat := row.beatAt
	if lastBeat.IsZero() {
		lastBeat = job.LockedAt
	}
	if c.tried && death.Held == 1 && !death.Notice {
		if time.Since(row.beatAt) < settle {
			return false
		}
		from, to := conviction.Around(0, lastBeat.Sub(c.began)+5*time.Second)
		death.Disturbed = db.disturbed(job.ID, id, c.began.Add(from), c.began.Add(to), settle)
	}
	copied := job.Job
	lease := wire.Lease{ID: job.ID, Token: job.LockedBy}
	ruling := death.Judge(conviction.Held{
		Lease: conviction.Lease{
			Attempt: lease.Attempt(), Attempts: job.Attempt, MaxAttempts: job.MaxAttempts, Keyed: lease.Keyed(), HasKey: job.Key != "",
		},
		Tried: c.tried, Record: db.record(job.ID, id),
	})
	if queue := db.queues[job.Queue]; ruling.Verdict == conviction.Park && queue != nil && queue.Held {
		return false
	}
	c.judged, c.passed, c.key = time.Now(), false, job.Key
	for _, earlier := range db.crashes {
		if earlier.job == job.ID {
			c.key = cmp.Or(c.key, earlier.key)
		}
	}
	if ruling.Present {
		c.held, c.age, c.alone = true, max(0, lastBeat.Sub(c.began)), ruling.Alone
	}
	before := *job
	bury := func(err error, reason worker.Reason) bool {
		text := strings.TrimSuffix(err.Error()+"\n"+job.LastError, "\n")
		if !db.makesLetters(id) {
			job.LastError, job.FailedAt = text, time.Now()
			job.Attempt, job.LockedBy = max(job.Attempt, job.MaxAttempts), ""
			reason = ""
		} else if !db.bury(job, reason, text) {
			return false
		}
		said := text
		if reason == "" {
			said = err.Error()
		}
		db.keep(&before, keptDead, said, true)
		rescued.Dead = append(rescued.Dead, worker.DeadJob{Job: &copied, Err: err, Reason: reason})
		return true
	}
	switch ruling.Verdict {
	case conviction.Release:
		db.keep(job, keptCrashed, workerDied, true)
		job.refund()
		job.LockedBy = ""
		rescued.Jobs = append(rescued.Jobs, &copied)
	case conviction.Park:
		db.keep(job, keptCrashed, workerDied, true)
		db.park(job)
		rescued.Parked = append(rescued.Parked, &copied)
	case conviction.Drop:
		rescued.Queues += db.drop(job)
	case conviction.Crash:
		return bury(worker.ErrCrashed, worker.ReasonCrashed)
	case conviction.Interrupt:
		return bury(worker.ErrInterrupted, worker.ReasonInterrupted)
	case conviction.Convict:
		if !bury(worker.ErrConvicted, worker.ReasonCrashed) {
			return false
		}
		db.crashes = slices.DeleteFunc(db.crashes, func(other *fakeCrash) bool { return other.job == job.ID && other != c })
		c.held, c.alone, c.verdict = false, false, job.Task
		db.pauseCrashing(job.Task, rescued)
	}
	return true
}

func (db *fakeDB) disturbed(job int64, id string, from, to time.Time, settle time.Duration) bool {
	for other, row := range db.workers {
		if other == id || row.Stopping || !row.trialAt.IsZero() || row.beatAt.Before(from) || row.beatAt.After(to) {
			continue
		}
		held := slices.ContainsFunc(db.crashes, func(c *fakeCrash) bool { return c.job == job && c.worker == other && c.held })
		if !held && (row.Dead || time.Since(row.beatAt) > settle) {
			return true
		}
	}
	return false
}

func (db *fakeDB) pauseCrashing(task string, rescued *worker.Rescued) {
	var ago []time.Duration
	for _, c := range db.crashes {
		if c.verdict == task {
			ago = append(ago, time.Since(c.judged))
		}
	}
	if _, paused := db.paused[fakePause{task: task}]; conviction.Pauses(ago) && !paused {
		db.paused[fakePause{task: task}] = time.Time{}
		rescued.Paused = append(rescued.Paused, task)
	}
}

// park makes a suspect of a job that is locked, with its queue; db.mu is held.
func (db *fakeDB) park(job *fakeJob) {
	lease := wire.Lease{Token: job.LockedBy}
	owner, _, _ := strings.Cut(job.LockedBy, ".")
	cohort := suspectPrefix + strings.TrimPrefix(owner, "pool-")
	job.refund()
	if queue := db.queues[job.Queue]; queue != nil && queue.LockedBy == lease.Claim() {
		queue.LockedBy, queue.LockedAt = cohort, time.Now()
	}
	if c := db.knownCrash(job.ID, owner); c != nil && c.token == job.LockedBy && c.judged.IsZero() {
		c.judged = time.Now()
	}
	keyed := ""
	if lease.Keyed() {
		keyed = "k"
	}
	job.LockedBy, job.LockedAt = cohort+"."+strconv.Itoa(job.Attempt)+keyed, time.Now()
	job.Token = job.LockedBy
}

// drop deletes a superseded job. What is known of it goes to the job that has its key; db.mu is
// held.
func (db *fakeDB) drop(job *fakeJob) (queues int) {
	if queue := db.queues[job.Queue]; queue != nil && queue.LockedBy == (wire.Lease{Token: job.LockedBy}).Claim() {
		queues++
	}
	db.free(job.Queue, wire.Lease{Token: job.LockedBy}.Claim())
	db.keep(job, keptSuperseded, "", strings.HasPrefix(job.LockedBy, "pool-"))
	delete(db.jobs, job.ID)
	for _, heir := range db.jobs {
		for _, c := range slices.Clone(db.crashes) {
			known := slices.ContainsFunc(db.crashes, func(o *fakeCrash) bool { return o.job == heir.ID && o.worker == c.worker })
			if c.job == job.ID && !c.judged.IsZero() && c.key != "" && heir.Key == c.key && !known {
				copied := *c
				copied.job, copied.tried, copied.passed, copied.verdict = heir.ID, false, false, ""
				db.crashes = append(db.crashes, &copied)
			}
		}
	}
	db.crashes = slices.DeleteFunc(db.crashes, func(c *fakeCrash) bool { return c.job == job.ID })
	return queues
}

func superseded(job *fakeJob) bool { return strings.HasSuffix(job.LockedBy, "k") && job.Key == "" }

func (s *fakeStore) Suspects(ctx context.Context, forbidden []string) (found worker.Suspects, err error) {
	var refused error
	err = s.do(ctx, call{Op: opSuspects}, func() []int64 {
		found, refused = s.db.suspects(s.tasks, forbidden)
		return nil
	})
	return found, cmp.Or(err, refused)
}

func (db *fakeDB) suspects(tasks, forbidden []string) (found worker.Suspects, refused error) {
	db.mu.Lock()
	defer db.mu.Unlock()
	found.Cohorts = make(map[int64]string)
	parkedAt := make(map[string]time.Time)
	var parked []*fakeJob
	for _, id := range slices.Sorted(maps.Keys(db.jobs)) {
		job := db.jobs[id]
		known := slices.ContainsFunc(db.crashes, func(c *fakeCrash) bool { return c.job == id && !c.judged.IsZero() })
		if !known || !strings.HasPrefix(job.LockedBy, suspectPrefix) {
			continue
		}
		if superseded(job) {
			if refused = cmp.Or(refused, db.refusal(id)); !job.Busy && !db.refused[id] {
				found.Queues += db.drop(job)
			}
			continue
		}
		if time.Since(job.LockedAt) > 30*time.Minute && !job.Busy {
			job.LockedAt = time.Now()
			if queue := db.queues[job.Queue]; queue != nil {
				queue.LockedAt = time.Now()
			}
		}
		cohort := strings.Split(job.LockedBy, ".")[1]
		for _, c := range db.crashes {
			if at := parkedAt[cohort]; c.worker == "pool-"+cohort && !c.judged.IsZero() && (at.IsZero() || c.judged.Before(at)) {
				parkedAt[cohort] = c.judged
			}
		}
		parked = append(parked, job)
	}
	cohorts := slices.SortedFunc(maps.Keys(parkedAt), func(a, b string) int { return parkedAt[a].Compare(parkedAt[b]) })
	for _, job := range parked {
		flagged := slices.ContainsFunc(job.Flags, func(flag string) bool { return slices.Contains(forbidden, flag) })
		if !slices.Contains(tasks, job.Task) || db.isPaused(job) || db.requested(job) || flagged {
			continue
		}
		cohort := strings.Split(job.LockedBy, ".")[1]
		suspect := conviction.Suspect{Job: job.ID, Cohort: int64(slices.Index(cohorts, cohort) + 1), Age: db.record(job.ID, "").Age()}
		for _, c := range db.crashes {
			suspect.Proven = suspect.Proven || c.worker == "pool-"+cohort && c.tried && db.counts(c)
			suspect.Passed = suspect.Passed || c.worker == "pool-"+cohort && c.job == job.ID && c.passed
		}
		for _, row := range db.workers {
			suspect.Cleared = suspect.Cleared || row.cohort == cohort && row.Dead && !row.Stopping
		}
		found.Cohorts[suspect.Cohort] = cohort
		found.Jobs = append(found.Jobs, suspect)
	}
	return found, refused
}

// refusal is the error of a change of a row, if it is refused; db.mu is held.
func (db *fakeDB) refusal(job int64) error {
	if db.refused[job] {
		return errRefused
	}
	return nil
}

func (s *fakeStore) LastTrial(ctx context.Context) (last worker.LastTrial, err error) {
	err = s.do(ctx, call{Op: opLastTrial}, func() []int64 {
		s.db.mu.Lock()
		defer s.db.mu.Unlock()
		var at time.Time
		for _, row := range s.db.workers {
			if row.Dead && !row.Stopping && !row.trialAt.IsZero() && !row.beatAt.Before(at) {
				at = row.beatAt
				last = worker.LastTrial{Found: true, Stopped: max(0, row.beatAt.Sub(row.emptyingAt)), Free: time.Since(row.beatAt)}
			}
		}
		return nil
	})
	return last, err
}

func (s *fakeStore) Try(ctx context.Context, request worker.TryRequest) (claimed worker.Claimed, err error) {
	var refused error
	err = s.do(ctx, call{Op: opTry}, func() (ids []int64) {
		claimed, refused = s.db.try(request)
		for _, job := range claimed.Jobs {
			ids = append(ids, job.ID)
		}
		return ids
	})
	if err = cmp.Or(err, refused); err != nil {
		return worker.Claimed{}, err
	}
	return claimed, nil
}

// try claims what can be had. It is refused if that is nothing, and the change of a row is.
func (db *fakeDB) try(request worker.TryRequest) (claimed worker.Claimed, refused error) {
	db.mu.Lock()
	defer db.mu.Unlock()
	token := wire.ClaimToken(request.WorkerID, request.Number)
	if db.tokens[token] {
		db.violated("claim token %s was used twice", token)
	}
	db.tokens[token] = true
	row := db.workers[request.WorkerID]
	if claimed.Alive = db.alive(request.WorkerID); !claimed.Alive {
		return claimed, nil
	}
	row.trialAt, row.cohort = time.Now(), request.Cohort
	if row.emptyingAt.IsZero() {
		row.emptyingAt = row.trialAt
	}
	bytes := int64(0)
	for _, id := range slices.Sorted(slices.Values(request.Jobs)) {
		job := db.jobs[id]
		if job == nil || job.Busy || superseded(job) || db.requested(job) || db.isPaused(job) || !strings.HasPrefix(job.LockedBy, suspectPrefix+request.Cohort+".") {
			continue
		}
		queue := db.queues[job.Queue]
		if queue != nil && (queue.Held || queue.LockedBy != "" && queue.LockedBy != suspectPrefix+request.Cohort) {
			continue
		}
		if db.refused[id] {
			refused = errRefused
			continue
		}
		if bytes += int64(len(job.Payload)); len(claimed.Jobs) > 0 && bytes > request.Bytes {
			continue
		}
		job.Attempt++
		job.LockedBy, job.LockedAt = token+"."+strconv.Itoa(job.Attempt), time.Now()
		if job.Key != "" {
			job.LockedBy += "k"
		}
		job.Token = job.LockedBy
		if queue != nil {
			queue.LockedBy, queue.LockedAt = token, time.Now()
		}
		*db.crash(id, request.WorkerID) = fakeCrash{job: id, worker: request.WorkerID, token: job.LockedBy, began: time.Now(), tried: true}
		copied := job.Job
		claimed.Jobs = append(claimed.Jobs, &copied)
	}
	if len(claimed.Jobs) == 0 {
		return claimed, refused
	}
	for _, c := range db.crashes {
		taken := slices.ContainsFunc(claimed.Jobs, func(job *wire.Job) bool { return job.ID == c.job })
		c.passed = c.passed || c.worker == "pool-"+request.Cohort && !c.judged.IsZero() && !taken
	}
	return claimed, nil
}

func (s *fakeStore) Acquit(ctx context.Context, workerID string, jobs []int64) (alive bool, err error) {
	err = s.do(ctx, call{Op: opAcquit}, func() []int64 {
		s.db.mu.Lock()
		defer s.db.mu.Unlock()
		if alive = s.db.alive(workerID); !alive {
			return nil
		}
		row := s.db.workers[workerID]
		row.trialAt, row.cohort = time.Time{}, ""
		s.db.crashes = slices.DeleteFunc(s.db.crashes, func(c *fakeCrash) bool {
			return slices.Contains(jobs, c.job) && c.worker != workerID
		})
		for _, c := range s.db.crashes {
			c.tried = c.tried && !slices.Contains(jobs, c.job)
		}
		return nil
	})
	return alive, err
}

func (s *fakeStore) Park(ctx context.Context, leases []wire.Lease) (fates []worker.Fate, err error) {
	err = s.do(ctx, call{Op: opPark, Jobs: ids(leases)}, func() []int64 {
		defer func() { s.db.endReleased(leases, fates) }()
		s.db.mu.Lock()
		defer s.db.mu.Unlock()
		for _, lease := range leases {
			job := s.db.jobs[lease.ID]
			if !s.db.holds(lease) {
				fates = append(fates, s.db.lost(lease))
				continue
			}
			if queue := s.db.queues[job.Queue]; job.Busy || queue != nil && queue.Held {
				fates = append(fates, worker.Fate{Kind: worker.FateBusy})
				continue
			}
			s.db.park(job)
			fate := worker.Fate{Kind: worker.FateRecorded}
			if s.db.requested(job) {
				fate = worker.Fate{Kind: worker.FateCanceled, Request: s.db.dropCanceled(job).Request}
			}
			fates = append(fates, fate)
		}
		return nil
	})
	return fates, err
}

// notice notes that a worker was told to stop.
func (db *fakeDB) notice(id string) {
	db.mu.Lock()
	defer db.mu.Unlock()
	if row := db.workers[id]; row != nil {
		row.Stopping = true
	}
}

// crashed reports whether there is a crash that was judged; db.mu is held.
func (db *fakeDB) crashed() bool {
	return slices.ContainsFunc(db.crashes, func(c *fakeCrash) bool { return !c.judged.IsZero() })
}

var errRefused = &wire.RejectedError{Err: errors.New("invalid input"), Row: true}
