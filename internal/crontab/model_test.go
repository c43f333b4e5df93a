package crontab_test

import (
	"time"

	"github.com/backfillhq/go/internal/crontab"
)

// wall is what a wall clock and a calendar beside it show.
type wall struct{ minute, hour, date, month, weekday int }

func newWall(t time.Time) wall {
	return wall{t.Minute(), t.Hour(), t.Day(), int(t.Month()), int(t.Weekday())}
}

func (w wall) matches(e *crontab.Entry) bool {
	if !e.Minutes.Has(w.minute) || !e.Hours.Has(w.hour) || !e.Months.Has(w.month) {
		return false
	}
	anyDate, anyWeekday := e.Dates == span(1, 31), e.Weekdays == span(0, 6)
	switch {
	case anyDate && anyWeekday:
		return true
	case anyDate:
		return e.Weekdays.Has(w.weekday)
	case anyWeekday:
		return e.Dates.Has(w.date)
	default:
		return e.Dates.Has(w.date) || e.Weekdays.Has(w.weekday)
	}
}

// A model says what is due in a zone, by another way than the package: it looks at the clock minute
// after minute, and remembers what it has seen.
type model struct {
	from time.Time
	due  [][]wall // for each UTC minute from from on, the local minutes that run there
}

// newModel walks from a time to another one, both whole minutes. It begins 25 hours earlier, to
// know what repeats itself.
func newModel(zone *time.Location, from, to time.Time) model {
	m := model{from: from}
	seen := map[int64]bool{}
	var previous time.Time
	for t := from.Add(-25 * time.Hour); t.Before(to); t = t.Add(time.Minute) {
		_, offset := t.In(zone).Zone()
		shown := t.Add(time.Duration(offset) * time.Second).Truncate(time.Minute) // as if it were UTC
		missed := shown                                                           // the first minute that the clock did not show before this one
		if !previous.IsZero() && shown.After(previous) {
			missed = previous.Add(time.Minute)
		}
		var due []wall
		for ; !missed.After(shown); missed = missed.Add(time.Minute) {
			if seen[missed.Unix()] {
				continue
			}
			seen[missed.Unix()] = true
			if !t.Before(from) {
				due = append(due, newWall(missed))
			}
		}
		if !t.Before(from) {
			m.due = append(m.due, due)
		}
		previous = shown
	}
	return m
}

// ticks returns for each minute whether the entry is due.
func (m model) ticks(e *crontab.Entry) []bool {
	list := make([]bool, len(m.due))
	for i, due := range m.due {
		for _, w := range due {
			list[i] = list[i] || w.matches(e)
		}
	}
	return list
}

func (m model) at(i int) time.Time { return m.from.Add(time.Duration(i) * time.Minute) }
