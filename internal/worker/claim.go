package worker

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/backfillhq/go/internal/wire"
)

const (
	herdMin, herdMax           = 2 * time.Millisecond, 50 * time.Millisecond // R18
	contendedMin, contendedMax = 2 * time.Millisecond, 10 * time.Millisecond
	errorMin, errorMax         = 100 * time.Millisecond, 5 * time.Second
)

// demand decides when to claim. At most one claim is in flight, and everything that asks for one while it runs folds into one
// more.
type demand struct {
	hungry    bool      // a claim would probably find something
	serial    bool      // a claim with room for jobs of queues would
	woken     bool      // because a notification said so
	waiting   bool      // the dispatcher is hungry and waits for room
	notBefore time.Time // no claim earlier: after an error, among a herd, or behind a short-lived lock
	pollAt    time.Time // the safety net; zero in a worker that runs once
	dueAt     time.Time // when the nearest job becomes due; zero: none known

	herd     time.Duration // the last wait after a notification that led to nothing
	failures int           // claims that failed in a row
}

// due notes that a job becomes due at t.
func (d *demand) due(t time.Time) {
	if d.dueAt.IsZero() || t.Before(d.dueAt) {
		d.dueAt = t
	}
}

// opened notes that a queue of ours is open again. Its next job does not wait with the herd.
func (d *demand) opened() {
	d.hungry = true
	if d.failures == 0 {
		d.notBefore = time.Time{}
	}
}

// dispatch claims whenever there is room and reason, until ctx ends, a listener stops the worker, or, in a worker that runs
// once, nothing is left.
func (w *Worker) dispatch(ctx context.Context, stopped <-chan error) error {
	w.mu.Lock()
	w.demand.hungry = true
	w.mu.Unlock()
	timer := time.NewTimer(pollInterval)
	defer timer.Stop()
	for ctx.Err() == nil {
		select {
		case err := <-stopped:
			return err
		default:
		}
		next := w.plan(time.Now())
		if next.polled {
			w.observe(Event{Kind: EventPolled})
		}
		if next.claim {
			w.claim(ctx, next)
			continue
		}
		if next.done {
			return nil
		}
		timer.Reset(next.wait)
		select {
		case <-ctx.Done():
		case err := <-stopped:
			return err
		case <-w.kick:
		case <-timer.C:
		}
	}
	return nil
}

// step is what the dispatcher does next: claim, or end, or wait.
type step struct {
	claim   bool
	request ClaimRequest
	woken   bool // a notification asked for it
	polled  bool
	done    bool
	wait    time.Duration
}

func (w *Worker) plan(now time.Time) step {
	w.mu.Lock()
	defer w.mu.Unlock()
	d := &w.demand
	w.returnLocked(w.buffer.takeOlder(now.Add(-startWithin)))

	var next step
	if !d.pollAt.IsZero() && !now.Before(d.pollAt) {
		next.polled = !d.hungry
		d.hungry = true
		d.pollAt = now.Add(pollInterval)
	}
	if !d.dueAt.IsZero() && !now.Before(d.dueAt) {
		d.hungry, d.dueAt = true, time.Time{}
	}
	d.waiting = false
	if (d.hungry || d.serial) && !now.Before(d.notBefore) {
		w.pace.measure(now, w.config.Concurrency, w.running)
		if batch := w.roomLocked(); batch > 0 {
			next.claim = true
			next.request = w.requestLocked(batch)
			next.woken = d.woken
			d.hungry, d.serial, d.woken = false, false, false
			return next
		}
		d.waiting = true
	}
	next.done = w.config.Once && !d.hungry && !d.serial && w.unrecorded == 0
	next.wait = w.waitLocked(now)
	return next
}

// roomLocked returns how many jobs to claim now: 0 while enough are waiting to start, or too many to be recorded.
func (w *Worker) roomLocked() int {
	if w.unrecorded-len(w.running)-w.buffer.len() > maxUnrecorded {
		return 0
	}
	target := min(w.config.Concurrency-len(w.running)+w.pace.prefetch(), w.pace.fitting())
	room := target - w.buffer.len()
	if room < max(1, target/2) || !w.demand.hungry && w.serialRoomLocked() == 0 {
		return 0
	}
	return min(room, maxBatch)
}

func (w *Worker) requestLocked(batch int) ClaimRequest {
	w.claims++
	return ClaimRequest{WorkerID: w.id, Number: w.claims, Batch: batch, Serial: min(batch, w.serialRoomLocked())}
}

// serialRoomLocked returns how many jobs of queues could start now or almost now (R23).
func (w *Worker) serialRoomLocked() int {
	free := w.config.Concurrency - len(w.running) - w.buffer.len()
	return max(free, w.pace.serial()-w.buffer.len(), 0)
}

