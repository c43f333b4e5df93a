package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/backfillhq/go/testutil/pgtest"
)

// serve runs backfill ui until the test ends, and returns its address and what it says of it.
func serve(t *testing.T, db *pgtest.Database, arguments ...string) (address, says string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	reader, writer := io.Pipe()
	var errs bytes.Buffer
	ended := make(chan int, 1)
	go func() {
		code := run(ctx, append([]string{"backfill", "ui", "--database-url", db.URL}, arguments...), strings.NewReader(""), writer, &errs)
		writer.Close()
		ended <- code
	}()
	t.Cleanup(func() {
		cancel()
		if code := <-ended; code != 0 {
			t.Errorf("exit code %d: %s", code, &errs)
		}
	})
	line, err := bufio.NewReader(reader).ReadString('\n')
	if err != nil {
		t.Fatalf("%v: %s", err, &errs)
	}
	go func() { _, _ = io.Copy(io.Discard, reader) }()
	found := regexp.MustCompile(`^http://(\S+)/ (.*)\n$`).FindStringSubmatch(line)
	if found == nil {
		t.Fatalf("it says %q", line)
	}
	return found[1], found[2]
}

// status asks a server by an address for a host.
func status(t *testing.T, address, host, method, path, token string) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, "http://"+address+path, strings.NewReader(""))
	if err != nil {
		t.Fatal(err)
	}
	request.Host = host
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := http.DefaultTransport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

// With its defaults, backfill ui is there for this machine alone, and changes nothing.
func TestUIDefaults(t *testing.T) {
	t.Parallel()
	for _, flag := range uiCommand().Flags { // the port may be taken here, so that another is used below
		if flag.Names()[0] == flagListen && flag.String() != "" {
			says(t, flag.String(), `"127.0.0.1:5678"`)
		}
	}
	db := pgtest.New(t)
	address, what := serve(t, db, "--listen", "127.0.0.1:0")
	says(t, what, "everybody on this machine", "all but payloads")
	if code, body := status(t, address, address, "GET", "/jobs", ""); code != http.StatusOK {
		t.Errorf("a read: %d %s", code, body)
	}
	if code, body := status(t, address, address, "DELETE", "/jobs/1", ""); code != http.StatusForbidden || !strings.Contains(body, "READ_ONLY") {
		t.Errorf("a change: %d %s", code, body)
	}
	if code, body := status(t, address, "jobs.example.com", "GET", "/jobs", ""); code != http.StatusMisdirectedRequest {
		t.Errorf("another host: %d %s", code, body)
	}
	_, port, _ := net.SplitHostPort(address)
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addresses {
		ip, ok := a.(*net.IPNet)
		if !ok || ip.IP.IsLoopback() || ip.IP.IsLinkLocalUnicast() {
			continue
		}
		if conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", net.JoinHostPort(ip.IP.String(), port)); err == nil {
			conn.Close()
			t.Errorf("it answers on %s", ip.IP)
		}
	}
}

func secretsFile(t *testing.T, text string, mode os.FileMode) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "secrets")
	if err := os.WriteFile(name, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(name, mode); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestUIUsers(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	users := secretsFile(t, "# who may\n\nrita reader rita-0123456789abcdef\nanna reader,operator anna-0123456789abcdef 2099-01-01T00:00:00Z\nerik admin erik-0123456789abcdef 2020-01-01T00:00:00Z\n", 0o600)
	token := secretsFile(t, "token-0123456789abcdef\n", 0o640)
	address, what := serve(t, db, "--listen", "0.0.0.0:0", "--users", users, "--token-file", token, "--allow-host", "jobs.example.com")
	says(t, what, "password")
	_, port, _ := net.SplitHostPort(address)
	for _, test := range []struct {
		token, method, host string
		want                int
	}{
		{"rita-0123456789abcdef", "GET", "jobs.example.com", 200},
		{"rita-0123456789abcdef", "GET", "other.example.com", 421},
		{"rita-0123456789abcdef", "DELETE", "127.0.0.1", 403},
		{"anna-0123456789abcdef", "GET", "127.0.0.1", 200},
		{"token-0123456789abcdef", "DELETE", "127.0.0.1", 404},
		{"erik-0123456789abcdef", "GET", "127.0.0.1", 401},
		{"", "GET", "127.0.0.1", 401},
	} {
		path := "/jobs"
		if test.method == "DELETE" {
			path = "/jobs/4711"
		}
		if code, body := status(t, "127.0.0.1:"+port, test.host, test.method, path, test.token); code != test.want {
			t.Errorf("%+v: %d %s", test, code, body)
		}
	}
}

// What is wrong is said, without the secrets, and nothing is served.
func TestUIUsage(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	const secret = "secret-0123456789abcdef"
	good := "rita reader " + secret + "\n"
	for name, test := range map[string]struct {
		arguments []string
		says      []string
	}{
		"everywhere":       {[]string{"--listen", "0.0.0.0:0"}, []string{"--users", "127.0.0.1"}},
		"every name":       {[]string{"--listen", ":5678"}, []string{"--users", "127.0.0.1"}},
		"no port":          {[]string{"--listen", "127.0.0.1"}, []string{"127.0.0.1:5678"}},
		"no file":          {[]string{"--users", "/nowhere"}, []string{"no such file"}},
		"empty file name":  {[]string{"--users", ""}, []string{"--users"}},
		"read by others":   {[]string{"--users", secretsFile(t, good, 0o644)}, []string{"chmod o="}},
		"written by them":  {[]string{"--token-file", secretsFile(t, secret, 0o602)}, []string{"chmod o="}},
		"no users":         {[]string{"--users", secretsFile(t, "# none\n", 0o600)}, []string{"no user"}},
		"two words":        {[]string{"--users", secretsFile(t, "rita "+secret, 0o600)}, []string{"line 1", "NAME ROLE SECRET"}},
		"no role":          {[]string{"--users", secretsFile(t, "\nrita boss "+secret, 0o600)}, []string{"line 2", "reader, operator or admin"}},
		"short secret":     {[]string{"--users", secretsFile(t, "rita reader short", 0o600)}, []string{"16", "openssl rand"}},
		"no time":          {[]string{"--users", secretsFile(t, "rita reader "+secret+" soon", 0o600)}, []string{"line 1", "2027-01-31"}},
		"two tokens":       {[]string{"--token-file", secretsFile(t, secret+" "+secret, 0o600)}, []string{"a token alone"}},
		"host with scheme": {[]string{"--allow-host", "https://jobs.example.com"}, []string{"without scheme"}},
		"no origin":        {[]string{"--trust-origin", "jobs.example.com"}, []string{"origin"}},
		"an argument":      {[]string{"5678"}, []string{"flags only"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, stderr := command(t, exitUsage, append([]string{"ui", "--database-url", db.URL}, test.arguments...)...)
			says(t, stderr, test.says...)
			if strings.Contains(stderr, secret) {
				t.Errorf("it repeats the secret: %s", stderr)
			}
		})
	}
	busy, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { busy.Close() })
	_, stderr := command(t, exitProblem, "ui", "--database-url", db.URL, "--listen", busy.Addr().String())
	says(t, stderr, "in use")
}
