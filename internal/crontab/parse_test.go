package crontab_test

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"
	_ "time/tzdata"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/internal/crontab"
)

var byName = cmp.Comparer(func(a, b *time.Location) bool {
	return a == b || a != nil && b != nil && a.String() == b.String()
})

// numbers is a set of them.
func numbers(list ...int) (s crontab.Set) {
	for _, n := range list {
		s |= 1 << n
	}
	return s
}

// span is the set of numbers from low to high.
func span(low, high int) (s crontab.Set) {
	for n := low; n <= high; n++ {
		s |= 1 << n
	}
	return s
}

// always is an entry that is due every minute, of task a in column 1 of line 1, after what change
// does to it.
func always(change func(e *crontab.Entry)) *crontab.Entry {
	e := &crontab.Entry{
		Pos: crontab.Position{Line: 1, Column: 1}, Task: "a", Identifier: "a",
		Minutes: span(0, 59), Hours: span(0, 23), Dates: span(1, 31), Months: span(1, 12), Weekdays: span(0, 6),
	}
	if change != nil {
		change(e)
	}
	return e
}

func location(t *testing.T, name string) *time.Location {
	t.Helper()
	zone, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return zone
}

// parseOne parses a line that is right.
func parseOne(t *testing.T, line string) *crontab.Entry {
	t.Helper()
	entries, problems := crontab.Parse(line)
	if len(entries) != 1 || len(problems) > 0 {
		t.Fatalf("%q: %d entries, problems %v", line, len(entries), problems)
	}
	return entries[0]
}

