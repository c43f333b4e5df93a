package worker

import "time"

const (
	maxBatch = 500 // jobs a claim; larger ones gain nothing (docs/design.md)
	// maxPrefetch lets one full batch be claimed while another is worked off.
	maxPrefetch = 2 * maxBatch
	// prefetchAhead is how far ahead of the slots the worker claims, in time at its own measured pace.
	prefetchAhead = 50 * time.Millisecond
	// serialAhead is the same for jobs of queues: a queue waits for its claimed job, so one is
	// claimed only if a slot is free now or, at the measured pace, within this time (R23).
	serialAhead = 2 * time.Millisecond
	// leastDuration bounds the pace of jobs that take no time: claiming and recording one takes
	// about that.
	leastDuration = 10 * time.Microsecond
	// maxBufferedBytes bounds the payloads that are claimed and have not started. A payload of more
	// than largePayload is large: a worker holds one such job at a time, and claims others beside it.
	maxBufferedBytes, largePayload = 16 << 20, 4 << 20
)

// pace is what the worker has measured of its jobs.
type pace struct {
	seconds float64 // a job takes, smoothed; 0: none has ended yet
	// Slots that are free, or whose job started within prefetchAhead and serialAhead: the others may
	// be stuck for long, and nothing is claimed on their account.
	prefetchSlots, serialSlots int
}

func (p *pace) ended(took time.Duration) {
	seconds := max(took, leastDuration).Seconds()
	if p.seconds == 0 {
		p.seconds = seconds
	}
	p.seconds += (seconds - p.seconds) / 16
}

// measure counts the slots that take part: free are free, and the others run these leases.
func (p *pace) measure(now time.Time, free int, running []*lease) {
	p.prefetchSlots, p.serialSlots = free, free
	for _, l := range running {
		took := now.Sub(l.since)
		if took <= prefetchAhead {
			p.prefetchSlots++
		}
		if took <= serialAhead {
			p.serialSlots++
		}
	}
}

// prefetch returns how many jobs to claim beyond the free slots.
func (p *pace) prefetch() int { return p.within(prefetchAhead, p.prefetchSlots) }

// serial returns how many jobs of queues can start at once or almost.
func (p *pace) serial() int { return p.within(serialAhead, p.serialSlots) }

// within returns how many jobs slots are likely to finish in d, at most maxPrefetch.
func (p *pace) within(d time.Duration, slots int) int {
	if p.seconds == 0 {
		return 0
	}
	return int(min(float64(slots)*d.Seconds()/p.seconds, maxPrefetch))
}
