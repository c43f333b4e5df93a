package generate

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"go/token"
	"go/types"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/backfillhq/go/cmd/backfillgen/internal/diag"
	"github.com/backfillhq/go/internal/crontab"
)

// cronLine is what stands behind the verb of a //backfill:cron line: a crontab line without the
// task.
type cronLine struct {
	text string
	pos  token.Position
}

// tick is what a cron line that makes sense claims.
type tick struct {
	identifier, key string
	pos             token.Position
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
		case t.args.object != nil && p.unfit([]byte(`{"_cron": {"ts": "2000-01-01T00:00:00.000Z", "backfilled": false}}`), t.args.object) != "":
			fail(1, "%s cannot hold the key _cron, an object that the payload of each cron job has: schedule a task with other args", t.args.object.Name())
		case entry.KeyMode != "" && entry.Key == "" && t.key == nil:
			fail(strings.Index(line.text, "jobKeyMode"), "jobKeyMode without a key has no meaning: add ?jobKey=, or key= to the task")
		case entry.Key != "" && checkConstant(entry.Key, maxKeyLength) != nil:
			fail(strings.Index(line.text, "jobKey"), "jobKey: %v", checkConstant(entry.Key, maxKeyLength))
		case entry.Payload == nil && entry.Key == "" && t.key.emptyByDefault():
			fail(1, "the key of task %s would be empty: add a payload with the fields of its template, or ?jobKey=", t.describe())
		case entry.Payload == nil:
		case entry.Repeated != "":
			fail(payload, "payload of task %s: the key %q is there twice: leave one out", t.describe(), entry.Repeated)
		case t.args.object == nil:
			fail(payload, "task %s has no args, so nobody would read the payload: leave it out", t.describe())
		default:
			if problem := p.unfit(entry.Payload, t.args.object); problem != "" {
				fail(payload, "payload of task %s: %s", t.describe(), problem)
			}
		}
		p.scheduled[entry.Identifier] = true
		pos := line.pos
		pos.Column++
		t.ticks = append(t.ticks, tick{entry.Identifier, entry.Key, pos})
	}
}

// emptyByDefault reports whether a template has no text if no field is given a value.
func (t *template) emptyByDefault() bool {
	return t != nil && !slices.ContainsFunc(t.parts, func(part part) bool {
		if part.field == nil {
			return true
		}
		basic, ok := part.field[len(part.field)-1].Type().Underlying().(*types.Basic)
		return !ok || basic.Info()&types.IsString == 0 || textual(part.field[len(part.field)-1].Type())
	})
}

// unfit says why a payload does not decode into args, or into less than it holds.
func (p *pkg) unfit(payload []byte, args *types.TypeName) string {
	decoder := json.NewDecoder(bytes.NewReader(payload))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		return err.Error()
	}
	return p.unfitValue(value, args.Type(), args.Name(), false)
}

