package devpg

import (
	"fmt"
	"os"
	"syscall"
)

// describe returns who runs a process, and its command line.
func describe(pid int) (uid int, command string, ok bool) {
	dir := fmt.Sprintf("/proc/%d", pid)
	info, err := os.Stat(dir)
	if err != nil {
		return 0, "", false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, "", false
	}
	line, err := os.ReadFile(dir + "/cmdline")
	if err != nil {
		return 0, "", false
	}
	return int(stat.Uid), string(line), true
}
