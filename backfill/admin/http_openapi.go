package admin

import (
	"encoding/json"
	"maps"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// object is an object of JSON.
type object = map[string]any

// document is the OpenAPI document: what the routes say.
type document struct {
	body    object
	schemas object
}

// newDocument describes routes.
func newDocument(routes []*route) *document {
	d := &document{schemas: object{}}
	paths := object{}
	for _, r := range routes {
		item, _ := paths[r.path].(object)
		if item == nil {
			item = object{}
			paths[r.path] = item
		}
		item[strings.ToLower(r.method)] = d.operation(r)
	}
	failure := object{
		"description": "what is wrong, and what to do",
		"content":     object{"application/json": object{"schema": d.schema(reflect.TypeFor[APIError]())}},
	}
	d.body = object{
		"openapi": "3.1.0",
		"info": object{
			"title": "backfill", "version": "1", "license": object{"name": "MIT", "identifier": "MIT"},
			"description": "Operates a job queue on PostgreSQL. New fields, codes and routes may be added.",
		},
		"paths": paths,
		"components": object{
			"schemas": d.schemas, "responses": object{"Failure": failure},
			"securitySchemes": object{"bearer": object{"type": "http", "scheme": "bearer"}, "basic": object{"type": "http", "scheme": "basic"}},
		},
		"security": []object{{"bearer": []string{}}, {"basic": []string{}}},
	}
	return d
}

// failures are the statuses that each route may fail with.
var failures = []int{
	http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusMisdirectedRequest, http.StatusUnprocessableEntity,
	http.StatusInternalServerError, http.StatusServiceUnavailable,
}

func (d *document) operation(r *route) object {
	statuses := slices.Clone(failures)
	if r.changes() {
		statuses = append(statuses, http.StatusConflict)
	}
	o := object{"operationId": r.name, "summary": r.summary, "x-action": r.action}
	var parameters []object
	for _, field := range r.input.fields {
		parameter := object{"name": field.name, "in": field.in, "required": field.in == "path", "schema": d.schema(field.of)}
		if field.of == reflect.TypeFor[json.RawMessage]() {
			delete(parameter, "schema")
			parameter["content"] = object{"application/json": object{"schema": object{}}}
		}
		parameters = append(parameters, parameter)
	}
	if parameters != nil {
		o["parameters"] = parameters
	}
	if r.input.body != nil {
		statuses = append(statuses, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusRequestTimeout)
		o["requestBody"] = object{"required": true, "content": object{"application/json": object{"schema": d.schema(r.input.body.of)}}}
	}
	responses := object{}
	for _, status := range statuses {
		responses[strconv.Itoa(status)] = object{"$ref": "#/components/responses/Failure"}
	}
	content := object{"text/html": object{"schema": object{"type": "string"}}}
	switch {
	case r.reply != nil:
		content = object{"application/json": object{"schema": d.schema(r.reply)}}
	case r.name == "describe":
		content = object{"application/json": object{"schema": object{"type": "object"}}}
	}
	answers := []int{r.status}
	switch r.reply {
	case reflect.TypeFor[*Health]():
		o["security"] = []object{}
		responses = object{strconv.Itoa(http.StatusMisdirectedRequest): responses["421"]}
		answers = append(answers, http.StatusServiceUnavailable)
	case reflect.TypeFor[*LetterBatch]():
		answers = append(answers, http.StatusAccepted)
	}
	for _, status := range answers {
		responses[strconv.Itoa(status)] = object{"description": http.StatusText(status), "content": content}
	}
	o["responses"] = responses
	return o
}

var plainPath = regexp.MustCompile(`^(/[A-Za-z0-9._~-]+)+$`)

// describe serves the document, with the path that the handler is mounted at, and the one that a proxy
// has taken off.
func (h *handler) describe(w http.ResponseWriter, r *http.Request) {
	path, _, _ := strings.Cut(r.RequestURI, "?")
	path = strings.TrimSuffix(path, "openapi.json")
	if prefix := r.Header.Get("X-Forwarded-Prefix"); plainPath.MatchString(prefix) { // nobody but the asker reads it
		path = prefix + path
	}
	body := object{"servers": []object{{"url": path}}}
	maps.Copy(body, h.document.body)
	writeJSON(w, http.StatusOK, body)
}

// schema describes a type of Go by JSON Schema. Structs with names become components.
func (d *document) schema(of reflect.Type) object {
	switch of {
	case reflect.TypeFor[time.Time]():
		return object{"type": "string", "format": "date-time"}
	case reflect.TypeFor[Time]():
		return object{"type": "string", "description": "a time by RFC 3339, infinity or -infinity"}
	case reflect.TypeFor[json.RawMessage]():
		return object{}
	}
	switch of.Kind() {
	case reflect.Pointer:
		return d.schema(of.Elem())
	case reflect.Slice:
		return object{"type": "array", "items": d.schema(of.Elem())}
	case reflect.Map:
		return object{"type": "object", "additionalProperties": d.schema(of.Elem())}
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.String:
		return object{"type": "string"}
	case reflect.Float64:
		return object{"type": "number"}
	case reflect.Struct:
		return d.component(of)
	default:
		return object{"type": "integer", "format": "int64"}
	}
}

// component describes a struct.
func (d *document) component(of reflect.Type) object {
	name := componentName(of)
	if name == "" {
		return d.fields(of)
	}
	if _, there := d.schemas[name]; !there {
		d.schemas[name] = object{} // it may be in itself
		d.schemas[name] = d.fields(of)
	}
	return object{"$ref": "#/components/schemas/" + name}
}

var plainName = regexp.MustCompile(`^[A-Za-z]+$`)

func componentName(of reflect.Type) string {
	if !plainName.MatchString(of.Name()) {
		return ""
	}
	return strings.ToUpper(of.Name()[:1]) + of.Name()[1:]
}

// fields describes the fields of a struct, with those of embedded ones, as encoding/json has them.
func (d *document) fields(of reflect.Type) object {
	properties, required := object{}, []string{}
	var add func(of reflect.Type)
	add = func(of reflect.Type) {
		for f := range of.Fields() {
			name, optional := jsonName(f)
			switch {
			case f.Anonymous && name == "":
				add(f.Type)
				continue
			case !f.IsExported() || name == "-":
				continue
			}
			properties[name] = d.schema(f.Type)
			if !optional {
				required = append(required, name)
			}
		}
	}
	add(of)
	schema := object{"type": "object", "properties": properties}
	if len(required) > 0 {
		schema["required"] = required
	}
	return schema
}
