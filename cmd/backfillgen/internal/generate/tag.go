package generate

import (
	"fmt"
	"go/types"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/backfillhq/go/cmd/backfillgen/internal/diag"
)

// jsonOptions are all that encoding/json knows.
var jsonOptions = []string{"omitempty", "omitzero", "string"}

// validName reports whether encoding/json takes a name from a tag; one that it does not take, it
// ignores.
func validName(name string) bool {
	return name != "" && !strings.ContainsFunc(name, func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("!#$%&()*+-./:;<=>?@[]^_{|}~ ", r)
	})
}

// option reports whether the json tag of a field has an option.
func (f jsonField) option(name string) bool {
	return slices.Contains(strings.Split(f.tag.Get("json"), ",")[1:], name)
}

// tagProblem says what encoding/json does not see in a field's tag, or sees otherwise than whoever
// wrote it.
func (f jsonField) tagProblem() string {
	keys, wellFormed := tagKeys(string(f.tag))
	tag, found := f.tag.Lookup("json")
	name, rest, _ := strings.Cut(tag, ",")
	mistaken := slices.IndexFunc(keys, nearlyJSON)
	switch {
	case !found && !wellFormed && (mistaken >= 0 || slices.Contains(keys, "json")):
		return "its tag is malformed, so encoding/json would not see it: write `json:\"name\"`, with spaces only between tags"
	case !found && mistaken >= 0:
		return fmt.Sprintf("encoding/json does not look at the tag %s: write json", keys[mistaken])
	case twice(keys, "json"):
		return "its tag says json twice, and encoding/json looks at the first: leave one out"
	case !found || tag == "-":
		return ""
	case name == "-" && rest != "":
		return "encoding/json would store it under the name -: write `json:\"-\"` to leave it out"
	case name != strings.TrimSpace(name):
		return fmt.Sprintf("its JSON name %q would have the spaces, too: leave them out", name)
	case name != "" && !validName(name):
		return fmt.Sprintf("encoding/json ignores the name %q, because of its characters: use letters, digits, - and _", name)
	case slices.ContainsFunc(strings.FieldsFunc(name, func(r rune) bool { return !unicode.IsLetter(r) }), isOmit):
		return fmt.Sprintf("encoding/json takes %q for the name: put a comma before the option", name)
	}
	return f.optionProblem(rest)
}

func isOmit(word string) bool { return word == "omitempty" || word == "omitzero" }

// optionProblem says which of the options of a json tag does nothing.
func (f jsonField) optionProblem(options string) string {
	seen := map[string]bool{}
	for option := range strings.SplitSeq(options, ",") {
		switch {
		case option == "" || option == "inline" && f.inline != nil: // which embedded structs are anyway
		case !slices.Contains(jsonOptions, option):
			if trimmed := strings.TrimSpace(option); slices.Contains(jsonOptions, trimmed) {
				return fmt.Sprintf("encoding/json ignores the option %q of its tag, because of the space: leave the space out", option)
			}
			want := diag.DidYouMean(strings.TrimSpace(option), jsonOptions)
			if want == "" {
				want = ": leave it out"
			}
			return fmt.Sprintf("encoding/json has no option %q%s", option, want)
		case seen[option]:
			return fmt.Sprintf("its tag has the option %s twice: leave one out", option)
		case option == "string" && !quotable(f.Type()):
			return "the option string of its tag does nothing, except to strings, numbers and bools: leave it out"
		}
		seen[option] = true
	}
	return ""
}

// tagWarning says what in a field's tag does nothing and loses nothing.
func (f jsonField) tagWarning() string {
	if !f.stored || f.inline != nil || !f.option("omitempty") || f.option("omitzero") {
		return ""
	}
	switch u := f.Type().Underlying().(type) {
	case *types.Struct:
	case *types.Array:
		if u.Len() == 0 {
			return ""
		}
	default:
		return ""
	}
	return "omitempty does nothing to structs and arrays, which are always written: write omitzero"
}

// alikeKeys are keys of tags that look like a misspelt json and are not.
var alikeKeys = []string{"bson", "cson", "hjson", "json5", "jsonb", "jsonc", "jsonl", "jsonx", "rjson", "tson", "ujson", "xson"}

var tagWord = regexp.MustCompile(`[A-Za-z0-9]+`)

// tagKeys returns the keys of a tag, and whether reflect reads it to its end. If it does not, all
// words of the rest may be keys.
func tagKeys(tag string) (keys []string, wellFormed bool) {
	for {
		tag = strings.TrimLeft(tag, " ")
		if tag == "" {
			return keys, true
		}
		i := 0
		for i < len(tag) && tag[i] > ' ' && tag[i] != ':' && tag[i] != '"' && tag[i] != 0x7f {
			i++
		}
		if i == 0 || i+1 >= len(tag) || tag[i] != ':' {
			break
		}
		quoted, err := strconv.QuotedPrefix(tag[i+1:])
		if err != nil || quoted[0] != '"' {
			break
		}
		keys = append(keys, tag[:i])
		tag = tag[i+1+len(quoted):]
	}
	return append(keys, tagWord.FindAllString(tag, -1)...), false
}

// nearlyJSON reports whether a key of a tag is a misspelt json.
func nearlyJSON(key string) bool {
	if name, _, cut := strings.Cut(key, ","); cut {
		return name == "json" || nearlyJSON(name)
	}
	return key != "json" && len(key) <= 5 && !slices.Contains(alikeKeys, key) && diag.DidYouMean(key, []string{"json"}) != ""
}

func twice(keys []string, key string) bool {
	first := slices.Index(keys, key)
	return first >= 0 && slices.Contains(keys[first+1:], key)
}
