package admin

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
)

// Time is a time of the database's, which may be infinite. Its zero is none.
type Time struct {
	Time     time.Time // in UTC
	Infinite int8      // 1 is infinity, -1 is -infinity: then Time is zero
}

// IsZero reports whether there is none.
func (t Time) IsZero() bool { return t.Infinite == 0 && t.Time.IsZero() }

// MarshalJSON writes it as RFC 3339, or as "infinity" or "-infinity".
func (t Time) MarshalJSON() ([]byte, error) {
	if t.Infinite != 0 {
		return json.Marshal(t.String())
	}
	return json.Marshal(t.Time.Format("2006-01-02T15:04:05.999999Z07:00")) // also years beyond 9999
}

// UnmarshalJSON reads what MarshalJSON writes.
func (t *Time) UnmarshalJSON(data []byte) error {
	*t = Time{}
	switch string(data) {
	case `"infinity"`:
		t.Infinite = 1
	case `"-infinity"`:
		t.Infinite = -1
	default:
		return json.Unmarshal(data, &t.Time) // not years beyond 9999, which time.Time does not read
	}
	return nil
}

// String writes it as a sentence has it.
func (t Time) String() string {
	switch {
	case t.Infinite > 0:
		return "infinity"
	case t.Infinite < 0:
		return "-infinity"
	}
	return t.Time.Format("2006-01-02 15:04:05 UTC")
}

func timeOf(t pgtype.Timestamptz) Time {
	if !t.Valid {
		return Time{}
	}
	return Time{Time: t.Time.UTC(), Infinite: int8(t.InfinityModifier)}
}

// since writes how long something has been so at a time: "since 08:18:18 UTC (12 s)".
func (t Time) since(now time.Time) string {
	if t.Infinite != 0 || t.IsZero() {
		return "since " + t.String()
	}
	return fmt.Sprintf("since %s (%s)", clock(t.Time, now), span(now.Sub(t.Time)))
}

// later is a time after this one.
func (t Time) later(d time.Duration) Time {
	if t.Infinite != 0 {
		return t
	}
	return Time{Time: t.Time.Add(d)}
}

// at writes a time as a sentence has it.
func (t Time) at(now time.Time) string {
	if t.Infinite != 0 {
		return t.String()
	}
	return clock(t.Time, now)
}

// clock leaves out the day if it is less than half a day away.
func clock(at, now time.Time) string {
	if d := now.Sub(at); d < 12*time.Hour && d > -12*time.Hour {
		return at.UTC().Format("15:04:05 UTC")
	}
	return at.UTC().Format("2006-01-02 15:04:05 UTC")
}

// span writes a duration with its two largest units: "3 h 12 min".
func span(d time.Duration) string {
	d = max(d, 0)
	switch days := d / (24 * time.Hour); {
	case days > 100*365:
		return "more than 100 years"
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", d/time.Minute, d%time.Minute/time.Second)
	case days == 0:
		return fmt.Sprintf("%d h %d min", d/time.Hour, d%time.Hour/time.Minute)
	default:
		return fmt.Sprintf("%d d %d h", days, d%(24*time.Hour)/time.Hour)
	}
}
