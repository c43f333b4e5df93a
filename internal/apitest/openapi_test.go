package apitest_test

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"
	"github.com/google/go-cmp/cmp"
)

func init() { openapi3filter.RegisterBodyDecoder("text/html", openapi3filter.PlainBodyDecoder) }

// document is the OpenAPI document that a server serves, strict: an object has no property that is not
// documented.
func (r *rig) document() (*openapi3.T, routers.Router) {
	r.Helper()
	document, err := openapi3.NewLoader().LoadFromData(r.succeeds("GET", "/openapi.json", adminToken, "", nil).body)
	if err != nil {
		r.Fatal(err)
	}
	if err := document.Validate(r.Context()); err != nil {
		r.Fatal(err)
	}
	strict := func(schema *openapi3.SchemaRef) {
		if schema.Value != nil && schema.Value.Properties != nil {
			no := false
			schema.Value.AdditionalProperties = openapi3.AdditionalProperties{Has: &no}
		}
	}
	for _, schema := range document.Components.Schemas {
		strict(schema)
	}
	for _, item := range document.Paths.Map() {
		for _, operation := range item.Operations() {
			if operation.RequestBody != nil {
				strict(operation.RequestBody.Value.Content["application/json"].Schema)
			}
		}
	}
	document.Servers = openapi3.Servers{{URL: r.url}}
	router, err := legacy.NewRouter(document)
	if err != nil {
		r.Fatal(err)
	}
	return document, router
}

// operations are the operations of a document by name.
func operations(document *openapi3.T) map[string]string {
	found := map[string]string{}
	for path, item := range document.Paths.Map() {
		for method, operation := range item.Operations() {
			found[operation.OperationID] = method + " " + path
		}
	}
	return found
}

// Each operation of the document is there, and what is asked and answered is as it says; and there is
// no other one.
func TestDocument(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	document, router := r.document()
	documented := operations(document)
	if diff := cmp.Diff(slices.Sorted(maps.Keys(samples)), slices.Sorted(maps.Keys(documented))); diff != "" {
		t.Fatalf("operations (-tested +documented):\n%s", diff)
	}
	r.fill()
	for _, name := range slices.Sorted(maps.Keys(samples)) {
		method, _, _ := strings.Cut(documented[name], " ")
		s := samples[name](r, adminToken)
		r.validate(router, name, r.request(method, s.path, adminToken, s.body), s.body, true)
		if name != "health" {
			r.validate(router, name, r.request(method, s.path, "", s.body), s.body, false)
			r.validate(router, name, r.request(method, s.path, nobodyToken, s.body), s.body, false)
		}
	}
}

// fill gives lists something to list.
func (r *rig) fill() {
	r.run(`insert into graphile_worker._private_known_crontabs (identifier, known_since) values ('nightly', now())`)
	r.run(`insert into graphile_worker.backfill_queue_pauses (queue_name, reason) values ('paused', 'why not')`)
	r.job(`'send', '{"n": 1}', queue_name := 'a/b'`)
	r.job(`'send', '{"n": 1}'`)
	r.letter("send", `{"n": 1}`)
}

// validate sends a request, and compares it and the response with the document.
func (r *rig) validate(router routers.Router, name string, request *http.Request, body string, succeeds bool) {
	r.Helper()
	route, values, err := router.FindRoute(request)
	if err != nil {
		r.Errorf("%s: %v", name, err)
		return
	}
	if route.Operation.OperationID != name {
		r.Errorf("%s: the document takes it for %s", name, route.Operation.OperationID)
	}
	input := &openapi3filter.RequestValidationInput{
		Request: request, PathParams: values, Route: route,
		Options: &openapi3filter.Options{
			IncludeResponseStatus: true, RejectWhenRequestBodyNotSpecified: true, AuthenticationFunc: openapi3filter.NoopAuthenticationFunc, SkipSettingDefaults: true,
		},
	}
	if err := openapi3filter.ValidateRequest(context.Background(), input); err != nil {
		r.Errorf("%s: the request: %v", name, err)
	}
	clone := r.request(request.Method, "", "", body)
	clone.URL, clone.Header = request.URL, request.Header
	a := r.send(clone)
	if (a.StatusCode < 300) != succeeds {
		r.Errorf("%s: %d %s", name, a.StatusCode, a.body)
	}
	response := &openapi3filter.ResponseValidationInput{RequestValidationInput: input, Status: a.StatusCode, Header: a.Header, Options: input.Options}
	response.SetBodyBytes(a.body)
	if err := openapi3filter.ValidateResponse(context.Background(), response); err != nil {
		r.Errorf("%s: the response %d: %v", name, a.StatusCode, err)
	}
}
