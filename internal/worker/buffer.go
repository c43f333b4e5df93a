package worker

import (
	"slices"
	"time"

	"github.com/backfillhq/go/internal/wire"
)

// buffer holds the leases whose jobs have not started, in the order in which they start.
type buffer struct {
	leases []*lease // sorted; leases[head:] are present
	head   int
	prompt int   // of them, those that were claimed because they would start at once
	bytes  int64 // of their payloads
}

func (b *buffer) len() int { return len(b.leases) - b.head }

// add merges the leases of one claim.
func (b *buffer) add(claimed []*lease) {
	if b.head > 0 {
		b.leases = append(b.leases[:0], b.leases[b.head:]...)
		b.head = 0
	}
	wasEmpty := len(b.leases) == 0
	for _, l := range claimed {
		b.leases = append(b.leases, l)
		b.count(l, 1)
	}
	if !wasEmpty {
		slices.SortStableFunc(b.leases, func(a, c *lease) int { return wire.CompareJobs(a.Job, c.Job) })
	}
}

func (b *buffer) count(l *lease, n int) {
	if l.QueueID != 0 || l.only() {
		b.prompt += n
	}
	b.bytes += int64(n) * int64(len(l.Payload))
}

// first returns the first lease; nil if there is none.
func (b *buffer) first() *lease {
	if b.len() == 0 {
		return nil
	}
	return b.leases[b.head]
}

// next removes the first lease; nil if there is none.
func (b *buffer) next() *lease {
	l := b.first()
	if l == nil {
		return nil
	}
	b.leases[b.head] = nil
	b.head++
	b.count(l, -1)
	return l
}

// takeOlder removes the leases that were claimed at or before t.
func (b *buffer) takeOlder(t time.Time) []*lease {
	return b.take(func(l *lease) bool { return !l.since.After(t) })
}

func (b *buffer) take(which func(*lease) bool) (taken []*lease) {
	kept := b.leases[:0]
	for _, l := range b.leases[b.head:] {
		if !which(l) {
			kept = append(kept, l)
			continue
		}
		taken = append(taken, l)
		b.count(l, -1)
	}
	clear(b.leases[len(kept):])
	b.leases, b.head = kept, 0
	return taken
}

// takeQueued removes the leases of queues' jobs.
func (b *buffer) takeQueued() []*lease {
	return b.take(func(l *lease) bool { return l.QueueID != 0 })
}

// oldest returns when the lease that waits longest was claimed.
func (b *buffer) oldest() (at time.Time, ok bool) {
	for _, l := range b.leases[b.head:] {
		if !ok || l.since.Before(at) {
			at, ok = l.since, true
		}
	}
	return at, ok
}
