package backfill_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/backfill"
)

type order struct {
	UserID  int64             `json:"user_id"`
	Small   int8              `json:"small"`
	At      time.Time         `json:"at"`
	Items   []item            `json:"items"`
	Labels  map[string]string `json:"labels"`
	ByID    map[int]item      `json:"by_id"`
	Blob    []byte            `json:"blob"`
	Quoted  int               `json:"quoted,string"`
	Pointer *item             `json:"pointer"`
	Range   span              `json:"range"`
	Wrapped wrapped           `json:"wrapped"`
	Pick    pick              `json:"pick"`
	Odd     stubborn          `json:"odd"`
	Any     any               `json:"any"`
	OddName int               `json:"odd name"`
}

type item struct {
	Price float64 `json:"price"`
	Count uint    `json:"count"`
}

// wrapped decodes by itself, and calls encoding/json in turn: offsets in its errors are those of a
// document of its own.
type wrapped struct{ item item }

func (w *wrapped) UnmarshalJSON(data []byte) error { return json.Unmarshal(data, &w.item) }

// span does the same, and does not bear elements that are missing.
type span struct{ from, to item }

func (s *span) UnmarshalJSON(data []byte) error {
	var pair [2]json.RawMessage
	if err := json.Unmarshal(data, &pair); err != nil {
		return err
	}
	return errors.Join(json.Unmarshal(pair[0], &s.from), json.Unmarshal(pair[1], &s.to))
}

// pick takes one of its members, and panics without any.
type pick struct{}

func (*pick) UnmarshalJSON(data []byte) error {
	var members map[string]int
	if err := json.Unmarshal(data, &members); err != nil {
		return err
	}
	switch len(members) {
	case 0:
		panic("empty")
	case 1:
		return nil
	}
	return errors.New("too many")
}

// either has one of two members.
type either struct{}

func (*either) UnmarshalJSON(data []byte) error {
	if strings.Contains(string(data), "a") && strings.Contains(string(data), "b") {
		return errors.New("both")
	}
	return nil
}

// stubborn refuses to be what it is given, and quotes it.
type stubborn struct{}

func (*stubborn) UnmarshalText(text []byte) error {
	if string(text) == "panic" {
		panic(string(text))
	}
	return fmt.Errorf("cannot be %q", text)
}

// anyReason ends a wanted error whose reason depends on the version of encoding/json.
const anyReason = "…"

// A reason names the kind of value and the type that it is for, never the value.
var (
	reason = regexp.MustCompile(`^(` + strings.Join([]string{
		`not valid JSON at byte \d+`,
		`cannot use (string|number|bool|object|array) as [\w.\[\]]+(: want (base64|a time as in RFC 3339))?`,
		`cannot use this number as \w+: it is out of range, or not of that kind`,
		`the value is refused by the type that it is for \(\*\w+\.\w+\)`,
	}, "|") + `)$`)
	values = regexp.MustCompile(`panic:|secret|later|4711|47\.11|-1|1e999`)
)

