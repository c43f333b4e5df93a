package worker

import (
	"context"
	"time"
)

// Ticks are the ticks of a worker's crontab, for a test that moves the time from one to the next
// itself. It has no goroutine, and tries nothing twice.
type Ticks struct{ schedule }

// Ticks returns the ticks of the worker's crontab that are due after start, or were missed before
// it and are to be caught up with, as if the schedule had started then.
func (w *Worker) Ticks(ctx context.Context, start time.Time) (*Ticks, error) {
	t := &Ticks{schedule{Worker: w, start: start}}
	if len(w.config.Crontab) == 0 {
		return t, nil
	}
	known, err := w.config.Cron.KnownCrontabs(ctx, t.identifiers(), start)
	if err != nil {
		return nil, err
	}
	t.read(known)
	return t, nil
}

// Next returns when the next tick is; zero: there is none.
func (t *Ticks) Next() (next time.Time) {
	for _, line := range t.lines {
		if !line.next.IsZero() && (next.IsZero() || line.next.Before(next)) {
			next = line.next
		}
	}
	return next
}

// Enqueue enqueues the jobs of the next tick, in one transaction.
func (t *Ticks) Enqueue(ctx context.Context) error {
	next := t.Next()
	var due []*cronLine
	for _, line := range t.lines {
		if line.next.Equal(next) {
			due = append(due, line)
		}
	}
	return t.tick(ctx, due...)
}
