package worker

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/backfillhq/go/internal/wire"
)

const (
	busyMin, busyMax = time.Millisecond, 500 * time.Millisecond
	dueNow           = time.Millisecond // a job that is due again within this is claimed at once
)

// finish is an outcome on its way to the database.
type finish struct {
	job     *wire.Job
	outcome Outcome
	busy    int       // how often the row was found locked by somebody else
	errors  int       // how many tries failed, and may have been applied all the same
	after   time.Time // not to be tried before
}

// returnLocked gives jobs back that were claimed and have not started.
func (w *Worker) returnLocked(jobs []*wire.Job) {
	for _, job := range jobs {
		w.pending = append(w.pending, finish{job: job, outcome: Outcome{Kind: OutcomeReturned}})
	}
	if len(jobs) > 0 {
		signal(w.flush)
	}
}

// record writes outcomes to the database until ctx ends: a flush starts when the previous one is done, with whatever has
// gathered, and never waits for a timer. What could not be recorded waits apart and does not hold up the others: for a row that
// somebody else has locked (R16), or after an error.
func (w *Worker) record(ctx context.Context) {
	var batch, waiting []finish
	retry := time.NewTimer(time.Hour)
	defer retry.Stop()
	for {
		stopping := ctx.Err() != nil // everything is tried once more
		w.mu.Lock()
		batch, w.pending = w.pending, batch[:0]
		w.mu.Unlock()
		now, next := time.Now(), time.Hour
		waiting = slices.DeleteFunc(waiting, func(f finish) bool {
			if stopping || !now.Before(f.after) {
				batch = append(batch, f)
				return true
			}
			next = min(next, f.after.Sub(now))
			return false
		})
		if len(batch) > 0 {
			waiting = append(waiting, w.flushBatch(context.WithoutCancel(ctx), batch)...)
			clear(batch)
		}
		switch {
		case stopping:
			w.mu.Lock()
			w.pending = append(w.pending, waiting...)
			w.mu.Unlock()
			return
		case len(batch) == 0:
			retry.Reset(next)
			select {
			case <-ctx.Done():
			case <-w.flush:
			case <-retry.C:
			}
		}
	}
}

// flushBatch records one batch, a statement for each kind of outcome, and returns the outcomes that have to wait.
func (w *Worker) flushBatch(base context.Context, batch []finish) (waiting []finish) {
	byStatement := func(a, b finish) int { return cmp.Compare(a.outcome.Kind.statement(), b.outcome.Kind.statement()) }
	if !slices.IsSortedFunc(batch, byStatement) {
		slices.SortStableFunc(batch, byStatement)
	}
	for len(batch) > 0 {
		n := 1
		for n < min(len(batch), maxBatch) && byStatement(batch[0], batch[n]) == 0 {
			n++
		}
		part := batch[:n]
		batch = batch[n:]
		locked, err := w.flushPart(base, part)
		if err != nil {
			w.retryLater(base, part, err)
			locked = part
		}
		waiting = append(waiting, locked...)
	}
	return waiting
}

// retryLater says when to try outcomes again that could not be recorded. It halves them, so that one which makes the statement
// fail is soon alone (R19).
func (w *Worker) retryLater(base context.Context, part []finish, err error) {
	now := time.Now()
	for _, half := range [][]finish{part[:len(part)/2], part[len(part)/2:]} {
		if len(half) == 0 {
			continue
		}
		after := now.Add(backoff(half[0].errors+1, errorMin, errorMax))
		for i := range half {
			half[i].errors++
			half[i].after = after
		}
	}
	w.config.Logger.ErrorContext(base, "recording outcomes failed",
		slog.Int("jobs", len(part)), slog.Any("error", err), slog.Duration("retry_in", part[len(part)-1].after.Sub(now)))
	w.observe(Event{Kind: EventFlushError, Count: len(part), Err: err})
}

