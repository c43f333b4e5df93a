package devpg_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/internal/devpg"
)

func TestDataDirKeepsTheData(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "db")
	openToAll(t, filepath.Dir(dir))
	first, err := devpg.Start(t.Context(), devpg.WithDataDir(dir))
	if err != nil {
		t.Fatal(err)
	}
	if got := query(t, first.URL, "select current_setting('fsync') || current_setting('synchronous_commit')"); got != "onon" {
		t.Errorf("durability is %s", got)
	}
	execute(t, first.URL, "create table kept as select 42 as n")
	if err := first.Stop(); err != nil {
		t.Fatal(err)
	}
	if left := processesOf(t, dir); left != "" {
		t.Errorf("processes are left:\n%s", left)
	}
	if log, err := os.ReadFile(filepath.Join(dir, "log")); err != nil || !strings.Contains(string(log), "database system is shut down") {
		t.Errorf("it was not shut down in order: %v\n%s", err, log)
	}
	second, _ := start(t, devpg.WithDataDir(dir))
	if got := query(t, second.URL, "select n::text from kept"); got != "42" {
		t.Errorf("got %s", got)
	}
}

func TestDataDirIsShared(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	openToAll(t, dir)
	first, err := devpg.Start(t.Context(), devpg.WithDataDir(dir))
	if err != nil {
		t.Fatal(err)
	}
	h := startHelper(t, "dir="+dir, nil)
	if h.url != first.URL {
		t.Error("the second process has another server")
	}
	// The starter goes first: the server stays for the other one.
	if err := first.Stop(); err != nil {
		t.Fatal(err)
	}
	if query(t, h.url, "select 'ok'") != "ok" {
		t.Error("no answer")
	}
	h.cmd.Process.Kill()
	eventually(t, func() string { return processesOf(t, dir) })
	if _, err := os.Stat(filepath.Join(dir, "data", "PG_VERSION")); err != nil {
		t.Errorf("the data: %v", err)
	}
}

// One is killed while the next one starts, as tools that restart a program do.
func TestDataDirChangesHands(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	openToAll(t, dir)
	h := startHelper(t, "dir="+dir, nil)
	execute(t, h.url, "create table kept as select 0 as n")
	for range 5 {
		if err := h.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		h = startHelper(t, "dir="+dir, nil)
		execute(t, h.url, "update kept set n = n + 1")
	}
	if got := query(t, h.url, "select n::text from kept"); got != "5" {
		t.Errorf("got %s, want 5", got)
	}
	h.cmd.Process.Kill()
	eventually(t, func() string { return processesOf(t, dir) })
}

func TestDataDirOfAnotherMajor(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "data", "PG_VERSION"), []byte("13\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	server, err := devpg.Start(t.Context(), devpg.WithDataDir(dir), devpg.WithMajor(14))
	if err == nil {
		t.Fatal("it started", server.Stop())
	}
}

func execute(t *testing.T, url, sql string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}
