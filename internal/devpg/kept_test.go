//go:build unix

package devpg_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/internal/devpg"
)

func TestDataDirKeepsTheData(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "db")
	openToAll(t, filepath.Dir(dir))
	first, err := devpg.Start(t.Context(), devpg.Config{DataDir: dir})
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
	second, _ := start(t, devpg.Config{DataDir: dir})
	if got := query(t, second.URL, "select n::text from kept"); got != "42" {
		t.Errorf("got %s", got)
	}
}

func TestDataDirIsOfOneProcess(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	openToAll(t, dir)
	h := startHelper(t, "dir="+dir, nil)
	server, err := devpg.Start(t.Context(), devpg.Config{DataDir: dir})
	busy, ok := errors.AsType[*devpg.InUseError](err)
	if !ok {
		t.Fatalf("the server is %v, the error is %v", server, err)
	}
	if busy.URL != h.url || busy.Dir != dir || strings.Contains(err.Error(), passwordOf(t, h.url)) {
		t.Errorf("the error is %v, with the folder %s", err, busy.Dir)
	}
	if query(t, busy.URL, "select 'ok'") != "ok" {
		t.Error("no answer")
	}
}

// Of many that start at once in a new folder, one has it, and the others wait to say so.
func TestDataDirByTenAtOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	openToAll(t, dir)
	var group sync.WaitGroup
	var have, busy atomic.Int32
	servers := make([]*devpg.Server, 10)
	for i := range servers {
		group.Go(func() {
			var err error
			servers[i], err = devpg.Start(t.Context(), devpg.Config{DataDir: dir})
			switch found, ok := errors.AsType[*devpg.InUseError](err); {
			case ok && found.URL != "":
				busy.Add(1)
			case err == nil:
				have.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	group.Wait()
	if have.Load() != 1 || busy.Load() != 9 {
		t.Errorf("%d have the folder, %d know that it is in use", have.Load(), busy.Load())
	}
	for _, server := range servers {
		if server != nil {
			if err := server.Stop(); err != nil {
				t.Error(err)
			}
		}
	}
}

// One is killed and the next one starts, as tools that restart a program do.
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
		_ = h.cmd.Wait() // killed
		h = startHelper(t, "dir="+dir, nil)
		execute(t, h.url, "update kept set n = n + 1")
	}
	if got := query(t, h.url, "select n::text from kept"); got != "5" {
		t.Errorf("got %s, want 5", got)
	}
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
	server, err := devpg.Start(t.Context(), devpg.Config{DataDir: dir, Major: 14})
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
