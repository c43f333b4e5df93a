package generate

import (
	"go/ast"
	"go/token"
	"go/types"
	"maps"
	"slices"
	"strings"
)

// codec is a method that encodes or decodes a type in place of encoding/json.
type codec struct {
	*types.Func
	typ      types.Type
	path     []int // through embedded structs; its last step is the method
	indirect bool  // an embedded pointer or interface is on that path
}

var (
	bytesType = types.NewSlice(types.Universe.Lookup("byte").Type())
	errorType = types.Universe.Lookup("error").Type()
	encodes   = signature(nil, []types.Type{bytesType, errorType})
	decodes   = signature([]types.Type{bytesType}, []types.Type{errorType})
	shapes    = map[string]*types.Signature{"MarshalJSON": encodes, "MarshalText": encodes, "UnmarshalJSON": decodes, "UnmarshalText": decodes}
)

func signature(params, results []types.Type) *types.Signature {
	tuple := func(of []types.Type) *types.Tuple {
		var vars []*types.Var
		for _, typ := range of {
			vars = append(vars, types.NewVar(token.NoPos, nil, "", typ))
		}
		return types.NewTuple(vars...)
	}
	return types.NewSignatureType(nil, nil, nil, tuple(params), tuple(results), false)
}

// findCodec returns the first of these methods that addressable values of a type have, in the shape
// that encoding/json asks for.
func findCodec(typ types.Type, names ...string) *codec {
	for _, name := range names {
		object, path, indirect := types.LookupFieldOrMethod(typ, true, nil, name)
		if method, ok := object.(*types.Func); ok && types.Identical(method.Signature(), shapes[name]) {
			return &codec{method, typ, path, indirect || types.IsInterface(method.Signature().Recv().Type())}
		}
	}
	return nil
}

func hasCodec(typ types.Type) bool {
	return findCodec(typ, slices.Collect(maps.Keys(shapes))...) != nil
}

// ofPointer reports whether values that are not addressable do not have the method.
func (c *codec) ofPointer() bool { return !hasMethod(c.typ, false, c.Name()) }

// ofValue reports whether the method gets a copy of what it is called on.
func (c *codec) ofValue() bool {
	_, pointer := types.Unalias(c.Signature().Recv().Type()).(*types.Pointer)
	return !pointer
}

// walkMethods checks the methods with which a type stores itself, and reports whether that is all
// there is to check. What they do is its own affair.
func (w *walker) walkMethods(value walked, at site) bool {
	typ := value.typ
	switch typ.Underlying().(type) {
	case *types.Interface, *types.Pointer:
		return false
	}
	if w.reportShapes(typ) {
		return true
	}
	encoder, decoder := findCodec(typ, "MarshalJSON", "MarshalText"), findCodec(typ, "UnmarshalJSON", "UnmarshalText")
	if encoder == nil && decoder == nil {
		return false
	}
	for _, c := range []*codec{encoder, decoder} {
		if c != nil && w.reportPromoted(c, at) {
			return true
		}
	}
	switch {
	case decoder == nil:
		w.fail(at, "%s has a Marshal method and no Unmarshal method, so that a worker could not read it", w.name(typ))
	case encoder == nil:
		w.fail(at, "%s has an Unmarshal method and no Marshal method, so that it would not be stored as it is read", w.name(typ))
	case decoder.ofValue():
		w.failMethod(decoder.Func, at, "%s of %s has a copy for its receiver, so that what it decodes is lost: write func (v *%s) %s", decoder.Name(), w.name(typ), w.name(typ), decoder.Name())
	case isUnnamed(typ):
		w.fail(at, "encoding/json does not call %s of a struct without a name to decode it: declare a type for %s", decoder.Name(), w.name(typ))
	case strings.TrimPrefix(encoder.Name(), "Marshal") != strings.TrimPrefix(decoder.Name(), "Unmarshal"):
		w.fail(at, "%s is written by %s and read by %s, which takes another form: give it both methods of one form", w.name(typ), encoder.Name(), decoder.Name())
	case !value.addressable && encoder.ofPointer():
		w.fail(at, "the Marshal method of %s is its pointer's, which encoding/json does not call here: use *%s", w.name(typ), w.name(typ))
	}
	return true
}

// failMethod reports a method where it is declared, if the user can change it.
func (w *walker) failMethod(method *types.Func, at site, format string, args ...any) {
	if w.inModule(method.Pkg()) {
		w.problems.Errorf(w.position(method.Pos()), format, args...)
		return
	}
	w.fail(at, format, args...)
}

