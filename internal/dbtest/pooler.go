package dbtest

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/internal/needs"
)

// Pooler starts a PgBouncer before the server of a URL, in the pool mode session, transaction or
// statement, with this many sessions and more lines of configuration, and returns the URL that
// leads through it.
func Pooler(t *testing.T, databaseURL, mode string, sessions int, more ...string) string {
	t.Helper()
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		program = "/usr/sbin/pgbouncer" // where Debian puts it, which users' paths lack
		_, err = os.Stat(program)
	}
	needs.That(t, err == nil, "pgbouncer")
	u, err := url.Parse(databaseURL)
	needs.That(t, err == nil && u.Host != "", "URL with one host for the test server")
	server, err := pgx.ParseConfig(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	port := freePort(t)
	folder, err := os.MkdirTemp("", "pooler") //nolint:usetesting // the pooler's own user must get there
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	quote := func(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }
	ini := filepath.Join(folder, "pgbouncer.ini")
	text := fmt.Sprintf(`[databases]
* = host=%s port=%d user=%s password=%s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %s
unix_socket_dir =
auth_type = any
pool_mode = %s
default_pool_size = %d
ignore_startup_parameters = extra_float_digits
%s
`, server.Host, server.Port, quote(server.User), quote(server.Password), port, mode, sessions, strings.Join(more, "\n"))
	//nolint:gosec // the pooler's own user reads them, and the test server's password is no secret
	for path, change := range map[string]func(string) error{
		folder: func(path string) error { return os.Chmod(path, 0o755) },
		ini:    func(path string) error { return os.WriteFile(path, []byte(text), 0o644) },
	} {
		if err := change(path); err != nil {
			t.Fatal(err)
		}
	}
	command := exec.CommandContext(t.Context(), program, ini)
	asOrdinaryUser(command)
	var log strings.Builder
	command.Stdout, command.Stderr = &log, &log
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // t.Context, which ends first, has ended it
		_ = command.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	u.Host = "127.0.0.1:" + port
	Until(t, func() bool {
		conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", u.Host)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
	return u.String()
}

func freePort(t *testing.T) string {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}
