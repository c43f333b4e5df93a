package conviction

import (
	"slices"
	"time"
)

// Record is the evidence against one job: the deaths without notice that held it. A death counts no
// more once its worker has given notice after all (see Death).
type Record struct {
	// Ages has, for each of these deaths, how long the job had been held at the last heartbeat.
	Ages []time.Duration
	// Alone is the number of those in which it was tried by a worker that held nothing else.
	Alone int
}

// Age returns the second greatest age: what kills after some time had that age at two deaths. The
// greatest is often that of a job that had run for hours when another one killed its worker, and
// its trial would take twice as long.
func (r Record) Age() time.Duration {
	if len(r.Ages) == 0 {
		return 0
	}
	ages := slices.Sorted(slices.Values(r.Ages))
	return ages[max(0, len(ages)-2)]
}

const (
	suspectAt = 2 // presences: one says nothing, or a kill -9 would delay everything it hits
	convictAt = 3 // deaths alone
)

// Death is the end of a worker, as the rescue reads it.
type Death struct {
	// Notice says that the worker's row has stopping_at. It was told to stop, or found itself
	// declared dead: that it is gone is no evidence against anybody.
	Notice bool
	// Held is the number of jobs that it held when it was declared dead, whatever was rescued
	// since.
	Held int
	// Disturbed says that the one job that it held for a trial does not explain what kills workers:
	// another one, which was not on a trial and did not hold it, died without notice around that
	// time. See Around.
	Disturbed bool
}

// Around returns from when to when the death of another worker makes one in a trial doubtful: from
// three times the length of the trial before it began, until ten seconds after it ended. Where
// workers die of something else every few minutes, a trial of some minutes proves little.
func Around(began, ended time.Duration) (from, to time.Duration) {
	return began - 3*(ended-began), ended + 10*time.Second
}

// Held is one job that a dead worker held.
type Held struct {
	Lease

	// Tried says that the worker held it for a trial.
	Tried bool
	// Record is the evidence from earlier deaths.
	Record Record
}

// Verdict is what becomes of a job that a dead worker held.
type Verdict int

const (
	// Release frees the job at its place and refunds its attempt.
	Release Verdict = iota
	// Park keeps it and its queue locked as a suspect, and refunds its attempt. The suspects of one
	// death are one cohort.
	Park
	// Convict makes it a dead letter, as crashed, on the evidence of three deaths.
	Convict
	// Crash makes it a dead letter, as crashed, without evidence: it may start once, and perhaps
	// did.
	Crash
	// Interrupt makes it a dead letter, as interrupted: it may start once, and was told to stop.
	Interrupt
	// Drop ends it without running it again: it was removed or superseded while it was held.
	Drop
)

// Ruling is a verdict, and what the death adds to the job's record.
type Ruling struct {
	Verdict Verdict
	Present bool // a presence, with the age
	Alone   bool // a presence alone
}

// Judge says what becomes of a job that the worker held.
func (d Death) Judge(h Held) Ruling {
	r := Ruling{Present: !d.Notice, Alone: !d.Notice && h.Tried && d.Held == 1 && !d.Disturbed}
	switch {
	case h.Superseded():
		r.Verdict = Drop
	case h.only() && d.Notice:
		r.Verdict = Interrupt
	case h.only():
		r.Verdict = Crash
	case h.failed():
		r.Verdict = Release
	case r.Alone && h.Record.Alone+1 >= convictAt:
		r.Verdict = Convict
	case h.Tried, r.Present && len(h.Record.Ages)+1 >= suspectAt:
		r.Verdict = Park // a trial that a notice or another death disturbed is repeated
	default:
		r.Verdict = Release
	}
	return r
}

// Lease is what a lease token and the job's row say about one another (R3).
type Lease struct {
	Attempt int  // of the token
	Keyed   bool // the token says that the job had a key

	Attempts    int // of the row
	MaxAttempts int
	HasKey      bool
}

// Superseded reports whether the job was removed or superseded while it was locked. Peers say so by
// taking the key.
func (l Lease) Superseded() bool { return l.Keyed && !l.HasKey }

// failed reports whether somebody has failed the job for good while it was locked: nobody runs it
// again.
func (l Lease) failed() bool { return l.Attempts != l.Attempt && l.Attempts >= l.MaxAttempts }

// only reports whether the lease had the only attempt of the job, and nobody has given it another.
func (l Lease) only() bool { return l.MaxAttempts == 1 && l.Attempts == 1 && l.Attempt == 1 }

const (
	pauseAt     = 3
	pauseWithin = time.Hour
)

// Pauses reports whether a task is paused, given how long ago its jobs were convicted. The caller
// alerts, and its jobs, suspects too, wait until somebody resumes it.
func Pauses(convicted []time.Duration) bool {
	recent := 0
	for _, ago := range convicted {
		if ago <= pauseWithin {
			recent++
		}
	}
	return recent >= pauseAt
}
