//go:build unix

package devpg_test

import (
	"os"
	"os/exec"
	"path/filepath"
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

func TestServerThatIsStuckIsKilled(t *testing.T) {
	t.Parallel()
	h := startHelper(t, "start", ownGroup)
	if err := syscall.Kill(postmaster(t, h.data), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := h.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	waitGone(t, h.data)
}

func TestReaper(t *testing.T) {
	t.Parallel()
	live, _ := start(t)
	dead := startHelper(t, "start", ownGroup)
	server := postmaster(t, dead.data)
	watchdog, err := syscall.Getpgid(server)
	if err != nil {
		t.Fatal(err)
	}
	// The whole group of the watchdog dies first, except for the server, and for a child of it that is too young to have a group
	// of its own: killing that would make the server restart.
	for line := range strings.Lines(processesOf(t, filepath.Dir(dead.data))) {
		pid, err := strconv.Atoi(strings.Fields(line)[0])
		if err != nil {
			t.Fatal(err)
		}
		if group, err := syscall.Getpgid(pid); err == nil && group == watchdog && pid != server && parentOf(t, pid) != server {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
	}
	if query(t, dead.url, "select 'ok'") != "ok" {
		t.Error("the server without a watchdog does not answer")
	}
	devpg.Reap()
	if query(t, dead.url, "select 'ok'") != "ok" {
		t.Error("the server of a living owner was reaped")
	}
	dead.cmd.Process.Kill()
	_ = dead.cmd.Wait() // killed
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

func parentOf(t *testing.T, pid int) int {
	t.Helper()
	out, err := exec.Command("ps", "-o", "ppid=", "-p", strconv.Itoa(pid)).Output()
	if err != nil {
		return 0 // it has ended
	}
	parent, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		t.Fatal(err)
	}
	return parent
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
