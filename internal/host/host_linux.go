package host

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// Self returns this process.
func Self() Process { return self() }

var self = sync.OnceValue(func() Process {
	process := Process{PID: os.Getpid()}
	// A process can see the /proc of another namespace, where its own id means another process.
	if link, err := os.Readlink("/proc/self"); err != nil || link != strconv.Itoa(process.PID) {
		return process
	}
	_, start, err := stat(process.PID)
	if err != nil {
		return process
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return process
	}
	pids, err := inode("/proc/self/ns/pid")
	if err != nil {
		return process
	}
	times, err := inode("/proc/self/ns/time")
	if err != nil && !errors.Is(err, os.ErrNotExist) { // Linux before 5.6 has one time for all
		return process
	}
	process.Machine = fmt.Sprintf("%s/%d/%d", bytes.TrimSpace(boot), pids, times)
	process.Start = start
	return process
})

func inode(path string) (uint64, error) {
	var info syscall.Stat_t
	if err := syscall.Stat(path, &info); err != nil {
		return 0, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return info.Ino, nil
}

// gone asks the system for the process's existence, and /proc only for what it is: with hidepid, or
// in another user's view, a process that lives has no entry there.
func gone(p Process) bool {
	if errors.Is(syscall.Kill(p.PID, 0), syscall.ESRCH) {
		return true
	}
	state, start, err := stat(p.PID)
	if err != nil {
		return false
	}
	return state == 'Z' || state == 'X' || start != p.Start // a zombie waits for its parent only
}

// stat reads the state and the start time of a process (proc(5), fields 3 and 22). The name in
// front of them can hold anything, closing brackets too.
func stat(pid int) (state byte, start int64, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	const first, startTime = 3, 22
	if len(fields) <= startTime-first {
		return 0, 0, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	start, err = strconv.ParseInt(fields[startTime-first], 10, 64)
	return fields[0][0], start, err
}