func TestDecodeErrors(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		args string
		want string // after "decode args of task send_email: "
	}{
		"string for int":             {`{"user_id":"secret"}`, `$.user_id: cannot use string as int64`},
		"after other fields":         {`{"x":{"user_id":"fine"},"y":[1,2],"user_id":true}`, `$.user_id: cannot use bool as int64`},
		"number out of range":        {`{"small":4711}`, `$.small: cannot use this number as int8: it is out of range, or not of that kind`},
		"fraction for int":           {`{"user_id":47.11}`, `$.user_id: cannot use this number as int64: it is out of range, or not of that kind`},
		"element":                    {`{"items":[{"price":1},{"price":2},{"x":[]},{"price":"secret"},{"price":"later"}]}`, `$.items[3].price: cannot use string as float64`},
		"object for array":           {`{"items":{"price":1}}`, `$.items: cannot use object as []backfill_test.item`},
		"array for object":           {`{"items":[[1]]}`, `$.items[0]: cannot use array as backfill_test.item`},
		"map value":                  {`{"labels":{"a":"b","c d":5}}`, `$.labels.*: cannot use number as string`},
		"map key":                    {`{"by_id":{"1":{},"secret":{}}}`, `$.by_id.*: cannot use this number as int: it is out of range, or not of that kind`},
		"pointer":                    {`{"pointer":{"count":-1}}`, `$.pointer.count: cannot use this number as uint: it is out of range, or not of that kind`},
		"time":                       {`{"user_id":1,"at":"secret","items":[]}`, `$.at: cannot use string as time.Time: want a time as in RFC 3339`},
		"number for time":            {`{"at":5}`, `$.at: ` + anyReason},
		"base64":                     {`{"blob":"=secret"}`, `$.blob: cannot use string as []byte: want base64`},
		"quoted number":              {`{"quoted":"secret"}`, `$.quoted: ` + anyReason},
		"own decoding":               {`{"user_id":1,"range":[{"price":1},{"price":"secret"}]}`, `$.range: cannot use string as float64`},
		"own decoding, patient":      {`{"user_id":1,"wrapped":{"price":1,"count":"secret"}}`, `$.wrapped.count: cannot use string as uint`},
		"own decoding, quoting":      {`{"odd":"secret"}`, `$.odd: the value is refused by the type that it is for (*errors.errorString)`},
		"own decoding, all together": {`{"small":1,"pick":{"a":1,"b":2}}`, `$.pick: the value is refused by the type that it is for (*errors.errorString)`},
		"huge number":                {`{"any":{"a":[1e999]}}`, `$.any.*[0]: cannot use this number as float64: it is out of range, or not of that kind`},
		"field in a map":             {`{"by_id":{"1":{"price":1},"-2":{"price":"x"}}}`, `$.by_id.*.price: cannot use string as float64`},
		"odd name":                   {`{"odd name":"x"}`, `$["odd name"]: cannot use string as int`},
		"other case":                 {`{"USER_ID":"x"}`, `$.USER_ID: cannot use string as int64`},
		"own decoding, panicking":    {`{"odd":"panic"}`, `$.odd: the value is refused by the type that it is for (*backfill.PanicError)`},
		"repeated name":              {`{"user_id":1,"user_id":"x"}`, `$.user_id: cannot use string as int64`},
		"root array":                 {`[{"user_id":1}]`, `$: cannot use array as backfill_test.order`},
		"root scalar":                {`"secret"`, `$: cannot use string as backfill_test.order`},
		"not JSON":                   {`{"user_id":1,}`, `$: not valid JSON at byte 14`},
		"nothing":                    {``, `$: not valid JSON at byte 0`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := backfill.DecodeArgs[order]("send_email", []byte(test.args))
			if err == nil {
				t.Fatalf("decoded as %+v", got)
			}
			want := "decode args of task send_email: " + test.want
			said := err.Error()
			path, why, _ := strings.Cut(strings.TrimPrefix(said, "decode args of task send_email: "), ": ")
			if strings.HasSuffix(want, anyReason) {
				said = strings.TrimSuffix(said, why) + anyReason
			}
			if diff := cmp.Diff(want, said); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
			wantDecodeError(t, err, test.args, path, why)
			if !reason.MatchString(why) || values.MatchString(why) {
				t.Errorf("%s: the reason is none of ours, or quotes a value: %s", path, why)
			}
		})
	}
}

// wantDecodeError checks that the fields say what the message says, that the offset is that of a
// value, and that no logger reaches the decoder's error by Unwrap.
func wantDecodeError(t *testing.T, err error, args, path, reason string) {
	t.Helper()
	decoding, ok := errors.AsType[*backfill.DecodeError](fmt.Errorf("wrapped: %w", err))
	if !ok {
		t.Fatalf("%T is no DecodeError", err)
	}
	if decoding.Task != "send_email" || decoding.Path != path || decoding.Reason != reason {
		t.Errorf("fields %+v, want path %s, reason %s", decoding, path, reason)
	}
	if named := strings.Contains(reason, " as "); named != (decoding.Type != nil) || named && !strings.Contains(reason, decoding.Type.String()) &&
		decoding.Type != reflect.TypeFor[[]byte]() {
		t.Errorf("type %v, reason %s", decoding.Type, reason)
	}
	if inner := errors.Unwrap(err); inner != nil {
		t.Errorf("those who log causes show one that may quote a value: %v", inner)
	}
	if !json.Valid([]byte(args)) {
		_, found := errors.AsType[*json.SyntaxError](err)
		if !found {
			t.Error("no syntax error is found")
		}
		return
	}
	var value json.RawMessage
	if err := json.NewDecoder(strings.NewReader(args[decoding.Offset:])).Decode(&value); err != nil {
		t.Errorf("offset %d of %s: %v", decoding.Offset, args, err)
	}
	before := strings.TrimRight(args[:decoding.Offset], " ")
	if root := path == "$"; root != (before == "") || !root && !strings.ContainsAny(before[len(before)-1:], "[,:") {
		t.Errorf("offset %d of %s is not that of %s", decoding.Offset, args, path)
	}
}

