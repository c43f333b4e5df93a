// Package trouble logs what fails again and again, without flooding the log.
package trouble

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// The waits between two lines of the log about one trouble that lasts.
const leastWait, longestWait = time.Second, time.Minute

// Log logs one kind of trouble: the first failure, then one line after a second, two, four, and so
// on up to a minute, and a line when it is over. Trouble that comes and goes makes a line of each a
// second. It is safe for concurrent use.
type Log struct {
	Failing string     // the message while it lasts
	Over    string     // the message when it is over
	Level   slog.Level // of the first; the second is INFO
	// Explain adds to an error what to do about it, for the line. nil: nothing is added.
	Explain func(error) error

	mu     sync.Mutex
	since  time.Time // zero: all is well
	failed int       // since then
	said   time.Time // the last line about a failure
	next   time.Time // when there is a line again
	wait   time.Duration
}

// Failure notes a failure, and logs it if it is time to.
func (t *Log) Failure(log *slog.Logger, err error, attrs ...slog.Attr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if t.failed == 0 {
		t.since, t.next, t.wait = now, t.said.Add(leastWait), leastWait
	}
	t.failed++
	if now.Before(t.next) {
		return
	}
	t.said, t.next = now, now.Add(t.wait)
	t.wait = min(2*t.wait, longestWait)
	if t.Explain != nil {
		err = t.Explain(err)
	}
	attrs = append(attrs, slog.Any("error", err), slog.Int("failures", t.failed))
	log.LogAttrs(context.Background(), t.Level, t.Failing, attrs...) //nolint:sloglint // a constant of the caller
}

// Success notes that all is well, and logs it if the failures before it were.
func (t *Log) Success(log *slog.Logger) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.failed == 0 {
		return
	}
	if !t.said.Before(t.since) {
		log.LogAttrs(context.Background(), slog.LevelInfo, t.Over, //nolint:sloglint // likewise
			slog.Int("failures", t.failed), slog.Duration("duration", time.Since(t.since)))
	}
	t.failed = 0
}
