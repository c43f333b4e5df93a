package dbtest

import (
	"context"
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
// leads through it. It runs until the test and what was to be cleaned up after it have ended.
func Pooler(t *testing.T, databaseURL, mode string, sessions int, more ...string) string {
	t.Helper()
	return NewPgBouncer(t, databaseURL, mode, sessions, more...).URL
}

// PgBouncer is a pooler that can be stopped and started again.
type PgBouncer struct {
	URL string

	t       *testing.T
	program string
	ini     string
	address string
	command *exec.Cmd // nil: it does not run
	log     strings.Builder
}

// NewPgBouncer starts a PgBouncer as Pooler does.
func NewPgBouncer(t *testing.T, databaseURL, mode string, sessions int, more ...string) *PgBouncer {
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
	port := FreePort(t)
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
	u.Host = "127.0.0.1:" + port
	p := &PgBouncer{URL: u.String(), t: t, program: program, ini: ini, address: u.Host}
	p.Start()
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Log(p.log.String())
		}
	})
	return p
}

// Start starts it again, and waits until it takes connections.
func (p *PgBouncer) Start() {
	p.t.Helper()
	command := exec.CommandContext(context.WithoutCancel(p.t.Context()), p.program, p.ini)
	asOrdinaryUser(command)
	command.Stdout, command.Stderr = &p.log, &p.log
	if err := command.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.command = command
	Until(p.t, func() bool {
		conn, err := new(net.Dialer).DialContext(p.t.Context(), "tcp", p.address)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
}

// Kill ends it, with all connections.
func (p *PgBouncer) Kill() {
	if p.command != nil {
		_ = p.command.Process.Kill()
		_ = p.command.Wait()
		p.command = nil
	}
}