// reportShapes reports methods of the user's that look like those which encoding/json calls, and
// that it does not call: by their parameters and results, or because the name is in another case.
func (w *walker) reportShapes(typ types.Type) bool {
	found := false
	for _, name := range slices.Sorted(maps.Keys(shapes)) {
		object, _, _ := types.LookupFieldOrMethod(typ, true, nil, name)
		method, ok := object.(*types.Func)
		if ok && w.inModule(method.Pkg()) && !types.Identical(method.Signature(), shapes[name]) {
			w.problems.Errorf(w.position(method.Pos()), "encoding/json does not call this %s of %s: want %s%s", name, w.name(typ), name, strings.TrimPrefix(types.TypeString(shapes[name], nil), "func"))
			found = true
		}
	}
	named, ok := types.Unalias(typ).(*types.Named)
	if !ok || !w.inModule(named.Obj().Pkg()) {
		return found
	}
	owner, _ := w.declaration(named.Obj())
	if owner == nil {
		return found
	}
	for key, d := range owner.declared {
		receiver, method, _ := strings.Cut(key, ".")
		for name := range shapes {
			helps := owner.declared[receiver+"."+name] != nil // the method that is called
			if receiver == named.Obj().Name() && strings.EqualFold(method, name) && method != name && !helps {
				w.problems.Errorf(w.position(d.pos), "encoding/json does not call %s of %s: call it %s", method, w.name(typ), name)
				found = true
			}
		}
	}
	return found
}

// reportPromoted reports a codec of an embedded field that stores the struct as a whole, if there
// is something to lose, or if it may be called on nil.
func (w *walker) reportPromoted(c *codec, at site) bool {
	typ := c.typ
	for _, i := range c.path[:len(c.path)-1] {
		structure, ok := deref(typ).Underlying().(*types.Struct)
		if !ok {
			return false
		}
		for j := range structure.NumFields() {
			if other := readField(structure, j); j != i && (other.lost() || other.stored) {
				w.fail(at, "%s is stored by the methods of its embedded %s, so its other fields would be lost: give the embedded one a name", w.name(typ), structure.Field(i).Name())
				return true
			}
		}
		if c.indirect {
			w.fail(at, "%s is stored by the methods of its embedded %s, which is nil before it is decoded: give it a name, or embed the value", w.name(typ), structure.Field(i).Name())
			return true
		}
		typ = structure.Field(i).Type()
	}
	return false
}

// reportFixed reports args that are stored by methods which write something else than an object
// with a member for each field, or that the user cannot change: they could never get another
// field.
func (w *walker) reportFixed(typ types.Type, at site) bool {
	encoder := findCodec(typ, "MarshalJSON", "MarshalText")
	if encoder == nil || encoder.Name() == "MarshalJSON" && w.inModule(encoder.Pkg()) {
		return false
	}
	w.fail(at, "%s is stored by its method %s and not by its fields, so that it could not grow: make it a field of a struct", w.name(typ), encoder.Name())
	return true
}

var (
	textMarshaler   = textInterface("MarshalText")
	textUnmarshaler = textInterface("UnmarshalText")
)

func textInterface(name string) *types.Interface {
	return types.NewInterfaceType([]*types.Func{types.NewFunc(token.NoPos, nil, name, shapes[name])}, nil).Complete()
}

// keyProblem says why encoding/json cannot store the keys of a map and read them again as they
// were.
func keyProblem(key types.Type) string {
	encodes, decodes := types.Implements(key, textMarshaler), types.Implements(types.NewPointer(key), textUnmarshaler)
	const want = "want strings, integers, or a type with MarshalText and UnmarshalText"
	basic, isBasic := key.Underlying().(*types.Basic)
	switch {
	case decodes && findCodec(key, "UnmarshalText").ofValue():
		return "UnmarshalText needs a pointer for its receiver"
	case isBasic && basic.Info()&types.IsString != 0:
		if decodes {
			return "it writes strings as they are, and would read them by UnmarshalText: use string"
		}
		return ""
	case isBasic && basic.Info()&types.IsInteger != 0 && encodes == decodes, encodes && decodes:
		return ""
	}
	return want
}

// hasMethod reports whether a type has an exported method of one of these names; if its values are
// addressable, one of the pointer counts.
func hasMethod(typ types.Type, addressable bool, names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool {
		object, _, _ := types.LookupFieldOrMethod(typ, addressable, nil, name)
		_, ok := object.(*types.Func)
		return ok
	})
}

// declaration finds where a type is declared.
func (l *loader) declaration(object *types.TypeName) (*pkg, *declaration) {
	for _, p := range l.packages {
		if p.types != nil && p.types == object.Pkg() {
			if d := p.declared[object.Name()]; d != nil && d.pos == object.Pos() {
				return p, d
			}
		}
	}
	return nil, nil
}

// inField reports whether pos is in the type of a field of a declared struct.
func inField(spec *ast.TypeSpec, pos token.Pos) bool {
	structure, ok := spec.Type.(*ast.StructType)
	return ok && structure.Fields.Pos() <= pos && pos < structure.Fields.End()
}
