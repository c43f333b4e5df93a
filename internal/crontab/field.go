package crontab

import (
	"strconv"
	"strings"
)

// timeCharacters are those that time fields consist of.
const timeCharacters = "0123456789*/,-"

const fiveFields = "a line begins with five time fields (minute, hour, day of month, month, day of week) of digits and * / , -"

// A field is one of the five time fields.
type field struct {
	name     string
	min, max int
}

var fields = [...]field{{"minute", 0, 59}, {"hour", 0, 23}, {"day of month", 1, 31}, {"month", 1, 12}, {"day of week", 0, 7}}

// fields reads the five time fields. It reports false if what follows cannot be read, because
// fields are missing.
func (p *parser) fields() bool {
	var sets [len(fields)]Set
	for i, f := range fields {
		offset, word := p.word()
		if bad := strings.IndexFunc(word, func(r rune) bool { return !strings.ContainsRune(timeCharacters, r) }); bad >= 0 {
			p.errorf(offset+bad, "%q is not a %s: %s; names such as MON and @daily are not supported", word, f.name, fiveFields)
			return false
		}
		if word == "" {
			p.errorf(offset, "the line ends before its %s: %s", f.name, fiveFields)
			return false
		}
		for part := range strings.SplitSeq(word, ",") {
			sets[i] |= p.part(f, offset, part)
			offset += len(part) + 1
		}
	}
	e := &p.entry
	e.Minutes, e.Hours, e.Dates, e.Months, e.Weekdays = sets[0], sets[1], sets[2], sets[3], sets[4]
	if e.Weekdays.Has(7) { // Sunday, as 0 is
		e.Weekdays = e.Weekdays&^(1<<7) | 1
	}
	return true
}

// part reads one part of a field's list: n, a-b, * or */n.
func (p *parser) part(f field, offset int, part string) Set {
	if number(part) >= 0 {
		n := p.value(f, offset, part)
		return between(n, n, 1)
	}
	if low, high, ok := strings.Cut(part, "-"); ok && number(low) >= 0 && number(high) >= 0 {
		a, b := p.value(f, offset, low), p.value(f, offset+len(low)+1, high)
		if a >= 0 && b >= 0 && a >= b {
			p.errorf(offset, "%s %q: the end of a range has to be greater than its beginning", f.name, part)
		}
		return between(a, b, 1)
	}
	if part == "*" {
		return between(f.min, f.max, 1)
	}
	step, ok := strings.CutPrefix(part, "*/")
	switch n := number(step); {
	case ok && n > 0:
		return between(f.min, f.max, n)
	case ok && n == 0:
		p.errorf(offset+len("*/"), "%s %q: the number after the slash has to be 1 or greater", f.name, part)
	case part == "":
		p.errorf(offset, "%s: nothing stands on one side of a comma: take it away", f.name)
	case !ok && strings.Contains(part, "/"):
		p.errorf(offset, "%s %q: only */n is supported with a slash: write a list, such as 10,12,14", f.name, part)
	default:
		p.errorf(offset, "%s %q: write a number, a range such as 1-5, * or */2", f.name, part)
	}
	return 0
}

// value reads a number that has to be in the field's range. It is negative if it is not.
func (p *parser) value(f field, offset int, digits string) int {
	n := number(digits)
	if n >= f.min && n <= f.max {
		return n
	}
	p.errorf(offset, "%s %s is out of range: use %d to %d", f.name, digits, f.min, f.max)
	return -1
}

// between returns every step-th number from low to high, and nothing if one of them is negative.
func between(low, high, step int) Set {
	var s Set
	for n := low; n >= 0 && n <= high; n += step {
		s |= 1 << n
	}
	return s
}

// number returns the number that consists of these digits, or one that is too large for anything,
// or -1 if they are something else.
func number(digits string) int {
	if digits == "" || strings.Trim(digits, "0123456789") != "" {
		return -1
	}
	n, _ := strconv.Atoi(digits) // the greatest number, if it is greater
	return min(n, tooLarge)
}

// tooLarge is more than any number that an entry may have, and small enough to calculate with.
const tooLarge = 1 << 30
