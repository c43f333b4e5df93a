package generate

import (
	"cmp"
	"go/token"
	"go/types"
	"strings"
	"unicode"

	"github.com/backfillhq/go/cmd/backfillgen/internal/diag"
	"github.com/backfillhq/go/cmd/backfillgen/internal/directive"
)

// template is the text of a queue or a key: constants and fields of the args, as in user:{UserID}.
// A brace is written twice.
type template struct{ parts []part }

// part is a constant, or a field.
type part struct {
	text  string
	field []*types.Var // from the args to a field of a field; empty: text
}

// readTemplate compiles the value of queue= or key=.
func (p *pkg) readTemplate(t *task, option directive.Option, problems *diag.List) *template {
	var parsed template
	var text strings.Builder
	flush := func() {
		if text.Len() > 0 {
			parsed.parts = append(parsed.parts, part{text: text.String()})
			text.Reset()
		}
	}
	value, ok := option.Value, true
	for i := 0; i < len(value); i++ {
		c := value[i]
		switch {
		case (c == '{' || c == '}') && i+1 < len(value) && value[i+1] == c:
			if field := p.bracedField(t, value[i:]); field != "" {
				problems.Errorf(option.At(i), "%s template: {{ is a brace in the text, so this is the same for all args: write {%s}", option.Name, field)
				ok = false
			}
			text.WriteByte(c)
			i++
		case c == '}':
			problems.Errorf(option.At(i), "%s template: } without {: write }} for a brace", option.Name)
			return nil
		case c == '{':
			length := strings.IndexByte(value[i:], '}')
			if length < 0 {
				problems.Errorf(option.At(i), "%s template: { without }: write {{ for a brace", option.Name)
				return nil
			}
			fields := p.templateField(t, option, i+1, value[i+1:i+length], problems)
			flush()
			ok = ok && fields != nil && parsed.separates(option, i, value[i:i+length+1], problems)
			parsed.parts = append(parsed.parts, part{field: fields})
			i += length
		default:
			text.WriteByte(c)
		}
	}
	flush()
	if !ok {
		return nil
	}
	return &parsed
}

// separates reports whether the next field, which is at the i-th byte of the option, cannot run
// together with the one before: in {A}{B}, 1 and 23 would give the text of 12 and 3. It also
// refuses the ${A} of shells, whose $ would be part of the text.
func (t *template) separates(option directive.Option, i int, field string, problems *diag.List) bool {
	n := len(t.parts)
	if n == 0 {
		return true
	}
	last := t.parts[n-1]
	switch {
	case strings.HasSuffix(last.text, "$"):
		problems.Errorf(option.At(i-1), "%s template: write %s without the $, which would be part of the text", option.Name, field)
		return false
	case last.isField() || n > 1 && strings.Trim(last.text, "0123456789") == "":
		problems.Errorf(option.At(i), "%s template: put text between %s and the field before it, such as a colon: "+
			"else the numbers 1 and 23 would give the same %[1]s as 12 and 3", option.Name, field)
		return false
	}
	return true
}

// isField is true of a field that could not be found, too.
func (p part) isField() bool { return p.text == "" }

// bracedField returns the field that somebody meant who wrote {{ UserID }} or {{ .UserID }}, as in
// other template languages. It is empty if the braces do not seem to be about a field.
func (p *pkg) bracedField(t *task, text string) string {
	inner, _, closed := strings.Cut(strings.TrimPrefix(text, "{{"), "}}")
	if !closed || inner == text {
		return ""
	}
	trimmed := strings.TrimPrefix(strings.Trim(inner, " \t-$."), "args.")
	first, _, _ := strings.Cut(trimmed, ".")
	switch near := t.meantField(first); {
	case !token.IsIdentifier(first):
	case near != "" && !p.isField(t, first):
		return near + strings.TrimPrefix(trimmed, first)
	case near != "" || token.IsExported(first):
		return trimmed
	}
	for _, word := range identifiers(inner) {
		if p.isField(t, word) {
			return word
		}
	}
	return ""
}

// isField reports whether the args of a task have a field of this name.
func (p *pkg) isField(t *task, name string) bool {
	if t.args.object == nil {
		return false
	}
	object, _, _ := types.LookupFieldOrMethod(t.args.object.Type(), true, p.types, name)
	_, ok := object.(*types.Var)
	return ok
}

// meantField returns the field of the args that a name was probably meant for, or "".
func (t *task) meantField(written string) string {
	if t.args.object == nil {
		return ""
	}
	return meantField(t.args.object.Type(), written)
}

// meantField returns the field of a struct that a name was probably meant for: the one that is
// stored under it, or whose own name is like it.
func meantField(typ types.Type, written string) string {
	structure, ok := typ.Underlying().(*types.Struct)
	if !ok {
		return ""
	}
	stored, _ := flatten(typ, structure)
	for _, field := range stored {
		if strings.EqualFold(field.name, written) {
			return field.Name()
		}
	}
	return diag.Nearest(written, fieldNames(structure))
}

