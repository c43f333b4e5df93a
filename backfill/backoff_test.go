package backfill_test

import (
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/backfill"
)

// Contract section 6.2. PostgreSQL 15 gives these for exp(least(10, n)) * interval '1 second'.
func TestGraphileBackoffIsExactToTheMicrosecond(t *testing.T) {
	t.Parallel()
	want := map[int]int64{
		-1: 2718282, 0: 2718282, 1: 2718282, 2: 7389056, 3: 20085537, 4: 54598150, 5: 148413159, 6: 403428793, 7: 1096633158,
		8: 2980957987, 9: 8103083928, 10: 22026465795, 11: 22026465795, 25: 22026465795, math.MaxInt: 22026465795,
	}
	for attempt, micros := range want {
		got := backfill.DelayAt(backfill.GraphileBackoff(), attempt, 1)
		if got != time.Duration(micros)*time.Microsecond {
			t.Errorf("attempt %d: %v, want %d µs", attempt, got, micros)
		}
	}
	for i, got := range backfill.GraphileDelays {
		if computed := math.RoundToEven(math.Exp(float64(i+1)) * 1e6); float64(got.Microseconds()) != computed {
			t.Errorf("attempt %d: %d µs, the formula gives %v", i+1, got.Microseconds(), computed)
		}
	}
}

func TestBackoffCurves(t *testing.T) {
	t.Parallel()
	const ms = time.Millisecond
	tests := map[string]struct {
		backoff backfill.Backoff
		want    []time.Duration // without jitter, after the attempts 1, 2, 3 and 100
		jitter  float64
	}{
		"default":      {backfill.Backoff{}, []time.Duration{2718282 * time.Microsecond, 7389056 * time.Microsecond, 20085537 * time.Microsecond, 22026465795 * time.Microsecond}, 0.10},
		"graphile":     {backfill.GraphileBackoff(), []time.Duration{2718282 * time.Microsecond, 7389056 * time.Microsecond, 20085537 * time.Microsecond, 22026465795 * time.Microsecond}, 0},
		"fast":         {backfill.FastBackoff(), []time.Duration{100 * ms, 200 * ms, 400 * ms, 30 * time.Second}, 0.10},
		"aggressive":   {backfill.AggressiveBackoff(), []time.Duration{500 * ms, 750 * ms, 1125 * ms, 10 * time.Minute}, 0.15},
		"conservative": {backfill.ConservativeBackoff(), []time.Duration{5 * time.Second, 12500 * ms, 31250 * ms, 30 * time.Minute}, 0.20},
		"exponential":  {backfill.ExponentialBackoff(time.Second, 10*time.Second, 3), []time.Duration{time.Second, 3 * time.Second, 9 * time.Second, 10 * time.Second}, 0.10},
		"constant":     {backfill.ExponentialBackoff(time.Second, time.Hour, 1), []time.Duration{time.Second, time.Second, time.Second, time.Second}, 0.10},
		"fixed":        {backfill.FixedBackoff(time.Minute), []time.Duration{time.Minute, time.Minute, time.Minute, time.Minute}, 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for i, attempt := range []int{1, 2, 3, 100} {
				want := test.want[i]
				for random, factor := range map[float64]float64{0: 1 - test.jitter, 0.5: 1, 1: 1 + test.jitter} {
					got := backfill.DelayAt(test.backoff, attempt, random)
					if off := got - time.Duration(float64(want)*factor); off.Abs() > time.Microsecond {
						t.Errorf("attempt %d, random %v: %v, want %v × %v", attempt, random, got, want, factor)
					}
				}
			}
		})
	}
}

func TestBackoffDoesNotOverflow(t *testing.T) {
	t.Parallel()
	got := backfill.DelayAt(backfill.ExponentialBackoff(time.Hour, math.MaxInt64, 1e300), math.MaxInt, 1)
	if diff := cmp.Diff(time.Duration(math.MaxInt64), got); diff != "" {
		t.Error(diff)
	}
}
