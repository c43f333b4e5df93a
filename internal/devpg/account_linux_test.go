package devpg_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
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
	bin := copiedBin(t, home)
	if err := os.Chown(home, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	h := startHelper(t, "start", func(cmd *exec.Cmd) {
		cmd.Path, cmd.Args[0], cmd.Dir = program, program, home
		cmd.Env = append(cmd.Env, "HOME="+home, "XDG_CACHE_HOME="+filepath.Join(home, "cache"), "PG_BIN="+bin)
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

// withoutNamespaces runs a helper where the kernel makes no user namespaces, as in many containers.
func withoutNamespaces(cmd *exec.Cmd) {
	all := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 65536}}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: all, GidMappings: all, GidMappingsEnableSetgroups: true,
	}
}

// The server then has another account, and ends with its parent all the same.
func TestAsRootWithoutNamespaces(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can try that")
	}
	home := t.TempDir()
	openToAll(t, home)
	bin := copiedBin(t, home)
	for _, mode := range []string{"", "kept"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			openToAll(t, dir)
			arg := ""
			if mode == "kept" {
				arg = "=" + dir
			}
			h := startHelper(t, "without-namespaces"+arg, func(cmd *exec.Cmd) {
				withoutNamespaces(cmd)
				cmd.Env = append(cmd.Env, "HOME="+home, "XDG_CACHE_HOME=", "PG_BIN="+bin)
			})
			if ownerOf(t, h.data) == 0 {
				t.Error("the data is owned by root")
			}
			server := postmaster(t, h.data)
			if owner := ownerOf(t, "/proc/"+strconv.Itoa(server)); owner == 0 {
				t.Error("the server runs as root")
			}
			h.cmd.Process.Kill()
			if mode == "kept" {
				eventually(t, func() string { return processesOf(t, dir) })
				return
			}
			waitGone(t, h.data)
		})
	}
}

// Root's folders count, unless PostgreSQL's account cannot enter them.
func TestCacheDirAsRoot(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root has another account for PostgreSQL")
	}
	closed, open := t.TempDir(), t.TempDir()
	openToAll(t, closed)
	openToAll(t, open)
	if err := os.Chmod(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	cacheDir := func(mode, home string, prepare func(*exec.Cmd)) string {
		t.Helper()
		program, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(program, "-test.run=^$")
		cmd.Env = append(os.Environ(), helperMode+"="+mode, "HOME="+home, "XDG_CACHE_HOME=")
		prepare(cmd)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return strings.TrimSpace(string(out))
	}
	inHome := func(home string) string { return filepath.Join(home, ".cache", "backfill", "test") }
	if got := cacheDir("without-namespaces=cache", open, withoutNamespaces); got != inHome(open) {
		t.Errorf("got %s, want %s", got, inHome(open))
	}
	first := cacheDir("without-namespaces=cache", closed, withoutNamespaces)
	t.Cleanup(func() { os.RemoveAll(filepath.Dir(first)) })
	if !strings.HasPrefix(first, "/var/cache/backfill/") {
		t.Errorf("got %s, which PostgreSQL cannot enter", first)
	}
	if err := os.Chmod(open, 0o700); err != nil {
		t.Fatal(err)
	}
	second := cacheDir("without-namespaces=cache", open, withoutNamespaces)
	t.Cleanup(func() { os.RemoveAll(filepath.Dir(second)) })
	if first == second {
		t.Errorf("two homes have one folder, %s", first)
	}
	if again := cacheDir("without-namespaces=cache", closed, withoutNamespaces); again != first {
		t.Errorf("got %s, then %s", first, again)
	}
}

// copiedBin returns PostgreSQL's programs where any account can run them: npm's are in the cache of
// this one, and are copied into dir.
func copiedBin(t *testing.T, dir string) string {
	t.Helper()
	bin := realBin(t)
	native := filepath.Dir(bin)
	if filepath.Base(native) != "native" {
		return bin
	}
	if err := os.CopyFS(filepath.Join(dir, "native"), os.DirFS(native)); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "native", "bin")
}

func ownerOf(t *testing.T, path string) int {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return int(info.Sys().(*syscall.Stat_t).Uid)
}