// waitLocked returns how long the dispatcher has nothing to do, if nobody kicks it.
func (w *Worker) waitLocked(now time.Time) time.Duration {
	next := now.Add(time.Hour)
	sooner := func(t time.Time) {
		if t.After(now) && t.Before(next) {
			next = t
		}
	}
	sooner(w.demand.pollAt)
	sooner(w.demand.dueAt)
	if w.demand.hungry || w.demand.serial {
		sooner(w.demand.notBefore)
	}
	if oldest, ok := w.buffer.oldest(); ok {
		sooner(oldest.Add(startWithin))
	}
	if w.demand.waiting { // slots that get stuck, or free, change what there is room for
		sooner(now.Add(prefetchAhead))
	}
	return next.Sub(now)
}

// claim makes one claim, and waits for its answer also when ctx ends.
func (w *Worker) claim(ctx context.Context, next step) {
	base := context.WithoutCancel(ctx)
	if w.config.Forbidden != nil {
		next.request.Forbidden = w.config.Forbidden()
	}
	statement, cancel := context.WithTimeout(base, statementTimeout)
	claimed, err := w.store.Claim(statement, next.request)
	cancel()
	if err != nil {
		w.claimFailed(base, err)
		return
	}
	if !claimed.Alive {
		w.fence(base)
		return
	}
	w.observe(Event{Kind: EventClaimed, WorkerID: next.request.WorkerID, Count: len(claimed.Jobs), Full: claimed.More})

	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	d := &w.demand
	d.failures = 0
	w.lastClaim = now
	if !w.config.Once {
		d.pollAt = now.Add(pollInterval)
	}
	if claimed.NextDue > 0 {
		d.due(now.Add(claimed.NextDue))
	}
	switch {
	case len(claimed.Jobs) > 0 || !next.woken:
		d.herd = 0
	case !claimed.More:
		d.herd = min(max(herdMin, 2*d.herd), herdMax)
		d.notBefore = now.Add(rand.N(d.herd))
	}
	d.hungry = d.hungry || claimed.More || claimed.Contended
	d.serial = d.serial || claimed.MoreSerial
	if claimed.Contended || claimed.MoreSerial && len(claimed.Jobs) == 0 { // others hold the queues, or their first jobs
		d.notBefore = now.Add(contendedMin + rand.N(contendedMax-contendedMin))
	}
	w.unrecorded += len(claimed.Jobs)
	if ctx.Err() != nil { // stopped meanwhile: they don't start
		w.returnLocked(claimed.Jobs)
		return
	}
	w.addLocked(claimed.Jobs, now)
}

func (w *Worker) addLocked(jobs []*wire.Job, now time.Time) {
	if len(jobs) == 0 {
		return
	}
	for _, job := range jobs {
		w.pace.sawPayload(len(job.Payload))
	}
	w.buffer.add(jobs, now)
	if len(jobs) == 1 {
		w.ready.Signal()
	} else {
		w.ready.Broadcast()
	}
}

func (w *Worker) claimFailed(base context.Context, err error) {
	w.mu.Lock()
	d := &w.demand
	d.failures++
	wait := backoff(d.failures, errorMin, errorMax)
	d.hungry = true
	d.notBefore = time.Now().Add(wait)
	id := w.id
	w.mu.Unlock()
	w.config.Logger.ErrorContext(base, "claim failed",
		slog.String("worker_id", id), slog.Any("error", err), slog.Duration("retry_in", wait))
	w.observe(Event{Kind: EventClaimError, WorkerID: id, Err: err})
}

// fence gives up an id that was declared dead: what runs under it is cancelled, what has not started is given back if it is
// still ours, and the worker goes on under a fresh id (R2, R5).
func (w *Worker) fence(base context.Context) {
	w.mu.Lock()
	dead := w.id
	w.id = wire.NewWorkerID()
	fresh := w.id
	w.returnLocked(w.buffer.takeOlder(time.Now()))
	for run := range w.running {
		run.cancel(ErrLeaseLost)
	}
	w.demand.hungry = true
	w.demand.failures++
	w.demand.notBefore = time.Now().Add(backoff(w.demand.failures, errorMin, errorMax))
	w.mu.Unlock()
	w.config.Logger.ErrorContext(base, "worker was declared dead, and goes on under a new id",
		slog.String("worker_id", dead), slog.String("new_worker_id", fresh))
	w.observe(Event{Kind: EventFenced, WorkerID: dead})
	if err := w.register(base); err != nil {
		w.claimFailed(base, err) // the next claim finds no row, and comes back here
	}
}

// backoff returns a jittered wait that doubles with each failure.
func backoff(failures int, least, most time.Duration) time.Duration {
	d := least << min(failures-1, 20)
	if d > most || d <= 0 {
		d = most
	}
	return d/2 + rand.N(d/2)
}
