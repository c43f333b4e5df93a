package generate

import (
	"fmt"
	"go/types"
	"reflect"
	"slices"
	"strings"
	"unicode"
)

// jsonField is a field of a struct as encoding/json sees it.
type jsonField struct {
	*types.Var
	tag    reflect.StructTag
	name   string        // in the JSON
	tagged bool          // the tag gives it the name
	stored bool          // it is part of the JSON
	inline *types.Struct // an embedded struct, whose fields are stored as if they were the outer struct's
}

func readField(structure *types.Struct, i int) jsonField {
	field := jsonField{Var: structure.Field(i), tag: reflect.StructTag(structure.Tag(i))}
	field.name = field.Name()
	tag := field.tag.Get("json")
	if name, _, _ := strings.Cut(tag, ","); validName(name) {
		field.name, field.tagged = name, true
	}
	var embedded *types.Struct
	if field.Embedded() {
		typ := types.Unalias(field.Type())
		if pointer, ok := typ.(*types.Pointer); ok {
			typ = pointer.Elem()
		}
		embedded, _ = typ.Underlying().(*types.Struct)
	}
	field.stored = tag != "-" && (field.Exported() || embedded != nil)
	if !field.tagged {
		field.inline = embedded
	}
	return field
}

// validName reports whether encoding/json takes a name from a tag; one that it does not take, it ignores.
func validName(name string) bool {
	return name != "" && !strings.ContainsFunc(name, func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("!#$%&()*+-./:;<=>?@[]^_{|}~ ", r)
	})
}

// tagProblem says what is wrong with a field's tag, which encoding/json ignores then.
func (f jsonField) tagProblem() string {
	tag, found := f.tag.Lookup("json")
	name, _, _ := strings.Cut(tag, ",")
	_, wellFormed := (f.tag + ` end:""`).Lookup("end")
	switch {
	case !found && !wellFormed && strings.Contains(string(f.tag), "json"):
		return "its tag is malformed, so encoding/json would not see it: write `json:\"name\"`, with spaces only between tags"
	case found && !f.stored && tag != "-":
		return "is not exported, so encoding/json would not store it: export it, or leave its json tag out"
	case name != "" && !validName(name):
		return fmt.Sprintf("encoding/json ignores the name %q, because of its characters: use letters, digits, - and _", name)
	}
	return ""
}

// jsonName is a name in the JSON of a struct, and the field that is stored under it.
type jsonName struct {
	jsonField
	at   site   // of the struct's own field, which may embed this one
	path string // from there
}

func (n jsonName) depth() int { return strings.Count(n.path, ".") }

// appendNames appends the names that a field of a struct has in its JSON: many, if it is embedded.
func appendNames(names []jsonName, of jsonName, above []*types.Struct) []jsonName {
	switch {
	case of.inline == nil:
		return append(names, of)
	case slices.Contains(above, of.inline):
		return names
	}
	for i := range of.inline.NumFields() {
		if field := readField(of.inline, i); field.stored {
			names = appendNames(names, jsonName{field, of.at, of.path + "." + field.Name()}, append(above, of.inline))
		}
	}
	return names
}

// clashes returns the pairs of names that encoding/json leaves out because none comes before the other: the less deep comes
// before, then the one from a tag. Pairs from one embedded struct are its own affair.
func clashes(names []jsonName) [][2]jsonName {
	var found [][2]jsonName
	for i, n := range names {
		first := slices.IndexFunc(names[:i], func(o jsonName) bool {
			return o.name == n.name && o.depth() == n.depth() && o.tagged == n.tagged && o.at != n.at
		})
		hidden := slices.ContainsFunc(names, func(o jsonName) bool {
			return o.name == n.name && (o.depth() < n.depth() || o.depth() == n.depth() && o.tagged && !n.tagged)
		})
		if first >= 0 && !hidden {
			found = append(found, [2]jsonName{names[first], n})
		}
	}
	return found
}
