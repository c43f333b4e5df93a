package worker

import (
	"slices"
	"sync"
	"time"

	"github.com/backfillhq/go/internal/host"
)

// Peer is a worker's row, as the others read it.
type Peer struct {
	ID      string
	Beats   int64 // so far; less than 0: it does not beat, because its version is older
	Locked  bool  // its session has taken the lock, and may have lost it since
	Dead    bool  // it stopped, or was declared dead
	Rescued bool  // and nothing is locked by it any more

	Emptying bool // it claims nothing, to try suspects
	Trying   bool // it tries some

	Host    string
	Process host.Process
}

// Verdict is what one worker knows of another.
type Verdict int

// The verdicts, from good to bad.
const (
	VerdictAlive Verdict = iota // its heart beats, or nobody can tell
	VerdictLate                 // its next heartbeat should have come
	VerdictDead                 // it will not beat again, or not before its jobs run elsewhere
)

// observer watches the heartbeats of the other workers. Death is observed, and never computed from
// a time in a row: a worker is dead when its beats have not changed for long enough by the clock of
// this process, while the own ones were acknowledged throughout (R10).
type observer struct {
	times leaseTimes

	mu   sync.Mutex
	last Moment // when the rows were last read
	seen map[string]*sighting
}

// sighting is what was seen of one worker.
type sighting struct {
	Peer

	since    time.Time // when this number of beats was first read; zero: before a gap
	session  int       // of ours, over which it was last read
	advanced bool      // its beats were seen to change between two looks over that session
	absent   bool      // its row is gone, since that time

	tries int       // rescues that have left something
	after time.Time // when the next one may begin
}

func newObserver(times leaseTimes) *observer {
	return &observer{times: times, seen: make(map[string]*sighting)}
}

// gap starts all observations over: this worker did not see what happened meanwhile.
func (o *observer) gap() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.startOver()
}

func (o *observer) startOver() {
	for _, s := range o.seen {
		s.since, s.advanced = time.Time{}, false
	}
}

// read takes the rows of all workers, apart from the own one.
func (o *observer) read(session int, peers []Peer, at Moment) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.last.ago(at) > o.times.gap {
		o.startOver() // this process was stopped, or its machine: what others wrote meanwhile may be under way
	}
	now := at.At
	o.last = at
	there := make(map[string]bool, len(peers))
	for _, peer := range peers {
		there[peer.ID] = true
		s := o.seen[peer.ID]
		switch {
		case s == nil:
			o.seen[peer.ID] = &sighting{Peer: peer, since: now, session: session}
			continue
		case s.session != session || s.since.IsZero():
			// What has changed since the last look may have changed before a restart of the server.
			s.advanced = false
			if s.Beats != peer.Beats || s.since.IsZero() {
				s.since = now
			}
		case s.Beats != peer.Beats:
			s.since, s.advanced = now, true
		case s.absent:
			s.since = now
		}
		s.Peer, s.session, s.absent = peer, session, false
	}
	for id, s := range o.seen {
		switch {
		case there[id]:
		case s.Rescued: // its row was deleted, as that of a worker that is long dead
			delete(o.seen, id)
		case !s.absent || s.since.IsZero():
			s.absent, s.since = true, now
		}
	}
}

// missing takes ids by which something is locked and that have no row. They are watched as those
// are whose row was seen to vanish.
func (o *observer) missing(ids []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, id := range ids {
		if o.seen[id] == nil {
			o.seen[id] = &sighting{Peer: Peer{ID: id}, since: time.Now(), absent: true}
		}
	}
}

// judge is the one place where a worker is judged. unlocked says that its session lock was seen to
// be free: that proves nothing alone, because all locks are free after a restart of the server.
// Time counts up to the last look and no further: what came after it, nobody has seen. It is that
// of Go's clock: of the others' silence, what this machine has slept through does not count.
func (o *observer) judge(s *sighting, unlocked bool) Verdict {
	quiet := time.Duration(0)
	if !s.since.IsZero() {
		quiet = o.last.At.Sub(s.since)
	}
	disconnected := s.Locked && unlocked
	switch {
	case s.Dead:
		return VerdictDead
	case s.absent:
		if quiet >= o.times.death {
			return VerdictDead
		}
		return VerdictLate
	case s.Beats < 0:
		return VerdictAlive
	case quiet >= o.times.death,
		disconnected && s.advanced && quiet >= o.times.unlockedDeath,
		disconnected && s.Process.Gone(): // R29
		return VerdictDead
	case quiet >= o.times.late, s.Process.Gone():
		return VerdictLate
	}
	return VerdictAlive
}

// watches reports whether this is a worker whose heartbeats tell whether it lives.
func (o *observer) watches(id string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := o.seen[id]
	return s != nil && s.Beats >= 0
}

// fleet returns what the others say to a worker's turn at trials.
func (o *observer) fleet(own string) (f fleet) {
	o.mu.Lock()
	defer o.mu.Unlock()
	f.living = 1
	for id, s := range o.seen {
		if s.absent || s.Beats < 0 || o.judge(s, false) == VerdictDead {
			continue
		}
		f.living++
		switch {
		case s.Trying:
			f.busy++
		case s.Emptying:
			f.busy++
			f.emptying = true
			f.yields = f.yields || id < own
		}
	}
	return f
}

// late returns whose session locks are to be looked at: of those that may be dead if theirs is
// free.
func (o *observer) late() (late []Peer) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, s := range o.seen {
		if s.Locked && !s.absent && o.judge(s, false) == VerdictLate {
			late = append(late, s.Peer)
		}
	}
	return late
}

// dead returns who is to be declared dead, and whose rows are to be released: the dead and those
// that have no row any more.
func (o *observer) dead(unlocked map[string]bool, now time.Time) (declare []Peer, release []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for id, s := range o.seen {
		switch {
		case s.Rescued || o.judge(s, unlocked[id]) != VerdictDead:
		case !s.Dead && !s.absent:
			declare = append(declare, s.Peer)
		case !now.Before(s.after):
			release = append(release, id)
		}
	}
	return declare, release
}

// declared notes that a worker was declared dead.
func (o *observer) declared(id string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if s := o.seen[id]; s != nil {
		s.Dead = true
	}
}

// rescued notes which of these workers have nothing locked any more. A rescue reads all jobs, so
// the next one for the others waits, longer each time.
func (o *observer) rescued(ids, settled []string, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, id := range ids {
		s := o.seen[id]
		switch {
		case s == nil:
		case slices.Contains(settled, id):
			s.Rescued = true
		default:
			s.tries++
			s.after = now.Add(min(o.times.look<<min(s.tries-1, 8), rescuePause))
		}
	}
}

// rescuePause is the longest pause between two rescues of one worker's jobs.
const rescuePause = 10 * time.Second

// waits reports whether somebody is late, so that the next look is to follow soon.
func (o *observer) waits() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, s := range o.seen {
		if !s.Rescued && o.judge(s, false) != VerdictAlive {
			return true
		}
	}
	return false
}
