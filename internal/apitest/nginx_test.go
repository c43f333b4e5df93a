package apitest_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/backfillhq/go/backfill/admin"
	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/needs"
)

// nginx starts one with a location, and returns what sends requests through it.
func (r *rig) nginx(location string) func(*http.Request) *answer {
	r.Helper()
	binary, err := exec.LookPath("nginx")
	if err != nil {
		binary, err = exec.LookPath("/usr/sbin/nginx")
	}
	needs.That(r.T, err == nil, "nginx")
	dir, err := os.MkdirTemp("", "nginx") // a short path, for the socket
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { os.RemoveAll(dir) })
	var temps strings.Builder
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		fmt.Fprintf(&temps, "%s_temp_path %s/%s;\n", kind, dir, kind)
	}
	config := fmt.Sprintf("daemon off;\nmaster_process off;\npid %s/pid;\nerror_log stderr;\nevents {}\nhttp {\naccess_log off;\n%sserver {\nlisten unix:%s/socket;\n%s\n}\n}\n",
		dir, &temps, dir, location)
	if err := os.WriteFile(filepath.Join(dir, "conf"), []byte(config), 0o600); err != nil {
		r.Fatal(err)
	}
	var said strings.Builder
	server := exec.Command(binary, "-p", dir, "-e", "stderr", "-c", filepath.Join(dir, "conf"))
	server.Stderr = &said
	if err := server.Start(); err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() {
		server.Process.Kill()
		_ = server.Wait() // it was killed
		if r.Failed() {
			r.Log(said.String())
		}
	})
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(dir, "socket"))
	}
	dbtest.Until(r.T, func() bool {
		conn, err := dial(r.Context(), "", "")
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	transport := &http.Transport{DialContext: dial}
	r.Cleanup(transport.CloseIdleConnections)
	return func(request *http.Request) *answer { return r.sendBy(transport, request) }
}

// Behind nginx, as the page sets it up, everything works; and who needs no password is not let in.
func TestNginx(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	text, err := os.ReadFile("../../docs/http-api.md")
	if err != nil {
		t.Fatal(err)
	}
	_, page, _ := strings.Cut(string(text), "```text\nlocation")
	documented, _, _ := strings.Cut("location"+page, "```")
	own := strings.TrimPrefix(r.listen("127.0.0.1:0", admin.WithCredentials(credentials()...), admin.WithHosts("jobs.example.com")), "http://")
	location := strings.ReplaceAll(documented, "127.0.0.1:5678", own)
	if location == documented {
		t.Fatalf("the page has no address in %q", documented)
	}
	ask := func(method, path, body string, headers ...string) *http.Request {
		request := r.request(method, path, adminToken, body)
		request.Host = "jobs.example.com"
		for i := 0; i < len(headers); i += 2 {
			request.Header.Set(headers[i], headers[i+1])
		}
		return request
	}
	through := r.nginx(location)
	var document struct {
		Servers []struct{ URL string }
	}
	through(ask("GET", "/jobs/openapi.json", "")).decode(t, &document)
	if len(document.Servers) != 1 || document.Servers[0].URL != "/jobs/" {
		t.Errorf("the document leads to %+v", document.Servers)
	}
	browser := []string{"Origin", "https://jobs.example.com"}
	for _, more := range [][]string{browser, append(browser, "Sec-Fetch-Site", "same-origin")} {
		if a := through(ask("POST", "/jobs/jobs", `{"task": "send"}`, more...)); a.StatusCode != http.StatusCreated {
			t.Errorf("a change by %q: %d %s", more, a.StatusCode, a.body)
		}
	}
	if a := through(ask("POST", "/jobs/jobs", `{"task": "send"}`, "Origin", "https://attacker.example")); a.StatusCode != http.StatusForbidden {
		t.Errorf("a change of another origin: %d %s", a.StatusCode, a.body)
	}
	without := r.nginx(strings.Replace(location, "proxy_set_header Host $host;", "", 1))
	if a := without(ask("POST", "/jobs/jobs", `{"task": "send"}`, browser...)); a.StatusCode != http.StatusForbidden || !strings.Contains(string(a.body), "pass the Host header on") {
		t.Errorf("without the Host header: %d %s", a.StatusCode, a.body)
	}
	anonymous := r.listen("127.0.0.1:0")
	for _, more := range []string{"", "proxy_http_version 1.1; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;", "proxy_http_version 1.1; proxy_set_header X-Real-IP $remote_addr;"} {
		a := r.nginx("location / { proxy_pass " + anonymous + "; " + more + " }")(ask("GET", "/jobs", ""))
		if a.StatusCode != http.StatusForbidden || !strings.Contains(string(a.body), "PROXIED") {
			t.Errorf("without a password, behind nginx with %q: %d %s", more, a.StatusCode, a.body)
		}
	}
}
