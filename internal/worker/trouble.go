package worker

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// The waits between two lines of the log about one trouble that lasts.
const troubleMin, troubleMax = time.Second, time.Minute

// trouble logs what fails again and again: the first failure, then one line after a second, two, four,
// and so on up to a minute, and a line when it is over.
type trouble struct {
	failing string // the message while it lasts
	over    string // the message when it is over
	level   slog.Level

	mu     sync.Mutex
	since  time.Time // zero: all is well
	failed int       // since then
	next   time.Time // when there is a line again
	wait   time.Duration
}

// failure notes a failure, and logs it if it is time to.
func (t *trouble) failure(log *slog.Logger, err error, attrs ...slog.Attr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if t.failed == 0 {
		t.since, t.next, t.wait = now, now, troubleMin
	}
	t.failed++
	if now.Before(t.next) {
		return
	}
	t.next = now.Add(t.wait)
	t.wait = min(2*t.wait, troubleMax)
	attrs = append(attrs, slog.Any("error", err), slog.Int("failures", t.failed))
	log.LogAttrs(context.Background(), t.level, t.failing, attrs...)
}

// success notes that all is well, and logs it if it was not.
func (t *trouble) success(log *slog.Logger) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.failed == 0 {
		return
	}
	log.LogAttrs(context.Background(), slog.LevelInfo, t.over,
		slog.Int("failures", t.failed), slog.Duration("duration", time.Since(t.since)))
	t.failed = 0
}

// troubles are those that a worker can be in.
type troubles struct {
	claims, flushes, listener, renewals, sweeps, looks, cron trouble
}

func newTroubles() *troubles {
	about := func(failing, over string) trouble {
		return trouble{failing: failing, over: over, level: slog.LevelError}
	}
	t := &troubles{
		claims:   about("claim failed", "claims succeed again"),
		flushes:  about("recording outcomes failed", "outcomes are recorded again"),
		listener: about("listener disconnected; polling goes on", "listener is connected again"),
		renewals: about("renewing leases failed", "leases are renewed again"),
		sweeps:   about("releasing stale locks failed", "stale locks are released again"),
		looks: about("looking for jobs of claims whose answers were lost failed",
			"jobs of claims whose answers were lost are looked for again"),
		cron: about("scheduling cron jobs failed", "cron jobs are scheduled again"),
	}
	t.listener.level = slog.LevelWarn
	return t
}
