package worker

import (
	"strconv"
	"testing"
	"time"
)

// What waits for a database that takes no counts is bounded, the oldest goes, and is told of.
func TestCountsThatWaitAreBounded(t *testing.T) {
	t.Parallel()
	c := &counter{sums: make(map[countKey]*Count), due: make(map[countKey]bool)}
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for minute := range maxCounts + 10 {
		fresh := make(counts)
		fresh.of("task "+strconv.Itoa(minute%7)).Completed++
		c.take(fresh, start.Add(time.Duration(minute)*time.Minute))
	}
	if len(c.due) != maxCounts || len(c.sums) != maxCounts || c.lost != 10 {
		t.Errorf("%d rows wait, %d are known, and %d were lost", len(c.due), len(c.sums), c.lost)
	}
	for key := range c.due {
		if key.minute.Before(start.Add(10 * time.Minute)) {
			t.Errorf("a row of %v waits, and younger ones were lost", key.minute)
		}
	}
	clear(c.due)
	c.take(nil, start.Add(time.Hour*24*365))
	if len(c.sums) != 0 {
		t.Errorf("%d rows of former minutes are still known", len(c.sums))
	}
}
