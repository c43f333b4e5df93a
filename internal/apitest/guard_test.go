package apitest_test

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/backfillhq/go/backfill/admin"
)

// Each route, reads as well, is for hosts that are known.
func TestHosts(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	document, _ := r.document()
	r.url = r.serve(admin.WithCredentials(credentials()...), admin.WithHosts("Jobs.example.com"))
	for name, operation := range operations(document) {
		method, _, _ := strings.Cut(operation, " ")
		s := samples[name](r, adminToken)
		request := r.request(method, s.path, adminToken, s.body)
		request.Host = "attacker.example"
		r.fails(request, http.StatusMisdirectedRequest, "WRONG_HOST", `"attacker.example"`, "--allow-host", "admin.WithHosts")
	}
	for host, status := range map[string]int{
		"127.0.0.1": 200, "127.0.0.1:1": 200, "[::1]:80": 200, "[::1]": 200, "10.1.2.3:8080": 200, "localhost": 200, "LOCALHOST:80": 200, "jobs.example.com": 200,
		"jobs.EXAMPLE.com:443": 200, "jobs.example.com.": 421, "jobs.example.com.attacker.example": 421, "x.jobs.example.com": 421, "jobs.example.co": 421, "localhost.attacker.example": 421,
		"127.0.0.1.attacker.example": 421, "0x7f.0.0.1": 421, "127.1": 421, "2130706433": 421, "jobs.example.com:80x": 421,
	} {
		if got := r.raw(fmt.Sprintf("GET /health HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", host)); got != status && (got != 400 || status == 200) {
			t.Errorf("host %q: %d, want %d", host, got, status)
		}
	}
	if got := r.raw("GET /health HTTP/1.0\r\n\r\n"); got != 421 {
		t.Errorf("no host: %d", got)
	}
}

// raw sends bytes, and returns the status of the response.
func (r *rig) raw(text string) int {
	r.Helper()
	conn, err := new(net.Dialer).DialContext(r.Context(), "tcp", strings.TrimPrefix(r.url, "http://"))
	if err != nil {
		r.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, text); err != nil {
		r.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		r.Fatal(err)
	}
	response.Body.Close()
	return response.StatusCode
}

