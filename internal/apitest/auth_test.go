package apitest_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/backfillhq/go/backfill/admin"
	"github.com/backfillhq/go/internal/dbtest"
)

// misses are texts that are nearly another one.
func misses(text string) []string {
	return []string{
		"", text[1:], text[:len(text)-1], text + "x", "x" + text, text + text, " " + text, text + " ", text + "\t", strings.ToUpper(text), strings.ToUpper(text[:1]) + text[1:],
		strings.Replace(text, "r", "ʀ", 1), strings.Replace(text, "i", "ı", 1), strings.Replace(text, "s", "ſ", 1), text + ".", text + "*", ".*", "%", "^" + text, text + "$",
		text + "\u0000", "\ufeff" + text, strings.Replace(text, "-", "‐", 1), strings.Replace(text, "-", "_", 1), text + ":" + text,
	}
}

// Names and secrets are compared whole, and to the letter.
func TestNearMisses(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, c := range credentials() {
		status := http.StatusOK
		switch c.Secret {
		case expiredToken:
			status = http.StatusUnauthorized
		case nobodyToken:
			status = http.StatusForbidden
		}
		basic := func(name, secret string) int {
			request := r.request("GET", "/jobs", "", "")
			request.SetBasicAuth(name, secret)
			return r.send(request).StatusCode
		}
		if got := basic(c.Name, c.Secret); got != status {
			t.Errorf("%s by basic authentication: %d", c.Name, got)
		}
		if got := r.ask("GET", "/jobs", c.Secret, "").StatusCode; got != status {
			t.Errorf("%s by a token: %d", c.Name, got)
		}
		for _, miss := range misses(c.Name) {
			if got := basic(miss, c.Secret); miss != c.Name && got != http.StatusUnauthorized {
				t.Errorf("name %q is taken for %q", miss, c.Name)
			}
		}
		for _, miss := range misses(c.Secret) {
			if got := basic(c.Name, miss); miss != c.Secret && got != http.StatusUnauthorized {
				t.Errorf("password %q is taken for %q", miss, c.Secret)
			}
			request := r.request("GET", "/jobs", "", "")
			request.Header["Authorization"] = []string{"Bearer " + miss}
			if strings.ContainsAny(miss, "\u0000") || strings.TrimSpace(miss) == c.Secret { // no header has that, or is it
				continue
			}
			if got := r.send(request).StatusCode; miss != c.Secret && got != http.StatusUnauthorized {
				t.Errorf("token %q is taken for %q", miss, c.Secret)
			}
		}
	}
	two := r.request("GET", "/jobs", adminToken, "")
	two.Header.Add("Authorization", "Bearer "+readerToken)
	a := r.fails(two, http.StatusUnauthorized, "UNAUTHENTICATED", "Authorization")
	if a.Header.Values("WWW-Authenticate") == nil {
		t.Error("the response does not say how to authenticate")
	}
	r.fails(r.request("GET", "/jobs", "", ""), http.StatusUnauthorized, "UNAUTHENTICATED", "the word Bearer")
	r.fails(r.request("GET", "/jobs", expiredToken, ""), http.StatusUnauthorized, "UNAUTHENTICATED", "expired")
}

// A user's function says who asks, and what it cannot tell is not let in.
func TestAuthenticate(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.url = r.serve(admin.WithAuthenticate(func(request *http.Request) (admin.Principal, error) {
		switch request.Header.Get("Session") {
		case "anna":
			return admin.Principal{Name: "anna@example.com", Roles: []string{"admin"}}, nil
		case "nameless":
			return admin.Principal{Roles: []string{"admin"}}, nil
		case "away":
			return admin.Principal{Name: "anna", Roles: []string{"admin"}}, errors.New("dial ldap: refused")
		case "panic":
			panic("secret-of-the-session")
		}
		return admin.Principal{}, admin.ErrUnauthenticated
	}))
	as := func(session, method, path, body string) *http.Request {
		request := r.request(method, path, "", body)
		request.Header.Set("Session", session)
		return request
	}
	if a := r.send(as("anna", "POST", "/jobs", `{"task": "send"}`)); a.StatusCode != http.StatusCreated {
		t.Errorf("anna: %d %s", a.StatusCode, a.body)
	}
	if by := dbtest.Get[string](t, r.db.Pool(), "select principal from graphile_worker.backfill_audit"); by != "anna@example.com" {
		t.Errorf("the record names %q", by)
	}
	r.fails(as("nameless", "GET", "/jobs", ""), http.StatusUnauthorized, "UNAUTHENTICATED")
	r.fails(as("otto", "GET", "/jobs", ""), http.StatusUnauthorized, "UNAUTHENTICATED")
	if a := r.fails(as("away", "GET", "/jobs", ""), http.StatusServiceUnavailable, "AUTHENTICATION_FAILED"); strings.Contains(string(a.body), "ldap") {
		t.Errorf("the response tells details: %s", a.body)
	}
	if a := r.fails(as("panic", "GET", "/jobs", ""), http.StatusInternalServerError, "INTERNAL"); strings.Contains(string(a.body), "secret") || strings.Contains(string(a.body), "goroutine") {
		t.Errorf("the response tells details: %s", a.body)
	}
}

// What cannot work is refused when the handler is made.
func TestHandlerOptions(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	sum := sha256.Sum256([]byte("0123456789abcdef0123456789abcdef"))
	for name, test := range map[string]struct {
		option admin.HandlerOption
		says   string
	}{
		"short secret":   {admin.WithCredentials(admin.Credential{Name: "a", Secret: "short"}), "openssl rand"},
		"no name":        {admin.WithCredentials(admin.Credential{Secret: adminToken}), "name"},
		"colon":          {admin.WithCredentials(admin.Credential{Name: "a:b", Secret: adminToken}), "colons"},
		"no hash":        {admin.WithCredentials(admin.Credential{Name: "a", Secret: "sha256:abcd"}), "64 hexadecimal"},
		"empty role":     {admin.WithCredentials(admin.Credential{Name: "a", Secret: adminToken, Roles: []string{""}}), "role"},
		"same secret":    {admin.WithCredentials(admin.Credential{Name: "a", Secret: adminToken}, admin.Credential{Name: "b", Secret: adminToken}), "could not be told"},
		"no credentials": {admin.WithCredentials(), "nobody"},
		"no function":    {admin.WithAuthenticate(nil), "nil"},
		"host with port": {admin.WithHosts("jobs.example.com:80"), "without scheme, port"},
		"host with path": {admin.WithHosts("https://jobs.example.com/"), "without scheme, port"},
		"any host":       {admin.WithHosts("*"), "no name"},
		"origin":         {admin.WithTrustedOrigins("jobs.example.com"), "origin"},
		"policy":         {admin.WithTrustedOrigins("https://x';"), "origin"},
	} {
		if _, err := admin.NewHandler(r.admin, test.option); err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v does not say %q", name, err, test.says)
		}
	}
	hashed := admin.Credential{Name: "h", Roles: []string{"reader"}, Secret: "sha256:" + hex.EncodeToString(sum[:]), Expires: time.Now().Add(time.Hour)}
	r.url = r.serve(admin.WithCredentials(hashed))
	r.succeeds("GET", "/jobs", "0123456789abcdef0123456789abcdef", "", nil)
	r.fails(r.request("GET", "/jobs", hashed.Secret, ""), http.StatusUnauthorized, "UNAUTHENTICATED")
}
