package crontab

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/big"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// A decoder reads JSON5 (https://spec.json5.org) and writes JSON, as the wire does for payloads
// (contract section 7.1). It stops at the first problem, where offset stays.
//
// Objects keep the order of their keys. Of a key that is given twice the last value counts, at the
// place of the first, as in JavaScript. Numbers keep their digits, which a Node worker rounds to a
// double. What JSON cannot hold is refused, and what PostgreSQL refuses in JSON that it works on,
// although it would store it: such a job could never be enqueued.
type decoder struct {
	text    string
	offset  int
	problem string

	repeated string // the first key that an object has twice
}

// maxDepth is how deep encoding/json reads, which handlers use.
const maxDepth = 10000

var (
	jsonSpace  = regexp.MustCompile(`^(?:[\t-\r\p{Z}\x{feff}]|//[^\n\r\x{2028}\x{2029}]*|/\*(?s:.*?)\*/)*`)
	jsonWord   = regexp.MustCompile(`^(?:true|false|null)`)
	jsonNumber = regexp.MustCompile(`^([+-]?)(?:0[xX]([0-9a-fA-F]+)|(0|[1-9][0-9]*|)((?:\.[0-9]*)?)((?:[eE][+-]?[0-9]+)?))`)
	jsonEscape = regexp.MustCompile(`^(?:u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|\r\n|0|(?s:[^ux0-9]))`)
)

// read returns the one value that the text consists of, as JSON without white space.
func (d *decoder) read() string {
	value := d.value(maxDepth)
	if d.space(); d.offset < len(d.text) {
		d.fail(d.offset, "the payload ends before %s: only one {object} can stand here, after the ?options", quote(d.text[d.offset:]))
	}
	return value
}

func (d *decoder) fail(offset int, format string, args ...any) {
	if d.problem == "" {
		d.offset, d.problem = offset, fmt.Sprintf(format, args...)
	}
}

func (d *decoder) unexpected(want string) {
	if d.offset == len(d.text) {
		d.fail(d.offset, "it ends where %s is missing", want)
	} else {
		d.fail(d.offset, "unexpected %s: want %s", quote(d.text[d.offset:]), want)
	}
}

// quote returns the beginning of a text.
func quote(text string) string {
	if runes := []rune(text[:min(len(text), 100)]); len(runes) > 20 {
		text = string(runes[:19]) + "…"
	}
	return strconv.Quote(text)
}

// skip reads a punctuator if it comes next.
func (d *decoder) skip(punctuator string) bool {
	if d.problem != "" || !strings.HasPrefix(d.text[d.offset:], punctuator) {
		return false
	}
	d.offset += len(punctuator)
	return true
}

// take reads what a pattern matches, and returns that and its groups.
func (d *decoder) take(pattern *regexp.Regexp) []string {
	if d.problem != "" {
		return nil
	}
	match := pattern.FindStringSubmatch(d.text[d.offset:])
	if match != nil {
		d.offset += len(match[0])
	}
	return match
}

func (d *decoder) space() { d.take(jsonSpace) }

func (d *decoder) value(depth int) string {
	d.space()
	start := d.offset
	if depth == 0 {
		d.fail(start, "it is nested more than %d levels deep", maxDepth)
	}
	if d.skip("{") {
		return d.object(depth)
	}
	if d.skip("[") {
		return d.array(depth)
	}
	if d.skip(`"`) || d.skip("'") {
		return encode(d.quoted(start))
	}
	if word := d.take(jsonWord); word != nil {
		return word[0]
	}
	return d.number()
}

func (d *decoder) object(depth int) string {
	var keys []string
	values := map[string]string{}
	for d.space(); d.problem == "" && !d.skip("}"); d.space() {
		key := d.key()
		if d.space(); !d.skip(":") {
			d.unexpected("a colon")
		}
		if _, ok := values[key]; !ok && (depth < maxDepth || key != "_cron") { // a tick overrides it (contract section 7.2)
			keys = append(keys, key)
		}
		if _, ok := values[key]; ok && d.repeated == "" {
			d.repeated = key
		}
		values[key] = d.value(depth - 1)
		if d.space(); !d.skip(",") && !strings.HasPrefix(d.text[d.offset:], "}") {
			d.unexpected("a comma or }")
		}
	}
	for i, key := range keys {
		keys[i] = encode(key) + ":" + values[key]
	}
	return "{" + strings.Join(keys, ",") + "}"
}

