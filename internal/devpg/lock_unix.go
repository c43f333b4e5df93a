//go:build unix

package devpg

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// A fileLock is held until it is released or every process that has it open is
// gone, however it ended. It is a bare descriptor: an os.File would release it
// when it is garbage collected.
type fileLock struct{ fd int }

// tryLock takes the lock at path, which it creates. It returns nil when another
// process has it.
func tryLock(path string) (*fileLock, error) {
	return flock(path, syscall.LOCK_EX)
}

// tryShare is tryLock for a lock that any number of sharers can hold at once.
func tryShare(path string) (*fileLock, error) {
	return flock(path, syscall.LOCK_SH)
}

func flock(path string, how int) (*fileLock, error) {
	for {
		fd, err := syscall.Open(path, syscall.O_RDWR|syscall.O_CREAT|syscall.O_CLOEXEC|syscall.O_NOFOLLOW, 0o600)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("open lock: %w", &os.PathError{Op: "open", Path: path, Err: err})
		}
		err = syscall.Flock(fd, how|syscall.LOCK_NB)
		switch {
		case err == nil:
			return &fileLock{fd: fd}, nil
		case errors.Is(err, syscall.EINTR):
			syscall.Close(fd)
		case errors.Is(err, syscall.EWOULDBLOCK):
			syscall.Close(fd)
			return nil, nil
		default:
			syscall.Close(fd)
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
	}
}

// release gives the lock up, unless a child that inherited it lives.
func (l *fileLock) release() {
	syscall.Close(l.fd)
}

// removeLocked removes a folder whose lock we hold, and releases the lock.
func removeLocked(dir string, lock *fileLock) error {
	defer lock.release()
	return os.RemoveAll(dir)
}
