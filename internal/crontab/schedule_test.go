package crontab_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/internal/crontab"
)

func at(t *testing.T, text string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// ticks formats times as the minutes that they are.
func ticks(times []time.Time) (list []string) {
	for _, tick := range times {
		list = append(list, tick.Format("2006-01-02T15:04Z07:00"))
	}
	return list
}

// after returns the next ticks after a time.
func after(t *testing.T, e *crontab.Entry, start string, count int) (list []time.Time) {
	t.Helper()
	tick := at(t, start)
	for range count {
		next, ok := e.Next(tick)
		if !ok {
			break
		}
		list = append(list, next)
		tick = next
	}
	return list
}

func TestNext(t *testing.T) {
	t.Parallel()
	tests := []struct {
		line, after string
		want        []string
	}{
		// 2026-01-01 is a Thursday.
		{"* * * * * a", "2026-01-01T00:00:00Z", []string{"2026-01-01T00:01Z", "2026-01-01T00:02Z"}},
		{"* * * * * a", "2026-01-01T00:00:59.999999999Z", []string{"2026-01-01T00:01Z"}},
		{"* * * * * a", "2025-12-31T23:59:59.999999999Z", []string{"2026-01-01T00:00Z"}},
		{"* * * * * a", "1969-12-31T23:58:30Z", []string{"1969-12-31T23:59Z", "1970-01-01T00:00Z"}},
		{"* * * * * a", "2026-01-01T01:00:00+01:00", []string{"2026-01-01T00:01Z"}},
		{"*/25 */9 * * * a", "2026-01-01T09:30:00Z", []string{"2026-01-01T09:50Z", "2026-01-01T18:00Z", "2026-01-01T18:25Z", "2026-01-01T18:50Z", "2026-01-02T00:00Z"}},
		{"30 4 31 * * a", "2026-01-31T04:30:00Z", []string{"2026-03-31T04:30Z", "2026-05-31T04:30Z"}},
		{"0 0 * 12,2 1 a", "2026-02-16T00:00:00Z", []string{"2026-02-23T00:00Z", "2026-12-07T00:00Z"}},
		{"59 23 31 12 * a", "2026-12-31T23:59:00Z", []string{"2027-12-31T23:59Z"}},
		// A day has to match both fields, unless both restrict: then one of them.
		{"0 0 2 * * a", "2026-01-01T00:00:00Z", []string{"2026-01-02T00:00Z", "2026-02-02T00:00Z"}},
		{"0 0 * * 0 a", "2026-01-01T00:00:00Z", []string{"2026-01-04T00:00Z", "2026-01-11T00:00Z"}},
		{"0 0 2,5 * 0 a", "2026-01-01T00:00:00Z", []string{"2026-01-02T00:00Z", "2026-01-04T00:00Z", "2026-01-05T00:00Z", "2026-01-11T00:00Z"}},
		{"0 0 2 * 0-6 a", "2026-01-01T00:00:00Z", []string{"2026-01-02T00:00Z", "2026-02-02T00:00Z"}},
		{"0 0 1-15,16-31 * 0 a", "2026-01-01T00:00:00Z", []string{"2026-01-04T00:00Z"}},
		{"0 0 */2 * 0 a", "2026-01-01T00:00:00Z", []string{"2026-01-03T00:00Z", "2026-01-04T00:00Z", "2026-01-05T00:00Z"}},
		{"0 0 1-30 * 1 a", "2026-08-30T00:00:00Z", []string{"2026-08-31T00:00Z", "2026-09-01T00:00Z"}},
		{"0 0 2 * 1-6 a", "2026-08-01T00:00:00Z", []string{"2026-08-02T00:00Z", "2026-08-03T00:00Z"}},
		{"0 0 31 2 1-7 a", "2026-01-01T00:00:00Z", nil},
		{"0 0 31 2 1 a", "2026-01-01T00:00:00Z", []string{"2026-02-02T00:00Z"}},
		{"0 0 30 2 * a", "2026-01-01T00:00:00Z", nil},
		{"0 0 31 4,6,9,11 * a", "2026-01-01T00:00:00Z", nil},
		// Berlin, where 02:00 to 02:59 does not exist on 2026-03-29, and comes twice on 2026-10-25.
		{"30 2 * * * a ?tz=Europe/Berlin", "2026-03-28T00:00:00Z", []string{"2026-03-28T01:30Z", "2026-03-29T01:00Z", "2026-03-30T00:30Z"}},
		{"*/20 1-3 * * * a ?tz=Europe/Berlin", "2026-03-29T00:00:00Z", []string{"2026-03-29T00:20Z", "2026-03-29T00:40Z", "2026-03-29T01:00Z", "2026-03-29T01:20Z"}},
		{"59 2 29 3 * a ?tz=Europe/Berlin", "2026-01-01T00:00:00Z", []string{"2026-03-29T01:00Z", "2027-03-29T00:59Z"}},
		{"30 2 * * * a ?tz=Europe/Berlin", "2026-10-24T00:00:00Z", []string{"2026-10-24T00:30Z", "2026-10-25T00:30Z", "2026-10-26T01:30Z"}},
		{"*/20 * * * * a ?tz=Europe/Berlin", "2026-10-25T00:20:00Z", []string{"2026-10-25T00:40Z", "2026-10-25T02:00Z", "2026-10-25T02:20Z"}},
		{"0 * * * * a ?tz=Europe/Berlin", "2026-10-24T23:30:00Z", []string{"2026-10-25T00:00Z", "2026-10-25T02:00Z"}},
		// Beirut skips the first hour of 2026-03-29, a Sunday: the day is that of the minute that
		// was skipped.
		{"0 0 * * 0 a ?tz=Asia/Beirut", "2026-03-28T00:00:00Z", []string{"2026-03-28T22:00Z", "2026-04-04T21:00Z"}},
		// Lord Howe puts its clocks back by half an hour on 2026-04-05, and Troll by two hours.
		{"45 1 * * * a ?tz=Australia/Lord_Howe", "2026-04-04T00:00:00Z", []string{"2026-04-04T14:45Z", "2026-04-05T15:15Z"}},
		{"0 2 * * * a ?tz=Antarctica/Troll", "2026-10-25T00:00:00Z", []string{"2026-10-26T02:00Z", "2026-10-27T02:00Z"}},
		{"15 0 * * * a ?tz=Asia/Kathmandu", "2026-01-01T00:00:00Z", []string{"2026-01-01T18:30Z"}},
		// Apia had no 2011-12-30.
		{"0 12 30 12 * a ?tz=Pacific/Apia", "2011-01-01T00:00:00Z", []string{"2011-12-30T10:00Z", "2012-12-29T22:00Z"}},
		// Go's ZoneBounds is wrong on the last day of leap years.
		{"0 12 * * * a ?tz=Europe/Berlin", "2040-12-30T12:00:00Z", []string{"2040-12-31T11:00Z", "2041-01-01T11:00Z"}},
		{"0 0 30 2 * a ?tz=Europe/Berlin", "2026-01-01T00:00:00Z", nil},
	}
	for _, test := range tests {
		e := parseOne(t, test.line)
		got := after(t, e, test.after, max(1, len(test.want)))
		if diff := cmp.Diff(test.want, ticks(got)); diff != "" {
			t.Errorf("%s after %s (-want +got):\n%s", test.line, test.after, diff)
		}
		for _, tick := range got {
			if !e.Matches(tick) || !e.Matches(tick.Add(time.Minute-1)) {
				t.Errorf("%s does not match %v", test.line, tick)
			}
		}
	}
}

// Eight years are enough: the calendar repeats itself after 400, and in all of them what can match
// does, after each day.
func TestNextIsBounded(t *testing.T) {
	t.Parallel()
	leap := parseOne(t, "0 0 29 2 * a")
	longest := 0
	for year := 1999; year < 2400; year++ {
		for month := range 12 {
			start := time.Date(year, time.Month(month+1), 1, 0, 0, 0, 0, time.UTC)
			next, ok := leap.Next(start)
			want := time.Date(year, 2, 29, 0, 0, 0, 0, time.UTC)
			for want.Month() != time.February || !want.After(start) {
				want = time.Date(want.Year()+1, 2, 29, 0, 0, 0, 0, time.UTC)
			}
			if !ok || !next.Equal(want) {
				t.Fatalf("after %v: %v, %t, want %v", start, next, ok, want)
			}
			longest = max(longest, next.Year()-year)
		}
	}
	if longest != 8 {
		t.Errorf("the longest wait is over %d years", longest)
	}
	for month := time.January; month <= time.December; month++ {
		for date := 1; date <= 31; date++ {
			e := always(func(e *crontab.Entry) { e.Months, e.Dates = numbers(int(month)), numbers(date) })
			exists := time.Date(2000, month, date, 0, 0, 0, 0, time.UTC).Month() == month
			if _, ok := e.Next(at(t, "2096-03-01T00:00:00Z")); ok != exists {
				t.Errorf("%v %d: %t", month, date, ok)
			}
		}
	}
	if _, ok := new(crontab.Entry).Next(at(t, "2026-01-01T00:00:00Z")); ok {
		t.Error("an entry without any minute is due")
	}
}

// missed returns the ticks that are made up at start.
func missed(e *crontab.Entry, since, start time.Time) (all []time.Time) {
	for tick, ok := e.First(since, start); ok && tick.Before(start); tick, ok = e.Next(tick) {
		all = append(all, tick)
	}
	return all
}

// The times are those at which the real worker made up ticks, its clock standing still.
func TestMissed(t *testing.T) {
	t.Parallel()
	tests := []struct {
		line, since, start string
		count              int
		first, last        string
	}{
		{"* * * * * a ?fill=10m", "2020-01-01T00:00:00Z", "2026-03-03T12:00:00Z", 10, "2026-03-03T11:50Z", "2026-03-03T11:59Z"},
		{"* * * * * a ?fill=10m", "2020-01-01T00:00:00Z", "2026-03-03T12:00:00.001Z", 10, "2026-03-03T11:51Z", "2026-03-03T12:00Z"},
		{"* * * * * a ?fill=10m1s", "2020-01-01T00:00:00Z", "2026-03-03T12:00:00Z", 10, "2026-03-03T11:50Z", "2026-03-03T11:59Z"},
		{"* * * * * a ?fill=10m", "2020-01-01T00:00:00Z", "2026-03-03T12:00:30Z", 10, "2026-03-03T11:51Z", "2026-03-03T12:00Z"},
		{"* * * * * a ?fill=10m", "2026-03-03T11:55:00Z", "2026-03-03T12:00:00Z", 5, "2026-03-03T11:55Z", "2026-03-03T11:59Z"},
		{"* * * * * a ?fill=10m", "2026-03-03T11:54:59.999Z", "2026-03-03T12:00:00Z", 5, "2026-03-03T11:55Z", "2026-03-03T11:59Z"},
		{"* * * * * a ?fill=10m", "2026-03-03T11:55:00.001Z", "2026-03-03T12:00:00Z", 4, "2026-03-03T11:56Z", "2026-03-03T11:59Z"},
		{"* * * * * a ?fill=10m", "2026-03-03T12:00:00Z", "2026-03-03T12:00:00Z", 0, "", ""},
		{"* * * * * a ?fill=10m", "2027-01-01T00:00:00Z", "2026-03-03T12:00:00Z", 0, "", ""},
		{"* * * * * a", "2020-01-01T00:00:00Z", "2026-03-03T12:00:00Z", 0, "", ""},
		{"* * * * * a ?fill=59s", "2020-01-01T00:00:00Z", "2026-03-03T12:00:59Z", 1, "2026-03-03T12:00Z", "2026-03-03T12:00Z"},
		{"0 4 * * * a ?fill=99999w", "2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z", 28, "2026-02-01T04:00Z", "2026-02-28T04:00Z"},
		{"0 0 30 2 * a ?fill=99999w", "2020-01-01T00:00:00Z", "2026-03-01T00:00:00Z", 0, "", ""},
		{"*/20 * * * * a ?fill=1d&tz=Europe/Berlin", "2026-10-24T23:50:00Z", "2026-10-25T02:10:00Z", 4, "2026-10-25T00:00Z", "2026-10-25T02:00Z"},
	}
	for _, test := range tests {
		got := ticks(missed(parseOne(t, test.line), at(t, test.since), at(t, test.start)))
		if len(got) != test.count || test.count > 0 && (got[0] != test.first || got[len(got)-1] != test.last) {
			t.Errorf("%s since %s, start %s: %v", test.line, test.since, test.start, got)
		}
	}
	start := at(t, "2026-03-03T12:00:00Z")
	for _, since := range []time.Time{start.Add(-time.Hour), start, start.Add(time.Hour)} { // nothing was missed, and then none is left out
		if first, ok := parseOne(t, "* * * * * a").First(since, start); !ok || !first.Equal(start) {
			t.Errorf("since %v, first is %v", since, first)
		}
	}
}