// The decoder's own error is found by those who ask for it.
func TestDecodeErrorCause(t *testing.T) {
	t.Parallel()
	_, err := backfill.DecodeArgs[order]("t", []byte(` { "x": [ 1 ],  "items" : [ {}, { "count" : "secret" } ] }`))
	decoding, _ := errors.AsType[*backfill.DecodeError](err)
	if decoding == nil || decoding.Offset != 44 || decoding.Type != reflect.TypeFor[uint]() {
		t.Errorf("%+v", decoding)
	}
	if cause, ok := errors.AsType[*json.UnmarshalTypeError](err); !ok || cause.Type.Kind() != reflect.Uint {
		t.Errorf("cause %v", cause)
	}
	if _, err := backfill.DecodeArgs[sour]("t", []byte(`1`)); !errors.Is(err, errSour) {
		t.Errorf("%v is not the type's own error", err)
	}
	_, err = backfill.DecodeArgs[stubborn]("t", []byte(`"panic"`))
	if panicked, ok := errors.AsType[*backfill.PanicError](err); !ok || !strings.Contains(string(panicked.Stack), "UnmarshalText") {
		t.Errorf("%v has no stack of the type's panic", err)
	}
}

var errSour = errors.New("sour")

type sour struct{}

func (*sour) UnmarshalJSON([]byte) error { return errSour }

func TestDecode(t *testing.T) {
	t.Parallel()
	got, err := backfill.DecodeArgs[order]("t", []byte(`{"user_id":7,"unknown":{"user_id":"x"},"items":null,"at":"2030-01-02T03:04:05Z"}`))
	if err != nil {
		t.Fatal(err)
	}
	if got.UserID != 7 || got.At.Year() != 2030 {
		t.Errorf("got %+v", got)
	}
	if _, err := backfill.DecodeArgs[order]("t", []byte(`null`)); err != nil {
		t.Error(err)
	}
	if got := backfill.DecodePath[either]([]byte(`{"a":1,"b":2}`)); got != "$" {
		t.Errorf("members that exclude each other: %s", got)
	}
}

// A document that is too large to search still gets an answer.
func TestDecodeLargeArgs(t *testing.T) {
	t.Parallel()
	args := []byte(`{"any":"` + strings.Repeat("x", 1<<20) + `","user_id":"x"}`)
	_, err := backfill.DecodeArgs[order]("t", args)
	wantError(t, err, "decode args of task t: $: cannot use string as int64")

	many := []byte("[" + strings.Repeat(`{"price":1.5,"count":7},`, 5_000) + `{"count":-1}]`)
	_, err = backfill.DecodeArgs[[]item]("t", many)
	wantError(t, err, "$[5000].count: cannot use this number as uint")
	_, err = backfill.DecodeArgs[[]bool]("t", []byte("["+strings.Repeat("true,", 50_000)+"1]"))
	wantError(t, err, "$[50000]: cannot use number as bool")
}

// weighed counts what is decoded.
type weighed struct{}

var weight atomic.Int64

func (*weighed) UnmarshalJSON(data []byte) error {
	weight.Add(int64(len(data)))
	if strings.Contains(string(data), "x") {
		return errSour
	}
	return nil
}

// A search ends, whatever the document is made of, with the path as far as it was found.
func TestDecodeSearchIsBounded(t *testing.T) {
	t.Parallel()
	args := strings.Repeat("[", 60) + strings.Repeat("1,", 500_000) + `"x"` + strings.Repeat("]", 60)
	_, err := backfill.DecodeArgs[weighed]("t", []byte(args))
	wantError(t, err, "decode args of task t: $[0][0][0]")
	if got := weight.Load(); got < 10<<20 || got > 26<<20 {
		t.Errorf("%d bytes were decoded", got)
	}
}

var decodeSeeds = []string{
	`{"user_id":"x"}`, `{"items":[{"price":1},{"price":"x"}]}`, `{"range":[1,{"price":{}}]}`, `{"odd":"panic"}`, `{"at":"x"}`, `[]`,
	`{"by_id":{"x":{"price":1}}}`, `{"labels":{"\ud800\u0000":1}}`, `{"any":[1e999]}`, `{"":{"":[]}}`, `{"quoted":"null"}`, "{", "\xff",
	`{"blob":"!","user_id":1e5}`, `{"pointer":{"pointer":[]}}`, `{"USER_ID":[]}`, `{"labels":[],"labels":{"a":2}}`,
}

