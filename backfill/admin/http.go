package admin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"sync"
	"time"
)

const (
	// maxBody is how large the body of a request may be. A payload that is shown has 4 MB at most.
	maxBody = 8 << 20
	// requestTimeout is how long a request may take, with the time in which its body comes.
	requestTimeout = 30 * time.Second
)

// handler is the HTTP API. What it does for every request is in ServeHTTP, in this order; what there
// is to ask for, in routes.
type handler struct {
	admin        *Admin // whose authorize is never nil
	authenticate Authenticate
	anonymous    bool // who is not authenticated may read: on a listener of its own alone
	hosts        map[string]bool
	origins      []string
	cross        *http.CrossOriginProtection
	logger       *slog.Logger
	routes       []*route
	mux          *http.ServeMux
	document     *document
	health       health
	csp          string
}

// HandlerOption changes a handler.
type HandlerOption func(*handler) error

// WithAuthenticate says who asks. Default: nobody can be told, and only /health is served.
func WithAuthenticate(authenticate Authenticate) HandlerOption {
	return func(h *handler) error {
		if authenticate == nil {
			return errors.New("WithAuthenticate: the function is nil, so nobody could be told")
		}
		if h.authenticate != nil {
			return errors.New("WithAuthenticate and WithCredentials: choose one, and call it once")
		}
		h.authenticate = authenticate
		return nil
	}
}

// WithHosts adds names under which the handler is reached, such as jobs.example.com, without a port.
// A request for another name is refused, which keeps pages of other sites from reading it. Default:
// addresses, and localhost.
func WithHosts(names ...string) HandlerOption {
	return func(h *handler) error {
		for _, name := range names {
			if !isHostName(name) {
				return fmt.Errorf("WithHosts: %q is no name of a host: want one such as jobs.example.com, without scheme, port and path", name)
			}
			h.hosts[strings.ToLower(name)] = true
		}
		return nil
	}
}

// WithTrustedOrigins adds origins, such as https://intern.example.com, whose pages may send changes,
// and may show the handler's in a frame. Default: none but the handler's own.
func WithTrustedOrigins(origins ...string) HandlerOption {
	return func(h *handler) error {
		for _, origin := range origins {
			if err := h.cross.AddTrustedOrigin(origin); err != nil {
				return fmt.Errorf("WithTrustedOrigins: %w", err)
			}
			if strings.ContainsAny(origin, " ;,'\"") { // it becomes a part of a policy
				return fmt.Errorf("WithTrustedOrigins: %q is no origin: want one such as https://intern.example.com", origin)
			}
			h.origins = append(h.origins, origin)
		}
		return nil
	}
}

// WithLogger sets where requests that fail are logged. Default: slog.Default().
func WithLogger(logger *slog.Logger) HandlerOption {
	return func(h *handler) error {
		h.logger = logger
		return nil
	}
}

// NewHandler returns the HTTP API, which docs/http-api.md describes, to mount anywhere:
//
//	mux.Handle("/backfill/", http.StripPrefix("/backfill", handler))
//
// Unless it is told by WithCredentials or WithAuthenticate who asks, it serves /health alone. What a
// principal may do, WithAuthorize of Open decides; without, ByRole. It is safe for use by several
// goroutines, and ends with the Admin.
func NewHandler(a *Admin, options ...HandlerOption) (http.Handler, error) {
	return newHandler(a, options)
}

func newHandler(a *Admin, options []HandlerOption) (*handler, error) {
	h := &handler{hosts: map[string]bool{"localhost": true}, cross: http.NewCrossOriginProtection(), logger: slog.Default()}
	for _, option := range options {
		if err := option(h); err != nil {
			return nil, fmt.Errorf("open the HTTP API: %w", err)
		}
	}
	h.logger = cmp.Or(h.logger, slog.Default())
	h.use(a, ByRole)
	h.csp = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors " + cmp.Or(strings.Join(h.origins, " "), "'none'")
	h.routes = allRoutes()
	h.mux = http.NewServeMux()
	for _, r := range h.routes {
		h.mux.Handle(r.method+" "+r.pattern(), r)
	}
	h.document = newDocument(h.routes)
	return h, nil
}

// use sets whom the handler asks: an Admin with the same connections, which lets nobody do anything
// because nobody said who may.
func (h *handler) use(a *Admin, otherwise Authorize) {
	own := *a
	own.carrying, own.logger = new(sync.Map), h.logger
	if own.authorize == nil {
		own.authorize, own.byRole = otherwise, true
	}
	h.admin = &own
}

// ServeHTTP answers a request.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.setHeaders(w)
	ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
	defer cancel()
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(requestTimeout)) // it need not be a connection's
	r = r.WithContext(ctx)
	defer func() {
		if value := recover(); value != nil {
			if value == http.ErrAbortHandler { //nolint:errorlint // as net/http compares it
				panic(value) //nolint:forbidigo // it is net/http's way to end a connection
			}
			h.logger.LogAttrs(ctx, slog.LevelError, "a request has panicked", slog.String("method", r.Method), slog.String("path", r.URL.Path),
				slog.Any("error", value), slog.String("stack", string(debug.Stack())))
			writeError(w, &apiError{status: http.StatusInternalServerError, code: "INTERNAL", text: "the request could not be answered: the log says why"})
		}
	}()
	if err := h.serve(w, r); err != nil {
		h.refuse(w, r, err)
	}
}

func (h *handler) serve(w http.ResponseWriter, r *http.Request) error {
	if err := h.checkHost(r); err != nil {
		return err
	}
	found := h.find(r)
	if found == nil || !found.open {
		ctx, err := h.identify(r)
		if err != nil {
			return err
		}
		r = r.WithContext(ctx)
		if err := h.checkOrigin(r); err != nil {
			return err
		}
	}
	if found == nil {
		return h.noRoute(r)
	}
	return found.answer(h, w, r)
}

// setHeaders sets what all responses have: nobody keeps them, and no page can use them but their own.
func (h *handler) setHeaders(w http.ResponseWriter) {
	header := w.Header()
	header.Set("Content-Security-Policy", h.csp)
	if len(h.origins) == 0 {
		header.Set("X-Frame-Options", "DENY")
	}
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Cache-Control", "no-store")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
	header.Set("Cross-Origin-Opener-Policy", "same-origin")
}

// refuse writes an error, and logs what the asker is not told.
func (h *handler) refuse(w http.ResponseWriter, r *http.Request, err error) {
	e, ok := errors.AsType[*apiError](err)
	if !ok {
		e = &apiError{status: http.StatusInternalServerError, code: "INTERNAL", text: "the request could not be answered: the log says why", cause: err}
	}
	if e.cause != nil && r.Context().Err() == nil {
		h.logger.LogAttrs(r.Context(), slog.LevelWarn, "a request has failed", slog.String("method", r.Method), slog.String("path", r.URL.Path),
			slog.String("code", e.code), slog.String("error", e.cause.Error()))
	}
	writeError(w, e)
}