func TestParseLine(t *testing.T) {
	t.Parallel()
	berlin := location(t, "Europe/Berlin")
	option := crontab.Position{Line: 1, Column: 14}
	tests := map[string]*crontab.Entry{
		"* * * * * a": always(nil),
		"0 4 1 1 0 a": always(func(e *crontab.Entry) {
			e.Minutes, e.Hours, e.Dates, e.Months, e.Weekdays = numbers(0), numbers(4), numbers(1), numbers(1), numbers(0)
		}),
		"007 0 01 * * a":      always(func(e *crontab.Entry) { e.Minutes, e.Hours, e.Dates = numbers(7), numbers(0), numbers(1) }),
		"5,1,5,3-4 * * * * a": always(func(e *crontab.Entry) { e.Minutes = numbers(1, 3, 4, 5) }),
		"*/25,7 */99 */10 */5 */3 a": always(func(e *crontab.Entry) {
			e.Minutes, e.Hours, e.Dates, e.Months, e.Weekdays = numbers(0, 7, 25, 50), numbers(0), numbers(1, 11, 21, 31), numbers(1, 6, 11), numbers(0, 3, 6)
		}),
		"*/99999999999999999999 * * * * a": always(func(e *crontab.Entry) { e.Minutes = numbers(0) }),
		"* * * * 7 a":                      always(func(e *crontab.Entry) { e.Weekdays = numbers(0) }),
		"* * * * 0-7 a":                    always(nil),
		"* * * * 6-7 a":                    always(func(e *crontab.Entry) { e.Weekdays = numbers(0, 6) }),
		"* * * * 5,7 a":                    always(func(e *crontab.Entry) { e.Weekdays = numbers(0, 5) }),
		"* * * * */7 a":                    always(func(e *crontab.Entry) { e.Weekdays = numbers(0) }),
		"*\t*\u00a0 *\r*\u2028*\v_A:b/c-9": always(func(e *crontab.Entry) { e.Task, e.Identifier = "_A:b/c-9", "_A:b/c-9" }),
		"* * * * * a\u3000?id=b \ufeff{}":  always(func(e *crontab.Entry) { e.Identifier, e.Payload = "b", []byte("{}") }),
		"* * * * * a ?id=b_C-1&fill=4w3d2h1m&max=007&queue=a:b-c_D&jobKey=a+b%20c&priority=-32768": always(func(e *crontab.Entry) {
			e.Identifier, e.Fill, e.MaxAttempts, e.Queue = "b_C-1", (31*24+2)*time.Hour+time.Minute, 7, "a:b-c_D"
			e.Key, e.Priority = "a b c", new(int16(-32768))
		}),
		"* * * * * a ?&jobKeyMode=preserve_run_at&&%6aobKey=%zz%4&priority=-0&": always(func(e *crontab.Entry) {
			e.Key, e.KeyMode, e.Priority = "%zz%4", "preserve_run_at", new(int16)
		}),
		"* * * * * a ?jobKey=a=b?{%C3%A9%FFx}":        always(func(e *crontab.Entry) { e.Key = "a=b?{é\ufffdx}" }),
		"* * * * * a ?jobKeyMode=replace":             always(func(e *crontab.Entry) { e.KeyMode = "replace" }),
		"* * * * * a ?max=32767&fill=1h2h3s":          always(func(e *crontab.Entry) { e.MaxAttempts, e.Fill = 32767, 3*time.Hour+3*time.Second }),
		"* * * * * a ?fill=0s":                        always(nil),
		"* * * * * a ?fill=9000000000s":               always(func(e *crontab.Entry) { e.Fill = 9000000000 * time.Second }),
		"* * * * * a ?fill=1s99999w":                  always(func(e *crontab.Entry) { e.Fill = math.MaxInt64 }),
		"* * * * * a ?fill=1s99999999999999999999m1s": always(func(e *crontab.Entry) { e.Fill = math.MaxInt64 }),
		"* * * * * a ?tz=Europe/Berlin":               always(func(e *crontab.Entry) { e.Zone, e.ZonePos = berlin, option }),
		"* * * * * a ?tz=Europe%2FBerlin":             always(func(e *crontab.Entry) { e.Zone, e.ZonePos = berlin, option }),
		"* * * * * a ?tz=UTC":                         always(func(e *crontab.Entry) { e.Zone, e.ZonePos = time.UTC, option }),
		"* * * * * a ?&":                              always(nil),
		`* * * * * a {b:[1,'x'],}// }`:                always(func(e *crontab.Entry) { e.Payload = []byte(`{"b":[1,"x"]}`) }),
		"* * * * * " + strings.Repeat("a", 128) + " ?id=b&queue=" + strings.Repeat("q", 128) + "&jobKey=" + strings.Repeat("%C3%A9", 512): always(func(e *crontab.Entry) {
			e.Task, e.Identifier, e.Queue, e.Key = strings.Repeat("a", 128), "b", strings.Repeat("q", 128), strings.Repeat("é", 512)
		}),
	}
	for line, want := range tests {
		if diff := cmp.Diff(want, parseOne(t, line), byName); diff != "" {
			t.Errorf("%q (-want +got):\n%s", line, diff)
		}
	}
}

func TestParseLines(t *testing.T) {
	t.Parallel()
	text := "\ufeff# comment\r\n\n  \t \n\t0 1 * * * a\r\n   # comment\n0 2 * * * a ?id=b\n0 3 * * * c"
	entries, problems := crontab.Parse(text)
	var got []string
	for _, e := range entries {
		got = append(got, fmt.Sprint(e.Pos, " ", e.Task, " ", e.Identifier))
	}
	if diff := cmp.Diff([]string{"4:2 a a", "6:1 a b", "7:1 c c"}, got); diff != "" || problems != nil {
		t.Errorf("problems %v, entries (-want +got):\n%s", problems, diff)
	}
	if entries, problems := crontab.Parse(""); entries != nil || problems != nil {
		t.Errorf("of nothing: %v, %v", entries, problems)
	}
}

