package crontab

import (
	"fmt"
	"math/bits"
	"time"
)

// Entry is one line of a crontab: when which job is enqueued (contract sections 7.1 and 7.2).
type Entry struct {
	Pos        Position // of the first time field
	Task       string
	Identifier string // what its ticks are recorded under: option id, else the task

	// When it is due. Where both Dates and Weekdays leave something out, a day that is in either of
	// them matches.
	Minutes  Set            // 0 to 59
	Hours    Set            // 0 to 23
	Dates    Set            // days of the month, 1 to 31
	Months   Set            // 1 to 12
	Weekdays Set            // 0 to 6, 0 is Sunday
	Zone     *time.Location // option tz, also if it says UTC; nil: UTC
	ZonePos  Position       // of the option; Node workers do not know it, so no crontab that one might run may have it

	// Fill is how far back missed ticks are made up at startup. One that is longer than a Duration
	// is the longest Duration.
	Fill time.Duration

	// What the job gets. The zero value of each: the option was not given.
	MaxAttempts int16
	Queue       string
	Key         string
	KeyMode     string // "replace" or "preserve_run_at"; in a crontab "replace" is the default
	Priority    *int16
	Payload     []byte // a JSON object, or nil; without the key _cron, which is added at each tick
	Repeated    string // a key that an object of the payload has twice, so that its last value counts; "" if there is none
}

// Set is a set of numbers from 0 to 63: n is in it if bit n is set.
type Set uint64

// Has reports whether n is in the set.
func (s Set) Has(n int) bool { return s>>n&1 != 0 }

// Len returns how many numbers are in the set.
func (s Set) Len() int { return bits.OnesCount64(uint64(s)) }

// Position is a place in a text. Both count from 1, and columns count bytes, as those of go/token
// do.
type Position struct{ Line, Column int }

// String returns line:column.
func (p Position) String() string { return fmt.Sprintf("%d:%d", p.Line, p.Column) }

// ParseError is one thing that is wrong with a crontab.
type ParseError struct {
	Pos     Position
	Message string // what is wrong, and what to write instead
}

// Error returns line:column: message. Who knows the file puts its name and a colon before it.
func (e ParseError) Error() string { return e.Pos.String() + ": " + e.Message }
