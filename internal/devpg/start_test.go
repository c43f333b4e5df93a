//go:build unix

package devpg_test

import (
	"errors"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/backfillhq/go/internal/devpg"
)

// query returns a single text.
func query(t *testing.T, url, sql string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	var text string
	if err := conn.QueryRow(t.Context(), sql).Scan(&text); err != nil {
		t.Fatal(err)
	}
	return text
}

func TestStopLeavesNothing(t *testing.T) {
	t.Parallel()
	server, err := devpg.Start(t.Context(), devpg.Config{})
	if err != nil {
		t.Fatal(err)
	}
	data := query(t, server.URL, "select current_setting('data_directory')")
	if processesOf(t, filepath.Dir(data)) == "" {
		t.Error("no process of the server was found while it runs")
	}
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	// Stop has waited: this is not eventually so, but now.
	if _, err := os.Lstat(filepath.Dir(data)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder is left: %v", err)
	}
	if left := processesOf(t, filepath.Dir(data)); left != "" {
		t.Errorf("processes are left:\n%s", left)
	}
	if err := server.Stop(); err != nil {
		t.Errorf("the second Stop: %v", err)
	}
}

func TestEphemeralIsFastAndPrivate(t *testing.T) {
	t.Parallel()
	server, data := start(t, devpg.Config{})
	for name, want := range map[string]string{
		"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off",
		"listen_addresses": "127.0.0.1", "unix_socket_directories": "",
		"max_connections": "300", "password_encryption": "scram-sha-256",
	} {
		if got := query(t, server.URL, "select current_setting('"+name+"')"); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	info, err := os.Stat(filepath.Dir(data))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o700 {
		t.Errorf("the folder's mode is %s", info.Mode())
	}
}

func TestPasswordIsNeededAndSecret(t *testing.T) {
	t.Parallel()
	server, _ := start(t, devpg.Config{})
	other, _ := start(t, devpg.Config{})
	refusesOthers(t, server.URL)
	if passwordOf(t, server.URL) == passwordOf(t, other.URL) {
		t.Error("two servers have the same password")
	}
}

func passwordOf(t *testing.T, connection string) string {
	t.Helper()
	parsed, err := url.Parse(connection)
	if err != nil {
		t.Fatal(err)
	}
	password, _ := parsed.User.Password()
	return password
}

// refusesOthers checks that a server takes no connection without its password.
func refusesOthers(t *testing.T, connection string) {
	t.Helper()
	wrong, err := url.Parse(connection)
	if err != nil {
		t.Fatal(err)
	}
	for name, user := range map[string]*url.Userinfo{
		"none": url.User("postgres"), "another": url.UserPassword("postgres", "wrong"),
	} {
		wrong.User = user
		conn, err := pgx.Connect(t.Context(), wrong.String())
		if err == nil {
			conn.Close(t.Context())
			t.Errorf("password %s: connected", name)
			continue
		}
		if found, ok := errors.AsType[*pgconn.PgError](err); name == "another" && (!ok || found.Code != "28P01") {
			t.Errorf("password %s: %v", name, err)
		}
	}
}

func TestFailedStartShowsTheLogWithoutThePassword(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	openToAll(t, dir)
	server, err := devpg.Start(t.Context(), devpg.Config{DataDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	password := passwordOf(t, server.URL)
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	// The server repeats what it does not understand.
	conf, err := os.OpenFile(filepath.Join(dir, "data", "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = conf.WriteString("\nwork_mem = '" + password + "'\n")
	if err := errors.Join(err, conf.Close()); err != nil {
		t.Fatal(err)
	}
	server, err = devpg.Start(t.Context(), devpg.Config{DataDir: dir})
	if err == nil {
		t.Fatal("it started", server.Stop())
	}
	if !strings.Contains(err.Error(), `parameter "work_mem": "<password>"`) || !strings.Contains(err.Error(), "the server exited") {
		t.Errorf("the error does not show the log: %v", err)
	}
	if strings.Contains(err.Error(), password) {
		t.Errorf("the error has the password: %v", err)
	}
	if left := processesOf(t, dir); left != "" {
		t.Errorf("processes are left:\n%s", left)
	}
}

func TestTwoAtOnceOnAColdCache(t *testing.T) {
	t.Parallel()
	cache, bin := t.TempDir(), realBin(t) // not to be fetched into this cache
	openToAll(t, cache)
	var group sync.WaitGroup
	helpers := make([]*helper, 2)
	for i := range helpers {
		group.Go(func() {
			helpers[i] = startHelper(t, "start", func(cmd *exec.Cmd) {
				cmd.Env = append(cmd.Env, "XDG_CACHE_HOME="+cache, "HOME="+cache, "PG_BIN="+bin)
			})
		})
	}
	group.Wait()
	if t.Failed() {
		return
	}
	if helpers[0].data == helpers[1].data || helpers[0].url == helpers[1].url {
		t.Error("both have the same server")
	}
	refusesOthers(t, helpers[0].url)
	templates, err := filepath.Glob(filepath.Join(cache, "*", "*", "*", "template-*", "password"))
	if err != nil {
		t.Fatal(err)
	}
	more, err := filepath.Glob(filepath.Join(cache, "*", "*", "template-*", "password"))
	if err != nil {
		t.Fatal(err)
	}
	if n := len(templates) + len(more); n != 1 {
		t.Errorf("there are %d templates, want 1", n)
	}
}

func TestCacheThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	file, bin := filepath.Join(t.TempDir(), "file"), realBin(t)
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	// A file where a folder should be stops even root.
	h := startHelper(t, "start", func(cmd *exec.Cmd) {
		cmd.Env = append(cmd.Env, "XDG_CACHE_HOME="+file, "HOME="+file, "PG_BIN="+bin)
	})
	if query(t, h.url, "select 'ok'") != "ok" {
		t.Error("no answer")
	}
}

func TestExistingServerIsLeftAlone(t *testing.T) {
	t.Parallel()
	server, data := start(t, devpg.Config{})
	h := startHelper(t, "dir="+t.TempDir(), func(cmd *exec.Cmd) {
		cmd.Env = append(cmd.Env, "DATABASE_URL="+server.URL)
	})
	if h.data != data || h.url != server.URL {
		t.Errorf("the helper has started %s, instead of using %s", h.data, data)
	}
	h.cmd.Process.Kill()
	_ = h.cmd.Wait() // killed
	if query(t, server.URL, "select 'ok'") != "ok" {
		t.Error("no answer")
	}
}
