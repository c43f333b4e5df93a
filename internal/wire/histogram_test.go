package wire_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/backfillhq/go/internal/wire"
)

// Each time is in the class whose ends are around it, also where it is the end of one.
func TestClass(t *testing.T) {
	t.Parallel()
	for _, took := range []time.Duration{
		-time.Second, 0, 1, time.Microsecond, 1001, 2 * time.Microsecond, time.Millisecond, 999 * time.Millisecond, time.Second,
		time.Minute, time.Hour, 23 * time.Hour,
	} {
		class := wire.Class(took)
		if took > wire.ClassEnd(class)+1 || class > 0 && took <= wire.ClassEnd(class-1) {
			t.Errorf("%v is in class %d, up to %v", took, class, wire.ClassEnd(class))
		}
	}
	for class := range int16(73) {
		if got := wire.Class(wire.ClassEnd(class)); got != class {
			t.Errorf("the end of class %d is in class %d", class, got)
		}
	}
	if long := wire.Class(1000 * time.Hour); long != wire.Class(time.Duration(1<<62)) || wire.ClassEnd(long) < 24*time.Hour {
		t.Errorf("more than a day is in class %d", long)
	}
}

// A percentile is off by less than a class, which is 1.41 times as long as the one before it.
func TestPercentile(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // a test's
	var times []time.Duration
	counts := map[int16]int64{}
	for range 10_000 {
		took := time.Duration(random.ExpFloat64() * float64(20*time.Millisecond))
		times = append(times, took)
		counts[wire.Class(took)]++
	}
	slices.Sort(times)
	var sorted []wire.ClassCount
	for class, count := range counts {
		sorted = append(sorted, wire.ClassCount{Class: class, Count: count})
	}
	slices.SortFunc(sorted, wire.CompareClasses)
	for _, part := range []float64{0.01, 0.5, 0.95, 0.99, 1} {
		exact, got := times[int(part*float64(len(times)-1))], wire.Percentile(sorted, part)
		if ratio := float64(got) / float64(exact); ratio < 0.7 || ratio > 1.42 {
			t.Errorf("percentile %v of %v: got %v", part, exact, got)
		}
	}
	if got := wire.Percentile(nil, 0.5); got != 0 {
		t.Errorf("a percentile of nothing is %v", got)
	}
}
