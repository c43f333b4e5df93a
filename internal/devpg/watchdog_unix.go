//go:build unix

package devpg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

const (
	aliveName    = "alive"    // a named pipe: who uses the server holds its write end
	stoppingName = "stopping" // the watchdog has seen the last user go
	exitedName   = "exited"   // the server is gone
)

// stopTimeout bounds how long Stop waits for the watchdog, which itself gives
// the server a few seconds.
const stopTimeout = 20 * time.Second

// watchdog runs the server and outlives us. It is told that nobody uses the
// server any more by the end of its input on descriptor 3, which comes however
// the users died; then it stops the server and cleans up.
//
// It looks twice: a process that opened the pipe and does not see the mark
// "stopping" is a user, and the second look waits for it. See join.
//
// Arguments: the folder, "keep" or "remove", seconds of grace, the command.
// Descriptor 4 is the folder's lock, which the server must not have. A server
// that ended by itself leaves its folder, with the log, until its users go. The
// pipe is removed last, and while we still read it: without it, or with nobody
// at its other end, the folder is free for the next server, which removes the marks.
const watchdog = `
dir=$1 after=$2 grace=$3
shift 3
PATH=$PATH:/usr/bin:/bin
"$@" 3<&- 4<&- &
server=$!
(
	while read -r _; do :; done <&3
	: >"$dir/stopping"
	while read -r _; do :; done <&3
	if [ -e "$dir/exited" ]; then exit; fi
	sleep "$grace" 3<&- 4<&- &
	timer=$!
	trap 'kill "$timer"; wait "$timer"; exit' TERM
	kill -INT "$server"
	wait "$timer"
	kill -KILL "$server"
) &
dog=$!
wait "$server"
: >"$dir/exited"
if [ -e "$dir/stopping" ]; then kill -TERM "$dog"; fi
wait "$dog"
if [ "$after" = keep ]; then
	rm -f "$dir/alive"
	exit
fi
for _ in 1 2 3 4 5 6 7 8 9 10; do
	rm -rf "$dir" && exit
	sleep 0.2
done
`

// A process is a running server, seen by one of its users.
type process struct {
	dir      string
	keep     bool
	lock     *fileLock
	pipe     int // our write end; a bare descriptor, which is never finalized
	watchdog int // its process, 0 unless we started it
}

// launch starts the server under a watchdog, both in a session of their own:
// Ctrl-C must not stop the server while the program still uses it.
func (c *cluster) launch(port int) (*process, error) {
	for _, name := range []string{stoppingName, exitedName, aliveName} {
		if err := os.RemoveAll(filepath.Join(c.dir, name)); err != nil {
			return nil, err
		}
	}
	log, err := os.OpenFile(c.log(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	read, write, err := newPipe(filepath.Join(c.dir, aliveName))
	if err != nil {
		return nil, err
	}
	defer read.Close()
	if err := c.own(c.dir, filepath.Join(c.dir, aliveName)); err != nil {
		syscall.Close(write)
		return nil, err
	}

	after := "remove"
	if c.keep {
		after = "keep"
	}
	args := []string{"-c", watchdog, "backfill-devpg", c.dir, after, "5", c.install.program("postgres"), "-D", c.data()}
	for _, setting := range c.settings(port) {
		args = append(args, "-c", setting)
	}
	if !c.keep {
		// Else a killed server leaves segments in shared memory.
		args = append(args, "-c", "dynamic_shared_memory_type=mmap")
	}
	cmd := exec.Command("/bin/sh", args...)
	cmd.Env = programEnv()
	cmd.Dir = c.dir
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{read}
	cmd.SysProcAttr = c.account.attr()
	cmd.SysProcAttr.Setsid = true
	if c.lock != nil {
		inherited, err := c.lock.file()
		if err != nil {
			syscall.Close(write)
			return nil, err
		}
		defer inherited.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, inherited)
	}
	if err := cmd.Start(); err != nil {
		syscall.Close(write)
		return nil, fmt.Errorf("start the watchdog: %w", err)
	}
	return &process{dir: c.dir, keep: c.keep, lock: c.lock, pipe: write, watchdog: cmd.Process.Pid}, nil
}

// file is a duplicate of the lock for a child.
func (l *fileLock) file() (*os.File, error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	fd, err := syscall.Dup(l.fd)
	if err != nil {
		return nil, fmt.Errorf("duplicate the lock: %w", err)
	}
	syscall.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), lockName), nil
}

// newPipe makes a named pipe and opens both ends. Opening one end waits for the
// other, unless it is asked not to; the watchdog's end must wait again.
func newPipe(path string) (read *os.File, write int, err error) {
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		return nil, 0, fmt.Errorf("make pipe: %w", err)
	}
	fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, 0, fmt.Errorf("open pipe: %w", err)
	}
	if write, err = openWriteEnd(path); err != nil {
		syscall.Close(fd)
		return nil, 0, err
	}
	if err := syscall.SetNonblock(fd, false); err != nil {
		syscall.Close(fd)
		syscall.Close(write)
		return nil, 0, fmt.Errorf("open pipe: %w", err)
	}
	return os.NewFile(uintptr(fd), path), write, nil
}

// openWriteEnd becomes a user of the pipe. It fails with ENOENT or ENXIO when
// there is no watchdog at the other end.
func openWriteEnd(path string) (int, error) {
	fd, err := syscall.Open(path, syscall.O_WRONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open pipe: %w", err)
	}
	return fd, nil
}

// join becomes a user of the server that runs in a folder. It returns nil when
// none runs there, and waits for the end of one that is being stopped.
func join(ctx context.Context, dir string) (*process, error) {
	var joined *process
	err := poll(ctx, 20*time.Millisecond, func() (bool, error) {
		fd, err := openWriteEnd(filepath.Join(dir, aliveName))
		if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ENXIO) {
			return true, nil
		}
		if err != nil {
			return false, err
		}
		for _, mark := range []string{stoppingName, exitedName} {
			if exists(filepath.Join(dir, mark)) {
				syscall.Close(fd)
				return false, nil
			}
		}
		joined = &process{dir: dir, keep: true, pipe: fd}
		return true, nil
	})
	return joined, err
}

// exited reports whether the server has ended by itself.
func (p *process) exited() bool {
	return exists(filepath.Join(p.dir, exitedName)) || !exists(filepath.Join(p.dir, aliveName))
}

// leave ends our use of the server, which stops it when we are the last one.
func (p *process) leave() { syscall.Close(p.pipe) }

// wait waits until the server has stopped and the watchdog has cleaned up.
func (p *process) wait() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	err := poll(ctx, 5*time.Millisecond, func() (bool, error) {
		if p.watchdog == 0 {
			return !exists(filepath.Join(p.dir, aliveName)), nil
		}
		pid, err := syscall.Wait4(p.watchdog, nil, syscall.WNOHANG, nil)
		return pid == p.watchdog || errors.Is(err, syscall.ECHILD), nil
	})
	if err != nil {
		return fmt.Errorf("stop PostgreSQL: wait for its watchdog: %w", err)
	}
	if p.keep {
		return nil
	}
	// Usually there is nothing left to do.
	stopLeftover(filepath.Join(p.dir, dataName))
	return removeLocked(p.dir, p.lock)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
