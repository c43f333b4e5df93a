package backfill

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"runtime/debug"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
)

// decodeArgs decodes the args of a job. Unknown fields are ignored.
func decodeArgs[T any](job *Job) (T, error) {
	var args T
	err := tryDecode(job.Args, &args)
	if err == nil {
		return args, nil
	}
	var none T
	return none, newDecodeError(job, err, reflect.TypeFor[T](), func(document []byte) error {
		return tryDecode(document, new(T))
	})
}

// tryDecode turns a panic of a type that decodes itself into an error.
func tryDecode(document []byte, args any) (err error) {
	defer func() {
		if value := recover(); value != nil {
			err = &PanicError{Value: value, Stack: debug.Stack()}
		}
	}()
	return json.Unmarshal(document, args)
}

// DecodeError says where the args of a job do not decode, and why. The job fails and is retried as
// after any error: a later version of the program may decode them. Find it with errors.As, in
// middleware or in the Err of an [Event].
//
// No field holds a value of the args or a key of a map, and neither does the message, because it
// goes to the log and the database. The error of the decoder, or a *[PanicError] of a type that
// decodes itself, may quote one, so DecodeError has no Unwrap that would show its text; errors.Is
// and errors.As find it all the same.
type DecodeError struct {
	_ [0]func() // fields may be added

	Task   string       // the name that the job was enqueued under
	Path   string       // of the value, as $.items[3].price; $: the whole document, *: a key of a map
	Type   reflect.Type // that the value is for; nil if the type decodes itself, or the JSON is invalid
	Offset int64        // of the value in Job.Args, in bytes from 0; where invalid JSON is noticed
	Reason string       // why it does not decode, without the value

	cause error
}

// Error returns "decode args of task", and the task, the path and the reason.
func (e *DecodeError) Error() string {
	if e == nil {
		return "decode args"
	}
	return "decode args of task " + e.Task + ": " + e.Path + ": " + e.Reason
}

// Is reports whether the decoder's error is target.
func (e *DecodeError) Is(target error) bool { return e != nil && errors.Is(e.cause, target) }

// As finds the decoder's error, such as a *json.UnmarshalTypeError. Its message may quote a value.
func (e *DecodeError) As(target any) bool {
	return e != nil && e.cause != nil && errors.As(e.cause, target)
}

func newDecodeError(job *Job, err error, target reflect.Type, decode func([]byte) error) error {
	e := &DecodeError{Task: job.Task, Path: "$", cause: err}
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) && !json.Valid(job.Args) {
		e.Offset = syntax.Offset
		e.Reason = fmt.Sprintf("not valid JSON at byte %d", syntax.Offset)
		return e
	}
	if len(job.Args) <= maxLocated {
		l := locator{decode: decode, fields: map[string]bool{"_cron": true}, left: maxSearched}
		l.addFields(target, map[reflect.Type]bool{})
		e.Path, e.Offset, e.cause = l.locate(job.Args, err)
	}
	e.Type, e.Reason = describe(e.cause)
	return e
}

// describe says what type a value is for, nil if that is not known, and what is wrong with it. It
// does not use the decoder's own message, which may quote the value.
func describe(err error) (reflect.Type, string) {
	var wrongType *json.UnmarshalTypeError
	var notTime *time.ParseError
	var notBase64 base64.CorruptInputError
	switch { // Since Go 1.27 the error of the type may wrap that of base64 or time.
	case errors.As(err, &notTime):
		return reflect.TypeFor[time.Time](), "cannot use string as time.Time: want a time as in RFC 3339"
	case errors.As(err, &notBase64):
		return reflect.TypeFor[[]byte](), "cannot use string as []byte: want base64"
	case errors.As(err, &wrongType) && wrongType.Type != nil:
		have, literal, _ := strings.Cut(wrongType.Value, " ")
		if literal != "" {
			return wrongType.Type, fmt.Sprintf("cannot use this %s as %v: it is out of range, or not of that kind", have, wrongType.Type)
		}
		return wrongType.Type, fmt.Sprintf("cannot use %s as %v", have, wrongType.Type)
	}
	return nil, fmt.Sprintf("the value is refused by the type that it is for (%T)", err)
}

const (
	maxLocated  = 1 << 20  // bytes: a search decodes the document a few dozen times
	maxSearched = 24 << 20 // bytes that one search decodes: an array of maxLocated takes up to 20 MiB
	maxDepth    = 64
)

