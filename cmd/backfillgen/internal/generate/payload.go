package generate

import (
	"fmt"
	"go/token"
	"go/types"
	"strings"

	"golang.org/x/tools/go/types/typeutil"

	"github.com/backfillhq/go/cmd/backfillgen/internal/diag"
)

// maxDepth bounds how deep the types of a payload may be nested in each other.
const maxDepth = 100

// checkPayload reports what encoding/json could not store in args or a result of this type and read
// again as it was.
func (p *pkg) checkPayload(t *task, what string, pos token.Position, typ types.Type, problems *diag.List) {
	w := &walker{pkg: p, problems: problems}
	if t.args.endless = w.reportEndless(); t.args.endless {
		return
	}
	at := site{pos: pos, what: what + " of task " + t.describe(), field: "field " + w.name(typ), found: &findings{}}
	if w.reportFixed(typ, at) {
		return
	}
	w.walk(walked{typ, true}, at)
}

// reportEndless reports generic types that consist of ever new instances of themselves. Whoever
// follows these never comes to an end, so that nothing else is looked at. As only what tasks need
// is type-checked, a task needs them.
func (w *walker) reportEndless() bool {
	endless := false
	for _, problem := range w.typeErrors {
		if strings.HasPrefix(problem.Msg, "instantiation cycle") {
			w.problems.Errorf(w.position(problem.Pos), "instantiation cycle: a type of args or a result holds an instance of itself whose type argument grows: hold one with the same argument")
			endless = true
		}
	}
	return endless
}

// walker visits every type that a payload holds, as encoding/json does.
type walker struct {
	*pkg
	problems *diag.List
	seen     typeSet // those of the module, whose problems stand at their own fields, and others without problems
	depth    int
}

// walked is a type, and whether encoding/json can take the address of a value there, which it needs
// to call methods of the pointer. It can except in a map.
type walked struct {
	typ         types.Type
	addressable bool
}

// typeSet holds types: by whether they are addressable, and whether their fields alone count.
type typeSet [2][2]typeutil.Map

// add adds a type, and reports whether it was absent.
func (s *typeSet) add(value walked, inline bool) bool {
	return s[index(value.addressable)][index(inline)].Set(value.typ, true) == nil
}

func (s *typeSet) addAll(other *typeSet) {
	for i := range other {
		for j := range other[i] {
			other[i][j].Iterate(func(typ types.Type, _ any) { s[i][j].Set(typ, true) })
		}
	}
}

func (s *typeSet) has(value walked, inline bool) bool {
	return s[index(value.addressable)][index(inline)].At(value.typ) != nil
}

func index(b bool) int {
	if b {
		return 1
	}
	return 0
}

// site is the place where a type is used: a field that the user can change, or the args.
type site struct {
	pos   token.Position
	what  string // as in field Args.Config
	field string // what comes before below
	below string // the way from there through types that the user cannot change, as in .TLS.Config
	found *findings
}

// findings are what was found at one site. The first problem counts: a type of another module that
// is wrong in one way is wrong in many.
type findings struct {
	failed bool
	seen   typeSet // types of other modules
}

func (s site) String() string {
	if s.below == "" {
		return s.what
	}
	return s.field + s.below
}

func (w *walker) fail(at site, format string, args ...any) {
	if !at.found.failed {
		at.found.failed = true
		w.problems.Errorf(at.pos, "%s: %s", at, fmt.Sprintf(format, args...))
	}
}

// fieldSite is the site of what a field holds, and whether the user can change the field.
func (w *walker) fieldSite(typ types.Type, field *types.Var, at site) (site, bool) {
	if w.inModule(field.Pkg()) {
		what := at.field + at.below
		if !isUnnamed(typ) {
			what = "field " + w.name(typ)
		}
		what += "." + field.Name()
		return site{pos: w.position(field.Pos()), what: what, field: what, found: &findings{}}, true
	}
	at.below += "." + field.Name()
	return at, false
}

func isUnnamed(typ types.Type) bool {
	_, unnamed := types.Unalias(typ).(*types.Struct)
	return unnamed
}

func (w *walker) walk(value walked, at site) {
	named, _ := types.Unalias(value.typ).(*types.Named)
	if named != nil && w.reportDeclared(named, at) || w.walkMethods(value, at) {
		return
	}
	if named != nil {
		if !w.enter(value, named, false, at) {
			return
		}
		defer w.leave()
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
		if problem := keyProblem(u.Key()); problem != "" {
			w.fail(at, "encoding/json cannot store the keys of %s: %s", w.name(typ), problem)
		}
		w.walk(walked{u.Elem(), false}, at)
	case *types.Struct:
		w.walkStruct(value, u, at)
	}
}

// enter reports whether a type has to be looked at: its problems have not been reported, and not
// at this site if they are in another module. Then leave has to be called after it.
func (w *walker) enter(value walked, named *types.Named, inline bool, at site) bool {
	switch {
	case w.seen.has(value, inline):
		return false
	case w.depth == maxDepth:
		w.fail(at, "its types are nested more than %d deep", maxDepth)
		return false
	case w.inModule(named.Obj().Pkg()):
		w.seen.add(value, inline)
	case !at.found.seen.add(value, inline):
		return false
	}
	w.depth++
	return true
}

func (w *walker) leave() { w.depth-- }

