package crontab

import (
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// An option is what may stand behind a name. The patterns are the wire's (contract section 7.1).
type option struct {
	pattern *regexp.Regexp
	want    string // what to write instead of a value that does not match, or cannot be set
}

var options = map[string]option{
	"id":         {regexp.MustCompile(`^[_a-zA-Z][-_a-zA-Z0-9]*$`), "use letters, digits, _ and -, with a letter or _ first"},
	"fill":       {regexp.MustCompile(`^([0-9]+[smhdw])+$`), "use numbers with the units s, m, h, d and w, such as 1d12h"},
	"max":        {regexp.MustCompile(`^[0-9]+$`), "use 1 to 32767, for the database takes no other number of attempts"},
	"queue":      {regexp.MustCompile(`^[-a-zA-Z0-9_:]+$`), "use letters, digits, - _ and :, up to 128 of them"},
	"jobKey":     {regexp.MustCompile(`^[^\x00]+$`), "use 1 to 512 characters and no %00, for the database takes no other key"},
	"jobKeyMode": {regexp.MustCompile(`^(replace|preserve_run_at)$`), "use replace or preserve_run_at"},
	"priority":   {regexp.MustCompile(`^-?[0-9]+$`), "use -32768 to 32767"},
	"tz": {regexp.MustCompile(`.`), "use a name of the IANA time zone database, such as Europe/Berlin; if this is one, the machine lacks the " +
		"database: install tzdata, or build with -tags timetzdata"},
}

// options reads the word that begins with a question mark: a query string as in a URL.
func (p *parser) options() {
	offset, word := p.word()
	if word == "?" {
		p.errorf(offset, "no option follows the question mark: write one, such as ?fill=1d, or take it away")
	}
	seen := map[string]bool{}
	for segment := range strings.SplitSeq(word[1:], "&") {
		offset++ // the ? or the &
		if segment != "" {
			p.option(offset, segment, seen)
		}
		offset += len(segment)
	}
}

func (p *parser) option(offset int, segment string, seen map[string]bool) {
	name, value, _ := strings.Cut(segment, "=")
	valueAt := offset + min(len(name)+1, len(segment))
	name, value = unescape(name), unescape(value)
	if seen[name] {
		p.errorf(offset, "option %q is given twice: keep one of them", name)
		return
	}
	seen[name] = true
	o, ok := options[name]
	if !ok {
		p.errorf(offset, "unknown option %q: the options are id, fill, max, queue, jobKey, jobKeyMode, priority and tz", name)
		return
	}
	switch name {
	case "id":
		p.identifier = valueAt
	case "tz":
		p.entry.ZonePos = Position{p.at.Line, p.at.Column + offset}
	}
	if !o.pattern.MatchString(value) || !p.entry.set(name, value) {
		p.errorf(valueAt, "%s %q: %s", name, value, o.want)
	}
}

// set sets an option to a value that matches its pattern, and reports whether the database could
// take it (contract section 4.3).
func (e *Entry) set(name, value string) bool {
	var err error
	switch name {
	case "id":
		e.Identifier = value
	case "fill":
		e.Fill = fill(value)
	case "max":
		var n int64
		n, err = strconv.ParseInt(value, 10, 16)
		e.MaxAttempts = int16(n)
		return err == nil && n > 0
	case "queue":
		e.Queue = value
		return len(value) <= 128
	case "jobKey":
		e.Key = value
		return utf8.RuneCountInString(value) <= 512
	case "jobKeyMode":
		e.KeyMode = value
	case "priority":
		var n int64
		n, err = strconv.ParseInt(value, 10, 16)
		e.Priority = new(int16(n))
	case "tz":
		if value == "Local" || value == "localtime" { // not the same on every machine
			return false
		}
		e.Zone, err = time.LoadLocation(value)
	}
	return err == nil
}

// fill adds up the parts of a period. What is longer than a Duration is the longest Duration.
func fill(value string) (sum time.Duration) {
	units := map[byte]time.Duration{'s': time.Second, 'm': time.Minute, 'h': time.Hour, 'd': 24 * time.Hour, 'w': 7 * 24 * time.Hour}
	for value != "" {
		i := strings.IndexAny(value, "smhdw")
		count, _ := strconv.ParseInt(value[:i], 10, 64) // the greatest number, if it is greater
		unit := units[value[i]]
		if time.Duration(count) > (math.MaxInt64-sum)/unit {
			return math.MaxInt64
		}
		sum += time.Duration(count) * unit
		value = value[i+1:]
	}
	return sum
}

// unescape decodes a part of a query string as the peer does: what is no escape stays, and what is
// no UTF-8 then is replaced.
func unescape(text string) string {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		c := text[i]
		if c == '+' {
			c = ' '
		} else if c == '%' && i+2 < len(text) {
			if n, err := strconv.ParseUint(text[i+1:i+3], 16, 8); err == nil {
				c = byte(n)
				i += 2
			}
		}
		b.WriteByte(c)
	}
	return strings.ToValidUTF8(b.String(), "\ufffd")
}
