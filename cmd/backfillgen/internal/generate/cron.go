package generate

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/token"
	"go/types"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/backfillhq/go/cmd/backfillgen/internal/diag"
	"github.com/backfillhq/go/internal/crontab"
)

// cronLine is what stands behind the verb of a //backfill:cron line: a crontab line without the task.
type cronLine struct {
	text string
	pos  token.Position
}

// readCron checks the crontab lines of a task, and that their payloads fit its args.
func (p *pkg) readCron(t *task, problems *diag.List) {
	for _, line := range t.line.cron {
		fail := func(offset int, format string, args ...any) {
			pos := line.pos
			pos.Column += offset
			problems.Errorf(pos, format, args...)
		}
		entry, found := crontab.ParseSchedule(line.text, t.name, crontab.Position{Line: 1, Column: 1})
		for _, problem := range found {
			fail(problem.Pos.Column-1, "%s", problem.Message)
		}
		payload := strings.IndexByte(line.text, '{')
		switch {
		case len(found) > 0:
			continue
		case p.scheduled[entry.Identifier]:
			fail(1, "another cron line has the identifier %q: give this one another, such as ?id=%s_2", entry.Identifier, entry.Identifier)
		case t.args.batch:
			fail(1, "task %s takes a slice, and the payload of a cron job is an object: schedule a task that enqueues this one", t.describe())
		case entry.Payload == nil:
		case t.args.object == nil:
			fail(payload, "task %s has no args, so nobody would read the payload: leave it out", t.describe())
		default:
			if problem := p.unfit(entry.Payload, t.args.object); problem != "" {
				fail(payload, "payload of task %s: %s", t.describe(), problem)
			}
		}
		p.scheduled[entry.Identifier] = true
	}
}

// unfit says why a payload does not decode into args, or into less than it holds.
func (p *pkg) unfit(payload []byte, args *types.TypeName) string {
	decoder := json.NewDecoder(bytes.NewReader(payload))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		return err.Error()
	}
	return p.unfitValue(value, args.Type(), args.Name())
}

func (p *pkg) unfitValue(value any, typ types.Type, path string) string {
	if value == nil || hasMethod(typ, true, "UnmarshalJSON", "UnmarshalText") {
		return "" // null changes nothing, and methods are the type's own affair
	}
	mismatch := fmt.Sprintf("%s is a %s, which %s does not fit", path, types.TypeString(typ, p.qualifier), jsonText(value))
	switch u := typ.Underlying().(type) {
	case *types.Pointer:
		return p.unfitValue(value, u.Elem(), path)
	case *types.Interface:
		return ""
	case *types.Basic:
		if fitsBasic(value, u) {
			return ""
		}
	case *types.Slice:
		if _, ok := value.(string); ok && types.Identical(u.Elem().Underlying(), types.Typ[types.Byte]) {
			return ""
		}
		return p.unfitElements(value, u.Elem(), path, mismatch)
	case *types.Array:
		return p.unfitElements(value, u.Elem(), path, mismatch)
	case *types.Map:
		if object, ok := value.(map[string]any); ok {
			for _, key := range slices.Sorted(maps.Keys(object)) {
				if problem := p.unfitValue(object[key], u.Elem(), path+"["+strconv.Quote(key)+"]"); problem != "" {
					return problem
				}
			}
			return ""
		}
	case *types.Struct:
		if object, ok := value.(map[string]any); ok {
			return p.unfitFields(object, u, path)
		}
	}
	return mismatch
}

func (p *pkg) unfitElements(value any, element types.Type, path, mismatch string) string {
	elements, ok := value.([]any)
	if !ok {
		return mismatch
	}
	for i, value := range elements {
		if problem := p.unfitValue(value, element, fmt.Sprintf("%s[%d]", path, i)); problem != "" {
			return problem
		}
	}
	return ""
}

// unfitFields reports names that the struct does not have, too: whoever wrote them meant something.
func (p *pkg) unfitFields(object map[string]any, structure *types.Struct, path string) string {
	var fields []jsonName
	for i := range structure.NumFields() {
		if field := readField(structure, i); field.stored {
			fields = appendNames(fields, jsonName{jsonField: field, path: field.Name()}, nil)
		}
	}
	var names []string
	for _, field := range fields {
		names = append(names, field.name)
	}
	for _, name := range slices.Sorted(maps.Keys(object)) {
		i := slices.Index(names, name)
		if i < 0 {
			return fmt.Sprintf("%s has no field that is stored as %q%s", path, name, diag.DidYouMean(name, names))
		}
		if problem := p.unfitValue(object[name], fields[i].Type(), path+"."+fields[i].Name()); problem != "" {
			return problem
		}
	}
	return ""
}

func fitsBasic(value any, basic *types.Basic) bool {
	switch value := value.(type) {
	case string:
		return basic.Info()&types.IsString != 0
	case bool:
		return basic.Info()&types.IsBoolean != 0
	case json.Number:
		bits := int(types.SizesFor("gc", "amd64").Sizeof(basic)) * 8
		var err error
		switch info := basic.Info(); {
		case info&types.IsUnsigned != 0:
			_, err = strconv.ParseUint(value.String(), 10, bits)
		case info&types.IsInteger != 0:
			_, err = strconv.ParseInt(value.String(), 10, bits)
		default:
			return info&types.IsFloat != 0
		}
		return err == nil
	}
	return false
}

// jsonText is a value as it stands in JSON, cut to what a message can hold.
func jsonText(value any) string {
	text, err := json.Marshal(value)
	if err != nil || len(text) > 40 {
		return "what is given"
	}
	return string(text)
}
