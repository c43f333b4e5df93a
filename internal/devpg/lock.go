//go:build unix

package devpg

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// A fileLock is held until it is released or its process ends. It is a bare descriptor: an os.File
// would release it when it is garbage collected.
type fileLock struct{ fd int }

// tryLock takes the lock at path, which it creates. It returns nil when another process has it.
func tryLock(path string) (*fileLock, error) {
	const flags = syscall.O_RDWR | syscall.O_CREAT | syscall.O_CLOEXEC | syscall.O_NOFOLLOW
	var fd int
	err := retryInterrupted(func() (err error) {
		fd, err = syscall.Open(path, flags, 0o600)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", &os.PathError{Op: "open", Path: path, Err: err})
	}
	err = retryInterrupted(func() error { return syscall.Flock(fd, syscall.LOCK_EX|syscall.LOCK_NB) })
	if err == nil {
		return &fileLock{fd: fd}, nil
	}
	syscall.Close(fd)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, nil
	}
	return nil, fmt.Errorf("lock %s: %w", path, err)
}

func retryInterrupted(f func() error) error {
	for {
		if err := f(); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

// release may be called for nil.
func (l *fileLock) release() {
	if l != nil {
		syscall.Close(l.fd)
	}
}
