package pg

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// skewWarning is the difference of clocks from which on it is logged.
const skewWarning = 5 * time.Second

// clock knows how far the server's clock was ahead of ours when that was last measured: at each new
// connection, and each time the listener proves itself.
type clock struct {
	logger *slog.Logger

	mu   sync.Mutex
	skew time.Duration // off by half of a round trip at most; negative when the server is behind
	said time.Duration // the difference that was logged last; 0: none, or that it is gone
}

// measure notes the server's time, which was read between two moments. It logs a difference that
// is certain once, and again when it has changed by as much as is worth a warning.
func (c *clock) measure(sent, received, server time.Time) {
	half := received.Sub(sent) / 2
	c.mu.Lock()
	defer c.mu.Unlock()
	c.skew = server.Sub(sent.Add(half)).Round(time.Millisecond)
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
