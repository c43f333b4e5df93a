package devpg

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// A process is a running server. There is no watchdog on Windows: what a killed
// process leaves is reaped by the next one.
type process struct {
	dir  string
	keep bool
	lock *fileLock
	ctl  func(args ...string) error
}

// launch starts the server through pg_ctl, which drops an administrator's rights.
func (c *cluster) launch(port int) (*process, error) {
	options := make([]string, 0, 16)
	for _, setting := range c.settings(port) {
		options = append(options, "-c "+setting)
	}
	p := &process{dir: c.dir, keep: c.keep, lock: c.lock, ctl: func(args ...string) error {
		cmd := exec.Command(c.install.program("pg_ctl"), append([]string{"-D", c.data(), "-s", "-w"}, args...)...)
		cmd.Env = programEnv()
		cmd.Dir = c.dir
		return cmd.Run()
	}}
	if err := p.ctl("-l", c.log(), "-o", strings.Join(options, " "), "start"); err != nil {
		return nil, fmt.Errorf("run pg_ctl start: %w", err)
	}
	return p, nil
}

// join finds nobody: a server is not shared on Windows.
func join(context.Context, string) (*process, error) { return nil, nil }

// tryShare is a lock of one process, as a server is not shared on Windows.
func tryShare(path string) (*fileLock, error) { return tryLock(path) }

func (p *process) exited() bool { return false }

func (p *process) leave() {}

// wait stops the server.
func (p *process) wait() error {
	if err := p.ctl("-m", "fast", "stop"); err != nil {
		return fmt.Errorf("run pg_ctl stop: %w", err)
	}
	if p.keep {
		return nil
	}
	return removeLocked(p.dir, p.lock)
}

// ownedByUs is true: temporary folders are per user.
func ownedByUs(os.FileInfo) bool { return true }

// stopLeftover stops a server that its starter left behind.
func stopLeftover(data string) {
	if _, err := os.Stat(filepath.Join(data, "postmaster.pid")); err != nil {
		return
	}
	options, err := os.ReadFile(filepath.Join(data, "postmaster.opts"))
	if err != nil {
		return
	}
	program, _, _ := strings.Cut(string(options), `.exe`)
	ctl := filepath.Join(filepath.Dir(strings.Trim(program, `"`)), "pg_ctl.exe")
	_ = exec.Command(ctl, "-D", data, "-s", "-w", "-m", "immediate", "stop").Run()
}
