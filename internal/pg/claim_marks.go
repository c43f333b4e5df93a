package pg

import (
	"maps"
	"math"
	"slices"
	"time"

	"github.com/backfillhq/go/internal/wire"
)

const (
	// A full claim begins at the earliest fullClaimPause times as long after the last one as that has
	// looked: full claims take a tenth of the time (R21). While there is always more to claim above
	// the marks, there is also fullClaimEvery between them; while there is not, one that has looked
	// for no longer than cheapLook is as good as any other claim, and may be followed by another.
	// What it took to lock the jobs that were found, about lockingOne each, was not for nothing.
	fullClaimPause = 10
	fullClaimEvery = 50 * time.Millisecond
	cheapLook      = 5 * time.Millisecond
	lockingOne     = 40 * time.Microsecond
	// lateCommit is how far below its marks a claim begins that follows one which left nothing: a
	// job's time is when its transaction began, and others have been committed since then.
	lateCommit = time.Second
	// maxMarks bounds the priorities that are remembered, and with it the work of a claim.
	maxMarks = 100
)

// marks say for each priority how far the free jobs have been claimed: up to this run_at. The next
// claim begins there, past the index entries of deleted jobs and whatever it had to skip. They are
// a hint, and for free jobs only: every full claim begins at the front of the line (R21).
type marks struct {
	at     map[int16]time.Time
	short  bool          // the last claim left nothing
	fullAt time.Time     // when the last full claim was sent
	looked time.Duration // that it took to find its jobs
	late   int           // full claims in a row that timed out
	from   int16         // the best priority that the next full claim looks at
}

func noMarks() marks { return marks{from: math.MinInt16} }

// nextFull returns when the next full claim may be sent.
func (m *marks) nextFull() time.Time {
	pause := fullClaimPause * m.looked
	switch {
	case !m.short:
		pause = max(pause, fullClaimEvery)
	case m.looked <= cheapLook:
		pause = 0
	}
	return m.fullAt.Add(pause)
}

func (m *marks) fullClaimIsDue(now time.Time) bool {
	return len(m.at) == 0 || !now.Before(m.nextFull())
}

// columns returns what a claim is sent with.
func (m *marks) columns() (priorities []int16, lows []time.Time) {
	priorities = slices.Sorted(maps.Keys(m.at))
	for _, priority := range priorities {
		low := m.at[priority]
		if m.short {
			low = low.Add(-lateCommit)
		}
		lows = append(lows, low)
	}
	return priorities, lows
}

// note remembers what a claim has found. It reports whether a full claim has to follow, because
// this one has not looked at all priorities.
func (m *marks) note(sent time.Time, full, short bool, answer answer) (unseen bool) {
	m.short = short
	if m.at == nil || full && !short || len(m.at) > maxMarks {
		m.at = make(map[int16]time.Time)
	}
	if !short { // it has walked up to the last that it claimed, which can be below the mark
		for _, job := range answer.jobs {
			if at := m.at[job.Priority]; job.QueueID == 0 && job.RunAt.Before(at) {
				m.at[job.Priority] = job.RunAt
			}
		}
	}
	if len(answer.jobs) == answer.picked { // else jobs were left that may be before those claimed
		for _, job := range answer.jobs {
			if job.QueueID == 0 {
				m.pass(job)
			}
		}
	}
	if !full {
		return false
	}
	m.late = 0
	m.fullAt, m.looked, m.from = sent, max(0, answer.looked-time.Duration(answer.picked)*lockingOne), math.MinInt16
	if !short {
		return false
	}
	m.at[0] = answer.at // the default priority: most jobs to come will have it
	for priority, at := range m.at {
		if at.Before(answer.at) {
			m.at[priority] = answer.at
		}
	}
	if !answer.lastPriority.Valid || answer.lastPriority.Int16 == math.MaxInt16 {
		return false
	}
	m.from = answer.lastPriority.Int16 + 1
	m.fullAt = time.Time{} // this one goes on
	return true
}

// timedOut remembers that a full claim took longer than a statement may. If the server has not said
// so, it may have been the network: then the pause grows with each that follows. The next claims
// begin at the marks, if there are any.
func (m *marks) timedOut(sent time.Time, looked time.Duration, said bool) {
	pause := looked * fullClaimPause
	if !said {
		pause = min(pause, looked<<min(m.late, 4))
	}
	m.late++
	m.fullAt, m.looked, m.from = sent, pause/fullClaimPause, math.MinInt16
}

// pass moves a mark up to a job that was claimed.
func (m *marks) pass(job *wire.Job) {
	if at, ok := m.at[job.Priority]; !ok || job.RunAt.After(at) {
		m.at[job.Priority] = job.RunAt
	}
}
