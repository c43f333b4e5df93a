package devpg_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
)

const nobody = 65534

// As a normal user, with a home of its own.
func TestAsNormalUser(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("all the other tests do that, for we are not root")
	}
	home, err := os.MkdirTemp("", "devpg-home-") //nolint:usetesting // t.TempDir is in a folder that the other user cannot enter
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(home) })
	program := filepath.Join(home, "test")
	// The folder of the test binary is root's alone.
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.Open(self)
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	writeProgram(t, program, content)
	if err := os.Chown(home, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	h := startHelper(t, "start", func(cmd *exec.Cmd) {
		cmd.Path, cmd.Args[0], cmd.Dir = program, program, home
		cmd.Env = append(cmd.Env, "HOME="+home, "XDG_CACHE_HOME="+filepath.Join(home, "cache"))
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	})
	if owner := ownerOf(t, h.data); owner != nobody {
		t.Errorf("the data is owned by %d", owner)
	}
	if templates, err := filepath.Glob(filepath.Join(home, "cache", "backfill", "devpg", "template-*", "data")); err != nil || len(templates) != 1 {
		t.Errorf("templates in its cache: %v, %v", templates, err)
	}
	h.cmd.Process.Kill()
	waitGone(t, h.data)
}

// As root where the kernel makes no user namespaces, as in many containers.
func TestAsRootWithoutNamespaces(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 || runtime.GOOS != "linux" {
		t.Skip("only root on Linux can try that")
	}
	all := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 65536}}
	h := startHelper(t, "without-namespaces", func(cmd *exec.Cmd) {
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER,
			UidMappings: all, GidMappings: all, GidMappingsEnableSetgroups: true,
		}
	})
	if ownerOf(t, h.data) == 0 {
		t.Error("the data is owned by root")
	}
	h.cmd.Process.Kill()
	waitGone(t, h.data)
}

func ownerOf(t *testing.T, path string) int {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return int(info.Sys().(*syscall.Stat_t).Uid)
}
