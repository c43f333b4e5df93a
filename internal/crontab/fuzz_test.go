package crontab_test

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/backfillhq/go/internal/crontab"
)

// Whatever the text: every problem stands in it, and every entry is whole and that of its line.
func FuzzParse(f *testing.F) {
	for _, text := range []string{
		"# c\n\n0 4 * * 1-5,7 task ?id=a&fill=1d&max=3&queue=q&jobKey=k&jobKeyMode=replace&priority=-1&tz=Europe/Berlin {a:1,}\r\n*/5 * * * * b",
		"0 24 0 13 8 a\n* * * * a\n@daily a\n* * * * *\n1-1,*/0,,5-,1-5/2 * * * * a",
		"* * * * * a ?\n* * * * * a ?id=1&id=2&x&max=0 {a:\n* * * * * a {a:1} ?id=b # c\n* * * * * a\u2028{}\n",
		"\ufeff*\u00a0*\r* * * a ?jobKey=%zz+%FF%00 {\xff:1}",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		lines := strings.Split(text, "\n")
		check := func(what string, pos crontab.Position) {
			if pos.Line < 1 || pos.Line > len(lines) || pos.Column < 1 || pos.Column > len(lines[pos.Line-1])+1 {
				t.Errorf("%s at %v is not in the text", what, pos)
			}
		}
		entries, problems := crontab.Parse(text)
		for _, problem := range problems {
			check(problem.Message, problem.Pos)
			if problem.Message == "" || strings.ContainsAny(problem.Message, "\r\n") {
				t.Errorf("message %q", problem.Message)
			}
		}
		seen := map[string]bool{}
		for _, e := range entries {
			check("entry", e.Pos)
			if e.Task == "" || e.Identifier == "" || seen[e.Identifier] || e.Payload != nil && !json.Valid(e.Payload) {
				t.Errorf("entry %+v", e)
			}
			seen[e.Identifier] = true
			if e.Minutes == 0 || e.Hours == 0 || e.Dates == 0 || e.Months == 0 || e.Weekdays == 0 ||
				e.Minutes&^span(0, 59) != 0 || e.Hours&^span(0, 23) != 0 || e.Dates&^span(1, 31) != 0 || e.Months&^span(1, 12) != 0 || e.Weekdays&^span(0, 6) != 0 {
				t.Errorf("fields of %+v", e)
			}
			again := *parseOne(t, lines[e.Pos.Line-1])
			again.Pos.Line = e.Pos.Line
			if again.Zone != nil {
				again.Zone = e.Zone // it is another pointer
				again.ZonePos.Line = e.Pos.Line
			}
			if !reflect.DeepEqual(&again, e) {
				t.Errorf("of the text: %+v; of its line: %+v", e, again)
			}
		}
		lines = []string{text}
		_, problems = crontab.ParseSchedule(text, "task", crontab.Position{Line: 1, Column: 1})
		for _, problem := range problems {
			check(problem.Message, problem.Pos)
		}
	})
}

// What is accepted is JSON, and the same when it is read again. JSON is accepted, and means the
// same to encoding/json.
func FuzzPayload(f *testing.F) {
	for _, text := range []string{
		`{}`,
		`{"a":[1,-0,1.5e-3,12345678901234567890,true,false,null,"b",{"c":{}},[]],"a":"\ud83d\ude00\u00e9\b\"\\\/"}`,
		`{$a:'b"\'\x41\v\
			c',/* } */b:[+1,.5,5.,0xFf,],} // }`,
		`{"_cron":{"_cron":[]},"a":{"_cron":1}}`,
		`{a:Infinity,b:-NaN,c:1e999,d:"\0\ud800",\u0061:1}`,
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		parse := func(text string) (string, []crontab.ParseError) {
			e, problems := crontab.ParseSchedule("* * * * * "+text, "task", crontab.Position{Line: 1, Column: 1})
			if !strings.HasPrefix(text, "{") {
				t.Skip()
			}
			return string(e.Payload), problems
		}
		payload, problems := parse(text)
		if problems == nil {
			if again, problems := parse(payload); problems != nil || again != payload || !json.Valid([]byte(payload)) {
				t.Errorf("%q is read as %q, and then as %q, %v", text, payload, again, problems)
			}
		}
		var want, got any
		if json.Unmarshal([]byte(text), &want) != nil {
			return
		}
		var line bytes.Buffer
		if err := json.Compact(&line, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if object, ok := want.(map[string]any); ok {
			delete(object, "_cron")
		}
		payload, problems = parse(strings.NewReplacer("\u2028", `\u2028`, "\u2029", `\u2029`).Replace(line.String()))
		if problems != nil && strings.Contains(problems[0].Message, "which the database cannot take") {
			return
		}
		if err := json.Unmarshal([]byte(payload), &got); err != nil || problems != nil || !reflect.DeepEqual(want, got) {
			t.Errorf("%q is read as %q, %v, %v", text, payload, problems, err)
		}
	})
}

// Next and Matches say what the model says, at any time in any zone.
func FuzzNext(f *testing.F) {
	all := zones(f)
	f.Add(uint64(1<<30), uint32(1<<2), uint32(1<<29), uint16(1<<3), uint8(0xff), uint16(3), int64(1774746000))
	f.Add(uint64(1), ^uint32(0), ^uint32(0), ^uint16(0), uint8(0xff), uint16(500), int64(1792890000))
	f.Add(uint64(0), uint32(0), uint32(1<<30), uint16(1<<2), uint8(0), uint16(77), int64(-3000000000))
	f.Fuzz(func(t *testing.T, minutes uint64, hours, dates uint32, months uint16, weekdays uint8, zone uint16, unix int64) {
		e := &crontab.Entry{
			Minutes: crontab.Set(minutes) & span(0, 59), Hours: crontab.Set(hours) & span(0, 23), Dates: crontab.Set(dates) & span(1, 31),
			Months: crontab.Set(months) & span(1, 12), Weekdays: crontab.Set(weekdays) & span(0, 6),
		}
		if i := int(zone) % (len(all) + 1); i < len(all) {
			e.Zone = all[i]
		}
		start := time.Unix(unix%(1<<32), 0).UTC().Truncate(time.Minute) // 1833 to 2106
		zoneOrUTC := time.UTC
		if e.Zone != nil {
			zoneOrUTC = e.Zone
		}
		m := newModel(zoneOrUTC, start, start.Add(26*time.Hour))
		due := m.ticks(e)
		next, ok := e.Next(start.Add(-1))
		for i, is := range due {
			if e.Matches(m.at(i)) != is {
				t.Fatalf("%+v: Matches(%v) is %t", e, m.at(i), !is)
			}
			if is && (!ok || !next.Equal(m.at(i))) {
				t.Fatalf("%+v: Next is %v, %t, and not %v", e, next, ok, m.at(i))
			}
			if is {
				next, ok = e.Next(next)
			}
		}
		if ok && next.Before(m.at(len(due))) {
			t.Fatalf("%+v: Next is %v, where nothing is due", e, next)
		}
	})
}
