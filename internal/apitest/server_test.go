package apitest_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/backfill/admin"
	"github.com/backfillhq/go/internal/dbtest"
)

// listen starts a server on a listener of its own, and returns its URL.
func (r *rig) listen(address string, options ...admin.HandlerOption) string {
	r.Helper()
	server, err := admin.Listen(r.Context(), r.admin, address, append([]admin.HandlerOption{admin.WithLogger(quiet)}, options...)...)
	if err != nil {
		r.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ctx) }()
	r.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			r.Error(err)
		}
	})
	return "http://" + server.Addr().String()
}

// On a loopback address, without credentials, everybody on the machine reads, and does nothing else.
func TestAnonymousServer(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	document, _ := r.document()
	r.fill()
	job, letter := r.secretive()
	requests := map[string]sample{} // made with the server that has credentials
	for name := range operations(document) {
		requests[name] = samples[name](r, adminToken)
	}
	r.settled()
	r.url = r.listen("127.0.0.1:0")
	before := dbtest.Get[string](t, r.db.Pool(), wholeState)
	for name, operation := range operations(document) {
		method, _, _ := strings.Cut(operation, " ")
		request := r.request(method, requests[name].path, "", requests[name].body)
		if method != "GET" {
			r.fails(request, http.StatusForbidden, "READ_ONLY", "--users", "--token-file")
			continue
		}
		if a := r.send(request); a.StatusCode >= 300 {
			t.Errorf("%s: %d %s", name, a.StatusCode, a.body)
		}
	}
	if diff := cmp.Diff(before, dbtest.Get[string](t, r.db.Pool(), wholeState)); diff != "" {
		t.Errorf("something has changed:\n%s", diff)
	}
	for _, path := range []string{"/jobs", "/jobs/" + job, "/jobs/" + job + "/why", "/dlq", "/dlq/" + letter, "/audit"} {
		a := r.succeeds("GET", path, "", "", nil)
		for _, text := range canary {
			if strings.Contains(string(a.body), text) {
				t.Errorf("%s shows %s", path, text)
			}
		}
	}
	for _, header := range []string{
		"Forwarded: for=192.0.2.1", "X-Forwarded-For: 192.0.2.1", "X-Forwarded-Host: x", "X-Forwarded-Proto: https", "X-Real-IP: 192.0.2.1", "Via: 1.1 proxy", "x-forwarded-for: ",
		"CF-Connecting-IP: 192.0.2.1", "X-Forwarded-Anything: 1",
	} {
		name, value, _ := strings.Cut(header, ": ")
		request := r.request("GET", "/jobs", "", "")
		request.Header[name] = []string{value}
		r.fails(request, http.StatusForbidden, "PROXIED", http.CanonicalHeaderKey(name), "--users", "--allow-host")
	}
	if got := r.raw("GET /jobs HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n"); got != http.StatusForbidden { // as nginx asks
		t.Errorf("HTTP/1.0: %d", got)
	}
	request := r.request("GET", "/jobs", "", "")
	request.Host = "attacker.example"
	r.fails(request, http.StatusMisdirectedRequest, "WRONG_HOST")
	target, err := url.Parse(r.url)
	if err != nil {
		t.Fatal(err)
	}
	for name, proxy := range map[string]*httputil.ReverseProxy{
		"with X-Forwarded-For": httputil.NewSingleHostReverseProxy(target),
		"with all":             {Rewrite: func(p *httputil.ProxyRequest) { p.SetURL(target); p.SetXForwarded() }},
	} {
		front := httptest.NewServer(proxy)
		r.url = front.URL
		if a := r.ask("GET", "/jobs", "", ""); a.StatusCode != http.StatusForbidden {
			t.Errorf("a proxy %s: %d %s", name, a.StatusCode, a.body)
		}
		front.Close()
	}
}

// Where other machines can reach it, nobody is let in without a password.
func TestListenAddresses(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	addresses := []string{"0.0.0.0:0", ":0", "[::]:0", "192.0.2.1:80", "example.com:80", "0:0", "127.0.0.1.attacker.example:80", "127.1:0"}
	for _, address := range append(addresses, outside(t)...) {
		server, err := admin.Listen(t.Context(), r.admin, address)
		if err == nil {
			server.Close()
			t.Errorf("%s is listened on without a password", address)
			continue
		}
		dbtest.Mentions(t, err, "--users", "127.0.0.1")
	}
	if _, err := admin.Listen(t.Context(), r.admin, "127.0.0.1"); err == nil {
		t.Error("an address without a port is listened on")
	}
	// From outside, the loopback listener is not there.
	loopback := r.listen("127.0.0.1:0")
	_, port, _ := strings.Cut(strings.TrimPrefix(loopback, "http://"), ":")
	for _, address := range outside(t) {
		host, _, _ := net.SplitHostPort(address)
		if conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", net.JoinHostPort(host, port)); err == nil {
			conn.Close()
			t.Errorf("%s answers on port %s", host, port)
		}
	}
	// With credentials it may be anywhere, behind a proxy too.
	r.url = r.listen("0.0.0.0:0", admin.WithCredentials(credentials()...))
	_, port, _ = net.SplitHostPort(strings.TrimPrefix(r.url, "http://"))
	for _, address := range append(outside(t), "127.0.0.1:0") {
		host, _, _ := net.SplitHostPort(address)
		r.url = "http://" + net.JoinHostPort(host, port)
		request := r.request("GET", "/jobs", readerToken, "")
		request.Header.Set("X-Forwarded-For", "192.0.2.1")
		if a := r.send(request); a.StatusCode != http.StatusOK {
			t.Errorf("%s: %d %s", host, a.StatusCode, a.body)
		}
		r.fails(r.request("GET", "/jobs", "", ""), http.StatusUnauthorized, "UNAUTHENTICATED")
	}
}

