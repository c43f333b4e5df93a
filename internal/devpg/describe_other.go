//go:build unix && !linux

package devpg

import (
	"os/exec"
	"strconv"
	"strings"
)

// describe returns who runs a process, and its command line.
func describe(pid int) (uid int, command string, ok bool) {
	out, err := exec.Command("ps", "-ww", "-o", "uid=,command=", "-p", strconv.Itoa(pid)).Output()
	if err != nil {
		return 0, "", false
	}
	first, rest, _ := strings.Cut(strings.TrimSpace(string(out)), " ")
	if uid, err = strconv.Atoi(first); err != nil {
		return 0, "", false
	}
	return uid, rest, true
}
