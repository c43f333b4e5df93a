package pg

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/backfillhq/go/internal/worker"
)

// skewWarning is the difference of clocks from which on it is logged.
const skewWarning = 5 * time.Second

// clock knows the server's time: as it was last measured, at each new connection, heartbeat and
// proof of the listener, and since then by Go's clock. Who sets the clock of this machine moves
// nothing but the difference that is logged.
type clock struct {
	logger *slog.Logger

	mu     sync.Mutex
	server time.Time     // the server's time,
	at     time.Time     // at this moment of ours; zero: not measured yet
	within time.Duration // that may be off by so much
	skew   time.Duration // how far the server was ahead when it was last measured; negative when it was behind
	said   time.Duration // the difference that was logged last; 0: none, or that it is gone
}

// Clock is the server's clock. It is known once Register has returned.
func (s *Store) Clock() worker.Clock { return &s.sessions.clock }

// Now implements worker.Clock.
func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if c.at.IsZero() {
		return now.Round(0).UTC()
	}
	return c.estimate(now)
}

// estimate returns what the server's clock shows at a moment of ours; c.mu is held.
func (c *clock) estimate(at time.Time) time.Time { return c.server.Add(at.Sub(c.at)).UTC() }

// Sleep implements worker.Clock.
func (c *clock) Sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// measure notes the server's time, which was read between two moments. It logs a difference that
// is certain once, and again when it has changed by as much as is worth a warning.
func (c *clock) measure(sent, received, server time.Time) {
	half := received.Sub(sent) / 2
	middle := sent.Add(half)
	c.mu.Lock()
	defer c.mu.Unlock()
	// A measurement that took longer says less, unless it shows that the server's clock was set, or
	// that this machine has slept.
	if half <= c.within || c.at.IsZero() || server.Sub(c.estimate(middle)).Abs() > half+c.within {
		c.server, c.at, c.within = server, middle, half
	}
	c.skew = server.Sub(middle).Round(time.Millisecond)
	if c.logger == nil {
		return
	}
	skew := slog.Duration("server_ahead_by", c.skew)
	switch certain := c.skew.Abs() - half; {
	case certain >= skewWarning && (c.skew-c.said).Abs() >= skewWarning:
		c.said = c.skew
		c.logger.LogAttrs(context.Background(), slog.LevelWarn,
			"the clocks of the database server and of this machine differ: jobs and cron entries are due by the server's", skew)
	case c.said != 0 && c.skew.Abs()+half < skewWarning:
		c.said = 0
		c.logger.LogAttrs(context.Background(), slog.LevelInfo,
			"the clocks of the database server and of this machine agree again", skew)
	}
}