// outside are addresses of this machine that others can reach.
func outside(t *testing.T) (found []string) {
	t.Helper()
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range addresses {
		if ip, ok := address.(*net.IPNet); ok && ip.IP.To4() != nil && !ip.IP.IsLoopback() && !ip.IP.IsLinkLocalUnicast() {
			found = append(found, net.JoinHostPort(ip.IP.String(), "0"))
		}
	}
	return found
}

// Below a path the document leads there, and so do the links.
func TestMounted(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h, err := admin.NewHandler(r.admin, admin.WithCredentials(credentials()...), admin.WithLogger(quiet))
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/tools/jobs/", http.StripPrefix("/tools/jobs", h))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	r.url = server.URL
	var document struct {
		Servers []struct{ URL string }
	}
	r.succeeds("GET", "/tools/jobs/openapi.json?", readerToken, "", nil).decode(t, &document)
	if len(document.Servers) != 1 || document.Servers[0].URL != "/tools/jobs/" {
		t.Errorf("the document leads to %+v", document.Servers)
	}
	if a := r.succeeds("GET", "/tools/jobs/", readerToken, "", nil); !strings.Contains(string(a.body), `<a href="openapi.json">`) {
		t.Errorf("the index: %s", a.body)
	}
	r.job(`'send', queue_name := 'a/b'`)
	var queue admin.Queue
	r.succeeds("GET", "/tools/jobs/queues/a%2Fb/stats", readerToken, "", &queue)
	if queue.Name != "a/b" {
		t.Errorf("the queue is %+v", queue)
	}
}

// What the database does not give is said: tables that are not there, rights, and the database itself.
func TestDatabaseTrouble(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	id := r.job("'send'")
	owner := dbtest.Connect(t, r.db.URL)
	role := dbtest.NewRole(t, owner)
	r.run("grant usage on schema graphile_worker to " + role)
	a, err := admin.Open(asRole(t, r.db.URL, role))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	own := r.admin
	r.admin = a
	r.url = r.serve(admin.WithCredentials(credentials()...))
	r.fails(r.request("GET", "/jobs/"+id, readerToken, ""), http.StatusServiceUnavailable, "UNREADABLE", "_private_jobs", "select")
	var list admin.JobList
	r.succeeds("GET", "/jobs", readerToken, "", &list)
	if len(list.Missing) == 0 {
		t.Errorf("the list does not say what is missing: %+v", list)
	}
	r.fails(r.request("DELETE", "/jobs/"+id, adminToken, ""), http.StatusServiceUnavailable, "DATABASE_REFUSES", "backfill migrate")
	r.admin = own
	r.url = r.serve(admin.WithCredentials(credentials()...))
	r.run("drop table graphile_worker.backfill_operation_items, graphile_worker.backfill_operations, graphile_worker.backfill_audit")
	r.succeeds("GET", "/jobs/"+id, readerToken, "", nil)
	r.fails(r.request("DELETE", "/jobs/"+id, adminToken, ""), http.StatusServiceUnavailable, "MIGRATE_REQUIRED", "backfill migrate")
	away, err := admin.Open("postgres://nobody:secret-password@127.0.0.1:1/none?connect_timeout=1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(away.Close)
	r.admin = away
	r.url = r.serve(admin.WithCredentials(credentials()...))
	answer := r.fails(r.request("GET", "/jobs", readerToken, ""), http.StatusServiceUnavailable, "DATABASE_UNAVAILABLE")
	if strings.Contains(string(answer.body), "secret-password") || strings.Contains(string(answer.body), "127.0.0.1") {
		t.Errorf("the response tells details: %s", answer.body)
	}
	if health := r.ask("GET", "/health", "", ""); health.StatusCode != http.StatusServiceUnavailable || !strings.Contains(string(health.body), "unavailable") {
		t.Errorf("health: %d %s", health.StatusCode, health.body)
	}
}

func asRole(t *testing.T, databaseURL, role string) string {
	t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	query := u.Query()
	query.Set("role", strings.ReplaceAll(strings.Trim(role, `"`), `""`, `"`))
	u.RawQuery = strings.ReplaceAll(query.Encode(), "+", "%20")
	return u.String()
}
