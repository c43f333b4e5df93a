package crontab

import (
	"fmt"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Parse reads a crontab (contract section 7.1): lines of five time fields, a task, ?options and a
// {payload}, of which the last two may be absent; empty lines; lines that begin with #. It returns
// everything that is wrong, in the order of the lines. The entries are those of the other lines,
// and of use only if nothing is wrong.
func Parse(text string) ([]*Entry, []ParseError) {
	var entries []*Entry
	var problems []ParseError
	first := map[string]int{} // the line where an identifier stands first
	line := 0
	for text := range strings.SplitSeq(text, "\n") {
		line++
		p := &parser{text: strings.TrimRightFunc(text, isSpace), at: Position{line, 1}}
		p.skipSpace()
		if p.done() || p.text[p.offset] == '#' {
			continue
		}
		entry := p.line(true)
		if other, ok := first[entry.Identifier]; ok {
			p.errorf(p.identifier, "lines %d and %d have the same identifier %q: give one of them another, such as ?id=nightly", other, line, entry.Identifier)
		} else if entry.Identifier != "" {
			first[entry.Identifier] = line
		}
		problems = append(problems, p.problems...)
		if p.problems == nil {
			entries = append(entries, entry)
		}
	}
	return entries, problems
}

// ParseSchedule reads a crontab line without its task, such as 0 4 * * * ?fill=1d, which stands
// somewhere else: at is the position of its first byte there. The task may have any name that fits
// into the database. A schedule that never comes, as on February 30, is wrong here, where Graphile
// Worker does not read it. The entry is of use only if nothing is wrong.
func ParseSchedule(text, task string, at Position) (*Entry, []ParseError) {
	p := &parser{text: strings.TrimRightFunc(text, isSpace), at: at}
	p.skipSpace()
	p.entry.Task = task
	begin := p.offset
	e := p.line(false)
	if p.problems == nil {
		if _, ok := e.Next(time.Unix(0, 0)); !ok {
			p.errorf(begin, "it is never due: none of its months has any of its days (fields three and four)")
		}
	}
	return e, p.problems
}

// A parser reads one line. It goes on after a problem where it can know what follows.
type parser struct {
	text       string // without white space at the end
	at         Position
	offset     int // what is before it has been read
	identifier int // where the identifier stands
	entry      Entry
	problems   []ParseError
}

func (p *parser) errorf(offset int, format string, args ...any) {
	pos := Position{p.at.Line, p.at.Column + offset}
	p.problems = append(p.problems, ParseError{pos, fmt.Sprintf(format, args...)})
}

// isSpace reports whether r is white space in JavaScript, where it decides what a word is.
func isSpace(r rune) bool {
	return unicode.Is(unicode.Zs, r) || strings.ContainsRune("\t\n\v\f\r\u2028\u2029\ufeff", r)
}

func (p *parser) done() bool { return p.offset == len(p.text) }

func (p *parser) skipSpace() {
	p.offset = len(p.text) - len(strings.TrimLeftFunc(p.text[p.offset:], isSpace))
}

// word reads up to the next white space and skips that.
func (p *parser) word() (offset int, word string) {
	offset = p.offset
	word = p.text[offset:]
	if end := strings.IndexFunc(word, isSpace); end >= 0 {
		word = word[:end]
	}
	p.offset += len(word)
	p.skipSpace()
	return offset, word
}

// line reads a line from its first field on.
func (p *parser) line(withTask bool) *Entry {
	e := &p.entry
	e.Pos = Position{p.at.Line, p.at.Column + p.offset}
	p.identifier = p.offset
	if !p.fields() {
		return e
	}
	if i := strings.IndexAny(p.text[p.offset:], "\r\u2028\u2029"); i >= 0 { // they separate fields, and nothing else
		p.errorf(p.offset+i, "a line separator inside the line: end lines with \\n or \\r\\n")
		return e
	}
	if withTask && !p.task() {
		return e
	}
	if n := utf8.RuneCountInString(e.Task); n > 128 {
		p.errorf(p.identifier, "the task's name has %d characters: the database takes up to 128", n)
	}
	if strings.HasPrefix(p.text[p.offset:], "?") {
		p.options()
	}
	p.payload()
	if e.Identifier == "" {
		e.Identifier = e.Task
	}
	return e
}

var taskPattern = regexp.MustCompile(`^[_a-zA-Z][_a-zA-Z0-9:/-]*$`)

const sixFields = "%q is a sixth time field: use five, for minute, hour, day of month, month and day of week, and no seconds"

func (p *parser) task() bool {
	offset, task := p.word()
	p.identifier = offset
	bad := offset
	switch {
	case task == "":
		p.errorf(offset, "the task is missing after the five time fields")
	case taskPattern.MatchString(task):
		p.entry.Task = task
		return true
	case strings.Trim(task, timeCharacters) == "":
		p.errorf(offset, sixFields, task)
	default:
		for i := range len(task) { // the first byte that the name cannot have
			if !taskPattern.MatchString(task[:i+1]) {
				bad = offset + i
				break
			}
		}
		p.errorf(bad, "%q is not the name of a task: use letters, digits and _ : / -, with a letter or _ first, and a space before ? and {", task)
	}
	return false
}

func (p *parser) payload() {
	rest := p.text[p.offset:]
	switch {
	case rest == "":
		return
	case rest[0] == '#':
		p.errorf(p.offset, "unexpected %s: a comment stands on a line of its own", quote(rest))
		return
	case strings.IndexAny(rest, timeCharacters) == 0:
		p.errorf(p.offset, sixFields, strings.Fields(rest)[0])
		return
	case rest[0] != '{':
		p.errorf(p.offset, "unexpected %s: only ?options without spaces and then a {payload} can stand here", quote(rest))
		return
	}
	d := &decoder{text: rest}
	switch payload := d.read(); {
	case d.problem != "":
		p.errorf(p.offset+d.offset, "payload: %s", d.problem)
	case rest[len(rest)-1] != '}':
		p.errorf(p.offset, "payload: the line has to end with }: put the comment before it")
	default:
		p.entry.Payload, p.entry.Repeated = []byte(payload), d.repeated
	}
}
