package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/backfill"
)

func TestSummary(t *testing.T) {
	t.Parallel()
	s := &summary{tallies: map[string]tally{}}
	s.observe(backfill.Event{Kind: backfill.EventStarted})
	job := func(task string, attempt int) *backfill.Job {
		due := time.Now().Add(time.Hour) // by the clock of a database that is ahead
		return &backfill.Job{Task: task, Attempt: attempt, MaxAttempts: 3, RunAt: due, CreatedAt: due}
	}
	for _, e := range []backfill.Event{
		{Kind: backfill.EventStart, Job: job("b", 1)},
		{Kind: backfill.EventFailed, Job: job("b", 1), Delay: time.Second},
		{Kind: backfill.EventStart, Job: job("b", 2)},
		{Kind: backfill.EventFailed, Job: job("b", 2), Delay: time.Second},
		{Kind: backfill.EventStart, Job: job("b", 3)},
		{Kind: backfill.EventFailed, Job: job("b", 3), Delay: time.Second}, // the last attempt
		{Kind: backfill.EventStart, Job: job("a", 1)},
		{Kind: backfill.EventFailed, Job: job("a", 1)}, // Permanent
		{Kind: backfill.EventStart, Job: job("a", 1)},
		{Kind: backfill.EventFinished, Job: job("a", 1)},
		{Kind: backfill.EventFinished, Job: job("c", 2)}, // a retry of what another worker began
	} {
		s.observe(e)
	}
	var printed strings.Builder
	s.print(&printed)
	want := `
    task   done   failed   retried   p50 to start   p99 to start
   (all)      2        2         2         0.0 ms         0.0 ms
       a      1        1         0         0.0 ms         0.0 ms
       b      0        1         2         0.0 ms         0.0 ms
       c      1        0         0              -              -
`
	if diff := cmp.Diff(want, printed.String()); diff != "" {
		t.Errorf("summary (-want +got):\n%s", diff)
	}
}

func TestPercentile(t *testing.T) {
	t.Parallel()
	times := make([]time.Duration, 200)
	for i := range times {
		times[i] = time.Duration(i+1) * time.Millisecond
	}
	for _, test := range []struct {
		n, p int
		want string
	}{{0, 50, "-"}, {1, 50, "1.0 ms"}, {1, 99, "1.0 ms"}, {2, 50, "1.0 ms"}, {3, 50, "2.0 ms"}, {100, 99, "99.0 ms"}, {200, 99, "198.0 ms"}} {
		if got := percentile(times[:test.n], test.p); got != test.want {
			t.Errorf("p%d of %d is %s, want %s", test.p, test.n, got, test.want)
		}
	}
}
