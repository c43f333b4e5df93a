package generate

import (
	"go/types"
	"reflect"
	"slices"
	"strings"

	"golang.org/x/tools/go/types/typeutil"
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
		embedded, _ = deref(types.Unalias(field.Type())).Underlying().(*types.Struct)
	}
	field.stored = tag != "-" && (field.Exported() || embedded != nil)
	if !field.tagged {
		field.inline = embedded
	}
	return field
}

// deref returns what an unnamed pointer points to, and other types as they are.
func deref(typ types.Type) types.Type {
	if pointer, ok := types.Unalias(typ).(*types.Pointer); ok {
		return pointer.Elem()
	}
	return typ
}

// lost reports whether a field is not part of the JSON because it is not exported, though it may
// hold something and no tag says that it shall not be.
func (f jsonField) lost() bool {
	switch {
	case f.Exported() || f.Name() == "_" || f.tag.Get("json") == "-" || sizeless(f.Type()):
		return false
	case f.inline == nil:
		return !f.stored
	}
	names, _ := flatten(deref(f.Type()), f.inline)
	return len(names) == 0
}

// sizeless reports whether a type has one value only, as an empty struct.
func sizeless(typ types.Type) bool {
	switch u := typ.Underlying().(type) {
	case *types.Array:
		return u.Len() == 0 || sizeless(u.Elem())
	case *types.Struct:
		for field := range u.Fields() {
			if !sizeless(field.Type()) {
				return false
			}
		}
		return true
	}
	return false
}

// quotable reports whether the option string of a json tag does something to a field of this type.
func quotable(typ types.Type) bool {
	basic, ok := deref(typ).Underlying().(*types.Basic)
	return ok && basic.Info()&(types.IsBoolean|types.IsInteger|types.IsFloat|types.IsString) != 0
}

// jsonName is a name in the JSON of a struct, and the field that is stored under it.
type jsonName struct {
	jsonField
	top  int    // the field of the struct itself which this one is, or is embedded in
	path string // from the struct
}

func (n jsonName) depth() int { return strings.Count(n.path, ".") }

// loss is a field that encoding/json leaves out because of another one.
type loss struct {
	lost, by jsonName
	tie      bool // none comes first, so that both are left out
}

// level is a struct that is embedded in another one, at any depth.
type level struct {
	typ       types.Type
	structure *types.Struct
	at        jsonName
}

// flatten returns the names that the JSON of a struct has, those of embedded structs among them, in
// the order in which encoding/json looks for them. It looks at a struct that is embedded twice only
// once; the other times are returned as again.
func flatten(typ types.Type, structure *types.Struct) (names []jsonName, again []loss) {
	var seen typeutil.Map
	levels := []level{{typ: typ, structure: structure}}
	for i := 0; i < len(levels); i++ { // the less deep come first
		l := levels[i]
		if first, ok := seen.At(l.typ).(jsonName); ok {
			if first.path == "" || first.top != l.at.top {
				again = append(again, loss{lost: l.at, by: first})
			}
			continue
		}
		seen.Set(l.typ, l.at)
		if l.at.depth() > maxDepth {
			continue
		}
		for j := range l.structure.NumFields() {
			field := readField(l.structure, j)
			if !field.stored {
				continue
			}
			at := jsonName{jsonField: field, top: j, path: field.Name()}
			if i > 0 {
				at.top, at.path = l.at.top, l.at.path+"."+field.Name()
			}
			if field.inline == nil {
				names = append(names, at)
			} else {
				levels = append(levels, level{deref(field.Type()), field.inline, at})
			}
		}
	}
	again = slices.DeleteFunc(again, func(l loss) bool { return sizeless(deref(l.lost.Type())) })
	return names, again
}

// losses returns the fields that encoding/json leaves out because another one has their name: the
// less deep comes first, then the one from a tag. Fields of one embedded struct are its own affair.
func losses(names []jsonName) (lost []loss) {
	compare := func(a, b jsonName) int {
		return 2*(a.depth()-b.depth()) + index(b.tagged) - index(a.tagged)
	}
	byName := map[string][]jsonName{}
	for _, n := range names {
		byName[n.name] = append(byName[n.name], n)
	}
	for _, n := range names { // and not byName, for the order
		same := byName[n.name]
		if len(same) < 2 {
			continue
		}
		delete(byName, n.name)
		slices.SortStableFunc(same, compare)
		for _, other := range same[1:] {
			if other.top != same[0].top {
				lost = append(lost, loss{other, same[0], compare(same[0], other) == 0})
			}
		}
	}
	return lost
}