// What a page of another site makes a browser send is refused, with what cures it; behind a proxy, and
// in a frame, the documented options do.
func TestOrigins(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	own := r.url
	trusting := r.serve(admin.WithCredentials(credentials()...), admin.WithHosts("jobs.example.com"), admin.WithTrustedOrigins("https://intern.example.com"))
	headers := func(pairs ...string) http.Header {
		h := http.Header{}
		for i := 0; i < len(pairs); i += 2 {
			h.Set(pairs[i], pairs[i+1])
		}
		return h
	}
	for name, test := range map[string]struct {
		url, host string
		change    bool
		headers   http.Header
		ok        bool
	}{
		"a program":                {change: true, ok: true},
		"the page itself":          {change: true, headers: headers("Sec-Fetch-Site", "same-origin"), ok: true},
		"another site":             {change: true, headers: headers("Sec-Fetch-Site", "cross-site", "Origin", "https://attacker.example")},
		"another subdomain":        {change: true, headers: headers("Sec-Fetch-Site", "same-site", "Origin", "https://x.example.com")},
		"an old browser":           {change: true, headers: headers("Origin", "https://attacker.example")},
		"a sandbox":                {change: true, headers: headers("Origin", "null")},
		"a read by another site":   {headers: headers("Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Dest", "script")},
		"a link":                   {headers: headers("Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document"), ok: true},
		"a frame":                  {headers: headers("Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "iframe")},
		"a frame that is allowed":  {url: trusting, headers: headers("Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "iframe"), ok: true},
		"an origin that is":        {url: trusting, change: true, headers: headers("Sec-Fetch-Site", "cross-site", "Origin", "https://intern.example.com"), ok: true},
		"nearly":                   {url: trusting, change: true, headers: headers("Sec-Fetch-Site", "cross-site", "Origin", "https://intern.example.com.attacker.example")},
		"behind a proxy":           {url: trusting, host: "jobs.example.com", change: true, headers: headers("Origin", "https://jobs.example.com", "X-Forwarded-Proto", "https"), ok: true},
		"behind one without Host":  {url: trusting, change: true, headers: headers("Origin", "https://jobs.example.com", "X-Forwarded-Host", "jobs.example.com")},
		"that of modern browsers":  {url: trusting, change: true, headers: headers("Origin", "https://jobs.example.com", "Sec-Fetch-Site", "same-origin"), ok: true},
		"told the host by a proxy": {url: trusting, host: "attacker.example", headers: headers("X-Forwarded-Host", "jobs.example.com")},
	} {
		r.url = own
		if test.url != "" {
			r.url = test.url
		}
		request := r.request("GET", "/jobs", adminToken, "")
		if test.change {
			request = r.request("POST", "/jobs", adminToken, `{"task": "send"}`)
		}
		if test.host != "" {
			request.Host = test.host
		}
		maps.Copy(request.Header, test.headers)
		switch {
		case test.ok:
			if a := r.send(request); a.StatusCode >= 300 {
				t.Errorf("%s: %d %s", name, a.StatusCode, a.body)
			}
		case test.host == "attacker.example":
			r.fails(request, http.StatusMisdirectedRequest, "WRONG_HOST")
		default:
			r.fails(request, http.StatusForbidden, "CROSS_ORIGIN", "Sec-Fetch-Site", "--trust-origin", "admin.WithTrustedOrigins")
		}
	}
	// What carries no mark of a browser is no form at least.
	r.url = own
	for _, kind := range []string{"", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/json; charset=latin1", "application/jsonx"} {
		request := r.request("POST", "/jobs", adminToken, `{"task": "send"}`)
		request.Header.Set("Content-Type", kind)
		r.fails(request, http.StatusUnsupportedMediaType, "UNSUPPORTED_MEDIA_TYPE", "application/json")
	}
}

// Whatever is answered, nobody keeps it, and no page can use it.
func TestHeaders(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, token := range []string{"", readerToken} {
		for _, path := range []string{"/", "/health", "/jobs", "/jobs/1", "/nowhere", "/openapi.json", "/jobs?x=1"} {
			a := r.ask("GET", path, token, "")
			for name, want := range map[string]string{
				"Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'", "X-Content-Type-Options": "nosniff",
				"X-Frame-Options": "DENY", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "Cross-Origin-Resource-Policy": "same-origin",
			} {
				if got := a.Header.Get(name); got != want {
					t.Errorf("%s: %s is %q", path, name, got)
				}
			}
			if len(a.Header.Values("Access-Control-Allow-Origin")) > 0 || len(a.Header.Values("Set-Cookie")) > 0 {
				t.Errorf("%s: %v", path, a.Header)
			}
		}
	}
	r.url = r.serve(admin.WithCredentials(credentials()...), admin.WithTrustedOrigins("https://intern.example.com"))
	a := r.ask("GET", "/", readerToken, "")
	if csp := a.Header.Get("Content-Security-Policy"); !strings.HasSuffix(csp, "frame-ancestors https://intern.example.com") || a.Header.Get("X-Frame-Options") != "" {
		t.Errorf("a trusted origin cannot show it in a frame: %q", csp)
	}
}

// A request has limits, and each refusal says which.
func TestLimits(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	large := r.request("POST", "/jobs", adminToken, `{"task": "send", "payload": "`+strings.Repeat("x", 8<<20)+`"}`)
	r.fails(large, http.StatusRequestEntityTooLarge, "TOO_LARGE", "8388608")
	chunked := r.request("POST", "/jobs", adminToken, "")
	chunked.Body, chunked.ContentLength = io.NopCloser(io.LimitReader(neverEnds{}, 20<<20)), -1
	chunked.Header.Set("Content-Type", "application/json")
	r.fails(chunked, http.StatusRequestEntityTooLarge, "TOO_LARGE")
	whole := r.ask("POST", "/jobs", adminToken, `{"task": "send", "payload": "`+strings.Repeat("x", 7<<20)+`"}`)
	if whole.StatusCode != http.StatusCreated {
		t.Errorf("7 MB: %d %s", whole.StatusCode, whole.body)
	}
	for _, path := range []string{"/jobs/1/../2", "//jobs", "/jobs/", "/./jobs", "/queues//stats"} {
		if got := r.raw(fmt.Sprintf("GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer %s\r\nConnection: close\r\n\r\n", path, adminToken)); got != http.StatusNotFound {
			t.Errorf("%s: %d", path, got)
		}
	}
}

// A server of its own bounds headers, too.
func TestServerLimits(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.url = r.listen("127.0.0.1:0")
	if got := r.raw("GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + strings.Repeat("x", 64<<10) + "\r\n\r\n"); got != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("64 kB of headers: %d", got)
	}
}

type neverEnds struct{}

func (neverEnds) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}
