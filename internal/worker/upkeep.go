package worker

import (
	"cmp"
	"context"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"
)

// renew moves the lock times of what runs long, or cannot be recorded, so that no peer's sweep
// takes it for stale (R7), until ctx ends. It goes by the leases in memory, never by what the
// database says is ours (R6). Transactional jobs end long before a lock is stale, and a change of
// its row would make the guard of one at REPEATABLE READ fail (R22). One whose context has ended
// cannot commit any more, but its handler may go on for longer.
func (w *Worker) renew(ctx context.Context) {
	for sleep(ctx, renewInterval) {
		w.mu.Lock()
		now := time.Now()
		held := slices.DeleteFunc(w.core.leases.all(leaseRunning, leaseEnding, leaseAbandoned), func(l *lease) bool {
			return w.core.connected.has(l) && w.core.endOf(l, now) == nil
		})
		w.mu.Unlock()
		if len(held) == 0 {
			continue
		}
		if err := w.renewLeases(ctx, held); err != nil {
			w.troubles.renewals.Failure(w.config.Logger, err, slog.Int("jobs", len(held)))
			continue
		}
		w.troubles.renewals.Success(w.config.Logger)
	}
}

// renewLeases renews leases by one statement. One that the server refuses for what a row holds is
// made again in halves, so that this row keeps no other from being renewed.
func (w *Worker) renewLeases(ctx context.Context, held []*lease) error {
	statement, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	fates, err := w.store.Renew(statement, tokens(held))
	if refusesRow(err) && len(held) > 1 {
		first, second := w.renewLeases(ctx, held[:len(held)/2]), w.renewLeases(ctx, held[len(held)/2:])
		return cmp.Or(first, second)
	}
	if err == nil {
		w.on(func(c *core, now time.Time) actions { return c.renewed(held, fates, now) })
	}
	return err
}

// keepUp sweeps, and says what waits and who holds locks, until ctx ends. The second round is for
// locks that were too young to be said in the first: those of a process that this one has replaced.
func (w *Worker) keepUp(ctx context.Context) {
	var said surveyor
	for round := 1; ; round++ {
		said.survey(ctx, w)
		for w.sweep(ctx, &said, round <= 2) { // it goes on at once, before its turn ends
		}
		wait := sweepMin + rand.N(sweepMax-sweepMin)
		if round == 1 {
			wait = waitsLong
		}
		if !sleep(ctx, wait) {
			return
		}
	}
}

// sweep releases what has been locked for 4 hours, as the workers of the database do (contract
// section 5.6): all rows if it is this worker's turn, and the first ones if it is starting. It
// reports whether it needs more time.
func (w *Worker) sweep(ctx context.Context, said *surveyor, starting bool) (more bool) {
	statements, cancel := context.WithTimeout(ctx, sweepTimeout)
	swept, err := w.store.Sweep(statements, w.workerID(), starting)
	cancel()
	w.reportBuried(swept.Dead) // whatever else has become of it
	switch {
	case ctx.Err() != nil, err == nil && !swept.Turn && !starting:
		return false
	case err != nil:
		w.troubles.sweeps.Failure(w.config.Logger, err)
	default:
		w.troubles.sweeps.Success(w.config.Logger)
	}
	if released := swept.Jobs + swept.Queues; released > 0 { // also when it failed half-way
		w.config.Logger.WarnContext(ctx, "released locks that were 4 hours old",
			slog.Int("jobs", swept.Jobs), slog.Int("queues", swept.Queues))
		w.announce(released)
	}
	w.observe(Event{Kind: EventSwept, Count: swept.Jobs, Err: err})
	signal(w.cancels) // whose locks were stale
	if swept.Done && swept.Turn {
		w.findUnowned(ctx) // of these nobody has to be told
		w.expire(ctx)
	}
	if swept.Done {
		said.locks(ctx, w, swept.Locks)
	}
	return swept.Turn && !swept.Done && err == nil
}

// findUnowned looks for what is locked by workers of whose rows nothing is known here, because they
// were deleted before this worker started.
func (w *Worker) findUnowned(ctx context.Context) {
	statement, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	ids, err := w.store.Unowned(statement)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		w.troubles.rescues.Failure(w.config.Logger, err)
	default:
		w.observer.missing(ids)
	}
}
