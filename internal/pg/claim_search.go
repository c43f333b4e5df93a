package pg

import (
	"slices"
	"time"

	"github.com/backfillhq/go/internal/wire"
)

const (
	// deepClaims is how many claims in a row look for queues by number before the front is tried
	// again.
	deepClaims = 32
	// A claim looks at leastDepth queues by number, or at twice as many as its batch has jobs. Where
	// slots are slow, claims are rare, and each looks at more: at mostDepth, or as many as take a
	// depthPause-th of the time since the last search, at depthStep for each.
	leastDepth, mostDepth = 400, 5000
	depthStep             = 10 * time.Microsecond
	depthPause            = 10
)

// search remembers how to look for queues that the window at the front of the line does not reach,
// because it is full of jobs of blocked queues, of tasks that nobody here serves, or of queues
// whose first job somebody has locked.
type search struct {
	deep   int       // claims left before the front is tried again; 0: look at the front
	cursor int32     // queue id where the search goes on
	at     time.Time // of the last claim that searched
	idle   bool      // the present pass over the queues has claimed none of their jobs so far
	known  []int32   // open queues that it has found, and that no claim had room for
}

// depth returns how many queues the next claim looks at by number.
func (s *search) depth(batch int, now time.Time) int {
	affordable := int(min(now.Sub(s.at)/(depthPause*depthStep), mostDepth))
	s.at = now
	return max(leastDepth, 2*batch, affordable)
}

// note decides where the next claim looks for queues. It reports whether one should follow at once.
func (s *search) note(kind claimKind, serial int, answer answer) bool {
	switch {
	case kind == claimDeep, len(answer.heldBack) == 0:
		s.known = answer.heldBack
	default:
		s.known = slices.DeleteFunc(s.known, answer.claimed)
	}
	switch kind {
	case claimFront:
		// A claim that held queues back has seen open ones, which the next one with room takes.
		noQueues := answer.queued.Valid && !answer.queued.Bool
		if serial == 0 || len(answer.heldBack) > 0 || !answer.clogged || noQueues {
			return false
		}
		s.deep, s.idle = deepClaims, s.cursor == 0
		return true
	case claimDeep:
		s.deep--
		s.cursor = answer.nextQueue
		if slices.ContainsFunc(answer.jobs, func(job *wire.Job) bool { return job.QueueID != 0 }) {
			s.idle = false
		}
		if s.cursor != 0 {
			return true
		}
		idle := s.idle
		s.idle = true
		if idle { // a whole pass found nothing
			s.deep = 0
		}
		return !idle
	default:
		return false
	}
}

// claimed reports whether a queue's job is among the answer's.
func (a *answer) claimed(queue int32) bool {
	return slices.ContainsFunc(a.jobs, func(job *wire.Job) bool { return job.QueueID == queue })
}
