package generate

import (
	"fmt"
	"go/token"
	"go/types"
	"slices"

	"github.com/backfillhq/go/cmd/backfillgen/internal/diag"
)

// checkPayload reports what encoding/json could not store in args of this type and read again.
func (p *pkg) checkPayload(t *task, pos token.Position, typ types.Type, problems *diag.List) {
	w := &walker{pkg: p, problems: problems, seen: map[walked]bool{}}
	w.walk(walked{typ, true}, site{pos: pos, what: "args of task " + t.describe()})
}

// walker visits every type that a payload holds, as encoding/json does.
type walker struct {
	*pkg
	problems *diag.List
	seen     map[walked]bool
}

// walked is a type, and whether encoding/json can take the address of a value there, which it needs to call methods of the
// pointer. It can except in a map.
type walked struct {
	typ         types.Type
	addressable bool
}

// site is the place where a type is used: a field that the user can change.
type site struct {
	pos  token.Position
	what string
}

func (w *walker) fail(at site, format string, args ...any) {
	w.problems.Errorf(at.pos, "%s: %s", at.what, fmt.Sprintf(format, args...))
}

func (w *walker) walk(value walked, at site) {
	if w.seen[value] {
		return
	}
	w.seen[value] = true
	if w.walkMethods(value, at) {
		return
	}
	typ := value.typ
	switch u := typ.Underlying().(type) {
	case *types.Basic:
		if u.Info()&types.IsComplex != 0 || u.Kind() == types.UnsafePointer {
			w.fail(at, "encoding/json cannot encode %s", w.name(typ))
		}
	case *types.Chan, *types.Signature:
		w.fail(at, "encoding/json cannot encode %s", w.name(typ))
	case *types.Interface:
		if !u.Empty() {
			w.fail(at, "encoding/json cannot decode into the interface %s: use a concrete type, any, or json.RawMessage", w.name(typ))
		}
	case *types.Pointer:
		w.walk(walked{u.Elem(), true}, at)
	case *types.Slice:
		w.walk(walked{u.Elem(), true}, at)
	case *types.Array:
		w.walk(walked{u.Elem(), value.addressable}, at)
	case *types.Map:
		if !keyable(u.Key()) {
			w.fail(at, "encoding/json cannot store the keys of %s: want strings, integers, or a type with MarshalText and UnmarshalText", w.name(typ))
		}
		w.walk(walked{u.Elem(), false}, at)
	case *types.Struct:
		w.walkStruct(value, u, at)
	}
}

// walkMethods checks the methods with which a type stores itself, and reports whether it has any. What they do is its own affair.
func (w *walker) walkMethods(value walked, at site) bool {
	typ := value.typ
	switch typ.Underlying().(type) {
	case *types.Interface, *types.Pointer:
		return false
	}
	encodes := hasMethod(typ, true, "MarshalJSON", "MarshalText")
	decodes := hasMethod(typ, true, "UnmarshalJSON", "UnmarshalText")
	switch embedded := promoting(typ); {
	case !encodes && !decodes:
		return false
	case embedded != nil:
		w.fail(at, "%s is stored by the methods of its embedded %s, so its other fields would be lost: give the embedded one a name", w.name(typ), embedded.Name())
	case !decodes:
		w.fail(at, "%s has a Marshal method and no Unmarshal method, so that a worker could not read it", w.name(typ))
	case !encodes:
		w.fail(at, "%s has an Unmarshal method and no Marshal method, so that it would not be stored as it is read", w.name(typ))
	case !value.addressable && !hasMethod(typ, false, "MarshalJSON", "MarshalText"):
		w.fail(at, "the Marshal method of %s is its pointer's, which encoding/json does not call here: use *%s", w.name(typ), w.name(typ))
	}
	return true
}

// promoting returns the embedded field of a struct whose methods store the struct as a whole, if there is something to lose.
func promoting(typ types.Type) *types.Var {
	structure, ok := typ.Underlying().(*types.Struct)
	if !ok {
		return nil
	}
	for _, name := range []string{"MarshalJSON", "MarshalText", "UnmarshalJSON", "UnmarshalText"} {
		object, path, _ := types.LookupFieldOrMethod(typ, true, nil, name)
		if _, ok := object.(*types.Func); !ok || len(path) == 1 {
			continue
		}
		for i := range structure.NumFields() {
			if i != path[0] && readField(structure, i).stored {
				return structure.Field(path[0])
			}
		}
	}
	return nil
}

func (w *walker) walkStruct(value walked, structure *types.Struct, at site) {
	typ := value.typ
	var names []jsonName
	stored := 0
	for i := range structure.NumFields() {
		field := readField(structure, i)
		fieldAt := at
		if w.inModule(field.Pkg()) {
			fieldAt = site{pos: w.position(field.Pos()), what: "field " + w.name(typ) + "." + field.Name()}
			if problem := field.tagProblem(); problem != "" {
				w.fail(fieldAt, "%s", problem)
			}
		}
		if !field.stored {
			continue
		}
		stored++
		names = appendNames(names, jsonName{jsonField: field, at: fieldAt, path: field.Name()}, nil)
		pointer, isPointer := types.Unalias(field.Type()).(*types.Pointer)
		switch {
		case invalid(field.Type()):
			owner, expression := w.fieldType(field.Pos())
			owner.reportInvalid(fieldAt.what+": ", expression, w.problems)
		case isPointer && field.Embedded() && !field.Exported():
			w.fail(fieldAt, "encoding/json cannot decode into an embedded pointer to the unexported %s: embed the value", w.name(pointer.Elem()))
		default:
			w.walk(walked{field.Type(), value.addressable}, fieldAt)
		}
	}
	if stored == 0 && structure.NumFields() > 0 {
		w.fail(at, "%s has no exported fields, so nothing of it would be stored", w.name(typ))
	}
	for _, clash := range clashes(names) {
		at := site{clash[1].at.pos, "field " + w.name(typ) + "." + clash[1].path}
		w.fail(at, "its JSON name %q is that of %s, too, so encoding/json would leave out both", clash[1].name, clash[0].path)
	}
}

// keyable reports whether encoding/json can store the keys of a map and read them again.
func keyable(key types.Type) bool {
	encodes, decodes := hasMethod(key, false, "MarshalText"), hasMethod(key, true, "UnmarshalText")
	basic, ok := key.Underlying().(*types.Basic)
	switch {
	case ok && basic.Info()&types.IsString != 0:
		return true
	case ok && basic.Info()&types.IsInteger != 0:
		return encodes == decodes
	}
	return encodes && decodes
}

// hasMethod reports whether a type has an exported method of one of these names; if its values are addressable, one of the
// pointer counts.
func hasMethod(typ types.Type, addressable bool, names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool {
		object, _, _ := types.LookupFieldOrMethod(typ, addressable, nil, name)
		_, ok := object.(*types.Func)
		return ok
	})
}

// name writes a type as the user's package would.
func (w *walker) name(typ types.Type) string { return types.TypeString(typ, w.qualifier) }

func (p *pkg) qualifier(other *types.Package) string {
	if other == p.types {
		return ""
	}
	return other.Name()
}
