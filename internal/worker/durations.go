package worker

import (
	"math/bits"
	"slices"
	"time"

	"github.com/backfillhq/go/internal/conviction"
)

const (
	leastNoted = 100     // jobs, before their durations say something
	mostNoted  = 1 << 16 // jobs; then all count half
)

// durations counts the jobs of one task by how long they took, in classes each of which is twice as
// long as the one before: the first one is up to a microsecond, and the last one is a day and more.
type durations struct {
	in      [38]uint32
	sum     uint32
	average time.Duration // smoothed
}

func (d *durations) note(took time.Duration) {
	if d.sum == 0 {
		d.average = took
	}
	d.average += (took - d.average) / 16
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

// quick reports whether jobs of a task end soon. Of one that has not run here nobody knows.
func (c *core) quick(task string) bool {
	d := c.durations[task]
	return d != nil && conviction.Quick(d.average)
}

// quickTasks returns the tasks whose jobs end soon.
func (c *core) quickTasks() (tasks []string) {
	for task := range c.durations {
		if c.quick(task) {
			tasks = append(tasks, task)
		}
	}
	slices.Sort(tasks)
	return tasks
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
