// Package apitest tests the HTTP API of backfill/admin by requests to a server with a database, against
// its OpenAPI document.
package apitest_test

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/backfillhq/go/backfill/admin"
	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/testutil/pgtest"
)

var quiet = slog.New(slog.DiscardHandler)

// The secrets of the principals.
const (
	readerToken   = "reader-0123456789abcdef"
	operatorToken = "operator-0123456789abcdef"
	adminToken    = "admin-0123456789abcdef"
	expiredToken  = "expired-0123456789abcdef"
	nobodyToken   = "nobody-0123456789abcdef" // has no role
)

func credentials() []admin.Credential {
	return []admin.Credential{
		{Name: "rita", Roles: []string{"reader"}, Secret: readerToken},
		{Name: "otto", Roles: []string{"operator"}, Secret: operatorToken},
		{Name: "anna", Roles: []string{"admin"}, Secret: adminToken, Expires: time.Now().Add(time.Hour)},
		{Name: "erik", Roles: []string{"admin"}, Secret: expiredToken, Expires: time.Now().Add(-time.Second)},
		{Name: "nora", Secret: nobodyToken},
	}
}

// rig is a database, and a server of the API.
type rig struct {
	*testing.T

	db    *pgtest.Database
	admin *admin.Admin
	url   string
}

func newRig(t *testing.T, options ...admin.Option) *rig {
	t.Helper()
	db := pgtest.New(t)
	a, err := admin.Open(db.URL, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	r := &rig{T: t, db: db, admin: a}
	r.url = r.serve(admin.WithCredentials(credentials()...))
	return r
}

// serve starts a server, and returns its URL.
func (r *rig) serve(options ...admin.HandlerOption) string {
	r.Helper()
	h, err := admin.NewHandler(r.admin, append([]admin.HandlerOption{admin.WithLogger(quiet)}, options...)...)
	if err != nil {
		r.Fatal(err)
	}
	server := httptest.NewServer(h)
	r.Cleanup(server.Close)
	return server.URL
}

func (r *rig) run(sql string, args ...any) {
	r.Helper()
	dbtest.Run(r.T, r.db.Pool(), sql, args...)
}

// job enqueues a job as Node does.
func (r *rig) job(arguments string) string {
	r.Helper()
	return strconv.FormatInt(dbtest.Get[int64](r.T, r.db.Pool(), "select id from graphile_worker.add_job("+arguments+")"), 10)
}

// letter inserts a dead letter.
func (r *rig) letter(task, payload string) string {
	r.Helper()
	return strconv.FormatInt(dbtest.Get[int64](r.T, r.db.Pool(), `insert into graphile_worker.backfill_dlq (original_job_id, task_identifier, payload, queue_name, priority,
		max_attempts, attempts, failure_reason, last_error, first_error, original_created_at, original_run_at, failed_at)
		values (1000, $1, $2::json, 'old', 0, 25, 25, 'exhausted', 'it broke', 'it broke', now() - interval '200 days', now(), now() - interval '100 days') returning id`,
		task, payload), 10)
}

// answer is a response with its body.
type answer struct {
	*http.Response

	body []byte
}

// decode reads the body.
func (a *answer) decode(t *testing.T, into any) {
	t.Helper()
	if err := json.Unmarshal(a.body, into); err != nil {
		t.Fatalf("%s %s: %v in %s", a.Request.Method, a.Request.URL, err, a.body)
	}
}

// request makes a request with a token; "": without one.
func (r *rig) request(method, path, token, body string) *http.Request {
	r.Helper()
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	request, err := http.NewRequestWithContext(r.Context(), method, r.url+path, reader)
	if err != nil {
		r.Fatal(err)
	}
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	return request
}

func (r *rig) send(request *http.Request) *answer {
	r.Helper()
	return r.sendBy(http.DefaultTransport, request)
}

func (r *rig) sendBy(transport http.RoundTripper, request *http.Request) *answer {
	r.Helper()
	response, err := transport.RoundTrip(request) // follows nothing
	if err != nil {
		r.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		r.Fatal(err)
	}
	return &answer{response, bytes.TrimSpace(body)}
}

func (r *rig) ask(method, path, token, body string) *answer {
	r.Helper()
	return r.send(r.request(method, path, token, body))
}

// fails sends a request that is refused, and looks whether the error says these words.
func (r *rig) fails(request *http.Request, status int, code string, words ...string) *answer {
	r.Helper()
	a := r.send(request)
	var failure admin.APIError
	a.decode(r.T, &failure)
	if a.StatusCode != status || failure.Code != code || time.Since(failure.Timestamp).Abs() > time.Hour {
		r.Errorf("%s %s: %d %+v, want %d %s", request.Method, request.URL.Path, a.StatusCode, failure, status, code)
	}
	for _, word := range words {
		if !strings.Contains(failure.Error, word) {
			r.Errorf("%s %s: %q does not say %q", request.Method, request.URL.Path, failure.Error, word)
		}
	}
	return a
}

// succeeds sends a request that is answered.
func (r *rig) succeeds(method, path, token, body string, into any) *answer {
	r.Helper()
	a := r.ask(method, path, token, body)
	if a.StatusCode >= 300 {
		r.Fatalf("%s %s: %d %s", method, path, a.StatusCode, a.body)
	}
	if into != nil {
		a.decode(r.T, into)
	}
	return a
}
