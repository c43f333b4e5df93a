package worker

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/backfillhq/go/internal/wire"
)

const (
	emptyMin, emptyMax         = 2 * time.Millisecond, 50 * time.Millisecond // R18
	contendedMin, contendedMax = 2 * time.Millisecond, 10 * time.Millisecond
	errorMin, errorMax         = 100 * time.Millisecond, 2 * time.Second
	contendedOften             = 32 // claims at that pace, about 0.2 s; each later one waits longer
)

// demand says when to claim. At most one claim is in flight; everything that asks for one meanwhile
// leads to one more.
type demand struct {
	wanted    bool      // a claim would probably find something
	queues    bool      // one with room for jobs of queues would
	prompted  bool      // because a notification said so, or a job became due
	blocked   bool      // a claim is wanted, and waits for room
	notBefore time.Time // no claim earlier: after an error, an empty claim, or behind a short lock
	pollAt    time.Time // the safety net below notifications; zero in a worker that runs once
	dueAt     time.Time // when the nearest job becomes due; zero: none known
	againAt   time.Time // when to look for what the last claim did not look for; zero: nothing

	empty     time.Duration // the longest wait after the last claims, which were prompted in vain
	contended int           // claims in a row that met the locks of others
	failures  int           // claims that failed in a row
}

// due notes that a job becomes due at t.
func (d *demand) due(t time.Time) {
	if d.dueAt.IsZero() || t.Before(d.dueAt) {
		d.dueAt = t
	}
}

// freed notes that a queue of ours is free again, and its next job due: that waits for nothing.
func (d *demand) freed() {
	d.queues = true
	if d.failures == 0 {
		d.notBefore = time.Time{}
	}
}

// tick notes the timers that have run out. It reports whether the poll's led to a claim that
// nothing else had asked for.
func (d *demand) tick(now time.Time) (polled bool) {
	if !d.pollAt.IsZero() && !now.Before(d.pollAt) {
		polled = !d.wanted
		d.wanted = true
		d.pollAt = now.Add(pollInterval)
	}
	if !d.dueAt.IsZero() && !now.Before(d.dueAt) {
		d.wanted, d.prompted, d.dueAt = true, true, time.Time{}
	}
	if !d.againAt.IsZero() && !now.Before(d.againAt) {
		d.wanted, d.againAt = true, time.Time{}
	}
	return polled
}

// answered notes what a claim has shown.
func (d *demand) answered(now time.Time, prompted bool, claimed Claimed) {
	d.failures = 0
	if claimed.NextDue > 0 {
		d.due(now.Add(claimed.NextDue))
	}
	d.againAt = time.Time{}
	if claimed.Again > 0 {
		d.againAt = now.Add(claimed.Again)
	}
	found := len(claimed.Jobs)
	switch {
	case found > 0 || !prompted:
		d.empty = 0
	case !claimed.More:
		// Another worker was faster. Idle workers that all know of the same jobs spread out.
		d.empty = min(max(emptyMin, 2*d.empty), emptyMax)
		d.notBefore = now.Add(rand.N(d.empty))
	}
	// What is behind a batch that queues have filled can wait until there is room for queues again.
	serial := found > 0 && !slices.ContainsFunc(claimed.Jobs, func(job *wire.Job) bool { return job.QueueID == 0 })
	d.wanted = d.wanted || claimed.More && !serial
	d.queues = d.queues || claimed.More && serial || claimed.MoreSerial
	if !claimed.Contended {
		d.contended = 0
		return
	}
	// Others hold the queues, or the rows of their first jobs: for the length of a statement, or else
	// as long as a transaction lasts. What is heard of meanwhile does not wait.
	wait := contendedMin + rand.N(contendedMax-contendedMin)
	again := now.Add(wait << min(max(0, d.contended-contendedOften), 5))
	if d.contended++; d.againAt.IsZero() || again.Before(d.againAt) {
		d.againAt = again
	}
}

// failed notes a claim that failed, and returns how long to wait.
func (d *demand) failed(now time.Time) time.Duration {
	d.failures++
	wait := backoff(d.failures, errorMin, errorMax)
	d.wanted, d.notBefore = true, now.Add(wait)
	return wait
}

// backoff returns a jittered wait that doubles with each failure.
func backoff(failures int, least, most time.Duration) time.Duration {
	d := least << min(failures-1, 20)
	if d > most || d <= 0 {
		d = most
	}
	return d/2 + rand.N(d/2)
}