// The path of a value that does not decode leads to a value of the document, and that value alone
// keeps it from decoding.
func FuzzDecodePath(f *testing.F) {
	for _, seed := range decodeSeeds {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, document []byte) {
		path := backfill.DecodePath[order](document)
		if path == "" || !json.Valid(document) || strings.Contains(path, "…") {
			return
		}
		if !strings.HasPrefix(path, "$") {
			t.Fatalf("path %q of %s", path, document)
		}
		if err := follow(document, path[1:]); err != nil {
			t.Fatalf("path %q of %s: %v", path, document, err)
		}
	})
}

// follow walks a path through a document. Of members with the same name any will do.
func follow(value []byte, path string) error {
	if path == "" {
		return nil
	}
	if path[0] == '[' && path[1] != '"' {
		index, rest, _ := strings.Cut(path[1:], "]")
		i, err := strconv.Atoi(index)
		if err != nil {
			return err
		}
		var elements []json.RawMessage
		if err := json.Unmarshal(value, &elements); err != nil {
			return err
		}
		if i >= len(elements) {
			return fmt.Errorf("element %d of %d", i, len(elements))
		}
		return follow(elements[i], rest)
	}
	var name, rest string
	if path[0] == '[' {
		quoted, err := strconv.QuotedPrefix(path[1:])
		if err != nil {
			return err
		}
		name, _ = strconv.Unquote(quoted)
		rest = path[len(quoted)+2:]
	} else {
		end := len(path)
		if i := strings.IndexAny(path[1:], ".["); i >= 0 {
			end = i + 1
		}
		name, rest = path[1:end], path[end:]
	}
	decoder := json.NewDecoder(strings.NewReader(string(value)))
	if _, err := decoder.Token(); err != nil {
		return err
	}
	failures := []error{fmt.Errorf("no member %q", name)}
	for decoder.More() {
		key, err := decoder.Token()
		if err != nil {
			return err
		}
		var member json.RawMessage
		if err := decoder.Decode(&member); err != nil {
			return err
		}
		if key == name || name == "*" {
			err := follow(member, rest)
			if err == nil {
				return nil
			}
			failures = append(failures, err)
		}
	}
	return errors.Join(failures...)
}

// Whatever a payload holds, its error does not quote it.
func FuzzDecodeErrorsQuoteNothing(f *testing.F) {
	for _, seed := range decodeSeeds {
		f.Add([]byte(seed))
	}
	const secret = "s3cr3t-d4t4"
	number := json.Number("918273645918273645918273645")
	f.Fuzz(func(t *testing.T, document []byte) {
		var value any
		if json.Unmarshal(document, &value) != nil {
			return
		}
		plant(value, secret, number)
		planted, err := json.Marshal(value)
		if err != nil {
			return
		}
		_, err = backfill.DecodeArgs[order]("t", planted)
		if err != nil && (strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), number.String())) {
			t.Fatalf("error of %s: %v", planted, err)
		}
	})
}

var fieldsOfOrder = map[string]bool{
	"user_id": true, "at": true, "items": true, "labels": true, "by_id": true, "blob": true, "quoted": true, "pointer": true, "range": true,
	"wrapped": true, "pick": true, "odd": true, "any": true, "price": true, "count": true,
}

// plant replaces the strings and numbers of a document, and its names that are no fields of order.
func plant(value any, text string, number json.Number) {
	replace := func(v any) any {
		switch v.(type) {
		case string:
			return text
		case float64:
			return number
		}
		plant(v, text, number)
		return v
	}
	switch value := value.(type) {
	case map[string]any:
		for name, v := range maps.Clone(value) {
			if !fieldsOfOrder[name] {
				delete(value, name)
				name = text + name
			}
			value[name] = replace(v)
		}
	case []any:
		for i, v := range value {
			value[i] = replace(v)
		}
	}
}

// The search takes the first culprit of several, and its own error.
func TestDecodeReportsTheFirstCulprit(t *testing.T) {
	t.Parallel()
	fields := []string{`"user_id":"x"`, `"at":"x"`, `"items":5`, `"odd":"x"`, `"blob":"!"`}
	for range fields {
		fields = append(fields[1:], fields[0])
		document := "{" + strings.Join(fields, ",") + "}"
		want, _, _ := strings.Cut(strings.Trim(fields[0], `"`), `"`)
		if got := backfill.DecodePath[order]([]byte(document)); got != "$."+want {
			t.Errorf("%s of %s", got, document)
		}
	}
	if !slices.Contains(fields, `"odd":"x"`) {
		t.Error("fields got lost")
	}
}