// unfitValue does it for a value inside; quoted if its field's tag has the option string.
func (p *pkg) unfitValue(value any, typ types.Type, path string, quoted bool) string {
	if value == nil {
		return "" // null changes nothing
	}
	if types.TypeString(types.Unalias(typ), nil) == "time.Time" {
		return unfitTime(value, path)
	}
	if hasMethod(typ, true, "UnmarshalJSON", "UnmarshalText") {
		return "" // methods are the type's own affair
	}
	mismatch := fmt.Sprintf("%s is a %s, which %s does not fit", path, types.TypeString(typ, p.qualifier), jsonText(value))
	switch u := typ.Underlying().(type) {
	case *types.Pointer:
		return p.unfitValue(value, u.Elem(), path, quoted)
	case *types.Interface:
		return ""
	case *types.Basic:
		if fitsBasic(value, u, typ, quoted) {
			return ""
		}
		if quoted {
			return mismatch + `: its tag has "string", so it is a string that holds JSON`
		}
	case *types.Slice:
		if text, ok := value.(string); ok && types.Identical(u.Elem().Underlying(), types.Typ[types.Byte]) {
			if _, err := base64.StdEncoding.DecodeString(text); err != nil {
				return mismatch + ": want base64"
			}
			return ""
		}
		return p.unfitElements(value, u.Elem(), path, mismatch)
	case *types.Array:
		if elements, ok := value.([]any); ok && int64(len(elements)) > u.Len() {
			return fmt.Sprintf("%s has %d elements, of which %s holds %d: the others would be lost", path, len(elements), types.TypeString(typ, p.qualifier), u.Len())
		}
		return p.unfitElements(value, u.Elem(), path, mismatch)
	case *types.Map:
		if object, ok := value.(map[string]any); ok {
			for _, key := range slices.Sorted(maps.Keys(object)) {
				basic, ok := u.Key().Underlying().(*types.Basic)
				if ok && basic.Info()&types.IsInteger != 0 && !hasMethod(u.Key(), true, "UnmarshalText") && !fitsBasic(json.Number(key), basic, u.Key(), false) {
					return fmt.Sprintf("the keys of %s are of type %s, which %q does not fit", path, types.TypeString(u.Key(), p.qualifier), key)
				}
				if problem := p.unfitValue(object[key], u.Elem(), path+"["+strconv.Quote(key)+"]", false); problem != "" {
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

// unfitTime asks package time, whose type it is.
func unfitTime(value any, path string) string {
	text, err := json.Marshal(value)
	if err == nil {
		err = new(time.Time).UnmarshalJSON(text)
	}
	if err != nil {
		return fmt.Sprintf("%s is a time.Time, which %s does not fit: write it like 2030-01-31T08:00:00Z", path, jsonText(value))
	}
	return ""
}

func (p *pkg) unfitElements(value any, element types.Type, path, mismatch string) string {
	elements, ok := value.([]any)
	if !ok {
		return mismatch
	}
	for i, value := range elements {
		if problem := p.unfitValue(value, element, fmt.Sprintf("%s[%d]", path, i), false); problem != "" {
			return problem
		}
	}
	return ""
}

// unfitFields reports names that the struct does not have, too: whoever wrote them meant something.
func (p *pkg) unfitFields(object map[string]any, structure *types.Struct, path string) string {
	fields, _ := flatten(structure, structure)
	var names []string
	for _, field := range fields {
		names = append(names, field.name)
	}
	for _, name := range slices.Sorted(maps.Keys(object)) {
		i := slices.Index(names, name)
		if i < 0 && name == "_cron" { // is the runtime's, and stored in a field of another case, too
			i = slices.IndexFunc(names, func(field string) bool { return strings.EqualFold(field, name) })
		}
		switch {
		case i < 0 && name == "_cron":
			continue
		case i < 0:
			return fmt.Sprintf("%s has no field that is stored as %q%s", path, name, diag.DidYouMean(name, names))
		}
		quoted := fields[i].option("string")
		if problem := p.unfitValue(object[name], fields[i].Type(), path+"."+fields[i].Name(), quoted); problem != "" {
			return problem
		}
	}
	return ""
}

// basics has a value of each basic type that encoding/json decodes into.
var basics = map[types.BasicKind]any{
	types.Bool: false, types.String: "", types.Float32: float32(0), types.Float64: float64(0), types.Uintptr: uintptr(0),
	types.Int: 0, types.Int8: int8(0), types.Int16: int16(0), types.Int32: int32(0), types.Int64: int64(0),
	types.Uint: uint(0), types.Uint8: uint8(0), types.Uint16: uint16(0), types.Uint32: uint32(0), types.Uint64: uint64(0),
}

// fitsBasic asks encoding/json whether it decodes a value into a field of a basic type.
func fitsBasic(value any, basic *types.Basic, typ types.Type, quoted bool) bool {
	zero := basics[basic.Kind()]
	if types.TypeString(types.Unalias(typ), nil) == "encoding/json.Number" {
		zero = json.Number("")
	}
	if zero == nil {
		return false
	}
	field := reflect.StructField{Name: "V", Type: reflect.TypeOf(zero)}
	if quoted {
		field.Tag = `json:",string"`
	}
	text, err := json.Marshal(map[string]any{"V": value})
	return err == nil && json.Unmarshal(text, reflect.New(reflect.StructOf([]reflect.StructField{field})).Interface()) == nil
}

// jsonText is a value as it stands in JSON, cut to what a message can hold.
func jsonText(value any) string {
	text, err := json.Marshal(value)
	if err != nil || len(text) > 40 {
		return "what is given"
	}
	return string(text)
}