// flushPart records outcomes of one statement, at most maxBatch.
func (w *Worker) flushPart(base context.Context, part []finish) (locked []finish, err error) {
	ctx, cancel := context.WithTimeout(base, statementTimeout)
	defer cancel()
	var settled Settled
	switch part[0].outcome.Kind.statement() {
	case EventCompleted:
		settled, err = w.store.Complete(ctx, leases(part))
	case EventRecorded:
		settled, err = w.store.Fail(ctx, ended(part))
	default:
		settled, err = w.store.Release(ctx, ended(part))
	}
	if err != nil {
		return nil, err
	}
	locked, recorded := w.settle(part, settled)
	w.observe(Event{Kind: part[0].outcome.Kind.statement(), Count: recorded})
	if len(locked) > 0 {
		after := time.Now().Add(backoff(locked[0].busy, busyMin, busyMax))
		for i := range locked { // together, so that they meet again in one statement
			locked[i].after = after
		}
		w.observe(Event{Kind: EventBusy, Count: len(locked)})
	}
	return locked, nil
}

// statement names the event, and with it the statement, that records outcomes of this kind.
func (k OutcomeKind) statement() EventKind {
	switch k {
	case OutcomeCompleted:
		return EventCompleted
	case OutcomeFailed, OutcomeExhausted:
		return EventRecorded
	case OutcomeSnoozed, OutcomeReturned:
	}
	return EventReturned
}

// settle counts what was recorded and wakes the dispatcher if that made jobs claimable.
func (w *Worker) settle(part []finish, settled Settled) (locked []finish, recorded int) {
	var lost []*wire.Job
	w.mu.Lock()
	for _, f := range part {
		switch id := f.job.ID; { // the lists are short, and most are empty
		case slices.Contains(settled.Busy, id):
			f.busy++
			locked = append(locked, f)
			continue
		case f.errors == 0 && slices.Contains(settled.Lost, id):
			w.stats.Lost++
			lost = append(lost, f.job)
		default:
			recorded++
			w.stats.count(f.outcome.Kind, slices.Contains(settled.Exhausted, id))
		}
		w.unrecorded--
		if f.job.QueueID != 0 {
			w.demand.opened()
		}
	}
	if w.config.Once && recorded > 0 && w.unrecorded == 0 { // handlers may have enqueued jobs, and nobody listens
		w.demand.hungry = true
	}
	if settled.NextDue > dueNow {
		w.demand.due(time.Now().Add(settled.NextDue))
	} else if settled.NextDue > 0 {
		w.demand.hungry = true
	}
	if w.demand.hungry || settled.NextDue > 0 || w.unrecorded == 0 {
		signal(w.kick)
	}
	others := w.forOthersLocked(settled)
	w.mu.Unlock()
	if others > 0 {
		w.config.Nudge(others)
	}
	for _, job := range lost {
		w.config.Logger.WarnContext(context.Background(), "lease lost: the outcome of this job was not recorded",
			slog.String("task", job.Task), slog.Int64("job_id", job.ID), slog.Int("attempt", job.Attempt))
		w.observe(Event{Kind: EventLeaseLost, Job: job})
	}
	return locked, recorded
}

// forOthersLocked returns how many of the jobs that became claimable this worker will not claim at once: first in line in a queue
// that was freed, or given back. Others would find them only when they poll.
func (w *Worker) forOthersLocked(settled Settled) int {
	again := 0
	if settled.NextDue > 0 && settled.NextDue <= dueNow {
		again = 1
	}
	if again+settled.NextOwn > 0 && w.state == StateRunning {
		w.pace.measure(time.Now(), w.config.Concurrency, w.running)
		if w.roomLocked() > 0 {
			again = 0
		}
		if w.config.Forbidden == nil { // else it may be a job that we pass over
			settled.NextOwn = max(0, settled.NextOwn-w.serialRoomLocked())
		}
	}
	return again + settled.NextOwn + settled.NextForeign
}

func (s *Stats) count(kind OutcomeKind, exhausted bool) {
	switch kind {
	case OutcomeCompleted:
		s.Completed++
	case OutcomeFailed, OutcomeExhausted:
		s.Failed++
		if exhausted {
			s.Exhausted++
		}
	case OutcomeSnoozed:
		s.Snoozed++
	case OutcomeReturned:
		s.Returned++
	}
}

func leases(part []finish) []wire.Lease {
	out := make([]wire.Lease, len(part))
	for i, f := range part {
		out[i] = f.job.Lease
	}
	return out
}

func ended(part []finish) []Ended {
	out := make([]Ended, len(part))
	for i, f := range part {
		out[i] = Ended{f.job.Lease, f.outcome}
	}
	return out
}
