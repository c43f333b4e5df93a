package admin

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// input is what a request of a route says, in the fields of a struct, by their tags: path, query,
// header, or body, which is JSON. The json names of a struct with the tag query:"*" are queries.
// What is not known is refused.
type input struct {
	of     reflect.Type
	fields []inputField
	body   *inputField
}

type inputField struct {
	in, name string
	index    []int
	of       reflect.Type
}

func newInput(of reflect.Type) *input {
	in := &input{of: of}
	in.add(of, nil, false)
	return in
}

// add adds the fields of a struct. Every: all of them are queries, by their json names.
func (in *input) add(of reflect.Type, index []int, every bool) {
	for i := range of.NumField() {
		f := of.Field(i)
		if !f.IsExported() && !f.Anonymous {
			continue
		}
		field := inputField{index: append(slices.Clone(index), i), of: f.Type}
		switch name, _ := jsonName(f); {
		case every:
			field.in, field.name = "query", name
		case f.Tag.Get("query") == "*":
			in.add(f.Type, field.index, true)
			continue
		case f.Anonymous:
			in.add(f.Type, field.index, false)
			continue
		case f.Tag.Get("body") != "":
			field.in = "body"
			in.body = &field
			continue
		default:
			for _, place := range []string{"path", "query", "header"} {
				if name := f.Tag.Get(place); name != "" {
					field.in, field.name = place, name
				}
			}
		}
		in.fields = append(in.fields, field)
	}
}

// jsonName returns the name of a field in JSON, and whether it can be left out.
func jsonName(f reflect.StructField) (name string, optional bool) {
	name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name, options != ""
}

// read reads a request, and reports everything that is wrong with it.
func (in *input) read(h *handler, w http.ResponseWriter, r *http.Request) (any, error) {
	value := reflect.New(in.of)
	var problems []error
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		problems = append(problems, fmt.Errorf("the query: %w", err))
	}
	_, pattern := h.mux.Handler(r) // ServeHTTP of the mux would set the values of the path
	path := pathValues(pattern, r)
	for _, field := range in.fields {
		var texts []string
		switch field.in {
		case "path":
			texts = []string{path[field.name]}
		case "header":
			texts = r.Header.Values(field.name)
		case "query":
			texts = query[field.name]
			delete(query, field.name)
		}
		if texts != nil {
			problems = append(problems, named(field.name, set(value.Elem().FieldByIndex(field.index), texts)))
		}
	}
	for name := range query {
		problems = append(problems, unknownQuery(name))
	}
	if in.body != nil {
		data, err := readBody(w, r)
		if err != nil {
			return nil, err
		}
		problems = append(problems, decodeBody(data, value.Elem().FieldByIndex(in.body.index).Addr().Interface()))
	} else if r.ContentLength != 0 {
		problems = append(problems, errors.New("the request has a body, and what it says belongs into the query"))
	}
	if err := errors.Join(problems...); err != nil {
		return nil, &apiError{status: http.StatusUnprocessableEntity, code: "INVALID_REQUEST", text: strings.ReplaceAll(err.Error(), "\n", "; ")}
	}
	return value.Interface(), nil
}

func unknownQuery(name string) error {
	if name == "offset" {
		return errors.New("offset is not known: pass after, with next of the page before, which jobs that come and go do not move")
	}
	return fmt.Errorf("the query has %s, which is not known: openapi.json lists what is", quoteShort(name))
}

// pathValues returns the values of a path. They may have slashes in them, which are escaped.
func pathValues(pattern string, r *http.Request) map[string]string {
	_, path, _ := strings.Cut(pattern, " ")
	parts, values := strings.Split(r.URL.EscapedPath(), "/"), map[string]string{}
	for i, part := range strings.Split(path, "/") {
		if name, wild := strings.CutPrefix(part, "{"); wild && i < len(parts) {
			if text, err := url.PathUnescape(parts[i]); err == nil {
				values[strings.TrimSuffix(name, "}")] = text
			}
		}
	}
	return values
}

