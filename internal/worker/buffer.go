package worker

import (
	"slices"
	"time"

	"github.com/backfillhq/go/internal/wire"
)

// buffer holds the jobs that are claimed and have not started, in the order in which they start.
type buffer struct {
	jobs []buffered // sorted; jobs[head:] are present
	head int
}

type buffered struct {
	job *wire.Job
	at  time.Time // when its claim was answered
}

func (b *buffer) len() int { return len(b.jobs) - b.head }

// add merges the jobs of one claim.
func (b *buffer) add(jobs []*wire.Job, now time.Time) {
	if b.head > 0 {
		b.jobs = append(b.jobs[:0], b.jobs[b.head:]...)
		b.head = 0
	}
	wasEmpty := len(b.jobs) == 0
	for _, job := range jobs {
		b.jobs = append(b.jobs, buffered{job, now})
	}
	if !wasEmpty {
		slices.SortStableFunc(b.jobs, func(a, c buffered) int { return wire.CompareJobs(a.job, c.job) })
	}
}

// next removes the first job; nil if there is none.
func (b *buffer) next() *wire.Job {
	if b.len() == 0 {
		return nil
	}
	job := b.jobs[b.head].job
	b.jobs[b.head] = buffered{}
	b.head++
	return job
}

// takeOlder removes the jobs that were claimed at or before t.
func (b *buffer) takeOlder(t time.Time) []*wire.Job {
	var old []*wire.Job
	kept := b.jobs[:0]
	for _, entry := range b.jobs[b.head:] {
		if entry.at.After(t) {
			kept = append(kept, entry)
		} else {
			old = append(old, entry.job)
		}
	}
	clear(b.jobs[len(kept):])
	b.jobs, b.head = kept, 0
	return old
}

// oldest returns when the job that waits longest was claimed.
func (b *buffer) oldest() (at time.Time, ok bool) {
	for _, entry := range b.jobs[b.head:] {
		if !ok || entry.at.Before(at) {
			at, ok = entry.at, true
		}
	}
	return at, ok
}
