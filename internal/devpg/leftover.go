//go:build unix

package devpg

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// stopLeftover stops a server whose process is gone, before its data is used or removed.
func stopLeftover(data string) {
	content, err := os.ReadFile(filepath.Join(data, "postmaster.pid"))
	if err != nil {
		return
	}
	line, _, _ := strings.Cut(string(content), "\n")
	pid, err := strconv.Atoi(line)
	if err != nil || pid <= 1 {
		return
	}
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGKILL} {
		if !isServer(pid, data) || syscall.Kill(pid, signal) != nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		_ = poll(ctx, 10*time.Millisecond, func() (bool, error) { return !isServer(pid, data), nil })
		cancel()
	}
}

// isServer reports whether a process is the server of a data folder. The number may be another
// process's by now: only a program of the folder's owner with the folder among its arguments is it.
func isServer(pid int, data string) bool {
	folder, err := os.Lstat(data)
	if err != nil {
		return false
	}
	stat, ok := folder.Sys().(*syscall.Stat_t)
	if !ok {
		return false
	}
	uid, command, ok := describe(pid)
	return ok && uid == int(stat.Uid) && strings.Contains(command, data)
}