// locator finds what does not decode.
type locator struct {
	decode func([]byte) error
	fields map[string]bool // all names in lower case that the type's fields have, at any depth
	left   int             // bytes that the search may decode
}

// addFields notes the fields of a type and of all types in it. Other names in a document are keys
// of maps, or are read by a type that decodes itself: data of the caller's, which no path shows.
func (l *locator) addFields(t reflect.Type, seen map[reflect.Type]bool) {
	if seen[t] {
		return
	}
	seen[t] = true
	if slices.Contains([]reflect.Kind{reflect.Pointer, reflect.Slice, reflect.Array, reflect.Map}, t.Kind()) {
		l.addFields(t.Elem(), seen)
	}
	if t.Kind() != reflect.Struct {
		return
	}
	for field := range t.Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		l.fields[strings.ToLower(cmp.Or(name, field.Name))] = true
		l.addFields(field.Type, seen)
	}
}

// locate finds the value that does not decode, and returns its JSON path, its offset, and the
// error for this value alone. encoding/json reports no offset, or a wrong one, if a type decodes
// itself, as time.Time does. So locate searches: in each object or array, the shortest prefix of
// members that fails ends with the value.
func (l *locator) locate(document []byte, err error) (string, int64, error) {
	value := bytes.TrimLeft(document, " \t\r\n")
	offset := int64(len(document) - len(value))
	path := []byte("$")
	var before, after []byte // the document around value: containers with one member each
	try := func(members []member, opening, closing byte) error {
		document := slices.Concat(before, []byte{opening}, joinMembers(members), []byte{closing}, after)
		if l.left -= len(document); l.left < 0 {
			return err
		}
		return l.decode(document)
	}
	for range maxDepth {
		l.left -= len(value)
		members, opening, closing := splitMembers(value)
		if len(members) == 0 || try(nil, opening, closing) != nil {
			break // a scalar, or a container that fails even if it is empty
		}
		n := sort.Search(len(members), func(i int) bool { return try(members[:i+1], opening, closing) != nil })
		if n == len(members) {
			break
		}
		culprit := members[n : n+1]
		alone := try(culprit, opening, closing)
		if alone == nil || l.left < 0 {
			break // it fails only together with the members before it, or takes too long to find
		}
		err = alone
		path = append(path, l.step(culprit[0], n)...)
		before = slices.Concat(before, []byte{opening}, culprit[0].key)
		after = slices.Concat([]byte{closing}, after)
		value = culprit[0].value
		offset += culprit[0].offset
	}
	return string(path), offset, err
}

// member is an element of an array or of an object.
type member struct {
	name   string
	key    []byte // with its colon; empty in an array
	value  []byte
	offset int64 // of value in its container
}

// step is a member's part of a path: .name, ["odd name"], .* or [3].
func (l *locator) step(m member, index int) string {
	switch {
	case m.key == nil:
		return "[" + strconv.Itoa(index) + "]"
	case !l.fields[strings.ToLower(m.name)]:
		return ".*"
	case strings.ContainsAny(m.name, `.[]*" `):
		return "[" + strconv.Quote(m.name) + "]"
	}
	return "." + m.name
}

// splitMembers returns the members of an object or array, and nothing for other values.
func splitMembers(value []byte) (members []member, opening, closing byte) {
	decoder := json.NewDecoder(bytes.NewReader(value))
	start, err := decoder.Token()
	delim, ok := start.(json.Delim)
	if err != nil || !ok {
		return nil, 0, 0
	}
	for decoder.More() {
		var m member
		if delim == '{' {
			token, err := decoder.Token()
			name, ok := token.(string)
			if err != nil || !ok {
				return nil, 0, 0
			}
			quoted, _ := json.Marshal(name) // cannot fail for a string
			m.name, m.key = name, slices.Concat(quoted, []byte{':'})
		}
		var raw json.RawMessage
		if decoder.Decode(&raw) != nil {
			return nil, 0, 0
		}
		m.value, m.offset = raw, decoder.InputOffset()-int64(len(raw))
		members = append(members, m)
	}
	return members, byte(delim), byte(delim) + 2 // in ASCII: {} and []
}

func joinMembers(members []member) []byte {
	var joined []byte
	for i, m := range members {
		if i > 0 {
			joined = append(joined, ',')
		}
		joined = append(append(joined, m.key...), m.value...)
	}
	return joined
}
