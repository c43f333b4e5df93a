//go:build unix && !linux

package devpg

import (
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// What follows is only for Linux: a signal when the parent ends, user namespaces, /dev/shm.

func stopWithParent(*syscall.SysProcAttr) {}

func renumbered(_, _ int) (account, bool) { return account{}, false }

func memoryDir() (string, bool) { return "", false }

// describe returns who runs a process, and its command line.
func describe(pid int) (uid int, command string, ok bool) {
	out, err := exec.Command("ps", "-ww", "-o", "uid=,command=", "-p", strconv.Itoa(pid)).Output()
	if err != nil {
		return 0, "", false
	}
	first, rest, _ := strings.Cut(strings.TrimSpace(string(out)), " ")
	uid, err = strconv.Atoi(first)
	return uid, rest, err == nil
}
