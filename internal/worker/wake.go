package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/backfillhq/go/internal/wire"
)

const (
	// A listener proves itself by a notification to itself. One that does not come back within
	// proofTimeout means a dead socket, a fail-over, or a transaction pooler: the listener reconnects,
	// and the poll carries on meanwhile. A failed claim asks for a proof at once.
	proofInterval = 15 * time.Second
	proofTimeout  = 2500 * time.Millisecond
	// listenTimeout bounds the connecting; the Store has shorter limits for each host.
	listenTimeout = 15 * time.Second
	// checkInterval is the least time between two looks at the schema: anybody can notify.
	checkInterval = time.Second
	// schemaInterval is how often a worker looks at the schema that is told of no migration.
	schemaInterval = 15 * time.Second
)

var (
	errUnproven     = errors.New("the listener's own notification did not come back")
	errNotListening = errors.New("the listener did not connect in time")
)

// pollsOnly reports whether the worker does without a listener, and says so where nobody has asked
// for it.
func (w *Worker) pollsOnly() bool {
	can := w.store.Sessions().Listens
	w.mu.Lock()
	w.pollOnly = w.config.PollOnly || !can
	w.mu.Unlock()
	if !can && !w.config.PollOnly {
		w.config.Logger.LogAttrs(context.Background(), slog.LevelInfo,
			"a transaction pooler passes on no notifications, so the worker polls: idle, it finds a new job within 2 seconds; "+
				"for less, pass WithListenURL a URL that leads to PostgreSQL directly; WithoutListen silences this",
			slog.String("worker_id", w.workerID()))
	}
	return w.config.PollOnly || !can
}

// pollSchema stands in for notifications of migrations, which a worker without a listener does not
// hear, until ctx ends.
func (w *Worker) pollSchema(ctx context.Context) {
	for sleep(ctx, schemaInterval) {
		signal(w.check)
	}
}

// listen keeps a listener connected until ctx ends.
func (w *Worker) listen(ctx context.Context) {
	failures := 0
	for ctx.Err() == nil {
		proven, err := w.listenOnce(ctx)
		if ctx.Err() != nil {
			return
		}
		if proven {
			failures = 0
		}
		failures++
		wait := backoff(failures, errorMin, errorMax)
		w.troubles.listener.Failure(w.config.Logger, err, slog.Duration("retry_in", wait))
		w.observe(Event{Kind: EventDisrupted, Err: err})
		w.on(func(c *core, now time.Time) (do actions) {
			c.doubts.connectionLost(c.id, now)
			return actions{dispatch: true}
		})
		sleep(ctx, wait)
	}
}

// listenOnce listens on one connection. proven says whether a proof ever came back on it.
func (w *Worker) listenOnce(ctx context.Context) (proven bool, err error) {
	connection, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	self := wire.NewWorkerID() // names this connection in its proofs
	proofs := make(chan struct{}, 1)
	late := time.AfterFunc(listenTimeout, func() { cancel(errNotListening) })
	defer late.Stop()
	var proving sync.WaitGroup
	ready := func() {
		late.Stop()
		w.connected()
		signal(w.check) // its notification may have come while nobody listened
		signal(w.cancels)
		proving.Go(func() {
			proven, err = w.proveAll(connection, self, proofs)
			cancel(err)
		})
	}
	listenErr := w.store.Listen(connection, ready, func(n Notification) {
		switch n.Kind {
		case NotifyJobs:
			w.wake()
		case NotifyMigrate:
			signal(w.check)
		case NotifyCancel:
			signal(w.cancels)
		case NotifyAsk:
			w.ask(n.Payload)
		case NotifyPing:
			if n.Payload == self {
				signal(proofs)
			}
		}
	})
	cancel(listenErr)
	proving.Wait()
	w.mu.Lock()
	w.listening = false
	w.mu.Unlock()
	return proven, context.Cause(connection)
}

// proveAll sends a notification to ourselves every proofInterval, or when it is asked for, and
// returns when one does not come back.
func (w *Worker) proveAll(ctx context.Context, self string, proofs <-chan struct{}) (proven bool, err error) {
	for {
		if err := w.proveOnce(ctx, self, proofs); err != nil {
			return proven, err
		}
		if !proven {
			w.troubles.listener.Success(w.config.Logger)
		}
		proven = true
		select {
		case <-ctx.Done():
			return proven, ctx.Err()
		case <-w.prove:
		case <-time.After(proofInterval):
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
	w.on(func(c *core, _ time.Time) actions {
		w.listening = true
		return c.woke(false)
	})
	w.observe(Event{Kind: EventListening})
}

// wake notes that jobs were inserted.
func (w *Worker) wake() {
	w.on(func(c *core, _ time.Time) actions { return c.woke(true) })
	w.observe(Event{Kind: EventWoken})
}

// announce tells this worker and the others of jobs that no enqueue has told of.
func (w *Worker) announce(jobs int) {
	w.on(func(c *core, _ time.Time) actions { return c.woke(false) })
	w.config.Nudge(jobs)
}

// checkSchema reads the ledger again when somebody has migrated the database, which may have been
// another schema in it, until ctx ends. A schema that this build must not work on goes to stopped.
func (w *Worker) checkSchema(ctx context.Context, stopped chan<- error) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.check:
		}
		statement, cancel := context.WithTimeout(ctx, statementTimeout)
		err := w.store.CheckSchema(statement)
		cancel()
		if err != nil {
			select {
			case stopped <- err:
			default: // it is stopping already
			}
		}
		if !sleep(ctx, checkInterval) {
			return
		}
	}
}

// sleep waits for d. It reports false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
