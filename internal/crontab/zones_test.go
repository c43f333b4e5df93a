package crontab_test

import (
	"archive/zip"
	"fmt"
	"go/build"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"
)

// A transition is a change of a zone's offset from UTC. Zones that share one behave alike around
// it.
type transition struct {
	unix          int64
	before, after int // seconds
}

// zoneFiles is Go's copy of the time zone database, else the system's.
func zoneFiles(tb testing.TB) fs.FS {
	tb.Helper()
	if archive, err := zip.OpenReader(filepath.Join(build.Default.GOROOT, "lib", "time", "zoneinfo.zip")); err == nil {
		tb.Cleanup(func() { archive.Close() })
		return archive
	}
	return os.DirFS("/usr/share/zoneinfo")
}

// zones returns all of the database.
func zones(tb testing.TB) (list []*time.Location) {
	tb.Helper()
	files := zoneFiles(tb)
	err := fs.WalkDir(files, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || strings.HasPrefix(name, "right/") { // which counts leap seconds
			return err
		}
		data, err := fs.ReadFile(files, name)
		if err != nil {
			return err
		}
		if zone, err := time.LoadLocationFromTZData(name, data); err == nil { // otherwise it is a README, or a list
			list = append(list, zone)
		}
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	if len(list) < 400 {
		tb.Fatalf("%d zones: is this all of the database?", len(list))
	}
	return list
}

// transitions returns those of all zones from 2020 to 2030, each with a zone that has it.
func transitions(t *testing.T) map[transition]*time.Location {
	t.Helper()
	const step = 24 * 3600
	from, to := at(t, "2020-01-01T00:00:00Z").Unix(), at(t, "2031-01-01T00:00:00Z").Unix()
	found := map[transition]*time.Location{}
	for _, zone := range zones(t) {
		offset := func(unix int64) int {
			_, offset := time.Unix(unix, 0).In(zone).Zone()
			return offset
		}
		last := int64(0)
		for now := from; now < to; now += step {
			before, after := offset(now-step), offset(now)
			if before == after {
				continue
			}
			unix := now - step + int64(sort.Search(step, func(i int) bool { return offset(now-step+int64(i)) == after }))
			if unix-last < 5*24*3600 || unix%60 != 0 || before%60 != 0 || after%60 != 0 {
				t.Errorf("%v: transitions at %d and %d, offsets %d and %d: this test is not made for that", zone, last, unix, before, after)
			}
			found[transition{unix, before, after}] = zone
			last = unix
		}
	}
	if len(found) < 400 {
		t.Fatalf("%d different transitions: is this all of the database?", len(found))
	}
	t.Logf("%d different transitions", len(found))
	return found
}

// On the last day of leap years, Go's time.Time.ZoneBounds is wrong in zones that go by a rule and
// not by a table.
func TestLeapYearsEnd(t *testing.T) {
	t.Parallel()
	for _, zone := range zones(t) {
		e := parseOne(t, "30 12 * * * a")
		e.Zone = zone
		for _, year := range []int{2024, 2028, 2040} {
			tick := time.Date(year, 12, 29, 12, 30, 0, 0, zone)
			for date := 30; date < 34; date++ {
				want := time.Date(year, 12, date, 12, 30, 0, 0, zone)
				if tick, _ = e.Next(tick); !tick.Equal(want) {
					t.Fatalf("%v: %v, want %v", zone, tick, want)
				}
			}
		}
	}
}

// Around each transition of each zone, the entries are due when the model says so.
func TestTransitions(t *testing.T) {
	t.Parallel()
	found := transitions(t)
	chunks := slices.Collect(slices.Chunk(slices.Collect(maps.Keys(found)), 100))
	if raceDetector {
		chunks = chunks[:1] // a sample; CI runs all of them without it
	}
	for i, chunk := range chunks {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			for _, change := range chunk {
				checkTransition(t, change, found[change])
			}
		})
	}
}

func checkTransition(t *testing.T, change transition, zone *time.Location) {
	t.Helper()
	instant := time.Unix(change.unix, 0).UTC()
	m := newModel(zone, instant.Add(-3*time.Hour), instant.Add(9*time.Hour))
	shift := time.Duration(change.after-change.before) * time.Second
	for _, line := range patterns(change) {
		e := parseOne(t, line)
		e.Zone = zone
		due := m.ticks(e)
		next := len(due) // the first tick after minute i
		count := 0
		for i, is := range slices.Backward(due) {
			if since := m.at(i).Sub(instant); since > -5*time.Minute && since < shift.Abs()+5*time.Minute {
				if e.Matches(m.at(i)) != is {
					t.Errorf("%s in %v: Matches(%v) is %t", line, zone, m.at(i), !is)
				}
				got, ok := e.Next(m.at(i))
				if next < len(due) && !got.Equal(m.at(next)) || next == len(due) && ok && got.Before(m.at(next)) {
					t.Errorf("%s in %v: Next(%v) is %v, want %v", line, zone, m.at(i), got, m.at(next))
				}
			}
			if is {
				next = i
				count++
			}
		}
		e.Fill = time.Duration(len(due)) * time.Minute
		for _, tick := range missed(e, m.from, m.at(len(due))) {
			if i := int(tick.Sub(m.from) / time.Minute); !due[i] {
				t.Errorf("%s in %v: Missed has %v", line, zone, tick)
			}
			count--
		}
		if count != 0 {
			t.Errorf("%s in %v around %v: Missed lacks %d ticks", line, zone, instant, count)
		}
	}
}

// patterns are crontab lines for what happens at a transition: the minutes that are skipped or
// repeated, those before and after them, and what is due all the time.
func patterns(change transition) []string {
	lines := []string{"* * * * * a", "*/7 * * * * a", "0 * * * * a", "30 */2 * * * a", "59 23 * * * a", "0 0 * * * a"}
	before, after := time.Unix(change.unix+int64(change.before), 0).UTC(), time.Unix(change.unix+int64(change.after), 0).UTC()
	first, last := before, after.Add(-time.Minute) // of the minutes that are skipped
	if after.Before(before) {
		first, last = after, before.Add(-time.Minute) // of those that are repeated
	}
	middle := first.Add(last.Sub(first) / 2).Truncate(time.Minute)
	for _, minute := range []time.Time{first.Add(-time.Minute), last.Add(time.Minute)} {
		lines = append(lines, fmt.Sprintf("%d %d * * * a", minute.Minute(), minute.Hour()))
	}
	for _, minute := range []time.Time{first, middle, last} {
		w := newWall(minute)
		lines = append(
			lines,
			fmt.Sprintf("%d %d * * * a", w.minute, w.hour),
			fmt.Sprintf("%d %d * * %d a", w.minute, w.hour, w.weekday),
			fmt.Sprintf("%d %d %d %d * a", w.minute, w.hour, w.date, w.month),
			fmt.Sprintf("%d %d %d * %d a", w.minute, w.hour, w.date, (w.weekday+1)%7),
		)
	}
	w := newWall(middle)
	return append(lines, fmt.Sprintf("* %d * * * a", w.hour), fmt.Sprintf("*/5 %d %d %d %d a", w.hour, w.date%28+1, w.month, w.weekday))
}
