package generate

import (
	"go/types"
	"strings"
)

// A skeleton is what the keys of a task can be, as a pattern. It matches every key that the
// template can give, and few others.
type skeleton []symbol

// symbol matches one of a set of characters; if it repeats, any number of them, and none.
type symbol struct {
	set     string
	any     bool // every character is in the set
	repeats bool
}

const digits = "0123456789"

// What a field of each kind writes. A string can be any text.
var (
	textSymbols     = skeleton{{any: true, repeats: true}}
	unsignedSymbols = skeleton{{set: digits}, {set: digits, repeats: true}}
	signedSymbols   = append(skeleton{{set: "-", repeats: true}}, unsignedSymbols...)
	boolSymbols     = skeleton{{set: "tf"}, {set: "ra"}, {set: "ul"}, {set: "es"}, {set: "e", repeats: true}} // true, false
)

// skeletonOf makes the skeleton of a template.
func skeletonOf(t *template) (s skeleton) {
	for _, part := range t.parts {
		s = append(s, constantSkeleton(part.text)...)
		if part.field != nil {
			s = append(s, fieldSymbols(part.field[len(part.field)-1].Type())...)
		}
	}
	return s
}

func fieldSymbols(typ types.Type) skeleton {
	basic, ok := typ.Underlying().(*types.Basic)
	if !ok || textual(typ) {
		return textSymbols
	}
	switch info := basic.Info(); {
	case info&types.IsUnsigned != 0:
		return unsignedSymbols
	case info&types.IsInteger != 0:
		return signedSymbols
	case info&types.IsBoolean != 0:
		return boolSymbols
	}
	return textSymbols
}

// constantSkeleton is the skeleton of a text.
func constantSkeleton(text string) (s skeleton) {
	for _, r := range text {
		s = append(s, symbol{set: string(r)})
	}
	return s
}

// meets reports whether a character can match both.
func (s symbol) meets(o symbol) bool { return s.any || o.any || strings.ContainsAny(s.set, o.set) }

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
		next := func(s symbol, i int) int {
			if s.repeats {
				return i
			}
			return i + 1
		}
		return from(next(s[i], i), next(o[j], j))
	}
	return from(0, 0)
}