func (d *decoder) array(depth int) string {
	var values []string
	for d.space(); d.problem == "" && !d.skip("]"); d.space() {
		values = append(values, d.value(depth-1))
		if d.space(); !d.skip(",") && !strings.HasPrefix(d.text[d.offset:], "]") {
			d.unexpected("a comma or ]")
		}
	}
	return "[" + strings.Join(values, ",") + "]"
}

// key reads a string or an identifier of JavaScript, which may be a reserved word.
func (d *decoder) key() string {
	start := d.offset
	if d.skip(`"`) || d.skip("'") {
		return d.quoted(start)
	}
	word := d.text[start:]
	if end := strings.IndexFunc(word, func(r rune) bool { return !inIdentifier(r) && r != '\\' }); end >= 0 {
		word = word[:end]
	}
	unescaped := &decoder{text: `"` + word + `"`, offset: 1}
	key := unescaped.quoted(0)
	first, _ := utf8.DecodeRuneInString(key)
	onlyU := strings.Count(word, `\`) == strings.Count(word, `\u`)
	if !onlyU || !beginsIdentifier(first) || strings.ContainsFunc(key, func(r rune) bool { return !inIdentifier(r) }) {
		d.unexpected("a key, in quotes unless it is an identifier, or }")
	} else {
		d.offset += len(word)
	}
	return key
}

func beginsIdentifier(r rune) bool {
	return unicode.In(r, unicode.L, unicode.Nl) || r == '$' || r == '_'
}

func inIdentifier(r rune) bool {
	return beginsIdentifier(r) || unicode.In(r, unicode.Mn, unicode.Mc, unicode.Nd, unicode.Pc) || r == '\u200c' || r == '\u200d'
}

func (d *decoder) number() string {
	start := d.offset
	match := d.take(jsonNumber)
	if match == nil {
		return ""
	}
	sign, hex, whole, fraction, exponent := match[1], match[2], match[3], match[4], match[5]
	if n, ok := new(big.Int).SetString(hex, 16); ok {
		whole = n.String()
	}
	fraction = strings.TrimSuffix(fraction, ".") // 5. is 5
	if whole+fraction == "" {
		d.offset = start
		d.unexpected("a value (but not Infinity or NaN, which JSON cannot hold)")
		return ""
	}
	if whole == "" {
		whole = "0"
	}
	number := strings.TrimPrefix(sign, "+") + whole + fraction + exponent
	if _, err := strconv.ParseFloat(number, 64); err != nil {
		d.fail(start, "the number is too large for a double: use a string")
	}
	return number
}

// quoted reads the rest of a string that began at start.
func (d *decoder) quoted(start int) string {
	var units []uint16 // of UTF-16, for a pair of escapes may be one character
	end := d.text[start]
	for d.problem == "" {
		r, size := utf8.DecodeRuneInString(d.text[d.offset:])
		switch {
		case size == 0 || r == '\n' || r == '\r':
			d.fail(start, "the string does not end: write %c", end)
			continue
		case r == '\\':
			d.offset += size
			units = d.escape(units)
			continue
		}
		d.offset += size
		if r != rune(end) {
			units = utf16.AppendRune(units, r)
			continue
		}
		runes := utf16.Decode(units)
		if slices.Contains(runes, 0) || !slices.Equal(utf16.Encode(runes), units) {
			d.fail(start, "the string has a character 0 or half a surrogate pair, which the database cannot take")
		}
		return string(runes)
	}
	return ""
}

// escape reads what follows a backslash in a string, and appends what it stands for.
func (d *decoder) escape(units []uint16) []uint16 {
	start := d.offset
	match := d.take(jsonEscape)
	if match == nil || match[0] == "0" && strings.IndexAny(d.text[d.offset:], "0123456789") == 0 {
		d.offset = start
		d.unexpected(`an escape that JSON5 has; octal ones it does not have, but \x41 and \u0041`)
		return nil
	}
	switch text := match[0]; {
	case slices.Contains([]string{"\r\n", "\r", "\n", "\u2028", "\u2029"}, text): // the string goes on in the next line
		return units
	case len(text) > 1 && (text[0] == 'u' || text[0] == 'x'):
		n, _ := strconv.ParseUint(text[1:], 16, 16) // the pattern has seen to it
		return append(units, uint16(n))
	default:
		r, _ := utf8.DecodeRuneInString(text)
		if i := strings.IndexRune("bfnrtv0", r); i >= 0 {
			r = rune("\b\f\n\r\t\v\x00"[i])
		}
		return utf16.AppendRune(units, r)
	}
}

// encode returns a string as JSON.
func encode(s string) string {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(s) // a string and a Buffer cannot fail
	return strings.TrimSuffix(b.String(), "\n")
}
