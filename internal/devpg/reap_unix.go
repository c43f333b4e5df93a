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

// ownedByUs reports whether a folder is ours, or that of the account which
// PostgreSQL runs as. Anybody can make a folder of our kind in a temporary folder.
func ownedByUs(info os.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return false
	}
	if int(stat.Uid) == os.Geteuid() {
		return true
	}
	who, err := serverAccount()
	return err == nil && who.uid != -1 && int(stat.Uid) == who.uid
}

// stopLeftover stops a server that nobody watches, before its data is used or
// removed.
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
		// The number may be another process's by now: only a program of the
		// same user with this very folder among its arguments is the server.
		if !isServer(pid, data) || syscall.Kill(pid, signal) != nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		_ = poll(ctx, 10*time.Millisecond, func() (bool, error) { return !isServer(pid, data), nil })
		cancel()
	}
}

// isServer reports whether a process is the server of a data folder.
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