// reportDeclared reports what the type checker said about the declaration of a type. What it said
// about fields is reported with these.
func (w *walker) reportDeclared(named *types.Named, at site) bool {
	owner, d := w.declaration(named.Obj())
	if d == nil || d.spec == nil {
		return false
	}
	for _, problem := range w.typeErrors {
		if problem.Pos < d.spec.Pos() || problem.Pos >= d.spec.End() || inField(d.spec, problem.Pos) {
			continue
		}
		message, _, _ := strings.Cut(problem.Msg, "\n")
		if w.inModule(owner.types) {
			w.problems.Errorf(w.position(problem.Pos), "type %s: %s", w.name(named), message)
		} else {
			w.fail(at, "type %s: %s", w.name(named), message)
		}
		return true
	}
	return false
}

// walkStruct checks the fields of a struct, each by itself and all together.
func (w *walker) walkStruct(value walked, structure *types.Struct, at site) {
	for i := range structure.NumFields() {
		field := readField(structure, i)
		fieldAt, own := w.fieldSite(value.typ, field.Var, at)
		if own {
			if problem := field.tagProblem(); problem != "" {
				w.fail(fieldAt, "%s", problem)
				continue
			}
			if warning := field.tagWarning(); warning != "" {
				w.problems.Add(diag.Diagnostic{Pos: fieldAt.pos, Warning: true, Message: fieldAt.what + ": " + warning})
			}
		}
		switch {
		case field.lost() && own:
			w.fail(fieldAt, "is not exported, so encoding/json would not store it: export it, or tag it `json:\"-\"` if no job needs it")
		case field.lost() && !storesAny(structure):
			w.fail(at, "%s has no exported fields, so nothing of it would be stored: copy what the job needs into a struct of yours, "+
				"or wrap it in a type with MarshalJSON and UnmarshalJSON", w.name(value.typ))
		case field.lost(): // nobody can tell whether it matters
			w.problems.Add(diag.Diagnostic{Pos: at.pos, Warning: true, Message: fmt.Sprintf(
				"%s: %s has fields that are not exported, as %s, which are not stored", at.what, w.name(value.typ), firstLost(structure))})
		case field.stored:
			w.walkField(walked{field.Type(), value.addressable}, field, fieldAt)
		}
		if own && !fieldAt.found.failed {
			w.seen.addAll(&fieldAt.found.seen)
		}
	}
	w.reportHidden(value.typ, structure, at)
}

// storesAny reports whether a struct has a field that is stored.
func storesAny(structure *types.Struct) bool {
	for i := range structure.NumFields() {
		if field := readField(structure, i); field.stored && !field.lost() {
			return true
		}
	}
	return false
}

// firstLost is the name of the first field that is not stored.
func firstLost(structure *types.Struct) string {
	for i := range structure.NumFields() {
		if field := readField(structure, i); field.lost() {
			return field.Name()
		}
	}
	return ""
}

// walkField checks what a field holds.
func (w *walker) walkField(value walked, field jsonField, at site) {
	typ := types.Unalias(field.Type())
	pointer, isPointer := typ.(*types.Pointer)
	hidden := field.Embedded() && !field.Exported()
	switch {
	case invalid(typ):
		owner, expression := w.fieldType(field.Pos())
		owner.reportInvalid(at.String()+": ", expression, w.problems)
		at.found.failed = true
	case isPointer && hidden:
		w.fail(at, "encoding/json cannot decode into an embedded pointer to the unexported %s: embed the value", w.name(pointer.Elem()))
	case hidden && field.inline == nil && hasCodec(typ):
		w.fail(at, "encoding/json cannot call the methods of the embedded %s, which is not exported: give the field a name that is", w.name(typ))
	case field.option("string") && quotable(typ) && hasCodec(deref(typ)):
		w.fail(at, "%s is stored by its methods, which do not write what the option string of the tag wants to read: leave the option out", w.name(typ))
	case field.inline == nil:
		w.walk(value, at)
	default: // encoding/json does not call methods of a struct whose fields are the outer one's
		if isPointer {
			value = walked{pointer.Elem(), true}
		}
		named, _ := types.Unalias(value.typ).(*types.Named)
		if named == nil {
			w.walkStruct(value, field.inline, at)
		} else if !w.reportDeclared(named, at) && w.enter(value, named, true, at) {
			w.walkStruct(value, field.inline, at)
			w.leave()
		}
	}
}

// reportHidden reports the fields that encoding/json leaves out because others have their names.
// What is wrong inside one embedded struct is reported there.
func (w *walker) reportHidden(typ types.Type, structure *types.Struct, at site) {
	report := func(n jsonName, format string, args ...any) {
		fieldAt, own := w.fieldSite(typ, structure.Field(n.top), at)
		if rest := strings.TrimPrefix(n.path, structure.Field(n.top).Name()); own {
			fieldAt.what += rest
		} else {
			fieldAt.below += rest
		}
		w.fail(fieldAt, format, args...)
	}
	names, again := flatten(typ, structure)
	for _, loss := range losses(names) {
		if loss.tie {
			report(loss.lost, "its JSON name %q is that of %s, too, so encoding/json would leave out both: give one another name", loss.lost.name, loss.by.path)
		} else {
			report(loss.lost, "its JSON name %q is that of %s, which comes first, so encoding/json would not store this one: give one another name", loss.lost.name, loss.by.path)
		}
	}
	for _, n := range again {
		switch {
		case n.by.path == "":
			report(n.lost, "its type embeds itself, so encoding/json would not store this one: give the field a name")
		default:
			report(n.lost, "its fields are those of %s, too, so encoding/json would leave some out: give one a name", n.by.path)
		}
	}
}

// name writes a type as the user's package would.
func (w *walker) name(typ types.Type) string { return types.TypeString(typ, w.qualifier) }

func (p *pkg) qualifier(other *types.Package) string {
	if other == p.types {
		return ""
	}
	return other.Name()
}