// set sets a field to what a request says. A list has each value once more.
func set(field reflect.Value, texts []string) error {
	if field.Kind() == reflect.Slice && field.Type() != reflect.TypeFor[json.RawMessage]() {
		list := reflect.MakeSlice(field.Type(), len(texts), len(texts))
		for i, text := range texts {
			if err := setOne(list.Index(i), text); err != nil {
				return err
			}
		}
		field.Set(list)
		return nil
	}
	if len(texts) > 1 {
		return errors.New("it is there twice")
	}
	return setOne(field, texts[0])
}

func setOne(field reflect.Value, text string) error {
	if field.Kind() == reflect.Pointer {
		field.Set(reflect.New(field.Type().Elem()))
		return setOne(field.Elem(), text)
	}
	if text == "" {
		return errors.New("it is empty: leave it out for any")
	}
	if at, ok := reflect.TypeAssert[encoding.TextUnmarshaler](field.Addr()); ok {
		if err := at.UnmarshalText([]byte(text)); err != nil {
			return fmt.Errorf("%s is no time: want one such as 2026-11-29T14:00:00Z", quoteShort(text))
		}
		return nil
	}
	switch field.Kind() {
	case reflect.String:
		field.SetString(text)
	case reflect.Bool:
		if text != "true" && text != "false" {
			return fmt.Errorf("%s is neither true nor false", quoteShort(text))
		}
		field.SetBool(text == "true")
	case reflect.Int, reflect.Int64:
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return fmt.Errorf("%s is no number", quoteShort(text))
		}
		field.SetInt(n)
	default: // json.RawMessage
		field.SetBytes([]byte(text))
	}
	return nil
}

// readBody reads the body of a request, which is JSON.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	kind, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || kind != "application/json" || params["charset"] != "" && !strings.EqualFold(params["charset"], "utf-8") || r.Header.Get("Content-Encoding") != "" {
		return nil, &apiError{
			status: http.StatusUnsupportedMediaType, code: "UNSUPPORTED_MEDIA_TYPE",
			text: fmt.Sprintf("the Content-Type is %q: want application/json, also for an empty body, and no Content-Encoding", shorten(r.Header.Get("Content-Type"))),
		}
	}
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		return nil, &apiError{
			status: http.StatusRequestEntityTooLarge, code: "TOO_LARGE", text: fmt.Sprintf("the body has more than %d bytes: larger payloads are for programs, which enqueue them themselves", maxBody),
		}
	}
	if err != nil {
		return nil, &apiError{status: http.StatusRequestTimeout, code: "BODY_CUT", text: "the body has not come as a whole within 30 seconds"}
	}
	return data, nil
}

// decodeBody reads JSON strictly. Values of payloads stay as they are written.
func decodeBody(data []byte, into any) error {
	if len(bytes.TrimSpace(data)) == 0 {
		return nil // the same as {}
	}
	if err := checkNames(data); err != nil {
		return fmt.Errorf("the body: %w", err)
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(into)
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		err = fmt.Errorf("%s: a %s cannot be there", wrong.Field, wrong.Value)
	}
	if _, ok := errors.AsType[*time.ParseError](err); ok {
		err = errors.New("a time is none: want one such as 2026-11-29T14:00:00Z")
	}
	if err != nil {
		return fmt.Errorf("the body: %w", err)
	}
	return nil
}

// checkNames refuses what is not one object, and an object that has a field twice, or one whose name is
// not written as it is documented, which the decoder would take.
func checkNames(data []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(data))
	if token, err := decoder.Token(); err != nil || token != json.Delim('{') {
		return errors.Join(errors.New("want an object"), err)
	}
	seen := map[string]bool{}
	for decoder.More() {
		token, err := decoder.Token()
		if err != nil {
			return err
		}
		name, _ := token.(string)
		var value json.RawMessage
		if err := decoder.Decode(&value); err != nil {
			return err
		}
		switch {
		case seen[name]:
			return fmt.Errorf("the field %s is there twice", quoteShort(name))
		case name != strings.ToLower(name):
			return fmt.Errorf("the field %s is not known", quoteShort(name))
		}
		seen[name] = true
	}
	if _, err := decoder.Token(); err != nil {
		return err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errors.New("it is more than one value of JSON")
	}
	return nil
}