// didYouMean says which field a part of a template's field was meant for.
func (p *pkg) didYouMean(t *task, typ types.Type, part, name string) string {
	meant := meantField(typ, part)
	for _, word := range identifiers(name) { // {.ID}, {args.ID}, {ID|upper}
		if meant == "" && p.isField(t, word) {
			meant = word
		}
	}
	if meant == "" {
		return ""
	}
	return "; did you mean " + meant + "?"
}

// identifiers are the words of a text that could be names in Go.
func identifiers(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) && r != '_' })
}

// templateField finds the field that name, which begins at the i-th byte of the option, stands for.
func (p *pkg) templateField(t *task, option directive.Option, i int, name string, problems *diag.List) []*types.Var {
	if t.args.endless {
		return nil
	}
	fail := func(format string, args ...any) []*types.Var {
		problems.Errorf(option.At(i), option.Name+" template: "+format, args...)
		return nil
	}
	switch {
	case name == "":
		return fail("{} names no field")
	case t.args.batch:
		return fail("a batch task has many elements, so its templates are constants: leave {%s} out", name)
	case t.args.object == nil && t.unsigned:
		return nil // what is wrong with the args is reported
	case t.args.object == nil:
		return fail("the task has no args: leave {%s} out", name)
	}
	var path []*types.Var
	typ, owner := t.args.object.Type(), t.args.object.Name()
	names := strings.Split(name, ".")
	for depth, part := range names {
		structure, ok := typ.Underlying().(*types.Struct)
		if !ok {
			return fail("%s has no fields, because its type is %s: choose a field of the args, or of a struct in them", strings.Join(names[:depth], "."), types.TypeString(typ, p.qualifier))
		}
		if hasMethod(typ, true, "MarshalJSON", "MarshalText") {
			return fail("%s stores itself by a method of its own, so other programs may not find {%s} in the JSON: choose a field of a plain struct", owner, name)
		}
		object, steps, pointer := types.LookupFieldOrMethod(typ, false, p.types, part)
		field, ok := object.(*types.Var)
		switch {
		case object == nil && steps != nil:
			return fail("several fields of what %s embeds are called %s: write whose, as in {%s.%s}", owner, part, structure.Field(steps[0]).Name(), part)
		case !ok:
			return fail("%s has no field %s%s", owner, cmp.Or(part, name), p.didYouMean(t, typ, part, name))
		case pointer:
			return fail("%s.%s is a field of an embedded pointer, which may be nil: choose another", owner, part)
		case !isStored(structure, steps):
			return fail("field %s.%s is not part of the JSON, so only Go could fill it in: choose one that is stored", owner, part)
		}
		path = append(path, field)
		typ, owner = field.Type(), types.TypeString(field.Type(), p.qualifier)
	}
	if invalid(typ) {
		return nil // reported with the payload
	}
	if textual(typ) {
		return path
	}
	basic, ok := typ.Underlying().(*types.Basic)
	switch {
	case !ok || basic.Info()&(types.IsString|types.IsInteger|types.IsBoolean) == 0 || basic.Kind() == types.UnsafePointer:
		return fail("field %s is of type %s: want a string, an integer, a bool, or a type with MarshalText and without MarshalJSON", name, types.TypeString(typ, p.qualifier))
	case hasMethod(typ, true, "String", "MarshalText", "MarshalJSON"):
		return fail("field %s is of type %s, whose methods write it in another way: add a field of a plain type", name, types.TypeString(typ, p.qualifier))
	}
	return path
}

// textual reports whether encoding/json stores a type as the string that its MarshalText returns. A
// template does, too, so that the text is the same in Go, in TypeScript and in SQL.
func textual(typ types.Type) bool {
	return findCodec(typ, "MarshalText") != nil && !hasMethod(typ, true, "MarshalJSON") && !isPointer(typ)
}

// isPointer reports whether a value of a type can be nil where a method needs one.
func isPointer(typ types.Type) bool {
	switch typ.Underlying().(type) {
	case *types.Pointer, *types.Interface:
		return true
	}
	return false
}

func fieldNames(structure *types.Struct) (names []string) {
	for field := range structure.Fields() {
		names = append(names, field.Name())
	}
	return names
}

// isStored reports whether the field that these steps lead to, through embedded structs, is part
// of the JSON.
func isStored(structure *types.Struct, steps []int) bool {
	for _, i := range steps {
		if structure == nil || !readField(structure, i).stored {
			return false
		}
		structure, _ = structure.Field(i).Type().Underlying().(*types.Struct)
	}
	return true
}

// constant returns what a template has beside its fields, and whether that is all of it.
func (t *template) constant() (string, bool) {
	var text strings.Builder
	constant := true
	for _, part := range t.parts {
		text.WriteString(part.text)
		constant = constant && part.field == nil
	}
	return text.String(), constant
}
