package backfill

import (
	"fmt"
	"math"
	"time"
)

// Backoff says how long a failed job waits for its next attempt. For a function of your own, see
// [BackoffFunc]. The zero Backoff is Graphile Worker's curve with a jitter of 10 %:
//
//	attempt  1     2     3      4      5        6        7         8         9          10 and more
//	wait     2.7s  7.4s  20.1s  54.6s  2m28.4s  6m43.4s  18m16.6s  49m41.0s  2h15m3.1s  6h7m6.5s
//
// A jitter of 10 % multiplies each time, even the maximum, by a random number between 0.9 and 1.1,
// so that jobs that failed together are not retried together.
type Backoff struct {
	curve          curve
	base, max      time.Duration
	factor, jitter float64
	attempts       int // the default of Task.MaxAttempts; 0: 25
}

type curve uint8

const (
	curveDefault     curve = iota // Graphile Worker's curve with jitter
	curveGraphile                 // without
	curveExponential              // base * factor^(attempt-1), at most max, with jitter
	curveFixed                    // base
)

const defaultJitter = 0.1

// graphileDelays are exp(attempt) seconds in microseconds, as PostgreSQL rounds them: Graphile
// Worker's delays after the attempts 1 to 10 (contract section 6.2).
var graphileDelays = [10]time.Duration{
	2_718_282 * time.Microsecond,
	7_389_056 * time.Microsecond,
	20_085_537 * time.Microsecond,
	54_598_150 * time.Microsecond,
	148_413_159 * time.Microsecond,
	403_428_793 * time.Microsecond,
	1_096_633_158 * time.Microsecond,
	2_980_957_987 * time.Microsecond,
	8_103_083_928 * time.Microsecond,
	22_026_465_795 * time.Microsecond,
}

// GraphileBackoff is Graphile Worker's curve to the microsecond: exp(attempt) seconds, at most
// exp(10), without jitter.
func GraphileBackoff() Backoff { return Backoff{curve: curveGraphile} }

// FastBackoff is for work that somebody waits for: from 100 ms to 30 s, doubling each time, with a
// jitter of 10 %. A task with this Backoff and no MaxAttempts gets 3 attempts.
func FastBackoff() Backoff {
	return preset(100*time.Millisecond, 30*time.Second, 2, 0.10, 3)
}

// AggressiveBackoff is for work that should succeed soon and must succeed in the end: from 500 ms
// to 10 min, 1.5 times as long each time, with a jitter of 15 %. A task with this Backoff and no
// MaxAttempts gets 12 attempts.
func AggressiveBackoff() Backoff {
	return preset(500*time.Millisecond, 10*time.Minute, 1.5, 0.15, 12)
}

// ConservativeBackoff is for services that need time to recover: from 5 s to 30 min, 2.5 times as
// long each time, with a jitter of 20 %. A task with this Backoff and no MaxAttempts gets 5
// attempts.
func ConservativeBackoff() Backoff {
	return preset(5*time.Second, 30*time.Minute, 2.5, 0.20, 5)
}

// ExponentialBackoff waits base after the first attempt and factor times as long after each further
// one, but never longer than limit, with a jitter of 10 %. Base must be above 0, limit at least
// base, and factor at least 1; 2 is usual.
func ExponentialBackoff(base, limit time.Duration, factor float64) Backoff {
	return preset(base, limit, factor, defaultJitter, 0)
}

// FixedBackoff waits d after every attempt, without jitter.
func FixedBackoff(d time.Duration) Backoff { return Backoff{curve: curveFixed, base: d} }

func preset(base, limit time.Duration, factor, jitter float64, attempts int) Backoff {
	return Backoff{curve: curveExponential, base: base, max: limit, factor: factor, jitter: jitter, attempts: attempts}
}

// problem reports values that are out of range.
func (b Backoff) problem() error {
	switch b.curve {
	case curveExponential:
		if b.base <= 0 || b.max < b.base || !(b.factor >= 1) || math.IsInf(b.factor, 0) {
			return fmt.Errorf("backoff exp(%v,%v,%v): want a base above 0, a maximum not below it, and a factor of 1 or more",
				b.base, b.max, b.factor)
		}
	case curveFixed:
		if b.base < 0 {
			return fmt.Errorf("backoff fixed(%v): want 0 or more", b.base)
		}
	case curveDefault, curveGraphile:
	}
	return nil
}

// delay is the time until the next attempt after attempt, which counts from 1, failed. The jitter
// is made of random, a number between 0 and 1.
func (b Backoff) delay(attempt int, random float64) time.Duration {
	attempt = max(attempt, 1)
	switch b.curve {
	case curveGraphile:
		return graphileDelay(attempt)
	case curveFixed:
		return b.base
	case curveExponential:
		delay := float64(b.base) * math.Pow(b.factor, float64(attempt-1))
		return spread(min(delay, float64(b.max)), b.jitter, random)
	case curveDefault:
	}
	return spread(float64(graphileDelay(attempt)), defaultJitter, random)
}

func graphileDelay(attempt int) time.Duration {
	return graphileDelays[min(attempt, len(graphileDelays))-1]
}

// spread multiplies by a factor between 1-jitter and 1+jitter, as far as a Duration can hold it.
func spread(delay, jitter, random float64) time.Duration {
	delay *= 1 + jitter*(2*random-1)
	if delay >= math.MaxInt64 {
		return math.MaxInt64
	}
	return time.Duration(delay)
}
