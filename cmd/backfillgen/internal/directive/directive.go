// Package directive reads the //backfill: lines of Go source: a verb, then options like
// timeout=30s or key="user:{ID}". It knows their grammar and not their meaning.
package directive

import (
	"go/token"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/backfillhq/go/cmd/backfillgen/internal/diag"
)

// Prefix begins every directive. As with all directives of Go, no space stands before or in it.
const Prefix = "//backfill:"

// A Line is one directive.
type Line struct {
	Pos     token.Position // of the //
	Verb    string         // what follows the prefix: task
	Options []Option       // in the order of the line, without those that cannot be read

	Incomplete bool // there are options that cannot be read
}

// An Option is one name=value of a line, or a word.
type Option struct {
	Name     string
	Pos      token.Position // of the name
	Value    string         // without quotes
	ValuePos token.Position // of the value, or of its quote

	Bare bool // a word without =value, such as serial

	verbatim bool // every byte of Value stands in the source as it is, from the first after the quote
	quoted   bool
}

// Option returns the option of this name.
func (l Line) Option(name string) (Option, bool) {
	for _, option := range l.Options {
		if option.Name == name {
			return option, true
		}
	}
	return Option{}, false
}

// Source returns the option as a line may have it.
func (o Option) Source() string {
	if o.quoted {
		return o.Name + "=" + strconv.Quote(o.Value)
	}
	return o.Name + "=" + o.Value
}

// At returns where the i-th byte of the value stands.
func (o Option) At(i int) token.Position {
	pos := o.ValuePos
	if o.verbatim {
		pos.Column += i
		if o.quoted {
			pos.Column++
		}
	}
	return pos
}

// Is reports whether the text of a comment is a directive.
func Is(comment string) bool { return strings.HasPrefix(comment, Prefix) }

// Parse reads the comment that begins at pos. What it cannot read is reported, and the rest of the
// line is read all the same. A line whose verb takes no options, such as a crontab line, is not
// for Parse: see [Verb].
func Parse(comment string, pos token.Position, problems *diag.List) Line {
	verb, rest := Verb(comment)
	line := Line{Pos: pos, Verb: verb}
	s := &scanner{text: rest, base: pos, problems: problems}
	s.base.Column += len(comment) - len(rest)
	seen := map[string]bool{}
	for s.skipSpace(); s.offset < len(s.text); s.skipSpace() {
		option, ok := s.option()
		if !ok {
			line.Incomplete = true
			continue
		}
		if seen[option.Name] {
			problems.Errorf(option.Pos, "option %q is given twice", option.Name)
			continue
		}
		seen[option.Name] = true
		line.Options = append(line.Options, option)
	}
	return line
}

// Verb splits a directive behind its verb.
func Verb(comment string) (verb, rest string) {
	text := strings.TrimPrefix(comment, Prefix)
	end := strings.IndexFunc(text, unicode.IsSpace)
	if end < 0 {
		end = len(text)
	}
	return text[:end], text[end:]
}

// scanner reads options. Its offset is always at the beginning of a rune.
type scanner struct {
	text     string
	offset   int
	base     token.Position // of the text's first byte
	problems *diag.List
}

// option reads name=value, or a word. If that is impossible, it reports why and stops behind what
// it could not read.
func (s *scanner) option() (Option, bool) {
	option := Option{Pos: s.pos()}
	option.Name = s.take(func(r rune) bool { return r != '=' && r != '"' && r != '`' && !unicode.IsSpace(r) })
	switch {
	case strings.HasPrefix(option.Name, "//"):
		s.problems.Errorf(option.Pos, "a directive ends with its line, so no comment can follow: put it on a line of its own")
		s.offset = len(s.text)
		return option, false
	case strings.IndexByte(option.Name, ':') > 0:
		s.colon(option)
		return option, false
	case s.peek() == '"' || s.peek() == '`':
		s.problems.Errorf(s.pos(), "unexpected quote: options are name=value or name=\"a value\"")
		s.skipWord()
		return option, false
	case s.peek() != '=' && strings.HasPrefix(strings.TrimLeftFunc(s.text[s.offset:], unicode.IsSpace), "="):
		s.problems.Errorf(option.Pos, "option %q: write %s=value, without spaces around the =", option.Name, option.Name)
		s.skipSpace()
		s.offset++
		s.skipSpace()
		s.skipWord()
		return option, false
	case s.peek() != '=':
		option.Bare = true
		return option, true
	case option.Name == "":
		s.problems.Errorf(option.Pos, "there is no option name before the =")
		s.skipWord()
		return option, false
	}
	s.offset++ // the =
	option.ValuePos = s.pos()
	first, _ := utf8.DecodeRuneInString(s.text[s.offset:])
	switch {
	case first == '"' || first == '`':
		option.quoted = true
		return option, s.quoted(&option)
	case strings.ContainsRune(otherQuotes, first):
		s.wrongQuotes(option)
		return option, false
	}
	return option, s.bare(&option)
}

// colon reports name:value.
func (s *scanner) colon(option Option) {
	name, value, _ := strings.Cut(option.Name, ":")
	value += s.take(func(r rune) bool { return !unicode.IsSpace(r) })
	if value == "" { // name: value
		s.skipSpace()
		value = s.take(func(r rune) bool { return !unicode.IsSpace(r) })
	}
	if value == "" {
		value = "value"
	}
	s.problems.Errorf(option.Pos, "%q: options have an equals sign: write %s=%s", option.Name, name, strings.TrimPrefix(value, "="))
}

