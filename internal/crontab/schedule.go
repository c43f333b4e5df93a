package crontab

import (
	"math/bits"
	"sort"
	"time"
)

// Times are counted here in minutes since 1970: ticks are UTC minutes, and local minutes are what
// the zone's clock shows, read as if it were UTC. At a tick, those local minutes are due that match
// and that the clock has reached with this tick: one, or none where it repeats itself, or several
// where it jumps ahead. That is all there is to time zones, and to UTC.

// Next returns the first minute after a time at which the entry is due, in UTC. There is none if
// the entry is never due, as on February 30.
func (e *Entry) Next(after time.Time) (time.Time, bool) {
	tick := floorDiv(after.Unix(), 60) + 1
	reached := e.reached(tick)
	due, ok := e.nextLocal(reached, reached+maxWait)
	if !ok {
		return time.Time{}, false
	}
	tick = max(tick, due-maxAhead)
	for now := e.local(tick); now < due; now = e.local(tick) {
		tick = e.steady(tick, tick+due-now)
	}
	return time.Unix(tick*60, 0).UTC(), true
}

// First returns the first tick to schedule at startup (contract section 7.4), which was missed if
// it is before start: not further back than Fill, and from since on, which is when the entry was
// last executed, or else when it became known.
func (e *Entry) First(since, start time.Time) (time.Time, bool) {
	from := start.Add(-e.Fill)
	if from.Before(since) {
		from = since
	}
	if from.After(start) { // by somebody's clock
		from = start
	}
	return e.Next(from.Add(-1))
}

// In minutes.
const (
	day = 24 * 60
	// maxWait is how long it takes at most until an entry is due that ever is. What matches at all
	// matches in every year, or on February 29 only, and at most seven years in a row have none
	// (1897 to 1903, 2097 to 2103).
	maxWait = 8 * 366 * day
	// maxAhead is more than any zone's clock was ever ahead of UTC: the record is 15:13,
	// Metlakatla's until 1867.
	maxAhead = 16 * 60
	// maxBack is more than any zone's clock was ever put back: the record is a day, where the date
	// line was moved.
	maxBack = 25 * 60
)

// reached returns the latest local minute that the clock has shown before a tick.
func (e *Entry) reached(tick int64) int64 {
	from, last := tick-maxBack, tick-1
	if e.offset(from) > e.offset(last) { // it was put back
		return max(e.local(last), e.local(e.steady(from, last)-1))
	}
	return e.local(last)
}

// steady returns the first tick, after one and not after another one, at which the offset is not
// that of the first, or else the other one. Not more than two days are between them, in which there
// is one change at most: the shortest time between two was 95 hours, in Freetown in 1939. It does
// not ask time.Time.ZoneBounds, which goes too far back after the last change of a zone's table,
// and ends too early on the last day of leap years (Go 1.26).
func (e *Entry) steady(from, to int64) int64 {
	offset := e.offset(from)
	if e.offset(to) == offset {
		return to
	}
	return from + 1 + int64(sort.Search(int(to-from-1), func(i int) bool { return e.offset(from+1+int64(i)) != offset }))
}

// local returns the local minute at a tick.
func (e *Entry) local(tick int64) int64 { return floorDiv(tick*60+e.offset(tick), 60) }

// offset returns how many seconds the zone's clock is ahead of UTC at a tick.
func (e *Entry) offset(tick int64) int64 {
	if e.Zone == nil {
		return 0
	}
	_, offset := time.Unix(tick*60, 0).In(e.Zone).Zone()
	return int64(offset)
}

// nextLocal returns the first local minute that matches, after one and not after another one.
func (e *Entry) nextLocal(after, last int64) (int64, bool) {
	minute := after + 1
	date := time.Unix(floorDiv(minute, day)*day*60, 0).UTC()
	minute -= date.Unix() / 60 // of that date
	for ; date.Unix()/60 <= last; minute = 0 {
		if !e.Months.Has(int(date.Month())) {
			date = time.Date(date.Year(), date.Month()+1, 1, 0, 0, 0, 0, time.UTC)
			continue
		}
		if found, ok := e.nextInDay(int(minute)); ok && e.matchesDay(date) {
			due := date.Unix()/60 + int64(found)
			return due, due <= last
		}
		date = date.AddDate(0, 0, 1)
	}
	return 0, false
}

// matchesDay reports whether the entry is due on some day, its month aside. What restricts is
// judged by the set and not by how it was written (contract section 7.1): */1 does not.
func (e *Entry) matchesDay(date time.Time) bool {
	inDates, inWeek := e.Dates.Has(date.Day()), e.Weekdays.Has(int(date.Weekday()))
	if e.Dates.Len() < 31 && e.Weekdays.Len() < 7 {
		return inDates || inWeek
	}
	return inDates && inWeek
}

// nextInDay returns the first minute of a day that matches and is not before another one.
func (e *Entry) nextInDay(from int) (int, bool) {
	for hour := from / 60; hour < 24; hour++ {
		minutes := uint64(e.Minutes) >> max(0, from-hour*60) << max(0, from-hour*60)
		if e.Hours.Has(hour) && minutes != 0 {
			return hour*60 + bits.TrailingZeros64(minutes), true
		}
	}
	return 0, false
}

// floorDiv divides and rounds down, where Go rounds towards zero.
func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}
