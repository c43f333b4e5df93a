package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/backfillhq/go/backfill"
)

// summary counts what a worker does, by task and in all.
type summary struct {
	mu      sync.Mutex
	tallies map[string]tally
}

type tally struct {
	done, failed, retried int
	waits                 []time.Duration // of first attempts, from being due to the start; 8 bytes a job
}

// observe is a backfill.Observer.
func (s *summary) observe(e backfill.Event) {
	if e.Job == nil {
		return
	}
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range []string{e.Job.Task, "(all)"} {
		s.tallies[name] = s.tallies[name].plus(e, now)
	}
}

func (t tally) plus(e backfill.Event, now time.Time) tally {
	switch e.Kind {
	case backfill.EventStart:
		if e.Job.Attempt > 1 {
			t.retried++
			break
		}
		due := e.Job.RunAt
		if due.Before(e.Job.CreatedAt) {
			due = e.Job.CreatedAt
		}
		t.waits = append(t.waits, max(now.Sub(due), 0)) // the database's clock may be ahead of ours
	case backfill.EventFinished:
		t.done++
	case backfill.EventFailed:
		if e.Job.Attempt >= e.Job.MaxAttempts || e.Delay == 0 { // no delay: Permanent
			t.failed++
		}
	default:
	}
	return t
}

// print writes a table.
func (s *summary) print(out io.Writer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	table := tabwriter.NewWriter(out, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "\ntask\tdone\tfailed\tretried\tp50 to start\tp99 to start\t")
	for _, name := range slices.Sorted(maps.Keys(s.tallies)) {
		t := s.tallies[name]
		slices.Sort(t.waits)
		fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%s\t%s\t\n", name, t.done, t.failed, t.retried, percentile(t.waits, 50), percentile(t.waits, 99))
	}
	_ = table.Flush() // to a terminal
}

// percentile returns what p of a hundred times did not exceed.
func percentile(sorted []time.Duration, p int) string {
	if len(sorted) == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f ms", sorted[(len(sorted)*p-1)/100].Seconds()*1000)
}