// otherQuotes are the quotes of other languages, and of word processors.
const otherQuotes = "'‘’‚“”„«»"

// wrongQuotes reports a value that one of them begins, and goes behind its end.
func (s *scanner) wrongQuotes(option Option) {
	_, size := utf8.DecodeRuneInString(s.text[s.offset:])
	rest := s.text[s.offset+size:]
	value := rest
	if end := strings.IndexAny(rest, otherQuotes); end >= 0 {
		value = rest[:end]
		s.offset += size + end
	} else if end := strings.IndexFunc(rest, unicode.IsSpace); end >= 0 {
		value = rest[:end]
	}
	s.skipWord()
	s.problems.Errorf(option.ValuePos, "option %q: values have double quotes or none: write %s=%q", option.Name, option.Name, value)
}

func (s *scanner) bare(option *Option) bool {
	option.Value = s.take(func(r rune) bool { return !unicode.IsSpace(r) })
	option.verbatim = true
	switch quote := strings.IndexAny(option.Value, "\"`"); {
	case option.Value == "" && strings.TrimSpace(s.text[s.offset:]) != "":
		s.problems.Errorf(option.Pos, "option %q: write %s=value, without spaces around the =", option.Name, option.Name)
		s.skipSpace()
		s.skipWord()
	case option.Value == "":
		s.problems.Errorf(option.Pos, "option %q has no value: want %s=value", option.Name, option.Name)
	case quote >= 0:
		s.problems.Errorf(option.At(quote), "option %q: quote the whole value: %s=%s", option.Name, option.Name,
			strconv.Quote(strings.NewReplacer(`"`, "", "`", "").Replace(option.Value)))
	default:
		return !s.spaced(*option)
	}
	return false
}

var bracedSpace = regexp.MustCompile(`\{\s*(.*?)\s*\}`)

// spaced reports a value without quotes that goes on behind a space: inside of braces or
// parentheses, or after a comma.
func (s *scanner) spaced(option Option) bool {
	value, rest := option.Value, s.text[s.offset:]
	next := strings.TrimLeftFunc(rest, unicode.IsSpace)
	word := next
	if end := strings.IndexFunc(next, unicode.IsSpace); end >= 0 {
		word = next[:end]
	}
	closes := func(open, closing string) int {
		if strings.Count(value, open) > strings.Count(value, closing) {
			return strings.Index(rest, closing) + 1
		}
		return 0
	}
	switch paren, brace := closes("(", ")"), closes("{", "}"); {
	case paren > 0:
		s.offset += paren
		s.problems.Errorf(option.ValuePos, "option %q: leave the spaces out: write %s=%s", option.Name, option.Name,
			strings.Join(strings.Fields(value+rest[:paren]), ""))
	case brace > 0:
		s.offset += brace
		s.problems.Errorf(option.ValuePos, "option %q: quote a value with spaces: write %s=%q", option.Name, option.Name,
			bracedSpace.ReplaceAllString(value+rest[:brace], "{$1}"))
	case strings.HasSuffix(value, ",") && word != "" && !strings.Contains(word, "="):
		s.skipSpace()
		s.skipWord()
		s.problems.Errorf(option.ValuePos, "option %q: leave the spaces out: write %s=%s%s", option.Name, option.Name, value, word)
	case strings.HasSuffix(value, ",") || strings.HasSuffix(value, ";"):
		s.problems.Errorf(option.At(len(value)-1), "only spaces separate options: leave the %s out", value[len(value)-1:])
	default:
		return false
	}
	return true
}

// quoted reads a string literal of Go.
func (s *scanner) quoted(option *Option) bool {
	literal, err := strconv.QuotedPrefix(s.text[s.offset:])
	if err != nil {
		s.problems.Errorf(option.ValuePos, "option %q: the quoted value does not end, or has an escape that Go does not know", option.Name)
		s.offset = len(s.text)
		return false
	}
	s.offset += len(literal)
	if option.Value, err = strconv.Unquote(literal); err != nil {
		s.problems.Errorf(option.ValuePos, "option %q: %v", option.Name, err)
		return false
	}
	option.verbatim = option.Value == literal[1:len(literal)-1]
	if s.offset < len(s.text) && !unicode.IsSpace(rune(s.peek())) {
		s.problems.Errorf(s.pos(), "option %q: a space has to follow the quoted value", option.Name)
		s.skipWord()
		return false
	}
	return true
}

func (s *scanner) pos() token.Position {
	pos := s.base
	pos.Column += s.offset
	pos.Offset += s.offset
	return pos
}

// peek returns the next byte, or 0 at the end.
func (s *scanner) peek() byte {
	if s.offset == len(s.text) {
		return 0
	}
	return s.text[s.offset]
}

func (s *scanner) take(while func(rune) bool) string {
	start := s.offset
	for s.offset < len(s.text) {
		r, size := utf8.DecodeRuneInString(s.text[s.offset:])
		if !while(r) {
			break
		}
		s.offset += size
	}
	return s.text[start:s.offset]
}

func (s *scanner) skipSpace() { s.take(unicode.IsSpace) }
func (s *scanner) skipWord()  { s.take(func(r rune) bool { return !unicode.IsSpace(r) }) }
