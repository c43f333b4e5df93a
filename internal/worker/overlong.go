package worker

import (
	"math/bits"
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

const (
	leastNoted = 100     // jobs, before their durations say something
	mostNoted  = 1 << 16 // jobs; then all count half
)

// durations counts the jobs of one task by how long they took, in classes each of which is twice as
// long as the one before: the first one is up to a microsecond, and the last one is a day and more.
type durations struct {
	in  [38]uint32
	sum uint32
}

func (d *durations) note(took time.Duration) {
	class := min(bits.Len64(uint64(max(took, 0)/time.Microsecond)), len(d.in)-1)
	d.in[class]++
	d.sum++
	if d.sum < mostNoted {
		return
	}
	d.sum = 0
	for class := range d.in {
		d.in[class] /= 2
		d.sum += d.in[class]
	}
}

// p99 returns how long 99 of 100 jobs took at most, rounded up to the end of its class.
func (d *durations) p99() (took time.Duration, known bool) {
	if d == nil || d.sum < leastNoted {
		return 0, false
	}
	longer := uint32(0)
	for class := len(d.in) - 1; class >= 0; class-- {
		if longer += d.in[class]; longer > d.sum/100 {
			return time.Microsecond << class, true
		}
	}
	return 0, false
}

// took notes how long a handler took.
func (c *core) took(task string, d time.Duration) {
	noted := c.durations[task]
	if noted == nil {
		noted = new(durations)
		c.durations[task] = noted
	}
	noted.note(d)
}
