package admin

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
)

// route is one thing to ask for. The table of all of them, allRoutes, is what is served, and what the
// OpenAPI document says.
type route struct {
	method, path string
	name         string // of the operation, for generated clients
	summary      string

	open    bool   // also for who is not authenticated
	action  Action // that it takes
	status  int    // of an answer
	missing string // the code of 404
	failure string // the code of 500

	input *input       // what the request says
	reply reflect.Type // of the answer; nil: it is no JSON
	serve func(ctx context.Context, h *handler, in any) (any, error)
	raw   func(h *handler, w http.ResponseWriter, r *http.Request) // for what is no JSON
}

// to makes a route whose input is of type In, whose fields say where they stand (see input), and whose
// answer is of type Out.
func to[In, Out any](pattern, name string, action Action, summary string, serve func(ctx context.Context, a *Admin, in *In) (Out, error)) *route {
	method, path, _ := strings.Cut(pattern, " ")
	return &route{
		method: method, path: path, name: name, summary: summary, action: action, status: http.StatusOK, missing: "NOT_FOUND", failure: "QUERY_ERROR",
		input: newInput(reflect.TypeFor[In]()), reply: reflect.TypeFor[Out](),
		serve: func(ctx context.Context, h *handler, in any) (any, error) { return serve(ctx, h.admin, in.(*In)) }, // input makes it
	}
}

// page makes a route whose answer is written by the handler.
func page(pattern, name, summary string, raw func(*handler, http.ResponseWriter, *http.Request)) *route {
	r := to(pattern, name, ActionRead, summary, func(context.Context, *Admin, *nothing) (any, error) { return nil, nil }) //nolint:nilnil // not called
	r.reply, r.raw = nil, raw
	return r
}

// fails sets the codes of a route's errors; "": as it is.
func (r *route) fails(missing, failure string) *route {
	r.missing, r.failure = cmp.Or(missing, r.missing), cmp.Or(failure, r.failure)
	return r
}

func (r *route) as(status int) *route {
	r.status = status
	return r
}

// pattern is what http.ServeMux matches. The root matches itself alone.
func (r *route) pattern() string {
	if r.path == "/" {
		return "/{$}"
	}
	return r.path
}

// ServeHTTP is not called: a handler finds the route, and calls answer.
func (r *route) ServeHTTP(http.ResponseWriter, *http.Request) {}

// find returns the route of a request; nil: there is none. It sets the values of the path.
func (h *handler) find(r *http.Request) *route {
	found, pattern := h.mux.Handler(r)
	route, ok := found.(*route)
	if !ok || pattern == "" {
		return nil
	}
	return route
}

// noRoute is the response for a request without a route.
func (h *handler) noRoute(r *http.Request) error {
	var allowed []string
	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		other := r.Clone(r.Context())
		other.Method = method
		if h.find(other) != nil {
			allowed = append(allowed, method)
		}
	}
	if len(allowed) == 0 {
		return &apiError{
			status: http.StatusNotFound, code: "NOT_FOUND",
			text: fmt.Sprintf("there is nothing at %q: openapi.json lists what there is; a handler that is mounted below a path needs http.StripPrefix", shorten(r.URL.Path)),
		}
	}
	return &apiError{
		status: http.StatusMethodNotAllowed, code: "METHOD_NOT_ALLOWED", header: http.Header{"Allow": {strings.Join(allowed, ", ")}},
		text: fmt.Sprintf("%s is not for this path: want %s", shorten(r.Method), strings.Join(allowed, " or ")),
	}
}

// admit refuses who may not do this with anything. What it is done with, the Admin asks about.
func (r *route) admit(ctx context.Context, h *handler) error {
	if r.open {
		return nil
	}
	if h.anonymous && (r.changes() || r.action != ActionRead) {
		return &apiError{
			status: http.StatusForbidden, code: "READ_ONLY",
			text: "nobody needs a password here, so nothing is changed: start backfill ui with --users or --token-file to change something",
		}
	}
	if who := principal(ctx); h.admin.byRole && !h.admin.may(ctx, r.action, Target{}) {
		return &apiError{
			status: http.StatusForbidden, code: "FORBIDDEN",
			text: fmt.Sprintf("%q has the roles %q, and none of them lets it %s: reader, operator and admin do, each more than the one before", who.Name, who.Roles, words(r.action)),
		}
	}
	return nil
}

func words(action Action) string { return strings.ReplaceAll(string(action), "_", " ") }

// answer answers a request of a route.
func (r *route) answer(h *handler, w http.ResponseWriter, request *http.Request) error {
	if err := r.admit(request.Context(), h); err != nil {
		return err
	}
	if r.raw != nil {
		r.raw(h, w, request)
		return nil
	}
	in, err := r.input.read(h, w, request)
	if err != nil {
		return err
	}
	out, err := r.serve(request.Context(), h, in)
	if err != nil {
		return r.explain(request.Context(), err)
	}
	status := r.status
	if s, ok := out.(interface{ httpStatus() int }); ok {
		status = s.httpStatus()
	}
	writeJSON(w, status, out)
	return nil
}

// changes reports whether the route changes something.
func (r *route) changes() bool {
	return !slices.Contains([]string{http.MethodGet, http.MethodHead}, r.method)
}
