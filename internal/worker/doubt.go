package worker

import (
	"math/rand/v2"
	"slices"
	"time"
)

const (
	// reclaimAgain is how long after the last unknown outcome the rows are looked at once more: a
	// connection may have led to another server, and a statement may have been on its way for long.
	reclaimAgain = time.Minute
	// A claim that may still commit keeps the next one waiting for claimsRest. The server ends its
	// statement within 10 s; only a commit that waits for a standby takes longer, and then the next
	// claim's would wait as well. While nothing answers, claims wait for claimsRestLongest.
	claimsRest, claimsRestLongest = 15 * time.Second, time.Minute
	// Nothing is claimed during a look. When claims go on although looks fail, as on a table too large
	// to be scanned in time, there is this many times as long between two looks as one takes.
	looksPause = 9
)

// doubt is about one worker id, under which rows may be locked that are not in memory: the answer
// to a claim was lost, or a lease was lost to somebody unknown (R6).
type doubt struct {
	id       string
	claim    bool      // a claim may have been committed, or may still be
	since    time.Time // when that became so
	last     time.Time // the last event of the kind
	next     time.Time // when to look
	looking  time.Time // when the last look began
	answered bool      // the last look was
	failures int       // looks that failed, or settled nothing, in a row
}

// doubts are those of the present id and of earlier ones.
type doubts []*doubt

// about returns the doubt about an id, which may be new.
func (d *doubts) about(id string) *doubt {
	if i := slices.IndexFunc(*d, func(known *doubt) bool { return known.id == id }); i >= 0 {
		return (*d)[i]
	}
	fresh := &doubt{id: id}
	*d = append(*d, fresh)
	return fresh
}

// claimLost notes a claim whose outcome is unknown: it is looked for at once.
func (d *doubts) claimLost(id string, now time.Time) {
	about := d.about(id)
	if !about.claim {
		about.claim, about.since, about.failures = true, now, 0
	}
	about.last, about.next, about.answered = now, now, false
}

// leaseLost notes a lease whose end nobody here knows: rows are looked at in a while.
func (d *doubts) leaseLost(id string, now time.Time) {
	about := d.about(id)
	about.last = now
	if about.next.IsZero() {
		about.next = now.Add(reclaimAgain)
	}
}

// connectionLost notes that a connection broke. After a fail-over the database may not have what it
// has acknowledged, and its rows be locked for jobs whose outcomes were recorded. The workers of a
// fleet look one after the other.
func (d *doubts) connectionLost(id string, now time.Time) {
	d.leaseLost(id, now.Add(rand.N(reclaimAgain)))
}

// due returns the doubt to look into now; nil if there is none.
func (d *doubts) due(now time.Time) *doubt {
	for _, about := range *d {
		if !about.next.After(now) {
			about.looking = now
			return about
		}
	}
	return nil
}

// next returns when to look next; zero: never.
func (d *doubts) next() (next time.Time) {
	for _, about := range *d {
		if next.IsZero() || about.next.Before(next) {
			next = about.next
		}
	}
	return next
}

// rest reports whether claims under this id have to wait, because an earlier one may be committed,
// or still on its way, and each would add to what is locked.
func (d *doubts) rest(id string, now time.Time) bool {
	for _, about := range *d {
		if about.id == id && about.claim {
			waited := now.Sub(about.since)
			return waited < claimsRest || !about.answered && waited < claimsRestLongest
		}
	}
	return false
}

// looked notes what a look has shown.
func (d *doubts) looked(about *doubt, answered, settled bool, now time.Time) {
	about.answered = answered
	if !settled {
		about.failures++
		wait := backoff(about.failures, errorMin, errorMax/2)
		if now.Sub(about.since) >= claimsRestLongest {
			wait = max(wait, looksPause*now.Sub(about.looking))
		}
		about.next = now.Add(wait)
		return
	}
	about.claim, about.failures = false, 0
	about.next = about.last.Add(reclaimAgain)
	if !about.next.After(now) {
		*d = slices.DeleteFunc(*d, func(other *doubt) bool { return other == about })
	}
}
