package generate

import (
	"go/types"
	"strings"

	"github.com/backfillhq/go/cmd/backfillgen/internal/diag"
	"github.com/backfillhq/go/cmd/backfillgen/internal/directive"
)

// template is the text of a queue or a key: constants and fields of the args, as in user:{UserID}. A brace is written twice.
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
			ok = ok && fields != nil
			flush()
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
		return nil // nothing is known of the args
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
		object, steps, pointer := types.LookupFieldOrMethod(typ, false, p.types, part)
		field, ok := object.(*types.Var)
		switch {
		case object == nil && steps != nil:
			return fail("several fields of what %s embeds are called %s: write whose, as in {%s.%s}", owner, part, structure.Field(steps[0]).Name(), part)
		case !ok:
			return fail("%s has no field %s%s", owner, part, diag.DidYouMean(part, fieldNames(structure)))
		case pointer:
			return fail("%s.%s is a field of an embedded pointer, which may be nil: choose another", owner, part)
		case !isStored(structure, steps):
			return fail("field %s.%s is not part of the JSON, so only Go could fill it in: choose one that is stored", owner, part)
		}
		path = append(path, field)
		typ, owner = field.Type(), types.TypeString(field.Type(), p.qualifier)
	}
	basic, ok := typ.Underlying().(*types.Basic)
	switch {
	case invalid(typ):
		return nil // reported with the payload
	case !ok || basic.Info()&(types.IsString|types.IsInteger|types.IsBoolean) == 0 || basic.Kind() == types.UnsafePointer:
		return fail("field %s is of type %s: want a string, an integer or a bool", name, types.TypeString(typ, p.qualifier))
	case hasMethod(typ, true, "String", "MarshalText", "MarshalJSON"):
		return fail("field %s is of type %s, whose methods write it in another way: add a field of a plain type", name, types.TypeString(typ, p.qualifier))
	}
	return path
}

func fieldNames(structure *types.Struct) (names []string) {
	for field := range structure.Fields() {
		names = append(names, field.Name())
	}
	return names
}

// isStored reports whether the field that these steps lead to, through embedded structs, is part of the JSON.
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
