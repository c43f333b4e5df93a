package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/backfillhq/go/internal/wire"
)

const (
	// A listener proves itself by a notification to itself. One that does not come back within proofTimeout means a dead
	// socket, a fail-over, or a transaction pooler: the listener reconnects, and the poll carries on meanwhile.
	proofInterval = 15 * time.Second
	proofTimeout  = 5 * time.Second
)

var errUnproven = errors.New("the listener's own notification did not come back")

// listen keeps a listener connected until ctx ends. A schema that this build must not work on goes to stopped.
func (w *Worker) listen(ctx context.Context, stopped chan<- error) {
	failures := 0
	for ctx.Err() == nil {
		proven, err := w.listenOnce(ctx, stopped)
		if ctx.Err() != nil {
			return
		}
		if proven {
			failures = 0
		}
		failures++
		wait := backoff(failures, errorMin, errorMax)
		w.config.Logger.WarnContext(ctx, "listener disconnected; polling goes on",
			slog.Any("error", err), slog.Duration("retry_in", wait))
		w.observe(Event{Kind: EventDisrupted, Err: err})
		sleep(ctx, wait)
	}
}

// listenOnce listens on one connection. proven says whether a proof ever came back on it.
func (w *Worker) listenOnce(ctx context.Context, stopped chan<- error) (proven bool, err error) {
	connection, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	self := wire.NewWorkerID() // names this connection in its proofs
	proofs := make(chan struct{}, 1)
	done := make(chan struct{})
	listening := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-listening:
			proven, err = w.prove(connection, self, proofs)
			cancel(err)
		case <-connection.Done():
		}
	}()
	ready := func() {
		close(listening)
		w.connected()
		go w.checkSchema(ctx, stopped) // its notification may have come while nobody listened
	}
	listenErr := w.store.Listen(connection, ready, func(n Notification) {
		switch n.Kind {
		case NotifyJobs:
			w.wake()
		case NotifyMigrate:
			go w.checkSchema(ctx, stopped)
		case NotifyPing:
			if n.Payload == self {
				signal(proofs)
			}
		}
	})
	cancel(listenErr)
	<-done
	w.mu.Lock()
	w.listening = false
	w.mu.Unlock()
	return proven, context.Cause(connection)
}

// prove sends a notification to ourselves every proofInterval, and returns when one does not come back.
func (w *Worker) prove(ctx context.Context, self string, proofs <-chan struct{}) (proven bool, err error) {
	for {
		if err := w.proveOnce(ctx, self, proofs); err != nil {
			return proven, err
		}
		proven = true
		if !sleep(ctx, proofInterval) {
			return proven, ctx.Err()
		}
	}
}

func (w *Worker) proveOnce(base context.Context, self string, proofs <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(base, proofTimeout)
	defer cancel()
	if err := w.store.Ping(ctx, self); err != nil {
		return fmt.Errorf("ping the listener: %w", err)
	}
	select {
	case <-proofs:
		return nil
	case <-ctx.Done():
		return errUnproven
	}
}

// connected notes that a listener listens. What was committed before it did is found by one claim.
func (w *Worker) connected() {
	w.mu.Lock()
	w.listening = true
	w.demand.hungry = true
	w.mu.Unlock()
	signal(w.kick)
	w.observe(Event{Kind: EventListening})
}

// wake notes that jobs were inserted.
func (w *Worker) wake() {
	w.mu.Lock()
	w.demand.hungry = true
	w.demand.woken = true
	w.mu.Unlock()
	signal(w.kick)
	w.observe(Event{Kind: EventWoken})
}

// announce tells this worker and the others of jobs that no enqueue has told of.
func (w *Worker) announce(jobs int) {
	w.mu.Lock()
	w.demand.hungry = true
	w.mu.Unlock()
	signal(w.kick)
	w.config.Nudge(jobs)
}

// checkSchema reads the ledger again after somebody has migrated the database, which may have been another schema in it.
func (w *Worker) checkSchema(base context.Context, stopped chan<- error) {
	ctx, cancel := context.WithTimeout(base, statementTimeout)
	defer cancel()
	if err := w.store.CheckSchema(ctx); err != nil {
		select {
		case stopped <- err:
		default: // it is stopping already
		}
	}
}

// sleep waits for d. It reports false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
