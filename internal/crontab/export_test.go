package crontab

import "time"

// Matches reports whether the entry is due at the minute in which t is.
func (e *Entry) Matches(t time.Time) bool {
	tick := floorDiv(t.Unix(), 60)
	_, ok := e.nextLocal(e.reached(tick), e.local(tick))
	return ok
}
