package generate

import (
	"fmt"
	"go/token"
	"go/types"
	"reflect"
	"strings"

	"github.com/backfillhq/go/cmd/backfillgen/internal/diag"
)

// checkPayload reports what encoding/json could not store in args of this type and read again.
func (p *pkg) checkPayload(t *task, pos token.Position, typ types.Type, problems *diag.List) {
	w := &walker{pkg: p, problems: problems, seen: map[types.Type]bool{}}
	w.walk(typ, site{pos: pos, what: "args of task " + t.describe()})
}

// walker visits every type that a payload holds, as encoding/json does.
type walker struct {
	*pkg
	problems *diag.List
	seen     map[types.Type]bool
}

// site is the place where a type is used: a field that the user can change.
type site struct {
	pos  token.Position
	what string
}

func (w *walker) fail(at site, format string, args ...any) {
	w.problems.Errorf(at.pos, "%s: %s", at.what, fmt.Sprintf(format, args...))
}

func (w *walker) walk(typ types.Type, at site) {
	if w.seen[typ] {
		return
	}
	w.seen[typ] = true
	switch w.codec(typ) {
	case codecBoth:
		return
	case codecEncodes:
		w.fail(at, "%s has a Marshal method and no Unmarshal method, so that a worker could not read it", w.name(typ))
		return
	case codecDecodes:
		w.fail(at, "%s has an Unmarshal method and no Marshal method, so that it would not be stored as it is read", w.name(typ))
		return
	case codecNone:
	}
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
		w.walk(u.Elem(), at)
	case *types.Slice:
		w.walk(u.Elem(), at)
	case *types.Array:
		w.walk(u.Elem(), at)
	case *types.Map:
		if !w.keyable(u.Key()) {
			w.fail(at, "encoding/json cannot encode the keys of %s: want strings, integers, or a type with MarshalText and UnmarshalText", w.name(typ))
		}
		w.walk(u.Elem(), at)
	case *types.Struct:
		w.walkStruct(typ, u, at)
	}
}

func (w *walker) walkStruct(typ types.Type, structure *types.Struct, at site) {
	names := map[string]*types.Var{} // of the fields that are not embedded
	stored := 0
	for i := range structure.NumFields() {
		field := structure.Field(i)
		fieldAt := at
		if w.inModule(field.Pkg()) {
			fieldAt = site{pos: w.position(field.Pos()), what: "field " + w.name(typ) + "." + field.Name()}
		}
		tag, ok := w.jsonTag(structure.Tag(i), fieldAt)
		if !ok || tag.skip {
			continue
		}
		embedded := field.Embedded() && tag.name == ""
		if embedded && !w.embeddable(field, fieldAt) {
			continue
		}
		if !field.Exported() && !embedded {
			continue
		}
		stored++
		if invalid(field.Type()) {
			w.reportUnknown(fieldAt)
			continue
		}
		if !embedded {
			name := tag.name
			if name == "" {
				name = field.Name()
			}
			if first := names[name]; first != nil {
				w.fail(fieldAt, "its JSON name %q is that of %s, too, so encoding/json would leave out both", name, first.Name())
			}
			names[name] = field
		}
		w.walk(field.Type(), fieldAt)
	}
	if stored == 0 && structure.NumFields() > 0 {
		w.fail(at, "%s has no exported fields, so nothing of it would be stored", w.name(typ))
	}
}

type jsonTag struct {
	name string
	skip bool
}

func (w *walker) jsonTag(tag string, at site) (jsonTag, bool) {
	value, ok := reflect.StructTag(tag).Lookup("json")
	if !ok {
		if strings.Contains(tag, "json") && strings.Contains(tag, ":") && !strings.Contains(tag, `:"`) || strings.Contains(tag, `json: "`) {
			w.fail(at, "its tag is malformed, so encoding/json would not see it: write `json:\"name\"`, without a space")
			return jsonTag{}, false
		}
		return jsonTag{}, true
	}
	if value == "-" {
		return jsonTag{skip: true}, true
	}
	name, _, _ := strings.Cut(value, ",")
	return jsonTag{name: name}, true
}

// embeddable reports whether encoding/json finds the fields of an embedded field.
func (w *walker) embeddable(field *types.Var, at site) bool {
	typ := types.Unalias(field.Type())
	pointer, isPointer := typ.(*types.Pointer)
	if isPointer {
		typ = types.Unalias(pointer.Elem())
	}
	_, isStruct := typ.Underlying().(*types.Struct)
	if field.Exported() {
		return true
	}
	if isPointer && isStruct {
		w.fail(at, "encoding/json cannot decode into an embedded pointer to the unexported %s: embed the value", w.name(typ))
	}
	return isStruct && !isPointer
}

// reportUnknown reports a field whose type the compiler does not know.
func (w *walker) reportUnknown(at site) {
	for _, problem := range w.typeErrors {
		if pos := problem.Fset.PositionFor(problem.Pos, false); pos.Filename == at.pos.Filename && pos.Line == at.pos.Line {
			w.problems.Add(diag.Diagnostic{Pos: pos, Message: at.what + ": " + problem.Msg})
			return
		}
	}
	w.problems.Add(diag.Diagnostic{Pos: at.pos, Message: at.what + ": cannot find out its type", Hint: w.importHint(at.pos)})
}

type codec int

const (
	codecNone codec = iota
	codecEncodes
	codecDecodes
	codecBoth
)

// codec reports which methods a type has to store itself. What they do is the type's own affair.
func (w *walker) codec(typ types.Type) codec {
	if _, ok := typ.Underlying().(*types.Interface); ok {
		return codecNone
	}
	encodes := hasMethod(typ, "MarshalJSON") || hasMethod(typ, "MarshalText")
	decodes := hasMethod(typ, "UnmarshalJSON") || hasMethod(typ, "UnmarshalText")
	switch {
	case encodes && decodes:
		return codecBoth
	case encodes:
		return codecEncodes
	case decodes:
		return codecDecodes
	}
	return codecNone
}

func (w *walker) keyable(key types.Type) bool {
	if basic, ok := key.Underlying().(*types.Basic); ok && basic.Info()&(types.IsString|types.IsInteger) != 0 {
		return true
	}
	return hasMethod(key, "MarshalText") && hasMethod(key, "UnmarshalText")
}

// hasMethod reports whether a type or a pointer to it has an exported method of this name.
func hasMethod(typ types.Type, name string) bool {
	object, _, _ := types.LookupFieldOrMethod(typ, true, nil, name)
	_, ok := object.(*types.Func)
	return ok
}

// name writes a type as the user's package would.
func (w *walker) name(typ types.Type) string { return types.TypeString(typ, w.qualifier) }

func (p *pkg) qualifier(other *types.Package) string {
	if other == p.types {
		return ""
	}
	return other.Name()
}
