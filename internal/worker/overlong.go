package worker

import (
	"slices"
	"time"
)

// A handler that hangs looks like one that works: its lease is renewed for as long as the process
// lives. Only the time that it takes tells the two apart.
const (
	overlongFactor = 10               // times what almost all jobs of the task have taken
	overlongLeast  = time.Minute      // less is not worth a look
	overlongFirst  = 15 * time.Minute // while nobody knows how long jobs of the task take
	timeoutGrace   = 5 * time.Second  // for a handler whose context has ended
)

// OverlongJob is a job whose handler runs for longer than expected.
type OverlongJob struct {
	ID       int64
	Task     string
	Since    time.Time     // when the handler was called
	Expected time.Duration // how long it should have taken at most
}

// overlong returns the jobs that run for longer than expected, the longest first.
func (c *core) overlong(now time.Time) (jobs []OverlongJob) {
	for _, l := range c.leases.in[leaseRunning] {
		if took := now.Sub(l.since); took > timeoutGrace { // most have not taken so long
			if expected := c.expected(l.Task); took > expected {
				jobs = append(jobs, OverlongJob{ID: l.ID, Task: l.Task, Since: l.since, Expected: expected})
			}
		}
	}
	slices.SortFunc(jobs, func(a, b OverlongJob) int { return a.Since.Compare(b.Since) })
	return jobs
}

// expected returns how long a job of a task should take at most: as long as the task's timeout
// says, or else by what its jobs have taken so far.
func (c *core) expected(task string) time.Duration {
	if timeout := c.timeouts[task]; timeout > 0 {
		return timeout + timeoutGrace
	}
	if p99, known := c.durations[task].p99(); known {
		return max(overlongFactor*p99, overlongLeast)
	}
	return overlongFirst
}
