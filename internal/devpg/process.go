//go:build unix

package devpg

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// A process is a running server, a child of ours.
type process struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed when it has ended
}

// launch starts the server. Ctrl-C must not reach it while the program still uses it, so it has a
// session of its own.
func (c *cluster) launch(port int) (*process, error) {
	log, err := os.OpenFile(c.log(), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	if err := c.own(); err != nil {
		return nil, err
	}
	args := []string{"-D", c.data()}
	for _, setting := range c.settings(port) {
		args = append(args, "-c", setting)
	}
	p := &process{cmd: c.command(context.Background(), "postgres", args...), exited: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr.Setsid = true
	stopWithParent(p.cmd.SysProcAttr)
	started := make(chan error)
	go func() {
		// The kernel sends the signal of stopWithParent when the thread that started the child
		// ends: this one has to live as long as the server.
		runtime.LockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			_ = p.cmd.Wait() // Why it ended is in its log.
			close(p.exited)
		}
		runtime.KeepAlive(c) // its folder's sweeper
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start postgres: %w", err)
	}
	return p, nil
}

// stopTimeout is how long the server may take to follow a signal.
const stopTimeout = 20 * time.Second

// stop stops the server: in order if its data is kept, else at once.
func (p *process) stop(keep bool) error {
	signals := []syscall.Signal{syscall.SIGQUIT, syscall.SIGKILL}
	if keep {
		signals = []syscall.Signal{syscall.SIGINT, syscall.SIGQUIT, syscall.SIGKILL}
	}
	for _, signal := range signals {
		_ = p.cmd.Process.Signal(signal) // It may have ended by itself.
		select {
		case <-p.exited:
			return nil
		case <-time.After(stopTimeout):
		}
	}
	return fmt.Errorf("stop PostgreSQL: process %d does not end", p.cmd.Process.Pid)
}