func TestParseSchedule(t *testing.T) {
	t.Parallel()
	at := crontab.Position{Line: 7, Column: 16}
	got, problems := crontab.ParseSchedule(" 0 4 * * * ?fill=1d {a: 1} ", "an e-mail", at)
	want := always(func(e *crontab.Entry) {
		e.Pos = crontab.Position{Line: 7, Column: 17}
		e.Task, e.Identifier, e.Minutes, e.Hours, e.Fill, e.Payload = "an e-mail", "an e-mail", numbers(0), numbers(4), 24*time.Hour, []byte(`{"a":1}`)
	})
	if diff := cmp.Diff(want, got); diff != "" || problems != nil {
		t.Errorf("problems %v, entry (-want +got):\n%s", problems, diff)
	}
	tests := map[string][]string{
		"":                                  {"7:16: the line ends before its minute: " + five},
		"* * * *":                           {"7:23: the line ends before its day of week: " + five},
		"* * * * * a":                       {`7:26: unexpected "a": only ?options without spaces and then a {payload} can stand here`},
		"* * * * * # a":                     {`7:26: unexpected "# a": a comment stands on a line of its own`},
		" 0 4 30 2,2 *":                     {"7:17: it is never due: none of its months has any of its days (fields three and four)"},
		"0 4 31 2,4,11 * ?tz=Europe/Berlin": {"7:16: it is never due: none of its months has any of its days (fields three and four)"},
		"* * * * * */2 {}":                  {`7:26: "*/2" is a sixth time field: use five, for minute, hour, day of month, month and day of week, and no seconds`},
		"0 4 29 2 *":                        nil, // in leap years
		"0 4 30 2 1":                        nil, // on Mondays too
		" * 24 * * * {a:}":                  {"7:19: hour 24 is out of range: use 0 to 23", `7:31: payload: unexpected "}": want a value (but not Infinity or NaN, which JSON cannot hold)`},
	}
	for text, want := range tests {
		_, problems := crontab.ParseSchedule(text, "a", at)
		if diff := cmp.Diff(want, messages(problems)); diff != "" {
			t.Errorf("%q (-want +got):\n%s", text, diff)
		}
	}
	if _, problems := crontab.ParseSchedule("* * * * *", strings.Repeat("é", 128), at); problems != nil {
		t.Error(problems)
	}
	_, problems = crontab.ParseSchedule("* * * * *", strings.Repeat("é", 129), at)
	if diff := cmp.Diff([]string{"7:16: the task's name has 129 characters: the database takes up to 128"}, messages(problems)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

const five = "a line begins with five time fields (minute, hour, day of month, month, day of week) of digits and * / , -"

func messages(problems []crontab.ParseError) (list []string) {
	for _, problem := range problems {
		list = append(list, problem.Error())
	}
	return list
}

func TestProblems(t *testing.T) {
	t.Parallel()
	const (
		element = "write a number, a range such as 1-5, * or */2"
		tz      = "use a name of the IANA time zone database, such as Europe/Berlin; if this is one, the machine lacks the database: install tzdata, or build with -tags timetzdata"
		task    = "is not the name of a task: use letters, digits and _ : / -, with a letter or _ first, and a space before ? and {"
	)
	tests := map[string][]string{
		// Fields: each of the contract's errors.
		"* * * * a":         {`1:9: "a" is not a day of week: ` + five + "; names such as MON and @daily are not supported"},
		"@daily a":          {`1:1: "@daily" is not a minute: ` + five + "; names such as MON and @daily are not supported"},
		"0 0 * 1-DEC * a":   {`1:9: "1-DEC" is not a month: ` + five + "; names such as MON and @daily are not supported"},
		"0 0 \u0085* * * a": {`1:5: "\u0085*" is not a day of month: ` + five + "; names such as MON and @daily are not supported"},
		"0 0":               {"1:4: the line ends before its day of month: " + five},
		"\t60 24 32,0 13,0 8 a": {
			"1:2: minute 60 is out of range: use 0 to 59",
			"1:5: hour 24 is out of range: use 0 to 23",
			"1:8: day of month 32 is out of range: use 1 to 31",
			"1:11: day of month 0 is out of range: use 1 to 31",
			"1:13: month 13 is out of range: use 1 to 12",
			"1:16: month 0 is out of range: use 1 to 12",
			"1:18: day of week 8 is out of range: use 0 to 7",
		},
		"5-99999999999999999999,70-80 * * * * a": {
			"1:3: minute 99999999999999999999 is out of range: use 0 to 59",
			"1:24: minute 70 is out of range: use 0 to 59",
			"1:27: minute 80 is out of range: use 0 to 59",
		},
		"* 5-5,4-3 * * 7-7 a": {
			`1:3: hour "5-5": the end of a range has to be greater than its beginning`,
			`1:7: hour "4-3": the end of a range has to be greater than its beginning`,
			`1:15: day of week "7-7": the end of a range has to be greater than its beginning`,
		},
		"*/0 */00 * * * a": {
			`1:3: minute "*/0": the number after the slash has to be 1 or greater`,
			`1:7: hour "*/00": the number after the slash has to be 1 or greater`,
		},
		",1,, 1-5/2,*/ -1,5-* **,*-3 1-2-3 a": {
			"1:1: minute: nothing stands on one side of a comma: take it away",
			"1:4: minute: nothing stands on one side of a comma: take it away",
			"1:5: minute: nothing stands on one side of a comma: take it away",
			`1:6: hour "1-5/2": only */n is supported with a slash: write a list, such as 10,12,14`,
			`1:12: hour "*/": ` + element,
			`1:15: day of month "-1": ` + element,
			`1:18: day of month "5-*": ` + element,
			`1:22: month "**": ` + element,
			`1:25: month "*-3": ` + element,
			`1:29: day of week "1-2-3": ` + element,
		},
		// The command.
		"* * * * *":                             {"1:10: the task is missing after the five time fields"},
		"* * * * * *":                           {`1:11: "*" is a sixth time field: use five, for minute, hour, day of month, month and day of week, and no seconds`},
		"* * * * * 1a":                          {`1:11: "1a" ` + task},
		"* * * * * a.b":                         {`1:12: "a.b" ` + task},
		"* * * * * a?id=b":                      {`1:12: "a?id=b" ` + task},
		"* * * * * ab{}":                        {`1:13: "ab{}" ` + task},
		"* * * * * é":                           {`1:11: "é" ` + task},
		"* * * * * a b":                         {`1:13: unexpected "b": only ?options without spaces and then a {payload} can stand here`},
		"* * * * * a ?id=b # c":                 {`1:19: unexpected "# c": a comment stands on a line of its own`},
		"* * * * * a\r{}":                       {`1:12: a line separator inside the line: end lines with \n or \r\n`},
		"* * * * * a {\u2028}":                  {`1:14: a line separator inside the line: end lines with \n or \r\n`},
		"* * * * * " + strings.Repeat("a", 129): {"1:11: the task's name has 129 characters: the database takes up to 128"},
		// Options.
		"* * * * * a ?":       {"1:13: no option follows the question mark: write one, such as ?fill=1d, or take it away"},
		"* * * * * a ? {a:1}": {"1:13: no option follows the question mark: write one, such as ?fill=1d, or take it away"},
		"* * * * * a ?flags=b&ID=c&=d&=": {
			`1:14: unknown option "flags": the options are id, fill, max, queue, jobKey, jobKeyMode, priority and tz`,
			`1:22: unknown option "ID": the options are id, fill, max, queue, jobKey, jobKeyMode, priority and tz`,
			`1:27: unknown option "": the options are id, fill, max, queue, jobKey, jobKeyMode, priority and tz`,
			`1:30: option "" is given twice: keep one of them`,
		},
		"* * * * * a ?id=b&&%69d=c":                      {`1:20: option "id" is given twice: keep one of them`},
		"* * * * * a ?id=1b":                             {`1:17: id "1b": use letters, digits, _ and -, with a letter or _ first`},
		"* * * * * a ?id":                                {`1:16: id "": use letters, digits, _ and -, with a letter or _ first`},
		"* * * * * a ?id=b:c":                            {`1:17: id "b:c": use letters, digits, _ and -, with a letter or _ first`},
		"* * * * * a ?fill=1D":                           {`1:19: fill "1D": use numbers with the units s, m, h, d and w, such as 1d12h`},
		"* * * * * a ?fill=+1d":                          {`1:19: fill " 1d": use numbers with the units s, m, h, d and w, such as 1d12h`},
		"* * * * * a ?max=0":                             {`1:18: max "0": use 1 to 32767, for the database takes no other number of attempts`},
		"* * * * * a ?max=-1":                            {`1:18: max "-1": use 1 to 32767, for the database takes no other number of attempts`},
		"* * * * * a ?max=32768":                         {`1:18: max "32768": use 1 to 32767, for the database takes no other number of attempts`},
		"* * * * * a ?queue=b.c":                         {`1:20: queue "b.c": use letters, digits, - _ and :, up to 128 of them`},
		"* * * * * a ?jobKey=":                           {`1:21: jobKey "": use 1 to 512 characters and no %00, for the database takes no other key`},
		"* * * * * a ?jobKey=b%00":                       {`1:21: jobKey "b\x00": use 1 to 512 characters and no %00, for the database takes no other key`},
		"* * * * * a ?jobKey=b&jobKeyMode=unsafe_dedupe": {`1:34: jobKeyMode "unsafe_dedupe": use replace or preserve_run_at`},
		"* * * * * a ?priority=32768":                    {`1:23: priority "32768": use -32768 to 32767`},
		"* * * * * a ?priority=%2b1":                     {`1:23: priority "+1": use -32768 to 32767`},
		"* * * * * a ?tz=":                               {`1:17: tz "": ` + tz},
		"* * * * * a ?tz=Local":                          {`1:17: tz "Local": ` + tz},
		"* * * * * a ?tz=Mars/Olympus":                   {`1:17: tz "Mars/Olympus": ` + tz},
		"* * * * * a ?tz=../zone":                        {`1:17: tz "../zone": ` + tz},
		"* * * * * a ?queue=" + strings.Repeat("q", 129): {`1:20: queue "` + strings.Repeat("q", 129) + `": use letters, digits, - _ and :, up to 128 of them`},
		"* * * * * a ?jobKey=" + strings.Repeat("k", 513): {
			`1:21: jobKey "` + strings.Repeat("k", 513) + `": use 1 to 512 characters and no %00, for the database takes no other key`,
		},
		// The payload's ends; what is in it: TestPayloadProblems.
		"* * * * * a {b:1} ?id=c":   {`1:19: payload: the payload ends before "?id=c": only one {object} can stand here, after the ?options`},
		"* * * * * a {b:1}/* } */ ": {"1:13: payload: the line has to end with }: put the comment before it"},
		// Several lines, and all that is wrong with them.
		"1 1 * * * a ?max=0\n\n# c\n* * * * b\n * * * * * a ?id=1 {": {
			`1:18: max "0": use 1 to 32767, for the database takes no other number of attempts`,
			`4:9: "b" is not a day of week: ` + five + "; names such as MON and @daily are not supported",
			`5:18: id "1": use letters, digits, _ and -, with a letter or _ first`,
			"5:21: payload: it ends where a key, in quotes unless it is an identifier, or } is missing",
			`5:18: lines 1 and 5 have the same identifier "a": give one of them another, such as ?id=nightly`,
		},
		"\n* * * * * a\n * * * * * a\r\n* * * * * b ?id=a": {
			`3:12: lines 2 and 3 have the same identifier "a": give one of them another, such as ?id=nightly`,
			`4:17: lines 2 and 4 have the same identifier "a": give one of them another, such as ?id=nightly`,
		},
	}
	for text, want := range tests {
		_, problems := crontab.Parse(text)
		if diff := cmp.Diff(want, messages(problems)); diff != "" {
			t.Errorf("%q (-want +got):\n%s", text, diff)
		}
	}
}
