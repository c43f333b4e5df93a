//go:build unix

package devpg_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/internal/devpg"
)

// helperMode names, in a child of the test binary, what the child shall do.
const helperMode = "DEVPG_TEST_HELPER"

func TestMain(m *testing.M) {
	mode := os.Getenv(helperMode)
	if mode == "" {
		// The servers of these tests are private ones, whatever the tests run with.
		for _, entry := range os.Environ() {
			name, _, _ := strings.Cut(entry, "=")
			if name == "DATABASE_URL" || strings.HasPrefix(name, "PG") && name != "PG_BIN" {
				os.Unsetenv(name)
			}
		}
		os.Exit(m.Run())
	}
	if err := help(mode); err != nil {
		fmt.Fprintln(os.Stdout, "error:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// help starts a server, says where it is, and ends as told by its input. It
// never stops the server.
func help(mode string) error {
	var cfg devpg.Config
	switch name, arg, _ := strings.Cut(mode, "="); name {
	case "start":
	case "dir":
		cfg.DataDir = arg
	case "without-namespaces":
		if err := os.WriteFile("/proc/sys/user/max_user_namespaces", []byte("0"), 0); err != nil {
			return err
		}
		switch arg {
		case "":
		case "cache":
			return sayCacheDir()
		default:
			cfg.DataDir = arg
		}
	default:
		return errors.New("what is " + mode)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	server, err := devpg.Start(ctx, cfg)
	if err != nil {
		return err
	}
	dir, err := dataDirectory(ctx, server.URL)
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stdout, server.URL)
	fmt.Fprintln(os.Stdout, dir)
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

func sayCacheDir() error {
	dir, err := devpg.CacheDir("test")
	if err == nil {
		_, err = fmt.Fprintln(os.Stdout, dir)
	}
	return err
}

func dataDirectory(ctx context.Context, url string) (string, error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx)
	var dir string
	err = conn.QueryRow(ctx, "select current_setting('data_directory')").Scan(&dir)
	return dir, err
}

// A helper is a child of the test that has started a server.
type helper struct {
	cmd       *exec.Cmd
	input     io.Closer
	url, data string
}

// startHelper runs the test binary as another process. It is killed, and its
// server with it, at the end of the test at the latest.
func startHelper(t *testing.T, mode string, prepare func(*exec.Cmd)) *helper {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	h := &helper{cmd: exec.Command(program, "-test.run=^$")}
	h.cmd.Env = append(os.Environ(), helperMode+"="+mode)
	h.cmd.Stderr = os.Stderr
	if prepare != nil {
		prepare(h.cmd)
	}
	if h.input, err = h.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	output, err := h.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := h.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		h.cmd.Process.Kill()
		_ = h.cmd.Wait() // killed
	})
	lines := bufio.NewScanner(output)
	for _, line := range []*string{&h.url, &h.data} {
		if !lines.Scan() || strings.HasPrefix(lines.Text(), "error:") {
			rest, _ := io.ReadAll(output)
			t.Fatalf("the helper said: %s\n%s", lines.Text(), rest)
		}
		*line = lines.Text()
	}
	return h
}

// start starts a server in this process.
func start(t *testing.T, cfg devpg.Config) (server *devpg.Server, data string) {
	t.Helper()
	server, err := devpg.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	})
	if data, err = dataDirectory(t.Context(), server.URL); err != nil {
		t.Fatal(err)
	}
	return server, data
}

// waitGone waits until a server's folder and all its processes are gone.
func waitGone(t *testing.T, data string) {
	t.Helper()
	folder := filepath.Dir(data)
	eventually(t, func() string {
		if _, err := os.Lstat(folder); err == nil {
			return "the folder is still there: " + folder
		}
		return processesOf(t, folder)
	})
}

// eventually waits until f has nothing to complain about.
func eventually(t *testing.T, f func() string) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		complaint := f()
		if complaint == "" {
			return
		}
		select {
		case <-deadline:
			t.Fatal(complaint)
		case <-tick.C:
		}
	}
}

// processesOf lists the processes that name a folder in their arguments, as the server does.
func processesOf(t *testing.T, folder string) string {
	t.Helper()
	var all []string
	if runtime.GOOS == "linux" { // where ps may not be installed
		files, err := filepath.Glob("/proc/[0-9]*/cmdline")
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			content, _ := os.ReadFile(file) // empty when the process has just ended, or is a zombie
			arguments := strings.ReplaceAll(strings.ReplaceAll(string(content), "\x00", " "), "\n", " ")
			all = append(all, filepath.Base(filepath.Dir(file))+" "+arguments+"\n")
		}
	} else {
		out, err := exec.Command("ps", "-A", "-ww", "-o", "pid=,args=").Output()
		if err != nil {
			t.Fatal(err)
		}
		all = slices.Collect(strings.Lines(string(out)))
	}
	return strings.Join(slices.DeleteFunc(all, func(line string) bool { return !strings.Contains(line, folder) }), "")
}

// writeProgram writes a program in a process of its own: a child that another
// test starts meanwhile would inherit our descriptor, and what is open for
// writing cannot be run.
func writeProgram(t *testing.T, path string, content io.Reader) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-c", `cat >"$0" && chmod 755 "$0"`, path)
	cmd.Stdin = content
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("write %s: %v: %s", path, err, out)
	}
}
