package generate

import (
	"go/types"
	"unicode"
)

// A skeleton is what the keys of a task can be, as a pattern: characters, and sets of characters for
// what fields write.
type skeleton []symbol

// symbol matches one character, or if it repeats, any number of them.
type symbol struct {
	char    rune
	set     func(rune) bool // nil: char alone
	any     bool            // of set: every character
	repeats bool
}

func isNumber(r rune) bool { return r == '-' || '0' <= r && r <= '9' }
func isBool(r rune) bool   { return unicode.IsLower(r) && r < unicode.MaxASCII }
func isAny(rune) bool      { return true }

// skeletonOf makes the skeleton of a template. A string can be any text.
func skeletonOf(t *template) (s skeleton) {
	for _, part := range t.parts {
		for _, r := range part.text {
			s = append(s, symbol{char: r})
		}
		if part.field == nil {
			continue
		}
		field := symbol{set: isAny, any: true}
		typ := part.field[len(part.field)-1].Type()
		if basic, ok := typ.Underlying().(*types.Basic); ok && !textual(typ) {
			switch info := basic.Info(); {
			case info&types.IsInteger != 0:
				field = symbol{set: isNumber}
				s = append(s, field) // at least one
			case info&types.IsBoolean != 0:
				field = symbol{set: isBool}
				s = append(s, field)
			}
		}
		field.repeats = true
		s = append(s, field)
	}
	return s
}

// constantSkeleton is the skeleton of a text.
func constantSkeleton(text string) (s skeleton) {
	for _, r := range text {
		s = append(s, symbol{char: r})
	}
	return s
}

// meets reports whether a character can match both.
func (t symbol) meets(o symbol) bool {
	switch {
	case t.set == nil && o.set == nil:
		return t.char == o.char
	case t.set == nil:
		return o.set(t.char)
	case o.set == nil:
		return t.set(o.char)
	}
	return t.any || o.any || t.set('0') == o.set('0')
}

// canEqual reports whether a text can match both skeletons.
func (s skeleton) canEqual(o skeleton) bool {
	seen := map[[2]int]bool{}
	var from func(i, j int) bool
	from = func(i, j int) bool {
		at := [2]int{i, j}
		if seen[at] {
			return false
		}
		seen[at] = true
		if i == len(s) && j == len(o) ||
			i < len(s) && s[i].repeats && from(i+1, j) ||
			j < len(o) && o[j].repeats && from(i, j+1) {
			return true
		}
		if i == len(s) || j == len(o) || !s[i].meets(o[j]) {
			return false
		}
		next := func(t symbol, i int) int {
			if t.repeats {
				return i
			}
			return i + 1
		}
		return from(next(s[i], i), next(o[j], j))
	}
	return from(0, 0)
}
