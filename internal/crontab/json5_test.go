package crontab_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/internal/crontab"
)

func TestPayload(t *testing.T) {
	t.Parallel()
	tests := map[string]string{
		`{}`:                  `{}`,
		`{ /* { */ }`:         `{}`,
		`{/* } */a:1/* { */}`: `{"a":1}`,
		`{a:1,}`:              `{"a":1}`,
		`{"b": 1, 'a' : [ ], c:{d:[true,false,null,],}}`:                 `{"b":1,"a":[],"c":{"d":[true,false,null]}}`,
		`{a:1,b:2,a:{c:3},"\u0061":4}`:                                   `{"a":4,"b":2}`,
		`{$:1,_:2,a1:3,if:4,NaN:5,é:6,ℹ\u0061:7}`:                        `{"$":1,"_":2,"a1":3,"if":4,"NaN":5,"é":6,"ℹa":7}`,
		`{a:[0,-0,+1,1.50,.5,5.,-.5e-3,5.e2,1E+5,12345678901234567890]}`: `{"a":[0,-0,1,1.50,0.5,5,-0.5e-3,5e2,1E+5,12345678901234567890]}`,
		`{a:[0x1F,-0XfF,+0x0,0x10000000000000000]}`:                      `{"a":[31,-255,0,18446744073709551616]}`,
		`{a:['"',"'",'\'','\"\\\/',"<&>"]}`:                              `{"a":["\"","'","'","\"\\/","<&>"]}`,
		`{a:"\b\f\n\r\t\v\x41\u00e9\ud83d\ude00\q\é😀"}`:                  `{"a":"\b\f\n\r\t\u000bAé😀qé😀"}`,
		"{a:'\t\x01\x7f'}":                                               `{"a":"\t\u0001` + "\x7f" + `"}`,
		"{\u00a0a\ufeff:\v1\u3000}//}":                                   `{"a":1}`,
		"{n\u0303\u200c:1}":                                              "{\"n\u0303\u200c\":1}",
		`{_cron:[1],a:{_cron:2},"_cron":3,_\u0063ron:4}`:                 `{"a":{"_cron":2}}`,
		`{_cron:{}}`: `{}`,
		"{a:'\xff'}": `{"a":"` + "\ufffd" + `"}`,
		`{a:` + strings.Repeat("[", 9999) + strings.Repeat("]", 9999) + `}`: `{"a":` + strings.Repeat("[", 9999) + strings.Repeat("]", 9999) + `}`,
	}
	for text, want := range tests {
		if diff := cmp.Diff(want, string(parseOne(t, "* * * * * a "+text).Payload)); diff != "" {
			t.Errorf("%.100q (-want +got):\n%.1000s", text, diff)
		}
	}
}

func TestPayloadProblems(t *testing.T) {
	t.Parallel()
	const (
		value     = ": want a value (but not Infinity or NaN, which JSON cannot hold)"
		key       = ": want a key, in quotes unless it is an identifier, or }"
		escape    = `: want an escape that JSON5 has; octal ones it does not have, but \x41 and \u0041`
		character = "the string has a character 0 or half a surrogate pair, which the database cannot take"
	)
	tests := map[string]string{ // columns count from the brace
		`{`:             "2: it ends where a key, in quotes unless it is an identifier, or } is missing",
		`{a`:            "3: it ends where a colon is missing",
		`{a:`:           "4: it ends where a value (but not Infinity or NaN, which JSON cannot hold) is missing",
		`{a:1`:          "5: it ends where a comma or } is missing",
		`{a:[1`:         "6: it ends where a comma or ] is missing",
		`{a 1}`:         `4: unexpected "1}": want a colon`,
		`{a:1 b:2}`:     `6: unexpected "b:2}": want a comma or }`,
		`{a:[1 2]}`:     `7: unexpected "2]}": want a comma or ]`,
		`{a:1,,b:1}`:    `6: unexpected ",b:1}"` + key,
		`{,}`:           `2: unexpected ",}"` + key,
		`{a:[,]}`:       `5: unexpected ",]}"` + value,
		`{1:2}`:         `2: unexpected "1:2}"` + key,
		`{a-b:2}`:       `3: unexpected "-b:2}": want a colon`,
		`{\x61:2}`:      `2: unexpected "\\x61:2}"` + key,
		`{\u0031:2}`:    `2: unexpected "\\u0031:2}"` + key,
		`{a\u002d:2}`:   `2: unexpected "a\\u002d:2}"` + key,
		`{a\:2}`:        `2: unexpected "a\\:2}"` + key,
		`{a:undefined}`: `4: unexpected "undefined}"` + value,
		`{a:truex}`:     `8: unexpected "x}": want a comma or }`,
		`{a:-Infinity}`: `4: unexpected "-Infinity}"` + value,
		`{a:NaN}`:       `4: unexpected "NaN}"` + value,
		`{a:.}`:         `4: unexpected ".}"` + value,
		`{a:- 1}`:       `4: unexpected "- 1}"` + value,
		`{a:01}`:        `5: unexpected "1}": want a comma or }`,
		`{a:0x}`:        `5: unexpected "x}": want a comma or }`,
		`{a:1e}`:        `5: unexpected "e}": want a comma or }`,
		`{a:1e999}`:     "4: the number is too large for a double: use a string",
		`{a:-0x1` + strings.Repeat("0", 256) + `}`: "4: the number is too large for a double: use a string",
		`{a:"b}`:                       `4: the string does not end: write "`,
		"{a:'b\n'}":                    `4: the string does not end: write '`,
		`{a:'b"}`:                      `4: the string does not end: write '`,
		`{a:"\1"}`:                     `6: unexpected "1\"}"` + escape,
		`{a:"\01"}`:                    `6: unexpected "01\"}"` + escape,
		`{a:"\x4"}`:                    `6: unexpected "x4\"}"` + escape,
		`{a:"\u004g"}`:                 `6: unexpected "u004g\"}"` + escape,
		`{a:"\0"}`:                     "4: " + character,
		`{a:"b\ud83d"}`:                "4: " + character,
		`{a:"\ude00\ud83d"}`:           "4: " + character,
		`{'\ud83dx':1}`:                "2: " + character,
		`{a:1 /* b }`:                  `6: unexpected "/* b }": want a comma or }`,
		`{a:1 // b }`:                  `12: it ends where a comma or } is missing`,
		`{a:1}}`:                       `6: the payload ends before "}": only one {object} can stand here, after the ?options`,
		`{a:1} é34567890123456789012}`: `7: the payload ends before "é345678901234567890…": only one {object} can stand here, after the ?options`,
		`{a:` + strings.Repeat("[", 10000) + strings.Repeat("]", 10000) + `}`: "10003: it is nested more than 10000 levels deep",
	}
	for text, want := range tests {
		at := crontab.Position{Line: 1, Column: -9} // of the first field, with which the brace is in column 1
		_, problems := crontab.ParseSchedule("* * * * * "+text, "a", at)
		if len(problems) != 1 || problems[0].Error() != "1:"+strings.Replace(want, ": ", ": payload: ", 1) {
			t.Errorf("%.100q: %v, want %s", text, problems, want)
		}
	}
}
