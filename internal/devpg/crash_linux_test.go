package devpg_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/backfillhq/go/internal/devpg"
)

// ownGroup makes the helper the leader of a process group, as a shell does.
func ownGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

func TestNothingIsLeftHoweverTheProcessEnds(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*helper) error{
		"killed":          func(h *helper) error { return h.cmd.Process.Kill() },
		"Ctrl-C":          func(h *helper) error { return syscall.Kill(-h.cmd.Process.Pid, syscall.SIGINT) },
		"exit, no Stop":   func(h *helper) error { return h.input.Close() },
		"group is killed": func(h *helper) error { return syscall.Kill(-h.cmd.Process.Pid, syscall.SIGKILL) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := startHelper(t, "start", ownGroup)
			if err := end(h); err != nil {
				t.Fatal(err)
			}
			waitGone(t, h.data)
		})
	}
}

// The kernel stops the server when the thread that started it ends. That is none of the caller's.
func TestServerOutlivesTheThreadOfItsCaller(t *testing.T) {
	t.Parallel()
	var server *devpg.Server
	var err error
	var thread int
	var onThread func()
	onThread = func() {
		runtime.LockOSThread() // and not unlocked: this thread ends with the goroutine
		if thread = syscall.Gettid(); thread != os.Getpid() {
			server, err = devpg.Start(context.Background(), devpg.Config{})
			return
		}
		inGoroutine(onThread) // the main thread does not end, and is taken
		runtime.UnlockOSThread()
	}
	inGoroutine(onThread)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	})
	eventually(t, func() string {
		if _, err := os.Stat("/proc/self/task/" + strconv.Itoa(thread)); err == nil {
			return "the thread is still there"
		}
		return ""
	})
	start(t, devpg.Config{}) // which takes longer than a stop would
	if query(t, server.URL, "select 'ok'") != "ok" {
		t.Error("no answer")
	}
}

func inGoroutine(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	<-done
}

// As in test binaries, where nobody stops the server: its folder must not go with the garbage.
func TestServerThatNothingRefersToStays(t *testing.T) {
	t.Parallel()
	url, data := func() (string, string) {
		server, err := devpg.Start(t.Context(), devpg.Config{})
		if err != nil {
			t.Fatal(err)
		}
		data, err := dataDirectory(t.Context(), server.URL)
		if err != nil {
			t.Fatal(err)
		}
		return server.URL, data
	}()
	for range 3 {
		collected := make(chan struct{})
		runtime.SetFinalizer(new([4096]byte), func(*[4096]byte) { close(collected) })
		runtime.GC()
		<-collected
	}
	if query(t, url, "select 'ok'") != "ok" {
		t.Error("no answer")
	}
	if line := processesOf(t, filepath.Dir(data)); !strings.Contains(line, "rm -rf") {
		t.Errorf("the sweeper is gone: %s", line)
	}
}

func TestNoKeptServerIsLeft(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	openToAll(t, dir)
	h := startHelper(t, "dir="+dir, ownGroup)
	execute(t, h.url, "create table kept as select 42 as n")
	signal(t, h.cmd.Process.Pid, syscall.SIGKILL)
	eventually(t, func() string { return processesOf(t, dir) })
	_ = h.cmd.Wait() // killed
	server, _ := start(t, devpg.Config{DataDir: dir})
	if got := query(t, server.URL, "select n::text from kept"); got != "42" {
		t.Errorf("got %s", got)
	}
}

func TestCtrlCDoesNotReachTheServer(t *testing.T) {
	t.Parallel()
	h := startHelper(t, "start", ownGroup)
	server := postmaster(t, h.data)
	group, err := syscall.Getpgid(server)
	if err != nil {
		t.Fatal(err)
	}
	if group == h.cmd.Process.Pid {
		t.Error("the server is in the process group of its starter")
	}
}

// A server that cannot be told to stop, and a folder that nobody removed, are for the next Start.
func TestReaper(t *testing.T) {
	t.Parallel()
	live, _ := start(t, devpg.Config{})
	dead := startHelper(t, "start", ownGroup)
	folder := filepath.Dir(dead.data)
	for line := range strings.Lines(processesOf(t, folder)) {
		if strings.Contains(line, "rm -rf") { // the sweeper
			signal(t, pidOf(t, line), syscall.SIGKILL)
		}
	}
	signal(t, postmaster(t, dead.data), syscall.SIGSTOP)
	devpg.Reap()
	if processesOf(t, folder) == "" {
		t.Error("the server of a living owner was reaped")
	}
	dead.cmd.Process.Kill()
	_ = dead.cmd.Wait() // killed
	if processesOf(t, folder) == "" {
		t.Fatal("the server is not stuck")
	}
	devpg.Reap()
	waitGone(t, dead.data)
	if query(t, live.URL, "select 'ok'") != "ok" {
		t.Error("a living server was reaped")
	}
}

// A process that has got the number of a server which is gone must live.
func TestReaperSparesAReusedNumber(t *testing.T) {
	t.Parallel()
	folder, err := os.MkdirTemp("", "backfill-pg-") //nolint:usetesting // where the reaper looks
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	bystander := exec.Command("sleep", "600")
	if err := bystander.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- bystander.Wait() }()
	t.Cleanup(func() { bystander.Process.Kill() })
	if err := os.Mkdir(filepath.Join(folder, "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	pidFile := filepath.Join(folder, "data", "postmaster.pid")
	if err := os.WriteFile(pidFile, []byte(strconv.Itoa(bystander.Process.Pid)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	devpg.Reap()
	waitGone(t, filepath.Join(folder, "data"))
	if err := bystander.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the bystander: %v", err)
	}
	select {
	case err := <-ended:
		t.Errorf("the bystander has ended: %v", err)
	default:
	}
}

func signal(t *testing.T, pid int, signal syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, signal); err != nil {
		t.Fatal(err)
	}
}

func pidOf(t *testing.T, line string) int {
	t.Helper()
	first, _, _ := strings.Cut(line, " ")
	pid, err := strconv.Atoi(first)
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func postmaster(t *testing.T, data string) int {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(data, "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(string(content), "\n")
	pid, err := strconv.Atoi(line)
	if err != nil {
		t.Fatal(err)
	}
	return pid
}
